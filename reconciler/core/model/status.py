"""
Observed state: where each task stands, what is known of each host.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from reconciler.core.adapter import Usage
from reconciler.core.errors import Problem
from reconciler.core.fields import (
    Frozen,
    Id,
    Time,
    Total,
)
from reconciler.core.model.runs import (
    Check,
    Claim,
    FailureClass,
    NamedOutput,
    Opinion,
    ReviewNote,
    RunMode,
)
from reconciler.core.text import one_line


class Phase(StrEnum):
    """State of a task's lifecycle."""

    CREATED = "created"
    ASSIGNED = "assigned"
    RUNNING = "running"
    REVIEW_PENDING = "review_pending"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ESCALATED = "escalated"

    is_live: bool
    """Whether a run holds a slot."""
    is_settled: bool
    """Whether nothing more happens by itself."""

    def __init__(self, value: str) -> None:
        self.is_live = value in {"assigned", "running"}
        self.is_settled = value in {"completed", "failed", "cancelled", "escalated"}


class Reason(StrEnum):
    """What a task waits for, or why it needs a person."""

    DEPENDENCY = "Dependency"
    VARIANTS = "Variants"
    """One of its variants is to be chosen; or it is one, and waits for the choice."""
    PILOT = "Pilot"
    """The first tasks of its campaign are not completed."""
    WIDTH = "Width"
    """As many tasks of its campaign are begun as may be at once."""
    HALTED = "Halted"
    """So many tasks of its campaign have failed that no more begin."""
    SLOT = "Slot"
    HOST = "Host"
    REPO = "Repo"
    """Its code repository does not answer, or was not asked yet."""
    RETRYING = "Retrying"
    """A step of its live run is tried again and again."""
    DELIVERY = "Delivery"
    """Its agent has ended, and what is left waits for its host or repo; it takes no slot."""
    QUEUE = "Queue"
    """Its run waits in the queue of its host's scheduler."""
    AGENT = "Agent"
    SUSPENDED = "Suspended"
    BACKOFF = "Backoff"
    QUOTA = "Quota"
    CIRCUIT = "Circuit"
    """Its account or adapter is out of service: runs of different tasks failed with it in a row."""
    NOT_BEFORE = "NotBefore"
    SCHEDULE = "Schedule"
    WINDOW = "Window"
    BUDGET = "Budget"
    SPEC_ERROR = "SpecError"
    CHECK = "Check"
    """What an agent says it has finished is looked at."""
    PERSON = "Person"
    """The agent asks a question; or somebody works on its branch, and it pauses."""
    REVIEW = "Review"
    """Its pull request is not merged yet: what is missing."""
    BLOCKED = "Blocked"
    """Its pull request cannot be merged until a person removes what is in the way."""
    MERGE_QUEUE = "MergeQueue"
    """Its pull request is approved and in the merge queue of its repo: its place, and what is validated."""
    MERGE_QUEUE_HALTED = "MergeQueueHalted"
    """The same, and a person must act: the base branch does not pass by itself, or takes no pushes."""
    APPROVAL = "Approval"
    """A removal that a person must allow: `reconciler approve-prune`."""
    FAULT = "Fault"
    """Thinking about it failed by a mistake of the reconciler; nothing is decided about it."""


QUEUE_REASONS = frozenset({Reason.MERGE_QUEUE, Reason.MERGE_QUEUE_HALTED})
"""Reasons of work in a merge queue; it has been there since it had the first of them."""
MERGE_REASONS = QUEUE_REASONS | {Reason.REVIEW, Reason.BLOCKED}
"""Reasons of work that waits for its merge."""


class Waiting(Frozen):
    """What a task waits for; `since` moves only when the reason changes."""

    reason: Annotated[Reason, Field(strict=False)]
    message: str
    since: Time


class Failure(Frozen):
    """Why the last run did not succeed."""

    kind: Annotated[FailureClass, Field(strict=False)]
    message: str


