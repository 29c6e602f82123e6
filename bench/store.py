"""
The store beside git itself: durable commits, one per transition, alone and in batches; loading the record.

The store syncs all that it writes to the disk before it answers.
"""

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from bench.rows import Beside, Row, row
from reconciler.core.adapter import Usage
from reconciler.core.events import Origin, Started
from reconciler.core.lifecycle import Transition
from reconciler.core.model.status import OnHost, Phase, Run, Status
from reconciler.core.names import DEFAULT_SHARD
from reconciler.git.repository import Repository
from reconciler.store import statuses
from reconciler.store.messages import render_message
from reconciler.store.reader import StateReader
from reconciler.store.state import StateBranch

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BRANCH = "fleet-state"
ROUNDS = 5
AIMS: Mapping[str, Beside] = {
    "store, one at a time": {
        "aim": "≥ 20",
        "behind": "Five syncs, of pack, index, ref and the folders of both, take 2 of its 3 ms, Python 1.",
    },
    "store, batches of 100": {
        "aim": "≥ 150",
        "behind": "git fast-import itself takes most of it: one commit with its trees for each transition.",
    },
}
STEPS = count(1)
"""So that every commit changes something."""


def rows(quick: bool) -> Iterator[Row]:
    tasks, sizes = (500, (500,)) if quick else (10_000, (1_000, 10_000, 100_000))
    with tempfile.TemporaryDirectory() as folder:
        rates = asyncio.run(commits(Path(folder), tasks))
        by_hand = rates.pop("git add + git commit")
        yield row("git add + git commit", "/s", by_hand)
        for name, samples in rates.items():
            more: Beside = {**AIMS.get(name, Beside()), "beside": "git add + git commit"}
            yield row(name, "/s", samples, by_hand, **more)
        for size in sizes:
            cold, warm = asyncio.run(load(Path(folder), size))
            yield row(f"load {size:,} statuses", "s", cold)
            yield row(f"load {size:,} again after one commit", "ms", warm, scale=1000)


# --- Commits ---------------------------------------------------------------


async def commits(folder: Path, tasks: int) -> dict[str, list[float]]:
    """Return how many commits a second there were, by way, a few times in turn."""
    places = [folder / name for name in ("store.git", "cli", "raw.git")]
    for place in places:
        base(place, tasks)
    by_hand = CommandLine(places[1], tasks)
    async with await Repository.open(str(places[0]), folder) as repository:
        state = await StateBranch.open(
            repository, BRANCH, token=lambda: "0" * 12, clock=lambda: NOW, revision=lambda: "e" * 40
        )
        await state.load()
        await store(state, tasks, 1, 1)
        measured: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            record(measured, "git add + git commit", by_hand.commit(10))
            record(measured, "the same, synced to disk", by_hand.commit(10, "-c", "core.fsync=all"))
            record(measured, "git fast-import, one stream", raw(places[2], tasks, 1000))
            record(measured, "store, one at a time", await store(state, tasks, 1, 50))
            record(measured, "store, batches of 100", await store(state, tasks, 100, 10))
        await state.close()
    return measured


def record(measured: dict[str, list[float]], name: str, rate: float) -> None:
    measured.setdefault(name, []).append(rate)


async def store(state: StateBranch, tasks: int, size: int, batches: int) -> float:
    work = [[step(next(STEPS), tasks) for _ in range(size)] for _ in range(batches)]
    began = time.perf_counter()
    for batch in work:
        await state.commit(batch)
    return size * batches / (time.perf_counter() - began)


def _after(step: Transition) -> Status:
    assert step.after is not None
    return step.after


class CommandLine:
    """A checkout in which a program commits with git's commands, as they are."""

    def __init__(self, place: Path, tasks: int) -> None:
        self.place, self.tasks = place, tasks
        git(place, "checkout", "-q", BRANCH)

    def commit(self, commits: int, *options: str) -> float:
        """Return how many commits a second there were."""
        work = [step(next(STEPS), self.tasks) for _ in range(commits)]
        began = time.perf_counter()
        for each in work:
            (self.place / path(each.task)).write_bytes(statuses.dump_status(_after(each)))
            git(self.place, *options, "add", path(each.task))
            git(self.place, *options, "commit", "-q", "-m", f"task {each.task}: running")
        return commits / (time.perf_counter() - began)


