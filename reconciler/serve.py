"""
Wiring: opens all parts, connects them to the loop, and closes them again.
"""

import asyncio
import logging
import os
import random
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from reconciler import __version__, clock, datafolder
from reconciler.controller.build import build_loop
from reconciler.controller.cache import FleetCache
from reconciler.controller.issues import IssueController
from reconciler.controller.loop import Loop, StopWhen
from reconciler.controller.meter import IsolatedMeter
from reconciler.controller.notify import notify, specs_poller
from reconciler.controller.plan_preview import PlanPreview, ReadPull
from reconciler.controller.poller import Poller
from reconciler.controller.ports import UNREAD_METER, ControllerSettings, Meter, Ports, Step
from reconciler.core.errors import NotFound, Problem, UsageError
from reconciler.core.model.forge import PullRequestSnapshot
from reconciler.core.model.specs import Desired, Host
from reconciler.core.model.status import OnHost
from reconciler.core.times import format_time
from reconciler.dispatch import environ
from reconciler.dispatch.dispatcher import Dispatcher
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.output import read_output
from reconciler.dispatch.paths import local_folder
from reconciler.dispatch.pool import TransportPool
from reconciler.dispatch.prober import HostProber
from reconciler.dispatch.repos import whole_url
from reconciler.dispatch.secrets import forge_secret, secret_variables
from reconciler.dispatch.worker_logs import AgentLogs
from reconciler.forge.forgejo import ForgeRegistry
from reconciler.forge.journal import DeliveryOutcome, Journal
from reconciler.forge.webhook_receiver import WebhookReceiver
from reconciler.git.objects import GitTree
from reconciler.git.repository import Repository
from reconciler.settings import Settings
from reconciler.specs.build import build
from reconciler.specs.edit import edit
from reconciler.specs.explain import Explained, explain_fields
from reconciler.specs.parse import ROOT, File, read_task
from reconciler.specs.source import SpecSource, read_revision
from reconciler.steering import Steering
from reconciler.store.bot_commits import BotCommitter
from reconciler.store.commit_view import files_touched, resolve, statuses_at, view_commit, view_file
from reconciler.store.guarded_tree import GuardedTree
from reconciler.store.high_water import HighWaterMarks
from reconciler.store.history import HistoryReader
from reconciler.store.leader import LeaderLease, LeaderMode, this_process
from reconciler.store.merge_preview import PullTree
from reconciler.store.presence import BEAT as ON_RETRY
from reconciler.store.presence import Presence, PresenceFile
from reconciler.store.remote_record import require_own_record
from reconciler.store.spending import spending
from reconciler.store.state import StateBranch
from reconciler.store.watch import ref_changes
from reconciler.systemd import sd_notify, watchdog_interval

if TYPE_CHECKING:  # imported where metrics are served, and only there
    from reconciler.api.metrics import Metrics, MetricSources
    from reconciler.api.pages.services import PageServices

__all__ = ["StopWhen", "reconcile", "ways"]

log = logging.getLogger(__name__)
for _chatty in ("asyncssh", "httpx2", "watchfiles"):  # each connection, request, change of a file
    logging.getLogger(_chatty).setLevel(logging.WARNING)

_LIMIT = 4
"""Multiple of `stop_grace` after which the process is ended forcibly."""

LOCAL_LOOK = timedelta(seconds=2)
"""Interval of polling local refs, as a fallback of the watch; a poll costs microseconds."""

RESTART = 2.0
"""Seconds after which a failed background task is restarted."""