class PullRequest(Frozen):
    """The pull request of a task."""

    number: Id
    url: str


class OnHost(Frozen):
    """The reconciler runs it on a host, over SSH or here."""

    host: str
    machine: str | None = None
    """Of a local host: which reconciler's machine that is; no other can reach it."""


class AtWorker(Frozen):
    """A worker took it over HTTP."""

    agent: str
    request_key: str
    """With which it asked: asking again with the same gets the same answer."""
    claim: Claim | None = None
    """What it said came of it; it is checked then."""


RunHolder = Annotated[OnHost, Field(strict=False)] | Annotated[AtWorker, Field(strict=False)]
"""Who has the last run of a task in hand, or had it last."""


class ReviewState(Frozen):
    """How far the review of delivered work is."""

    count: Total = 0
    """Rounds of requested changes."""
    pull_request: PullRequest | None = None
    notes: tuple[ReviewNote, ...] = ()
    """What the last round of requested changes asked for."""
    answered: tuple[Id, ...] = ()
    """
    Ids of the reviews that were answered. A last one would not do: forges give
    a review its id when it is begun, and others may be submitted before it.
    """
    last_comment: Id = 0
    """Id of the last comment in the conversation that an agent was given; later ones have higher ids."""
    last_edit: Time | None = None
    """When the comments that an agent was given were changed last; what is changed later is given again."""
    validated: str | None = None
    """Commit of the merge queue that passed validation with this work in it, and is what lands."""


QUESTION_LINE = 300
"""Characters of a question where it is told in one line."""


class Question(Frozen):
    """A question of the agent, and its answer once there is one."""

    id: str
    """`q<attempt>-<round>` of the run that asked."""
    kind: Literal["question", "plan", "choice"] = "question"
    """
    `plan`: what the agent would do, for a person to say yes, no, or what to change. `choice`: which
    variant is the best.
    """
    text: str
    options: tuple[str, ...] = ()
    """Of a choice: the variants that there are to choose from."""
    asked_at: Time
    answer: str | None = None
    answered_by: str = ""
    """The person; `ask.default` if nobody answered in time."""
    answered_at: Time | None = None

    @property
    def line(self) -> str:
        """What its task waits for, in one line."""
        return f"{_ASKS[self.kind]} ({self.id}): {one_line(self.text, QUESTION_LINE)}"


_ASKS = {"question": "asks", "plan": "has a plan and waits for a yes", "choice": "waits for a choice"}


class Session(Frozen):
    """The agent CLI's session, which a later round resumes."""

    id: str
    totals: Usage = Usage.model_construct()
    """The CLI's running totals, as it last told them."""


class Predecessor(Frozen):
    """A task that another depends on: what came of it, as handed down in a prompt."""

    task: str
    repo: str | None = None
    branch: str | None = None
    commit: str | None = None
    """Head of its branch as delivered; None if it delivered nothing."""
    summary: str = ""
    """Its agent's last words."""
    outputs: tuple[NamedOutput, ...] = ()


class VariantChoice(Frozen):
    """Which variant of a task was chosen, by whom and why."""

    variant: str
    """Name of the task that is the variant."""
    by: str
    """The adapter that judged, the person, or `validation`."""
    reason: str
    is_taken: bool = False
    """Whether its work is on the branch of the task."""


