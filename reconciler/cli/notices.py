"""
Notices about the shown data, a line each on stderr.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import click

from reconciler.core.names import DEFAULT_SHARD
from reconciler.core.times import ago

if TYPE_CHECKING:
    from reconciler.cli.session import FleetSession
    from reconciler.core.model.specs import Desired
    from reconciler.core.model.status import Observed, Status
    from reconciler.store.remote_record import Fetched, Remote


def say(text: str) -> None:
    """Print a line on stderr."""
    click.echo(text, err=True)


def fetched_notice(fetched: "Fetched", now: datetime) -> str:
    """Return the notice of how old the fetched record in a clone is."""
    when = f"{ago(fetched.at, now)} ago" if fetched.at else "some time ago"
    return (
        f"The record is {fetched.remote}'s, as of the fetch {when}: `git fetch {fetched.remote}` brings "
        "it up to date."
    )


def unfetched_notice(remote: "Remote", branch: str) -> str:
    """Return the notice that a clone has not fetched the record of its remote."""
    return (
        f"No record is here, and none was fetched from {remote.name}, which may have it: what is shown is a "
        f"fleet that was never run; `git fetch {remote.name} {branch}:refs/remotes/{remote.name}/{branch}` "
        f"brings it, or look there (--repo {remote.url})."
    )


async def say_if_nobody_serves(
    fleet: "FleetSession", branch: str, statuses: "Mapping[str, Status]", now: datetime
) -> bool:
    """Print a notice if no reconciler runs any more and tasks wait for it; return whether it was printed."""
    return not all(map(is_settled, statuses.values())) and await say_if_unserved(fleet, branch, now)


async def say_if_unserved(fleet: "FleetSession", branch: str, now: datetime) -> bool:
    """Print a notice if no reconciler runs any more; return whether it was printed."""
    if fleet.repository.is_looked_at_elsewhere(branch):
        return False
    from reconciler.cli.serving import serving
    from reconciler.store.place import why_copy

    if why_copy(fleet.repository):  # that was said, and nobody is to start one
        return False
    shards = await fleet.shards(branch)
    unserved = [
        (shard, who.last_sign)
        for shard in shards
        if (who := await serving(fleet, branch, shard)).is_running is False
    ]
    for shard, last_sign in unserved:
        what = "this fleet" if len(shards) == 1 else f"shard {shard}"
        option = "" if shard == DEFAULT_SHARD else f" --shard {shard}"
        ended = f" (the last one ended {ago(last_sign, now)} ago)" if last_sign else ""
        say(
            f"No reconciler runs for {what}{ended}: states are as it left them; "
            f"start one with `reconciler run{option}`."
        )
    return bool(unserved)


def is_settled(status: "Status") -> bool:
    """Return whether a task on record needs no reconciler any more."""
    return status.phase.is_settled and not status.removed


def unsettled(desired: "Desired", observed: "Observed") -> "Mapping[str, Status | None]":
    """Return every task that still needs a reconciler."""
    new: dict[str, Status | None] = {name: None for name in desired.tasks if name not in observed.statuses}
    return {**new, **{name: each for name, each in observed.statuses.items() if not is_settled(each)}}
