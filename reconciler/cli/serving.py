"""
Whether a reconciler is at work on a fleet, as far as can be told from here.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.store.presence import Presence, PresenceFile

if TYPE_CHECKING:
    from reconciler.cli.session import FleetSession
    from reconciler.core.views import FiguresOf, LiveFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Which process reconciles a fleet, if any."""

    is_running: bool | None
    """None: somebody on another machine leads, and whether it lives cannot be told from here."""
    mode: str = ""
    host: str = ""
    pid: int = 0
    since: str = ""
    presence: Presence | None = None
    """Of one that works, or worked, with the same data folder."""
    last_sign: datetime | None = None
    """When the last one ended, or was last heard of."""


def figures_in(data: Path) -> "FiguresOf":
    """Return how to find the figures of live runs that are followed with a data folder."""

    def figures(run: str, number: int) -> "LiveFigures | None":
        from reconciler.dispatch.logs import LogFolder

        return LogFolder(data / "logs").figures(run, number)

    return figures


async def serving(fleet: "FleetSession", branch: str) -> Serving:
    """Return who reconciles a fleet: from the lock of this machine, else from the lease on the remote."""
    file = PresenceFile(fleet.repository, branch, fleet.context.data_dir)
    presence, pid = file.read(), file.holder()
    if pid is not None:
        if presence is None or (pid and presence.pid != pid) or presence.ended:
            return Serving(is_running=True, pid=pid)
        return Serving(
            is_running=True,
            mode=presence.mode,
            host=presence.host,
            pid=presence.pid,
            since=presence.since,
            presence=presence,
        )
    if fleet.repository.address:
        from reconciler.store.leader import holder_of

        _, leader = await holder_of(fleet.repository, f"refs/remote-fleet/leader/{branch}")
        if leader is not None and (not leader.is_here() or leader.is_alive()):
            is_alive = True if leader.is_here() else None
            return Serving(
                is_running=is_alive, mode=leader.mode, host=leader.host, pid=leader.pid, since=leader.since
            )
    return Serving(is_running=False, presence=presence, last_sign=file.last_sign())
