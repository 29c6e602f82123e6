"""
The process: reconciles a fleet, with what runs beside the loop, until it is told to end.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from reconciler.controller.loop import Loop, StopWhen
from reconciler.controller.ports import Step
from reconciler.core.errors import UsageError
from reconciler.core.notifications.book import unsent
from reconciler.dispatch import environ
from reconciler.dispatch.secrets import secret_variables
from reconciler.serve.api import serve_api
from reconciler.serve.fleet import ServedFleet, build_fleet
from reconciler.serve.shutdown import ending
from reconciler.settings import Settings
from reconciler.store.presence import BEAT
from reconciler.store.watch import ref_changes
from reconciler.systemd import sd_notify, watchdog_interval
from reconciler.tracing import tracing

log = logging.getLogger(__name__)
for _chatty in ("asyncssh", "httpx2", "watchfiles"):  # each connection, request, change of a file
    logging.getLogger(_chatty).setLevel(logging.WARNING)

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
    async with build_fleet(settings) as fleet:
        with (
            tracing(fleet.state.fleet_id) as tracers,
            ending(fleet.loop.stop, settings, on_signal) as end,  # before anybody is told that it listens
        ):
            async with serve_api(fleet, settings, partial(_listening, fleet, on_listen)) as listeners:
                fleet.loop.listeners.steps += [on_step, fleet.notifier.wake, *listeners, *tracers]
                fleet.loop.listeners.specs += [
                    lambda: environ.take(secret_variables(fleet.cache.desired)),
                    fleet.notifier.wake,
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


def _listening(fleet: ServedFleet, on_listen: Callable[[str], None], url: str) -> None:
    fleet.listens_at = url
    on_listen(url)


def _beside(fleet: ServedFleet, settings: Settings) -> Iterator[Coroutine[None, None, None]]:
    """Yield the background tasks beside the loop."""
    yield from (_kept_up(poller.run) for poller in fleet.pollers)
    yield _kept_up(fleet.notifier.run)
    yield _kept_up(partial(_watch, fleet))
    yield _kept_up(partial(_tell, fleet, settings))
    yield _renew_leader_lease(fleet)
    if fleet.metrics is not None:
        yield _kept_up(fleet.metrics.watch_loop)
    if interval := watchdog_interval():
        yield _stay_alive(interval)


async def _renew_leader_lease(fleet: ServedFleet) -> None:
    """Keep the lease, and end the loop once another reconciler leads."""
    try:
        await fleet.lease.keep()
    except UsageError as error:
        fleet.superseded = error
        fleet.loop.stop()


async def _tell(fleet: ServedFleet, settings: Settings) -> None:
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
                forges=fleet.outages(),
                unsent=_unsent(fleet),
            )
        )
        await asyncio.sleep(BEAT)


def _unsent(fleet: ServedFleet) -> str:
    """Return which notifications could not be sent, in words."""
    return "; ".join(f"{name}: {why}" for name, why in unsent(fleet.notifier.reports()).items())


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


def _end(loop: Loop, work: asyncio.Task[None], settings: Settings) -> None:
    """Stop the loop; cancel what still hangs after half of the grace period."""
    loop.stop()
    asyncio.get_running_loop().call_later(settings.stop_grace.total_seconds() / 2, work.cancel)


async def _watch(fleet: ServedFleet) -> None:
    """Notify the loop whenever a ref of this machine has moved; its own commits are no news to it."""
    repository, specs = fleet.repository, fleet.repository.ref(fleet.branch)
    if repository.address is None:
        async with aclosing(ref_changes(repository, (specs, fleet.state.ref))) as changes:
            async for _ in changes:
                if (
                    repository.read_ref(specs) != fleet.cache.desired.revision
                    or await fleet.state.was_moved()
                ):
                    fleet.loop.inbox.notify()
