"""
A fleet behind the API, in memory: either a stand-in for the loop, or the loop itself with fakes around it.

What tests say to both is the same: `ask` pushes specs, `lose` lets a lease run out.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from reconciler.api.pages.services import HookReport, PageServices, SpecsPull
from reconciler.api.services import Services
from reconciler.api.tokens import new_token
from reconciler.core.errors import LogGap, NotFound, Problem, Refused, UsageError
from reconciler.core.events import Archived, Assigned, Created, Origin, WorkerReport
from reconciler.core.hosts import HostChange
from reconciler.core.lifecycle import Transition, fold
from reconciler.core.masking import Mask
from reconciler.core.model.runs import Assignment, run_key
from reconciler.core.model.specs import Agent, Desired
from reconciler.core.model.status import (
    AccountStatus,
    AtWorker,
    HostStatus,
    LeaseRequest,
    Phase,
    Status,
    Waiting,
)
from reconciler.core.outages import ForgeOutage
from reconciler.core.planning.plan import Plan, why_end
from reconciler.core.runs.command import assignment
from reconciler.core.runs.failure import FailureSummary, summarize_failure
from reconciler.core.runs.leases import LeaseQueue, held_now, holder, lease_lost, report_event, require_held
from reconciler.core.transitions import TransitionRecord, host_record, task_record
from reconciler.core.views import Elsewhere
from reconciler.dispatch.shown_logs import LogLine, LogSize, ShownLogs, split_lines
from reconciler.specs.explain import Explained
from reconciler.steering import Steering
from reconciler.store.commit_view import CommitView, FileView
from reconciler.store.spending import Spending
from reconciler.wire import Proposal, ProposalRequest
from tests.fakes import (
    START,
    FakeClock,
    FakeDispatch,
    FakeSpecs,
    FakeState,
    make_desired,
    make_loop,
    make_task,
)

TOKENS, HASHES = {}, {}
for _name in ("jeeves", "hermes", "watcher", "boss"):
    TOKENS[_name], HASHES[_name] = new_token(_name, lambda size, name=_name: name[0] * size)

AGENTS = {
    "jeeves": Agent(name="jeeves", token_hash=(HASHES["jeeves"],), capabilities=("gpu",), slots=3),
    "hermes": Agent(name="hermes", token_hash=(HASHES["hermes"],)),
    "watcher": Agent(name="watcher", token_hash=(HASHES["watcher"],), scopes=("read",)),
    "boss": Agent(name="boss", token_hash=(HASHES["boss"],), scopes=("admin",)),
}


def pulled(name, **fields):
    """Return a task for outside agents."""
    return make_task(name, execution_mode="http_pull", **fields)


@dataclass
class FakeRecord:
    """A history whose commits are numbers."""

    entries: list[TransitionRecord] = field(default_factory=list)
    statuses: dict[str, Status] = field(default_factory=dict)
    """Of tasks, after the commits."""
    archive: dict[str, Status] = field(default_factory=dict)
    reads: int = 0

    def add(self, step: Transition | HostChange) -> None:
        commit = f"{len(self.entries) + 1:040x}"
        made = host_record(step) if isinstance(step, HostChange) else task_record(step)
        self.entries.append(replace(made, commit=commit))
        if isinstance(step, Transition) and step.after:
            self.statuses[commit] = step.after

    def head(self) -> str:
        return self.entries[-1].commit if self.entries else ""

    async def since(self, commit: str, limit: int) -> Sequence[TransitionRecord]:
        self.reads += 1
        return self.entries[self._after(commit) :][:limit] if commit else self.entries[:limit]

    async def archived(self, task: str) -> Status | None:
        return self.archive.get(task)

    async def before(self, commit: str | None, task: str | None, limit: int) -> Sequence[TransitionRecord]:
        entries = self.entries[: self._after(commit) - 1] if commit else self.entries
        return [entry for entry in reversed(entries) if task in {None, entry.task}][:limit]

    async def search(self, wanted, commit, limit: int) -> Sequence[TransitionRecord]:
        entries = await self.before(commit, wanted.task, len(self.entries))
        fields = ("host", "actor", "cause")
        return [
            entry
            for entry in entries
            if all(getattr(wanted, name) in {None, getattr(entry, name)} for name in fields)
            and wanted.text in entry.reason
        ][:limit]

    def _after(self, commit: str) -> int:
        commits = [entry.commit for entry in self.entries]
        if commit not in commits:
            raise NotFound(f"no commit {commit} in the history")
        return commits.index(commit) + 1


@dataclass
class FakeLogs:
    """Logs in memory."""

    kept: dict[str, bytes] = field(default_factory=dict)

    def size(self, run: str) -> int:
        return len(self.kept.get(run, b""))

    async def append(self, run: str, offset: int, data: bytes) -> int:
        if offset > self.size(run):
            raise LogGap(self.size(run), offset)
        self.kept[run] = self.kept.get(run, b"") + data[self.size(run) - offset :]
        return self.size(run)


class FakeRunLogs(ShownLogs):
    """The logs of runs, in memory."""

    def __init__(self) -> None:
        self.texts: dict[str, dict[str, bytes]] = {}
        self.withheld = set()

    def parts(self, run: str) -> list[LogSize]:
        return [LogSize(label, len(data)) for label, data in self.texts.get(run, {}).items()]

    def read(self, run: str, label: str, begin: int, end: int) -> list[LogLine]:
        if run in self.withheld:
            raise Refused("this log may hold secrets")
        return split_lines(self.texts[run][label][begin:end], begin, Mask())

    def last_line(self, run: str, number: int) -> str:
        lines = self.texts.get(run, {}).get(f"round {number} agent", b"").decode().splitlines()
        return lines[-1] if lines else ""


@dataclass
class FakeEditor:
    """The files of the specs, and what was committed to them: by whom, with which message."""

    texts: dict[str, str] = field(default_factory=dict)
    commits: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    async def files(self, under: str) -> tuple[str, Mapping[str, str]]:
        return "a" * 40, {path: text for path, text in self.texts.items() if path == under}

    async def put(self, files, message, *, made_from=None, author=None) -> str:
        self.texts |= files
        self.commits.append((author, message))
        return f"{len(self.commits):040x}"

    async def check(self, path: str, text: str) -> Sequence[Problem]:
        return self.problems


@dataclass
class FakeHooks:
    """Takes deliveries that are signed `good`."""

    taken: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)

    async def receive(self, headers: Mapping[str, str], body: bytes) -> None:
        if headers.get("x-forgejo-signature") != "good":
            raise Refused("the signature is missing or wrong")
        if not body.startswith(b"{"):
            raise UsageError("the body is no JSON object")
        self.taken.append((headers, body))


@dataclass
class FakeDesk:
    """The loop as far as the API sees it: tasks go to agents in the order of their names."""

    clock: FakeClock
    record: FakeRecord
    desired: Desired = field(default_factory=Desired)
    statuses: dict[str, Status] = field(default_factory=dict)
    hosts: dict[str, HostStatus] = field(default_factory=dict)
    accounts: dict[str, AccountStatus] = field(default_factory=dict)
    damaged: dict[str, Problem] = field(default_factory=dict)
    drift: dict[tuple[str, datetime], timedelta] = field(default_factory=dict)
    last_plan: Plan = field(default_factory=Plan)
    forge_outages: Callable[[], Mapping[str, ForgeOutage]] = dict
    elsewhere: Callable[[], Elsewhere | None] = lambda: None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once an agent waits for a task."""
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def waiting(self) -> Mapping[str, Waiting]:
        return self.last_plan.waiting

    async def acquire(self, lease_request: LeaseRequest, wait: timedelta) -> str | None:
        if self.desired.agents[lease_request.agent].desired == "suspended":
            raise Refused(f"agent {lease_request.agent} gets no task: it is suspended in its spec")
        self.asked.set()
        try:
            async with asyncio.timeout(wait.total_seconds()):
                while (task := self._give(lease_request)) is None:
                    await self.news.wait()
        except TimeoutError:
            return None
        return task

    async def submit(self, said: WorkerReport) -> Status:
        name, status = holder(self.desired.tasks, self.statuses, said.task, said.agent, said.epoch)
        spec = self.desired.tasks.get(name)
        self.put(*report_event(spec, status, said, self.clock(), self.desired.fleet))
        return self.statuses[name]

    def heartbeat(self, task: str, agent: str, epoch: int) -> str | None:
        name, status = holder(self.desired.tasks, self.statuses, task, agent, epoch)
        require_held(name, status)
        return why_end(self.desired.tasks.get(name), status)

    async def assignment(self, task: str) -> Assignment:
        return assignment(self.desired.tasks[task], self.statuses[task], self.desired)

    def put(self, *events) -> None:
        self.statuses, steps = fold(self.statuses, events)
        for step in steps:
            self.record.add(step)

    def _give(self, lease_request: LeaseRequest) -> str | None:
        self.news.clear()
        taken = AtWorker(agent=lease_request.agent, request_key=lease_request.request_key)
        for name, status in self.statuses.items():
            if status.phase.is_live and status.holder == taken:
                return name
        for name, task in sorted(self.desired.tasks.items()):
            status = self.statuses.get(name)
            is_free = status is not None and status.phase is Phase.CREATED
            if is_free and LeaseQueue(self.desired, [lease_request], held_now(self.statuses.values())).take(
                task
            ):
                run = run_key(name, task.generation, status.attempt + 1)
                origin = Origin(self.clock(), "given out")
                self.put(Assigned(task=name, origin=origin, spec=task, holder=taken, run=run))
                return name
        return None