async def reconcile(
    settings: Settings,
    *,
    until: StopWhen = "stopped",
    on_step: Callable[[Step], None],
    on_listen: Callable[[str], None] = lambda _: None,
    on_signal: Callable[[int], None] = lambda _: None,
    on_loop: Callable[[Loop], None] = lambda _: None,
) -> Loop:
    """
    Reconcile the fleet until the time to end has come; return the loop as it ended.

    `on_listen` is told the address of the HTTP API, if there is one, and
    `on_loop` the loop, before anything happens. SIGTERM
    and SIGINT, told to `on_signal`, end it within `settings.stop_grace`; live
    runs go on. Whatever hangs, the process ends; a second signal ends it at
    once. Raises
    UsageError if the repository cannot be a fleet's or another process serves
    it, Unavailable or Refused if it cannot be reached in the beginning.
    """
    async with _fleet(settings) as fleet:
        with ending(fleet.loop.stop, settings, on_signal) as end:  # before anybody is told that it listens
            async with _api(fleet, settings, partial(_listening, fleet, on_listen)) as listeners:
                fleet.loop.listeners.steps += [on_step, *listeners]
                fleet.loop.listeners.specs += [
                    lambda: environ.take(secret_variables(fleet.cache.desired)),
                    *(poller.notify for poller in fleet.pollers),
                ]
                on_loop(fleet.loop)
                async with asyncio.TaskGroup() as group:
                    hints = [group.create_task(work) for work in _beside(fleet, settings)]
                    work = group.create_task(fleet.loop.run(until))
                    work.add_done_callback(lambda _: [hint.cancel() for hint in hints])
                    end.do = partial(_end, fleet.loop, work, settings)
                    sd_notify("READY=1")
                sd_notify("STOPPING=1")
    if fleet.superseded is not None:
        raise fleet.superseded
    return fleet.loop


def _listening(fleet: "_Fleet", on_listen: Callable[[str], None], url: str) -> None:
    fleet.listens_at = url
    on_listen(url)


def _beside(fleet: "_Fleet", settings: Settings) -> Iterator[Coroutine[None, None, None]]:
    """Yield the background tasks beside the loop."""
    yield from (_kept_up(poller.run) for poller in fleet.pollers)
    yield _kept_up(partial(_watch, fleet))
    yield _kept_up(partial(_tell, fleet, settings))
    yield _renew_leader_lease(fleet)
    if fleet.metrics is not None:
        yield _kept_up(fleet.metrics.watch_loop)
    if interval := watchdog_interval():
        yield _stay_alive(interval)


async def _renew_leader_lease(fleet: "_Fleet") -> None:
    """Keep the lease, and end the loop once another reconciler leads."""
    try:
        await fleet.lease.keep()
    except UsageError as error:
        fleet.superseded = error
        fleet.loop.stop()


async def _tell(fleet: "_Fleet", settings: Settings) -> None:
    """Keep the presence file up to date, for commands on this machine."""
    while True:
        address = settings.web.public_url if settings.web else ""
        fleet.presence.tell(
            replace(
                fleet.me,
                address=address or fleet.listens_at,
                specs=fleet.cache.desired.revision,
                state=fleet.cache.head,
                error=fleet.loop.backoff.why,
            )
        )
        await asyncio.sleep(ON_RETRY)


