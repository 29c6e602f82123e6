"""
How much may run at once, and how much may be spent, beside the slots of hosts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Final, Literal

from reconciler.core.adapter import Adapter, Budget, Usage, reached
from reconciler.core.model.specs import Account, Desired, ExecutionMode, Host, Repo, ReviewBy, Task
from reconciler.core.model.status import BudgetScope, Run

if TYPE_CHECKING:  # who only looks needs none of the events
    from reconciler.core.lifecycle import Transition

FLEET_GROUP: Final = ("fleet", "fleet")
LimitGroup = tuple[Literal["fleet", "repo", "adapter", "label"], str]
"""What a limit is about: a kind and a name."""

# --- What runs at once -----------------------------------------------------


def groups(task: Task) -> Iterator[LimitGroup]:
    """Yield the groups in which a run of the task would count."""
    yield FLEET_GROUP
    if task.execution_mode is ExecutionMode.SSH_CLI:
        yield "adapter", task.adapter
    if task.repo is not None:
        yield "repo", task.repo
    yield from (("label", label) for label in dict.fromkeys(task.requires))


def live_groups(run: Run, task: Task | None) -> Iterator[LimitGroup]:
    """Yield the groups in which a live run counts; its labels are those of its spec, if that is there."""
    yield FLEET_GROUP
    if run.adapter is not None:
        yield "adapter", run.adapter
    if run.repo is not None:
        yield "repo", run.repo
    if task is not None:
        yield from (("label", label) for label in dict.fromkeys(task.requires))


def full_group(desired: Desired, task: Task, running: Mapping[LimitGroup, int]) -> str | None:
    """Return which group of the task runs as many as it may, in words; None if none does."""
    for group in groups(task):
        most, setting = _most_running(desired, group)
        if most is not None and running.get(group, 0) >= most:
            return f"{_named(group)} runs as many as it may ({setting}: {most})"
    return None


def _most_running(desired: Desired, group: LimitGroup) -> tuple[int | None, str]:
    """Return a limit and the setting that it stands in."""
    kind, name = group
    if kind == "label":
        return desired.fleet.limits.get(name), f"limits.{name}"
    if kind == "fleet":
        return desired.fleet.max_running, "max_running"
    spec = desired.adapters.get(name) if kind == "adapter" else desired.repos.get(name)
    return spec.max_running if spec else None, "max_running"


def _named(group: LimitGroup | BudgetScope) -> str:
    return "the fleet" if group == FLEET_GROUP else " ".join(group)


# --- What is spent ---------------------------------------------------------

_NOTHING = Usage()


UNKNOWN_SPENDING = "what was spent today cannot be read by a bug of the reconciler; its log has more"


def spent_today(
    desired: Desired, spent: Mapping[BudgetScope, Usage] | None, *scopes: BudgetScope
) -> str | None:
    """
    Return why a daily budget allows no new run, as text; None if all of them do.

    Fails closed: what was spent may be unknown (None), and then a budget is
    taken for spent. The text does not say how much was spent, so that it stays
    the same while the last runs of the day end.
    """
    for scope in scopes:
        if spent is None:
            if daily_budget(desired, scope):
                return UNKNOWN_SPENDING
            continue
        limit = reached(daily_budget(desired, scope), spent.get(scope, _NOTHING))
        if limit:
            return f"{_named(scope)} has spent its daily budget of {limit[1]}"
    return None


def spent_in_week(account: Account, spent: Mapping[BudgetScope, Usage] | None, now: datetime) -> str | None:
    """
    Return why the weekly budget of an account allows no new run, as text; None if it does.

    At an even pace that is what is due by the end of the day. Fails closed, as `spent_today`.
    """
    if account.weekly_budget is None:
        return None
    if spent is None:
        return UNKNOWN_SPENDING
    usage, days = spent.get(("account", account.name), _NOTHING), now.astimezone(UTC).weekday() + 1
    if limit := reached(account.weekly_budget, usage):
        return f"account {account.name} has spent its weekly budget of {limit[1]}"
    if account.pace == "even" and reached(_share_of_week(account.weekly_budget, days), usage):
        return f"account {account.name} has spent {days}/{_WEEK} of its weekly budget (pace: even)"
    return None


_WEEK = 7


def _share_of_week(budget: Budget, days: int) -> Budget:
    """Return what may be spent of a weekly budget by the end of so many days."""
    return Budget.model_construct(
        cost_usd=budget.cost_usd * days / _WEEK if budget.cost_usd is not None else None,
        tokens=budget.tokens * days // _WEEK if budget.tokens is not None else None,
    )


def monday(now: datetime) -> datetime:
    """Return when the week began, in UTC: weekly budgets are counted from then."""
    return midnight(now) - timedelta(days=now.astimezone(UTC).weekday())


def next_monday(now: datetime) -> datetime:
    """Return when weekly budgets are full again."""
    return monday(now) + timedelta(days=_WEEK)


def has_weekly_budget(desired: Desired) -> bool:
    """Return whether any account has one."""
    return any(account.weekly_budget for account in desired.accounts.values())


def budget_scopes(
    adapter: str | None, repo: str | None, host: str | None = None, account: str | None = None
) -> Iterator[BudgetScope]:
    """Yield from whose money a run is paid, as far as it is known."""
    yield FLEET_GROUP
    if repo is not None:
        yield "repo", repo
    if adapter is not None:
        yield "adapter", adapter
    if account is not None:
        yield "account", account
    if host is not None:
        yield "host", host


def with_expenses(
    spent: Mapping[BudgetScope, Usage], steps: "Iterable[Transition]", since: datetime
) -> dict[BudgetScope, Usage]:
    """Return what was spent since a time, with what these steps say of it."""
    total = dict(spent)
    for step in steps:
        for usage, paying in _spending_of(step) if step.event.origin.at >= since else ():
            if usage != Usage():
                total |= {scope: total.get(scope, Usage()) + usage for scope in paying}
    return total


def _spending_of(step: "Transition") -> Iterator[tuple[Usage, tuple[BudgetScope, ...]]]:
    """Yield what a step says was spent, and from whose money: of its run, and of a second opinion."""
    status, before = step.after, step.before
    if status is None or status.run is None or before is None:
        return
    run, opinion, usage = status.run, status.opinion, status.usage - before.usage
    if opinion and opinion != before.opinion and usage != Usage():
        usage -= opinion.usage
        scopes = budget_scopes(opinion.adapter, run.repo, status.assigned_host, opinion.account)
        yield opinion.usage, tuple(scopes)
    yield usage, tuple(budget_scopes(run.adapter, run.repo, status.assigned_host, run.account))


def reviewer_scopes(review_by: ReviewBy | None) -> Iterator[BudgetScope]:
    """Yield from whose money a second opinion is paid, beside what its task's run is paid from."""
    if review_by is not None:
        yield "adapter", review_by.adapter
    if review_by is not None and review_by.account is not None:
        yield "account", review_by.account


