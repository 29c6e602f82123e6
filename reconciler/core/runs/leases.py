"""
Outside agents that pull: which task one gets, what its word means, when it has lost its task.

The epoch that an agent names in every report is the number of the attempt it
was given: it grows with each lease, so that a stale agent is refused.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta

from reconciler.core.errors import LeaseLost, NotFound, NotNow
from reconciler.core.events import (
    Cancelled,
    Event,
    Failed,
    Origin,
    Reported,
    Retried,
    RunEnded,
    Started,
    WorkerReport,
)
from reconciler.core.fields import format_duration
from reconciler.core.lifecycle import transition
from reconciler.core.model.runs import Claim, Declaration, FailureClass, Report, Verdict, read_run_key
from reconciler.core.model.specs import Agent, Desired, ExecutionMode, FleetSpec, Task
from reconciler.core.model.status import Failure, LeaseRequest, Phase, Reason, Status, Waiting
from reconciler.core.runs.decide import backoff, bounded, is_unwanted, next_event
from reconciler.core.text import one_line

HEARTBEATS = 3
"""How often an agent is told to report in the time of a lease: one lost message must not cost the task."""

CHECKING = "what the agent has finished is being checked"


def heartbeat(fleet: FleetSpec) -> timedelta:
    """Return how often agents are told to say that they are alive."""
    return fleet.lease / HEARTBEATS


# --- Who gets what ---------------------------------------------------------


class LeaseQueue:
    """The agents that wait for a task, while tasks are handed out."""

    def __init__(
        self, desired: Desired, lease_requests: Iterable[LeaseRequest], held: Mapping[str, int]
    ) -> None:
        """Hand out to those who ask; `held` says how many tasks agents hold."""
        self._desired = desired
        self._held = Counter(held)
        self._lease_requests = [
            lease_request for lease_request in lease_requests if self._has_room(lease_request)
        ]
        self._refused: set[tuple[str, ...]] = set()
        self._is_possible: dict[tuple[str, ...], bool] = {}
        self._labels_of: dict[LeaseRequest, AbstractSet[str]] = {}

    def take(self, task: Task, *, only: str | None = None) -> LeaseRequest | None:
        """
        Return the bid that gets the task: of those that fit the one that is preferred, then the first.

        With `only`, no other agent gets it.
        """
        if not self._lease_requests or task.requires in self._refused:
            return None
        fitting = [
            lease_request
            for lease_request in self._lease_requests
            if not _lacking(task, self._labels(lease_request))
        ]
        if not fitting:
            self._refused.add(task.requires)
            return None
        fitting = [lease_request for lease_request in fitting if only in {None, lease_request.agent}]
        if not fitting:
            return None
        lease_request = max(
            fitting, key=lambda lease_request: len(self._labels(lease_request) & {*task.prefer})
        )
        self._held[lease_request.agent] += 1
        has_room = self._has_room(lease_request)  # nobody else's changes
        self._lease_requests = [
            other
            for other in self._lease_requests
            if other is not lease_request and (has_room or other.agent != lease_request.agent)
        ]
        return lease_request

    def why_none(self, task: Task) -> str:
        """Return, in words that stay the same while agents come and go, what a task waits for."""
        if self._is_for_anybody(task):
            return f"waits for an agent to take it over HTTP{', in its window' if task.window else ''}"
        if not self._desired.agents:
            return "no agent fits: there is none in specs/agents"
        return f"no agent fits: none has {', '.join(task.requires)}"

    def _is_for_anybody(self, task: Task) -> bool:
        """Return whether an agent has what a task requires; asked once for all that require the same."""
        if task.requires not in self._is_possible:
            agents = self._desired.agents.values()
            self._is_possible[task.requires] = any(not _lacking(task, _labels(agent)) for agent in agents)
        return self._is_possible[task.requires]

    def _has_room(self, lease_request: LeaseRequest) -> bool:
        agent = self._desired.agents.get(lease_request.agent)
        return (
            agent is not None and agent.desired == "active" and self._held[lease_request.agent] < agent.slots
        )

    def _labels(self, lease_request: LeaseRequest) -> AbstractSet[str]:
        """Return what an agent says it can do; made once, however many tasks are handed out."""
        if lease_request not in self._labels_of:
            self._labels_of[lease_request] = self._made_labels(lease_request)
        return self._labels_of[lease_request]

    def _made_labels(self, lease_request: LeaseRequest) -> AbstractSet[str]:
        labels = _labels(self._desired.agents[lease_request.agent])
        return (
            labels & {*lease_request.capabilities, lease_request.agent}
            if lease_request.capabilities
            else labels
        )


def held_now(statuses: Iterable[Status]) -> Counter[str]:
    """Count the tasks that agents hold, by agent; what is being checked is not held any more."""
    held = (status for status in statuses if status.phase.is_live and status.claim is None)
    return Counter(status.assigned_agent for status in held if status.assigned_agent)


def _labels(agent: Agent) -> AbstractSet[str]:
    return {*agent.capabilities, agent.name}


def _lacking(task: Task, labels: Collection[str]) -> list[str]:
    return [label for label in task.requires if label not in labels]


# --- What they say ---------------------------------------------------------


def holder(
    tasks: Mapping[str, Task], statuses: Mapping[str, Status], task: str, agent: str, epoch: int
) -> tuple[str, Status]:
    """
    Return the task by the name it has by now, and its status, if its last run is this agent's.

    Raises NotFound, NotNow for a task that is not handed out to agents, LeaseLost.
    """
    name = _name_by_now(statuses, task, epoch)
    spec, status = tasks.get(name), statuses.get(name)
    if spec is None and status is None:
        raise NotFound(f"no task {task!r}; `GET /api/v1/tasks` lists them")
    if status is None or status.assigned_agent != agent:
        if spec is not None and spec.execution_mode is not ExecutionMode.HTTP_PULL:
            raise NotNow(
                f"task {name} is run by the reconciler (ssh_cli); only http_pull tasks are handed out"
            )
        raise LeaseLost(f"task {name} is not yours; stop working on it, and dequeue another")
    if status.attempt != epoch:
        raise LeaseLost(
            f"task {name} is at epoch {status.attempt}, and yours was {epoch}: the lease is lost; "
            "stop working on it, and dequeue another"
        )
    return name, status


def _name_by_now(statuses: Mapping[str, Status], task: str, epoch: int) -> str:
    """Return the name of a task whose file may have moved since, and another may have come where it was."""
    status = statuses.get(task)
    if status is not None and _is_attempt(status, task, epoch):
        return task
    return next((name for name, status in statuses.items() if _is_attempt(status, task, epoch)), task)


def _is_attempt(status: Status, task: str, epoch: int) -> bool:
    return status.run is not None and read_run_key(status.run.key) == (task, epoch)


def report_event(
    task: Task | None, status: Status, report: WorkerReport, now: datetime, fleet: FleetSpec
) -> Sequence[Event]:
    """
    Return what the word of a task's last holder means; nothing for what was said already.

    A claim that has to be checked stands on record until it is; any other is
    judged at once. Raises NotNow or LeaseLost if it comes too late.
    """
    if report.claim is not None and report.claim == status.claim:
        return ()
    require_held(report.task, status)
    if status.claim is not None:
        raise NotNow(
            f"task {report.task}: you reported {status.claim.outcome} already, and that is being checked"
        )
    run = status.last_run
    if report.claim is None:
        origin = Origin(report.at, f"agent {report.agent} began", "agent", report.agent)
        begins = status.phase is Phase.ASSIGNED
        return (Started(task=report.task, origin=origin, run=run.key),) if begins else ()
    judged = report_of(status, report.claim)
    waiting = Waiting(reason=Reason.CHECK, message=CHECKING, since=report.at) if judged is None else None
    origin = Origin(report.at, _claim_text(report.agent, report.claim), "agent", report.agent)
    reported = Reported(task=report.task, origin=origin, run=run.key, claim=report.claim, waiting=waiting)
    after = transition(status, reported)
    if after is None or judged is None:
        return (reported,)
    ended = RunEnded(task=report.task, run=run.key, round=run.round, at=report.at, report=judged)
    event = next_event(task, after, ended, now, fleet)
    return (reported, event) if event else (reported,)


def is_to_check(status: Status) -> bool:
    """Return whether an agent says that its work is finished, and nobody has looked yet."""
    return status.phase.is_live and status.claim is not None and report_of(status, status.claim) is None


def report_of(status: Status, claim: Claim) -> Report | None:
    """Return what a claim comes to; None if that has to be looked at first."""
    if claim.outcome == "asks":
        question = Declaration(kind="question", text=claim.result)
        return Report(verdict=Verdict(outcome="success", usage=claim.usage), declared=question)
    verdict = _verdict_of(status, claim)
    return Report(verdict=verdict) if verdict else None


def _verdict_of(status: Status, claim: Claim) -> Verdict | None:
    message = one_line(claim.result)
    if claim.outcome in {"released", "failed"}:
        is_back = claim.outcome == "released"
        return Verdict(
            outcome="failed",
            kind=FailureClass.CANCELLED if is_back else FailureClass.AGENT,
            message=message or ("the agent gave it back" if is_back else "the agent says that it failed"),
            text=claim.result,
            usage=claim.usage,
        )
    if status.last_run.repo:
        return None
    return Verdict(outcome="success", text=claim.result, usage=claim.usage)


def _claim_text(agent: str, claim: Claim) -> str:
    message = one_line(claim.result)
    return f"agent {agent} reports {claim.outcome}{f': {message}' if message else ''}"


def require_held(name: str, status: Status) -> None:
    """Raise NotNow or LeaseLost unless the task is still in the hands of who had it last."""
    if status.phase.is_live:
        return
    if status.claim is not None:
        raise NotNow(f"task {name} is {status.phase}: you reported {status.claim.outcome}, and that is done")
    raise LeaseLost(
        f"task {name} is {status.phase} and not yours any more; stop working on it, and dequeue another"
    )


# --- When it is lost -------------------------------------------------------


def lease_end(
    status: Status, spec: Task | None, leases: Mapping[str, datetime], began: datetime | None = None
) -> datetime | None:
    """
    Return when the task is taken from the agent that holds it, unless something is heard; None: never.

    `began` is when it was given to it by the clock as it is set now, if not as on record.
    """
    run = status.live_run
    if run is None or status.assigned_agent is None or status.claim is not None:
        return None
    ends = leases.get(run.key), (began or status.since) + spec.timeout if spec else None
    return min((end for end in ends if end is not None), default=None)


def lease_lost(
    name: str,
    spec: Task | None,
    status: Status,
    now: datetime,
    fleet: FleetSpec,
    *,
    began: datetime | None = None,
) -> Event:
    """
    Return how a task goes on without the agent that held it.

    Silence follows the task's `disconnect`: `wait` frees the task and counts
    as no failure, `retry` counts, `fail` ends it. What took too long counts.
    """
    run, agent = status.last_run.key, status.assigned_agent
    is_late = spec is not None and (began or status.since) + spec.timeout <= now
    message = (
        f"agent {agent} took longer than {format_duration(spec.timeout)}"
        if spec and is_late
        else f"agent {agent} gave no sign of life for {format_duration(fleet.lease)}"
    )
    origin = Origin(now, message, "clock")
    if is_unwanted(spec, status):
        return Cancelled(task=name, origin=origin)
    failure = Failure(kind=FailureClass.TIMEOUT if is_late else FailureClass.HOST, message=message)
    counts = spec is not None and (is_late or spec.disconnect != "wait")
    is_last = spec is None or status.failures >= spec.retries or (not is_late and spec.disconnect == "fail")
    if counts and is_last:
        return Failed(task=name, origin=origin, run=run, failure=failure)
    wait = backoff(status.attempt, base=fleet.backoff, cap=fleet.backoff_cap, key=run)
    again = Retried(
        task=name, origin=origin, run=run, failure=failure, report=None, not_before=now + wait, counts=counts
    )
    return again if counts else bounded(again, status)
