"""Questions across sessions: filters, pages, sums, exports. Numbers are those of the checks in spec/02 §22."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.event import Event, EventType
from asm_core.domain.lifecycle import RunStatus, SessionStatus
from asm_core.domain.run import Run, RunOptions
from asm_core.domain.session import Session
from asm_core.ports.query import (
    EventSearch,
    Found,
    ModelCost,
    ProviderCost,
    ProviderUsage,
    QueryAPI,
    RunSearch,
    SessionSearch,
    TokenTotals,
    UsageSearch,
    as_query_api,
)
from asm_core.ports.store import SessionStore
from asm_core.testing.builders import NOW
from asm_core.testing.contracts.answers import TENANT, a_run, a_session, all_pages, an_event, code_of

HOUR = timedelta(hours=1)


class QueryAPIContract:
    """
    Fixtures `store`: an empty SessionStore, a new one for each test; `query`: the QueryAPI over its records.

    Source: spec/02 §9, checks 92, 98-122, 124-135.
    """

    pytestmark = pytest.mark.asyncio

    async def test_it_is_known_as_one(self, query: QueryAPI) -> None:
        """92; and what is none is not."""
        assert as_query_api(query) is query
        with pytest.raises(AsmError) as caught:
            as_query_api("sqlite:///asm.db")
        assert caught.value.code is ErrorCode.VALIDATION_ERROR

    # Sessions

    async def test_sessions_are_found_by_what_they_are(self, store: SessionStore, query: QueryAPI) -> None:
        """98, 99, 104."""
        first, second, third = await sessions_of_hours(store, 3, agent_id="writer")
        await store.save_session(a_session(id="other", agent_id="reader", updated_at=NOW - HOUR))
        await store.save_session(replace(second, status=SessionStatus.PAUSED))
        await store.save_session(replace(third, status=SessionStatus.COMPLETED))

        async def found(**filters: Any) -> set[str]:
            answer = await query.search_sessions(TENANT, SessionSearch(**filters))
            assert answer.total_count == len(answer.items)
            return set(ids(answer))

        assert await found() == {first.id, second.id, third.id, "other"}
        assert await found(agent_id="writer") == {first.id, second.id, third.id}
        assert await found(status="paused") == {second.id}
        assert await found(status=SessionStatus.PAUSED) == {second.id}
        assert await found(status=["paused", "completed"]) == {second.id, third.id}
        assert await found(created_after=NOW + HOUR, created_before=NOW + HOUR) == {second.id}
        assert await found(created_before=NOW + HOUR, agent_id="writer") == {first.id, second.id}

    async def test_the_total_ignores_limit_and_cursor(self, store: SessionStore, query: QueryAPI) -> None:
        """100, 108; counted only when asked for."""
        await sessions_of_hours(store, 3, tags=("a",))
        await sessions_of_hours(store, 2)
        page = await query.search_sessions(TENANT, SessionSearch(limit=2))
        assert (len(page.items), page.total_count, page.has_more) == (2, 5, True)
        following = await query.search_sessions(TENANT, SessionSearch(limit=2, cursor=page.cursor))
        assert following.total_count == 5
        tagged = await query.search_sessions(TENANT, SessionSearch(limit=2, tags=["a"], include_total=False))
        assert tagged.total_count is None
        assert (await query.search_sessions(TENANT, SessionSearch(limit=2, tags=["a"]))).total_count == 3

    async def test_deleted_sessions_are_hidden_unless_asked_for(self, store: SessionStore, query: QueryAPI) -> None:
        """101."""
        gone, here = a_session(deleted_at=NOW), a_session()
        await save(store, gone, here)
        assert ids(await query.search_sessions(TENANT, SessionSearch())) == [here.id]
        found = await query.search_sessions(TENANT, SessionSearch(include_deleted=True))
        assert set(ids(found)) == {gone.id, here.id}
        assert {session.id for session in found.items if session.deleted_at} == {gone.id}

    async def test_sessions_are_found_by_the_providers_of_their_runs(
        self, store: SessionStore, query: QueryAPI
    ) -> None:
        """102; one name or several."""
        given = {"s1": ("claude", "claude"), "s2": ("codex",), "s3": ("amp",)}
        for session_id, providers in given.items():
            await save(store, a_session(id=session_id))
            for provider in providers:
                await save(store, a_finished_run(session_id=session_id, provider=provider))
        assert ids(await query.search_sessions(TENANT, SessionSearch(provider="claude"))) == ["s1"]
        assert set(ids(await query.search_sessions(TENANT, SessionSearch(provider=["codex", "amp"])))) == {"s2", "s3"}

    async def test_sessions_are_found_by_all_their_tags(self, store: SessionStore, query: QueryAPI) -> None:
        """103."""
        await save(store, a_session(id="both", tags=("a", "b")), a_session(id="one", tags=("a",)))
        assert set(ids(await query.search_sessions(TENANT, SessionSearch(tags=["a"])))) == {"both", "one"}
        assert ids(await query.search_sessions(TENANT, SessionSearch(tags=["b", "a"]))) == ["both"]

    @pytest.mark.parametrize(
        ("order_by", "expected"),
        [("updated_at_desc", [0, 1, 2]), ("created_at_desc", [2, 1, 0]), ("created_at_asc", [0, 1, 2])],
    )
    async def test_pages_of_sessions_follow_each_other(
        self, store: SessionStore, query: QueryAPI, order_by: str, expected: list[int]
    ) -> None:
        """105, 106."""
        created = await sessions_of_hours(store, 3)
        seen: list[str] = []
        cursor = None
        for more in (True, True, False):
            found = await query.search_sessions(TENANT, SessionSearch(order_by=order_by, limit=1, cursor=cursor))
            assert isinstance(found.cursor, str)
            assert found.has_more is more
            seen += ids(found)
            cursor = found.cursor
        assert seen == [created[index].id for index in expected]
        behind = await query.search_sessions(TENANT, SessionSearch(order_by=order_by, cursor=cursor))
        assert (behind.items, behind.cursor, behind.has_more) == ([], None, False)

    async def test_an_empty_page_has_no_cursor(self, query: QueryAPI) -> None:
        """107."""
        answers: list[Found[Any]] = [
            await query.search_sessions(TENANT, SessionSearch()),
            await query.search_runs(TENANT, RunSearch()),
            await query.search_events(TENANT, EventSearch()),
        ]
        for found in answers:
            assert (found.items, found.cursor, found.has_more) == ([], None, False)

    async def test_equal_sort_keys_are_neither_repeated_nor_lost(self, store: SessionStore, query: QueryAPI) -> None:
        """109."""
        created = [a_session() for _ in range(100)]
        await save(store, *created)
        for order_by in ("updated_at_desc", "created_at_desc", "created_at_asc"):
            seen = await all_pages(query.search_sessions, SessionSearch(order_by=order_by, limit=7))
            expected = sorted((session.id for session in created), reverse=order_by.endswith("desc"))
            assert [session.id for session in seen] == expected

    async def test_stats_add_up_a_session(self, store: SessionStore, query: QueryAPI) -> None:
        """110, with the specification's figures: (3, 4, 7) and (10, 5, 15)."""
        session = a_session()
        codex = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
        claude = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        await save(
            store,
            session,
            a_finished_run(session_id=session.id, provider="codex", token_usage=codex),
            a_finished_run(RunStatus.FAILED, session_id=session.id, provider="claude", token_usage=claude),
            a_run(session_id=session.id, provider="scripted"),
            a_finished_run(session_id="elsewhere", token_usage={"input_tokens": 1_000}),
        )
        for hour in (1, 0, 2):
            await store.append_events([an_event(session_id=session.id, timestamp=NOW + hour * HOUR)], TENANT)

        stats = await query.get_session_stats(session.id, TENANT)

        assert (stats.event_count, stats.run_count) == (3, 3)
        assert stats.token_totals == TokenTotals(input_tokens=13, output_tokens=9, total_tokens=22)
        assert stats.providers_used == ["claude", "codex", "scripted"]
        assert stats.status_counts == {"completed": 1, "failed": 1, "pending": 1}
        assert (stats.first_event_at, stats.last_event_at) == (NOW, NOW + 2 * HOUR)

    async def test_what_belongs_to_nobody_or_to_another_tenant_does_not_exist(
        self, store: SessionStore, query: QueryAPI
    ) -> None:
        """111, 132."""
        theirs = a_session(tenant_id="other")
        await save(store, theirs, a_finished_run(session_id=theirs.id, tenant_id="other"))
        await store.append_events([an_event(session_id=theirs.id)], "other")
        for session_id in (theirs.id, "ses_none"):
            for ask in (
                query.get_session_stats(session_id, TENANT),
                query.export_session(session_id, TENANT),
                anext(aiter(query.stream_export(session_id, TENANT))),
            ):
                assert await code_of(ask) is ErrorCode.SESSION_NOT_FOUND
        for tenant_id, count in ((TENANT, 0), ("other", 1)):
            assert len((await query.search_sessions(tenant_id, SessionSearch())).items) == count
            assert len((await query.search_runs(tenant_id, RunSearch())).items) == count
            assert (await query.get_usage_summary(tenant_id, UsageSearch())).run_count == count
            assert (await query.get_cost_summary(tenant_id, UsageSearch())).run_count == count
            assert await query.count_events(tenant_id, EventSearch()) == count
            assert len((await query.search_events(tenant_id, EventSearch())).items) == count

    # Runs

    async def test_runs_are_found_by_what_they_are(self, store: SessionStore, query: QueryAPI) -> None:
        """112, 113, 122; a run that has not started counts from its submit."""
        small = a_finished_run(token_usage={"input_tokens": 60, "output_tokens": 60})
        large = a_finished_run(
            RunStatus.FAILED, session_id="ses_2", provider="codex", began=1,
            token_usage={"total_tokens": 300, "input_tokens": 1},
        )  # fmt: skip
        waiting = a_run(session_id="ses_3", provider="amp", created_at=NOW + 2 * HOUR)
        await save(store, small, large, waiting)

        async def found(**filters: Any) -> list[str]:
            return ids(await query.search_runs(TENANT, RunSearch(**filters)))

        assert await found() == [waiting.id, large.id, small.id]
        assert await found(provider="claude") == [small.id]
        assert await found(provider=["claude", "codex"]) == [large.id, small.id]
        assert await found(session_id=small.session_id) == [small.id]
        assert await found(status="failed") == [large.id]
        assert await found(status=["failed", RunStatus.PENDING]) == [waiting.id, large.id]
        assert await found(min_tokens=200) == [large.id]
        assert await found(min_tokens=120, order_by="token_usage_desc") == [large.id, small.id]
        assert await found(min_tokens=0) == [waiting.id, large.id, small.id]
        assert await found(order_by="token_usage_desc") == [large.id, small.id, waiting.id]
        assert await found(order_by="started_at_asc") == [small.id, large.id, waiting.id]
        assert await found(started_after=NOW + HOUR, started_before=NOW + HOUR) == [large.id]

    @pytest.mark.parametrize("order_by", ["started_at_desc", "started_at_asc", "token_usage_desc"])
    async def test_pages_of_runs_follow_each_other(self, store: SessionStore, query: QueryAPI, order_by: str) -> None:
        """114, 122: ties, missing usage and runs that never started are all met once."""
        for tokens in (5, 9, 9, 0, 7):
            usage = {"input_tokens": tokens} if tokens else {}
            await save(store, a_finished_run(token_usage=usage, began=tokens % 3))
        await save(store, a_run())
        whole = await query.search_runs(TENANT, RunSearch(order_by=order_by))
        paged = await all_pages(query.search_runs, RunSearch(order_by=order_by, limit=2))
        assert [run.id for run in paged] == ids(whole)
        assert len({run.id for run in paged}) == 6
        if order_by == "token_usage_desc":
            assert [run.token_usage.get("input_tokens", 0) for run in paged] == [9, 9, 7, 5, 0, 0]

    # Sums

    async def test_usage_is_added_up_by_provider(self, store: SessionStore, query: QueryAPI) -> None:
        """115, 116, 119, 121: a total that is not stated is input and output; also of deleted sessions."""
        session = a_session(agent_id="writer", deleted_at=NOW)
        codex = {"input_tokens": 200, "output_tokens": 80, "total_tokens": 280}
        await save(
            store,
            session,
            a_finished_run(session_id=session.id, token_usage={"input_tokens": 100, "output_tokens": 50}),
            a_finished_run(session_id="ses_2", provider="codex", token_usage=codex, began=2),
            a_finished_run(session_id="ses_3", provider=None, began=-2),
        )

        usage = await query.get_usage_summary(TENANT, UsageSearch())

        assert usage.totals == TokenTotals(input_tokens=300, output_tokens=130, total_tokens=430)
        assert usage.run_count == 3
        assert usage.by_provider == {
            "claude": ProviderUsage(input_tokens=100, output_tokens=50, total_tokens=150, run_count=1),
            "codex": ProviderUsage(input_tokens=200, output_tokens=80, total_tokens=280, run_count=1),
            "unknown": ProviderUsage(run_count=1),
        }
        for where, total in (
            (UsageSearch(provider="codex"), 280),
            (UsageSearch(session_id=session.id), 150),
            (UsageSearch(agent_id="writer"), 150),
            (UsageSearch(since=NOW + 2 * HOUR), 280),
            (UsageSearch(until=NOW), 150),
            (UsageSearch(session_id="ses_none"), 0),
        ):
            assert (await query.get_usage_summary(TENANT, where)).totals.total_tokens == total

    async def test_cost_is_what_is_stored_else_what_the_tokens_come_to(
        self, store: SessionStore, query: QueryAPI
    ) -> None:
        """117-119, with the specification's figures: 12.5 stored, 10 x 0.1 + 5 x 0.2, and one unpriced."""
        session = a_session(agent_id="writer")
        stored, priced = {"input_tokens": 100, "output_tokens": 50}, {"input_tokens": 10, "output_tokens": 5}
        await save(
            store,
            session,
            a_finished_run(session_id=session.id, token_usage=stored, cost_usd=12.5, model="model-b"),
            a_finished_run(session_id="ses_2", token_usage=priced, model="model-a", began=1),
            a_finished_run(session_id="ses_3", provider="codex", token_usage=priced, model="model-x"),
        )

        cost = await query.get_cost_summary(TENANT, UsageSearch(), price_of=price_of_model_a)

        assert (cost.total_cost_usd, cost.run_count, cost.unmapped_runs) == (14.5, 3, 1)
        assert cost.by_provider == {"claude": ProviderCost(cost_usd=14.5, run_count=2)}
        assert cost.by_model == {
            "model-a": ModelCost(cost_usd=2.0, input_tokens=10, output_tokens=5),
            "model-b": ModelCost(cost_usd=12.5, input_tokens=100, output_tokens=50),
        }
        for where, total in (
            (UsageSearch(session_id=session.id), 12.5),
            (UsageSearch(agent_id="writer"), 12.5),
            (UsageSearch(provider="codex"), 0.0),
            (UsageSearch(provider=["claude", "codex"], since=NOW + HOUR), 2.0),
        ):
            assert (await query.get_cost_summary(TENANT, where, price_of=price_of_model_a)).total_cost_usd == total

    async def test_a_stored_cost_of_nothing_is_known(self, store: SessionStore, query: QueryAPI) -> None:
        """119, 120; a model is the one reported, else the one asked for."""
        asked = RunOptions(provider="claude", model="asked")
        await save(
            store,
            a_finished_run(provider=None, token_usage={"input_tokens": 1}, cost_usd=0.0),
            a_finished_run(options=asked),
        )

        cost = await query.get_cost_summary(TENANT, UsageSearch(), price_of=lambda *_: 3)

        assert (cost.total_cost_usd, cost.unmapped_runs) == (3.0, 0)
        assert cost.by_provider["unknown"] == ProviderCost(cost_usd=0.0, run_count=1)
        assert cost.by_model == {
            "asked": ModelCost(cost_usd=3.0, input_tokens=0, output_tokens=0),
            "unknown": ModelCost(cost_usd=0.0, input_tokens=1, output_tokens=0),
        }

    # Events

    async def test_events_are_found_by_what_they_are(self, store: SessionStore, query: QueryAPI) -> None:
        """124-126, 129."""
        await two_logs(store)

        async def found(**filters: Any) -> list[tuple[str, str, int]]:
            where = EventSearch(**filters)
            frames = (await query.search_events(TENANT, where)).items
            assert await query.count_events(TENANT, where) >= len(frames)
            return [(frame.session_id, frame.type, frame.sequence_number) for frame in frames]

        streamed = [("ses_1", "message_streamed", number) for number in (1, 2, 3)]
        assert await found(session_ids=["ses_1"], types="message_streamed") == streamed
        assert await found(run_ids=["run_1"]) == [*streamed, ("ses_1", "turn_completed", 4)]
        assert len(await found(run_ids=["run_1", "run_2"])) == 8
        assert await found(providers=["codex"], types=["message_received"]) == [
            ("ses_2", "message_received", number) for number in (1, 2, 3)
        ]
        assert await found(correlation_id="c1") == [streamed[1]]
        assert await found(order_by="timestamp_desc", limit=1, types=["message_streamed"]) == [streamed[2]]
        assert await found(since=NOW + HOUR, until=NOW + HOUR) == [streamed[1]]
        assert await query.count_events(TENANT, EventSearch(session_ids=["ses_1"])) == 4
        assert (
            await query.count_events(TENANT, EventSearch(session_ids=["ses_1"], types="turn_completed", limit=1)) == 1
        )

    @pytest.mark.parametrize("order_by", ["sequence_asc", "timestamp_asc", "timestamp_desc"])
    async def test_pages_of_events_follow_each_other(self, store: SessionStore, query: QueryAPI, order_by: str) -> None:
        """127, across sessions; ties of numbers and times are met once."""
        await two_logs(store)
        whole = await query.search_events(TENANT, EventSearch(order_by=order_by))
        assert len(whole.items) == 8
        assert await all_pages(query.search_events, EventSearch(order_by=order_by, limit=3)) == whole.items

    async def test_an_event_is_told_as_it_was_stored(self, store: SessionStore, query: QueryAPI) -> None:
        """128: keys that nobody knows, at any depth; and nothing beside the event's own fields."""
        event = an_event(data={"novel": {"deeper": [{"k\u00e9y": 1}]}})
        [stored] = await store.append_events([event], TENANT)
        [frame] = (await query.search_events(TENANT, EventSearch(types=event.type))).items
        assert json.loads(frame.body) == stored.to_map()

    # Exports

    async def test_an_export_is_the_whole_session(self, store: SessionStore, query: QueryAPI) -> None:
        """130, 131: runs by their start, events by number; registry rows only when asked for."""
        session = a_session()
        late, early = (a_finished_run(session_id=session.id, began=hour) for hour in (2, 1))
        await save(store, session, late, early)
        await store.append_events([an_event(session_id=session.id) for _ in range(4)], TENANT)

        exported = (await query.export_session(session.id, TENANT)).to_map()

        assert list(exported) == ["session", "runs", "events"]
        assert exported["session"]["id"] == session.id
        assert [run["id"] for run in exported["runs"]] == [early.id, late.id]
        assert [event["sequence_number"] for event in exported["events"]] == [1, 2, 3, 4]
        assert as_one([chunk async for chunk in query.stream_export(session.id, TENANT)]) == exported
        whole = await query.export_session(session.id, TENANT, include_artifacts=True)
        assert whole.to_map() == exported | {"artifacts": []}

    # Cursors

    async def test_cursors_are_bound_to_their_list_order_and_filters(
        self, store: SessionStore, query: QueryAPI
    ) -> None:
        """133, 135."""
        await sessions_of_hours(store, 2)
        found = await query.search_sessions(TENANT, SessionSearch(limit=1, agent_id="test-agent"))
        same = SessionSearch(limit=2, agent_id="test-agent", cursor=found.cursor)
        assert (await query.search_sessions(TENANT, same)).items
        wrong: Sequence[Any] = ("rubbish", "\u00e9", "", 7, found.cursor)
        for ask in (
            query.search_sessions(TENANT, SessionSearch(cursor=found.cursor)),
            query.search_sessions("other", same),
            query.search_sessions(TENANT, replace(same, order_by="created_at_desc")),
            query.search_sessions(TENANT, replace(same, status="active")),
            query.search_runs(TENANT, RunSearch(cursor=found.cursor)),
            *(query.search_events(TENANT, EventSearch(cursor=cursor)) for cursor in wrong),
        ):
            assert await code_of(ask) is ErrorCode.INVALID_CURSOR

    async def test_questions_may_be_asked_at_once(self, store: SessionStore, query: QueryAPI) -> None:
        await save(store, a_finished_run())
        answers = await asyncio.gather(*(query.get_usage_summary(TENANT, UsageSearch()) for _ in range(20)))
        assert {answer.run_count for answer in answers} == {1}


