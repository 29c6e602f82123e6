"""
The bodies of requests and answers. The OpenAPI document is made from them.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from reconciler.core.adapter import Usage
from reconciler.core.fields import Branch, Frozen, Id, Name, Names, Text
from reconciler.core.model.specs import AnswerText, ExecutionMode
from reconciler.core.model.status import Phase

MOST_WAIT = 25.0
"""Longest long poll, in seconds."""

MOST_USED = 1e15
"""Largest reported usage, so that sums stay finite."""
_LARGEST = 2**53
"""Whole numbers that every JSON parser keeps."""

Epoch = Annotated[int, Field(ge=1, le=_LARGEST)]
Number = Annotated[int, Field(ge=1, le=_LARGEST)]
"""Of a pull request."""
MOST_TEXT = 100_000
"""Characters of an agent's final message."""
Limited = Annotated[str, Field(max_length=MOST_TEXT)]


def _check_used(usage: Usage) -> Usage:
    """Return what was used. Raises ValueError if it would make budgets larger, or break their sums."""
    if not all(0 <= value <= MOST_USED for _, value in usage):
        raise ValueError(f"what was used is never less than 0, and never more than {MOST_USED:g}")
    return usage


Used = Annotated[Usage, AfterValidator(_check_used)]
"""Usage as reported by an agent."""


class DequeueRequest(Frozen):
    """An agent asks for a task."""

    capabilities: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=100)], ...], Field(strict=False, max_length=100)
    ] = ()
    """Labels it has now, of those in its spec; all of them if left out."""
    wait: Annotated[float, Field(ge=0, le=MOST_WAIT, strict=False)] = 0.0
    """Seconds to wait for a task if there is none now."""
    request_key: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._:-]+$")]
    """Random, chosen by the agent for this request. Repeating it after a lost answer gets the same task."""


class RepoBody(Frozen):
    """The code repository of a task."""

    name: str
    url: str
    base: Branch
    paths: tuple[str, ...] = ()
    """Patterns of the files that may be touched; all if empty."""


class Lease(Frozen):
    """A task that the agent holds now."""

    task: str
    title: str
    lease: str
    """Name of this run; it stands in logs and in the history."""
    epoch: Id
    """To be sent with every report: a report with another one is refused."""
    lease_seconds: float
    """After this silence the task is given to others."""
    heartbeat_seconds: float
    """How often to send a heartbeat."""
    timeout_seconds: float
    """Longest time for the whole run."""
    prompt: str
    """Prompt for the agent; what was asked and answered stands in it."""
    answer: str | None = None
    """Answer to what was asked last; null if nothing was."""
    repo: RepoBody | None
    branch: Branch
    """Branch to push the work to."""
    start_from: Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")] | None
    """Commit to start from; the base branch if null."""
    validation: tuple[str, ...]
    """Commands that must exit 0 on the work."""
    review: str
    """`none`, `merge` or `pull_request`: what follows the agent's work."""


class StartRequest(Frozen):
    """The agent begins."""

    epoch: Epoch


class HeartbeatRequest(Frozen):
    """The agent is alive."""

    epoch: Epoch


class Heartbeat(Frozen):
    """Answer to a heartbeat: go on, or stop and why."""

    desired: Literal["run", "cancel", "lost"]
    """`run`: go on. `cancel`: stop and report `released`. `lost`: stop; the task is not yours any more."""
    message: str = ""
    """Why."""
    lease_seconds: float
    heartbeat_seconds: float


class LogAck(Frozen):
    """How much of the log is stored on disk."""

    offset: Id
    """Bytes; the next chunk begins here."""


