"""
The page Tasks: a table or a board; filters, search, order and page stand in the address.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from reconciler.api.pages.handlers import Visit, list_page
from reconciler.api.pages.rendering import View
from reconciler.core.model.status import Reason
from reconciler.core.views import TaskView

PAGE_SIZE = 50
MOST_CARDS = 15
"""Cards in a column of the board; the table has all of them."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class BoardColumn(NamedTuple):
    """A column of the board."""

    title: str
    phase: str
    """What the table is filtered by to show all of it."""
    states: frozenset[str]
    tone: str


COLUMNS = (
    BoardColumn("Waiting", "created", frozenset({"created", "new", "broken"}), "wait"),
    BoardColumn("Running", "live", frozenset({"assigned", "running"}), "live"),
    BoardColumn("Review", "review_pending", frozenset({"review_pending"}), "review"),
    BoardColumn("Failed", "bad", frozenset({"failed", "escalated"}), "bad"),
    BoardColumn("Completed", "completed", frozenset({"completed"}), "good"),
    BoardColumn("Cancelled", "closed", frozenset({"cancelled", "removed"}), "quiet"),
)
GROUPS: Mapping[str, frozenset[str]] = {column.phase: column.states for column in COLUMNS}
"""States by what people call several of them."""
PHASES = (
    ("person", "needs a person"),
    ("live", "running or assigned"),
    ("created", "waiting"),
    ("suspended", "suspended"),
    ("review_pending", "in review"),
    ("bad", "failed or escalated"),
    ("completed", "completed"),
    ("closed", "cancelled or removed"),
)

Test = Callable[[TaskView], bool]
CONDITIONS: Mapping[str, Test] = {
    "person": lambda view: view.is_stalled,
    "suspended": lambda view: view.is_suspended,
}
"""What is asked for beside states, whatever the state."""

Key = Callable[[TaskView], Any]
ORDERS: Mapping[str, tuple[str, Key, bool]] = {
    "name": ("name", lambda view: view.name, False),
    "since": ("newest change", lambda view: view.since or _LONG_AGO, True),
    "priority": ("priority", lambda view: view.spec.priority if view.spec else 0, True),
    "cost": ("cost", lambda view: view.status.usage.cost_usd if view.status else 0.0, True),
    "attempt": ("attempts", lambda view: view.status.attempt if view.status else 0, True),
}
"""What a list can be ordered by: in words, by what, and whether the largest is first."""


class FilterChoice(NamedTuple):
    """What can be filtered by, and the values that there are."""

    name: str
    label: str
    values: Sequence[tuple[str, str]]


async def tasks_page(visit: Visit) -> View:
    """Show the tasks that the address asks for."""
    snapshot = visit.fleet.snapshot()
    matches = filtered(snapshot.tasks, visit.query)
    is_board = visit.query.get("view") == "board"
    order = visit.query.get("order", "name")
    values = {
        "count": len(matches),
        "total": len(snapshot.tasks),
        "choices": choices(snapshot.tasks),
        "orders": [(name, label) for name, (label, _, _) in ORDERS.items()],
        "order": order if order in ORDERS else "name",
        "commits": await visit.fleet.services.last_commits(),
        "is_board": is_board,
        **(_board(matches) if is_board else _table(visit, matches)),
    }
    return View("tasks.html", "Tasks", values)


def _table(visit: Visit, matches: Sequence[TaskView]) -> Mapping[str, object]:
    return {"page": list_page(visit, ordered(matches, visit.query.get("order", "name")), PAGE_SIZE)}


def _board(matches: Sequence[TaskView]) -> Mapping[str, object]:
    cards = {column: [view for view in matches if view.state in column.states] for column in COLUMNS}
    newest = {column: ordered(views, "since") for column, views in cards.items()}
    return {"columns": [(column, views[:MOST_CARDS], len(views)) for column, views in newest.items()]}


def ordered(views: Sequence[TaskView], order: str) -> Sequence[TaskView]:
    """Return tasks in an order of ORDERS; what is none is by name, as they come."""
    if order not in ORDERS or order == "name":
        return views
    _, key, is_down = ORDERS[order]
    return sorted(views, key=key, reverse=is_down)


def filtered(views: Iterable[TaskView], query: Mapping[str, str]) -> Sequence[TaskView]:
    """Return the tasks that fit everything that is asked for."""
    tests = [make(query[name]) for name, make in FILTERS.items() if name in query]
    return [view for view in views if all(test(view) for test in tests)]


def _by_text(text: str) -> Test:
    parts = text.casefold().split()
    return lambda view: all(part in f"{view.name} {view.title}".casefold() for part in parts)


def _by_phase(phase: str) -> Test:
    if phase in CONDITIONS:
        return CONDITIONS[phase]
    states = GROUPS.get(phase, frozenset({phase}))
    return lambda view: view.state in states


def _by_reason(reason: str) -> Test:
    return lambda view: view.blocker is not None and view.blocker.reason == reason


FILTERS: Mapping[str, Callable[[str], Test]] = {
    "q": _by_text,
    "phase": _by_phase,
    "reason": _by_reason,
    "repo": lambda repo: lambda view: view.repo == repo,
    "host": lambda host: lambda view: view.assigned_host == host,
    "agent": lambda agent: lambda view: view.assigned_agent == agent,
    "adapter": lambda adapter: lambda view: view.spec is not None and view.spec.adapter == adapter,
}
"""Parameter of the address → what a task must be like."""


def choices(views: Iterable[TaskView]) -> Sequence[FilterChoice]:
    """Return the filters that people choose from a list, with what occurs."""
    repos, hosts, adapters, reasons = set[str](), set[str](), set[str](), set[Reason]()
    for view in views:
        repos.add(view.repo or "")
        hosts.add(view.assigned_host or "")
        adapters.add(view.spec.adapter if view.spec else "")
        if view.waiting:
            reasons.add(view.waiting.reason)
    named: Mapping[str, set[Any]] = {"repo": repos, "host": hosts, "adapter": adapters, "reason": reasons}
    lists = [
        FilterChoice(name, name, [(value, value) for value in sorted(values) if value])
        for name, values in named.items()
    ]
    return [FilterChoice("phase", "phase", PHASES), *(choice for choice in lists if choice.values)]
