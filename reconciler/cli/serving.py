"""
Whether a reconciler is running for a fleet, as far as this machine can tell.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.core.names import DEFAULT_SHARD, state_branch_of
from reconciler.store.presence import Presence, PresenceFile

if TYPE_CHECKING:
    from reconciler.cli.session import FleetSession
    from reconciler.core.figures import FiguresOf, LiveFigures
    from reconciler.core.outages import ForgeOutage


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Which process reconciles a fleet, if any."""

    is_running: bool | None
    """None: the leader is on another machine, and whether it is alive cannot be told from here."""
    mode: str = ""
    host: str = ""
    pid: int = 0
    since: str = ""
    presence: Presence | None = None
    """Of the running or last reconciler with the same data folder."""
    last_sign: datetime | None = None
    """When the last one ended, or last gave a sign of life."""


def figures_in(data: Path) -> "FiguresOf":
    """Return how to find the figures of live runs that are followed with a data folder, of any shard."""

    def figures(run: str, number: int) -> "LiveFigures | None":
        from reconciler.dispatch.logs import LogFolder

        folders = (LogFolder(each / "logs") for each in (data, *data.glob("shards/*")))
        return next((read for each in folders if (read := each.figures(run, number))), None)

    return figures


async def forge_outages(fleet: "FleetSession", branch: str) -> "Mapping[str, ForgeOutage]":
    """Return which forges cannot be worked with, by repo, as running reconcilers say; else nothing."""
    every = [await serving(fleet, branch, shard) for shard in await fleet.shards(branch)]
    there = [who.presence for who in every if who.is_running and who.presence]
    return {repo: outage for presence in there for repo, outage in presence.forges.items()}


async def serving(fleet: "FleetSession", state_branch: str, shard: str = DEFAULT_SHARD) -> Serving:
    """
    Return which process reconciles a fleet, or a shard of it, whose record is beside `state_branch`.

    From the local lock, else from the lease on the remote.
    """
    branch, data = state_branch_of(state_branch, shard), fleet.context.data_of(shard)
    git_dir = fleet.repository.git_dir
    if shard != DEFAULT_SHARD:  # it works in a clone of its own
        git_dir = data / "clones" / git_dir.name
    file = PresenceFile(fleet.repository, branch, data, git_dir)
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