class StatusRequest(Frozen):
    """What came of the work; a claim that is checked."""

    epoch: Epoch
    status: Literal["running", "review_pending", "completed", "failed", "released", "asks"]
    """
    `released`: given back undone, which counts as no failure. `asks`: a person is asked `question`;
    that ends the hold, and the task is offered again once it is answered, first to the same agent.
    """
    question: Limited = ""
    """With `asks`: what a person is to answer."""
    result: Limited = ""
    """Final message: what was done and why, or why it could not be."""
    branch: Branch | None = None
    """Branch that was pushed, if not the requested one."""
    pull_request: Number | None = None
    """Number of the pull request that was opened, if the agent opens its own."""
    usage: Used = Usage()

    @model_validator(mode="after")
    def _has_question(self) -> Self:
        if (self.status == "asks") != bool(self.question.strip()):
            raise ValueError("`question` goes with the status `asks`, and with no other")
        return self


class Progress(Frozen):
    """Status of the task after a report."""

    task: str
    phase: str
    is_checking: bool
    """Whether the agent's claim is being checked."""
    message: str = ""


class AnswerRequest(Frozen):
    """A person answers the question of a task's agent."""

    question: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """Id of the question; the one that waits, if left out."""
    text: AnswerText
    """The answer: the agent goes on with it."""


class Answered(Frozen):
    """The answer is committed to the specs; the agent goes on once that was read."""

    task: str
    commit: str | None
    """Commit of the specs; null if the same answer was there already."""
    message: str


class ProposalRequest(Frozen):
    """
    An agent proposes a task; a person decides by merging the branch it is put on.

    It is for the default adapter of its repo or the fleet; where that is none of an
    agent, for agents that pull.
    """

    name: Annotated[str, Field(max_length=200)]
    """Name of the task, such as `web/fix-login`."""
    goal: Annotated[str, Field(min_length=1, max_length=20_000)]
    title: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    repo: Text | None = None
    constraints: Annotated[tuple[str, ...], Field(strict=False)] = ()
    validation: Annotated[tuple[str, ...], Field(strict=False)] = ()
    depends_on: Names = ()


class Proposal(Frozen):
    """A proposed task, which waits for a person."""

    task: str
    branch: str
    """Of the fleet's repository."""
    commit: str


class LiveBody(Frozen):
    """How far the round of a live run is, where the reconciler follows it; not on record."""

    last_output_at: str | None
    turns: Id | None
    """Turns so far. None here and below: its CLI does not tell as it goes."""
    input_tokens: Id | None
    """Cached ones not counted."""
    output_tokens: Id | None
    cached_tokens: Id | None


class TaskBody(Frozen):
    """A task: what is asked for, and where it stands."""

    name: str
    title: str
    goal: str
    execution_mode: str
    repo: str | None
    priority: Annotated[int, Field(ge=-1000, le=1000)]
    phase: str
    """`created` too for a task that is not on record yet."""
    since: str | None
    created_at: str | None
    waiting: str | None
    """What it waits for, as a message."""
    waiting_reason: str | None
    question: str | None
    """What its agent asks, and nobody has answered."""
    question_id: str | None
    """To be named by the answer."""
    attempt: Id
    epoch: Id
    review_count: Id
    assigned_host: str | None
    assigned_agent: str | None
    run: str | None
    branch_name: str | None
    head_commit: str | None
    pull_request: str | None
    """Its address."""
    failure: str | None
    last_activity_at: str | None
    live: LiveBody | None
    usage: Usage


class RunBody(Frozen):
    """A live run."""

    run: str
    task: str
    phase: str
    since: str
    attempt: Id
    round: Id
    assigned_host: str | None
    assigned_agent: str | None
    branch_name: str | None
    last_activity_at: str | None
    live: LiveBody | None


class HostBody(Frozen):
    """A host: what is asked for, what is known, what is in use."""

    name: str
    address: str | None
    """None: the machine of the reconciler."""
    labels: tuple[str, ...]
    desired: str
    cordon: bool
    drain: bool
    slots: Id
    used_slots: Id
    reachable: bool | None
    """None: not asked yet."""
    since: str | None
    """When it last came or went, or runs could start there again or no longer."""
    message: str
    fault: str
    """Why no run can start there though it answers; empty if one can."""