def raw(place: Path, tasks: int, commits: int) -> float:
    work = [step(next(STEPS), tasks) for _ in range(commits)]
    began = time.perf_counter()
    stream(
        place,
        [({path(each.task): statuses.dump_status(_after(each))}, render_message(each)) for each in work],
    )
    return commits / (time.perf_counter() - began)


# --- Loading ---------------------------------------------------------------


async def load(folder: Path, size: int) -> tuple[list[float], list[float]]:
    """Return how many seconds it took, and how many after one commit more."""
    place = folder / f"load-{size}.git"
    base(place, size)
    cold, warm = [], []
    for _ in range(3):
        async with await Repository.open(str(place), folder) as repository:
            reader = StateReader(repository, {DEFAULT_SHARD: BRANCH})
            cold.append(await seconds(reader))
            stream(place, [({path(task(0)): statuses.dump_status(status(next(STEPS)))}, "edit")])
            warm.append(await seconds(reader))
    return cold, warm


async def seconds(reader: StateReader) -> float:
    began = time.perf_counter()
    await reader.load()
    return time.perf_counter() - began


# --- A fleet ---------------------------------------------------------------


def task(number: int) -> str:
    return f"project-{number // 100}/task-{number % 100}"


def path(name: str) -> str:
    return f"fleet-state/tasks/{name}.yaml"


def status(number: int) -> Status:
    return Status(
        phase=Phase.RUNNING,
        since=NOW,
        created_at=NOW,
        generation=f"{number:040x}",
        work=f"{number:012x}",
        attempt=1 + number % 3,
        run=Run(
            key=f"{task(number)}.g{number:08x}.a1",
            round=1,
            holder=OnHost(host="builder-7"),
            adapter="claude-code",
            branch=f"task/{task(number)}",
            title="Make the login form keep what was typed",
        ),
        usage=Usage(input_tokens=number, output_tokens=1234, cost_usd=0.25, turns=7, seconds=93.5),
    )


def step(number: int, tasks: int) -> Transition:
    """Return a transition of one of so many tasks, in no order that would be of help."""
    return transition(task(number * 7919 % tasks), number)


def transition(name: str, number: int) -> Transition:
    after = status(number)
    event = Started(
        task=name, origin=Origin(NOW, "the agent was seen alive", cause="host"), run=str(after.run_key)
    )
    return Transition(name, after.model_copy(update={"phase": Phase.ASSIGNED}), after, event)


def base(place: Path, tasks: int) -> None:
    """Make a repository with so many statuses in one commit; a bare one if its name says so."""
    kind = ["--bare"] if place.suffix == ".git" else []
    subprocess.run(["git", "init", "-q", *kind, str(place)], check=True)
    git(place, "config", "user.name", "Bench")
    git(place, "config", "user.email", "bench@example.org")
    files = {path(task(number)): statuses.dump_status(status(number)) for number in range(tasks)}
    stream(place, [(files, "all of them")], start=False)


def stream(place: Path, changes: Iterable[tuple[Mapping[str, bytes], str]], *, start: bool = True) -> None:
    """Commit through `git fast-import`, with nothing around it."""
    first = f"from refs/heads/{BRANCH}^0\n" if start else ""
    pieces = []
    for files, message in changes:
        said = message.encode()
        pieces.append(f"commit refs/heads/{BRANCH}\ncommitter b <b@example.org> 1 +0000\n".encode())
        pieces.append(b"data %d\n%s\n%s" % (len(said), said, first.encode()))
        pieces += [b"M 100644 inline %s\ndata %d\n%s\n" % (at.encode(), len(c), c) for at, c in files.items()]
        first = ""
    subprocess.run(["git", "-C", str(place), "fast-import", "--quiet"], input=b"".join(pieces), check=True)


def git(place: Path, *args: str) -> None:
    subprocess.run(["git", "-C", str(place), *args], check=True)
