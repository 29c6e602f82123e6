"""
The notifier of a served fleet: what it looks at, and how its messages leave.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from reconciler import clock
from reconciler.controller.loop import Loop
from reconciler.controller.notifications import Notifier
from reconciler.controller.poller import Poller
from reconciler.core.model.status import Waiting
from reconciler.core.notifications.signals import FleetSnapshot
from reconciler.core.transitions import TransitionRecord
from reconciler.dispatch.secrets import target_secret
from reconciler.git.repository import Repository
from reconciler.notifications.sender import AppriseSender
from reconciler.serve.forges import ForgeOutages, unasked_forges
from reconciler.settings import Settings
from reconciler.store.book_file import BookFile
from reconciler.store.history import HistoryReader


def build_notifier(
    settings: Settings,
    repository: Repository,
    loop: Loop,
    *,
    outages: ForgeOutages,
    pollers: Sequence[Poller[Any]],
    state_branch: str,
) -> Notifier:
    """Return the notifier; `pollers` are those that the loop does not drive."""
    return Notifier(
        snapshot=partial(_snapshot, loop, outages, pollers),
        steps=partial(_steps, repository),
        sender=AppriseSender(target_secret),
        store=BookFile.of_fleet(repository, state_branch, settings.data_dir),
        clock=clock.now,
        fleet=repository.word,
        url=settings.web.public_url if settings.web else "",
    )


def _snapshot(loop: Loop, outages: ForgeOutages, pollers: Sequence[Poller[Any]]) -> FleetSnapshot | None:
    """Return what notifications are about; None before the specs were read."""
    cache = loop.cache
    if not cache.desired.revision:
        return None
    return FleetSnapshot(
        desired=cache.desired,
        statuses=cache.statuses,
        hosts=cache.hosts,
        damaged=cache.damaged,
        planned=_unrecorded(loop),
        head=cache.head,
        forges={repo: outage.why for repo, outage in outages().items()},
        unasked=unasked_forges(loop, pollers),
        unready=loop.unready,
    )


def _unrecorded(loop: Loop) -> Mapping[str, Waiting]:
    """Return what tasks wait for that are not on record; of all others their statuses tell."""
    planned, statuses = loop.cache.last_plan.waiting, loop.cache.statuses
    return {name: wait for name, wait in planned.items() if name not in statuses}


async def _steps(repository: Repository, head: str, after: str, limit: int) -> Sequence[TransitionRecord]:
    """Read steps back; implements `controller.ports.StepReader`."""
    return await HistoryReader(repository, lambda: head).since(after, limit)
