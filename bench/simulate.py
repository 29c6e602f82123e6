"""
Simulate a day of a fleet: the real core, controller and store, in virtual time.

    python -m bench.simulate --hosts 1000 --tasks 100000 [--seed 1] [--json FILE]

Hosts, agents, people and the forge are simulated; so are the specs, which are
handed to the controller as values. The record is a real branch in a real git
repository, each step a durable commit. The same seed gives the same commits, to
the id of the last. Time of the day matters: most tasks come in the afternoon, at
nine o'clock one repo asks for a twentieth of the day's tasks at once, and from
ten o'clock on a fifth of the hosts cannot be reached for ten minutes. SIGTERM
ends it early, with a report of what was simulated.
"""

import argparse
import asyncio
import cProfile
import hashlib
import json
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, cast
from unittest.mock import patch

from bench.virtual import Turn, VirtualTime
from reconciler.controller import ports as controller_ports
from reconciler.controller.build import build_loop
from reconciler.controller.cache import FleetCache
from reconciler.controller.loop import Loop
from reconciler.controller.ports import ControllerSettings, Emit, NoMeter, Ports, Step
from reconciler.controller.shards import ShardedSpecs
from reconciler.core.adapter import Adapter
from reconciler.core.errors import Unavailable
from reconciler.core.events import RunEnded, RunSeen, WorkerReport
from reconciler.core.lifecycle import Transition
from reconciler.core.model.forge import ForgeView, Hint, PullRequestSnapshot
from reconciler.core.model.runs import Claim, FailureClass, Report, RunRequest, Verdict
from reconciler.core.model.specs import (
    Agent,
    Desired,
    FleetSpec,
    Forge,
    Host,
    Repo,
    ShardSpec,
    Task,
    TaskSpec,
    work_id,
)
from reconciler.core.model.status import HostCli, HostStatus, LeaseRequest, Phase, Status
from reconciler.core.names import DEFAULT_SHARD, state_branch_of
from reconciler.core.planning import placement
from reconciler.core.runs.retention import Retention
from reconciler.git.repository import Repository
from reconciler.store.bot_commits import bot_git
from reconciler.store.high_water import HighWaterMarks
from reconciler.store.owners import OwnersBranch
from reconciler.store.state import StateBranch

START = datetime(2030, 1, 1, tzinfo=UTC)
DONE = Report(verdict=Verdict(outcome="success", text="done"), head_commit="f" * 40, commits=1)
FAILED = Report(verdict=Verdict(outcome="failed", kind=FailureClass.AGENT, message="it gave up"))
SHELL = Adapter(name="script", command=("{shell}", "-c", "{script}"))


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is simulated."""

    seed: int = 1
    hosts: int = 1000
    tasks: int = 1_000_000
    """In the whole day."""
    begin: float = 0.0
    """Hour of the day."""
    hours: float = 24.0
    """How long it is simulated."""
    tick: float = 1.0
    """Seconds that a look of the controller takes in virtual time: what happens meanwhile comes together."""
    slots: int = 1
    """Of each host."""
    wide: float = 0.0
    """Share of the tasks for hosts that take all slots of one."""
    policy: str = "spread"
    """Which of the hosts that fit is taken: `spread` is ours, `pack` the fullest, `name` the first."""
    busy: float = 0.6
    """Share of the slots that are taken, over the day; how long runs last follows from it."""
    repos: int = 20
    workers: int = 20
    pulled: float = 0.02
    """Share of the tasks that workers take over HTTP."""
    reviewed: float = 0.2
    """Share of the others that end in a pull request, which people merge."""
    failing: float = 0.03
    """Share of the runs that fail."""
    keep: float = 1800.0
    """Seconds until the spec of a settled task is removed."""
    flood: float = 0.05
    """Share of the tasks for which one repo asks at nine o'clock."""
    away: float = 0.2
    """Share of the hosts that cannot be reached for ten minutes at ten o'clock."""
    shards: int = 0
    """Reconcilers that share the fleet, by a remote; with 0 it is one, and there is no remote."""

    @property
    def shard_names(self) -> Sequence[str]:
        """The names of the shards; the first is the one without a name."""
        return DEFAULT_SHARD, *(f"s{number}" for number in range(1, self.shards))

    @property
    def run_seconds(self) -> float:
        """How long a run lasts, on average."""
        return self.busy * self.hosts * self.slots * 86_400 / self.tasks


