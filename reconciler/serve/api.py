"""
The HTTP API of a served fleet: what its operations, pages and metrics are handed.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from reconciler import __version__, clock, datafolder
from reconciler.controller.notify import notify
from reconciler.controller.ports import Step
from reconciler.core.errors import NotFound, Problem
from reconciler.core.model.specs import Desired
from reconciler.core.notifications.book import unsent
from reconciler.dispatch.failures import describe_failure
from reconciler.dispatch.repos import whole_url
from reconciler.dispatch.secrets import forge_secret
from reconciler.dispatch.worker_logs import AgentLogs
from reconciler.forge.journal import DeliveryOutcome, Journal
from reconciler.forge.webhook_receiver import WebhookReceiver
from reconciler.git.objects import GitTree
from reconciler.serve.fleet import ServedFleet
from reconciler.settings import Settings
from reconciler.specs.build import build
from reconciler.specs.edit import edit
from reconciler.specs.explain import Explained, explain_fields
from reconciler.specs.parse import File
from reconciler.specs.source import read_revision
from reconciler.steering import Steering
from reconciler.store.commit_view import FileCommits, resolve_commit, statuses_at, view_commit, view_file
from reconciler.store.history import HistoryReader
from reconciler.store.spending import spending

if TYPE_CHECKING:  # imported where metrics are served, and only there
    from reconciler.api.metrics import MetricSources
    from reconciler.api.pages.services import PageServices


@asynccontextmanager
async def serve_api(
    fleet: ServedFleet, settings: Settings, on_listen: Callable[[str], None]
) -> AsyncIterator[Sequence[Callable[[Step], None]]]:
    """Serve the HTTP API, if there is to be one; yield who hears of each step on record."""
    if settings.web is None or fleet.metrics is None:
        yield ()
        return
    # Imported only here: Sanic takes longer to import than everything else together.
    from reconciler.api.app import make_app  # noqa: PLC0415 - see above
    from reconciler.api.exposure import exposure_of  # noqa: PLC0415 - see above
    from reconciler.api.listen import read_listen  # noqa: PLC0415 - see above
    from reconciler.api.proposals import Proposals  # noqa: PLC0415 - see above
    from reconciler.api.server import serve_app  # noqa: PLC0415 - see above
    from reconciler.api.services import Services  # noqa: PLC0415 - see above

    web, cache = settings.web, fleet.cache
    listen = read_listen(web.listen, web.tls_cert, web.tls_key, behind_proxy=web.behind_proxy)
    journal = Journal(settings.data_dir / "hooks", clock.now)
    hooks = WebhookReceiver(
        cache,
        forge_secret,
        journal,
        partial(
            notify,
            pulls=fleet.loop.controllers.pulls,
            branches=fleet.branches,
            pollers=[poller for poller in fleet.pollers if poller is not fleet.branches.poller],
            state_branch=fleet.state_branch,
        ),
    )
    _resume_deliveries(fleet, hooks)
    services = Services(
        record=HistoryReader(fleet.repository, lambda: cache.head),
        logs=AgentLogs(fleet.dispatch.logs),
        propose=Proposals(cache, fleet.writer, edit, partial(_check, fleet)).propose,
        hooks=hooks,
        whole_url=partial(whole_url, fleet=fleet.base),
        pages=_page_services(fleet, settings.data_dir, journal),
        figures=fleet.dispatch.logs.figures,
        unready=partial(_unready, fleet),
        metrics=fleet.metrics,
    )
    key = datafolder.cookie_key(settings.data_dir, partial(clock.random_hex, 32))
    fleet.metrics.sample(_metric_sources(fleet, journal))
    app = make_app(
        cache,
        fleet.loop.controllers.leases,
        services,
        clock=clock.now,
        last_use=settings.data_dir / "agents.json",
        exposure=exposure_of(listen, web.public_url, key),
    )
    async with serve_app(app, listen) as url:
        on_listen(url)
        yield fleet.metrics.step, lambda _: app.ctx.notify()


def _resume_deliveries(fleet: ServedFleet, hooks: WebhookReceiver) -> None:
    """Have what came before a crash acted upon, once the specs were read."""
    listeners = fleet.loop.listeners.specs

    def resume() -> None:
        listeners.remove(resume)
        hooks.resume()

    listeners.append(resume)


def _unready(fleet: ServedFleet) -> str:
    """Return why tasks are not looked after now, in words; empty if they are."""
    if not fleet.lease.is_held:
        return "another reconciler leads this fleet; this one ends"
    return fleet.loop.unready


def _metric_sources(fleet: ServedFleet, journal: Journal) -> "MetricSources":
    """Return where metrics find how things stand."""
    from reconciler.api.metrics import MetricSources  # noqa: PLC0415 - imported only where they are served

    loop, cache = fleet.loop, fleet.cache
    return MetricSources(
        view=cache,
        clock=clock.now,
        version=__version__,
        unready=partial(_unready, fleet),
        is_leader=lambda: fleet.lease.is_held,
        forges=partial(_forges, fleet),
        budgets=lambda: loop.stages.spending.use(cache.desired, clock.now()),
        deliveries=lambda: _by_outcome(journal),
        notifications=fleet.notifier.reports,
    )


def _forges(fleet: ServedFleet) -> Mapping[str, bool]:
    """Return whether the forges of repos answered when they were last asked; the fleet's own as `.fleet`."""
    failing = fleet.forge_problems()
    return {repo: repo not in failing for repo in fleet.cache.desired.forges}