async def _kept_up(work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Restart a background task after an unexpected error: a missing hint must not end the process."""
    while True:
        try:
            return await work()
        except Exception:
            log.exception("a background task has failed; it is restarted in %g s", RESTART)
            await asyncio.sleep(RESTART)


async def _stay_alive(interval: float) -> None:
    """Send systemd's watchdog notifications from the event loop."""
    while True:
        sd_notify("WATCHDOG=1")
        await asyncio.sleep(interval)


@asynccontextmanager
async def ways(
    hosts: Callable[[], Mapping[str, Host]], data: Path, *, is_lasting: bool = True
) -> AsyncIterator[TransportPool]:
    """
    Open the transports from this machine to hosts, and close them at the end.

    `data` is the data folder: local hosts without a `workdir` work in it.
    `is_lasting`: runs go on when the transports are closed, as those of `serve` do.
    """
    transports = TransportPool(
        hosts,
        local=lambda host: LocalTransport(local_folder(host, data)),
        jitter=random.random,
        agent_path=os.environ.get("SSH_AUTH_SOCK"),
        is_lasting=is_lasting,
    )
    try:
        yield transports
    finally:
        await transports.close()


@dataclass(slots=True, kw_only=True)
class _Fleet:
    """An opened fleet: the loop and everything it was wired to."""

    repository: Repository
    base: Path
    """Folder that addresses of code repositories are relative to."""
    branch: str
    """The one with the specs."""
    state: StateBranch
    state_branch: str
    """Its name."""
    lease: LeaderLease
    cache: FleetCache
    loop: Loop
    dispatch: Dispatcher
    writer: BotCommitter
    pollers: Sequence[Poller[Any]]
    """Pollers that the loop does not drive."""
    presence: PresenceFile
    me: Presence
    metrics: "Metrics | None"
    """None where nobody can ask for them."""
    listens_at: str = ""
    """URL of the HTTP API."""
    superseded: UsageError | None = None
    """Why it ended: another reconciler leads."""


@asynccontextmanager
async def _fleet(settings: Settings) -> AsyncIterator[_Fleet]:
    """Open all parts of a fleet and wire them to a loop."""
    async with AsyncExitStack() as stack:
        metrics = _metrics(settings)
        meter: Meter = IsolatedMeter(metrics or UNREAD_METER)
        datafolder.prepare_data_folder(settings.data_dir)
        repository = await Repository.open(settings.repo, settings.data_dir / "clones")
        await stack.enter_async_context(repository)
        base = repository.folder or repository.git_dir
        branch = await repository.specs_branch(settings.branch)
        marks = HighWaterMarks(repository, settings.data_dir)
        stack.push_async_callback(marks.close)
        tree = GuardedTree(repository, branch, marks)
        specs = SpecSource(tree, tree.touched, objection=partial(_objection, tree))
        desired = await specs.read({})
        environ.take(secret_variables(desired))  # before any process is started that could read it
        state_branch = desired.fleet.state_branch
        await require_own_record(repository, state_branch)
        cache = FleetCache()
        state = await StateBranch.open(
            repository,
            state_branch,
            token=clock.random_hex,
            clock=clock.now,
            revision=lambda: cache.desired.revision,
            marks=marks,
            meter=meter,
        )
        lease, presence, me = await _acquire_leader_lease(stack, settings, repository, state, state_branch)
        tree.is_acted_on = branch != state_branch  # its mark moves with each commit
        transports = await stack.enter_async_context(ways(lambda: cache.desired.hosts, settings.data_dir))
        dispatch = Dispatcher(
            transports,
            data=settings.data_dir,
            base=base,
            fleet=state.fleet_id,
            clock=clock.now,
            read_output=read_output,
            keep_logs=settings.keep_logs,
            keep_logs_mb=settings.keep_logs_mb,
        )
        stack.enter_context(_masked_logs(dispatch))
        forges = ForgeRegistry(forge_secret, clock.now)
        stack.push_async_callback(forges.close)
        ports = Ports(
            specs=specs,
            state=state,
            dispatch=dispatch,
            prober=HostProber(transports, data=settings.data_dir, clock=clock.now),
            forges=forges,
            clock=clock.now,
            monotonic=clock.monotonic,
            meter=meter,
        )
        loop_settings = ControllerSettings(
            machine=await _machine(settings, state),
            takes_over=settings.take_over,
            address=_task_address(settings),
            sweep_interval=settings.sweep_interval,
        )
        loop, writer = build_loop(cache, ports, loop_settings), BotCommitter(repository, branch)
        yield _Fleet(
            repository=repository,
            base=base,
            branch=branch,
            state=state,
            state_branch=state_branch,
            lease=lease,
            presence=presence,
            me=me,
            cache=cache,
            loop=loop,
            dispatch=dispatch,
            writer=writer,
            metrics=metrics,
            pollers=(
                specs_poller(
                    repository.fetch, loop.inbox, partial(_look_interval, repository, cache), clock.now
                ),
                IssueController(forges, writer, cache, clock.now, read_task, edit).poller,
                PlanPreview(forges, _reader_of_pulls(repository), cache, branch, clock.now).poller,
            ),
        )


def _metrics(settings: Settings) -> "Metrics | None":
    """Return the metrics of a process that serves them."""
    if settings.web is None:
        return None
    from reconciler.api.metrics import Metrics  # noqa: PLC0415 - imported only where they are served

    return Metrics(clock.now)


async def _acquire_leader_lease(
    stack: AsyncExitStack, settings: Settings, repository: Repository, state: StateBranch, branch: str
) -> tuple[LeaderLease, PresenceFile, Presence]:
    """
    Acquire the leader lease of a fleet; `stack` releases it after the last write.

    Raises UsageError if another reconciler leads.
    """
    mode: LeaderMode = "serve" if settings.web else "run"
    since = format_time(clock.now())
    lease = LeaderLease(repository, branch, this_process(clock.random_hex(), mode, since))
    stack.push_async_callback(lease.release)
    stack.push_async_callback(state.close)
    await lease.take(by_force=settings.take_over)
    presence = PresenceFile(repository, branch, settings.data_dir)
    me = Presence(mode=mode, pid=os.getpid(), host=socket.gethostname(), since=since)
    presence.tell(me)
    stack.callback(lambda: presence.end(clock.now()))
    return lease, presence, me


def _objection(tree: GuardedTree) -> Problem | None:
    return Problem(ROOT, 1, 1, str(tree.rewind)) if tree.rewind else None


@contextmanager
def _masked_logs(dispatch: Dispatcher) -> Iterator[None]:
    """Mask the secrets of runs in all log lines of this process."""

    def mask(record: logging.LogRecord) -> bool:
        hide = dispatch.mask.hide
        record.msg, record.args = hide(record.getMessage()), None
        if record.exc_info:
            record.exc_text = hide(logging.Formatter().formatException(record.exc_info))
        return True

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(mask)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(mask)


def _reader_of_pulls(repository: Repository) -> ReadPull:
    """Return the function that reads the specs of a pull request; calls are serialized."""
    tree = PullTree(repository)
    source, turn = SpecSource(tree), asyncio.Lock()

    async def read(pull: PullRequestSnapshot, base: str) -> Desired:
        async with turn:
            await tree.check_out_merge(pull.number, pull.head, base)
            return await source.read({})

    return read


def _task_address(settings: Settings) -> str:
    """Return the base URL of the pages of tasks; empty if there are none."""
    url = settings.web.public_url if settings.web else ""
    return f"{url}/tasks/" if url else ""


# --- The HTTP API ----------------------------------------------------------


@asynccontextmanager
async def _api(
    fleet: _Fleet, settings: Settings, on_listen: Callable[[str], None]
) -> AsyncIterator[Sequence[Callable[[Step], None]]]:
    """Serve the HTTP API, if there is to be one; yield who hears of each step on record."""
    if settings.web is None or fleet.metrics is None:
        yield ()
        return
    # Imported only here: Sanic takes longer to import than everything else together.
    from reconciler.api.app import make_app  # noqa: PLC0415 - see above
    from reconciler.api.listen import read_listen  # noqa: PLC0415 - see above
    from reconciler.api.pages.access import exposure_of  # noqa: PLC0415 - see above
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
        partial(notify, pulls=fleet.loop.controllers.pulls, pollers=fleet.pollers),
    )
    services = Services(
        record=HistoryReader(fleet.repository, lambda: cache.head),
        logs=AgentLogs(fleet.dispatch.logs),
        propose=Proposals(cache, fleet.writer, edit, partial(_check, fleet)).propose,
        hooks=hooks,
        whole_url=partial(whole_url, fleet=fleet.base),
        pages=_page_services(fleet, journal),
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


def _unready(fleet: _Fleet) -> str:
    """Return why tasks are not looked after now, in words; empty if they are."""
    if not fleet.lease.is_held:
        return "another reconciler leads this fleet; this one ends"
    return fleet.loop.unready


def _metric_sources(fleet: _Fleet, journal: Journal) -> "MetricSources":
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
    )


