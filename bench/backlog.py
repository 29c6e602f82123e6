"""
One task, an empty dequeue and a look beside a backlog of few and of many tasks; milliseconds of CPU.

The tasks wait for workers (`http_pull`). A worker takes one, begins and finishes it,
which is three commits; another asks for one that it cannot have; and the loop is
notified of nothing. Real git repositories, real commits; fleets in turn.
The CPU is that of the controller alone.
"""

import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from bench.look import NOW, open_fleet, path_of
from bench.rows import Row, row
from reconciler.controller.loop import Loop
from reconciler.core.events import WorkerReport
from reconciler.core.model.runs import Claim
from reconciler.core.model.specs import Task
from reconciler.core.model.status import LeaseRequest, Phase, Reason, Status, Waiting

TURNS = 40
BEHIND = "All fleets are in one process: its heap is that of the largest, and its caches are cold for each."
NOW_OR_NEVER = timedelta()
TASK = "goal: Task {}.\nexecution_mode: http_pull\nrequires: [able]\n"
AGENTS = {"able": b"slots: 2\n", "other": b"slots: 2\n"}


def rows(quick: bool) -> Iterator[Row]:
    sizes = (50, 100, 500) if quick else (100, 1_000, 10_000, 100_000)
    times = asyncio.run(turns(sizes, 5 if quick else TURNS))
    for what, by_size in times.items():
        for size in sizes[1:]:
            yield row(
                f"{what}, {size:,} waiting",
                "ms",
                by_size[size],
                by_size[sizes[0]],
                scale=1000,
                beside=f"of that with {sizes[0]}",
                aim="≤ 1.2",
                behind=BEHIND,
            )


async def turns(sizes: Sequence[int], count: int) -> dict[str, dict[int, list[float]]]:
    """Return the CPU seconds of each kind of work by the number of tasks that wait."""
    times: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        loops = {size: await waiting_fleet(Path(folder) / str(size), size) for size in sizes}
        runs = [asyncio.create_task(loop.run()) for loop in loops.values()]
        for loop in loops.values():
            await nothing(loop, "")  # until it has loaded its record
        for turn in range(count):
            for size, loop in loops.items():
                for what, work in WORK.items():
                    begin = time.process_time()
                    await work(loop, str(turn))
                    times[what][size].append(time.process_time() - begin)
        for loop in loops.values():
            loop.stop()
        await asyncio.gather(*runs)
    return times


async def one_task(loop: Loop, key: str) -> None:
    """Take a task, begin and finish it."""
    leases = loop.controllers.leases
    task = await leases.acquire(LeaseRequest(agent="able", request_key=key), NOW_OR_NEVER)
    if task is None:
        raise AssertionError("no task was to be had")
    for claim in (None, Claim(outcome="completed", result="done")):
        await leases.submit(WorkerReport(task=task, agent="able", epoch=1, at=NOW, claim=claim))


async def empty_dequeue(loop: Loop, key: str) -> None:
    """Ask for a task as a worker that fits none."""
    leases = loop.controllers.leases
    if await leases.acquire(LeaseRequest(agent="other", request_key=key), NOW_OR_NEVER) is not None:
        raise AssertionError("a task was to be had")


async def nothing(loop: Loop, _: str) -> None:
    """Let the loop look, though nothing has changed."""
    loop.inbox.notify()
    await loop.inbox.wait_recorded(())


WORK: dict[str, Callable[[Loop, str], Awaitable[None]]] = {
    "take, begin and finish a task": one_task,
    "a dequeue that finds nothing": empty_dequeue,
    "a look at nothing new": nothing,
}


async def waiting_fleet(folder: Path, size: int) -> Loop:
    """Return a loop over a repository in which every task waits, as its status says."""
    files = {f"specs/tasks/{path_of(n)}.yaml": TASK.format(n).encode() for n in range(size)}
    files |= {f"specs/agents/{name}.yaml": text for name, text in AGENTS.items()}
    return await open_fleet(folder, files, waits)


def waits(task: Task) -> Status:
    return Status(
        phase=Phase.CREATED,
        since=NOW,
        created_at=NOW,
        generation=task.generation,
        work=task.work,
        waiting=Waiting(reason=Reason.AGENT, message="waits for an agent to take it over HTTP", since=NOW),
    )
