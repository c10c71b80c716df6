"""A SQLite file as a store of records: write, read, page, delete; all of it is there when the file is opened again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from _common import claim, main, refusal, temporary_folder

from asm_core import DEFAULT_TENANT, Event, EventFilter, EventType, Run, Session, Store, open_store

NOW = datetime.now(UTC)
SESSION = Session.new(id="ses_1", agent_id="importer", now=NOW, tags=("imported",))
RUN = Run.new(id="run_1", session_id="ses_1", now=NOW, input={"prompt": "Hello"}, provider="claude")


def message(number: int) -> Event:
    text = {"content": f"message {number}", "role": "user"}
    return Event.new(
        id=f"evt_{number}", type=EventType.MESSAGE_SENT, timestamp=NOW, session_id="ses_1", run_id="run_1", data=text
    )


async def example() -> None:
    with temporary_folder() as folder:
        url = f"sqlite:///{folder / 'agents.db'}"
        async with open_store(url) as store:
            await write(store)
            await append(store)
            await page(store)
        async with open_store(url) as store:
            records = store.records
            claim("a file that is opened again has it all", await records.get_run("run_1", DEFAULT_TENANT) == RUN)
            claim("and goes on counting", (await records.latest_sequences(["ses_1"]))["ses_1"] == 12)
            [stored] = await records.append_events([message(13)], DEFAULT_TENANT)
            claim("behind its last number", stored.sequence_number == 13)
            await delete(store)


async def write(store: Store) -> None:
    records = store.records
    await records.save_session(SESSION)
    await records.save_run(RUN)
    claim("a session reads back as it was saved", await records.get_session("ses_1", DEFAULT_TENANT) == SESSION)
    await records.save_session(replace(SESSION, metadata={"reviewed": True}))
    saved = await records.get_session("ses_1", DEFAULT_TENANT)
    claim("saved again, it is replaced", saved.metadata == {"reviewed": True})
    error = await refusal(records.get_session("ses_1", "somebody-else"))
    claim("another tenant's sessions do not exist", error.code == "session_not_found")


async def append(store: Store) -> None:
    records = store.records
    stored = await records.append_events([message(number) for number in range(1, 13)], DEFAULT_TENANT)
    claim("events get numbers without gaps", [event.sequence_number for event in stored] == list(range(1, 13)))
    [again] = await records.append_events([message(3)], DEFAULT_TENANT)
    claim("an event that is there already comes back as it was stored", again == stored[2])


async def page(store: Store) -> None:
    after, seen = 0, list[int]()
    while frames := await store.records.get_events("ses_1", DEFAULT_TENANT, EventFilter(after=after), 5):
        seen += [frame.sequence_number for frame in frames]
        after = seen[-1]
    claim("pages by cursor make up the log", seen == list(range(1, 13)))
    between = await store.records.get_events("ses_1", DEFAULT_TENANT, EventFilter(after=4, before=7), 100)
    claim("a range is a range", [frame.sequence_number for frame in between] == [5, 6])

    for number in (2, 3):
        await store.records.save_session(replace(SESSION, id=f"ses_{number}"))
    first = await store.records.list_sessions(DEFAULT_TENANT, tag="imported", limit=2)
    rest = await store.records.list_sessions(DEFAULT_TENANT, tag="imported", limit=2, cursor=first.cursor)
    found = [session.id for session in (*first.items, *rest.items)]
    claim("sessions are listed page by page", sorted(found) == ["ses_1", "ses_2", "ses_3"] and rest.cursor is None)


async def delete(store: Store) -> None:
    await store.records.delete_session("ses_1", DEFAULT_TENANT)
    await store.records.delete_session("ses_1", DEFAULT_TENANT)  # twice is fine
    left = await store.records.get_events("ses_1", DEFAULT_TENANT, EventFilter(), 100)
    error = await refusal(store.records.get_run("run_1", DEFAULT_TENANT))
    claim("a deleted session leaves nothing behind", error.code == "run_not_found" and left == [])


if __name__ == "__main__":
    main(example)
