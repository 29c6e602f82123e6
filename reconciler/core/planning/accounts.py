"""
Accounts of new runs: which one can be had, on which host, and what is waited for if none can.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from reconciler.core.model.runs import read_run_key
from reconciler.core.model.specs import Account, Desired, Task
from reconciler.core.model.status import AccountStatus, Observed, Reason, Run, Status
from reconciler.core.planning.context import Wait
from reconciler.core.planning.limits import next_midnight, next_monday, spent_in_week, spent_today
from reconciler.core.planning.schedule import JUMP
from reconciler.core.runs.accounts import accounts_for, own_account, review_account, run_account
from reconciler.core.times import format_time

PROOF = timedelta(minutes=5)
"""How long one run tries an account again before others may use it too, if it does not end before."""

_ORDER = (Reason.SLOT, Reason.QUOTA, Reason.CIRCUIT, Reason.BUDGET, Reason.SUSPENDED)
"""Which wait counts where accounts cannot be had for several."""


class AccountPool:
    """Accounts as a plan gives them out."""

    def __init__(
        self, desired: Desired, observed: Observed, statuses: Iterable[Status], now: datetime
    ) -> None:
        self._desired = desired
        self._observed = observed
        self._now = now
        self._live = Counter[str]()
        self._declared: dict[tuple[str, tuple[str, ...]], Sequence[str]] = {}
        self._tries: dict[str, datetime] = {}
        """Since when the first run tries an account that is at its limit, by account."""
        if desired.accounts or observed.accounts:
            for status in statuses:
                self._count(status)

    def _count(self, status: Status) -> None:
        run = status.live_run
        if run is None or status.waits_for_delivery:
            return
        account = run_account(run, self._desired)
        self._live.update([account] if account else [])
        for name in filter(None, (account, self._reviewing(run, status.assigned_host))):
            limit = self._observed.accounts.get(name)
            if limit and status.since >= limit.until:
                self._tries[name] = min(self._tries.get(name, status.since), status.since)

    def _reviewing(self, run: Run, host: str | None) -> str | None:
        """Return the account with which the work of a live run is to be reviewed."""
        key = read_run_key(run.key)
        task = self._desired.tasks.get(key[0]) if key and self._observed.accounts else None
        return self._reviewer(task, host) if task and host else None

    def _reviewer(self, task: Task, host: str) -> str | None:
        """Return the account with which the work of a task is reviewed on a host; None if with none."""
        if task.review_by is None or task.repo is None:
            return None
        return review_account(task.review_by, host, self._desired)

    def names(self, task: Task, host: str) -> Sequence[str] | None:
        """Return the accounts that a task may use on a host, by preference; None: it needs none."""
        kind = task.adapter, task.accounts
        declared = self._declared.get(kind)
        if declared is None:
            declared = self._declared[kind] = accounts_for(task, self._desired)
        if declared:
            return [name for name in declared if _may_be_used(self._desired.accounts[name], host)]
        own = own_account(self._desired.adapters.get(task.adapter), host)
        return None if own is None else [own]

    def matter(self, task: Task) -> bool:
        """Return whether a task may lack an account on some host; else it can have one on all of them."""
        if self._observed.accounts or task.accounts or self._desired.accounts:
            return True
        adapter = self._desired.adapters.get(task.adapter)
        return adapter is not None and bool(adapter.accounts)

    def is_barred(self, task: Task, host: str) -> bool:
        """Return whether a task has accounts, and none of them may be used on a host."""
        return self.names(task, host) == []

    def can_have(self, task: Task, host: str, *, only: str | None = None, model: str | None = None) -> bool:
        """
        Return whether a task can have an account on a host now.

        With `only`, no other will do. `model` is one that may be tried though another met the limit.
        """
        names = self.names(task, host)
        is_had = names is None or any(self._wait(each, model) is None for each in _among(names, only))
        return is_had and self._review_wait(task, host) is None

    def choose(
        self,
        task: Task,
        host: str,
        status: Status | None,
        *,
        only: str | None = None,
        model: str | None = None,
    ) -> str | None:
        """Return the account of a new run, and give it out; None for the adapter's own."""
        if reviewer := self._reviewer(task, host):
            self._try(reviewer)
        names = _among(self.names(task, host) or (), only)
        able = [name for name in names if self._wait(name, model) is None]
        if not able:
            return None
        chosen = self._preferred(task, host, status, able)
        self._live[chosen] += 1
        self._try(chosen)
        return chosen if chosen in self._desired.accounts else None

    def _try(self, name: str) -> None:
        """Note that a run which begins now finds out if an account is at its limit still."""
        if name in self._observed.accounts:
            self._tries.setdefault(name, self._now)

    def _preferred(self, task: Task, host: str, status: Status | None, able: Sequence[str]) -> str:
        """Return the account that holds the session; else the first one named, or the least busy."""
        run = status.run if status else None
        if status and run and run.account in able and status.session_at(host, task.adapter, run.account):
            return run.account or able[0]
        adapter = self._desired.adapters.get(task.adapter)
        has_order = task.accounts or (adapter and adapter.accounts)
        return able[0] if has_order else min(able, key=lambda name: (self._live[name], name))

    def wait(self, task: Task, hosts: Iterable[str], *, only: str | None = None) -> Wait:
        """Return what a task waits for that can have no account on any of these hosts."""
        hosts = list(hosts)
        names = dict.fromkeys(name for host in hosts for name in _among(self.names(task, host) or (), only))
        waits = [wait for name in names if (wait := self._wait(name, None))]
        if len(waits) < len(names) or not names:  # one can be had: it is the review that cannot
            reviews = (self._review_wait(task, host) for host in hosts)
            waits = list(dict.fromkeys(wait for wait in reviews if wait)) or waits
        if not waits:
            return Wait(Reason.QUOTA, "no account can be had")
        reason = min((wait.reason for wait in waits), key=_ORDER.index)
        times = [wait.until for wait in waits if wait.until is not None]
        return Wait(reason, "; ".join(wait.message for wait in waits), min(times, default=None))

    def times(self) -> Iterator[datetime]:
        """Yield when accounts that are at their limits are tried, or open to all, by themselves."""
        for name, limit in self._observed.accounts.items():
            times = [limit.until, *([self._tries[name] + PROOF] if name in self._tries else [])]
            yield from (time for time in times if time > self._now)

    def _wait(self, name: str, model: str | None) -> Wait | None:
        """Return what has to come first before an account can be had; None: nothing."""
        limit, account = self._observed.accounts.get(name), self._desired.accounts.get(name)
        if limit and _is_closed_to(model, limit) and not self._may_try(name, limit):
            # The same words while one run tries it: others wait as if it were so still.
            reason, why = _CLOSED[limit.state]
            closed = f"account {name} {why.format(limit.reason)}"
            until = limit.until if limit.until > self._now else None
            return Wait(reason, f"{closed}; one run tries it {format_time(limit.until)}", until)
        return None if account is None else self._own_limit(account)

    def _review_wait(self, task: Task, host: str) -> Wait | None:
        """
        Return what has to come first before the work of a task can be reviewed on a host; None: nothing.

        How many runs an account has does not matter: a review takes no place among them.
        """
        name = self._reviewer(task, host)
        wait = self._wait(name, None) if name else None
        if wait is None or wait.reason is Reason.SLOT:
            return None
        return wait._replace(message=f"{wait.message} (review_by)")

    def _own_limit(self, account: Account) -> Wait | None:
        """Return which limit of its spec keeps an account from being had."""
        name, now = account.name, self._now
        if account.desired == "suspended":
            return Wait(Reason.SUSPENDED, f"account {name} is suspended")
        if message := spent_today(self._desired, self._observed.spent, ("account", name)):
            until = next_midnight(now)
            return Wait(Reason.BUDGET, f"{message}; new runs start {format_time(until)}", until)
        if message := spent_in_week(account, self._observed.spent_in_week, now):
            until = next_midnight(now) if account.pace == "even" else next_monday(now)
            return Wait(Reason.BUDGET, f"{message}; new runs start {format_time(until)}", until)
        if account.max_running is not None and self._live[name] >= account.max_running:
            message = f"account {name} runs as many as it may (max_running: {account.max_running})"
            return Wait(Reason.SLOT, message)
        return None

    def _may_try(self, name: str, limit: AccountStatus) -> bool:
        """Return whether a run may find out if an account is at its limit still."""
        # What was put on record by a clock that was ahead is not waited for until that comes true.
        if limit.until > self._now and limit.since - self._now <= JUMP:
            return False
        begun = self._tries.get(name)
        # A quota refuses at once; what fails may do so after a long silence.
        return begun is None or (limit.state == "at limit" and begun + PROOF <= self._now)


def _is_closed_to(model: str | None, limit: AccountStatus) -> bool:
    """Return whether an account is closed to a model; a limit may be only of others."""
    return limit.state == "failing" or model is None or model in limit.models


_CLOSED: Mapping[str, tuple[Reason, str]] = {
    "at limit": (Reason.QUOTA, "is at its limit"),
    "failing": (Reason.CIRCUIT, "is out of service: {}"),
}
"""State of an account that is not used → what its tasks wait for, and that as text."""


def _among(names: Sequence[str], only: str | None) -> Sequence[str]:
    return [name for name in names if only in {None, name}]


def _may_be_used(account: Account, host: str) -> bool:
    return account.hosts is None or host in account.hosts
