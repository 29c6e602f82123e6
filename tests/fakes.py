"""
Fakes of what the loop needs from the outside.

They keep what they are given in memory and pass the same contract tests as
the real ones (`tests/controller/test_contracts.py`).
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from reconciler.controller.ports import Emit, Step
from reconciler.core.adapter import Adapter, Usage
from reconciler.core.errors import Conflict, Unavailable
from reconciler.core.events import Assigned, RunEnded, RunSeen
from reconciler.core.hosts import HostChange
from reconciler.core.lifecycle import Transition
from reconciler.core.limits import with_expenses
from reconciler.core.model import (
    Assignment,
    Check,
    Claim,
    Desired,
    FailureClass,
    Host,
    HostCli,
    HostStatus,
    Order,
    Purse,
    Repo,
    Report,
    Status,
    Task,
    TaskSpec,
    Verdict,
    read_run_key,
    work_id,
)
from reconciler.core.needs import Needs
from reconciler.core.prompt import sha256

START = datetime(2030, 1, 1, 9, 0, tzinfo=UTC)
SUCCESS = Report(verdict=Verdict(outcome="success", text="done"), head_commit="f" * 40, commits=1)
FAILURE = Report(verdict=Verdict(outcome="failed", kind=FailureClass.AGENT, message="gave up"))
RED = Report(
    verdict=Verdict(outcome="success"),
    checks=(Check(command="make test", exit_code=2, seconds=0.1, output="1 failed"),),
)


def make_task(name: str, generation: str | None = None, **fields: object) -> Task:
    """Return a resolved task as the specs room would make it."""
    spec = TaskSpec.model_validate({"goal": f"Do {name}.", "script": "true", **fields})
    generation = generation or f"{abs(hash((name, spec.model_dump_json()))):040x}"
    return Task(**dict(spec), name=name, generation=generation, work=work_id(spec))


def make_desired(*tasks: Task, revision: str = "1" * 40, **fields: object) -> Desired:
    """Return a revision with these tasks, one local host and the built-in script adapter."""
    shell = Adapter(name="script", command=("{shell}", "-c", "{script}"))
    fields = {"hosts": {"local": Host(name="local")}, "adapters": {"script": shell}, **fields}
    return Desired(revision=revision, tasks={task.name: task for task in tasks}, **fields)


@dataclass
class FakeClock:
    """A clock that moves when there is nothing else to do."""

    time: datetime = START

    def __call__(self) -> datetime:
        self.time += timedelta(milliseconds=1)
        return self.time

    async def pause(self, news: asyncio.Event, longest: timedelta | None) -> None:
        """Let everybody else have a turn; if that brings no news, let the time pass."""
        for _ in range(5):
            await asyncio.sleep(0)
        if news.is_set():
            return
        if longest is None:
            await news.wait()
        else:
            self.time += max(longest, timedelta(0))


@dataclass
class FakeSpecs:
    """Specs that are what a test says."""

    desired: Desired = field(default_factory=Desired)
    broken: bool = False
    older: dict[tuple[str, str], Task] = field(default_factory=dict)

    def push(self, desired: Desired) -> None:
        """Make this the newest revision; what was there stays known by its generation."""
        self.older |= {(task.name, task.generation): task for task in self.desired.tasks.values()}
        self.desired = desired

    async def read(self, statuses: Mapping[str, Status]) -> Desired:
        if self.broken:
            raise Unavailable("the specs cannot be read")
        return self.desired

    async def recall(self, name: str, generation: str) -> Task | None:
        return self.older.get((name, generation))


@dataclass
class FakeProber:
    """Hosts that answer, but for those that a test takes away."""

    away: set[str] = field(default_factory=set)
    asked: list[tuple[str, frozenset[str]]] = field(default_factory=list)

    async def probe(
        self, host: Host, adapters: Mapping[str, Adapter], before: HostStatus | None
    ) -> tuple[HostStatus, float | None]:
        self.asked.append((host.name, frozenset(adapters)))
        reachable = host.name not in self.away
        since = before.since if before and before.reachable == reachable else START
        if not reachable:
            return HostStatus(reachable=False, since=since, message="no answer"), None
        clis = {name: HostCli(path=f"/bin/{name}", ok=True) for name in adapters}
        return HostStatus(reachable=True, since=since, os="Linux", git="2.39.5", adapters=clis), 0.5


@dataclass
class FakeState:
    """A state branch in memory."""

    statuses: dict[str, Status] = field(default_factory=dict)
    hosts: dict[str, HostStatus] = field(default_factory=dict)
    log: list[Transition] = field(default_factory=list)
    host_log: list[HostChange] = field(default_factory=list)
    moved: bool = False
    refuse: list[Exception] = field(default_factory=list)
    """What the next commits raise, first come first served."""
    counted: int = 0
    """How often the whole record was asked what was spent."""

    async def load(self) -> tuple[Mapping[str, Status], Mapping[str, HostStatus]]:
        self.moved = False
        return dict(self.statuses), dict(self.hosts)

    def has_moved(self) -> bool:
        return self.moved

    async def commit(self, steps: Sequence[Step]) -> None:
        if self.refuse:
            raise self.refuse.pop(0)
        for change in (step for step in steps if isinstance(step, HostChange)):
            self.hosts.pop(change.host, None)
            if change.after is not None:
                self.hosts[change.host] = change.after
            self.host_log.append(change)
        for step in (step for step in steps if isinstance(step, Transition)):
            old = getattr(step.event, "old", step.task)
            if self.statuses.get(old) != step.before:
                raise Conflict(f"{step.task} has moved on")
            self.statuses.pop(old, None)
            if step.after is not None:
                self.statuses[step.task] = step.after
            self.log.append(step)

    async def past_attempts(self, names: Collection[str]) -> Mapping[str, int]:
        keys = [read_run_key(step.event.run) for step in self.log if isinstance(step.event, Assigned)]
        return {key[0]: key[1] for key in keys if key and key[0] in names}

    async def spent(self, since: datetime) -> Mapping[Purse, Usage]:
        self.counted += 1
        return with_expenses({}, self.log, since)

    def phases(self, task: str) -> list[str]:
        """Return the phases a task went through, in order."""
        steps = [str(step.after.phase) for step in self.log if step.task == task and step.after]
        return [phase for at, phase in enumerate(steps) if at == 0 or steps[at - 1] != phase]


@dataclass
class FakeDispatch:
    """Hosts that do at once what a test says; what was started there survives the controller."""

    reports: dict[str, list[Report]] = field(default_factory=dict)
    """What comes of the rounds of a task, in order; after that, successes."""
    hold: bool = False
    """Runs are seen but do not end until `finish`."""
    started: dict[tuple[str, int], Order] = field(default_factory=dict)
    """Every round that was ever started on a host."""
    follows: list[Order] = field(default_factory=list)
    stopped: list[tuple[str, str]] = field(default_factory=list)
    swept: list[Needs] = field(default_factory=list)
    ended: dict[tuple[str, int], Report] = field(default_factory=dict)
    followed: frozenset[tuple[str, int]] = frozenset()
    on_base: set[str] = field(default_factory=set)
    """Commits that were merged."""
    looks: int = 0
    emits: dict[tuple[str, int], Emit] = field(default_factory=dict)

    def follow(self, order: Order, emit: Emit) -> None:
        self.follows.append(order)
        self.emits[order.key] = emit
        self.followed |= {order.key}
        if order.key not in self.started:
            self.started[order.key] = order
            emit(
                RunSeen(
                    task=order.task,
                    run=order.run,
                    round=order.round,
                    at=START,
                    prompt_sha256=sha256(order.prompt),
                )
            )
        if not self.hold or order.key in self.ended:
            self.finish(order)

    def finish(self, order: Order, report: Report | None = None) -> None:
        """Let a run end."""
        scripted = self.reports.get(order.task, [])
        if order.key not in self.ended:
            self.ended[order.key] = report or (scripted.pop(0) if scripted else SUCCESS)
        self.followed -= {order.key}
        self.emits[order.key](
            RunEnded(
                task=order.task, run=order.run, round=order.round, at=START, report=self.ended[order.key]
            )
        )

    def stop(self, order: Order, why: str, emit: Emit) -> None:
        self.stopped.append((order.run, why))
        self.emits[order.key] = emit
        cancelled = Verdict(outcome="failed", kind=FailureClass.CANCELLED, message=why)
        self.finish(order, Report(verdict=cancelled))

    async def sweep(self, host: Host, needs: Callable[[], Needs]) -> None:
        self.swept.append(needs())

    async def merged(self, repo: Repo, heads: Collection[str]) -> frozenset[str]:
        self.looks += 1
        return frozenset(heads) & self.on_base

    async def verify(self, assignment: Assignment, claim: Claim) -> Report:
        if self.hold:
            raise Unavailable("nothing can be checked now")
        key = assignment.run, 1
        scripted = self.reports.get(assignment.task, [])
        if key not in self.ended:
            self.ended[key] = scripted.pop(0) if scripted else SUCCESS
        return self.ended[key]

    async def close(self) -> None:
        self.followed = frozenset()
