"""
What comes of losses of power while things are acknowledged, as a table: every state a disk may have.

`python -m tests.crashes.power [BATCHES]` records a run by strace, puts each of the states of
`disk.py` in its place, and starts anew on it. It returns 1 if anything acknowledged was lost.
"""

import asyncio
import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from reconciler.dispatch.proofs import Proofs
from reconciler.store import writer
from tests.crashes.acknowledging import GOAL, PIECE, agent_logs, book_file, hint, journal, open_state
from tests.crashes.disk import NOTHING, STRACE, Recording, Tree
from tests.crashes.table import output_of
from tests.store.world import BRANCH, created

PROGRAM = Path(__file__).with_name("acknowledging.py")
GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@example.org",
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@example.org",
}


@dataclass(frozen=True, slots=True)
class State:
    """A state that a disk may have, and what was acknowledged by then."""

    number: int
    """Calls before the power went."""
    about: str
    tree: Tree
    acknowledged: frozenset[str]


def record(root: Path, batches: int) -> Recording:
    """Record what a process does that acknowledges so many batches in an empty fleet."""
    root.mkdir()
    fleet = root / "fleet.git"
    subprocess.run(["git", "init", "-q", "--bare", "--template=", "-b", "main", fleet], check=True)
    tree = output_of(fleet, "hash-object", "-t", "tree", "-w", "/dev/null")
    commit = output_of(fleet, "commit-tree", tree, "-m", "specs", env={**os.environ, **GIT})
    output_of(fleet, "update-ref", "refs/heads/main", commit)
    recording = Recording(str(root), Tree.read(root))
    with tempfile.NamedTemporaryFile() as log:
        env = {**os.environ, **GIT, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [*STRACE, "-o", log.name, sys.executable, PROGRAM, root, str(batches)]
        subprocess.run(command, input=b"\n", stdout=subprocess.PIPE, env=env, check=True, cwd=root.parent)
        with Path(log.name).open(encoding="ascii") as lines:
            recording.read(lines, str(root.parent))
    return recording


def states(recording: Recording) -> Iterator[State]:
    """Yield each state once: with the most that was acknowledged where a disk may have it."""
    seen = dict[int, frozenset[str]]()
    ends = sorted({each.number for each in (*recording.changes, *recording.syncs, *recording.said)})
    found = dict[int, State]()
    for number in ends:
        acknowledged = frozenset(each.line for each in recording.said if each.number <= number)
        for about, tree in recording.states(number):
            key = hash((frozenset(tree.files.items()), tree.folders))
            if not acknowledged <= seen.get(key, frozenset()) or key not in found:
                seen[key] = acknowledged
                found[key] = State(number, about, tree, acknowledged)
    yield from found.values()


async def faults(root: Path, state: State) -> Sequence[str]:
    """Return what is lost or does not work when a reconciler is started on that state."""
    state.tree.write(root)
    acknowledged = {line.split()[0]: set[int]() for line in state.acknowledged}
    for line in state.acknowledged - {"ready"}:
        kind, number = line.split()
        acknowledged[kind].add(int(number))
    try:
        return [*await _record_faults(root, acknowledged.get("record", set())), *_others(root, acknowledged)]
    except Exception as error:  # noqa: BLE001 - whatever it is, the next start does not work
        return [f"{type(error).__name__}: {error}"]


async def _record_faults(root: Path, numbers: Collection[int]) -> Sequence[str]:
    with patch.object(writer, "_PATIENCE", 0.0):  # nobody is alive who could hold a lock that was left
        return await _faults_after_start(root, numbers)


async def _faults_after_start(root: Path, numbers: Collection[int]) -> Sequence[str]:
    async with AsyncExitStack() as stack:
        state = await open_state(stack, root)
        tasks, _ = await state.load()
        await state.commit([created("next")])
    lost = [
        number
        for number in numbers
        if any(f"t{number}/{part}" not in tasks for part in range(1 + number % 3))
    ]
    said = output_of(root / "fleet.git", "fsck", "--full", "--strict", "--no-dangling")
    merges = output_of(root / "fleet.git", "rev-list", "--min-parents=2", BRANCH)
    return [
        *(f"batch {number} of the record is lost" for number in lost),
        *([f"git fsck: {said.splitlines()[0]}"] if said else []),
        *(["the record has a merge"] if merges else []),
    ]


def _others(root: Path, acknowledged: Mapping[str, Collection[int]]) -> Iterator[str]:
    """Yield what is lost beside the record; each reader is used before each is written to again."""
    deliveries = {each.hint.delivery for each in journal(root).pending()}
    book, size = book_file(root).read().cursor, agent_logs(root).size("t.g1.a1")
    proofs = Proofs(root / "data/proofs")
    is_there: Mapping[str, Callable[[int], bool]] = {
        "spec": lambda n: output_of(root / "fleet.git", "show", f"main:specs/tasks/s{n}.yaml") == GOAL,
        "webhook": lambda n: f"d{n}" in deliveries,
        "log": lambda n: size >= (n + 1) * len(PIECE),
        "seal": lambda n: bool(proofs._locks(f"t{n}.g1.a1.r1")),
        "book": lambda n: int(book or "-1", 16) >= n,
    }
    for kind, check in is_there.items():
        yield from (f"{kind} {number} is lost" for number in acknowledged.get(kind, ()) if not check(number))
    journal(root).add(hint(999), "another")
    proofs.draw("another.g1.a1.r1")


async def table(root: Path, batches: int, every: int = 1) -> Sequence[tuple[State, Sequence[str]]]:
    """Return what comes of each state; of those with more than what was synced, each so-manieth."""
    recording = record(root, batches)
    whole = recording.tree(set(recording.changes))
    there = Tree.read(root)
    if (whole.files, whole.folders) != (there.files, there.folders):
        odd = {
            path
            for path in whole.files.keys() | there.files.keys()
            if whole.files.get(path) != there.files.get(path)
        }
        raise AssertionError(f"the recording is not whole: {sorted(odd)}, {whole.folders ^ there.folders}")
    every_state = list(states(recording))
    bare = [state for state in every_state if state.about == NOTHING]
    others = [state for state in every_state if state.about != NOTHING]
    return [(state, await faults(root, state)) for state in (*bare, *others[::every])]


def main() -> int:
    """Print the table; return 1 if anything was lost."""
    logging.disable()
    os.environ |= GIT
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(table(Path(folder).resolve() / "root", int((sys.argv[1:] or ["2"])[0])))
    outcomes = Counter("; ".join(said) or "all of it is there" for _, said in rows)
    for outcome, times in outcomes.most_common():
        sys.stdout.write(f"{times:6}  {outcome}\n")
        first = next(state for state, said in rows if ("; ".join(said) or "all of it is there") == outcome)
        if outcome != "all of it is there":
            sys.stdout.write(
                f"        first after {first.number} calls: {first.about}; {sorted(first.acknowledged)}\n"
            )
    sys.stdout.write(f"{len(rows):6}  states\n")
    return 1 if len(outcomes) > 1 else 0


if __name__ == "__main__":
    sys.exit(main())
