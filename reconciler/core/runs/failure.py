"""
Why a task failed, as a person wants to hear it: the cause, the last lines of what failed, what to do next.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from reconciler.core.model.runs import FailureClass
from reconciler.core.model.status import Failure, Phase, Status
from reconciler.core.names import task_spec_file
from reconciler.core.text import one_line, visible
from reconciler.core.times import format_time

LINES = 10
WIDTH = 200
"""Most lines that are shown of what failed, and most characters of each."""


@dataclass(frozen=True, slots=True)
class FailureSummary:
    """A failure, its cause first."""

    summary: str
    """In one line."""
    output: tuple[str, ...]
    """The last lines of what failed, harmless; none if nothing was printed, or known of it here."""
    next: tuple[str, ...]
    """Commands to type, and what else to do, in order."""
    workspace: str = ""
    """Where the files are that it left, as `host:path`; empty if they are not kept."""
    kept_until: datetime | None = None


def summarize_failure(task: str, status: Status | None, printed: str = "") -> FailureSummary | None:
    """
    Return why a task's last run failed; None if it did not.

    `printed` is the end of what the agent printed, where that is known; what a
    validation command printed is on record.
    """
    failure = status.failure if status else None
    if status is None or failure is None:
        return None
    if failure.kind is FailureClass.VALIDATION:
        failed = next((check for check in status.checks if check.exit_code != 0), None)
        printed = failed.output if failed else ""
    needs_a_person = status.phase in {Phase.FAILED, Phase.ESCALATED}
    steps = _steps(task, status, failure.kind) if needs_a_person else [f"reconciler logs {task}"]
    return FailureSummary(failure_line(failure), last_lines(printed), tuple(steps))


def failure_line(failure: Failure) -> str:
    """Return a failure in one line: its class once, then what happened."""
    return (
        failure.message if failure.message.startswith(failure.kind) else f"{failure.kind}: {failure.message}"
    )


def last_lines(text: str) -> tuple[str, ...]:
    """Return the last lines of a text that hold anything, harmless and of bounded length."""
    lines = (one_line(visible(line), WIDTH) for line in text[-LINES * 1000 :].splitlines())
    return tuple([line for line in lines if line][-LINES:])


def _steps(task: str, status: Status, kind: FailureClass) -> Iterator[str]:
    """Yield what to type next."""
    host, adapter, repo = status.assigned_host, None, None
    if status.run:
        adapter, repo = status.run.adapter, status.run.repo
        yield f"reconciler logs {task}"
    if template := _repair(status, kind):
        yield template.format(
            spec=task_spec_file(task, status.campaign),
            host=host or "HOST",
            adapter=adapter or "ADAPTER",
            repo=repo,
        )
    yield f"reconciler retry {task}"


def _repair(status: Status, kind: FailureClass) -> str | None:
    """Return what helps beside trying again: by what failed, and not the adapter if that was the repo."""
    if kind not in {FailureClass.CONFIG, FailureClass.AUTH}:
        return _REPAIRS.get(kind)
    # So does every failure begin that is the repo's: see `dispatch.repos`.
    run, failure = status.run, status.failure
    if run and run.repo and failure and failure.message.startswith(f"repo {run.repo}: "):
        return _REPAIR_OF_REPO
    if kind is FailureClass.CONFIG and (run is None or run.adapter in {None, "script"}):
        return _REPAIR_OF_SCRIPT
    return _REPAIRS.get(kind)


_REPAIR_OF_REPO = "fix specs/repos/{repo}.yaml, or the repository that it names"
_REPAIR_OF_SCRIPT = "fix {spec}, or install on {host} what it calls"
_REPAIRS: Mapping[FailureClass, str] = {
    FailureClass.AUTH: "reconciler adapter test {adapter} --host {host}   (after logging in there)",
    FailureClass.CONFIG: "reconciler adapter test {adapter} --host {host}",
    FailureClass.HOST: "reconciler host check {host}",
    FailureClass.BUDGET: "raise `budget` or `deadline` in {spec}, whichever is meant, and commit it",
    FailureClass.TIMEOUT: "raise `timeout` in {spec}, or ask for less",
    FailureClass.STALL: "raise `stall_timeout` in {spec}, if it works in silence",
}
"""What helps against a failure, beside trying again."""


def summary_rows(summary: FailureSummary) -> Sequence[tuple[str, str]]:
    """Return a cause as names and values for people, the cause first."""
    until = f" (kept until {format_time(summary.kept_until)})" if summary.kept_until else ""
    return [
        ("cause", summary.summary),
        ("last lines", "\n".join(summary.output)),
        ("workspace", summary.workspace + until),
        ("next", "\n".join(summary.next)),
    ]
