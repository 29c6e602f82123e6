"""
Spans: the steps of a task as one trace, from its spec to its merge.

A span is made when the step that ends it goes on record, of that step alone:
nothing is kept between two steps, so a restart neither loses its place nor
tells anything twice. Ids are derived from what was asked for, so that spans of
several processes are parts of one trace.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from reconciler.core.events import Completed, Created
from reconciler.core.lifecycle import Transition
from reconciler.core.model.runs import Report
from reconciler.core.model.status import Phase, Status

Attributes = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One part of a trace."""

    name: str
    """What was done, one of few names: task, queue, dispatch, run, round, validation, …"""
    trace_id: int
    """128 bits; the same for all that was done for one task, until other work is asked for."""
    span_id: int
    """64 bits."""
    parent_id: int | None
    """None: it is the root."""
    begin: datetime
    end: datetime
    attributes: Attributes = field(default_factory=dict)
    """By OpenTelemetry's semantic conventions where these have a name for it."""
    error: str = ""
    """Class of the failure in which it ended; empty if it did not."""


def spans(step: Transition, fleet: str) -> Iterator[Span]:
    """Yield the spans that a recorded step ends, parents first; `fleet` is the fleet's id."""
    before, after = step.before, step.after
    if after and _begins(step):
        yield _Trace(fleet, step.task, after).root(step.event.origin.at)
    if before is None:
        return
    trace = _Trace(fleet, step.old, before)
    if report := getattr(step.event, "report", None):
        yield from trace.round(report, step)
    if after is None or after.phase is not before.phase:
        yield from trace.phase(step)


def _begins(step: Transition) -> bool:
    """Return whether work was asked for with a step."""
    before, after, event = step.before, step.after, step.event
    if isinstance(event, Created):
        return event.spec.schedule is None  # else it begins with the first due time
    if before is None or after is None or after.phase.is_settled:
        return False
    is_again = before.phase.is_settled and after.phase is Phase.CREATED
    return is_again or _identity(before) != _identity(after)


def _identity(status: Status) -> tuple[object, ...]:
    return status.created_at, status.work, status.due_at


_NAMES: Mapping[Phase, str] = {
    Phase.CREATED: "queue",
    Phase.ASSIGNED: "dispatch",
    Phase.RUNNING: "run",
    Phase.REVIEW_PENDING: "review",
    Phase.ESCALATED: "escalation",
}
"""Phase → the span of the time that a task spent in it; settled ones have none."""


