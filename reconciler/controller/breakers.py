"""
Circuit breakers: two for each host, for the starts of runs and for runs that did start, in memory.

A restart forgets them. What it costs is a few runs that fail again; those that
could not start count as no attempts.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from datetime import datetime

from reconciler.core.events import HostSeen, RunEnded, RunSeen
from reconciler.core.hosts import RUNS, STARTS, HostChange, Starts, after_failure, host_change, with_starts
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.status import HostStatus, Status


class Breakers:
    """What came of the starts and the runs on each host since one succeeded."""

    def __init__(self) -> None:
        self._starts: dict[tuple[str, str], Starts] = {}
        """By host, and by what failed."""

    def note(self, fact: RunSeen | RunEnded, status: Status | None, now: datetime) -> str | None:
        """
        Record a run that started or ended, or could not; idempotent for the same run.

        Returns its host if that carries out runs again: what is on record of it is out of date.
        """
        if status is None or status.run_key != fact.run or status.assigned_host is None:
            return None
        host = status.assigned_host
        what = _failing(fact)
        if isinstance(fact, RunEnded) and what is not None:
            key, message = (host, what), fact.report.verdict.message
            before = self._starts.get(key, Starts())
            self._starts[key] = after_failure(before, fact.task, what, message, now)
        closed = [starts for each in _working(fact) if (starts := self._starts.pop((host, each), None))]
        return host if any(starts.fault for starts in closed) else None

    def seen(self, fact: HostSeen, before: HostStatus | None) -> HostStatus:
        """Return a probe's status with the breakers' fault: a probe alone may find nothing wrong."""
        return with_starts(fact.status, before, self._open(fact.host), fact.at)

    def changes(self, hosts: Mapping[str, HostStatus], now: datetime) -> Sequence[HostChange]:
        """Return the changes of hosts one of whose breakers has just opened."""
        present = [(name, hosts[name]) for name in dict.fromkeys(self._hosts()) if name in hosts]
        return [change for name, status in present if (change := self._change(name, status, now))]

    def forget(self, hosts: Container[str]) -> None:
        """Forget all hosts but these: the specs have no others any more."""
        self._starts = {key: starts for key, starts in self._starts.items() if key[0] in hosts}

    def half_open(
        self,
        hosts: Mapping[str, HostStatus],
        now: datetime,
        at_work: Callable[[], Mapping[str, Status]] = dict,
    ) -> frozenset[str]:
        """
        Return the hosts that may get one trial run: those whose last probe found no fault.

        One of those `at_work` that was given to such a host since is the trial, and there is no other.
        """
        opened = {name: starts for name in self._hosts() if (starts := self._open(name))}
        if not opened:
            return frozenset()
        tried = {
            status.assigned_host
            for status in at_work().values()
            if (starts := opened.get(status.assigned_host or "")) and starts.is_tried_by(status)
        }
        return frozenset(
            name
            for name, starts in opened.items()
            if starts.is_half_open(now)
            and name in hosts
            and hosts[name].fault == starts.fault
            and name not in tried
        )

    def next(self, now: datetime) -> datetime | None:
        """Return when a host is to be tried next."""
        times = (starts.until for starts in self._starts.values())
        return min((time for time in times if time is not None and time > now), default=None)

    def _hosts(self) -> Iterator[str]:
        return (host for host, _ in self._starts)

    def _open(self, host: str) -> Starts | None:
        """Return the breaker of a host that is open, the last one to be tried if both are."""
        both = (self._starts.get((host, what)) for what in (STARTS, RUNS))
        opened = [(starts.until, starts) for starts in both if starts and starts.until]
        return max(opened, key=lambda each: each[0], default=(None, None))[1]

    def _change(self, name: str, before: HostStatus, now: datetime) -> HostChange | None:
        after = with_starts(before, before, self._open(name), now)
        return host_change(name, before, after, now)


def _failing(fact: RunSeen | RunEnded) -> str | None:
    """Return what a fact shows to have failed by the host; None for nothing."""
    if isinstance(fact, RunSeen):
        return None
    if not fact.report.started:
        return STARTS
    return RUNS if fact.report.verdict.kind is FailureClass.HOST else None


def _working(fact: RunSeen | RunEnded) -> Iterator[str]:
    """Yield what a fact shows to work."""
    if isinstance(fact, RunSeen):
        yield STARTS
    elif fact.report.started and fact.report.verdict.kind is not FailureClass.HOST:
        yield from (STARTS, RUNS)
