"""
The records as models of SQLAlchemy's ORM, to be used, related and extended in an application of your own.

    from asm_core.resources import Domain, Event, ResourceSessionStore, Session

    domain = Domain(async_sessionmaker(engine))
    store = ResourceSessionStore(domain)

Names are imported when they are first used. Where SQLAlchemy is missing, this module still is imported; whatever is
done with a name of it then raises `dependency_not_available`. See docs/howto/resources.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from asm_core.optional import Absent

if TYPE_CHECKING:
    from asm_core.stores.resources.actions import Action as Action
    from asm_core.stores.resources.domain import Domain as Domain
    from asm_core.stores.resources.domain import allocate as allocate
    from asm_core.stores.resources.maintenance import ResourceMaintenance as ResourceMaintenance
    from asm_core.stores.resources.models import Artifact as Artifact
    from asm_core.stores.resources.models import ArtifactMixin as ArtifactMixin
    from asm_core.stores.resources.models import Event as Event
    from asm_core.stores.resources.models import EventMixin as EventMixin
    from asm_core.stores.resources.models import Run as Run
    from asm_core.stores.resources.models import RunMixin as RunMixin
    from asm_core.stores.resources.models import Session as Session
    from asm_core.stores.resources.models import SessionMixin as SessionMixin
    from asm_core.stores.resources.models import SessionSequence as SessionSequence
    from asm_core.stores.resources.models import SessionSequenceMixin as SessionSequenceMixin
    from asm_core.stores.resources.query import ResourceQueryAPI as ResourceQueryAPI
    from asm_core.stores.resources.records import attributes_of as attributes_of
    from asm_core.stores.resources.store import ResourceSessionStore as ResourceSessionStore

_HOMES = {
    "Action": "actions",
    "Domain": "domain",
    "allocate": "domain",
    "ResourceMaintenance": "maintenance",
    "Artifact": "models",
    "ArtifactMixin": "models",
    "Event": "models",
    "EventMixin": "models",
    "Run": "models",
    "RunMixin": "models",
    "Session": "models",
    "SessionMixin": "models",
    "SessionSequence": "models",
    "SessionSequenceMixin": "models",
    "ResourceQueryAPI": "query",
    "attributes_of": "records",
    "ResourceSessionStore": "store",
}
_NEEDED = "sqlalchemy.ext.asyncio"

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import_module(_NEEDED)
    except ImportError:
        return Absent(_NEEDED, "resources", operation=f"{__name__}.{name}")
    return getattr(import_module(f"asm_core.stores.resources.{_HOMES[name]}"), name)
