"""
What is shown of things: what is asked for beside what is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from reconciler.api.services import TransitionEntry
from reconciler.controller.ports import Controller
from reconciler.core.adapter import Usage
from reconciler.core.fields import format_time
from reconciler.core.model.runs import Assignment
from reconciler.core.model.specs import Agent, ExecutionMode, Host
from reconciler.core.model.status import Phase, Status
from reconciler.core.planning.plan import Action, FollowRun, RecordEvent, StartRun, StopRun
from reconciler.core.runs.leases import heartbeat
from reconciler.wire import (
    ActionKind,
    AgentBody,
    HistoryEntryBody,
    HostBody,
    Lease,
    PlanBody,
    PlannedAction,
    PlannedWait,
    Progress,
    RepoBody,
    RunBody,
    TaskBody,
)


def lease_view(assignment: Assignment, desk: Controller, whole_url: Callable[[str], str]) -> Lease:
    """Return what an agent is told of the task it holds now."""
    fleet, repo = desk.desired.fleet, assignment.repo
    url = whole_url(repo.url) if repo else ""
    return Lease(
        task=assignment.task,
        title=assignment.title,
        lease=assignment.run,
        epoch=assignment.epoch,
        lease_seconds=fleet.lease.total_seconds(),
        heartbeat_seconds=heartbeat(fleet).total_seconds(),
        timeout_seconds=assignment.timeout.total_seconds(),
        prompt=assignment.prompt,
        repo=RepoBody(name=repo.name, url=url, base=repo.base, paths=repo.paths) if repo else None,
        branch=assignment.branch,
        start_from=assignment.start_from,
        validation=assignment.validation,
        review=assignment.review,
    )


def progress_view(task: str, status: Status) -> Progress:
    """Return where a task stands after a report."""
    return Progress(
        task=task,
        phase=status.phase,
        is_checking=status.claim is not None and status.phase.is_live,
        message=_failure(status) or (status.waiting.message if status.waiting else ""),
    )


def all_task_names(desk: Controller) -> set[str]:
    """Return every task that is asked for or on record."""
    return {*desk.desired.tasks, *desk.desired.broken, *desk.statuses, *desk.damaged}


LastOutput = Callable[[str, int], datetime | None]
"""Return when a round of a run printed last, where it is followed."""


def task_view(name: str, desk: Controller, last_output: LastOutput = lambda *_: None) -> TaskBody:
    """Return a task: what is asked for, and where it stands."""
    spec, status = desk.desired.tasks.get(name), desk.statuses.get(name)
    reason, words = _waiting(name, desk)
    return TaskBody(
        name=name,
        title=spec.headline if spec else name,
        goal=spec.goal if spec else "",
        execution_mode=execution_mode(name, desk),
        repo=repo_of(name, desk),
        priority=spec.priority if spec else 0,
        waiting=words,
        waiting_reason=reason,
        **(_stand(status, last_output) if status else _NO_STAND),
    )


def _last_activity(status: Status, last_output: LastOutput) -> str | None:
    """Return the last sign of life: on record, or where a live run is followed."""
    printed = last_output(status.run, status.round) if status.run and status.phase.is_live else None
    return _time(max(filter(None, (status.last_activity_at, printed)), default=None))


def _stand(status: Status, last_output: LastOutput) -> dict[str, Any]:
    return {
        "phase": status.phase,
        "since": format_time(status.since),
        "created_at": format_time(status.created_at),
        "attempt": status.attempt,
        "epoch": status.attempt,
        "review_count": status.review.count,
        "assigned_host": status.assigned_host,
        "assigned_agent": status.assigned_agent,
        "run": status.run,
        "branch_name": status.branch_name,
        "head_commit": status.head_commit,
        "pull_request": status.review.pull_request.url if status.review.pull_request else None,
        "failure": _failure(status),
        "last_activity_at": _last_activity(status, last_output),
        "usage": status.usage,
    }


_NO_STAND = {
    **dict.fromkeys(("since", "created_at", "assigned_host", "assigned_agent", "run")),
    **dict.fromkeys(("branch_name", "head_commit", "pull_request", "failure", "last_activity_at")),
    **dict.fromkeys(("attempt", "epoch", "review_count"), 0),
    "phase": Phase.CREATED,
    "usage": Usage(),
}
"""Of a task that is not on record yet."""


def repo_of(name: str, desk: Controller) -> str | None:
    """Return the repo of a task; of one whose spec is gone, where it was worked on."""
    spec, status = desk.desired.tasks.get(name), desk.statuses.get(name)
    if spec is not None:
        return spec.repo
    return status.repo if status else None


def filter_fields(name: str, desk: Controller) -> dict[str, str | None]:
    """Return what a task can be found by, as `TasksQuery` names it."""
    status = desk.statuses.get(name)
    return {
        "phase": status.phase if status else Phase.CREATED,
        "execution_mode": execution_mode(name, desk),
        "repo": repo_of(name, desk),
        "assigned_host": status.assigned_host if status else None,
        "assigned_agent": status.assigned_agent if status else None,
    }


def execution_mode(name: str, desk: Controller) -> ExecutionMode:
    """Return who runs a task; of one whose spec is gone, who did."""
    spec, status = desk.desired.tasks.get(name), desk.statuses.get(name)
    if spec is not None:
        return spec.execution_mode
    return ExecutionMode.HTTP_PULL if status and status.assigned_agent else ExecutionMode.SSH_CLI


def live_runs(desk: Controller, last_output: LastOutput = lambda *_: None) -> Iterator[RunBody]:
    """Yield every live run."""
    for task, status in desk.statuses.items():
        if status.phase.is_live and status.run:
            yield RunBody(
                run=status.run,
                task=task,
                phase=status.phase,
                since=format_time(status.since),
                attempt=status.attempt,
                round=status.round,
                assigned_host=status.assigned_host,
                assigned_agent=status.assigned_agent,
                branch_name=status.branch_name,
                last_activity_at=_last_activity(status, last_output),
            )


def host_view(host: Host, desk: Controller) -> HostBody:
    """Return a host: what is asked for, what is known, what is in use."""
    status = desk.hosts.get(host.name)
    live = (one for one in desk.statuses.values() if one.phase.is_live and one.assigned_host == host.name)
    return HostBody(
        name=host.name,
        address=host.address,
        labels=host.labels,
        desired=host.desired,
        cordon=host.cordon,
        drain=host.drain,
        slots=host.slots,
        used_slots=sum(one.slots for one in live),
        reachable=status.reachable if status else None,
        since=format_time(status.since) if status else None,
        message=status.message if status else "",
        fault=status.fault if status else "",
    )


def agent_view(agent: Agent, desk: Controller, last_used: datetime | None) -> AgentBody:
    """Return an outside agent, and what it holds."""
    statuses = desk.statuses.items()
    return AgentBody(
        name=agent.name,
        capabilities=agent.capabilities,
        scopes=agent.scopes,
        desired=agent.desired,
        slots=agent.slots,
        held=tuple(sorted(name for name, status in statuses if is_holder(agent.name, status))),
        tokens=len(agent.token_hash),
        expires=_time(agent.expires),
        last_used_at=_time(last_used),
    )


def is_holder(agent: str, status: Status | None) -> bool:
    """Return whether an agent has a task in its hands."""
    return status is not None and status.phase.is_live and status.assigned_agent == agent


_KINDS: Mapping[type[Action], ActionKind] = {
    RecordEvent: "record",
    StartRun: "start",
    FollowRun: "follow",
    StopRun: "stop",
}


def plan_view(desk: Controller, most: int) -> PlanBody:
    """Return what the last look came to, with the first of the tasks that wait."""
    plan = desk.last_plan
    waiting = [(name, plan.waiting[name]) for name in sorted(plan.waiting)[:most]]
    return PlanBody(
        revision=desk.desired.revision,
        due=_time(plan.due),
        actions=tuple(
            PlannedAction(kind=_KINDS[type(action)], task=action.task, reason=action.reason)
            for action in plan.actions
        ),
        waiting=tuple(
            PlannedWait(task=name, reason=wait.reason, message=wait.message, since=format_time(wait.since))
            for name, wait in waiting
        ),
        waiting_count=len(plan.waiting),
    )


def entry_view(entry: TransitionEntry) -> HistoryEntryBody:
    """Return one step of the history."""
    return HistoryEntryBody(
        at=format_time(entry.at),
        task=entry.task,
        before=entry.before,
        after=entry.after,
        reason=entry.reason,
        host=entry.host,
        run=entry.run,
        actor=entry.actor,
        cause=entry.cause,
        revision=entry.revision,
        commit=entry.commit,
    )


def entry_views(entries: Sequence[TransitionEntry]) -> Sequence[HistoryEntryBody]:
    """Return steps of the history."""
    return [entry_view(entry) for entry in entries]


def _waiting(name: str, desk: Controller) -> tuple[str | None, str | None]:
    """Return what a task waits for: a word for programs, and words for people."""
    status, problems = desk.statuses.get(name), desk.desired.broken.get(name, ())
    waiting = status.waiting if status else desk.last_plan.waiting.get(name)
    if waiting is None:
        return ("SpecError", str(problems[0])) if problems else (None, None)
    return waiting.reason, waiting.message


def _failure(status: Status) -> str | None:
    return f"{status.failure.kind}: {status.failure.message}" if status.failure else None


def _time(time: datetime | None) -> str | None:
    return format_time(time) if time else None
