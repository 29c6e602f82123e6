"""
The one place where everything meets.

Opens the rooms, wires them to the loop, and closes them again; what the
repository and the clock hint at becomes a knock at the loop's door.
"""

import asyncio
import logging
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

from reconciler import clock
from reconciler.controller.intake import Intake
from reconciler.controller.loop import Loop, Until
from reconciler.controller.ports import Step
from reconciler.controller.preview import Preview, ReadPull
from reconciler.core.adapter import Secret
from reconciler.core.errors import Problem, Refused, Unavailable, UsageError
from reconciler.core.forge import Hint, Pull
from reconciler.core.model import Desired, Forge, Host
from reconciler.dispatch.agentlogs import AgentLogs
from reconciler.dispatch.dispatcher import Dispatcher
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.output import read_output
from reconciler.dispatch.places import local_folder
from reconciler.dispatch.prober import Prober
from reconciler.dispatch.repos import whole_url
from reconciler.dispatch.secrets import find_secret
from reconciler.dispatch.steps import StepFailed
from reconciler.dispatch.transports import Transports
from reconciler.forge.forgejo import Forges
from reconciler.forge.hooks import Hooks
from reconciler.forge.journal import Journal
from reconciler.settings import Settings
from reconciler.specs.edit import edit
from reconciler.specs.fleet import build
from reconciler.specs.parse import File, read_task
from reconciler.specs.source import SpecSource, read_revision
from reconciler.store.bot import Bot
from reconciler.store.objects import GitTree
from reconciler.store.pulls import PullTree
from reconciler.store.repository import Repository
from reconciler.store.state import StateBranch
from reconciler.store.timeline import Timeline
from reconciler.store.watch import ref_changes
from reconciler.systemd import notify, watchdog_interval

__all__ = ["Until", "forge_secret", "forges_of", "serve", "ways"]

log = logging.getLogger(__name__)
for _chatty in ("asyncssh", "httpx2", "watchfiles"):  # each connection, request, change of a file
    logging.getLogger(_chatty).setLevel(logging.WARNING)

FLEET = ".fleet"
"""What the fleet's own repository is called among those with a forge: no repo can have that name."""

LOCAL_LOOK = 2.0
"""Seconds between looks at refs of this machine: the net below the watch; a look costs microseconds."""


async def serve(
    settings: Settings,
    *,
    until: Until = "stopped",
    on_step: Callable[[Step], None],
    on_listen: Callable[[str], None] = lambda _: None,
    on_loop: Callable[[Loop], None] = lambda _: None,
) -> Loop:
    """
    Reconcile the fleet until the time to end has come; return the loop as it ended.

    `on_listen` is told the address of the HTTP API, if there is one, and
    `on_loop` the loop, before anything happens. SIGTERM
    and SIGINT end it within `settings.stop_grace`; live runs go on. Raises
    UsageError if the repository cannot be a fleet's or another process serves
    it, Unavailable or Refused if it cannot be reached in the beginning.
    """
    async with _fleet(settings) as fleet:
        _on_signals(fleet.loop.stop)  # before anybody is told that it listens
        async with _api(fleet, settings, on_listen) as knock:
            fleet.loop.on_step = _both(on_step, knock)
            fleet.loop.on_specs = partial(_turn, fleet)
            on_loop(fleet.loop)
            async with asyncio.TaskGroup() as group:
                hints = [group.create_task(work) for work in _beside(fleet)]
                work = group.create_task(fleet.loop.run(until))
                work.add_done_callback(lambda _: [hint.cancel() for hint in hints])
                _on_signals(partial(_end, fleet.loop, work, settings))
                notify("READY=1")
            notify("STOPPING=1")
    return fleet.loop


def _both(on_step: Callable[[Step], None], knock: Callable[[], None]) -> Callable[[Step], None]:
    def tell(step: Step) -> None:
        on_step(step)
        knock()

    return tell


def _turn(fleet: "_Fleet") -> None:
    """Let those beside the loop work by specs that were just read."""
    fleet.intake.turn()
    fleet.preview.knock()


def _beside(fleet: "_Fleet") -> Iterator[Coroutine[None, None, None]]:
    """Yield what goes on beside the loop and gives it hints."""
    yield _watch(fleet)
    yield _look(fleet)
    yield fleet.intake.run()
    yield fleet.preview.run()
    if interval := watchdog_interval():
        yield _stay_alive(interval)