class World:
    """A fleet with four agents and no tasks, but those that a test asks for."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.record = FakeRecord()
        self.logs = FakeLogs()
        self.hooks = FakeHooks()
        self.proposed = []
        self.run_logs = FakeRunLogs()
        self.editor = FakeEditor()
        self.commits: dict[str, CommitView] = {}
        self.files: dict[str, str] = {}
        self.explained: list[Explained] = []
        self.diffs: dict[str, str] = {}
        self.revisions: dict[str, Desired] = {}
        self.specs_pulls: list[SpecsPull] = []
        self.workspaces: dict[str, str] = {}
        self.spent: list[Spending] = []
        self.desired = make_desired(agents=AGENTS)

    def archive(self, task: str) -> None:
        """Archive a task that has settled, as if its spec were gone."""
        origin = Origin(self.clock(), "the spec was removed")
        self.controller.put(Archived(task=task, origin=origin))
        self.record.archive[task] = self.record.statuses[self.record.head()]

    @property
    def pages(self) -> PageServices:
        return PageServices(
            fleet="example",
            logs=self.run_logs,
            steering=self.steering,
            commit=self.commit,
            last_commits=self.last_commits,
            statuses_at=self.statuses_at,
            file=self.file,
            failure=self.failure,
            explain=self.explain,
            diff=self.diff,
            unsent=lambda: {"phone": "2 messages wait, and cannot be sent: HTTP 404"},
            spending=self.spending,
            specs_at=self.specs_at,
            specs_pulls=lambda: self.specs_pulls,
            specs_of_pull=self.specs_of_pull,
            load=lambda: {"local": 0.5},
            spec_commits=self.spec_commits,
            last_host_commits=self.last_host_commits,
            forge_problems=lambda: {"code": "the token may not do this: it lacks write:issue"},
            hooks=lambda: HookReport(
                {("push", "refused", 2), ("push", "taken", 5)}, [(START, "push", "a/b")]
            ),
        )

    @property
    def steering(self) -> Steering:
        return Steering(self.controller, self.editor, self.editor.check)

    async def commit(self, commit: str) -> CommitView:
        if commit not in self.commits:
            raise NotFound(f"no commit {commit} of the specs or the record")
        return self.commits[commit]

    async def last_commits(self) -> Mapping[str, str]:
        return {entry.task: entry.commit for entry in self.record.entries if entry.task}

    async def statuses_at(self, places: Sequence[tuple[str, str]]) -> Sequence[Status | None]:
        return [self.record.statuses.get(commit) for commit, _ in places]

    async def file(self, path: str) -> FileView:
        if path not in self.files:
            raise NotFound(f"no file {path}")
        return FileView(self.files[path], "1" * 40, "2" * 40)

    async def explain(self, task: str) -> Sequence[Explained]:
        if task not in self.controller.desired.tasks:
            raise NotFound(f"no task {task}")
        return self.explained

    async def diff(self, repo: str, base: str, head: str) -> str:
        return self.diffs[repo]

    async def spending(self, since: datetime) -> Sequence[Spending]:
        return [each for each in self.spent if each.at >= since]

    def failure(self, task: str, status: Status) -> FailureSummary | None:
        why = summarize_failure(task, status)
        return replace(why, workspace=self.workspaces.get(task, ""), kept_until=START) if why else None

    async def specs_of_pull(self, number: int) -> Desired:
        return await self.specs_at(f"#{number}")

    async def specs_at(self, revision: str) -> Desired:
        if revision not in self.revisions:
            raise NotFound(f"no revision {revision!r}")
        return self.revisions[revision]

    async def last_host_commits(self) -> Mapping[str, str]:
        return {entry.host: entry.commit for entry in self.record.entries if not entry.task and entry.host}

    async def spec_commits(self, paths: Sequence[str]) -> Mapping[str, str]:
        return dict.fromkeys(paths, "3" * 40)

    @property
    def services(self) -> Services:
        return Services(
            record=self.record,
            logs=self.logs,
            propose=self.propose,
            hooks=self.hooks,
            pages=self.pages,
            whole_url=lambda url: f"/fleet/{url}",
        )

    async def waits(self) -> None:
        """Wait until an agent asks for a task."""
        await self.asked.wait()

    async def propose(self, asked: ProposalRequest, agent: str) -> Proposal:
        self.proposed.append((asked, agent))
        return Proposal(task=asked.name, branch=f"propose/{asked.name}", commit="c" * 40)


class FakeWorld(World):
    """One with the stand-in."""

    def __init__(self) -> None:
        super().__init__()
        self.controller = self.leases = FakeDesk(self.clock, self.record)
        self.controller.desired = self.desired
        self.asked = self.controller.asked

    async def ask(self, *tasks, **fields) -> None:
        self.desired = make_desired(*tasks, **{"agents": AGENTS, **fields})
        self.controller.desired = self.desired
        for task in tasks:
            if task.name not in self.controller.statuses and task.execution_mode == "http_pull":
                self.controller.put(Created(task=task.name, origin=Origin(self.clock(), "new"), spec=task))
        self.controller.news.set()

    async def lose(self, name: str) -> None:
        task, status = self.desired.tasks[name], self.controller.statuses[name]
        self.controller.put(lease_lost(name, task, status, self.clock(), self.desired.fleet))

    async def close(self) -> None:
        """Nothing runs here."""


class LoopWorld(World):
    """One with the loop itself; time stands still there until a test lets it pass."""

    def __init__(self) -> None:
        super().__init__()
        self._idle = asyncio.Event()
        self._specs, self.asked = FakeSpecs(self.desired), asyncio.Event()
        self._loop = make_loop(self._specs, FakeState(), FakeDispatch(), self.clock, pause=self._pause)
        self._loop.listeners.steps.append(self.record.add)
        self.controller, self.leases = self._loop.cache, self._loop.controllers.leases
        self._acquire, self.leases.acquire = self.leases.acquire, self._acquire_heard
        self._running = asyncio.create_task(self._loop.run())

    async def _acquire_heard(self, lease_request: LeaseRequest, wait: timedelta) -> str | None:
        self.asked.set()
        return await self._acquire(lease_request, wait)

    async def _pause(self, news: asyncio.Event, longest: timedelta | None) -> None:
        self._idle.set()
        await news.wait()

    async def ask(self, *tasks, **fields) -> None:
        self.desired = make_desired(*tasks, **{"agents": AGENTS, **fields})
        self._specs.push(self.desired)
        await self._look()

    async def lose(self, name: str) -> None:
        self.clock.time += self.desired.fleet.lease * 2
        await self._look()

    async def _look(self) -> None:
        """Let the loop look, and wait until it has nothing more to do."""
        self._idle.clear()
        self._loop.inbox.notify()
        await self._idle.wait()

    async def close(self) -> None:
        self._loop.stop()
        await self._running
