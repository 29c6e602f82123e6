"""
Read model: tasks, hosts and workers as they are shown, what is asked for beside what is.

Commands, the HTTP API and whatever else shows a fleet present these values and add nothing to
them, so that they cannot disagree.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Literal, NamedTuple

from reconciler.core.adapter import Adapter
from reconciler.core.conditions import Condition, conditions, needs_a_person
from reconciler.core.errors import Problem
from reconciler.core.figures import FiguresOf, LiveFigures
from reconciler.core.model.specs import (
    Account,
    Agent,
    Campaign,
    Desired,
    DesiredState,
    ExecutionMode,
    Host,
    Repo,
    Task,
)
from reconciler.core.model.status import (
    MERGE_REASONS,
    AccountStatus,
    HostStatus,
    Observed,
    Phase,
    Question,
    Reason,
    Run,
    Status,
    Waiting,
)
from reconciler.core.needs import Need
from reconciler.core.outages import ForgeOutage
from reconciler.core.overlay import Overlay
from reconciler.core.planning.placement import reachable_runs, slots_in_use
from reconciler.core.runs.accounts import run_account, serves
from reconciler.core.runs.failure import FailureSummary, failure_line, summarize_failure
from reconciler.core.shards import home_shard
from reconciler.core.variants import variant_names

BAD_ENDS = frozenset({Phase.FAILED, Phase.ESCALATED})
"""Phases in which a person should look."""
CLOSED = frozenset({"cordoned", "draining", "drained"})
"""States of a host that people want no new runs on."""

HostState = Literal["up", "unready", "down", "unknown", "suspended", "cordoned", "draining", "drained"]


# --- Tasks -----------------------------------------------------------------


class Blocker(NamedTuple):
    """What keeps a task from going on."""

    reason: Reason
    """A word, for programs."""
    message: str
    """A sentence, for people."""


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task: what is asked for and where it stands."""

    name: str
    spec: Task | None
    """None: its file is gone, or never could be read."""
    status: Status | None
    """None: it is not on record yet, or what is there cannot be read."""
    problems: tuple[Problem, ...] = ()
    """What is wrong with its spec, or with its file on record."""
    planned: Waiting | None = None
    """What the last plan has it wait for."""
    live: LiveFigures | None = None
    """How far its live run is, where that is followed."""
    unrecorded: Waiting | None = None
    """What it waits for now, which is not on record as it may soon be over."""
    known_cause: FailureSummary | None = None
    """Why its last run failed, for who knows more of it than is on record."""
    shard: str = ""
    """Which shard has it, or is to take it; empty where the fleet has one reconciler."""
    variants: tuple["TaskView", ...] = ()
    """Its variants, of which one is chosen."""

    @property
    def phase(self) -> Phase:
        """Where it stands; `created` too if it is not on record yet."""
        return self.status.phase if self.status else Phase.CREATED

    @property
    def state(self) -> str:
        """The phase in a word for people, or why there is none yet: new, broken, removed."""
        if self.status is None:
            return "broken" if self.problems else "new"
        is_tombstone = self.status.removed and not self.status.archived
        return "removed" if is_tombstone else self.status.phase.value

    @property
    def since(self) -> datetime | None:
        """When the phase was entered."""
        return self.status.since if self.status else None

    @property
    def waiting(self) -> Waiting | None:
        """What it waits for: as it is known now or on record, or as the last plan has it if it is not yet."""
        return self.unrecorded or (self.status.waiting if self.status else self.planned)

    @property
    def blocker(self) -> Blocker | None:
        """What a person must fix first, else what it waits for."""
        if self.problems:
            return Blocker(Reason.SPEC_ERROR, str(self.problems[0]))
        return Blocker(self.waiting.reason, self.waiting.message) if self.waiting else None

    @property
    def failure(self) -> str | None:
        """Why its last run failed, in one line; None if a later one is under way or did better."""
        failure = self.status.failure if self.status and self.status.has_failed else None
        return failure_line(failure) if failure else None

    @property
    def cause(self) -> FailureSummary | None:
        """Why its last run failed, the last lines of what did, what to do about it."""
        if self.status is None or not self.status.has_failed:
            return None
        return self.known_cause or summarize_failure(self.name, self.status)

    @property
    def reason(self) -> str:
        """Why it is not further: what is wrong, what it waits for, how it failed; empty for nothing."""
        if self.problems:
            return str(self.problems[0])
        return f"{self.waiting.reason}: {self.waiting.message}" if self.waiting else self.failure or ""

    @property
    def is_bad_end(self) -> bool:
        """Whether a failure is the last that happened, and a person must act."""
        return self.failure is not None and self.state in BAD_ENDS

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Ready, Progressing, Stalled."""
        return conditions(self.spec, self.status, self.waiting, self.problems)

    @property
    def is_stalled(self) -> bool:
        """Whether a person must act."""
        phase = self.status.phase if self.status else None
        return bool(self.problems) or needs_a_person(phase, self.waiting)

    @property
    def question(self) -> Question | None:
        """What its agent asks, and nobody has answered."""
        return self.status.question if self.status else None

    @property
    def is_suspended(self) -> bool:
        """Whether it does not start until a person resumes it."""
        wants = self.spec.desired if self.spec else None
        return wants is DesiredState.SUSPENDED and not (self.status and self.status.phase.is_settled)

    @property
    def is_live(self) -> bool:
        """Whether a run of it goes on."""
        return self.phase.is_live

    @property
    def assigned_host(self) -> str | None:
        """Host of the last run."""
        return self.status.assigned_host if self.status else None

    @property
    def assigned_agent(self) -> str | None:
        """Outside agent that took the last run."""
        return self.status.assigned_agent if self.status else None

    @property
    def title(self) -> str:
        """One line for people; the name, if the spec is gone."""
        return self.spec.headline if self.spec else self.name

    @property
    def repo(self) -> str | None:
        """Code repository that it works in; if the spec is gone, that it was worked on in."""
        if self.spec is not None:
            return self.spec.repo
        return self.status.run.repo if self.status and self.status.run else None

    @property
    def execution_mode(self) -> ExecutionMode:
        """Who runs it; if the spec is gone, who did."""
        if self.spec is not None:
            return self.spec.execution_mode
        return ExecutionMode.HTTP_PULL if self.assigned_agent else ExecutionMode.SSH_CLI

    @property
    def last_output_at(self) -> datetime | None:
        """When its live run printed last, where that is followed."""
        return self.live.last_output_at if self.live else None

    @property
    def last_activity_at(self) -> datetime | None:
        """The last sign of life: on record, or where a live run is followed."""
        recorded = self.status.last_activity_at if self.status else None
        return max(filter(None, (recorded, self.last_output_at)), default=None)


def is_holder(worker: str, status: Status | None) -> bool:
    """Return whether an outside agent has a task in its hands."""
    return status is not None and status.phase.is_live and status.assigned_agent == worker


# --- Hosts and workers -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostView:
    """One host: what the specs say, what is known, what is in use."""

    name: str
    spec: Host
    status: HostStatus | None
    """None: it was not asked yet."""
    runs: tuple[str, ...]
    """Keys of the live runs on it, by task."""
    used: int
    """Slots they take."""
    closed_at: datetime | None = None
    """When people last changed whether it takes runs, if that is known."""
    shard: str = ""
    """Whose tasks run on it; empty where the fleet has one reconciler."""

    @property
    def free(self) -> int:
        """Slots to be had."""
        return max(0, self.spec.slots - self.used)

    @property
    def state(self) -> HostState:
        """Whether it takes runs, in a word."""
        if self.status is not None and self.status.state == "down":
            return "down"
        if self.spec.drain:
            return "draining" if self.runs else "drained"
        if self.spec.desired == "suspended":
            return "suspended"
        if self.spec.cordon:
            return "cordoned"
        if self.status is None:
            return "up" if self.spec.is_local else "unknown"
        return self.status.state

    @property
    def since(self) -> datetime | None:
        """Since when `state` is so: what people want as of its commit, else as of the probe."""
        if self.state in CLOSED:
            return self.closed_at
        return self.status.since if self.status else None


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One outside agent: what the specs say, what it holds."""

    name: str
    spec: Agent
    held: tuple[str, ...]
    """Tasks in its hands, by name; also those that it has finished and that are being checked."""


