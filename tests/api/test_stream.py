"""
What happens, as it happens.
"""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from reconciler.api import stream
from reconciler.api.stream import Tail
from reconciler.core.errors import NotFound, Unavailable
from tests.api.world import FakeRecord, pulled

PLACE = "/api/v1/events"


class Events:
    """The events of a stream, one after the other."""

    def __init__(self, response):
        self._lines = response.aiter_lines()

    async def next(self):
        fields = {}
        async for line in self._lines:
            if not line:
                return fields
            name, _, value = line.partition(":")
            fields[name or "comment"] = value.strip()
        return None


@asynccontextmanager
async def listening(client, after=None):
    headers = {"Last-Event-ID": after} if after else {}
    async with client.stream("GET", PLACE, headers=headers) as response:
        assert response.status_code == 200
        events = Events(response)
        yield events, await events.next()


async def test_a_listener_hears_what_happens_from_now_on(world, app, watcher):
    await world.ask(pulled("old"))
    async with listening(watcher) as (events, hello):
        await world.ask(pulled("old"), pulled("new"))
        app.ctx.notify()

        event = await events.next()

    assert hello["id"] == f"{1:040x}"
    assert (event["event"], event["id"]) == ("transition", world.record.head())
    assert json.loads(event["data"])["task"] == "new"


async def test_a_listener_that_comes_back_has_missed_nothing(world, watcher):
    await world.ask(pulled("a"), pulled("b"), pulled("c"))
    async with listening(watcher, after=f"{1:040x}") as (events, _):
        heard = [await events.next(), await events.next()]

    assert [json.loads(event["data"])["task"] for event in heard] == ["b", "c"]


async def test_a_listener_from_another_history_is_told_to_read_anew(world, app, watcher):
    await world.ask(pulled("a"))
    async with listening(watcher, after="e" * 40) as (events, _):
        reset = await events.next()
        await world.ask(pulled("a"), pulled("b"))
        app.ctx.notify()
        event = await events.next()

    assert (reset["event"], reset["id"]) == ("reset", f"{1:040x}")
    assert json.loads(event["data"])["task"] == "b"


@pytest.mark.parametrize("after", ["--all", "HEAD", "1", "E" * 40])
async def test_what_is_no_commit_is_refused(watcher, after):
    assert (await watcher.get(PLACE, headers={"Last-Event-ID": after})).status_code == 400


async def test_silence_is_broken_by_comments(watcher, monkeypatch):
    monkeypatch.setattr(stream, "PING_SECONDS", 0.01)

    async with listening(watcher) as (events, _):
        assert await events.next() == {"comment": "still here"}


async def test_what_nobody_told_of_is_found_by_the_next_ping(world, watcher, monkeypatch):
    monkeypatch.setattr(stream, "PING_SECONDS", 0.01)
    async with listening(watcher) as (events, _):
        await world.ask(pulled("a"))

        while (event := await events.next()) == {"comment": "still here"}:
            pass

    assert json.loads(event["data"])["task"] == "a"


async def test_a_history_that_cannot_be_read_now_is_read_later(world, watcher, monkeypatch):
    monkeypatch.setattr(stream, "PING_SECONDS", 0.01)
    await world.ask(pulled("a"))
    read, failures = world.record.since, [Unavailable("git is away"), Unavailable("git is away")]

    async def since(commit, limit):
        if failures:
            raise failures.pop()
        return await read(commit, limit)

    monkeypatch.setattr(world.record, "since", since)
    async with listening(watcher) as (events, _):
        await world.ask(pulled("a"), pulled("b"))
        while (event := await events.next()) == {"comment": "still here"}:
            pass

    assert json.loads(event["data"])["task"] == "b"


async def test_a_token_that_is_revoked_hears_no_more(world, app, watcher):
    async with listening(watcher) as (events, _):
        await world.ask(pulled("a"), agents={})
        app.ctx.notify()

        heard = [event async for event in _rest(events)]

    assert all(json.loads(event["data"])["task"] == "a" for event in heard)


async def _rest(events):
    while (event := await events.next()) is not None:
        yield event


# --- The end of the history, kept ------------------------------------------


def record_of(count):
    record = FakeRecord()
    for number in range(count):
        grow(record, number)
    return record


def grow(record, number):
    commit = f"{number + 1:040x}"
    record.entries.append(type("Entry", (), {"commit": commit})())


def commits(entries):
    return [int(entry.commit, 16) for entry in entries]


async def test_many_listeners_cost_one_reading():
    record = record_of(3)
    tail = Tail(record)
    start = record.head()
    await tail.after(f"{2:040x}")
    reads = record.reads

    for number in (3, 4):
        grow(record, number)
    heard = await asyncio.gather(*(tail.after(start) for _ in range(50)))

    assert {tuple(commits(entries)) for entries in heard} == {(4, 5)}
    assert record.reads - reads == 1


@pytest.mark.parametrize("kept", [1, 2, 5, 100])
async def test_from_wherever_a_listener_comes_it_hears_everything_once(monkeypatch, kept):
    monkeypatch.setattr(Tail, "KEPT", kept)
    record = record_of(3)
    tail, listeners = Tail(record), {start: [start] for start in range(4)}

    for number in range(3, 12):
        grow(record, number)
        for start, heard in listeners.items():
            if number % (start + 1) == 0 or number == 11:
                while new := await tail.after(f"{heard[-1]:040x}" if heard[-1] else ""):
                    heard.extend(commits(new))

    assert all(heard == list(range(start, 13)) for start, heard in listeners.items())


async def test_another_history_in_its_place_is_noticed():
    record = record_of(3)
    tail = Tail(record)
    await tail.after(f"{2:040x}")
    grow(record, 3)
    await tail.after(f"{3:040x}")

    record.entries = record_of(2).entries[:1]
    record.entries[0].commit = "d" * 40

    with pytest.raises(NotFound):
        await tail.after(f"{4:040x}")
    assert await tail.after("d" * 40) == ()
