"""The composition root of an API process: the only file of this package that names concrete parts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from asm_core.background import background
from asm_core.bus.hub import Hub
from asm_core.bus.redis import RedisBus, open_redis
from asm_core.config import Settings
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.redaction import Redactor
from asm_core.manager.control import Control
from asm_core.manager.sessions import Sessions
from asm_core.manager.submit import Submitter
from asm_core.manager.subscribe import Follower
from asm_core.model_prices import price_list
from asm_core.pipeline.publish import Publisher
from asm_core.ports.artifacts import ArtifactIndex, ArtifactStore
from asm_core.ports.audit import AuditLog
from asm_core.ports.query import QueryAPI
from asm_core.ports.store import SessionStore
from asm_core.providers import Providers, build_providers
from asm_core.stores.artifacts.opening import open_artifact_store
from asm_core.stores.artifacts.registering import RegisteringArtifactStore
from asm_core.stores.artifacts.registry import ArtifactRegistry
from asm_core.stores.postgres.queue import PostgresRunQueue
from asm_core.stores.sql.audit import SqlAuditLog
from asm_core.stores.sql.engine import open_engine
from asm_core.stores.sql.query import SqlQueryAPI
from asm_core.stores.sql.store import SqlSessionStore
from asm_workers.nudges import RedisNudges
from asm_workers.wakeups import CeleryWakeups

log = logging.getLogger(__name__)

APPLICATION = "asm-api"
LIMITER_RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class Deps:
    """What the routes work with."""

    settings: Settings
    store: SessionStore
    query: QueryAPI
    audit: AuditLog
    artifacts: ArtifactIndex
    artifacts_of: Callable[[str], ArtifactStore]
    """A tenant's, by key."""
    hub: Hub
    submitter: Submitter
    sessions: Sessions
    control: Control
    providers: Providers
    redactor: Redactor
    checks: Mapping[str, Callable[[], Awaitable[object]]]
    """Each needed service by name, with a call that raises while it is away."""

    def follower(self, tenant_id: str) -> Follower:
        return Follower(self.hub, self.store, tenant_id)


DepsFactory = Callable[[Settings], AbstractAsyncContextManager[Deps]]


def deps_of(connection: HTTPConnection) -> Deps:
    deps: Deps = connection.app.state.deps
    return deps


Wired = Annotated[Deps, Depends(deps_of)]


@asynccontextmanager
async def open_deps(settings: Settings) -> AsyncIterator[Deps]:
    """Everything an API process needs, closed in reverse order. Opens even while Postgres or Redis is away."""
    async with AsyncExitStack() as stack:
        queue = PostgresRunQueue(
            settings.database_url, application_name=APPLICATION, times=settings.times, limiter=settings.limiter
        )
        stack.push_async_callback(queue.close)
        await queue.open()
        engine = open_engine(settings.database_url, application_name=APPLICATION)
        store = SqlSessionStore(engine)
        stack.push_async_callback(store.close)
        bus = RedisBus(settings.redis_url, settings.redis_prefix)
        stack.push_async_callback(bus.close)
        redis = open_redis(settings.redis_url)
        stack.push_async_callback(redis.aclose)
        wakeups = CeleryWakeups(settings)
        stack.push_async_callback(asyncio.to_thread, wakeups.close)
        nudges = RedisNudges(settings)
        stack.push_async_callback(nudges.close)
        providers = build_providers(settings, store)
        stack.push_async_callback(providers.close)
        publisher = Publisher(bus, settings.event_limits.publish_buffer)
        await stack.enter_async_context(publisher.running())
        if settings.limiter is not None and settings.max_parallel_runs is not None:
            work = _set_limiter(queue, settings.limiter, settings.max_parallel_runs)
            await stack.enter_async_context(background(work))
        redactor, registry = settings.redactor, ArtifactRegistry(engine)
        blobs = cache(lambda: open_artifact_store(settings.artifacts_location))  # most API processes never need it
        hub = await stack.enter_async_context(Hub(bus, store, settings.subscriber_buffer).running())
        yield Deps(
            settings=settings,
            store=store,
            query=SqlQueryAPI(engine, price_of=price_list(settings.pricing_table).price_of),
            audit=SqlAuditLog(engine),
            artifacts=registry,
            artifacts_of=lambda tenant_id: RegisteringArtifactStore(blobs(), registry, tenant_id),
            hub=hub,
            submitter=Submitter(
                queue,
                store,
                wakeups,
                publisher,
                providers.get,
                settings.max_input_bytes,
                redactor,
                settings.trusted_submitters,
            ),
            sessions=Sessions(queue, store, wakeups, nudges, publisher, redactor),
            control=Control(queue, store, wakeups, nudges, publisher, redactor),
            providers=providers,
            redactor=redactor,
            checks={"postgres": store.ping, "redis": lambda: _ping(redis.ping)},
        )


async def _set_limiter(queue: PostgresRunQueue, name: str, max_parallel_runs: int) -> None:
    """Until it is done: the store may come up later than this process."""
    while True:
        try:
            await queue.set_limiter(name, max_parallel_runs)
            return
        except AsmError as error:
            log.warning("the fleet's limit of %d runs is not set yet: %s", max_parallel_runs, error)
            await asyncio.sleep(LIMITER_RETRY_S)


async def _ping(ping: Callable[[], Any]) -> None:
    try:
        await ping()
    except Exception as cause:  # whatever the client raises: it did not answer
        raise AsmError(
            ErrorCode.STORAGE_CONNECTION_FAILED, f"Redis cannot be reached ({type(cause).__name__})"
        ) from cause