@dataclass(frozen=True, slots=True)
class RepoView:
    """One repo: what the specs say, and what is wrong with its forge."""

    name: str
    spec: Repo
    forge_fault: str | None
    """Why its forge cannot be worked with, such as a right that the token lacks; None if nothing is known."""


@dataclass(frozen=True, slots=True)
class AccountView:
    """One account: what the specs say, whether it is at its limit, what runs with it."""

    name: str
    spec: Account | None
    """None: it is what an adapter has by itself."""
    status: AccountStatus | None
    """None: it is not at its limit, as far as is known."""
    runs: tuple[str, ...]
    """Keys of the live runs with it."""

    @property
    def state(self) -> Literal["usable", "at limit", "failing", "suspended"]:
        """Whether new runs may take it, in words."""
        if self.spec and self.spec.desired == "suspended":
            return "suspended"
        return self.status.state if self.status else "usable"


@dataclass(frozen=True, slots=True)
class AdapterView:
    """One adapter: what the specs say, and with which accounts it is out of service."""

    name: str
    spec: Adapter
    failing: Mapping[str, AccountStatus]
    """Accounts that serve it and whose circuit is open, by name."""

    @property
    def state(self) -> Literal["usable", "failing"]:
        """Whether its runs work with all of its accounts, as far as is known."""
        return "failing" if self.failing else "usable"


