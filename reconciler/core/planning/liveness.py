"""
Hosts and agents that fell silent, and what becomes of the runs on them.
"""

from collections.abc import Iterator
from datetime import datetime

from reconciler.core.events import Event
from reconciler.core.fields import format_duration
from reconciler.core.model.specs import Task
from reconciler.core.model.status import Phase, Status
from reconciler.core.planning.context import PlanContext
from reconciler.core.runs.decide import host_lost
from reconciler.core.runs.leases import lease_end, lease_lost
from reconciler.core.times import format_time


def host_silence(context: PlanContext, status: Status) -> str | None:
    """Return, in words, that the host of a live run has been silent for too long; None if it has not."""
    since = _silent_since(context, status)
    if since is None or since + context.desired.fleet.lost_after > context.now:
        return None
    return f"host {status.assigned_host} has not answered since {format_time(since)}"


def host_loss(context: PlanContext, spec: Task, status: Status) -> Event | None:
    """Return how a task goes on without its run on a silent host, or with a silent agent; None if with it."""
    if status.assigned_agent is not None:
        return worker_loss(context, spec.name, spec, status)
    message = host_silence(context, status) if spec.disconnect != "wait" else None
    return host_lost(spec, status, message, context.now, context.desired.fleet) if message else None


def worker_loss(context: PlanContext, name: str, spec: Task | None, status: Status) -> Event | None:
    """Return how a task goes on whose agent has lost its lease; None if it has not."""
    run = status.live_run
    if run is None:
        return None
    began = context.observed.began(run.key, status.since)
    ends = lease_end(status, spec, context.observed.leases, began)
    if ends is None or ends > context.now:
        return None
    return lease_lost(name, spec, status, context.now, context.desired.fleet, began=began)


def deadline_end(spec: Task | None, status: Status) -> datetime | None:
    """Return when the deadline of a task that was started is over; None: it has none, or was not."""
    is_open = status.phase is Phase.CREATED or status.phase.is_live
    if spec is None or spec.deadline is None or status.began_at is None or not is_open:
        return None
    return status.began_at + spec.deadline


def deadline_reached(spec: Task | None, status: Status, now: datetime) -> str | None:
    """Return, as text, that the deadline of a task is over; None if it is not."""
    end = deadline_end(spec, status)
    if spec is None or spec.deadline is None or end is None or end > now:
        return None
    return f"the deadline of {format_duration(spec.deadline)} for all its attempts is over"


def silence_deadlines(context: PlanContext) -> Iterator[datetime]:
    """Yield when hosts and agents will have been silent for too long."""
    for name, status in context.statuses.items():
        run = status.live_run
        if name not in context.names or run is None:
            continue
        began = context.observed.began(run.key, status.since)
        ends = lease_end(status, context.desired.tasks.get(name), context.observed.leases, began)
        if ends is not None and ends > context.now:
            yield ends
        since = _silent_since(context, status)
        if since is not None and (time := since + context.desired.fleet.lost_after) > context.now:
            yield time


def _silent_since(context: PlanContext, status: Status) -> datetime | None:
    """
    Return since when the host of a live run is silent.

    Only a host that this process has asked itself is silent: what is on record
    may be from before a time in which nobody asked.
    """
    host = status.assigned_host or ""
    probe = context.observed.hosts.get(host)
    is_silent = (
        host in context.desired.hosts and host in context.observed.probed and probe and not probe.reachable
    )
    if not (status.phase.is_live and is_silent and probe):
        return None
    return context.observed.began(host, probe.since)