class Run(Frozen):
    """One attempt at a task, as it was assigned, and the round that it is in."""

    round: Total
    """Round within the attempt: 1, then one more for each validation handed back."""
    mode: RunMode = "work"
    """Whether the round only makes a plan, or chooses among variants."""
    key: str
    """`<task>.g<generation>.a<attempt>`."""
    slots: Total = 1
    """Slots of its host that it takes."""
    holder: RunHolder
    adapter: str | None = None
    """None at a worker."""
    account: str | None = None
    """Account whose credential it uses; None for the adapter's own."""
    adapter_blob: str | None = None
    """Git blob id of the file of the adapter; of the built-in one, if the fleet has none."""
    cli_version: str | None = None
    """Version of the agent's CLI when the round began, as the host was last asked; None if unknown."""
    program_version: str | None = None
    """Version of the reconciler that started it last."""
    model: str | None = None
    repo: str | None = None
    branch: str
    title: str
    """Of its commits and of its pull request."""
    start_from: str | None = None
    """Commit of another task's branch that it begins on; the base branch if None."""
    predecessors: tuple[Predecessor, ...] = ()
    """Tasks that it depends on, or variants to choose from, as they were when it was assigned."""

    @property
    def round_key(self) -> tuple[str, int]:
        """What names the round: the run's key, and its number."""
        return self.key, self.round


def question_id(attempt: int, round_number: int) -> str:
    """Return the id of what a round asks: no other round of the task has it, ever."""
    return f"q{attempt}-{round_number}"


_QUESTION_ID = re.compile(r"q(?P<attempt>[0-9]{1,6})-[0-9]+\Z")


def asking_attempt(question: str) -> int:
    """Return the attempt whose round asked a question of this id; 0 if it is no such id."""
    match = _QUESTION_ID.match(question)
    return int(match["attempt"]) if match else 0


FLAT: dict[str, Mapping[str, str]] = {
    "holder": {
        "host": "assigned_host",
        "machine": "machine",
        "agent": "assigned_agent",
        "request_key": "request_key",
        "claim": "claim",
    },
    "review": {
        "count": "review_count",
        "pull_request": "pull_request",
        "notes": "reviews",
        "answered": "reviewed",
        "last_comment": "last_comment",
        "last_edit": "last_edit",
        "validated": "validated",
    },
    "session": {"id": "session_id", "totals": "session_totals"},
    "run": {
        "round": "round",
        "mode": "mode",
        "key": "run",
        "slots": "slots",
        "holder": "holder",
        "adapter": "adapter",
        "account": "account",
        "adapter_blob": "adapter_blob",
        "cli_version": "cli_version",
        "program_version": "program_version",
        "model": "model",
        "repo": "repo",
        "branch": "branch_name",
        "title": "pr_title",
        "start_from": "start_from",
        "predecessors": "predecessors",
    },
}
"""
Part of a status → its fields, by the names they have in the file, where all stand in one list.

What is part of a part stands before it.
"""

_HAVE_RUN = frozenset({Phase.ASSIGNED, Phase.RUNNING, Phase.REVIEW_PENDING, Phase.COMPLETED, Phase.FAILED})
"""Phases that only a run leads to; those of `core.lifecycle` that remain are entered from `created` too."""


