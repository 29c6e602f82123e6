"""
Details: what `describe` prints of one object.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from reconciler.cli.live import count_texts
from reconciler.cli.render import account_running, adapters_of, shown_reason, spec_document
from reconciler.cli.terminal import table, value_block
from reconciler.core.adapter import Usage
from reconciler.core.costs import money
from reconciler.core.fields import format_duration
from reconciler.core.model.runs import Check
from reconciler.core.model.specs import Host, Task
from reconciler.core.model.status import HostCli, Status, VariantChoice
from reconciler.core.runs.failure import summary_rows
from reconciler.core.times import Age, format_time
from reconciler.core.views import (
    AccountView,
    AdapterView,
    CampaignView,
    HostView,
    RepoView,
    TaskView,
    WorkerView,
)


def task_details(view: TaskView, age: Age) -> str:
    """Return what `describe` prints of a task."""
    parts = [value_block(_present(_task_fields(view, age)))]
    if view.conditions:  # their common message is printed above
        rows = ((each.type, str(each.status)) for each in view.conditions)
        parts.append(table(("CONDITION", "STATUS"), rows))
    if view.variants:
        variants = ((each.name, _doer(each), each.state, shown_reason(each)) for each in view.variants)
        parts.append(table(("VARIANT", "BY", "PHASE", "REASON"), variants))
    if view.status and view.status.checks:
        parts.append(table(("VALIDATION", "EXIT", "SECONDS"), map(_check_row, view.status.checks)))
    parts.extend(text for text in map(str, view.problems) if text not in parts[0])  # what is no reason yet
    return "\n\n".join(parts)


def _doer(view: TaskView) -> str:
    return f"{view.spec.adapter} {view.spec.model or ''}".strip() if view.spec else ""


def _task_fields(view: TaskView, age: Age) -> Iterator[tuple[str, str]]:
    yield "task", view.name
    yield "shard", view.shard
    yield "phase", view.state + (f", for {age(view.since)}" if view.since else "")
    if view.is_bad_end and view.cause:
        yield from summary_rows(view.cause)
    else:
        yield "reason", shown_reason(view) or next((each.message for each in view.conditions), "")
        yield from summary_rows(view.cause) if view.cause else ()
    yield from _spec_fields(view.spec) if view.spec else ()
    yield from _status_fields(view.status, age) if view.status else ()
    yield from _live_fields(view, age)


def _spec_fields(task: Task) -> Iterator[tuple[str, str]]:
    yield "desired", task.desired.value
    yield "title", task.headline
    yield "goal", task.goal
    yield "constraints", "\n".join(task.constraints)
    yield "repo", task.repo or ""
    yield "branch", task.branch if task.repo else ""
    yield "adapter", f"{task.adapter} {task.model or ''}"
    yield "labels", ", ".join(task.labels)
    yield "needs", ", ".join(task.requires)
    yield "depends on", ", ".join(task.depends_on)
    yield "starts from", task.start_from or ""
    yield "files", ", ".join(task.files)
    yield (
        "limits",
        (
            f"timeout {format_duration(task.timeout)}, silence {format_duration(task.stall_timeout)}, "
            f"retries {task.retries}, fixes {task.fix_attempts}"
        ),
    )


def _status_fields(status: Status, age: Age) -> Iterator[tuple[str, str]]:
    run = status.run
    yield "run", f"{run.key} (attempt {status.attempt}, round {run.round})" if run else ""
    yield "host", status.assigned_host or ""
    yield "agent", status.assigned_agent or ""
    yield "pull request", status.review.pull_request.url if status.review.pull_request else ""
    yield "reviews", str(status.review.count or "")
    yield "delivered", status.head_commit or ""
    if status.opinion:
        findings = (f"{note.place}{note.text}" for note in status.opinion.findings)
        yield "second opinion", "\n".join([status.opinion.summary, *findings])
    yield "session", status.session.id if status.session else ""
    yield "chosen", _choice(status.choice) if status.choice else ""
    for question in status.questions:
        yield question.id if question.kind == "question" else f"{question.kind} {question.id}", question.text
        yield "answer", f"{question.answer} ({question.answered_by})" if question.answer else ""
    yield "not before", format_time(status.not_before) if status.not_before else ""
    yield "used", _usage(status.usage) if status.usage != Usage() else ""
    if not status.phase.is_live:
        yield "last sign", f"{age(status.last_activity_at)} ago" if status.last_activity_at else ""


def _live_fields(view: TaskView, age: Age) -> Iterator[tuple[str, str]]:
    """Yield the figures of a live run, from the process that follows it, or why there are none."""
    if view.is_live:
        at = view.last_output_at
        yield "last output", f"{age(at)} ago" if at else "none so far, as far as is known here"
        yield "this round", ", ".join(count_texts(view.live)) if view.live else ""


def _choice(choice: VariantChoice) -> str:
    return f"{choice.variant}, by {choice.by}: {choice.reason}"


def _usage(usage: Usage) -> str:
    return (
        f"{usage.seconds:.0f} s, {usage.input_tokens + usage.output_tokens} tokens, "
        f"{money(usage)}, {usage.turns} turns"
    )


def _present(fields: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in fields if value.strip())


def _check_row(check: Check) -> Sequence[str]:
    return check.command, str(check.exit_code), f"{check.seconds:.1f}"


def host_details(view: HostView, age: Age) -> str:
    """Return what `describe` prints of a host."""
    parts = [value_block(_present(_host_fields(view, age)))]
    if view.status and view.status.adapters:
        rows = ((name, *_cli_row(cli)) for name, cli in view.status.adapters.items())
        parts.append(table(("ADAPTER", "USABLE", "VERSION", "PATH", "WHY"), rows))
    return "\n\n".join(parts)


def _host_fields(view: HostView, age: Age) -> Iterator[tuple[str, str]]:
    host, status = view.spec, view.status
    yield "host", view.name
    yield "shard", view.shard
    yield "state", view.state + (f", for {age(view.since)}" if view.since else "")
    yield "reason", status.message if status else ""
    yield "slots", f"{view.used} of {host.slots} in use"
    yield "runs", "\n".join(view.runs)
    if host.drain and host.drain_until:
        yield "drain until", format_time(host.drain_until)
    yield from _route_fields(host)
    yield "labels", ", ".join(host.labels)
    yield "adapters", adapters_of(view)
    yield "weight", f"{host.weight:g}" if host.weight != 1 else ""
    yield "workdir", host.workdir or ""
    yield "shell", host.shell
    yield "environment", "\n".join(f"{name}={value}" for name, value in host.env.items())
    if status:
        yield "system", f"{status.os or ''} {status.arch or ''}"
        yield "boot id", status.boot_id or ""
        yield "git", status.git or ("missing" if status.os else "")
        yield "sandbox", "" if status.sandbox is None else status.sandbox or "works"
        yield "egress list", "" if status.egress is None else status.egress or "works"


def _route_fields(host: Host) -> Iterator[tuple[str, str]]:
    """Yield how a remote host is reached; nothing for this machine."""
    if host.address is None:
        return
    user = f"{host.user}@" if host.user else ""
    yield "address", f"{user}{host.address}:{host.port}"
    yield "through", host.jump or ""
    yield "host key", "\n".join(host.host_key) or f"not pinned: `reconciler host trust {host.name}`"
    yield "identity", host.identity or "the SSH agent"
    yield "forwarding", "of the SSH agent" if host.agent_forwarding else ""
    yield "ssh config", "read" if host.ssh_config else ""


def _cli_row(cli: HostCli) -> Sequence[str]:
    return "yes" if cli.ok else "no", cli.version or "-", cli.path or "-", cli.message


def campaign_details(view: CampaignView, age: Age) -> str:
    """Return what `describe` prints of a campaign: how far it is, then each of its tasks."""
    spec, gate = view.spec, view.gate
    counts = ((group.replace("_", " "), count) for group, count in view.counts.items())
    rows = (
        ("campaign", view.name),
        ("state", view.state + (f", for {age(gate.since)}" if gate else "")),
        ("reason", f"{gate.reason}: {gate.message}" if gate else ""),
        ("tasks", f"{len(view.tasks)}: {', '.join(f'{count} {word}' for word, count in counts if count)}"),
        ("pilot", ", ".join(task.name for task in view.tasks if task.spec and task.spec.is_pilot)),
        ("width", str(spec.width or "")),
        ("stops after", f"{spec.stop_after.failures} failures" if spec.stop_after else ""),
    )
    tasks = ((task.name, task.state, shown_reason(task)) for task in view.tasks)
    return f"{value_block(_present(rows))}\n\n{table(('TASK', 'PHASE', 'REASON'), tasks)}"


def account_details(view: AccountView, age: Age) -> str:
    """Return what `describe` prints of an account."""
    status = view.status
    spec = view.spec.model_dump(mode="json", exclude={"name"}) if view.spec else {}
    rows = (
        ("account", view.name),
        ("state", view.state + (f", for {age(status.since)}" if status else "")),
        ("reason", status.reason if status else ""),
        ("tried again", format_time(status.until) if status else ""),
        ("refused", f"{status.refusals} times in a row, last {status.run}" if status else ""),
        ("running", account_running(view)),
        ("runs", "\n".join(view.runs)),
        *((name, _as_text(value)) for name, value in spec.items()),
    )
    return value_block(_present(rows))


def spec_details(value: WorkerView | AdapterView | RepoView, _: Age) -> str:
    """Return what `describe` prints of an object without a status: every field that is set."""
    document = spec_document(value)
    fields = {
        **document["spec"],
        "held": document.get("held"),
        "forge_fault": document.get("forge_fault"),
        "failing": document.get("failing"),
    }
    rows = ((name, _as_text(field)) for name, field in fields.items())
    return value_block(_present([(document["kind"], value.name), *rows]))


def _as_text(value: Any) -> str:
    if value in (None, [], {}):
        return ""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {text}" for key, item in value.items() if (text := _as_text(item)))
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
