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
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from reconciler import clock
from reconciler.controller.loop import Loop, Until
from reconciler.controller.ports import Step
from reconciler.core.errors import Refused, Unavailable, UsageError
from reconciler.core.model import Host
from reconciler.dispatch.dispatcher import Dispatcher
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.output import read_output
from reconciler.dispatch.prober import Prober
from reconciler.dispatch.site import local_folder
from reconciler.dispatch.transports import Transports
from reconciler.settings import Settings
from reconciler.specs.source import SpecSource
from reconciler.store.objects import GitTree
from reconciler.store.repository import Repository
from reconciler.store.state import StateBranch
from reconciler.store.watch import ref_changes

__all__ = ["Until", "serve", "ways"]

log = logging.getLogger(__name__)
logging.getLogger("asyncssh").setLevel(logging.WARNING)  # it tells of every session of every connection

LOCAL_LOOK = 2.0
"""Seconds between looks at refs of this machine: the net below the watch; a look costs microseconds."""


async def serve(settings: Settings, *, until: Until = "stopped", on_step: Callable[[Step], None]) -> Loop:
    """
    Reconcile the fleet until the time to end has come; return the loop as it ended.

    SIGTERM and SIGINT end it within `settings.stop_grace`; live runs go on.
    Raises UsageError if the repository cannot be a fleet's or another process
    serves it, Unavailable or Refused if it cannot be reached in the beginning.
    """
    async with _fleet(settings) as fleet, asyncio.TaskGroup() as group:
        fleet.loop.on_step = on_step
        hints = [group.create_task(hint) for hint in (_watch(fleet), _look(fleet))]
        work = group.create_task(fleet.loop.run(until))
        work.add_done_callback(lambda _: [hint.cancel() for hint in hints])
        _end_on_signals(fleet.loop, work, settings)
    return fleet.loop


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


@dataclass(frozen=True, slots=True)
class _Fleet:
    """What the hints need to know."""

    repository: Repository
    refs: tuple[str, ...]
    loop: Loop


@asynccontextmanager
async def _fleet(settings: Settings) -> AsyncIterator[_Fleet]:
    """Open the rooms and wire them to a loop."""
    async with AsyncExitStack() as stack:
        _make_data_folder(settings.data_dir)
        repository = await Repository.open(settings.repo, settings.data_dir / "clones")
        await stack.enter_async_context(repository)
        branch = await repository.specs_branch(settings.branch)
        specs = SpecSource(GitTree(repository, branch))
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
            base=repository.folder or repository.git_dir,
            fleet=state.fleet_id,
            clock=clock.now,
            read_output=read_output,
            keep_logs=settings.keep_logs,
            keep_logs_mb=settings.keep_logs_mb,
        )
        prober = Prober(transports, data=settings.data_dir, clock=clock.now)
        loop = Loop(
            specs,
            state,
            dispatch,
            prober,
            clock.now,
            sweep_interval=settings.sweep_interval,
            machine=_machine(settings.data_dir / "machine"),
            takes_over=settings.take_over,
        )
        yield _Fleet(repository, (repository.ref(branch), repository.ref(state_branch)), loop)


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


def _end_on_signals(loop: Loop, work: asyncio.Task[None], settings: Settings) -> None:
    """Let SIGTERM and SIGINT end the loop; what still hangs after the grace is cut off."""
    running = asyncio.get_running_loop()

    def end() -> None:
        loop.stop()
        running.call_later(settings.stop_grace.total_seconds() / 2, work.cancel)

    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, end)


async def _watch(fleet: _Fleet) -> None:
    """Knock whenever a ref of this machine may have moved."""
    if fleet.repository.address is None:
        async with aclosing(ref_changes(fleet.repository, fleet.refs)) as changes:
            async for _ in changes:
                fleet.loop.knock()


async def _look(fleet: _Fleet) -> None:
    """Knock from time to time, told or not; what a remote has is fetched before."""
    while True:
        is_local = fleet.repository.address is None
        interval = fleet.loop.desired.fleet.poll_interval.total_seconds()
        await asyncio.sleep(LOCAL_LOOK if is_local else interval)
        try:
            await fleet.repository.fetch()
        except (Unavailable, Refused) as error:
            log.warning("%s; looking again in %g s", error, interval)
        else:
            fleet.loop.knock()
