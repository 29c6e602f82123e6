"""
Bodies of the API's answers, built from the read model.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from hashlib import sha256

from reconciler.controller.ports import FleetView
from reconciler.core.figures import LiveFigures
from reconciler.core.model.runs import Assignment
from reconciler.core.model.status import Phase, Status
from reconciler.core.planning.plan import Action, FollowRun, RecordEvent, StartRun, StopRun
from reconciler.core.runs.leases import heartbeat
from reconciler.core.times import EARLIEST, format_time
from reconciler.core.transitions import TransitionRecord, transition_document
from reconciler.core.views import (
    CampaignView,
    HostView,
    ReadModel,
    TaskView,
    WorkerView,
    forge_waits,
    observed_on_record,
)
from reconciler.wire import (
    ActionKind,
    AgentBody,
    CampaignBody,
    HistoryEntryBody,
    HostBody,
    Lease,
    LiveBody,
    PlanBody,
    PlannedAction,
    PlannedWait,
    Progress,
    RepoBody,
    RunBody,
    TaskBody,
)


def lease_body(assignment: Assignment, view: FleetView, whole_url: Callable[[str], str]) -> Lease:
    """Return the lease of a task, as its holder gets it."""
    fleet, repo = view.desired.fleet, assignment.repo
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
        answer=assignment.answer,
        repo=RepoBody(name=repo.name, url=url, base=repo.base, paths=repo.paths) if repo else None,
        branch=assignment.branch,
        start_from=assignment.start_from,
        validation=assignment.validation,
        review=assignment.review,
    )


def progress_body(task: str, status: Status) -> Progress:
    """Return the progress of a task after a report."""
    view = TaskView(task, None, status)
    return Progress(
        task=task,
        phase=view.phase,
        is_checking=status.claim is not None and view.is_live,
        message=view.failure or (view.blocker.message if view.blocker else ""),
    )


def read_model(view: FleetView) -> ReadModel:
    """Return the read model of the whole fleet: of the loop's cache, and of other shards if there are any."""
    own, others = own_model(view), view.elsewhere()
    if others is None:
        return own
    observed = observed_on_record(
        {**others.statuses, **view.statuses},
        {**others.hosts, **view.hosts},
        {**others.damaged, **view.damaged},
        {**others.accounts, **view.accounts},
        {**others.shards, **dict.fromkeys((*view.statuses, *view.damaged), others.shard)},
    )
    return replace(own, desired=others.desired, observed=observed)


def own_model(view: FleetView) -> ReadModel:
    """Return the read model of the loop's cache."""
    return ReadModel(
        view.desired,
        observed_on_record(view.statuses, view.hosts, view.damaged, view.accounts),
        planned=view.last_plan.waiting,
        unrecorded=forge_waits(view.desired, view.statuses, view.forge_outages()),
    )


def state_version(view: FleetView, head: str) -> str:
    """Return what changes with what is shown: the record, the specs, and which forges do not answer."""
    outages, others = view.forge_outages(), view.elsewhere()
    head = f"{head}-{others.version}" if others else head
    mark = f"-{sha256(repr(sorted(outages.items())).encode()).hexdigest()[:12]}" if outages else ""
    return f"{head}-{view.desired.revision}{mark}"


def task_body(view: TaskView) -> TaskBody:
    """Return a task: what is asked for, and where it stands."""
    status, blocker = view.status or _UNRECORDED, view.blocker
    run = status.run
    return TaskBody(
        name=view.name,
        title=view.title,
        goal=view.spec.goal if view.spec else "",
        execution_mode=view.execution_mode,
        repo=view.repo,
        priority=view.spec.priority if view.spec else 0,
        phase=view.phase,
        since=_time(view.since),
        created_at=_time(view.status.created_at if view.status else None),
        waiting=blocker.message if blocker else None,
        waiting_reason=blocker.reason if blocker else None,
        question=view.question.text if view.question else None,
        question_id=view.question.id if view.question else None,
        attempt=status.attempt,
        epoch=status.attempt,
        review_count=status.review.count,
        assigned_host=view.assigned_host,
        assigned_agent=view.assigned_agent,
        run=run.key if run else None,
        branch_name=run.branch if run else None,
        head_commit=status.head_commit,
        pull_request=status.review.pull_request.url if status.review.pull_request else None,
        failure=view.failure,
        last_activity_at=_time(view.last_activity_at),
        live=live_body(view.live) if view.live else None,
        usage=status.usage,
    )