async def _stay_alive(interval: float) -> None:
    """Tell systemd that the event loop turns."""
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)


@asynccontextmanager
async def ways(hosts: Callable[[], Mapping[str, Host]], data: Path) -> AsyncIterator[Transports]:
    """
    Open the ways from this machine to hosts, and close them at the end.

    `data` is the data folder: local hosts without a `workdir` work in it.
    """
    transports = Transports(
        hosts,
        local=lambda host: LocalTransport(local_folder(host, data)),
        jitter=random.random,
        agent_path=os.environ.get("SSH_AUTH_SOCK"),
    )
    try:
        yield transports
    finally:
        await transports.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fleet:
    """A fleet whose rooms are open."""

    repository: Repository
    base: Path
    """Folder that addresses of code repositories are relative to."""
    branch: str
    """The one with the specs."""
    state: StateBranch
    loop: Loop
    dispatch: Dispatcher
    writer: Bot
    intake: Intake
    preview: Preview
    look: asyncio.Event
    """Set: look at the repository now."""


@asynccontextmanager
async def _fleet(settings: Settings) -> AsyncIterator[_Fleet]:
    """Open the rooms and wire them to a loop."""
    async with AsyncExitStack() as stack:
        _make_data_folder(settings.data_dir)
        repository = await Repository.open(settings.repo, settings.data_dir / "clones")
        await stack.enter_async_context(repository)
        base = repository.folder or repository.git_dir
        branch = await repository.specs_branch(settings.branch)
        tree = GitTree(repository, branch)
        specs = SpecSource(tree, tree.touched)
        state_branch = (await specs.read({})).fleet.state_branch
        state = await StateBranch.open(
            repository,
            state_branch,
            token=clock.token,
            clock=clock.now,
            revision=lambda: loop.desired.revision,
        )
        stack.push_async_callback(state.close)
        transports = await stack.enter_async_context(ways(lambda: loop.desired.hosts, settings.data_dir))
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
        forges = Forges(forge_secret, clock.now)
        stack.push_async_callback(forges.close)
        loop = Loop(
            specs,
            state,
            dispatch,
            Prober(transports, data=settings.data_dir, clock=clock.now),
            clock.now,
            sweep_interval=settings.sweep_interval,
            machine=_machine(settings.data_dir / "machine"),
            takes_over=settings.take_over,
            forges=forges,
            address=_task_address(settings),
        )
        writer = Bot(repository, branch)
        yield _Fleet(
            repository=repository,
            base=base,
            branch=branch,
            state=state,
            loop=loop,
            dispatch=dispatch,
            writer=writer,
            intake=Intake(forges, writer, loop, clock.now, read_task, edit),
            preview=Preview(forges, _reader_of_pulls(repository), loop, branch, clock.now),
            look=asyncio.Event(),
        )


def _reader_of_pulls(repository: Repository) -> ReadPull:
    """Return who reads the specs of pull requests, one after the other."""
    tree = PullTree(repository)
    source, turn = SpecSource(tree), asyncio.Lock()

    async def read(pull: Pull, base: str) -> Desired:
        async with turn:
            await tree.turn_to(pull.number, pull.head, base)
            return await source.read({})

    return read


def _task_address(settings: Settings) -> str:
    """Return where people find a task, without its name; empty if nowhere."""
    url = settings.web.public_url if settings.web else ""
    return f"{url}/api/v1/tasks/" if url else ""


async def forge_secret(secret: Secret) -> str:
    """Return a token or the secret of a webhook. Raises Unavailable, with what is missing."""
    try:
        return await find_secret("a secret of a forge", secret)
    except StepFailed as error:
        raise Unavailable(str(error)) from error


# --- The HTTP API ----------------------------------------------------------


