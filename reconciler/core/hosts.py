"""
Host status: circuit breaker for starts, and which changes are recorded.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from reconciler.core.model.status import HostStatus, Status


@dataclass(frozen=True, slots=True)
class HostChange:
    """A recorded change of a host's status: a commit on the state branch."""

    host: str
    before: HostStatus | None
    """None: it had no status yet."""
    after: HostStatus | None
    """None: its spec was removed, and so its status file is."""
    at: datetime
    reason: str


FAILED_STARTS = 3
"""After failures of this many tasks in a row a breaker opens: the host gets no runs for a while."""
_FIRST_REST, _LONGEST_REST = timedelta(minutes=1), timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Starts:
    """
    Circuit breaker: how the last starts of runs on one host went, or the last runs that did start.

    After failures of several tasks in a row it opens until a time, twice as
    long after each failed trial; then it is half open and lets one run through.
    """

    failed: frozenset[str] = frozenset()
    """Tasks whose run failed by the host since the last that did not."""
    fault: str = ""
    """Why the host gets no run; unchanged until one succeeds. Empty while it is closed."""
    rest: timedelta = _FIRST_REST
    until: datetime | None = None
    """When it becomes half open; None while it is closed."""

    def is_half_open(self, now: datetime) -> bool:
        """Return whether one trial run may start."""
        return self.until is not None and self.until <= now

    def is_tried_by(self, status: Status) -> bool:
        """Return whether the live run of a task began since it was half open."""
        return status.live_run is not None and self.until is not None and status.since >= self.until


STARTS, RUNS = "could not start", "were ended by a fault of the host"
"""What failed, as the text of a fault."""


def after_failure(starts: Starts, task: str, what: str, why: str, now: datetime) -> Starts:
    """Return the breaker after one more failed start, or run."""
    failed = starts.failed | {task}
    if starts.until is not None:
        if starts.until > now:  # it was under way when the others failed
            return replace(starts, failed=failed)
        rest = min(starts.rest * 2, _LONGEST_REST)
        return replace(starts, failed=failed, rest=rest, until=now + rest)
    if len(failed) < FAILED_STARTS:
        return replace(starts, failed=failed)
    message = f"the runs of {FAILED_STARTS} tasks in a row {what}: {why}"
    return replace(starts, failed=failed, fault=message, until=now + starts.rest)


def with_starts(
    status: HostStatus, before: HostStatus | None, starts: Starts | None, at: datetime
) -> HostStatus:
    """Return the status of a host that answered, with the breaker's fault."""
    if status.fault or starts is None or not starts.fault or not status.reachable:
        return status
    is_news = before is None or not before.reachable or not before.fault
    since = at if is_news or before is None else before.since
    message = "; ".join(filter(None, (starts.fault, status.message)))
    return status.model_copy(update={"fault": starts.fault, "message": message, "since": since})


def host_change(host: str, before: HostStatus | None, after: HostStatus, at: datetime) -> HostChange | None:
    """
    Return the change if it is to be recorded: up or down, versions, capabilities.

    While a host is down, the error may differ at each probe;
    the first reason stays on record.
    """
    if before is not None and not before.reachable and not after.reachable:
        return None
    if before == after:
        return None
    return HostChange(host, before, after, at, "; ".join(_differences(before, after)))


def host_removal(host: str, before: HostStatus, at: datetime) -> HostChange:
    """Return the change for a host whose spec was removed."""
    return HostChange(host, before, None, at, "the spec was removed")


def _differences(before: HostStatus | None, after: HostStatus) -> Iterator[str]:
    if not after.reachable:
        yield f"does not answer: {after.message}"
        return
    if before is None or not before.reachable:
        yield f"answers: {after.os} {after.arch}, git {after.git or 'missing'}"
    elif before.boot_id != after.boot_id:
        yield "was started anew"
    adapters = before.adapters if before else {}
    for name, cli in after.adapters.items():
        if adapters.get(name) != cli:
            yield f"{name} {cli.version or 'not found'}" + (f" ({cli.message})" if cli.message else "")
    if unasked := sorted(adapters.keys() - after.adapters.keys()):
        yield f"not asked for {', '.join(unasked)} any more"
    yield from _readiness(before, after)
    yield from _sandbox_difference(before, after)
    if after.message:
        yield after.message
    elif before and before.reachable and before.message:
        yield "nothing is wrong with it any more"
    if before and before.reachable and before.git != after.git:
        yield f"git {after.git or 'missing'}"


def _sandbox_difference(before: HostStatus | None, after: HostStatus) -> Iterator[str]:
    if after.sandbox == "" and (before is None or before.sandbox != ""):
        yield "a sandbox works"
    if after.egress == "" and (before is None or before.egress != ""):
        yield "an egress list works"


def _readiness(before: HostStatus | None, after: HostStatus) -> Iterator[str]:
    had_fault = bool(before and before.reachable and before.fault)
    if bool(after.fault) != had_fault:
        yield "no run can start there" if after.fault else "runs can start there again"