class Status(Frozen):
    """Where a task stands: one file under `fleet-state/tasks/`, by the name of its spec."""

    phase: Annotated[Phase, Field(strict=False)]
    since: Time
    """When the phase was entered."""
    created_at: Time
    generation: str
    """Git blob id of the spec this status answers."""
    work: str
    """Identity of what was asked for (see `work_id`)."""
    waiting: Waiting | None = None
    attempt: Total = 0
    """Number of the last attempt; never goes back."""
    run: Annotated[Run | None, Field(strict=False)] = None
    """The last run; None if there was none."""
    began_at: Time | None = None
    """First start of work that is not delivered yet: its `deadline` counts from then."""
    failures: Total = 0
    """Attempts that failed since the work, or changes to it, were asked for."""
    uncounted: Total = 0
    """Attempts in a row that ended and counted as no failure: a quota, a lost lease, an end from outside."""
    failed_starts: Total = 0
    """Starts in a row that failed by a fault of a host; they do not count as failures."""
    base_commit: str | None = None
    head_commit: str | None = None
    review: Annotated[ReviewState, Field(strict=False)] = ReviewState.model_construct()
    session: Annotated[Session | None, Field(strict=False)] = None
    not_before: Time | None = None
    """No new run before this time: backoff, or a quota."""
    due_at: Time | None = None
    """Due time of the schedule: the one that is waited for, or else the last that was served."""
    failure: Failure | None = None
    checks: tuple[Check, ...] = ()
    """Validation of the last round."""
    opinion: Opinion | None = None
    """What the second agent made of the work of the last round."""
    opinion_rounds: Total = 0
    """Rounds of this attempt that it asked for."""
    choice: VariantChoice | None = None
    """Which of its variants was chosen."""
    questions: tuple[Question, ...] = ()
    """What the agent asked about this work, the last one without an answer as long as it waits for it."""
    summary: str = ""
    """The agent's last words on work that was delivered or completed."""
    outputs: tuple[NamedOutput, ...] = ()
    """What the work hands down to tasks that depend on it."""
    usage: Usage = Usage.model_construct()
    """All runs together."""
    prompt_sha256: str | None = None
    """Of the last round's prompt."""
    last_activity_at: Time | None = None
    on_delete: Literal["cancel", "finish", "orphan"] = "cancel"
    """Copied from the spec, which may be gone when it is needed."""
    campaign: str | None = None
    """Campaign that it is of; copied likewise."""
    removed: bool = False
    """Tombstone: the spec is gone; this file goes when everything is cleaned up."""
    archived: bool = False
    """It settled, and its spec is gone: the file is in the archive, by the month of `since`."""

    @property
    def run_key(self) -> str | None:
        """Key of the last run; None if there was none."""
        return self.run.key if self.run else None

    @property
    def last_run(self) -> Run:
        """The last run of a task that has one by its phase. Raises LookupError if there was none."""
        if self.run is None:
            raise LookupError(f"no run in phase {self.phase}")
        return self.run

    @property
    def question(self) -> Question | None:
        """The question that waits for its answer; None if there is none."""
        last = self.questions[-1] if self.questions else None
        return last if last and last.answer is None else None

    @property
    def answers(self) -> tuple[Question, ...]:
        """The questions about this work that were answered."""
        return tuple(question for question in self.questions if question.answer is not None)

    @property
    def is_begun(self) -> bool:
        """Whether anything was done about this work that is not settled: between attempts, too."""
        tries = self.failures, self.uncounted, self.failed_starts, self.review.count, self.questions
        return not self.phase.is_settled and (self.phase is not Phase.CREATED or any(tries))

    @property
    def interrupted_run(self) -> Run | None:
        """The last run, if the answer to what it asked is there and nothing has gone on with it yet."""
        last = self.questions[-1] if self.questions else None
        if self.run is None or self.phase is not Phase.CREATED or last is None or last.answer is None:
            return None
        is_its_own = last.kind != "choice" and last.id == question_id(self.attempt, self.run.round)
        return self.run if is_its_own else None

    @property
    def live_run(self) -> Run | None:
        """The last run while it is carried out; None once it is over."""
        return self.run if self.phase.is_live else None

    @property
    def has_failed(self) -> bool:
        """Whether the failure is of the state it is in, and not of a run before the one that went on."""
        return self.failure is not None and not self.phase.is_live and self.phase is not Phase.REVIEW_PENDING

    @property
    def waits_for_delivery(self) -> bool:
        """Whether the agent of the live run has ended, and what is left waits for its host or repo."""
        return self.phase.is_live and self.waiting is not None and self.waiting.reason is Reason.DELIVERY

    def session_at(self, host: str, adapter: str, account: str | None) -> Session | None:
        """Return the session that such a run can resume; None if there is none, or it is another's."""
        run = self.run
        is_there = run and (self.assigned_host, run.adapter, run.account) == (host, adapter, account)
        return self.session if is_there else None

    @property
    def holder(self) -> RunHolder | None:
        """Who has the last run; None if there was none."""
        return self.run.holder if self.run else None

    @property
    def assigned_host(self) -> str | None:
        """The host of the last run; None if a worker has it, or there was none."""
        return self.holder.host if isinstance(self.holder, OnHost) else None

    @property
    def assigned_agent(self) -> str | None:
        """The agent of the last run, if a worker took it."""
        return self.holder.agent if isinstance(self.holder, AtWorker) else None

    @property
    def claim(self) -> Claim | None:
        """What the worker said came of the last run; None if it has not, or no worker took it."""
        return self.holder.claim if isinstance(self.holder, AtWorker) else None

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        """Put together the parts of a status that was read from its file."""
        if not isinstance(values, dict):
            return values
        rest = dict(values)
        for part, names in FLAT.items():
            if isinstance(rest.get(part), Frozen):
                continue
            taken = {field: rest.pop(name, None) for field, name in names.items()}
            if given := {field: value for field, value in taken.items() if value is not None}:
                rest[part] = given
        return rest

    @model_validator(mode="after")
    def _has_run(self) -> Self:
        if self.run is None and self.phase in _HAVE_RUN:
            raise ValueError(f"no run, and none can be {self.phase} without")
        return self

    @model_serializer(mode="wrap")
    def _spread(self, dump: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Write the parts as the file has them; what a part does not have is a default, and null."""
        values: dict[str, Any] = dump(self)
        for part in reversed(FLAT):
            values = dict(_spread_part(values, part, is_short=bool(info.exclude_defaults)))
        return values


def _spread_part(values: Mapping[str, Any], part: str, *, is_short: bool) -> Iterator[tuple[str, Any]]:
    """Yield values with the fields of a part in its place."""
    for name, value in values.items():
        if name != part:
            yield name, value
            continue
        given = value or {}
        yield from ((key, given.get(own)) for own, key in FLAT[part].items() if own in given or not is_short)


class HostCli(Frozen):
    """An agent CLI on a host, as the last probe found it."""

    path: str | None = None
    """None if it is not there."""
    version: str | None = None
    ok: bool
    """Whether it is there, in the required range."""
    message: str = ""
    """What was found and what was asked for."""


@dataclass(frozen=True, slots=True)
class ArchivedTasks:
    """What the archive has of some tasks, by name."""

    statuses: Mapping[str, Status]
    damaged: Mapping[str, Problem]
    """What is wrong with files that cannot be read."""


class HostStatus(Frozen):
    """What is known of a host: one file under `fleet-state/hosts/`."""

    reachable: bool
    since: Time
    """When it last came or went, or runs could start there again or no longer."""
    message: str = ""
    """Why it is not reachable, or what else is wrong with it."""
    fault: str = ""
    """Why no run can start there though it answers; empty if one can."""
    os: str | None = None
    """What `uname -s` says there; like all that follows, as of the last time it was reachable."""
    arch: str | None = None
    """What `uname -m` says there."""
    boot_id: str | None = None
    """Changes when it is started anew."""
    git: str | None = None
    """Version of its git; None if there is none."""
    adapters: dict[str, HostCli] = Field(default_factory=dict)
    """The agent CLIs it was asked for, by adapter."""
    sandbox: str | None = None
    """Why no run can be in a sandbox there; empty if it can, None if no spec needs one."""
    machine: str | None = None
    """Of a local host: which reconciler's machine it is about."""

    @property
    def state(self) -> Literal["up", "unready", "down"]:
        """Whether it answers, and whether runs can start there."""
        if not self.reachable:
            return "down"
        return "unready" if self.fault else "up"


class AccountStatus(Frozen):
    """
    Why an account is not used: one file under `fleet-state/accounts/`, from a run that met it to one served.

    An account without one can be used as far as is known.
    """

    state: Literal["at limit", "failing"] = "at limit"
    """`failing`: its circuit is open, because runs of different tasks failed with it one after the other."""
    until: Time
    """When one run tries it again."""
    since: Time
    """When a run met the limit first, or the circuit opened."""
    reason: str
    """What the provider said, or the CLI."""
    run: str
    """Key of the run that met the limit last, or failed last."""
    refusals: Total = 1
    """Times in a row that it was so: before, and for each run that tried it again."""
    models: tuple[str, ...] = ()
    """Models whose runs met it; empty for the CLI's default. A `fallback` to another may be tried."""
    spec: str
    """Identity of the account's spec then: after a change to that it is tried at once."""


BudgetScope = tuple[Literal["fleet", "repo", "adapter", "account", "host"], str]
"""Whose money is spent: a kind and a name; the fleet's is ("fleet", "fleet")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """An outside agent asks for a task."""

    agent: str
    request_key: str
    """Chosen by the agent: asking again with the same gets the same answer."""
    capabilities: tuple[str, ...] = ()
    """Labels it has now, of those that its spec allows; all of them, if empty."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the state branch and the probes say."""

    statuses: Mapping[str, Status] = field(default_factory=dict)
    hosts: Mapping[str, HostStatus] = field(default_factory=dict)
    """Hosts without a probe so far are not in it."""
    load: Mapping[str, float] = field(default_factory=dict)
    """Load per core of the last probe, by host; never recorded."""
    followed: frozenset[tuple[str, int]] = frozenset()
    """(run key, round) of the runs this process follows."""
    lease_requests: tuple[LeaseRequest, ...] = ()
    """Of the outside agents that wait for a task, in the order in which they came."""
    leases: Mapping[str, datetime] = field(default_factory=dict)
    """Until when the runs of outside agents count as alive, by run key; one that is not in it has no end."""
    probed: frozenset[str] = frozenset()
    """Hosts that this process has asked; what is on record of others may be out of date."""
    half_open: frozenset[str] = frozenset()
    """Hosts on which runs could not start, and that get one run to see whether they can again."""
    unready: Mapping[str, str] = field(default_factory=dict)
    """Why no run may start on a code repository now, by name; empty if it was not asked yet."""
    retry_reasons: Mapping[str, str] = field(default_factory=dict)
    """What is tried again and again for a task, and why it does not work, by run key."""
    agent_over: frozenset[str] = frozenset()
    """Run keys of the rounds whose agent is over: what is left is validation and delivery."""
    past: Mapping[str, int] = field(default_factory=dict)
    """Last attempt, by name, of new tasks that had a life before: their run keys must not come twice."""
    spent: Mapping[BudgetScope, Usage] | None = field(default_factory=dict)
    """What was spent today (UTC)."""
    spent_in_week: Mapping[BudgetScope, Usage] | None = field(default_factory=dict)
    """What was spent since Monday (UTC)."""
    accounts: Mapping[str, AccountStatus] = field(default_factory=dict)
    """Accounts that are at their limits, by name; also those of adapters without one."""
    damaged: Mapping[str, Problem] = field(default_factory=dict)
    """Tasks with a status that cannot be read: whatever it says, they are not new."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """Tasks about which something could not be thought, by a mistake of ours, and that in words."""
    drift: Mapping[tuple[str, datetime], timedelta] = field(default_factory=dict)
    """How far the clock was set since, by run key or host, and the time that is on record of it."""
    shards: Mapping[str, str] = field(default_factory=dict)
    """Which shard has which task on record; empty where there is one reconciler."""
    machine: str | None = None
    """The reconciler's machine; None if it is not known."""
    takes_over: bool = False
    """Whether the local runs of other machines are taken for this one's: those are gone for good."""

    def began(self, name: str, at: datetime) -> datetime:
        """Return when a run or a silence began, by the clock as it is set now."""
        return at + self.drift.get((name, at), timedelta())

    def can_reach(self, status: Status) -> bool:
        """Return whether a run is not on the own machine of another reconciler."""
        machine = status.holder.machine if isinstance(status.holder, OnHost) else None
        return self.takes_over or None in {self.machine, machine} or self.machine == machine
