"""
Logs of outside agents: sent in pieces, kept once, safe when acknowledged.
"""

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.errors import LogGap, Unavailable
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.worker_logs import AgentLogs
from tests.dispatch.world import RUN


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "logs"


def written(folder: Path) -> bytes:
    """Return the log as `reconciler logs` finds it."""
    ((label, path),) = LogFolder(folder).paths(RUN)
    assert label == "round 1 agent"
    return path.read_bytes()


async def test_pieces_make_a_log_that_is_found_as_that_of_any_run(folder):
    logs = AgentLogs(LogFolder(folder))

    assert logs.size(RUN) == 0
    assert await logs.append(RUN, 0, b"one\n") == 4
    assert await logs.append(RUN, 4, b"two\n") == 8

    assert written(folder) == b"one\ntwo\n"
    assert AgentLogs(LogFolder(folder)).size(RUN) == 8


@pytest.mark.parametrize(
    ("offset", "data"), [(0, b"one\n"), (0, b"one\ntwo\n"), (2, b"e\ntwo\n"), (4, b"two\n")]
)
async def test_what_is_kept_already_is_passed_over(folder, offset, data):
    logs = AgentLogs(LogFolder(folder))
    await logs.append(RUN, 0, b"one\n")

    kept = await logs.append(RUN, offset, data)

    assert written(folder) == b"one\ntwo\n"[:kept]
    assert kept == max(4, offset + len(data))


async def test_a_gap_is_answered_with_what_is_kept(folder):
    logs = AgentLogs(LogFolder(folder))
    await logs.append(RUN, 0, b"one\n")

    with pytest.raises(LogGap, match="send it from offset 4") as gap:
        await logs.append(RUN, 5, b"wo\n")

    assert gap.value.kept == 4
    assert written(folder) == b"one\n"


async def test_a_log_that_is_full_takes_no_more_and_says_how_much_is_kept(folder):
    logs = AgentLogs(LogFolder(folder), most=6)
    pieces = [(0, b"one\n"), (4, b"two\n"), (6, b"o\n"), (8, b"three\n"), (0, b"one\n")]

    kept = [await logs.append(RUN, offset, data) for offset, data in pieces]

    assert kept == [4, 6, 6, 6, 6]
    assert written(folder) == b"one\ntw"


async def test_a_disk_that_cannot_be_written_to_is_for_later(folder):
    folder.write_text("no folder")

    with pytest.raises(Unavailable, match="the log cannot be written"):
        await AgentLogs(LogFolder(folder)).append(RUN, 0, b"one\n")


async def test_nothing_is_acknowledged_before_it_is_safe(folder, monkeypatch):
    """A piece that is there already is synced again: that may be what failed."""
    synced = []
    folder.mkdir(exist_ok=True)

    def sync(descriptor: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((place.relative_to(folder), place.stat().st_size if place.is_file() else None))

    monkeypatch.setattr(os, "fsync", sync)
    logs = AgentLogs(LogFolder(folder))

    await logs.append(RUN, 0, b"one\n")
    first, synced[:] = list(synced), []
    await logs.append(RUN, 0, b"one\n")

    place = Path("web+fix.g12345678.a1.r1")
    assert first == synced == [(place / "out", 4), (place, None), (Path(), None)]


async def test_pieces_that_come_at_once_are_kept_once(folder):
    logs = AgentLogs(LogFolder(folder))
    whole = bytes(range(256)) * 4

    async def send(step: int) -> None:
        offset = 0
        while offset < len(whole):
            offset = await logs.append(RUN, offset, whole[offset : offset + step])

    await asyncio.gather(*(send(step) for step in (7, 64, 100, 1000)))

    assert written(folder) == whole


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=20))
def test_whatever_pieces_come_the_log_is_a_beginning_of_what_was_said(tmp_path_factory, cuts):
    said = b"hello, world"
    folder = tmp_path_factory.mktemp("logs")

    async def send() -> None:
        logs = AgentLogs(LogFolder(folder))
        for start, end in cuts:
            before = logs.size(RUN)
            if start > before:
                with pytest.raises(LogGap):
                    await logs.append(RUN, start, said[start:end])
            else:
                kept = await logs.append(RUN, start, said[start:end])
                assert kept == logs.size(RUN) == max(before, end if end > start else 0)

    asyncio.run(send())

    assert said.startswith(LogFolder(folder).read("web+fix.g12345678.a1.r1", "out"))
