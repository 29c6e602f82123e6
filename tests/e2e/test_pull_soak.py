"""
Many agents, a server that is killed again and again, a network that loses answers.

As large as it can be, by hand, with `pytest -s`:
RECONCILER_TEST_AGENTS=200 RECONCILER_TEST_TASKS=2000 RECONCILER_TEST_KILLS=20
"""

import asyncio
import os
import time
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from reconciler.api.tokens import new_token
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.worker_logs import AgentLogs
from reconciler.worker.client import ApiClient
from reconciler.worker.job import JobConfig
from reconciler.worker.worker import Worker
from tests.e2e.lossy_proxy import Proxy

AGENTS = int(os.environ.get("RECONCILER_TEST_AGENTS", "20"))
TASKS = int(os.environ.get("RECONCILER_TEST_TASKS", "60"))
KILLS = int(os.environ.get("RECONCILER_TEST_KILLS", "3"))
DROPS = float(os.environ.get("RECONCILER_TEST_DROPS", "5"))
"""Percent of the answers that are lost."""


class Books:
    """What was acknowledged to the agents."""

    def __init__(self) -> None:
        self.runs = {}
        """By task and epoch, as dequeued."""
        self.started = set()
        self.ended = {}
        self.logged = Counter()
        self.retries = 0
        self._news = asyncio.Event()

    def end(self, held, status) -> None:
        self.ended[held] = status
        self._news.set()

    async def reach(self, number) -> None:
        """Wait until so many tasks were reported on."""
        while len(self.ended) < number:
            self._news.clear()
            await self._news.wait()


class BookKeeper(ApiClient):
    """A client that books what is acknowledged to it."""

    def __init__(self, url, token, books) -> None:
        super().__init__(url, token, tries=None, pause=self._try_again)
        self._books = books

    async def _try_again(self, seconds):
        self._books.retries += 1
        await asyncio.sleep(seconds)

    async def dequeue(self, request):
        lease = await super().dequeue(request)
        if lease is not None:
            self._books.runs[lease.task, lease.epoch] = lease.lease
        return lease

    async def start(self, task, epoch):
        progress = await super().start(task, epoch)
        self._books.started.add((task, epoch))
        return progress

    async def log(self, task, epoch, offset, data):
        kept = await super().log(task, epoch, offset, data)
        self._books.logged[task, epoch] = kept
        return kept

    async def status(self, task, request):
        progress = await super().status(task, request)
        self._books.end((task, request.epoch), request.status)
        return progress


@pytest.fixture
def tokens(playground):
    """Make a fleet with so many agents and tasks; return the tokens."""
    names = [f"agent{number}" for number in range(AGENTS)]
    made = dict(new_token(name, lambda size: os.urandom(size).hex()) for name in names)
    for name, digest in zip(names, made.values(), strict=True):
        playground.write(f"specs/agents/{name}.yaml", f"token_hash: {digest}\n")
    playground.write("specs/fleet.yaml", "lease: 10m\nexecution_mode: http_pull\n")
    for number in range(TASKS):
        playground.task(f"t{number}", f"goal: Be done once, as number {number}.\n")
    playground.commit()
    return list(made)


@pytest.mark.slow
@pytest.mark.timeout(60 + 2 * TASKS + 60 * KILLS)
async def test_everything_is_done_once_and_what_was_acknowledged_is_on_record(playground, tokens, tmp_path):
    (tmp_path / "effects").mkdir()
    books, served, began = Books(), playground.served(), time.monotonic()
    command = f'echo "$RECONCILER_RUN" >>{tmp_path}/effects/"$RECONCILER_TASK"; echo "as $RECONCILER_RUN"'

    async def kill_again_and_again():
        for number in range(1, KILLS + 1):
            await books.reach(number * TASKS // (KILLS + 1))
            await served.crash()

    def worker(number, client):
        return Worker(
            client=client,
            means=JobConfig(command=command, clones=False, say=lambda _: None),
            state=tmp_path / f"agents/{number}",
            workdir=tmp_path / f"runs/{number}",
            draw=lambda: os.urandom(12).hex(),
        )

    try:
        await served.start()
        async with Proxy(served.url, DROPS) as proxy, AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(BookKeeper(proxy.url, token, books)) for token in tokens
            ]
            async with asyncio.TaskGroup() as group:
                agents = [
                    group.create_task(worker(number, client).run()) for number, client in enumerate(clients)
                ]
                await group.create_task(kill_again_and_again())
                await books.reach(TASKS)
                for agent in agents:
                    agent.cancel()
        seconds = time.monotonic() - began
    finally:
        served.end()

    record = [
        line.split("\t")
        for line in playground.sh(
            "git log --reverse --format='%s%x09%(trailers:key=Run,valueonly,separator=)' fleet-state"
        ).splitlines()
    ]
    of_task = Counter(subject for subject, _ in record)
    tasks = {f"t{number}" for number in range(TASKS)}
    runs = {task: run for (task, _), run in books.runs.items()}
    effects = {file.name: file.read_text().split() for file in (tmp_path / "effects").iterdir()}
    logs = AgentLogs(LogFolder(playground.root / "data/logs"))

    # Each is done once, and to its end.
    assert effects == {task: [runs[task]] for task in tasks}
    assert {task for task, _ in books.ended} == {task for task, _ in books.runs} == tasks
    assert set(books.ended.values()) == {"completed"}
    assert {of_task[f"task {task}: running → completed"] for task in tasks} == {1}
    # What was acknowledged is on record.
    on_record = {(subject, run) for subject, run in record if run}
    assert on_record >= {(f"task {task}: created → assigned", run) for task, run in runs.items()}
    assert on_record >= {
        (f"task {task}: assigned → running", books.runs[task, epoch]) for task, epoch in books.started
    }
    assert on_record >= {(f"task {task}: running → completed", run) for task, run in runs.items()}
    assert all(logs.size(books.runs[held]) >= kept for held, kept in books.logged.items())
    assert {logs.size(run) for run in runs.values()} <= {len(f"as {run}\n") for run in runs.values()}
    # The record is sound.
    assert playground.sh("git fsck --full --strict 2>&1 | grep -v dangling || true") == ""
    assert playground.sh("git rev-list --min-parents=2 fleet-state") == ""
    assert len(playground.sh("git rev-list --max-parents=0 fleet-state").split()) == 1
    told = f"{AGENTS} agents, {TASKS} tasks, {KILLS} kills: {seconds:.0f} s, {len(record)} commits"
    more = f"{proxy.answers} answers, {proxy.dropped} of them dropped, {books.retries} retries"
    print(f"\n{told}, {more}")  # noqa: T201 - for who runs it by hand
