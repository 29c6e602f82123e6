"""
Hosts that fell silent, and what becomes of the runs on them.
"""

from collections.abc import Iterator
from datetime import datetime

from reconciler.core.events import Event
from reconciler.core.fields import format_time
from reconciler.core.model import Status, Task
from reconciler.core.rounds import lose
from reconciler.core.scene import Scene


def silence(scene: Scene, status: Status) -> str | None:
    """Return, in words, that the host of a live run has been silent for too long; None if it has not."""
    since = _silent_since(scene, status)
    if since is None or since + scene.desired.fleet.lost_after > scene.now:
        return None
    return f"host {status.assigned_host} has not answered since {format_time(since)}"


def loss(scene: Scene, spec: Task, status: Status) -> Event | None:
    """Return how a task goes on without its run on a silent host; None if it goes on with it, or waits."""
    words = silence(scene, status) if spec.disconnect != "wait" else None
    return lose(spec, status, words, scene.now, scene.desired.fleet) if words else None


def losses_due(scene: Scene) -> Iterator[datetime]:
    """Yield when hosts will have been silent for too long."""
    for status in scene.statuses.values():
        since = _silent_since(scene, status)
        if since is not None and (time := since + scene.desired.fleet.lost_after) > scene.now:
            yield time


def _silent_since(scene: Scene, status: Status) -> datetime | None:
    """
    Return since when the host of a live run is silent.

    Only a host that this process has asked itself is silent: what is on record
    may be from before a time in which nobody asked.
    """
    host = status.assigned_host or ""
    probe = scene.observed.hosts.get(host)
    is_silent = host in scene.desired.hosts and host in scene.observed.asked and probe and not probe.reachable
    return probe.since if status.phase.is_live and is_silent and probe else None