CAMPAIGN_PHASES: Mapping[str, tuple[Phase, ...]] = {
    "completed": (Phase.COMPLETED,),
    "failed": (Phase.FAILED, Phase.ESCALATED),
    "cancelled": (Phase.CANCELLED,),
    "live": (Phase.ASSIGNED, Phase.RUNNING),
    "in_review": (Phase.REVIEW_PENDING,),
    "waiting": (Phase.CREATED,),
}
"""What the tasks of a campaign are counted by."""


def count_phases(phases: Iterable[Phase]) -> Mapping[str, int]:
    """Return how many of these there are of each of `CAMPAIGN_PHASES`."""
    counts = Counter(phases)
    return {name: sum(counts[phase] for phase in group) for name, group in CAMPAIGN_PHASES.items()}


@dataclass(frozen=True, slots=True)
class CampaignView:
    """One campaign: how far its tasks are."""

    name: str
    spec: Campaign
    tasks: tuple[TaskView, ...]
    """Its tasks, in the order of its matrix."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many of its tasks stand where, by `CAMPAIGN_PHASES`."""
        return count_phases(task.phase for task in self.tasks)

    @property
    def gate(self) -> Waiting | None:
        """What keeps more of its tasks from beginning: a halt, the pilot, the width."""
        waits = [task.waiting for task in self.tasks if task.waiting and task.waiting.reason in _GATES]
        return min(waits, key=lambda wait: _GATES.index(wait.reason), default=None)

    @property
    def state(self) -> str:
        """How far it is, in a word."""
        if any(task.problems for task in self.tasks):
            return "broken"
        if all(task.phase.is_settled for task in self.tasks):
            return "ended" if self.counts["failed"] else "done"
        if self.gate and self.gate.reason in _GATE_STATES:
            return _GATE_STATES[self.gate.reason]
        return "under way"


_GATES = (Reason.HALTED, Reason.PILOT, Reason.WIDTH)
_GATE_STATES = {Reason.HALTED: "halted", Reason.PILOT: "in pilot"}


# --- The fleet -------------------------------------------------------------


