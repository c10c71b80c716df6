"""
Reading events of older schema versions: a stored event is never rewritten, it is brought up to date when it is read.

    UPCASTERS.register(EventType.MESSAGE_RECEIVED, 1, lambda event: {"data": {"text": event["data"]["content"]}})

says how a `message_received` of version 1 reads in version 2. Steps follow each other version by version; the current
version of a type is the one behind its last step, and 1 where there is none. Whatever cannot be brought to it (a newer
version, a missing step, a step that fails) is handed out as it is stored, marked in `metadata._unknown_version`: a
reader that meets the unknown must not lose the log.

Register when a process starts, in each process that reads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import parse_event_type
from asm_core.domain.fields import to_jsonable

log = logging.getLogger(__name__)

Upcaster = Callable[[dict[str, Any]], Mapping[str, Any]]
"""An event's wire form to the fields that read otherwise in the next version. The dict is the upcaster's own."""

UNKNOWN_VERSION = "_unknown_version"
"""In an event's metadata: the stored version, which this process does not know."""

CHANGEABLE = ("data", "metadata", "provider", "correlation_id")
"""What a step may change: readers order, number and find events by the rest."""


class Upcasters:
    """Steps by type and version."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, int], Upcaster] = {}
        self._current: dict[str, int] = {}

    def register(self, kind: str, version: int, step: Upcaster) -> None:
        """
        How an event of this type and version reads in the next version; the last one registered counts.

        Raises:
            AsmError: `invalid_event_type`; `validation_error` for a version that is no integer from 1.
        """
        _require_version(version)
        name = str(parse_event_type(kind))
        self._steps[name, version] = step
        self._current[name] = max(self._current.get(name, 1), version + 1)

    def unregister(self, kind: str, version: int) -> None:
        """Forget a step; one that is not there is no error."""
        self._steps.pop((str(kind), version), None)
        left = [known for name, known in self._steps if name == kind]
        self._current.pop(str(kind), None)
        if left:
            self._current[str(kind)] = max(left) + 1

    def is_current(self, kind: str, version: int) -> bool:
        """Whether such an event reads as it is stored. The one question on the hot path."""
        return version == self._current.get(kind, 1)

    def apply(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """
        A stored event's wire form in the current version, or as it is stored, marked. Never raises; `stored` stays.
        """
        raw = _plain(stored)
        event, version = raw, raw["schema_version"]
        while not self.is_current(raw["type"], version):
            changes = self._step(raw["type"], version, event)
            if changes is None:
                return raw | {"metadata": {**raw["metadata"], UNKNOWN_VERSION: raw["schema_version"]}}
            version += 1
            event = event | changes | {"schema_version": version}
        return event

    def _step(self, kind: str, version: int, event: dict[str, Any]) -> dict[str, Any] | None:
        """What changes with the next version; None where there is no way on."""
        step = self._steps.get((kind, version))
        if step is None:
            return None
        try:
            changes = _plain(step(_plain(event)))
            if not all(isinstance(changes.get(name, {}), dict) for name in ("data", "metadata")):
                raise TypeError("data and metadata must be mappings")
        except Exception:
            log.exception("the upcaster of %s from version %d failed at event %s", kind, version, event["id"])
            return None
        return {name: changes[name] for name in CHANGEABLE if name in changes}


def _require_version(version: object) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        message = f"version must be an integer from 1, not {version!r}"
        raise AsmError(ErrorCode.VALIDATION_ERROR, message, details={"field": "version"})


def _plain(event: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that shares nothing with it."""
    return {name: to_jsonable(value) for name, value in event.items()}


UPCASTERS = Upcasters()
"""Of this process."""
