"""
The pages of `reconciler serve` with 10,000 tasks, 50 hosts, 100 live runs and 200 viewers.

The fleet is in memory, behind a real server on the loopback. For each page:
the time of the first request, the CPU time of the one after a change (the page
is made anew then), that of one more request, and its bytes. At last the CPU
time in which 200 viewers have the page Now after a change; the client's is in it.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from pathlib import Path

import httpx2

from bench.rows import Row, row
from reconciler.api.app import make_app
from reconciler.api.exposure import exposure_of
from reconciler.api.listen import read_listen
from reconciler.api.server import serve_app
from reconciler.core.events import Assigned, Completed, Created, Origin, Started
from reconciler.core.model.runs import Report, Verdict, run_key
from reconciler.core.model.specs import Host, Task
from reconciler.core.model.status import OnHost, Reason, Waiting
from tests.api.world import FakeWorld
from tests.fakes import START, make_task

HOSTS, LIVE, VIEWERS = 50, 100, 200
LOOKS = 5
LISTEN = read_listen("127.0.0.1:0")
SLOT = Waiting(reason=Reason.SLOT, message="no free slot on any host that fits", since=START)
DOES = Report(verdict=Verdict(outcome="success"))


def rows(quick: bool) -> Iterator[Row]:
    return iter(asyncio.run(measure(500 if quick else 10_000)))


async def measure(count: int) -> list[Row]:
    world, tasks = await fleet(count)
    commits = {entry.task: entry.commit for entry in world.record.entries if entry.task}

    async def last_commits() -> Mapping[str, str]:
        return commits

    world.last_commits = last_commits  # type: ignore[method-assign]  # a fake walks its whole history for them, the store does not
    app = make_app(
        world.controller,
        world.leases,
        world.services,
        clock=world.clock,
        last_use=Path(tempfile.mkdtemp()) / "used",
        exposure=exposure_of(LISTEN, "", b"key"),
    )
    limits = httpx2.Limits(max_connections=VIEWERS)
    async with (
        serve_app(app, LISTEN) as address,
        httpx2.AsyncClient(base_url=address, trust_env=False, timeout=60, limits=limits) as client,
    ):
        found = [each for path in paths(tasks) for each in await page(world, client, path, tasks[0])]
        spent = [await viewers(world, client, tasks[0]) for _ in range(3)]
    return [*found, row(f"CPU until {VIEWERS} viewers have a change, the client's in it", "s", spent)]


async def fleet(count: int) -> tuple[FakeWorld, list[Task]]:
    done = count * 29 // 100
    world = FakeWorld()
    tasks = [
        make_task(
            f"team{n % 20}/task-{n:05}", goal=f"Do the thing number {n}.\nWith care.", repo=f"repo{n % 7}"
        )
        for n in range(count)
    ]
    hosts = {f"h{n}": Host(name=f"h{n}", address="x", slots=4) for n in range(HOSTS)}
    await world.ask(*tasks, hosts=hosts)
    origin = Origin(START, "new")
    for number, task in enumerate(tasks):
        waits = SLOT if number >= LIVE + done else None
        world.controller.put(Created(task=task.name, origin=origin, spec=task, waiting=waits))
    for number, task in enumerate(tasks[: LIVE + done]):
        run, on = run_key(task.name, task.generation, 1), OnHost(host=f"h{number % HOSTS}")
        world.controller.put(
            Assigned(task=task.name, origin=origin, spec=task, holder=on, run=run),
            Started(task=task.name, origin=origin, run=run),
        )
        if number >= LIVE:
            world.controller.put(Completed(task=task.name, origin=origin, report=DOES))
    return world, tasks


def paths(tasks: Sequence[Task]) -> Sequence[str]:
    lists = ("/tasks", "/tasks?q=task-0050", "/tasks?view=board", "/tasks?order=cost&page=100")
    others = ("/hosts", "/agents", "/plan", "/history", "/cost", "/problems", f"/tasks/{tasks[5].name}")
    return ("/", *lists, *others)


def change(world: FakeWorld, task: Task) -> None:
    world.controller.put(Created(task=f"x{time.time_ns()}", origin=Origin(START, "new"), spec=task))


async def page(world: FakeWorld, client: httpx2.AsyncClient, path: str, task: Task) -> list[Row]:
    began = time.perf_counter()
    first = await client.get(path)
    cold = time.perf_counter() - began
    changed, again = [], []
    for _ in range(LOOKS):
        change(world, task)
        changed.append(await cpu(client.get(path)))
        again.append(await cpu(client.get(path)))
    return [
        row(f"{path}, first request", "ms", [cold], scale=1000),
        row(f"{path}, CPU after a change", "ms", changed, scale=1000),
        row(f"{path}, CPU once more", "ms", again, scale=1000),
        row(f"{path}, size", "kB", [len(first.content) / 1e3], aim="≤ 100"),
    ]


async def cpu(work: Awaitable[object]) -> float:
    began = time.process_time()
    await work
    return time.process_time() - began


async def viewers(world: FakeWorld, client: httpx2.AsyncClient, task: Task) -> float:
    change(world, task)
    requests = [client.get("/", headers={"HX-Request": "true"}) for _ in range(VIEWERS)]
    return await cpu(asyncio.gather(*requests))
