"""
Following a fleet: look again whenever its record or its specs moved.

The refs are watched as files, which costs nothing while nothing happens; a
remote has to be asked, and is, at a slow beat.
"""

import asyncio
import errno
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from reconciler import clock
from reconciler.cli.notices import say, say_if_nobody_serves
from reconciler.cli.serving import figures_in, forge_outages
from reconciler.cli.streams import OutputLost, is_unread
from reconciler.core.errors import Unavailable
from reconciler.core.views import ReadModel, forge_waits, observed_on_record
from reconciler.git.repository import Repository

if TYPE_CHECKING:
    from reconciler.cli.session import FleetSession

BEAT = 5.0
"""Seconds between two questions to a remote, and two looks at refs whose watch may have missed one."""


async def moves(
    repository: Repository, refs: Sequence[str], beside: Callable[[], Awaitable[object]] | None = None
) -> AsyncGenerator[None, None]:
    """
    Yield now, and again whenever one of the refs (full names) points elsewhere, a remote's too.

    Also when what `beside` returns is another, within a beat.
    """
    seen: tuple[object, ...] | None = None
    async with _hints(repository, refs) as hint:
        while True:
            now = (*map(repository.read_ref, refs), await beside() if beside else None)
            if now != seen:
                seen = now
                yield
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT):
                    await hint.wait()
            hint.clear()
            if is_unread():
                raise OutputLost(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
            try:
                await repository.fetch()
            except Unavailable as error:
                say(f"{error}; trying again")


@asynccontextmanager
async def _hints(repository: Repository, refs: Sequence[str]) -> AsyncIterator[asyncio.Event]:
    """Yield an event that is set whenever one of the refs may have moved; never, where a remote has them."""
    hint = asyncio.Event()
    with _reader_gone(hint):
        if repository.address:
            yield hint
            return
        watching = asyncio.create_task(_watch(repository, refs, hint))
        try:
            yield hint
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching


@contextmanager
def _reader_gone(hint: asyncio.Event) -> Iterator[None]:
    """Set the event, too, when stdout is a pipe and who read it goes away: a quiet fleet ends no command."""
    loop, is_pipe = asyncio.get_running_loop(), False
    with suppress(OSError):
        is_pipe = stat.S_ISFIFO(os.fstat(1).st_mode)
    if not is_pipe:
        yield
        return

    def is_gone() -> None:
        loop.remove_reader(1)
        hint.set()

    loop.add_reader(1, is_gone)
    try:
        yield
    finally:
        loop.remove_reader(1)


async def _watch(repository: Repository, refs: Sequence[str], hint: asyncio.Event) -> None:
    from reconciler.store.watch import ref_changes

    with suppress(OSError, RuntimeError):  # no watch is to be had: the beat does without
        async with aclosing(ref_changes(repository, refs)) as changes:
            async for _ in changes:
                hint.set()


class FleetFollower:
    """A fleet that is looked at again and again: what did not change is not read twice."""

    def __init__(self, fleet: "FleetSession") -> None:
        """Follow a fleet that is open."""
        from reconciler.specs.source import SpecSource
        from reconciler.store.guarded_tree import GuardedTree

        self.fleet = fleet
        self._specs = SpecSource(GuardedTree(fleet.repository, fleet.branch, fleet.marks, only_looks=True))
        self._live = figures_in(fleet.context.data_dir)
        self._is_said = False

    async def models(self) -> AsyncGenerator[ReadModel, None]:
        """Yield the fleet as it is now, and whenever it changed."""
        fleet = self.fleet
        record = await fleet.record()
        branch = await fleet.state_branch()
        branches = (await fleet.record_branches()).values()
        refs = [fleet.repository.ref(each) for each in (*branches, fleet.branch)]
        outages = partial(forge_outages, fleet, branch)
        async with aclosing(moves(fleet.repository, refs, outages)) as changes:
            async for _ in changes:
                statuses, hosts = await record.load()
                desired = await self._specs.read(statuses)
                self._is_said = self._is_said or await say_if_nobody_serves(
                    fleet, branch, statuses, clock.now()
                )
                observed = observed_on_record(statuses, hosts, record.damaged, record.accounts, record.shards)
                waits = forge_waits(desired, statuses, await outages())
                yield ReadModel(desired, observed, unrecorded=waits, live=self._live)