@asynccontextmanager
async def _api(
    fleet: _Fleet, settings: Settings, on_listen: Callable[[str], None]
) -> AsyncIterator[Callable[[], None]]:
    """Serve the HTTP API, if there is to be one; yield what is called when something went on record."""
    if settings.web is None:
        yield lambda: None
        return
    # Imported only here: Sanic takes longer to import than everything else together.
    from reconciler.api.app import make_app  # noqa: PLC0415 - see above
    from reconciler.api.listen import read_listen  # noqa: PLC0415 - see above
    from reconciler.api.proposals import Proposals  # noqa: PLC0415 - see above
    from reconciler.api.server import running  # noqa: PLC0415 - see above
    from reconciler.api.shelf import Shelf  # noqa: PLC0415 - see above

    web, loop = settings.web, fleet.loop
    listen = read_listen(web.listen, web.tls_cert, web.tls_key, behind_proxy=web.behind_proxy)
    hooks = Hooks(
        lambda: forges_of(loop.desired),
        forge_secret,
        Journal(settings.data_dir / "hooks", clock.now),
        lambda hint: _take(fleet, hooks, hint),
    )
    shelf = Shelf(
        record=Timeline(fleet.repository, lambda: loop.head),
        logs=AgentLogs(fleet.dispatch.logs),
        propose=Proposals(loop, fleet.writer, edit, partial(_check, fleet)).propose,
        hooks=hooks,
        whole_url=partial(whole_url, fleet=fleet.base),
    )
    app = make_app(loop, shelf, clock=clock.now, last_use=settings.data_dir / "agents.json")
    async with running(app, listen) as url:
        on_listen(url)
        hooks.resume()
        yield app.ctx.knock


async def _check(fleet: _Fleet, path: str, text: str) -> Sequence[Problem]:
    """Return what would be wrong with a file among the specs as they are."""
    tree = GitTree(fleet.repository, fleet.branch)
    files = await read_revision(tree, await tree.head())
    data = text.encode()
    desired = build(
        {**files, path: File("100644", fleet.repository.blob_id(data), data)}, revision="proposed"
    )
    return [problem for problem in desired.problems if problem.path == path]


# --- Webhooks --------------------------------------------------------------


def forges_of(desired: Desired) -> Mapping[str, Forge]:
    """Return the forges of a fleet by the name of the repo; that of its own repository as FLEET."""
    named = {name: repo.forge for name, repo in desired.repos.items()} | {FLEET: desired.fleet.forge}
    return {name: forge for name, forge in named.items() if forge is not None}


def _take(fleet: _Fleet, hooks: Hooks, hint: Hint) -> None:
    """Let everybody look whom a hint may concern; after a restart they look in any case."""
    for name in hint.repos:
        if name == FLEET:
            fleet.preview.knock()
            fleet.look.set()
        else:
            numbers = [hint.pull] if hint.pull is not None else []
            fleet.loop.hint(name, numbers, hint.delivery)
            fleet.intake.knock(name)
    hooks.done(hint.delivery)


def _machine(file: Path) -> str:
    """Return the name under which local runs of this data folder are known, drawn once."""
    if not file.exists():
        fresh = file.with_suffix(f".{os.getpid()}")
        fresh.write_text(clock.token(), encoding="utf-8")
        with suppress(FileExistsError):  # another process was first
            file.hardlink_to(fresh)
        fresh.unlink()
    return file.read_text(encoding="utf-8")


def _make_data_folder(folder: Path) -> None:
    """Make the data folder unless it is there, and see that it can be written in. Raises UsageError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError(
            f"the data folder {folder} cannot be used: {error.strerror}; see who may write "
            "there, or name another one with --data-dir or RECONCILER_DATA_DIR"
        ) from error


def _on_signals(end: Callable[[], None]) -> None:
    """Let SIGTERM and SIGINT do this and nothing else."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)


def _end(loop: Loop, work: asyncio.Task[None], settings: Settings) -> None:
    """End the loop; what still hangs after half of the grace is cut off."""
    loop.stop()
    asyncio.get_running_loop().call_later(settings.stop_grace.total_seconds() / 2, work.cancel)


async def _watch(fleet: _Fleet) -> None:
    """Knock whenever a ref of this machine may have moved."""
    if fleet.repository.address is None:
        refs = (fleet.repository.ref(fleet.branch), fleet.state.ref)
        async with aclosing(ref_changes(fleet.repository, refs)) as changes:
            async for _ in changes:
                fleet.loop.knock()


async def _look(fleet: _Fleet) -> None:
    """Knock from time to time, told or not; what a remote has is fetched before."""
    while True:
        is_local = fleet.repository.address is None
        interval = fleet.loop.desired.fleet.poll_interval.total_seconds()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOCAL_LOOK if is_local else interval):
                await fleet.look.wait()
        fleet.look.clear()
        try:
            await fleet.repository.fetch()
        except (Unavailable, Refused) as error:
            log.warning("%s; looking again in %g s", error, interval)
        else:
            fleet.loop.knock()
