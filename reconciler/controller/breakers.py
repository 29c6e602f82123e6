"""
Circuit breakers: one for the starts of runs on each host, in memory.

A restart forgets them. What it costs is a few starts that fail again, and
those count as no attempts.
"""

from collections.abc import Container, Mapping, Sequence
from datetime import datetime

from reconciler.core.events import HostSeen, RunEnded, RunSeen
from reconciler.core.hosts import HostChange, Starts, after_failed_start, host_change, with_starts
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.status import HostStatus, Status


class Breakers:
    """What came of the starts on each host since one succeeded."""

    def __init__(self) -> None:
        self._starts: dict[str, Starts] = {}

    def note(self, fact: RunSeen | RunEnded, status: Status | None, now: datetime) -> str | None:
        """
        Record a run that started, or could not; idempotent for the same run.

        Returns its host if that starts runs again: what is on record of it is out of date.
        """
        if status is None or status.run_key != fact.run or status.assigned_host is None:
            return None
        host = status.assigned_host
        if isinstance(fact, RunEnded) and not fact.report.started:
            message = fact.report.verdict.message
            self._starts[host] = after_failed_start(self._starts.get(host, Starts()), fact.task, message, now)
        elif not isinstance(fact, RunEnded) or fact.report.verdict.kind is not FailureClass.HOST:
            starts = self._starts.pop(host, None)
            return host if starts and starts.fault else None
        return None

    def seen(self, fact: HostSeen, before: HostStatus | None) -> HostStatus:
        """Return a probe's status with the breaker's fault: a probe alone may find nothing wrong."""
        return with_starts(fact.status, before, self._starts.get(fact.host), fact.at)

    def changes(self, hosts: Mapping[str, HostStatus], now: datetime) -> Sequence[HostChange]:
        """Return the changes of hosts whose breaker has just opened."""
        present = [(name, hosts[name]) for name in self._starts if name in hosts]
        return [change for name, status in present if (change := self._change(name, status, now))]

    def forget(self, hosts: Container[str]) -> None:
        """Forget all hosts but these: the specs have no others any more."""
        self._starts = {name: starts for name, starts in self._starts.items() if name in hosts}

    def half_open(self, hosts: Mapping[str, HostStatus], now: datetime) -> frozenset[str]:
        """Return the hosts that may get one trial run: those whose last probe found no fault."""
        return frozenset(
            name
            for name, starts in self._starts.items()
            if starts.is_half_open(now) and name in hosts and hosts[name].fault == starts.fault
        )

    def next(self, now: datetime) -> datetime | None:
        """Return when a host is to be tried next."""
        times = (starts.until for starts in self._starts.values())
        return min((time for time in times if time is not None and time > now), default=None)

    def _change(self, name: str, before: HostStatus, now: datetime) -> HostChange | None:
        starts = self._starts.get(name)
        after = with_starts(before, before, starts, now)
        return host_change(name, before, after, now)