def _forges(fleet: _Fleet) -> Mapping[str, bool]:
    """Return whether the forges of repos answered when they were last asked; the fleet's own as `.fleet`."""
    pollers = (fleet.loop.controllers.pulls.poller, *fleet.pollers)
    failing = {repo for poller in pollers for repo in poller.failing()}
    return {repo: repo not in failing for repo in fleet.cache.desired.forges}


def _by_outcome(journal: Journal) -> Mapping[str, int]:
    counts = dict.fromkeys(get_args(DeliveryOutcome), 0)
    for (_, outcome), count in journal.counts.items():
        counts[outcome] += count
    return counts


def _page_services(fleet: _Fleet, journal: Journal) -> "PageServices":
    """Return what the pages show beside the read model."""
    from reconciler.api.pages.services import HookReport, PageServices  # noqa: PLC0415 - see above

    repository, cache, state = fleet.repository, fleet.cache, fleet.state_branch
    return PageServices(
        fleet=repository.word,
        logs=fleet.dispatch.shown_logs(),
        steering=Steering(cache, fleet.writer, partial(_check, fleet)),
        commit=partial(view_commit, repository, (fleet.branch, state)),
        last_commits=fleet.state.last_commits,
        statuses_at=partial(statuses_at, repository),
        file=lambda path: view_file(repository, fleet.branch, cache.desired.revision, path),
        explain=partial(_explain, fleet),
        diff=partial(_diff, fleet),
        specs_at=partial(_specs_at, fleet),
        load=lambda: fleet.loop.controllers.hosts.load,
        files_touched=partial(files_touched, repository, (fleet.branch, state)),
        forges=partial(_forges, fleet),
        hooks=lambda: HookReport(
            counts=[(event, outcome, n) for (event, outcome), n in sorted(journal.counts.items())],
            taken=[(each.at, each.hint.event, ", ".join(each.hint.repos)) for each in journal.recent()],
        ),
        spending=lambda since: spending(repository, state, since=since),
    )


