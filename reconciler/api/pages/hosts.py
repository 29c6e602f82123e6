"""
The pages Hosts and Agents: slots, load, versions, who holds what and since when.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from reconciler.api.pages.actions import host_verbs
from reconciler.api.pages.handlers import Visit, list_page
from reconciler.api.pages.now import HostRow, host_row, host_rows
from reconciler.api.pages.rendering import View
from reconciler.core.errors import NotFound, Unavailable
from reconciler.core.model.status import HostCli
from reconciler.core.transitions import HistoryFilter, TransitionRecord
from reconciler.core.views import HostView, TaskView, WorkerView

MOST_STEPS = 40
PAGE_SIZE = 30
MOST_HELD = 3
"""Tasks of a host in the list; its own page has all of them."""


class CliRow(NamedTuple):
    """An agent CLI of a host."""

    adapter: str
    cli: HostCli | None
    """None: it was not asked for yet."""


class HostLine(NamedTuple):
    """A host in the list."""

    row: HostRow
    load: float | None
    clis: Sequence[CliRow]


async def hosts_page(visit: Visit) -> View:
    """Show every host."""
    snapshot, services = visit.fleet.snapshot(), visit.fleet.services
    load = services.load()
    page = list_page(visit, [*snapshot.hosts.values()], PAGE_SIZE)
    lines = [
        HostLine(row, load.get(row.view.name), list(clis(row.view))) for row in host_rows(page.rows, snapshot)
    ]
    values = {
        "lines": lines,
        "page": page,
        "most_held": MOST_HELD,
        "commits": await services.last_host_commits(),
        "task_commits": await services.last_commits(),
    }
    return View("hosts.html", "Hosts", values)


async def host_page(visit: Visit) -> View:
    """Show one host."""
    snapshot, services = visit.fleet.snapshot(), visit.fleet.services
    host = snapshot.hosts.get(visit.name)
    if host is None:
        raise NotFound(f"no host {visit.name} in the specs; /hosts lists them")
    spec_file = f"specs/hosts/{host.name}.yaml"
    spec_commits = await services.spec_commits([spec_file])
    values = {
        "host": host,
        "row": host_row(host, snapshot),
        "load": services.load().get(host.name),
        "clis": list(clis(host)),
        "verbs": host_verbs(host),
        "steps": await _steps(visit, host.name),
        "spec_file": spec_file if spec_file in spec_commits else "",
        "spec_commit": spec_commits.get(spec_file, ""),
        "state_commit": (await services.last_host_commits()).get(host.name, ""),
        "commits": await services.last_commits(),
    }
    return View("host.html", f"Host {host.name}", values)


async def _steps(visit: Visit, host: str) -> Sequence[TransitionRecord]:
    try:
        return await visit.fleet.record.search(HistoryFilter(host=host), None, MOST_STEPS)
    except Unavailable:
        return ()


def clis(host: HostView) -> Iterator[CliRow]:
    """Yield the agent CLIs that a host offers, with what the last probe found of them."""
    probed = host.status.adapters if host.status else {}
    offered = probed if host.spec.adapters is None else host.spec.adapters
    for name in sorted(offered):
        cli = probed.get(name)
        if host.spec.adapters is not None or (cli and cli.ok):
            yield CliRow(name, cli)


# --- Agents ------------------------------------------------------------------


class WorkerLine(NamedTuple):
    """An outside agent in the list."""

    view: WorkerView
    held: Sequence[TaskView]
    last_used: datetime | None


async def agents_page(visit: Visit) -> View:
    """Show every outside agent."""
    model = visit.fleet.snapshot().model
    workers: Mapping[str, WorkerView] = model.workers()
    page = list_page(visit, [*workers.values()], PAGE_SIZE)
    lines = [
        WorkerLine(view, [model.task(name) for name in view.held], visit.fleet.last_used(view.name))
        for view in page.rows
    ]
    files = {line.view.name: f"specs/agents/{line.view.name}.yaml" for line in lines}
    touched = await visit.fleet.services.spec_commits(list(files.values()))
    values = {
        "lines": lines,
        "page": page,
        "most_held": MOST_HELD,
        "files": files,
        "spec_commits": {name: touched.get(path, "") for name, path in files.items()},
        "commits": await visit.fleet.services.last_commits(),
    }
    return View("agents.html", "Agents", values)
