"""
A served fleet: opens the parts of the process, connects them to the loop, and closes them again.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler import clock, datafolder
from reconciler.controller.branches import BranchController
from reconciler.controller.build import build_loop
from reconciler.controller.cache import FleetCache
from reconciler.controller.issues import IssueController
from reconciler.controller.loop import Loop
from reconciler.controller.meter import IsolatedMeter
from reconciler.controller.notifications import Notifier
from reconciler.controller.notify import specs_poller
from reconciler.controller.plan_preview import FetchPulls, PlanPreview, ReadPull
from reconciler.controller.poller import Poller
from reconciler.controller.ports import UNREAD_METER, ControllerSettings, Meter, Ports
from reconciler.controller.shards import ShardedSpecs
from reconciler.core.errors import Problem, UsageError
from reconciler.core.model.forge import PullRequestSnapshot
from reconciler.core.model.specs import Desired, FleetSpec
from reconciler.core.model.status import OnHost
from reconciler.core.names import DEFAULT_SHARD, state_branch_of
from reconciler.core.times import format_time
from reconciler.dispatch import environ
from reconciler.dispatch.dispatcher import Dispatcher
from reconciler.dispatch.output import read_output
from reconciler.dispatch.prober import HostProber
from reconciler.dispatch.secrets import forge_secret, secret_variables
from reconciler.forge.forgejo import ForgeRegistry
from reconciler.git.provenance import signing_options
from reconciler.git.repository import Repository
from reconciler.serve.forges import ForgeOutages
from reconciler.serve.notifier import build_notifier
from reconciler.serve.shards import OtherShards
from reconciler.serve.transports import ways
from reconciler.settings import Settings
from reconciler.specs.edit import edit
from reconciler.specs.parse import ROOT, read_task
from reconciler.specs.source import SpecSource
from reconciler.store.bot_commits import BotCommitter, bot_git
from reconciler.store.guarded_tree import GuardedTree
from reconciler.store.high_water import HighWaterMarks
from reconciler.store.leader import LeaderLease, LeaderMode, this_process
from reconciler.store.merge_preview import PullTree
from reconciler.store.owners import OwnersBranch
from reconciler.store.place import has_place, note_place, require_own_place
from reconciler.store.presence import Presence, PresenceFile, fleet_file
from reconciler.store.remote_record import require_own_record
from reconciler.store.signed_specs import SignedSpecs
from reconciler.store.state import StateBranch

if TYPE_CHECKING:  # imported where metrics are served, and only there
    from reconciler.api.metrics import Metrics

LOCAL_LOOK = timedelta(seconds=2)
"""Interval of polling local refs, as a fallback of the watch; a poll costs microseconds."""


@dataclass(slots=True, kw_only=True)
class ServedFleet:
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
    previews: PlanPreview
    pollers: Sequence[Poller[Any]]
    """Pollers that the loop does not drive."""
    branches: BranchController
    """Its poller is one of them."""
    forges: ForgeRegistry
    outages: ForgeOutages
    presence: PresenceFile
    me: Presence
    notifier: Notifier
    metrics: "Metrics | None"
    """None where nobody can ask for them."""
    listens_at: str = ""
    """URL of the HTTP API."""
    superseded: UsageError | None = None
    """Why it ended: another reconciler leads."""

    def forge_problems(self) -> Mapping[str, str]:
        """Return why forges cannot be worked with now, by repo; that of the fleet's own is `.fleet`."""
        return {repo: outage.why for repo, outage in self.outages().items()}