async def _explain(fleet: _Fleet, task: str) -> Sequence[Explained]:
    tree = GitTree(fleet.repository, fleet.branch)
    return explain_fields(await read_revision(tree, fleet.cache.desired.revision), task)


async def _specs_at(fleet: _Fleet, revision: str) -> Desired:
    """Return what the specs of a revision ask for. Raises NotFound."""
    commit = await resolve(fleet.repository, revision)
    return build(await read_revision(GitTree(fleet.repository, fleet.branch), commit), revision=commit)


async def _diff(fleet: _Fleet, repo: str, base: str, head: str) -> str:
    spec = fleet.cache.desired.repos.get(repo)
    if spec is None:
        raise NotFound(f"no repo {repo} in the specs any more")
    return await fleet.dispatch.diff(spec, base, head)


async def _check(fleet: _Fleet, path: str, text: str) -> Sequence[Problem]:
    """Return the problems that a file would have among the current specs."""
    tree = GitTree(fleet.repository, fleet.branch)
    files = await read_revision(tree, await tree.head())
    data = text.encode()
    desired = build(
        {**files, path: File("100644", fleet.repository.blob_id(data), data)}, revision="proposed"
    )
    return [problem for problem in desired.problems if problem.path == path]


async def _machine(settings: Settings, state: StateBranch) -> str:
    """Return the name under which local runs of this data folder are recorded."""
    statuses, hosts = await state.load()
    machines = {host.machine for host in hosts.values()}
    machines |= {one.holder.machine for one in statuses.values() if isinstance(one.holder, OnHost)}
    return datafolder.machine(settings.data_dir, {name for name in machines if name}, clock.random_hex)


class Shutdown:
    """Graceful shutdown on SIGTERM and SIGINT; forced after a time limit, or at once by a second signal."""

    def __init__(self, do: Callable[[], None], limit: float, tell: Callable[[int], None]) -> None:
        """`limit` is in seconds; `tell` is called with the first signal."""
        self.do = do
        self._limit = limit
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self.is_asked = False

    def __call__(self, number: int, _: object) -> None:
        """Handle a signal."""
        if self.is_asked:
            os._exit(128 + number)
        self.is_asked = True
        # A thread, as the loop itself may be what hangs, and so may the threads that Python waits for.
        timer = threading.Timer(self._limit, os._exit, (os.EX_OK,))
        timer.daemon = True
        timer.start()
        self._tell(number)
        with suppress(RuntimeError):  # the loop is closed: it has ended by itself
            self._loop.call_soon_threadsafe(self.do)


@contextmanager
def ending(do: Callable[[], None], settings: Settings, tell: Callable[[int], None]) -> Iterator[Shutdown]:
    """Install the handlers; restore the previous ones afterwards, if no signal came."""
    made = Shutdown(do, settings.stop_grace.total_seconds() * _LIMIT, tell)
    before = {number: signal.signal(number, made) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield made
    finally:
        if not made.is_asked:
            for number, handler in before.items():
                signal.signal(number, handler)


def _end(loop: Loop, work: asyncio.Task[None], settings: Settings) -> None:
    """Stop the loop; cancel what still hangs after half of the grace period."""
    loop.stop()
    asyncio.get_running_loop().call_later(settings.stop_grace.total_seconds() / 2, work.cancel)


async def _watch(fleet: _Fleet) -> None:
    """Notify the loop whenever a ref of this machine may have moved."""
    if fleet.repository.address is None:
        refs = (fleet.repository.ref(fleet.branch), fleet.state.ref)
        async with aclosing(ref_changes(fleet.repository, refs)) as changes:
            async for _ in changes:
                fleet.loop.inbox.notify()


def _look_interval(repository: Repository, cache: FleetCache) -> timedelta:
    """Return the interval of polling the fleet's repository."""
    return LOCAL_LOOK if repository.address is None else cache.desired.fleet.poll_interval