def _by_outcome(journal: Journal) -> Mapping[str, int]:
    counts = dict.fromkeys(get_args(DeliveryOutcome), 0)
    for (_, outcome), count in journal.counts.items():
        counts[outcome] += count
    return counts


def _page_services(fleet: ServedFleet, data: Path, journal: Journal) -> "PageServices":
    """Return what the pages show beside the read model."""
    from reconciler.api.pages.services import HookReport, PageServices, SpecsPull  # noqa: PLC0415 - see above

    repository, cache, state = fleet.repository, fleet.cache, fleet.state_branch
    logs = fleet.dispatch.shown_logs()
    return PageServices(
        fleet=repository.word,
        logs=logs,
        steering=Steering(cache, fleet.writer, partial(_check, fleet)),
        commit=partial(view_commit, repository, (fleet.branch, state)),
        last_commits=fleet.state.last_commits,
        last_host_commits=fleet.state.last_host_commits,
        statuses_at=partial(statuses_at, repository),
        file=lambda path: view_file(repository, fleet.branch, cache.desired.revision, path),
        failure=lambda task, status: describe_failure(task, status, cache.desired, data, logs),
        explain=partial(_explain, fleet),
        diff=partial(_diff, fleet),
        specs_at=partial(_specs_at, fleet),
        specs_pulls=lambda: [
            SpecsPull(pull.number, pull.title, pull.author, pull.url)
            for pull in (fleet.previews.open if cache.desired.fleet.forge else ())
        ],
        specs_of_pull=fleet.previews.specs_of,
        load=lambda: fleet.loop.controllers.hosts.load,
        spec_commits=FileCommits(repository, fleet.branch).of,
        forge_problems=fleet.forge_problems,
        hooks=lambda: HookReport(
            counts=[(event, outcome, n) for (event, outcome), n in sorted(journal.counts.items())],
            taken=[(each.at, each.hint.event, ", ".join(each.hint.repos)) for each in journal.recent()],
        ),
        unsent=lambda: unsent(fleet.notifier.reports()),
        spending=lambda since: spending(repository, state, since=since),
    )


async def _explain(fleet: ServedFleet, task: str) -> Sequence[Explained]:
    tree = GitTree(fleet.repository, fleet.branch)
    return explain_fields(await read_revision(tree, fleet.cache.desired.revision), task)


async def _specs_at(fleet: ServedFleet, revision: str) -> Desired:
    """Return what the specs of a revision ask for. Raises NotFound."""
    commit = await resolve_commit(fleet.repository, revision)
    return build(await read_revision(GitTree(fleet.repository, fleet.branch), commit), revision=commit)


async def _diff(fleet: ServedFleet, repo: str, base: str, head: str) -> str:
    spec = fleet.cache.desired.repos.get(repo)
    if spec is None:
        raise NotFound(f"no repo {repo} in the specs any more")
    return await fleet.dispatch.diff(spec, base, head)


async def _check(fleet: ServedFleet, path: str, text: str) -> Sequence[Problem]:
    """Return the problems that a file would have among the current specs."""
    tree = GitTree(fleet.repository, fleet.branch)
    files = await read_revision(tree, await tree.head())
    data = text.encode()
    desired = build(
        {**files, path: File("100644", fleet.repository.blob_id(data), data)}, revision="proposed"
    )
    return [problem for problem in desired.problems if problem.path == path]