def chance(*what: object) -> float:
    """Return a number from 0 to below 1 that depends on nothing but the arguments."""
    digest = hashlib.blake2b("/".join(map(str, what)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def exponential(mean: float, *what: object) -> float:
    """Return a time that is exponentially distributed, and depends on nothing but the arguments."""
    return -mean * math.log(1 - chance(*what))


# --- What people ask for -------------------------------------------------------


class _Like(NamedTuple):
    """What many tasks have in common."""

    repo: str
    is_pulled: bool
    is_reviewed: bool
    needs_gpu: bool
    priority: int
    slots: int


class People:
    """People who push specs each minute, and remove those that are done with: the port `Specs`."""

    def __init__(self, scenario: Scenario, world: VirtualTime) -> None:
        self.scenario, self.world = scenario, world
        forge = "http://127.0.0.1:1/api/v1"
        repos = {
            f"r{n}": Repo(name=f"r{n}", url=f"/r{n}", forge=Forge(api=forge, repo=f"o/r{n}"))
            for n in range(scenario.repos)
        }
        hosts = {
            f"h{n:04}": Host(
                name=f"h{n:04}",
                address="x",
                slots=scenario.slots,
                labels=("gpu",) if n % 10 == 0 else (),
                shard=scenario.shard_names[n // 10 % len(scenario.shard_names)],
            )
            for n in range(scenario.hosts)
        }
        agents = {f"w{n}": Agent(name=f"w{n}", token_hash=("x",)) for n in range(scenario.workers)}
        self.desired = Desired(
            revision="0" * 40,
            fleet=FleetSpec(
                lease=timedelta(hours=1),
                keep_failed=timedelta(hours=1),
                shards={name: ShardSpec(tasks=(name,)) for name in scenario.shard_names[1:]},
            ),
            repos=repos,
            hosts=hosts,
            agents=agents,
            adapters={"script": SHELL},
        )
        self.settled: list[tuple[datetime, str]] = []
        """Tasks that are done with, in order."""
        self.asked = 0
        self.asked_at: dict[str, datetime] = {}
        """Of each task, in a fleet of shards."""
        self.pushes = 0
        self._templates: dict[_Like, Task] = {}
        self.readers: list[Callable[[], None]] = []
        """Called after each push."""

    async def read(self, statuses: Mapping[str, Status]) -> Desired:
        return self.desired

    async def recall(self, name: str, generation: str) -> Task | None:
        return None

    def push_each_minute(self) -> None:
        """Push what this minute asks for, and go on in a minute."""
        new = list(self._new_tasks())
        until, gone = self.world.now - timedelta(seconds=self.scenario.keep), set[str]()
        while len(gone) < len(self.settled) and self.settled[len(gone)][0] <= until:
            gone.add(self.settled[len(gone)][1])
        del self.settled[: len(gone)]
        if new or gone:
            tasks = {name: task for name, task in self.desired.tasks.items() if name not in gone}
            tasks |= {task.name: task for task in new}
            self.pushes += 1
            self.desired = replace(self.desired, revision=f"{self.pushes:040x}", tasks=tasks)
            for tell in self.readers:
                tell()
        self.world.after(60, self.push_each_minute)

    def _new_tasks(self) -> Iterator[Task]:
        minute = round((self.world.now - START) / timedelta(minutes=1))
        flood = round(self.scenario.flood * self.scenario.tasks) if minute == 9 * 60 else 0
        share = (1 - self.scenario.flood) / 1440
        weight = 1 + 0.6 * math.sin((minute / 1440 - 0.375) * 2 * math.pi)  # most at three in the afternoon
        wanted = self.scenario.tasks * share * weight
        count = math.floor(wanted) + (chance(self.scenario.seed, "count", minute) < wanted % 1)
        for number in range(count + flood):
            self.asked += 1
            yield self._task(minute, number, "r0" if number >= count else None)

    def _task(self, minute: int, number: int, repo: str | None) -> Task:
        seed, name = self.scenario.seed, f"h{minute // 60:02}/m{minute % 60:02}/t{number:05}"
        if shards := self.scenario.shards:
            name = f"s{math.floor(shards * chance(seed, name, 'shard'))}/{name}"
            self.asked_at[name] = self.world.now
        repo = repo or f"r{math.floor(self.scenario.repos * chance(seed, name, 'repo') ** 2)}"
        is_pulled = chance(seed, name, "mode") < self.scenario.pulled
        is_reviewed = not is_pulled and chance(seed, name, "review") < self.scenario.reviewed
        needs_gpu = not is_pulled and chance(seed, name, "gpu") < 0.05
        priority = 5 if chance(seed, name, "urgent") < 0.05 else 0
        is_wide = not is_pulled and chance(seed, name, "wide") < self.scenario.wide
        slots = self.scenario.slots if is_wide else 1
        key = _Like(repo, is_pulled, is_reviewed, needs_gpu, priority, slots)
        template = self._templates.get(key) or self._templates.setdefault(key, _template(key))
        generation = hashlib.sha1(name.encode()).hexdigest()
        return template.model_copy(update={"name": name, "generation": generation, "work": generation[:12]})


def _template(like: _Like) -> Task:
    spec = TaskSpec.model_validate(
        {
            "goal": "Do it.",
            "repo": like.repo,
            "script": None if like.is_pulled else "true",
            "execution_mode": "http_pull" if like.is_pulled else "ssh_cli",
            "review": "pull_request" if like.is_reviewed else "none",
            "requires": ("gpu",) if like.needs_gpu else (),
            "priority": like.priority,
            "slots": like.slots,
            "retries": 2,
        }
    )
    return Task(**dict(spec), name="t", generation="0" * 40, work=work_id(spec))


# --- Hosts ---------------------------------------------------------------------


class Hosts:
    """Hosts that carry out runs, slower and faster ones; some are away for a while: `Dispatch`, `Prober`."""

    def __init__(self, scenario: Scenario, world: VirtualTime) -> None:
        self.scenario, self.world = scenario, world
        self.is_away = False
        self.calls: Counter[str] = Counter()
        self.calls_by_second: dict[str, Counter[int]] = defaultdict(Counter)
        self.used: Counter[str] = Counter()
        self.busy_seconds = 0.0
        self.twice: set[tuple[str, int]] = set()
        """Runs that were started more than once, which none should be."""
        self._started: set[tuple[str, int]] = set()
        self._following: dict[tuple[str, int], Emit] = {}
        self._ends: dict[tuple[str, int], Report] = {}

    def out_of_reach(self, host: str) -> bool:
        return self.is_away and chance(self.scenario.seed, host, "away") < self.scenario.away

    def begin_outage(self) -> None:
        self.is_away = True
        self.world.after(600, self._end_outage)

    def _end_outage(self) -> None:
        self.is_away = False

    def _count(self, call: str) -> None:
        self.calls[call] += 1
        self.calls_by_second[call][round(self.world.seconds())] += 1

    async def _answer(self, host: str, call: str, seconds: float) -> None:
        """Take the time of a call. Raises Unavailable, after a while, if the host cannot be reached."""
        self._count(call)
        if self.out_of_reach(host):
            await self.world.sleep(10)
            raise Unavailable(f"host {host}: no answer")
        await self.world.sleep(seconds)

    # --- Dispatch ---

    @property
    def agent_over(self) -> frozenset[str]:
        """Deliver at once: no run waits for a repository."""
        return frozenset()

    @property
    def followed(self) -> frozenset[tuple[str, int]]:
        return frozenset(self._following)

    @property
    def retry_reasons(self) -> Mapping[str, str]:
        return {}

    def follow(self, order: RunRequest, emit: Emit) -> None:
        self._count("starts")
        if order.key in self._started:
            self.twice.add(order.key)
        self._started.add(order.key)
        self._following[order.key] = emit
        seed = self.scenario.seed
        speed = 0.5 + chance(seed, order.host.name, "speed")
        length = exponential(self.scenario.run_seconds, seed, *order.key) * speed
        report = FAILED if chance(seed, *order.key, "fails") < self.scenario.failing else DONE
        began = self.world.now + timedelta(seconds=0.2 + chance(seed, *order.key, "start"))
        self.used[order.host.name] += 1
        self.busy_seconds += length
        self.world.at(began, lambda: self._seen(order))
        self.world.at(began + timedelta(seconds=length), lambda: self._end(order, report))

    def _seen(self, order: RunRequest) -> None:
        if self.out_of_reach(order.host.name):
            self.world.after(30, lambda: self._seen(order))
        elif emit := self._following.get(order.key):
            emit(RunSeen(task=order.task, run=order.run, round=order.round, at=self.world.now))

    def _end(self, order: RunRequest, report: Report) -> None:
        if self.out_of_reach(order.host.name):
            self.world.after(30, lambda: self._end(order, report))
        elif emit := self._following.pop(order.key, None):
            self.used[order.host.name] -= 1
            emit(
                RunEnded(task=order.task, run=order.run, round=order.round, at=self.world.now, report=report)
            )

    def stop(self, order: RunRequest, why: str, emit: Emit) -> None:
        self._count("stops")
        self._following[order.key] = emit
        verdict = Verdict(outcome="failed", kind=FailureClass.CANCELLED, message=why)
        self.world.after(1, lambda: self._end(order, Report(verdict=verdict)))

    async def sweep(self, host: Host, needs: Callable[[], Retention]) -> None:
        await self._answer(host.name, "sweeps", 0.5)
        needs()

    async def reach(self, repo: Repo) -> None:
        await self.world.sleep(0.3)

    async def merged(self, repo: Repo, heads: Collection[str]) -> frozenset[str]:
        await self.world.sleep(0.3)
        return frozenset()

    async def verify(self, assignment: Any, claim: Claim) -> Report:
        await self.world.sleep(0.5)
        return DONE.model_copy(update={"verdict": DONE.verdict.model_copy(update={"text": claim.result})})

    async def close(self) -> None:
        self._following.clear()

    # --- Prober ---

    async def probe(
        self, host: Host, adapters: Mapping[str, Adapter], before: HostStatus | None
    ) -> tuple[HostStatus, float | None]:
        try:
            await self._answer(host.name, "probes", 0.2)
        except Unavailable as error:
            since = before.since if before and not before.reachable else self.world.now
            return HostStatus(reachable=False, since=since, message=str(error)), None
        since = before.since if before and before.reachable else self.world.now
        clis = {name: HostCli(path=f"/bin/{name}", ok=True) for name in adapters}
        status = HostStatus(reachable=True, since=since, os="Linux", git="2.39.5", adapters=clis)
        return status, round(self.used[host.name] / max(host.slots, 1), 1)


class Workers:
    """Outside agents that ask for a task, do it and report it."""

    def __init__(self, scenario: Scenario, world: VirtualTime, loop: Loop) -> None:
        self.scenario, self.world, self.loop = scenario, world, loop
        self.done = 0

    async def work(self, agent: str) -> None:
        """Work until cancelled."""
        leases, number = self.loop.controllers.leases, 0
        while True:
            number += 1
            asked = LeaseRequest(agent=agent, request_key=str(number))
            try:
                task = await leases.acquire(asked, timedelta())
                if task is None:
                    await self.world.sleep(20 + 10 * chance(self.scenario.seed, agent, number))
                    continue
                epoch = (await leases.assignment(task)).epoch
                await leases.submit(WorkerReport(task=task, agent=agent, epoch=epoch, at=self.world.now))
                await self.world.sleep(exponential(60, self.scenario.seed, agent, number, "work"))
                claim = Claim(outcome="completed", result="done")
                report = WorkerReport(task=task, agent=agent, epoch=epoch, at=self.world.now, claim=claim)
                await leases.submit(report)
                self.done += 1
            except Unavailable:
                await self.world.sleep(5)


class Forges:
    """A forge with people who merge after a while, and webhooks: the port `Forges`."""

    def __init__(self, scenario: Scenario, world: VirtualTime) -> None:
        self.scenario, self.world = scenario, world
        self.pull_requests: dict[tuple[str, str], PullRequestSnapshot] = {}
        self.calls: Counter[str] = Counter()
        self.hooks: list[Callable[[Hint], None]] = []
        """Where webhooks go."""

    async def whoami(self, forge: Forge) -> str:
        return "bot"

    async def pulls(
        self, forge: Forge, branches: Collection[str], fresh: Collection[int], *, refreshes: bool = True
    ) -> Mapping[str, PullRequestSnapshot]:
        self.calls["pulls"] += 1
        await self.world.sleep(0.2)
        places = ((branch, self.pull_requests.get((forge.repo, branch))) for branch in branches)
        return {branch: pull for branch, pull in places if pull}

    async def show(self, forge: Forge, want: ForgeView) -> PullRequestSnapshot | None:
        self.calls["show"] += 1
        place = forge.repo, want.branch
        if want.opens and place not in self.pull_requests:
            number = len(self.pull_requests) + 1
            self.pull_requests[place] = PullRequestSnapshot(
                number=number,
                url=f"http://127.0.0.1/{number}",
                title=want.title,
                body=want.body,
                author="bot",
                branch=want.branch,
                base=want.base,
                head="f" * 40,
                pusher="bot",
                mergeable=True,
                updated_at=self.world.now,
            )
            wait = exponential(600, self.scenario.seed, want.task, "merge")
            self.world.after(wait, lambda: self._merge(place))
        return self.pull_requests.get(place)

    def _merge(self, place: tuple[str, str]) -> None:
        pull = self.pull_requests[place]
        self.pull_requests[place] = replace(
            pull, state="closed", is_merged=True, by="ann", updated_at=self.world.now
        )
        repo = place[0].removeprefix("o/")
        hint = Hint(
            delivery=f"d{pull.number}",
            event="pull_request",
            place=place[0],
            repos=(repo,),
            pull=pull.number,
        )
        for hook in self.hooks:
            hook(hint)

    async def issues(self, forge: Forge, label: str) -> None:
        return None

    async def branch_head(self, forge: Forge, branch: str) -> str | None:
        return "f" * 40


# --- What is measured ----------------------------------------------------------


class Journal(NoMeter):
    """What happened to tasks, from the steps on record; and what the controller spent on it."""

    def __init__(self, people: People, world: VirtualTime) -> None:
        self.people, self.world = people, world
        self.waits: dict[str, list[float]] = defaultdict(list)
        """Seconds from a task's creation to its first run, by repo."""
        self.waits_by_hour: dict[int, list[float]] = defaultdict(list)
        self.waits_by_width: dict[str, list[float]] = defaultdict(list)
        self.phases: Counter[str] = Counter()
        """Tasks that ended in each."""
        self.steps = 0
        self.looks = 0
        self.commits: list[tuple[int, float]] = []
        self.live = 0
        self.most_live = 0
        self._is_live: set[str] = set()
        self.progress: Callable[[], None] = lambda: None

    def step(self, step: Step) -> None:
        """Take note of a step on record."""
        self.steps += 1
        if not isinstance(step, Transition) or step.after is None:
            return
        before, after, now = step.before, step.after, self.world.now
        if after.phase is Phase.ASSIGNED and before and before.phase is Phase.CREATED and after.attempt == 1:
            waited = (after.since - after.created_at).total_seconds()
            self.waits[after.run.repo or "" if after.run else ""].append(waited)
            self.waits_by_hour[self.world.now.hour].append(waited)
            width = "all slots of a host" if after.run and after.run.slots > 1 else "one slot"
            self.waits_by_width[width].append(waited)
        (self._is_live.add if after.phase.is_live else self._is_live.discard)(step.task)
        self.most_live = max(self.most_live, len(self._is_live))
        if after.phase.is_settled and not after.removed and not (before and before.phase.is_settled):
            self.phases[after.phase] += 1
            self.people.settled.append((now, step.task))

    def look(self, seconds: float, outcome: str) -> None:
        self.looks += 1

    def commit(self, steps: int, seconds: float, outcome: str) -> None:
        self.commits.append((steps, seconds))


@dataclass
class Spent:
    """CPU and wall clock of a function, by calls."""

    cpu: float = 0.0
    wall: float = 0.0
    samples: list[float] = field(default_factory=list)

    def over(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any) -> Any:
            began, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*args)
            finally:
                self.samples.append(time.perf_counter() - began)
                self.wall += self.samples[-1]
                self.cpu += time.process_time() - cpu

        return measured


_SCORES: Mapping[str, Callable[[str, int, float], float]] = {
    "spread": lambda host, free, load: free - load,
    "pack": lambda host, free, load: -free - load,
    "name": lambda host, free, load: 0.0,
}


def _candidates(policy: str) -> Callable[..., placement.Candidate]:
    """Return how the controller makes a candidate of a host, with the score of a policy."""
    score = _SCORES[policy]

    def candidate(host: str, _: float, free: int, weight: float, load: float) -> placement.Candidate:
        return _CANDIDATE(host, score(host, free, load), free, weight, load)

    return candidate


_CANDIDATE = placement.Candidate


async def simulate(scenario: Scenario, folder: Path, *, verbose: bool = False) -> dict[str, Any]:
    """Simulate a day in a repository in `folder`; return what was measured."""
    with patch.object(placement, "Candidate", _candidates(scenario.policy)):
        return await _simulate(scenario, folder, verbose=verbose)


async def _simulate(scenario: Scenario, folder: Path, *, verbose: bool) -> dict[str, Any]:
    begin = START + timedelta(hours=scenario.begin)
    world = VirtualTime(begin, timedelta(seconds=scenario.tick))
    world.end = begin + timedelta(hours=scenario.hours)
    people, hosts, forges = People(scenario, world), Hosts(scenario, world), Forges(scenario, world)
    journal = Journal(people, world)
    outside = _Outside(scenario, world, folder, people, hosts, forges, journal)
    init_repository(folder, is_remote=scenario.shards > 0)
    parts = [await reconciler(outside, name) for name in scenario.shard_names]
    loops = [part.loop for part in parts]
    people.readers += [loop.inbox.notify for loop in loops]
    forges.hooks += [loop.controllers.pulls.notify for loop in loops]
    for loop in loops:
        world.at_end.append(loop.stop)
    world.at(begin, people.push_each_minute)
    if scenario.begin < 10:
        world.at(START + timedelta(hours=10), hosts.begin_outage)
    if verbose:
        world.at(begin, lambda: _tell(world, people, journal, parts, time.perf_counter()))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, world.end_now)
    workers = [Workers(scenario, world, loop) for loop in loops]
    began, cpu = time.perf_counter(), time.process_time()
    runs = [asyncio.create_task(part.turn.run(part.loop.run)) for part in parts]
    await world.hand_on()
    tasks = [
        asyncio.create_task(workers[number % len(workers)].work(name))
        for number, name in enumerate(people.desired.agents)
    ]
    await asyncio.gather(*runs)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    heads = {part.name: part.state.head for part in parts}
    for part in parts:
        await part.state.close()
        await part.repository.close()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    plans = [sample for part in parts for sample in part.planner.samples]
    return {
        "scenario": asdict(scenario),
        "until": world.now.isoformat(),
        "asked": people.asked,
        "ended": dict(sorted(journal.phases.items())),
        "open at the end": sum(len(part.cache.open) for part in parts),
        "commits": journal.steps,
        "head": heads[DEFAULT_SHARD],
        "most live runs": journal.most_live,
        "pushes of specs": people.pushes,
        "calls": {**hosts.calls, **forges.calls},
        "most calls in a second": {
            call: max(seconds.values()) for call, seconds in sorted(hosts.calls_by_second.items())
        },
        "waited": {repo: _spread(waits) for repo, waits in sorted(journal.waits.items())},
        "waited, by width": {width: _spread(waits) for width, waits in journal.waits_by_width.items()},
        "waited, by hour": {hour: _spread(waits) for hour, waits in sorted(journal.waits_by_hour.items())},
        "looks": journal.looks,
        "run seconds": round(hosts.busy_seconds),
        "runs started twice": len(hosts.twice),
        "shards": _of_shards(people, parts, heads) if scenario.shards else {},
        "cost": {
            "wall": wall,
            "cpu": cpu,
            "git cpu": children.ru_utime + children.ru_stime,
            "planner cpu": sum(part.planner.cpu for part in parts),
            "plans": len(plans),
            "plan ms": _spread([sample * 1000 for sample in plans]),
            "commit ms": _spread([seconds for _, seconds in journal.commits]),
            "repository bytes": _size(folder),
            "peak memory MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        },
    }


def _of_shards(
    people: People, parts: Sequence["Reconciler"], heads: Mapping[str, str | None]
) -> Mapping[str, Any]:
    """Return what each shard did, how many tasks several had, and how many nobody had."""
    owners = Counter(name for part in parts for name in part.tasks)
    by = people.world.now - 10 * people.world.tick  # who was asked for later may not have been read
    return {
        "each": {
            part.name: {
                "tasks": len(part.tasks),
                "commits": part.steps,
                "planner cpu": part.planner.cpu,
                "head": heads[part.name],
            }
            for part in parts
        },
        "tasks of several": sum(count > 1 for count in owners.values()),
        "tasks of nobody": sum(at <= by and name not in owners for name, at in people.asked_at.items()),
    }


# --- A reconciler --------------------------------------------------------------


@dataclass(frozen=True)
class _Outside:
    """What reconcilers work with that is simulated, and where their repositories are."""

    scenario: Scenario
    world: VirtualTime
    folder: Path
    people: People
    hosts: Hosts
    forges: Forges
    journal: Journal


@dataclass
class Reconciler:
    """A reconciler of the fleet, or of a shard of it: real, but for what is outside."""

    name: str
    turn: Turn
    repository: Repository
    state: StateBranch
    cache: FleetCache
    loop: Loop
    planner: Spent = field(default_factory=Spent)
    steps: int = 0
    tasks: set[str] = field(default_factory=set)
    """That it has put on record, in a fleet of shards."""

    def step(self, step: Step) -> None:
        """Take note of a step on record."""
        self.steps += 1
        if isinstance(step, Transition):
            self.tasks.add(step.task)


class FetchedSpecs:
    """The specs of the whole fleet; who reads new ones has fetched what other shards took by then."""

    def __init__(self, people: People, repository: Repository) -> None:
        self._people, self._repository = people, repository
        self._revision = ""

    async def read(self, statuses: Mapping[str, Status]) -> Desired:
        desired = await self._people.read(statuses)
        if desired.revision != self._revision:
            await self._repository.fetch()
            self._revision = desired.revision
        return desired

    async def recall(self, name: str, generation: str) -> Task | None:
        return await self._people.recall(name, generation)


def init_repository(folder: Path, *, is_remote: bool) -> None:
    """Make the repository of a fleet; one that is cloned has a commit."""
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", folder], check=True)
    if is_remote:
        who = ("-c", "user.name=ann", "-c", "user.email=ann@example.org")
        tree = subprocess.check_output(["git", "mktree"], cwd=folder, stdin=subprocess.DEVNULL, text=True)
        commit = ("git", *who, "commit-tree", "-m", "Begin", tree.strip())
        head = subprocess.check_output(commit, cwd=folder, text=True).strip()
        subprocess.run(["git", "update-ref", "refs/heads/main", head], cwd=folder, check=True)
        # Else it tidies up beside the pushes, and now and then one of them is refused for that.
        subprocess.run(["git", "config", "receive.autogc", "false"], cwd=folder, check=True)


async def reconciler(outside: _Outside, name: str) -> Reconciler:
    """Build the reconciler of a shard; of a fleet without shards, the only one."""
    scenario, world, folder, cache = outside.scenario, outside.world, outside.folder, FleetCache()
    place = f"file://{folder}" if scenario.shards else str(folder)
    data = folder.with_name(f"{folder.name}-{name}")
    repository = await Repository.open(place, data)
    state_branch, marks = "fleet-state", HighWaterMarks(repository, data) if scenario.shards else None
    specs: Any = outside.people
    registry: OwnersBranch | None = None
    if marks is not None:
        registry = OwnersBranch(
            repository, state_branch, name, committer=bot_git(repository.git), marks=marks
        )
        fetched = FetchedSpecs(outside.people, repository)
        specs = ShardedSpecs(fetched, registry, name, lambda: state.damaged)
    state = await StateBranch.open(
        repository,
        state_branch_of(state_branch, name),
        token=lambda: f"{scenario.seed:012x}",
        clock=world,
        revision=lambda: cache.desired.revision,
        marks=marks,
        elsewhere=registry.past_attempts if registry else None,
    )
    turn = world.join()
    ports = Ports(
        specs=specs,
        state=state,
        # The rest of both is for settings that this fleet has not.
        dispatch=cast("controller_ports.Dispatch", outside.hosts),
        prober=outside.hosts,
        forges=cast("controller_ports.Forges", outside.forges),
        clock=world,
        monotonic=world.seconds,
        pause=turn.pause,
        meter=outside.journal,
    )
    part = Reconciler(name, turn, repository, state, cache, build_loop(cache, ports, ControllerSettings()))
    part.loop.listeners.steps.append(outside.journal.step)
    if scenario.shards:
        part.loop.listeners.steps.append(part.step)
    _measure_plans(cache, part.planner)
    return part


def _measure_plans(cache: FleetCache, planner: Spent) -> None:
    """Measure every plan, also those of the planner that takes this one's place when a record is loaded."""
    forget = cache.forget

    def forget_and_measure() -> None:
        forget()
        cache.planner.plan = planner.over(cache.planner.plan)  # type: ignore[method-assign]

    cache.forget = forget_and_measure  # type: ignore[method-assign]


def _tell(
    world: VirtualTime, people: People, journal: Journal, parts: Sequence[Reconciler], began: float
) -> None:
    wall = time.perf_counter() - began
    sys.stderr.write(
        f"{world.now:%H:%M}  {wall:7.0f} s  asked {people.asked:>8,}  "
        f"ended {sum(journal.phases.values()):>8,}  commits {journal.steps:>9,}  "
        f"planner {sum(part.planner.cpu for part in parts):6.1f} s CPU of {time.process_time():6.1f}\n"
    )
    world.after(600, lambda: _tell(world, people, journal, parts, began))


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    at = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    quantiles = {
        name: ordered[min(int(len(ordered) * share), len(ordered) - 1)] for name, share in at.items()
    }
    return {"count": len(ordered), "mean": statistics.fmean(ordered), **quantiles, "max": ordered[-1]}


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description=__doc__)
    for name, default in asdict(Scenario()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument(
        "--folder", help="where the repository is made; on a disk its syncs take most of the time"
    )
    parser.add_argument("--json", metavar="FILE", help="write the whole report to a file")
    parser.add_argument("--profile", metavar="FILE", help="write a profile for pstats")
    if "PYTHONHASHSEED" not in os.environ:  # the order in which sets are walked
        os.execve(sys.executable, [*sys.orig_argv], {**os.environ, "PYTHONHASHSEED": "0"})
    options = vars(parser.parse_args())
    file, profile, place = options.pop("json"), options.pop("profile"), options.pop("folder")
    with (
        tempfile.TemporaryDirectory(prefix="bench-simulate-", dir=place) as folder,
        cProfile.Profile() if profile else nullcontext() as profiler,
    ):
        report = asyncio.run(simulate(Scenario(**options), Path(folder) / "fleet.git", verbose=True))
    if profiler:
        profiler.dump_stats(profile)
    if file:
        Path(file).write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(text(report)))


def text(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a report."""
    cost, asked = report["cost"], report["asked"]
    yield (
        f"asked {asked:,} until {report['until']}; ended {report['ended']}; "
        f"open at the end {report['open at the end']:,}"
    )
    yield f"commits {report['commits']:,}; most live runs {report['most live runs']:,}; head {report['head']}"
    yield f"calls {report['calls']}; most in a second {report['most calls in a second']}"
    yield (
        f"wall {cost['wall']:.0f} s; CPU {cost['cpu']:.0f} s, planner {cost['planner cpu']:.0f} s of it; "
        f"git's CPU {cost['git cpu']:.0f} s; "
        f"a task {cost['cpu'] / max(asked, 1) * 1e3:.2f} and {cost['git cpu'] / max(asked, 1) * 1e3:.2f} ms"
    )
    yield f"looks {report['looks']:,}; plans {cost['plans']:,}: {_in_words(cost['plan ms'])} ms"
    size = cost["repository bytes"]
    yield (
        f"repository {size / 1e6:.1f} MB, {size / max(report['commits'], 1):.0f} bytes a commit; "
        f"peak memory {cost['peak memory MiB']:.0f} MiB"
    )
    if report["shards"]:
        for name, shard in report["shards"]["each"].items():
            yield (
                f"shard {name}: {shard['tasks']:,} tasks, {shard['commits']:,} commits, "
                f"planner {shard['planner cpu']:.1f} s CPU, head {shard['head']}"
            )
        yield (
            f"runs started twice {report['runs started twice']}; tasks that several had "
            f"{report['shards']['tasks of several']}, that nobody had {report['shards']['tasks of nobody']}"
        )
    for repo, waits in report["waited"].items():
        yield f"waited for a run, {repo}: {_in_words(waits)} s"
    for width, waits in report["waited, by width"].items():
        yield f"waited for a run, {width}: {_in_words(waits)} s"
    for hour, waits in report["waited, by hour"].items():
        yield f"waited for a run, from {int(hour):02}:00: {_in_words(waits)} s"


def _in_words(spread: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:,.4g}" for name, value in spread.items())


if __name__ == "__main__":
    main()