def has_daily_budget(desired: Desired) -> bool:
    """Return whether anything has one."""
    budgets = (
        desired.fleet.daily_budget,
        *(repo.daily_budget for repo in desired.repos.values()),
        *(adapter.daily_budget for adapter in desired.adapters.values()),
        *(account.daily_budget for account in desired.accounts.values()),
        *(host.daily_budget for host in desired.hosts.values()),
    )
    return any(budget is not None for budget in budgets)


def budget_use(desired: Desired, spent: Mapping[BudgetScope, Usage]) -> Mapping[BudgetScope, float]:
    """Return which share of each daily budget is spent, from 0 up; of its limits the one that is nearest."""
    scopes: tuple[BudgetScope, ...] = (
        FLEET_GROUP,
        *(("repo", name) for name in desired.repos),
        *(("adapter", name) for name in desired.adapters),
        *(("account", name) for name in desired.accounts),
        *(("host", name) for name in desired.hosts),
    )
    budgets = ((scope, daily_budget(desired, scope)) for scope in scopes)
    return {scope: _share(budget, spent.get(scope, _NOTHING)) for scope, budget in budgets if budget}


def _share(budget: Budget, usage: Usage) -> float:
    tokens = usage.input_tokens + usage.output_tokens
    return max(
        usage.cost_usd / budget.cost_usd if budget.cost_usd else 0.0,
        tokens / budget.tokens if budget.tokens else 0.0,
    )


def midnight(now: datetime) -> datetime:
    """Return when the day began, in UTC: daily budgets are counted from then."""
    return datetime.combine(now.astimezone(UTC).date(), time(), UTC)


def next_midnight(now: datetime) -> datetime:
    """Return when daily budgets are full again."""
    return midnight(now) + timedelta(days=1)


def daily_budget(desired: Desired, scope: BudgetScope) -> Budget | None:
    """Return the daily budget of a scope; None if it has none."""
    kind, name = scope
    if kind == "fleet":
        return desired.fleet.daily_budget
    spec = _OWNERS[kind](desired).get(name)
    return spec.daily_budget if spec else None


_OWNERS: Mapping[str, Callable[[Desired], Mapping[str, Account | Adapter | Host | Repo]]] = {
    "repo": lambda desired: desired.repos,
    "adapter": lambda desired: desired.adapters,
    "account": lambda desired: desired.accounts,
    "host": lambda desired: desired.hosts,
}