_UNRECORDED = Status(phase=Phase.CREATED, since=EARLIEST, created_at=EARLIEST, generation="", work="")
"""Status of a task that is not on record yet; its times are left out."""


def live_body(figures: LiveFigures) -> LiveBody:
    """Return how far a live run is."""
    return LiveBody(
        last_output_at=_time(figures.last_output_at),
        turns=figures.turns,
        input_tokens=figures.input_tokens,
        output_tokens=figures.output_tokens,
        cached_tokens=figures.cached_tokens,
    )


def run_body(view: TaskView) -> RunBody:
    """Return the live run of a task."""
    status = view.status or _UNRECORDED
    run = status.last_run
    return RunBody(
        run=run.key,
        task=view.name,
        phase=view.phase,
        since=format_time(status.since),
        attempt=status.attempt,
        round=run.round,
        assigned_host=view.assigned_host,
        assigned_agent=view.assigned_agent,
        branch_name=run.branch,
        last_activity_at=_time(view.last_activity_at),
        live=live_body(view.live) if view.live else None,
    )


def host_body(view: HostView) -> HostBody:
    """Return a host: what is asked for, what is known, what is in use."""
    host, status = view.spec, view.status
    return HostBody(
        name=view.name,
        address=host.address,
        labels=host.labels,
        desired=host.desired,
        cordon=host.cordon,
        drain=host.drain,
        slots=host.slots,
        used_slots=view.used,
        reachable=status.reachable if status else None,
        since=_time(status.since if status else None),
        message=status.message if status else "",
        fault=status.fault if status else "",
    )


def campaign_body(view: CampaignView) -> CampaignBody:
    """Return how far the tasks of a campaign are."""
    gate = view.gate
    return CampaignBody(
        name=view.name,
        state=view.state,
        tasks=len(view.tasks),
        **view.counts,
        reason=gate.reason if gate else None,
        message=gate.message if gate else "",
    )


def worker_body(view: WorkerView, last_used: datetime | None) -> AgentBody:
    """Return an outside agent, and what it holds."""
    agent = view.spec
    return AgentBody(
        name=view.name,
        capabilities=agent.capabilities,
        scopes=agent.scopes,
        desired=agent.desired,
        slots=agent.slots,
        held=view.held,
        tokens=len(agent.token_hash),
        expires=_time(agent.expires),
        last_used_at=_time(last_used),
    )


_KINDS: Mapping[type[Action], ActionKind] = {
    RecordEvent: "record",
    StartRun: "start",
    FollowRun: "follow",
    StopRun: "stop",
}


def plan_body(view: FleetView, most: int) -> PlanBody:
    """Return the last plan, with the first of the waiting tasks."""
    plan = view.last_plan
    waits = view.waiting
    waiting = [(name, waits[name]) for name in sorted(waits)[:most]]
    return PlanBody(
        revision=view.desired.revision,
        due=_time(plan.due),
        actions=tuple(
            PlannedAction(kind=_KINDS[type(action)], task=action.task, reason=action.reason)
            for action in plan.actions
        ),
        waiting=tuple(
            PlannedWait(task=name, reason=wait.reason, message=wait.message, since=format_time(wait.since))
            for name, wait in waiting
        ),
        waiting_count=len(waits),
    )


def history_body(record: TransitionRecord) -> HistoryEntryBody:
    """Return one step of the history."""
    return HistoryEntryBody.model_validate(transition_document(record))


def _time(time: datetime | None) -> str | None:
    return format_time(time) if time else None