@asynccontextmanager
async def build_fleet(settings: Settings) -> AsyncIterator[ServedFleet]:
    """Open all parts of a fleet and wire them to a loop."""
    async with AsyncExitStack() as stack:
        metrics = _metrics(settings)
        meter: Meter = IsolatedMeter(metrics or UNREAD_METER)
        datafolder.prepare_data_folder(settings.data_dir)
        place = await _open_place(stack, settings)
        repository, branch, desired, registry = place.repository, place.branch, place.desired, place.registry
        base = repository.folder or repository.git_dir
        state_branch = state_branch_of(desired.fleet.state_branch, settings.shard)
        await require_own_record(repository, state_branch, was_here=has_place(repository))
        cache = FleetCache()
        state = await StateBranch.open(
            repository,
            state_branch,
            token=clock.random_hex,
            clock=clock.now,
            revision=lambda: cache.desired.revision,
            marks=place.marks,
            meter=meter,
            signing_key=settings.signing_key,
            elsewhere=registry.past_attempts,
            kept=fleet_file(repository, state_branch, settings.data_dir / "parsed", "last.json"),
        )
        lease, presence, me = await _acquire_leader_lease(
            stack,
            settings,
            repository,
            state,
            state_branch,
            is_alone=not desired.fleet.shards and registry.head is None,
        )
        note_place(repository)
        place.tree.is_acted_on = branch != state_branch  # its mark moves with each commit
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
        stack.enter_context(masked_logs(dispatch))
        forges = ForgeRegistry(forge_secret, clock.now)
        stack.push_async_callback(forges.close)
        own_specs = ShardedSpecs(place.specs, registry, settings.shard, lambda: state.damaged)
        ports = Ports(
            specs=own_specs,
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
        loop = build_loop(cache, ports, loop_settings)
        writer = BotCommitter(repository, branch, settings.signing_key)
        readers = pull_readers(repository, own_specs.of_shard)
        previews = PlanPreview(forges, *readers, cache, branch, clock.now)
        branches = BranchController(forges, cache, loop.inbox, clock.now)
        issues = IssueController(forges, writer, cache, clock.now, read_task, edit)
        speaks = settings.shard == DEFAULT_SHARD  # one for the fleet, to issues and about its specs
        if speaks:
            loop.listeners.steps.append(issues.on_step)
        fetch = await _fetch_all(settings, repository, desired.fleet.state_branch, own_specs, cache)
        pollers = (
            specs_poller(fetch, loop.inbox, partial(_look_interval, repository, cache), clock.now),
            *((issues.poller, previews.poller) if speaks else ()),
            branches.poller,
        )
        outages = cache.forge_outages = ForgeOutages(loop, forges, pollers, clock.now)
        notifier = build_notifier(
            settings, repository, loop, outages=outages, pollers=pollers, state_branch=state_branch
        )
        notifier.begin(state.head, has_rules=desired.fleet.notify is not None)
        yield ServedFleet(
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
            notifier=notifier,
            metrics=metrics,
            previews=previews,
            pollers=pollers,
            branches=branches,
            forges=forges,
            outages=outages,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a fleet is, as it was opened: its repository, its specs, and who has which task of it."""

    repository: Repository
    branch: str
    """The one with the specs."""
    marks: HighWaterMarks
    tree: GuardedTree
    specs: SpecSource
    desired: Desired
    registry: OwnersBranch


async def _open_place(stack: AsyncExitStack, settings: Settings) -> _Place:
    """Open what a fleet is read from; raise UsageError if this process may not reconcile it."""
    repository = await Repository.open(settings.repo, settings.data_dir / "clones")
    await stack.enter_async_context(repository)
    branch = await repository.specs_branch(settings.branch)
    marks = HighWaterMarks(repository, settings.data_dir, settings.machine_dir)
    stack.push_async_callback(marks.close)
    signed = SignedSpecs(repository, settings.allowed_signers) if settings.allowed_signers else None
    tree = GuardedTree(repository, branch, marks, signed=signed)
    specs = SpecSource(tree, tree.touched, objection=partial(_objection, tree))
    desired = await specs.read({})
    environ.take(secret_variables(desired))  # before any process is started that could read it
    registry = OwnersBranch(
        repository,
        desired.fleet.state_branch,
        settings.shard,
        committer=bot_git(repository.git).with_options(*signing_options(settings.signing_key)),
        marks=marks,
    )
    await _require_shard(settings, desired.fleet, registry)
    _require_signers(settings, desired.fleet, branch)
    require_own_place(repository)
    return _Place(
        repository=repository,
        branch=branch,
        marks=marks,
        tree=tree,
        specs=specs,
        desired=desired,
        registry=registry,
    )


async def _fetch_all(
    settings: Settings,
    repository: Repository,
    state_branch: str,
    specs: ShardedSpecs,
    cache: FleetCache,
) -> Callable[[], Awaitable[None]]:
    """Return how the fleet is fetched; with pages, what other shards recorded is read each time."""
    if settings.web is None:
        return repository.fetch
    others = cache.elsewhere = OtherShards(repository, state_branch, settings.shard, lambda: specs.whole)

    async def fetch() -> None:
        await repository.fetch()
        await others.refresh()

    await others.refresh()
    return fetch


def _metrics(settings: Settings) -> "Metrics | None":
    """Return the metrics of a process that serves them."""
    if settings.web is None:
        return None
    from reconciler.api.metrics import Metrics  # noqa: PLC0415 - imported only where they are served

    return Metrics(clock.now)


async def _acquire_leader_lease(
    stack: AsyncExitStack,
    settings: Settings,
    repository: Repository,
    state: StateBranch,
    branch: str,
    *,
    is_alone: bool,
) -> tuple[LeaderLease, PresenceFile, Presence]:
    """
    Acquire the leader lease of a fleet; `stack` releases it after the last write.

    Raises UsageError if another reconciler leads.
    """
    mode: LeaderMode = "serve" if settings.web else "run"
    since = format_time(clock.now())
    me_now = this_process(clock.random_hex(), mode, since)
    lease = LeaderLease(repository, branch, me_now, may_share=is_alone, clock=clock.since_boot)
    stack.push_async_callback(lease.release)
    stack.push_async_callback(state.close)
    await lease.take(by_force=settings.take_over)
    state.fence = lease.require
    presence = PresenceFile(repository, branch, settings.data_dir)
    me = Presence(mode=mode, pid=os.getpid(), host=socket.gethostname(), since=since)
    presence.tell(me)
    stack.callback(lambda: presence.end(clock.now()))
    return lease, presence, me


async def _require_shard(settings: Settings, fleet: FleetSpec, registry: OwnersBranch) -> None:
    """Raise UsageError if there is no such shard, or nothing that several reconcilers could share."""
    owners = await registry.read()
    there = {DEFAULT_SHARD, *fleet.shards, *(owners.shards if owners else ())}
    if settings.shard not in there:
        names = ", ".join(sorted(there - {DEFAULT_SHARD})) or "none"
        raise UsageError(f"no shard {settings.shard!r} in specs/fleet.yaml; there: {names}")
    if settings.shard != DEFAULT_SHARD and not registry.is_shared:
        raise UsageError(
            "shards share a fleet by its remote: name it by a URL (--repo ssh://…, on one machine file:///…)"
        )


def _require_signers(settings: Settings, fleet: FleetSpec, branch: str) -> None:
    """Raise UsageError if specs must be signed and it is not said by whom, or cannot be."""
    if fleet.require_signed and settings.allowed_signers is None:
        raise UsageError(
            "specs/fleet.yaml says require_signed: name the file of those who may sign with --allowed-signers"
        )
    if settings.allowed_signers is not None and fleet.state_branch == branch:
        raise UsageError(
            f"specs on {branch} cannot be required to be signed: the record is there too, and its commits "
            "are not; give it a branch of its own (`state_branch`)"
        )


def _objection(tree: GuardedTree) -> Problem | None:
    why = str(tree.rewind) if tree.rewind else tree.unsigned
    return Problem(ROOT, 1, 1, why) if why else None


@contextmanager
def masked_logs(dispatch: Dispatcher) -> Iterator[None]:
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


def pull_readers(
    repository: Repository, of_shard: Callable[[Desired], Desired]
) -> tuple[ReadPull, FetchPulls]:
    """
    Return the functions that read the specs of a pull request, as far as they are ours, and fetch many.

    Reads take turns, and none waits in its turn for a remote: others are read meanwhile.
    """
    tree = PullTree(repository)
    source, turn = SpecSource(tree), asyncio.Lock()

    async def read(pull: PullRequestSnapshot, base: str) -> Desired:
        await tree.obtain(pull.ref, pull.head)
        async with turn:
            await tree.check_out_merge(pull.ref, pull.head, base)
            return of_shard(await source.read({}))

    async def fetch(pulls: Sequence[PullRequestSnapshot]) -> None:
        await tree.fetch({pull.ref: pull.head for pull in pulls})

    return read, fetch


def _task_address(settings: Settings) -> str:
    """Return the base URL of the pages of tasks; empty if there are none."""
    url = settings.web.public_url if settings.web else ""
    return f"{url}/tasks/" if url else ""


async def _machine(settings: Settings, state: StateBranch) -> str:
    """Return the name under which local runs of this data folder are recorded."""
    statuses, hosts = await state.load()
    machines = {host.machine for host in hosts.values()}
    machines |= {one.holder.machine for one in statuses.values() if isinstance(one.holder, OnHost)}
    return datafolder.machine(settings.data_dir, {name for name in machines if name}, clock.random_hex)


def _look_interval(repository: Repository, cache: FleetCache) -> timedelta:
    """Return the interval of polling the fleet's repository."""
    return LOCAL_LOOK if repository.address is None else cache.desired.fleet.poll_interval