class CampaignBody(Frozen):
    """A campaign: how far its tasks are."""

    name: str
    state: str
    """in pilot, under way, halted, done, ended (not all of it well) or broken."""
    tasks: Id
    """How many it has."""
    completed: Id
    failed: Id
    """Escalated ones too."""
    cancelled: Id
    live: Id
    in_review: Id
    waiting: Id
    reason: str | None
    """What keeps more of them from beginning: Halted, Pilot or Width; None: nothing."""
    message: str


class AgentBody(Frozen):
    """An outside agent."""

    name: str
    capabilities: tuple[str, ...]
    scopes: tuple[str, ...]
    desired: str
    slots: Id
    held: tuple[str, ...]
    """Tasks it holds now."""
    tokens: Id
    """Number of valid tokens; two during a rotation."""
    expires: str | None
    last_used_at: str | None
    """Time of its last request, with any of its tokens."""


ActionKind = Literal["record", "start", "follow", "stop"]


class PlannedAction(Frozen):
    """Something that is done, or is to be done, now."""

    kind: ActionKind
    task: str
    reason: str


class PlannedWait(Frozen):
    """What a task waits for."""

    task: str
    reason: str
    message: str
    since: str


class PlanBody(Frozen):
    """The last plan."""

    revision: str
    """Commit of the specs."""
    due: str | None
    """When something may change by itself."""
    actions: tuple[PlannedAction, ...]
    waiting: tuple[PlannedWait, ...]
    """The first ones by name; `/tasks` pages through all."""
    waiting_count: Id
    """How many wait in all."""


class HistoryEntryBody(Frozen):
    """One transition of a task, or a change of a host or an account."""

    at: str
    task: str | None
    """None: a change of a host or an account."""
    before: str | None
    after: str | None
    reason: str
    host: str | None
    account: str | None
    run: str | None
    actor: str
    cause: str
    revision: str | None
    """Commit of the specs that were in force."""
    commit: str
    """Of the state branch; the id of the event in the stream."""


class HealthBody(Frozen):
    """Health of the reconciler."""

    status: Literal["ok"] = "ok"
    revision: str | None = None
    """Commit of the specs that are in force."""
    state: str | None = None
    """Commit of the state branch."""


# --- Parameters ------------------------------------------------------------


class PageQuery(Frozen):
    """Page of a list."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    """Most entries."""
    cursor: Annotated[str, Field(min_length=1, max_length=300)] | None = None
    """End of the previous page, from its `Link` header."""


class TasksQuery(PageQuery):
    """Filters of a list of tasks."""

    phase: Phase | None = None
    execution_mode: ExecutionMode | None = None
    repo: str | None = None
    assigned_host: str | None = None
    assigned_agent: str | None = None


class PlanQuery(Frozen):
    """Page of the plan."""

    limit: Annotated[int, Field(ge=0, le=1000)] = 100
    """Most of the tasks that wait."""


class RunsQuery(PageQuery):
    """Filters of a list of live runs."""

    assigned_host: str | None = None
    assigned_agent: str | None = None


class HistoryQuery(PageQuery):
    """Which part of the history."""

    cursor: Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")] | None = None
    """Commit of the state branch; older ones follow."""
    task: Name | None = None


class LogQuery(Frozen):
    """Position of a log chunk."""

    offset: Annotated[int, Field(ge=0, le=_LARGEST)]
    """Byte offset in the log at which the chunk begins."""
    epoch: Epoch


class FieldProblem(Frozen):
    """What is wrong with one field of a request."""

    field: str
    message: str


class ProblemDetails(Frozen):
    """An error, as RFC 9457 has it (`application/problem+json`)."""

    type: str = "about:blank"
    title: str
    """What kind of error."""
    status: Id
    detail: str
    """What happened and what to do now."""
    errors: tuple[FieldProblem, ...] = ()
    acknowledged_offset: Id | None = None
    """Of a log with a gap (409): bytes stored so far; send from there."""
