"""
What `describe` says: everything that is known of one thing, for people.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from reconciler.cli.render import adapters_of, spec_document
from reconciler.cli.text import ago, block, table
from reconciler.cli.views import HostView, TaskView
from reconciler.core.adapter import Adapter, Usage
from reconciler.core.conditions import Condition
from reconciler.core.fields import format_duration, format_time
from reconciler.core.model import Agent, Check, Repo, Status, Task


def task_details(view: TaskView, now: datetime) -> str:
    """Return what `describe` says of a task."""
    parts = [block(_present(_task_fields(view, now)))]
    if view.conditions:
        rows = map(_condition_row, view.conditions)
        parts.append(table(("CONDITION", "STATUS", "REASON", "MESSAGE"), rows))
    if view.status and view.status.checks:
        parts.append(table(("VALIDATION", "EXIT", "SECONDS"), map(_check_row, view.status.checks)))
    parts.extend(str(problem) for problem in view.problems)
    return "\n\n".join(parts)


def _task_fields(view: TaskView, now: datetime) -> Iterator[tuple[str, str]]:
    yield "task", view.name
    yield "phase", view.stand + (f", for {ago(view.status.since, now)}" if view.status else "")
    yield "reason", view.reason
    yield from _spec_fields(view.spec) if view.spec else ()
    yield from _status_fields(view.status, now) if view.status else ()


def _spec_fields(task: Task) -> Iterator[tuple[str, str]]:
    yield "desired", task.desired.value
    yield "title", task.headline
    yield "goal", task.goal
    yield "constraints", "\n".join(task.constraints)
    yield "repo", task.repo or ""
    yield "branch", task.branch if task.repo else ""
    yield "adapter", f"{task.adapter} {task.model or ''}"
    yield "needs", ", ".join(task.requires)
    yield "depends on", ", ".join(task.depends_on)
    yield (
        "limits",
        (
            f"timeout {format_duration(task.timeout)}, silence {format_duration(task.stall_timeout)}, "
            f"retries {task.retries}, fixes {task.fix_attempts}"
        ),
    )


def _status_fields(status: Status, now: datetime) -> Iterator[tuple[str, str]]:
    yield "run", f"{status.run} (attempt {status.attempt}, round {status.round})" if status.run else ""
    yield "host", status.assigned_host or ""
    yield "reviews", str(status.review_count or "")
    yield "delivered", status.head_commit or ""
    yield "session", status.session_id or ""
    yield "not before", format_time(status.not_before) if status.not_before else ""
    yield "used", _usage(status.usage) if status.usage != Usage() else ""
    yield "last sign", f"{ago(status.last_activity_at, now)} ago" if status.last_activity_at else ""


def _usage(usage: Usage) -> str:
    return (
        f"{usage.seconds:.0f} s, {usage.input_tokens + usage.output_tokens} tokens, "
        f"{usage.cost_usd:.2f} USD, {usage.turns} turns"
    )


def _present(fields: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in fields if value.strip())


def _condition_row(condition: Condition) -> Sequence[str]:
    return condition.type, str(condition.status), condition.reason, condition.message


def _check_row(check: Check) -> Sequence[str]:
    return check.command, str(check.exit_code), f"{check.seconds:.1f}"


def host_details(view: HostView, now: datetime) -> str:
    """Return what `describe` says of a host."""
    host, status = view.spec, view.status
    user = f"{host.user}@" if host.user else ""
    fields = (
        ("host", view.name),
        ("state", view.stand + (f", for {ago(status.since, now)}" if status else "")),
        ("reason", status.message if status else ""),
        (
            "address",
            f"{user}{host.address}:{host.port}" if host.address else "",
        ),
        ("through", host.jump or ""),
        ("labels", ", ".join(host.labels)),
        ("adapters", adapters_of(view.spec)),
        ("slots", f"{len(view.runs)} of {host.slots} in use"),
        ("runs", "\n".join(view.runs)),
    )
    return block(_present(fields))


def spec_details(value: Agent | Adapter | Repo, _: datetime) -> str:
    """Return what `describe` says of a thing that has a spec and no status: every field that is set."""
    document = spec_document(value)
    fields = ((name, _as_text(field)) for name, field in document["spec"].items())
    return block(_present([(document["kind"], value.name), *fields]))


def _as_text(value: Any) -> str:
    if value in (None, [], {}):
        return ""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {text}" for key, item in value.items() if (text := _as_text(item)))
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
