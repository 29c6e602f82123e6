"""
What a new run's place rested on beside specs and record, bounded however many hosts there are.
"""

from collections.abc import Iterator, Mapping, Sequence

from reconciler.core.adapter import Usage
from reconciler.core.model.inputs import DecisionInputs, Spending
from reconciler.core.model.specs import Task
from reconciler.core.model.status import BudgetScope, LeaseRequest
from reconciler.core.planning.context import PlanContext
from reconciler.core.planning.limits import budget_scopes, daily_budget, reviewer_scopes
from reconciler.core.planning.placement import Candidate, Placement
from reconciler.core.runs.accounts import accounts_for

MOST_RIVALS = 8
"""How many hosts beside the chosen one go on record by name."""


def host_inputs(context: PlanContext, spec: Task, placement: Placement) -> DecisionInputs:
    """Return what the choice of a host rested on."""
    named, others = _rivals(placement.ranked)
    hosts = [each.host for each in named]
    load = {each.host: each.load for each in named}
    kept = dict(list(placement.kept.items())[:MOST_RIVALS])
    return DecisionInputs(
        load=load if any(load.values()) or others else {},
        floor=min((each.load for each in others), default=None),
        half_open=tuple(host for host in hosts if host in context.observed.half_open),
        kept=kept,
        spent=_spent(context, spec, (*hosts, *placement.spent[:MOST_RIVALS])),
        week=_spent_in_week(context, spec),
    )


def pull_inputs(context: PlanContext, spec: Task, request: LeaseRequest) -> DecisionInputs:
    """Return what it rested on that an outside agent got a task."""
    return DecisionInputs(capabilities=request.capabilities, spent=_spent(context, spec, ()))


def _rivals(ranked: Sequence[Candidate]) -> tuple[Sequence[Candidate], Sequence[Candidate]]:
    """
    Return the candidates whose load decided: the chosen and its nearest rivals, and the others.

    A host that loses even when it is idle is none of them: its load told nothing.
    """
    best = ranked[0]
    near = [each for each in ranked[1:] if each.score + each.load >= best.score]
    near.sort(key=lambda each: (-(each.score + each.load), each.host))
    return [best, *near[:MOST_RIVALS]], near[MOST_RIVALS:]


def _spent(context: PlanContext, spec: Task, hosts: Sequence[str]) -> Spending:
    """Return what was spent today of every daily budget that the task could be paid from."""
    spent = context.observed.spent or {}
    scopes = dict.fromkeys(scope for scope in _scopes(context, spec, hosts) if scope in spent)
    return _named({scope: spent[scope] for scope in scopes if daily_budget(context.desired, scope)})


def _scopes(context: PlanContext, spec: Task, hosts: Sequence[str]) -> Iterator[BudgetScope]:
    yield from budget_scopes(spec.adapter, spec.repo)
    yield from reviewer_scopes(spec.review_by)
    yield from (("account", name) for name in accounts_for(spec, context.desired))
    yield from (("host", name) for name in hosts)


def _spent_in_week(context: PlanContext, spec: Task) -> Spending:
    spent, accounts = context.observed.spent_in_week or {}, context.desired.accounts
    reviewers = (name for kind, name in reviewer_scopes(spec.review_by) if kind == "account")
    names = [
        name
        for name in dict.fromkeys((*accounts_for(spec, context.desired), *reviewers))
        if name in accounts and accounts[name].weekly_budget
    ]
    return _named(
        {("account", name): spent[("account", name)] for name in names if ("account", name) in spent}
    )


def _named(spent: Mapping[BudgetScope, Usage]) -> Spending:
    return {f"{kind}/{name}": usage for (kind, name), usage in spent.items()}