def observed_on_record(
    statuses: Mapping[str, Status],
    hosts: Mapping[str, HostStatus],
    damaged: Mapping[str, Problem],
    accounts: Mapping[str, AccountStatus] = MappingProxyType({}),
    shards: Mapping[str, str] = MappingProxyType({}),
) -> Observed:
    """Return what is known to who only looks; the machine is that of the local hosts on record."""
    machine = next((host.machine for host in hosts.values() if host.machine), None)
    return Observed(statuses, hosts, damaged=damaged, machine=machine, accounts=accounts, shards=shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """What the other shards of a fleet have on record, for a reconciler that shows all of it."""

    shard: str
    """The own shard, whose record is not in it."""
    desired: Desired
    """What the specs ask of the whole fleet."""
    statuses: Mapping[str, Status] = field(default_factory=dict)
    hosts: Mapping[str, HostStatus] = field(default_factory=dict)
    damaged: Mapping[str, Problem] = field(default_factory=dict)
    accounts: Mapping[str, AccountStatus] = field(default_factory=dict)
    shards: Mapping[str, str] = field(default_factory=dict)
    """Which of them has which task on record."""
    version: str = ""
    """Changes with what is on record."""


def _no_figures(_run: str, _round: int) -> LiveFigures | None:
    """Return None: it is not known here."""
    return None


def forge_waits(
    desired: Desired, statuses: Mapping[str, Status], outages: Mapping[str, ForgeOutage]
) -> Mapping[str, Waiting]:
    """Return what tasks in review wait for, by name, whose forge cannot be worked with: why, by repo."""
    waits = dict[str, Waiting]()
    for name, status in statuses.items() if outages else ():
        spec, before = desired.tasks.get(name), status.waiting
        outage = outages.get(spec.repo or "") if spec and status.phase is Phase.REVIEW_PENDING else None
        if outage and (before is None or before.reason in MERGE_REASONS):
            message = f"its forge does not answer: {outage.why}"
            since = max(outage.since, status.since)
            waits[name] = Waiting(reason=Reason.RETRYING, message=message, since=since)
    return waits


@dataclass(frozen=True, slots=True)
class ReadModel:
    """A fleet to be looked at: one task costs no more than it, everything costs one pass."""

    desired: Desired
    observed: Observed
    planned: Mapping[str, Waiting] = field(default_factory=dict)
    """What tasks wait for by the last plan, by name; those too that are not on record yet."""
    unrecorded: Mapping[str, Waiting] = field(default_factory=dict)
    """What tasks wait for now, by name, which is not on record as it may soon be over."""
    live: FiguresOf = _no_figures
    closed: Mapping[str, datetime] = field(default_factory=dict)
    """When people last closed or opened hosts, by name, as far as that is known."""
    forge_faults: Mapping[str, str] = field(default_factory=dict)
    """Why forges cannot be worked with, by repo, as who reconciles says."""

    def names(self) -> AbstractSet[str]:
        """Return every task that is asked for or on record."""
        desired, observed = self.desired, self.observed
        return {*desired.tasks, *desired.broken, *observed.statuses, *observed.damaged}

    def has(self, name: str) -> bool:
        """Return whether a task is asked for or on record."""
        mappings = (self.observed.statuses, self.desired.tasks, self.desired.broken, self.observed.damaged)
        return any(name in tasks for tasks in mappings)

    def with_archived(self, name: str, status: Status) -> "ReadModel":
        """Return the fleet with a task of the archive beside the others."""
        statuses = Overlay(self.observed.statuses)
        statuses[name] = status
        return replace(self, observed=replace(self.observed, statuses=statuses))

    def task(self, name: str) -> TaskView:
        """Return a task as it stands; of a name that is none, one that nothing is known of."""
        damaged, status = self.observed.damaged.get(name), self.observed.statuses.get(name)
        live, spec = status.live_run if status else None, self.desired.tasks.get(name)
        return TaskView(
            name,
            spec,
            status,
            (*((damaged,) if damaged else ()), *self.desired.broken.get(name, ())),
            self.planned.get(name),
            self.live(*live.round_key) if live else None,
            self.unrecorded.get(name),
            shard=self._shard(name),
            variants=tuple(map(self.task, variant_names(spec))) if spec else (),
        )

    def _shard(self, name: str) -> str:
        shards = self.desired.fleet.shards
        if not shards and not self.observed.shards:
            return ""
        return self.observed.shards.get(name) or home_shard(shards, name)

    def tasks(self) -> Mapping[str, TaskView]:
        """Return every task, by name."""
        return {name: self.task(name) for name in sorted(self.names())}

    def runs(self) -> Iterator[TaskView]:
        """Yield every task with a live run."""
        for name, status in self.observed.statuses.items():
            if status.phase.is_live:
                yield self.task(name)

    def hosts(self) -> Mapping[str, HostView]:
        """Return every host of the specs, by name."""
        runs: dict[str, list[Run]] = defaultdict(list)
        live = reachable_runs(self.observed.statuses, self.observed)
        for _, host, run in sorted(live, key=lambda each: each[0]):
            runs[host].append(run)
        used = slots_in_use(self.observed.statuses, self.observed)
        hosts = sorted(self.desired.hosts.items())
        return {name: self._host(host, runs[name], used[name]) for name, host in hosts}

    def _host(self, host: Host, live: list[Run], used: int) -> HostView:
        keys = tuple(run.key for run in live)
        shard = host.shard if self.desired.fleet.shards or self.observed.shards else ""
        status, closed = self.observed.hosts.get(host.name), self.closed.get(host.name)
        return HostView(host.name, host, status, keys, used, closed, shard)

    def accounts(self) -> Mapping[str, AccountView]:
        """Return every account of the specs, and those of adapters that are at their limits, by name."""
        runs: dict[str, list[str]] = defaultdict(list)
        for status in self.observed.statuses.values():
            run = status.live_run
            if run and (name := run_account(run, self.desired)):
                runs[name].append(run.key)
        specs, limits = self.desired.accounts, self.observed.accounts
        return {
            name: AccountView(name, specs.get(name), limits.get(name), tuple(sorted(runs[name])))
            for name in sorted({*specs, *limits})
        }

    def campaigns(self) -> Mapping[str, CampaignView]:
        """Return every campaign of the specs, by name."""
        campaigns = sorted(self.desired.campaigns.items())
        return {
            name: CampaignView(name, campaign, tuple(map(self.task, campaign.tasks)))
            for name, campaign in campaigns
        }

    def adapters(self) -> Mapping[str, AdapterView]:
        """Return every adapter, by name."""
        failing = {
            name: status for name, status in self.observed.accounts.items() if status.state == "failing"
        }
        return {
            name: AdapterView(
                name,
                adapter,
                {each: failing[each] for each in failing if serves(each, name, self.desired)},
            )
            for name, adapter in self.desired.adapters.items()
        }

    def workers(self) -> Mapping[str, WorkerView]:
        """Return every outside agent of the specs, by name."""
        held: dict[str, list[str]] = defaultdict(list)
        for name, status in self.observed.statuses.items():
            if status.phase.is_live and status.assigned_agent:
                held[status.assigned_agent].append(name)
        return {
            name: WorkerView(name, agent, tuple(sorted(held[name])))
            for name, agent in sorted(self.desired.agents.items())
        }

    def repos(self) -> Mapping[str, RepoView]:
        """Return every repo of the specs, by name."""
        return {
            name: RepoView(name, repo, self.forge_faults.get(name))
            for name, repo in sorted(self.desired.repos.items())
        }

    def needs(self, tasks: Iterable[TaskView] | None = None) -> Iterator[Need]:
        """Yield what a person must look at, the specs first; `tasks` are all, for who has them already."""
        for problem in self.desired.problems:
            yield Need(f"{problem.path}:{problem.line}", "Broken", str(problem).partition(": error: ")[2])
        for view in self.tasks().values() if tasks is None else tasks:
            if not view.problems and (need := task_need(view)):  # problems were told above
                yield Need(f"task {view.name}", *need)
        for name, host in self.hosts().items():
            if host.state == "down" and host.status:
                yield Need(f"host {name}", "Down", host.status.message)
        for name, account in self.observed.accounts.items():
            if account.state == "failing":
                yield Need(f"account {name}", "Circuit", f"{account.reason} ({account.run})")


def task_need(view: TaskView) -> tuple[str, str] | None:
    """Return why a person must look at a task: a word, and a sentence."""
    if view.phase in BAD_ENDS:
        return view.phase.value.capitalize(), view.reason
    if view.question and view.waiting and view.waiting.reason is Reason.PERSON:
        return "Question", view.waiting.message
    if view.waiting and view.waiting.reason is Reason.APPROVAL:
        return "Approval", f"{view.waiting.message}: `reconciler approve-prune`"
    return ("Stalled", view.reason) if view.is_stalled else None
