"""
The record of a large fleet: one folder of 10,000 tasks, a million commits, 100,000 specs.

Commits in one large folder stand beside those in folders of 100, in turn and
through the same store; so does what a repository grows by, before anything is
repacked. The history of one task, twelve steps among all commits, stands
beside `git log` of its file; both have the commit graph that upkeep writes.
"""

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import IO

from bench import specs
from bench.rows import Row, row
from bench.store import BRANCH, NOW, STEPS, git, path, task, transition
from reconciler.git.objects import GitTree
from reconciler.git.process import pipes
from reconciler.git.repository import Repository
from reconciler.specs.source import SpecSource
from reconciler.store.history import read_history
from reconciler.store.state import StateBranch

ROUNDS = 3
"""Few, so that no upkeep begins between them."""
SIZES = {100: 10, 1: 40}
"""How many batches of each size there are in a round."""
STEPS_OF_ONE = 12
LAYOUTS: Mapping[str, Callable[[int], str]] = {"one": lambda number: f"issues/task-{number}", "grouped": task}

Measured = dict[tuple[str, int], list[float]]
"""Samples by layout and size of the batch."""


def rows(quick: bool) -> Iterator[Row]:
    tasks, commits, files = (300, 2_000, 300) if quick else (10_000, 1_000_000, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        rates, growth = asyncio.run(folders(Path(folder), tasks))
        for size, what in ((100, "batches of 100"), (1, "one at a time")):
            beside = "of folders of 100"
            ours, floor = (growth[layout, size] for layout in LAYOUTS)
            own_rates = [rates[layout, size] for layout in LAYOUTS]
            name = f"commits in one folder of {tasks:,}, {what}"
            yield row(name, "/s", *own_rates, beside=beside, aim="≥ 0.5")
            name = f"what each of them adds, {what}"
            yield row(name, "kB", ours, floor, scale=1e-3, beside=beside, aim="≤ 2")
        ours, floor = asyncio.run(history(Path(folder), commits))
        yield row(
            f"history of one task among {commits:,} commits",
            "ms",
            ours,
            floor,
            scale=1000,
            beside="of git log of its file",
            aim="≤ 1",
        )
        cold, reading = asyncio.run(cold_start(Path(folder), files))
        name = f"specs of {files:,} tasks, cold"
        yield row(name, "s", cold, reading, beside="of their bytes from git alone")


# --- Folders ---------------------------------------------------------------


async def folders(folder: Path, tasks: int) -> tuple[Measured, Measured]:
    """Return commits a second, and bytes a commit, of both layouts in turn."""
    rates: Measured = {}
    growth: Measured = {}
    async with AsyncExitStack() as stack:
        states = {layout: await opened(stack, folder / f"{layout}.git", tasks, layout) for layout in LAYOUTS}
        for _ in range(ROUNDS):
            for size, batches in SIZES.items():
                for layout, state in states.items():
                    before = content(folder / f"{layout}.git")
                    rate = await commit(state, LAYOUTS[layout], tasks, size, batches)
                    grown = content(folder / f"{layout}.git") - before
                    rates.setdefault((layout, size), []).append(rate)
                    growth.setdefault((layout, size), []).append(grown / size / batches)
    return rates, growth


async def opened(stack: AsyncExitStack, place: Path, tasks: int, layout: str) -> StateBranch:
    """Return a record with so many tasks, put there by the store itself."""
    subprocess.run(["git", "init", "-q", "--bare", place], check=True)
    repository = await stack.enter_async_context(await Repository.open(str(place), place))
    state = await StateBranch.open(
        repository, BRANCH, token=lambda: "0" * 12, clock=lambda: NOW, revision=lambda: "e" * 40
    )
    stack.push_async_callback(state.close)
    await state.load()
    names = [LAYOUTS[layout](number) for number in range(tasks)]
    for start in range(0, tasks, 500):
        await state.commit([transition(name, next(STEPS)) for name in names[start : start + 500]])
    return state


async def commit(
    state: StateBranch, name: Callable[[int], str], tasks: int, size: int, batches: int
) -> float:
    """Return how many commits a second there were."""
    steps = (transition(name(number * 7919 % tasks), number) for number in STEPS)
    work = [[next(steps) for _ in range(size)] for _ in range(batches)]
    began = time.perf_counter()
    for batch in work:
        await state.commit(batch)
    return size * batches / (time.perf_counter() - began)


def content(place: Path) -> int:
    """Return the bytes of all packs with their indexes."""
    return sum(file.stat().st_size for file in (place / "objects" / "pack").iterdir())


# --- History ---------------------------------------------------------------


async def history(folder: Path, commits: int) -> tuple[list[float], list[float]]:
    """Return seconds to read the history of a task, and for git to find the commits of its file."""
    place = folder / "history.git"
    subprocess.run(["git", "init", "-q", "--bare", place], check=True)
    write_history(place, commits)
    git(place, "commit-graph", "write", "--reachable", "--changed-paths")
    ours: list[float] = []
    floor: list[float] = []
    async with await Repository.open(str(place), folder) as repository:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            listed = await repository.git.run("log", "--format=%B", BRANCH, "--", path("rare"))
            floor.append(time.perf_counter() - began)
            began = time.perf_counter()
            entries = await read_history(repository, BRANCH, "rare")
            ours.append(time.perf_counter() - began)
            assert listed.count(b"Task: rare") == len(entries) == STEPS_OF_ONE
    return ours, floor


def write_history(place: Path, commits: int) -> None:
    """Write so many transitions of 1,000 tasks, and among them those of the task `rare`."""
    command = ["git", "-C", str(place), "-c", "pack.compression=0", "fast-import", "--quiet"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        stdin, stdout = pipes(process)
        previous = ""
        for number in range(1, commits + 1):
            if number % (commits // STEPS_OF_ONE) == 0 and number <= commits // STEPS_OF_ONE * STEPS_OF_ONE:
                previous = write_step(stdin, stdout, number, previous)
            else:
                stdin.write(step_of(task(number * 7919 % 1000), number, ""))


def write_step(stdin: IO[bytes], stdout: IO[bytes], number: int, previous: str) -> str:
    """Write a step of the task `rare`; return its commit."""
    stdin.write(step_of("rare", number, f"Prev-Transition: {previous}\n" if previous else ""))
    stdin.write(b"get-mark :1\n")
    stdin.flush()
    return stdout.readline().decode().strip()


def step_of(name: str, number: int, trailer: str) -> bytes:
    message = (
        f"task {name}: assigned → running\n\nthe agent was seen alive\n\n"
        f"Task: {name}\nFrom: assigned\nTo: running\nCause: host\n{trailer}"
    ).encode()
    status = f"phase: running\nattempt: {number}\n".encode()
    head = f"commit refs/heads/{BRANCH}\nmark :1\ncommitter b <b@example.org> {number} +0000\n".encode()
    file = b"M 100644 inline %s\ndata %d\n%s\n" % (path(name).encode(), len(status), status)
    return head + b"data %d\n%s\n" % (len(message), message) + file


# --- Specs -----------------------------------------------------------------


async def cold_start(folder: Path, tasks: int) -> tuple[list[float], list[float]]:
    """Return seconds until the specs of a commit are read, and until git has handed out their bytes."""
    place = folder / "specs.git"
    subprocess.run(["git", "init", "-q", "--bare", place], check=True)
    files = {name: file.data for name, file in specs.fleet(tasks).items()}
    pieces = [b"commit refs/heads/main\ncommitter b <b@example.org> 1 +0000\ndata 5\nspecs\n"]
    pieces += [b"M 100644 inline %s\ndata %d\n%s\n" % (n.encode(), len(c), c) for n, c in files.items()]
    subprocess.run(["git", "-C", place, "fast-import", "--quiet"], input=b"".join(pieces), check=True)
    async with await Repository.open(str(place), folder) as repository:
        tree = GitTree(repository, "main")
        began = time.perf_counter()
        entries = await tree.files(await tree.head(), "specs/")
        await tree.blobs({entry.blob for entry in entries.values()}, limit=1 << 20)
        reading = time.perf_counter() - began
        began = time.perf_counter()
        desired = await SpecSource(tree).read({})
        cold = time.perf_counter() - began
    assert len(desired.tasks) == tasks
    return [cold], [reading]
