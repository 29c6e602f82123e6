"""
Transition record: one step of a task, or news of a host, as it stands on the state branch.

The writer of the branch, `history`, the HTTP API and its event stream all speak of this one value.
It takes none of the models to read: looking back is quick.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from reconciler.core.times import format_time

if TYPE_CHECKING:  # who reads a record back needs none of these
    from reconciler.core.events import Event
    from reconciler.core.hosts import HostChange
    from reconciler.core.lifecycle import Transition
    from reconciler.core.model.runs import Report
    from reconciler.core.model.status import ReviewState, Run, Status
    from reconciler.core.runs.accounts import AccountChange

    _Part = Status | Run | ReviewState


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryFilter:
    """What is looked for in the history; None, or empty: anything."""

    task: str | None = None
    host: str | None = None
    """Where the run is; or the host that it is news of."""
    actor: str | None = None
    cause: str | None = None
    text: str = ""
    """Stands anywhere in what a commit says."""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionRecord:
    """One transition of a task, or news of a host or an account."""

    at: datetime
    """When; to the second, once it was read back."""
    task: str | None = None
    """Name of the task after the step; None: news of a host or an account."""
    before: str | None = None
    """
    Phase before; None at the first transition of a task. Of a host: up, unready, down or unknown;
    of an account: usable, at limit or failing.
    """
    after: str | None = None
    """Phase since; None when the status went. Of a host, as above."""
    renamed_from: str | None = None
    reason: str = ""
    """Why, in a sentence."""
    run: str | None = None
    """Key of the run."""
    host: str | None = None
    """Where the run is; of news of a host, which one."""
    account: str | None = None
    """Whose credential the run has; of news of an account, which one."""
    worker: str | None = None
    """The outside agent that had the run."""
    cause: str = ""
    """What kind of thing led to it."""
    actor: str = ""
    """Who did it."""
    revision: str | None = None
    """Commit of the specs that were in force."""
    delivery: str | None = None
    """Id of the webhook's delivery that led to it."""
    prompt_sha256: str | None = None
    """Of the prompt, where it is new."""
    adapter_blob: str | None = None
    """Git blob id of the adapter's file, where it is new."""
    cli_version: str | None = None
    """Version of the agent's CLI, where it is new."""
    opinion: str | None = None
    """What a second agent made of the work, where it is new: adapter, verdict, commit."""
    denied: str | None = None
    """Destinations that the egress list of the run's sandbox kept its agent from in the round that ended."""
    validated: str | None = None
    """Commit with the work that passed validation in the merge queue, where it is new."""
    program_version: str | None = None
    """Version of the reconciler that started the run, where it is new."""
    inputs: str | None = None
    """What the choice of who has the run rested on beside specs and record; see `core.model.inputs`."""
    previous: str | None = None
    """Commit of the task's previous transition."""
    commit: str = ""
    """Of the state branch; empty until it is there."""

    @property
    def name(self) -> str:
        """What it is about, in words."""
        return self.task or (f"host {self.host}" if self.host else f"account {self.account}")


def task_record(step: "Transition", *, revision: str = "", previous: str | None = None) -> TransitionRecord:
    """Return the record of a task's transition; `previous` is the commit of the one before."""
    before, after, event = step.before, step.after, step.event
    status = after or before
    return TransitionRecord(
        at=event.origin.at,
        task=step.task,
        before=before.phase if before else None,
        after=after.phase if after else None,
        renamed_from=getattr(event, "old", None),
        reason=event.origin.reason,
        run=getattr(event, "run", None) or (status.run_key if status else None),
        host=status.assigned_host if status else None,
        account=status.run.account if status and status.run else None,
        worker=status.assigned_agent if status else None,
        cause=event.origin.cause,
        actor=event.origin.actor,
        revision=revision or None,
        delivery=event.origin.delivery,
        prompt_sha256=_if_new("prompt_sha256", before, status),
        adapter_blob=_if_new("adapter_blob", before and before.run, status and status.run),
        cli_version=_if_new("cli_version", before and before.run, status and status.run),
        opinion=_opinion(before, after),
        denied=_denied(event),
        validated=_if_new("validated", before and before.review, after and after.review),
        program_version=_if_new("program_version", before and before.run, status and status.run),
        inputs=str(getattr(event, "inputs", "")) or None,
        previous=previous,
    )


def _opinion(before: "Status | None", after: "Status | None") -> str | None:
    new = after.opinion if after and (before is None or after.opinion != before.opinion) else None
    return new.mark if new else None


def _denied(event: "Event") -> str | None:
    report: Report | None = getattr(event, "report", None)
    return (report and ", ".join(report.verdict.denied)) or None


def _if_new(field: str, before: "_Part | None", after: "_Part | None") -> str | None:
    """Return the value of a field if it is another than before."""
    value: str | None = getattr(after, field, None)
    return value if value != getattr(before, field, None) else None


def host_record(change: "HostChange", *, revision: str = "") -> TransitionRecord:
    """Return the record of news of a host."""
    before, after = (status.state if status else "unknown" for status in (change.before, change.after))
    return TransitionRecord(
        at=change.at,
        before=before,
        after=after,
        reason=change.reason,
        host=change.host,
        cause="host",
        actor="reconciler",
        revision=revision or None,
    )


def account_record(change: "AccountChange", *, revision: str = "") -> TransitionRecord:
    """Return the record of news of an account."""
    before, after = (status.state if status else "usable" for status in (change.before, change.after))
    return TransitionRecord(
        at=change.at,
        before=before,
        after=after,
        reason=change.reason,
        account=change.account,
        run=change.run,
        cause="host" if change.run else "spec",
        actor="reconciler",
        revision=revision or None,
    )


def transition_document(record: TransitionRecord) -> dict[str, str | None]:
    """Return a record as `history -o json` prints it and the API sends it: one shape for both."""
    return {
        "at": format_time(record.at),
        "task": record.task,
        "before": record.before,
        "after": record.after,
        "reason": record.reason,
        "host": record.host,
        "account": record.account,
        "run": record.run,
        "actor": record.actor,
        "cause": record.cause,
        "revision": record.revision,
        "commit": record.commit,
    }
