"""
Read operations: tasks, runs, hosts, campaigns, agents, the plan, the history.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from heapq import nsmallest
from typing import Any, TypeVar

from reconciler.api.operation import Call, Operation, Page, Reply
from reconciler.api.services import HistorySource
from reconciler.api.tokens import Scope
from reconciler.api.views import (
    campaign_body,
    history_body,
    host_body,
    plan_body,
    read_model,
    run_body,
    task_body,
    worker_body,
)
from reconciler.controller.ports import FleetView
from reconciler.core.errors import NotFound, Refused
from reconciler.core.fields import Frozen
from reconciler.core.figures import FiguresOf
from reconciler.core.views import TaskView, is_holder
from reconciler.wire import (
    AgentBody,
    CampaignBody,
    HistoryEntryBody,
    HistoryQuery,
    HostBody,
    PageQuery,
    PlanBody,
    PlanQuery,
    RunBody,
    RunsQuery,
    TaskBody,
    TasksQuery,
)

Thing = TypeVar("Thing")


@dataclass(frozen=True, slots=True)
class ReadOperations:
    """Read operations of the API."""

    view: FleetView
    record: HistorySource
    last_used: Callable[[str], datetime | None]
    figures: FiguresOf = lambda *_: None

    async def tasks(self, call: Call) -> Page:
        """Return tasks by name; to a token of scope `agent`, those that it holds."""
        model = read_model(self.view)
        names: Iterable[str] = model.names()
        if not call.caller.may("read"):
            names = (name for name in names if is_holder(call.caller.agent, self.view.statuses.get(name)))
        if wanted := _wanted(call.query):
            names = (name for name in names if _matches(model.task(name), wanted))
        page, cursor = _page(names, str, call.query)
        followed = replace(model, live=self.figures)
        return Page([task_body(followed.task(name)) for name in page], cursor)

    async def task(self, call: Call) -> TaskBody:
        """Return a task; to a token of scope `agent`, one that it was given."""
        model = replace(read_model(self.view), live=self.figures)
        if not model.has(call.name) and (status := await self.record.archived(call.name)):
            model = model.with_archived(call.name, status)
        view = model.task(call.name)
        if view.assigned_agent != call.caller.agent and not call.caller.may("read"):
            raise Refused("a token of scope `agent` reads the tasks that it was given; `read` reads all")
        if not model.has(call.name):
            raise NotFound(f"no task {call.name}; `GET /api/v1/tasks` lists them")
        return task_body(view)

    async def runs(self, call: Call) -> Page:
        """Return live runs by name."""
        wanted, model = (
            _wanted(call.query),
            replace(read_model(self.view), live=self.figures),
        )
        live = (view for view in model.runs() if _matches(view, wanted))
        return Page(*_page(map(run_body, live), lambda run: run.run, call.query))

    async def hosts(self, call: Call) -> Page:
        """Return hosts by name."""
        page, cursor = _page(read_model(self.view).hosts().values(), lambda host: host.name, call.query)
        return Page([host_body(host) for host in page], cursor)

    async def campaigns(self, call: Call) -> Page:
        """Return campaigns by name."""
        views = read_model(self.view).campaigns().values()
        page, cursor = _page(views, lambda campaign: campaign.name, call.query)
        return Page([campaign_body(campaign) for campaign in page], cursor)

    async def agents(self, call: Call) -> Page:
        """Return outside agents by name."""
        page, cursor = _page(read_model(self.view).workers().values(), lambda worker: worker.name, call.query)
        return Page([worker_body(worker, self.last_used(worker.name)) for worker in page], cursor)

    async def plan(self, call: Call) -> PlanBody:
        """Return the last plan."""
        return plan_body(self.view, call.query.limit)

    async def history(self, call: Call) -> Page:
        """Return what happened, newest first."""
        query: HistoryQuery = call.query
        entries = await self.record.before(query.cursor, query.task, query.limit + 1)
        page = [history_body(entry) for entry in entries[: query.limit]]
        return Page(page, page[-1].commit if len(entries) > len(page) else None)

    @property
    def operations(self) -> Sequence[Operation]:
        """Return the operations."""
        task = Operation(
            method="GET",
            path="/api/v1/tasks/{name}",
            name="task",
            summary="Show a task; a token of scope `agent` sees those that it was given",
            handler=self.task,
            scopes=("agent", "read"),
            answers={200: Reply("The task", TaskBody)},
            is_versioned=True,
        )
        plan = Operation(
            method="GET",
            path="/api/v1/plan",
            name="plan",
            summary="Show the last plan",
            handler=self.plan,
            scopes=("read",),
            query=PlanQuery,
            answers={200: Reply("The plan", PlanBody)},
        )
        listed = "List tasks by name; a token of scope `agent` sees those that it holds"
        return (
            _list("tasks", listed, self.tasks, TasksQuery, TaskBody, scopes=("agent", "read")),
            task,
            _list("runs", "List live runs", self.runs, RunsQuery, RunBody),
            _list("hosts", "List hosts", self.hosts, PageQuery, HostBody, is_versioned=False),
            _list(
                "campaigns", "List campaigns, and how far they are", self.campaigns, PageQuery, CampaignBody
            ),
            _list("agents", "List outside agents", self.agents, PageQuery, AgentBody, is_versioned=False),
            plan,
            _list("history", "List transitions, newest first", self.history, HistoryQuery, HistoryEntryBody),
        )


def _list(
    name: str,
    summary: str,
    handler: Callable[[Call], Awaitable[Page]],
    query: type[Frozen],
    model: type[Frozen],
    *,
    scopes: tuple[Scope, ...] = ("read",),
    is_versioned: bool = True,
) -> Operation:
    return Operation(
        method="GET",
        path=f"/api/v1/{name}",
        name=name,
        summary=summary,
        handler=handler,
        scopes=scopes,
        query=query,
        answers={200: Reply("One page; the `Link` header tells where the next is", model, is_list=True)},
        is_versioned=is_versioned,
    )


def _wanted(query: PageQuery) -> dict[str, Any]:
    """Return the filters that were given."""
    return query.model_dump(exclude_none=True, exclude={"limit", "cursor"})


def _matches(view: TaskView, wanted: Mapping[str, Any]) -> bool:
    """Return whether a task matches the filters, which are named like the fields of its view."""
    return all(getattr(view, field) == value for field, value in wanted.items())


def _page(
    things: Iterable[Thing], key: Callable[[Thing], str], query: PageQuery
) -> tuple[Sequence[Thing], str | None]:
    """Return the items after the cursor, in order of their keys, and the cursor of the next page."""
    after = query.cursor or ""
    matches = nsmallest(query.limit + 1, (thing for thing in things if key(thing) > after), key=key)
    page = matches[: query.limit]
    return page, key(page[-1]) if len(matches) > len(page) else None