async def save(store: SessionStore, *records: Session | Run) -> None:
    for record in records:
        await (store.save_session(record) if isinstance(record, Session) else store.save_run(record))


async def sessions_of_hours(store: SessionStore, how_many: int, **fields: Any) -> list[Session]:
    """Sessions created one hour apart and last changed in the opposite order."""
    made = [
        a_session(created_at=NOW + number * HOUR, updated_at=NOW - number * HOUR, **fields)
        for number in range(how_many)
    ]
    await save(store, *made)
    return made


def a_finished_run(
    status: RunStatus = RunStatus.COMPLETED, *, began: int = 0, model: str | None = None, **fields: Any
) -> Run:
    """A run of Claude's that began `began` hours after NOW."""
    given = {"provider": "claude", "started_at": NOW + began * HOUR}
    metadata = {"provider_metadata": {"model": model}} if model else {}
    return a_run(status, **given | metadata | fields)


async def two_logs(store: SessionStore) -> None:
    """Four events of a run in each of two sessions: three an hour apart, and one that ends the turn."""
    for number in range(3):
        at = NOW + number * HOUR
        streamed = an_event(
            EventType.MESSAGE_STREAMED, session_id="ses_1", run_id="run_1", provider="claude", timestamp=at,
            correlation_id=f"c{number}",
        )  # fmt: skip
        said = an_event(session_id="ses_2", run_id="run_2", provider="codex", timestamp=at + HOUR / 2)
        await store.append_events([streamed, said], TENANT)
    for session_id, run_id in (("ses_1", "run_1"), ("ses_2", "run_2")):
        end: Event = an_event(EventType.TURN_COMPLETED, session_id=session_id, run_id=run_id, timestamp=NOW + 9 * HOUR)
        await store.append_events([end], TENANT)


def ids(found: Found[Session] | Found[Run]) -> list[str]:
    return [item.id for item in found.items]


def price_of_model_a(provider: str | None, model: str | None, usage: Mapping[str, int]) -> Decimal | None:
    if (provider, model) != ("claude", "model-a"):
        return None
    return usage["input_tokens"] * Decimal("0.1") + usage["output_tokens"] * Decimal("0.2")


def as_one(chunks: Sequence[bytes]) -> dict[str, Any]:
    """The dict form of an exported stream."""
    assert all(chunk.endswith(b"\n") for chunk in chunks)
    exported: dict[str, Any] = {"runs": [], "events": []}
    for line in b"".join(chunks).splitlines():
        [(kind, value)] = json.loads(line).items()
        if kind == "session":
            exported["session"] = value
        else:
            exported.setdefault(f"{kind}s", []).append(value)
    return exported
