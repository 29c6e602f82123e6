"""
What is known of hosts, and which news of one belongs on record.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from reconciler.core.model import HostStatus


@dataclass(frozen=True, slots=True)
class HostChange:
    """News of a host, as it goes on record: a commit on the state branch."""

    host: str
    before: HostStatus | None
    """None: nothing was known of it."""
    after: HostStatus | None
    """None: its spec is gone, and so its file goes."""
    at: datetime
    reason: str


def news(host: str, before: HostStatus | None, after: HostStatus, at: datetime) -> HostChange | None:
    """
    Return the change if it belongs on record: up or down, versions, capabilities.

    While a host is away, why it does not answer may read otherwise each time;
    the first reason stays on record.
    """
    if before is not None and not before.reachable and not after.reachable:
        return None
    if before == after:
        return None
    return HostChange(host, before, after, at, "; ".join(_differences(before, after)))


def gone(host: str, before: HostStatus, at: datetime) -> HostChange:
    """Return the change for a host whose spec was removed."""
    return HostChange(host, before, None, at, "the spec was removed")


def _differences(before: HostStatus | None, after: HostStatus) -> Iterator[str]:
    if not after.reachable:
        yield f"does not answer: {after.message}"
        return
    if before is None or not before.reachable:
        yield f"answers: {after.os} {after.arch}, git {after.git or 'missing'}"
    elif before.boot_id != after.boot_id:
        yield "was started anew"
    known = before.adapters if before else {}
    for name, cli in after.adapters.items():
        if known.get(name) != cli:
            yield f"{name} {cli.version or 'not found'}" + (f" ({cli.message})" if cli.message else "")
    if unasked := sorted(known.keys() - after.adapters.keys()):
        yield f"not asked for {', '.join(unasked)} any more"
    if after.message:
        yield after.message
    elif before and before.reachable and before.message:
        yield "nothing is wrong with it any more"
    if before and before.reachable and before.git != after.git:
        yield f"git {after.git or 'missing'}"
