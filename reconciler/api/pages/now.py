"""
The page Now: what needs a person, what runs, what waits and why, where there is room, what was spent.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from heapq import nsmallest
from typing import NamedTuple

from reconciler.api.pages.fleet import Snapshot
from reconciler.api.pages.handlers import Visit
from reconciler.api.pages.readable import readable
from reconciler.api.pages.rendering import View
from reconciler.api.pages.safe_text import plain
from reconciler.core.adapter import Budget, Usage
from reconciler.core.errors import Unavailable
from reconciler.core.figures import LiveFigures
from reconciler.core.model.specs import Desired
from reconciler.core.model.status import BudgetScope, Phase, Reason, Waiting
from reconciler.core.needs import Need
from reconciler.core.planning.limits import FLEET_GROUP
from reconciler.core.planning.plan import prune_digest
from reconciler.core.text import one_line
from reconciler.core.views import HostView, ReadModel, TaskView

MOST_NEEDS, MOST_RUNS, MOST_QUEUED, MOST_TRANSITIONS, MOST_HOSTS, MOST_CAMPAIGNS = 20, 30, 20, 20, 40, 10
MOST_CELLS = 200
"""Slots that are drawn one by one, of all hosts on a page together."""


class NeedRow(NamedTuple):
    """One cause that needs a person, as it is shown."""

    what: str
    tasks: Sequence[str]
    """Those it is about; one cause may keep many back."""
    host: str | None
    file: str | None
    """Path and line of a spec with a mistake."""
    why: str
    message: str
    since: datetime | None


class RunRow(NamedTuple):
    """A live run, as it is shown."""

    view: TaskView
    last_line: str
    figures: LiveFigures | None
    """How far its round is, as of now."""


class SlotView(NamedTuple):
    """A slot of a host."""

    task: str | None
    """Whose run is in it; None: it is free."""


class HostRow(NamedTuple):
    """A host and its slots."""

    view: HostView
    held: Sequence[TaskView]
    """Tasks with a run on it."""
    slots: Sequence[SlotView]
    more: int
    """Slots that are not drawn."""


class BudgetRow(NamedTuple):
    """What was spent today from one budget, or without any."""

    name: str
    spent: float
    limit: float | None
    unit: str
    """`USD` or `tokens`."""

    @property
    def share(self) -> float:
        """How much of the limit is spent, from 0 up."""
        return self.spent / self.limit if self.limit else 0.0


async def now_page(visit: Visit) -> View:
    """Show the fleet as it is now."""
    fleet, snapshot = visit.fleet, visit.fleet.snapshot()
    try:
        transitions = await fleet.record.before(None, None, MOST_TRANSITIONS)
    except Unavailable:
        transitions = ()
    hosts = snapshot.hosts
    runs = sorted(snapshot.live.values(), key=lambda view: (view.since is None, view.since, view.name))
    needs = need_rows(snapshot.needs, snapshot.model)
    queued = waiting_tasks(snapshot.tasks)
    values = {
        "revision": fleet.view.desired.revision,
        "needs": needs[:MOST_NEEDS],
        "more_needs": max(0, len(needs) - MOST_NEEDS),
        "removals": (removals := waiting_removals(fleet.view.last_plan.waiting)),
        "digest": prune_digest(removals),
        "runs": [RunRow(view, last_line(visit, view), _figures(visit, view)) for view in runs[:MOST_RUNS]],
        "more_runs": max(0, len(runs) - MOST_RUNS),
        "queue": nsmallest(MOST_QUEUED, queued, key=_turn),
        "more_queued": max(0, len(queued) - MOST_QUEUED),
        "suspended": sum(view.is_suspended for view in snapshot.tasks),
        "counts": task_counts(snapshot),
        "hosts": host_rows([*hosts.values()][:MOST_HOSTS], snapshot),
        "more_hosts": max(0, len(hosts) - MOST_HOSTS),
        "campaigns": snapshot.campaigns[:MOST_CAMPAIGNS],
        "more_campaigns": max(0, len(snapshot.campaigns) - MOST_CAMPAIGNS),
        "host_commits": await fleet.services.last_host_commits(),
        "budgets": budget_rows(fleet.view.desired, await fleet.spent_today()),
        "transitions": transitions,
        "commits": await fleet.services.last_commits(),
    }
    return View("now.html", "Now", values)


def last_line(visit: Visit, view: TaskView) -> str:
    """Return the last line that a live run printed; empty if none is known here."""
    status = view.status
    run = status.live_run if status else None
    if run is None:
        return ""
    line = visit.fleet.services.logs.last_line(*run.round_key)
    pieces = readable(line)
    return one_line(plain(pieces[-1].text if pieces else line), 200)


def _figures(visit: Visit, view: TaskView) -> LiveFigures | None:
    run = view.status.live_run if view.status else None
    return visit.fleet.figures(*run.round_key) if run else None


def need_rows(needs: Iterable[Need], model: ReadModel) -> Sequence[NeedRow]:
    """Return needs with what they are about, tasks with the same cause in one row."""
    rows: dict[tuple[str, str, str], NeedRow] = {}
    for need in needs:
        row = _need_row(need, model)
        key = (need.why, need.message, "" if row.tasks else need.what)
        if key in rows:
            before = rows[key]
            since = min(filter(None, (before.since, row.since)), default=None)
            row = before._replace(tasks=[*before.tasks, *row.tasks], since=since)
        rows[key] = row
    return list(rows.values())


def _need_row(need: Need, model: ReadModel) -> NeedRow:
    kind, _, name = need.what.partition(" ")
    if kind == "task" and name:
        return NeedRow(name, [name], None, None, need.why, need.message, model.task(name).since)
    if kind == "host" and name:
        status = model.observed.hosts.get(name)
        since = status.since if status else None
        return NeedRow(need.what, [], name, None, need.why, need.message, since)
    return NeedRow(need.what, [], None, need.what, need.why, need.message, None)


def waiting_removals(waiting: Mapping[str, Waiting]) -> Sequence[str]:
    """Return the tasks whose removal waits for a person."""
    return sorted(name for name, wait in waiting.items() if wait.reason is Reason.APPROVAL)


def waiting_tasks(tasks: Iterable[TaskView]) -> Sequence[TaskView]:
    """Return the tasks that wait for something that comes by itself."""
    return [
        view
        for view in tasks
        if view.phase is Phase.CREATED and not (view.problems or view.is_stalled or view.is_suspended)
    ]


def _turn(view: TaskView) -> tuple[int, float, str]:
    """Return what the order of the queue goes by: priority, then age, then the name."""
    priority = view.spec.priority if view.spec else 0
    created = view.status.created_at.timestamp() if view.status else float("inf")
    return -priority, created, view.name


class Count(NamedTuple):
    """How many tasks are in a state."""

    label: str
    number: int
    address: str
    """Of what lists them."""
    tone: str


def task_counts(snapshot: Snapshot) -> Sequence[Count]:
    """Return how many tasks need a person, run, wait, are reviewed and are done."""
    states = snapshot.states
    needs = snapshot.count_of_needs
    return (
        Count("need a person", needs, "/#h-needs", "bad" if needs else "quiet"),
        Count("running", states.get("running", 0) + states.get("assigned", 0), "/tasks?phase=live", "live"),
        Count("waiting", states.get("created", 0) + states.get("new", 0), "/tasks?phase=created", "wait"),
        Count("in review", states.get("review_pending", 0), "/tasks?phase=review_pending", "review"),
        Count("completed", states.get("completed", 0), "/tasks?phase=completed", "good"),
    )


def host_rows(hosts: Sequence[HostView], snapshot: Snapshot) -> Sequence[HostRow]:
    """Return hosts with a cell for each of their slots, as many as one page holds."""
    return [host_row(host, snapshot, most=MOST_CELLS // len(hosts)) for host in hosts]


def host_row(host: HostView, snapshot: Snapshot, *, most: int = 64) -> HostRow:
    """Return a host with a cell for each of its slots, those of one run side by side."""
    held = held_on(host, snapshot)
    cells = [SlotView(view.name) for view in held for _ in range(_slots(view))]
    cells += [SlotView(None)] * max(0, host.spec.slots - len(cells))
    return HostRow(host, held, cells[:most], max(0, len(cells) - most))


def _slots(view: TaskView) -> int:
    return view.status.run.slots if view.status and view.status.run else 1


def held_on(host: HostView, snapshot: Snapshot) -> Sequence[TaskView]:
    """Return the tasks with a live run on a host, by name."""
    return [snapshot.live[run] for run in host.runs if run in snapshot.live]


def budget_rows(desired: Desired, spent: Mapping[BudgetScope, Usage]) -> Sequence[BudgetRow]:
    """Return what was spent today: by the fleet, and from every budget of a day."""
    budgets: dict[BudgetScope, Budget | None] = {FLEET_GROUP: desired.fleet.daily_budget}
    budgets |= {("repo", name): repo.daily_budget for name, repo in desired.repos.items()}
    budgets |= {("adapter", name): adapter.daily_budget for name, adapter in desired.adapters.items()}
    budgets |= {("host", name): host.daily_budget for name, host in desired.hosts.items()}
    return [
        row
        for scope, budget in budgets.items()
        if budget is not None or scope == FLEET_GROUP
        for row in _rows(scope, budget, spent.get(scope, Usage()))
    ]


def _rows(scope: BudgetScope, budget: Budget | None, usage: Usage) -> Iterator[BudgetRow]:
    name = "fleet" if scope == FLEET_GROUP else " ".join(scope)
    tokens = usage.input_tokens + usage.output_tokens
    if budget is None or budget.cost_usd is not None or budget.tokens is None:
        yield BudgetRow(name, usage.cost_usd, budget.cost_usd if budget else None, "USD")
    if budget is not None and budget.tokens is not None:
        yield BudgetRow(name, tokens, budget.tokens, "tokens")
