"""
A look with nothing to do, at few and at many finished tasks; milliseconds of CPU.

It is what happens at every notification: read the ref of the specs, plan, find
that nothing changed. Real git repositories, real statuses on record; the two
fleets are looked at in turn.
"""

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.rows import Row, row
from reconciler.controller.build import build_loop
from reconciler.controller.cache import FleetCache
from reconciler.controller.loop import Loop
from reconciler.controller.ports import ControllerSettings, Ports
from reconciler.core.model.specs import Task
from reconciler.core.model.status import OnHost, Phase, Run, Status
from reconciler.git.objects import GitTree
from reconciler.git.repository import Repository
from reconciler.specs.source import SpecSource
from reconciler.store.state import StateBranch
from reconciler.store.statuses import dump_status
from tests.fakes import FakeDispatch, FakeForges, FakeProber

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def rows(quick: bool) -> Iterator[Row]:
    few, many = (50, 500) if quick else (1_000, 100_000)
    times = asyncio.run(looks((few, many), 20 if quick else 200))
    yield row(
        f"a look with nothing to do, {many:,} finished tasks",
        "ms",
        times[many],
        times[few],
        scale=1000,
        beside=f"of that with {few:,}",
        aim="≤ 1.2",
    )


async def looks(sizes: Sequence[int], count: int) -> dict[int, list[float]]:
    times: dict[int, list[float]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory() as folder:
        loops = {size: await settled_fleet(Path(folder) / str(size), size) for size in sizes}
        for _ in range(count):
            for size, loop in loops.items():
                loop.inbox.notify()
                begin = time.process_time()
                await loop._look()
                times[size].append(time.process_time() - begin)
    return times


async def settled_fleet(folder: Path, size: int) -> Loop:
    """Return a loop over a repository in which every task is completed."""
    files = {
        f"specs/tasks/{path_of(n)}.yaml": f"goal: Task {n}.\nscript: 'true'\n".encode() for n in range(size)
    }
    return await open_fleet(folder, files, completed)


async def open_fleet(
    folder: Path, specs_files: Mapping[str, bytes], status: Callable[[Task], Status]
) -> Loop:
    """Return a loop over a new repository with these specs, and a status on record for each task."""
    folder.mkdir()
    subprocess.run(["git", "init", "-q", "--bare", folder], check=True)
    fast_import(folder, "main", specs_files)
    repository = await Repository.open(str(folder), folder)
    specs = SpecSource(GitTree(repository, "main"))
    desired = await specs.read({})
    statuses = {name: dump_status(status(task)) for name, task in desired.tasks.items()}
    fast_import(
        folder, "fleet-state", {f"fleet-state/tasks/{name}.yaml": text for name, text in statuses.items()}
    )
    state = await StateBranch.open(
        repository, "fleet-state", token=lambda: "0" * 12, clock=lambda: NOW, revision=lambda: ""
    )
    ports = Ports(
        specs=specs,
        state=state,
        dispatch=FakeDispatch(),
        prober=FakeProber(),
        forges=FakeForges(),
        clock=lambda: NOW,
        monotonic=lambda: 0.0,
    )
    loop = build_loop(FleetCache(), ports, ControllerSettings())
    await loop._look()
    await asyncio.sleep(0.1)
    await loop._look()
    assert len(loop.cache.statuses) == len(statuses)
    return loop


def completed(task: Task) -> Status:
    run = Run(key="x.g1.a1", round=1, holder=OnHost(host="local"), branch="task/x", title="x")
    return Status(
        phase=Phase.COMPLETED,
        since=NOW,
        created_at=NOW,
        generation=task.generation,
        work=task.work,
        attempt=1,
        run=run,
    )


def path_of(number: int) -> str:
    return f"group{number // 500}/task{number}"


def fast_import(folder: Path, branch: str, files: Mapping[str, bytes]) -> None:
    parts: Collection[bytes] = [
        f"commit refs/heads/{branch}\ncommitter Bench <bench@example.org> 1 +0000\ndata 0\n".encode(),
        *(
            b"M 644 inline %s\ndata %d\n%s\n" % (path.encode(), len(data), data)
            for path, data in files.items()
        ),
    ]
    subprocess.run(["git", "-C", folder, "fast-import", "--quiet"], input=b"".join(parts), check=True)
