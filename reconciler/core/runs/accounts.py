"""
Accounts: whose credential a run uses, and how the limit of one is met, tried again and over.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from reconciler.core.adapter import Adapter
from reconciler.core.model.runs import FailureClass, Opinion, Verdict
from reconciler.core.model.specs import Desired, ReviewBy, Task
from reconciler.core.model.status import AccountStatus, OnHost, Run, Status
from reconciler.core.text import one_line
from reconciler.core.times import format_time

if TYPE_CHECKING:  # who only looks needs none of the events
    from reconciler.core.events import RunEnded

OWN = "adapter/"
"""Begins the names of accounts that no file describes: the credential that an adapter has by itself."""

QUOTA_WAIT = timedelta(minutes=15)
"""Wait when the output does not say when the quota is full again; doubles while it happens again."""

QUOTA_MOST = timedelta(hours=6)
"""Longest such wait."""

QUOTA_LEAST = timedelta(minutes=1)
"""Shortest wait for a quota: a time that has passed already must not make a tight loop."""

FAILED_TASKS = 3
"""After failed runs of this many tasks in a row, with none in between that was served, the circuit opens."""

CIRCUIT_WAIT, CIRCUIT_MOST = timedelta(minutes=1), timedelta(hours=1)
"""First and longest wait before one run tries an account whose circuit is open; doubles with each failure."""

_SIGNS = frozenset({FailureClass.AUTH, FailureClass.CONFIG, FailureClass.STALL})
"""Failures of a CLI that speak of its credential, its settings or its provider, and not of the work."""

_PROOFS = frozenset({FailureClass.AGENT, FailureClass.BUDGET, FailureClass.TIMEOUT})
"""Failures of rounds in which the provider served the agent all the same."""


@dataclass(frozen=True, slots=True)
class AccountChange:
    """A recorded change of an account: a commit on the state branch."""

    account: str
    before: AccountStatus | None
    """None: it was not at a limit."""
    after: AccountStatus | None
    """None: it is not, as far as is known."""
    at: datetime
    reason: str
    run: str | None = None
    """Key of the run that met the limit, or was served again."""


def accounts_for(task: Task, desired: Desired) -> Sequence[str]:
    """Return the accounts that a task may use, by preference; empty if its adapter has only its own."""
    adapter = desired.adapters.get(task.adapter)
    candidates = task.accounts or (adapter.accounts if adapter else ()) or sorted(desired.accounts)
    accounts = ((name, desired.accounts.get(name)) for name in candidates)
    return [name for name, account in accounts if account and task.adapter in account.adapters]


def own_account(adapter: Adapter | None, host: str) -> str | None:
    """
    Return the name of the account that an adapter has by itself on a host.

    With secrets of the reconciler it is the same on all hosts; else it is the login of the CLI there.
    None for an adapter that runs scripts: each may have another.
    """
    if adapter is None or adapter.runs_scripts:
        return None
    is_everywhere = adapter.secrets and all(secret.on == "reconciler" for secret in adapter.secrets.values())
    return f"{OWN}{adapter.name}" if is_everywhere else f"{OWN}{adapter.name}/{host}"


def serves(account: str, adapter: str, desired: Desired) -> bool:
    """Return whether an account is one with which runs of an adapter may be, its own ones included."""
    spec = desired.accounts.get(account)
    own = f"{OWN}{adapter}"
    return adapter in spec.adapters if spec else account == own or account.startswith(f"{own}/")


def run_account(run: Run, desired: Desired) -> str | None:
    """Return the account of a run; None for one of a worker, or of a script without one."""
    if not isinstance(run.holder, OnHost) or run.adapter is None:
        return None
    return run.account or own_account(desired.adapters.get(run.adapter), run.holder.host)


def review_account(review_by: ReviewBy, host: str, desired: Desired) -> str | None:
    """Return the account of a review on a host; None for one that has none, as of a script."""
    return review_by.account or own_account(desired.adapters.get(review_by.adapter), host)


def account_rounds(status: Status, ended: "RunEnded") -> Sequence[tuple[Status, "RunEnded"]]:
    """Return what the end of a round says of accounts: that of its agent, and that of its review, if any."""
    opinion = ended.report.opinion
    return [(status, ended), *([_review_round(status, ended, opinion)] if opinion else [])]


def _review_round(status: Status, ended: "RunEnded", opinion: Opinion) -> tuple[Status, "RunEnded"]:
    """Return a review as if it were a round of its own."""
    run = status.last_run.model_copy(
        update={"adapter": opinion.adapter, "model": opinion.model, "account": opinion.account}
    )
    verdict = Verdict(
        outcome="failed" if opinion.kind else "success",
        kind=opinion.kind,
        message=opinion.message,
        retry_at=opinion.retry_at,
        usage=opinion.usage,
    )
    report = ended.report.model_copy(update={"verdict": verdict})
    return status.model_copy(update={"run": run}), replace(ended, report=report)


def fallback_task(task: Task) -> Task | None:
    """Return the task as its `fallback` has it run; None if it has none, or it changes nothing."""
    if task.fallback is None:
        return None
    fallback = task.fallback
    changes = {
        "adapter": fallback.adapter or task.adapter,
        "model": fallback.model,
        "accounts": fallback.accounts or (() if fallback.adapter else task.accounts),
        "fallback": None,
    }
    other = task.model_copy(update=changes)
    fields = ("adapter", "model", "accounts")
    return None if all(getattr(task, each) == getattr(other, each) for each in fields) else other


def is_run_of(run: Run, task: Task) -> bool:
    """Return whether a run has the adapter and the model that a task asks for."""
    return (run.adapter, run.model) == (task.adapter, task.model)


# --- Limits ----------------------------------------------------------------


def quota_end(verdict: Verdict, refusals: int, now: datetime) -> datetime:
    """Return when a quota may be full again, met so many times in a row."""
    wait = min(QUOTA_WAIT * 2 ** min(refusals - 1, 16), QUOTA_MOST)
    return max(verdict.retry_at, now + QUOTA_LEAST) if verdict.retry_at else now + wait


Failing = frozenset[str]
"""Tasks whose runs with an account failed by a sign that it does not work, since one was served."""


def count_failing(failing: Failing, ended: "RunEnded") -> Failing:
    """Return the tasks that fail in a row with an account after one more of its rounds."""
    if is_served(ended):
        return frozenset()
    return failing | {ended.task} if _is_sign(ended) else failing


def is_served(ended: "RunEnded") -> bool:
    """Return whether a round shows that its agent could work."""
    verdict = ended.report.verdict
    return ended.report.started and (verdict.outcome == "success" or verdict.kind in _PROOFS)


def _is_sign(ended: "RunEnded") -> bool:
    """Return whether a round failed by its CLI: what failed before it was started took none of its time."""
    verdict = ended.report.verdict
    return verdict.outcome == "failed" and verdict.kind in _SIGNS and verdict.usage.seconds > 0


def after_round(
    before: AccountStatus | None,
    account: str,
    status: Status,
    ended: "RunEnded",
    desired: Desired,
    *,
    failing: Failing = frozenset(),
) -> AccountChange | None:
    """
    Return what the end of a live round says of its account; None if that is nothing new.

    Circuit breaker: it opens once `failing`, this round counted, are of several tasks.
    """
    verdict, run = ended.report.verdict, status.last_run
    is_try = before is not None and status.since >= before.until
    if verdict.kind is FailureClass.QUOTA and verdict.outcome == "failed":
        after = _limited(before, run, verdict, account_identity(account, desired), ended.at, is_try=is_try)
        if before and not is_try and _is_same(before, after):
            return None  # it ran into the limit that is on record
        reason = f"run {run.key} met its limit: {after.reason}; one run tries it {format_time(after.until)}"
        return AccountChange(account, before, after, ended.at, one_line(reason), run.key)
    if is_try and is_served(ended):
        return AccountChange(account, before, None, ended.at, f"run {run.key} was served", run.key)
    if _is_sign(ended) and (is_try or (before is None and len(failing) >= FAILED_TASKS)):
        opened = _opened(before, run, verdict, account_identity(account, desired), ended.at)
        reason = f"{opened.reason}; one run tries it {format_time(opened.until)}"
        return AccountChange(account, before, opened, ended.at, one_line(reason), run.key)
    return None


def _opened(
    before: AccountStatus | None, run: Run, verdict: Verdict, identity: str, now: datetime
) -> AccountStatus:
    """Return an account out of service: its first reason stays, and each failed try doubles the wait."""
    refusals = before.refusals + 1 if before else 1
    message = f"runs of {FAILED_TASKS} tasks in a row failed ({verdict.kind}): {verdict.message}"
    return AccountStatus(
        state="failing",
        until=now + min(CIRCUIT_WAIT * 2 ** min(refusals - 1, 16), CIRCUIT_MOST),
        since=before.since if before else now,
        reason=before.reason if before else one_line(message),
        run=run.key,
        refusals=refusals,
        spec=identity,
    )


def _is_same(before: AccountStatus, after: AccountStatus) -> bool:
    """Return whether a limit was met by the same models, and ends at about the same time."""
    return before.models == after.models and after.until - before.until < QUOTA_LEAST


def _limited(
    before: AccountStatus | None, run: Run, verdict: Verdict, identity: str, now: datetime, *, is_try: bool
) -> AccountStatus:
    refusals = before.refusals + is_try if before else 1
    until = quota_end(verdict, refusals, now)
    if before and not is_try:
        until = max(before.until, until if verdict.retry_at else before.until)
    return AccountStatus(
        until=until,
        since=before.since if before else now,
        reason=one_line(verdict.message) or "its quota is used up",
        run=run.key,
        refusals=refusals,
        models=tuple(sorted({*(before.models if before else ()), run.model or ""})),
        spec=identity,
    )


def account_identity(account: str, desired: Desired) -> str:
    """Return the identity of what an account's spec asks for, 12 hex digits; empty if it is gone."""
    spec = desired.accounts.get(account)
    if spec is not None:
        return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:12]
    adapter = desired.adapters.get(account.removeprefix(OWN).partition("/")[0])
    if not account.startswith(OWN) or adapter is None or not _is_own(account, adapter, desired):
        return ""
    secrets = {name: secret.model_dump_json() for name, secret in adapter.secrets.items()}
    return hashlib.sha256(repr((adapter.blob, sorted(secrets.items()))).encode()).hexdigest()[:12]


def _is_own(account: str, adapter: Adapter, desired: Desired) -> bool:
    return any(own_account(adapter, host) == account for host in desired.hosts)


def after_specs(
    accounts: Mapping[str, AccountStatus], desired: Desired, now: datetime
) -> Sequence[AccountChange]:
    """Return what the specs say of accounts at their limits: one that is gone, or changed since."""
    changes = []
    for name, before in accounts.items():
        identity = account_identity(name, desired)
        if not identity:
            changes.append(AccountChange(name, before, None, now, "the spec was removed"))
        elif identity != before.spec:
            after = before.model_copy(update={"until": min(before.until, now), "spec": identity})
            changes.append(AccountChange(name, before, after, now, "its spec changed: one run tries it now"))
    return changes