class _Trace:
    """The trace of what a status is about."""

    def __init__(self, fleet: str, task: str, status: Status) -> None:
        self._of = "\n".join(map(str, (fleet, task, *_identity(status))))
        self._status = status
        self._common: Attributes = {
            "reconciler.task": task,
            "reconciler.generation": status.generation,
            **_run_attributes(status),
        }

    def root(self, at: datetime) -> Span:
        """Return the root, which ends as it begins: what follows are its children, whenever they end."""
        attributes = {name: value for name, value in self._common.items() if name in _OF_TASK}
        return self._span("task", at, at, attributes, parent=None)

    def round(self, report: Report, step: Transition) -> Iterator[Span]:
        """Yield the round that ended, its validation and its delivery."""
        run = self._status.run
        if run is None or not report.started:
            return
        end = step.event.origin.at
        checks = timedelta(seconds=sum(check.seconds for check in report.checks))
        validated = max(end - checks, self._status.since)
        begin = max(validated - timedelta(seconds=report.verdict.usage.seconds), self._status.since)
        failure = report.verdict.kind or ("validation" if report.failed_check else "")
        round_span = self._span(
            "round",
            begin,
            end,
            {**self._common, "reconciler.round": run.round, **_usage_attributes(report)},
            parent=self._run_id(),
            error=str(failure or ""),
            key=str(run.round),
        )
        yield round_span
        if report.checks:
            attributes = {
                **self._common,
                "reconciler.round": run.round,
                "reconciler.checks": len(report.checks),
                "process.exit.code": report.failed_check.exit_code if report.failed_check else 0,
            }
            error = "validation" if report.failed_check else ""
            yield self._span(
                "validation",
                validated,
                end,
                attributes,
                parent=round_span.span_id,
                error=error,
                key=str(run.round),
            )
        if report.head_commit and report.commits:
            attributes = {**self._common, "vcs.ref.head.revision": report.head_commit}
            yield self._span("delivery", end, end, attributes, parent=round_span.span_id, key=str(run.round))

    def phase(self, step: Transition) -> Iterator[Span]:
        """Yield the phase that ended, and the merge if there was one."""
        before, after, event = self._status, step.after, step.event
        name, at = _NAMES.get(before.phase), event.origin.at
        if name is None:
            return
        failed = after.failure if after and after.phase in _BAD else None
        end = {
            "reconciler.phase": after.phase.value if after else "removed",
            **(_pull_attributes(after) if after else {}),
        }
        is_run = before.phase is Phase.RUNNING
        yield self._span(
            name,
            before.since,
            at,
            {**self._common, **end},
            error=failed.kind.value if failed and before.phase.is_live else "",
            span_id=self._run_id() if is_run else None,
        )
        if isinstance(event, Completed) and before.review.pull_request:
            yield self._span("merge", at, at, {**self._common, **end, "vcs.change.state": "merged"})

    def _run_id(self) -> int:
        """Return the id of the span of the run, which rounds name before it is told of."""
        return self._id("run", self._status.run_key or "")

    def _span(
        self,
        name: str,
        begin: datetime,
        end: datetime,
        attributes: Attributes,
        *,
        parent: int | None = 0,
        error: str = "",
        key: str = "",
        span_id: int | None = None,
    ) -> Span:
        """Return a span of this trace; a child of the root unless another parent is named."""
        own = self._id(name, begin.isoformat(), self._status.run_key or "", key)
        root = self._id("task")
        return Span(
            name=name,
            trace_id=_digest(16, self._of),
            span_id=root if name == "task" else span_id or own,
            parent_id=root if parent == 0 else parent,
            begin=min(begin, end),
            end=end,
            attributes=dict(attributes) | ({"error.type": error} if error else {}),
            error=error,
        )

    def _id(self, *parts: str) -> int:
        return _digest(8, self._of, *parts)


def _digest(size: int, *parts: str) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:size]) or 1


_BAD = frozenset({Phase.CREATED, Phase.FAILED, Phase.ESCALATED, Phase.CANCELLED})
"""Phases after a run in which its failure is that of the status."""
_OF_TASK = frozenset({"reconciler.task", "reconciler.generation"})


def _run_attributes(status: Status) -> Attributes:
    """Return what is known of the last run."""
    if status.run is None:
        return {}
    run, review = status.run, status.review.count
    values: dict[str, str | int | None] = {
        "reconciler.run": run.key,
        "reconciler.attempt": status.attempt,
        "reconciler.review": review or None,
        "host.name": status.assigned_host,
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": run.adapter or status.assigned_agent,
        "gen_ai.request.model": run.model,
        "vcs.repository.name": run.repo,
        "vcs.ref.head.name": run.branch if run.repo else None,
        "vcs.ref.base.revision": status.base_commit,
    }
    return {name: value for name, value in values.items() if value is not None}


def _usage_attributes(report: Report) -> Attributes:
    """Return what a round took."""
    used = report.verdict.usage
    return {
        "gen_ai.usage.input_tokens": used.input_tokens + used.cached_tokens,
        "gen_ai.usage.output_tokens": used.output_tokens,
        "reconciler.turns": used.turns,
        "reconciler.cost_usd": used.cost_usd,
    }


def _pull_attributes(status: Status) -> Attributes:
    """Return what is known of the pull request, and of what was delivered."""
    pull = status.review.pull_request
    head = {"vcs.ref.head.revision": status.head_commit} if status.head_commit else {}
    return {**head, **({"vcs.change.id": str(pull.number), "url.full": pull.url} if pull else {})}
