"""
Tasks at rest: runs and reviews with which all is well, kept so that a plan need not look at each of them.

A plan finds nothing to do for one until its spec, its status or its host changes, its lease ends, nobody
follows its run any more, or something about it is tried again. What they take meanwhile is counted: slots,
room in groups, and what each agent may hold.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from reconciler.core.model.specs import Desired, Task
from reconciler.core.model.status import MERGE_REASONS, Observed, Phase, Status
from reconciler.core.planning.context import differing
from reconciler.core.planning.limits import LimitGroup, live_groups
from reconciler.core.planning.liveness import deadline_end
from reconciler.core.runs.leases import lease_end


@dataclass(frozen=True, slots=True)
class _Place:
    """What a task at rest takes, and by what it is found again."""

    status: Status
    host: str
    """Empty for one in review, or with an agent."""
    slots: int
    groups: tuple[LimitGroup, ...]
    agent: str
    """Who pulled it and holds it; empty if nobody does."""
    latest: datetime | None
    """When it is taken from the agent, however long its lease."""


class Resting:
    """Index of the tasks at rest."""

    def __init__(self) -> None:
        self.slots = Counter[str]()
        """Taken slots, by host."""
        self.groups = Counter[LimitGroup]()
        """Live runs, by group."""
        self.held = Counter[str]()
        """Tasks that agents hold, by agent."""
        self._pulled: dict[str, _Place] = {}
        """Those that agents hold, by run key."""
        self._places: dict[str, _Place] = {}
        self._by_host: dict[str, set[str]] = defaultdict(set)
        self._by_run: dict[str, str] = {}
        self._by_round: dict[tuple[str, int], str] = {}
        self._desired, self._observed = Desired(), Observed()

    @property
    def statuses(self) -> Iterable[Status]:
        """Return theirs."""
        return (place.status for place in self._places.values())

    def put(self, name: str, spec: Task, status: Status, observed: Observed) -> None:
        """Take a task in with which all is well."""
        run, host, agent = status.last_run, "", ""
        if status.phase.is_live:
            host, agent = status.assigned_host or "", status.assigned_agent or ""
        place = _Place(
            status,
            host,
            run.slots if host and observed.can_reach(status) else 0,
            tuple(live_groups(run, spec)) if status.phase.is_live else (),
            agent,
            lease_end(status, spec, {}, observed.began(run.key, status.since)),
        )
        self._places[name] = place
        self._by_host[host].add(name)
        self._by_run[run.key] = name
        if agent:
            self._pulled[run.key] = place
        elif host:
            self._by_round[run.round_key] = name
        self._count(place, 1)

    def _count(self, place: _Place, by: int) -> None:
        """Add what a task takes, or with -1 take it away."""
        self.slots[place.host] += by * place.slots
        for group in place.groups:
            self.groups[group] += by
        if place.agent:
            self.held[place.agent] += by

    def beside(self, names: Container[str]) -> "Resting":
        """Return those that are not among these."""
        both = [name for name in self._places if name in names]
        if not both:
            return self
        rest = Resting()
        rest.slots, rest.groups, rest.held = self.slots.copy(), self.groups.copy(), self.held.copy()
        rest._places = dict(self._places)
        for name in both:
            rest._count(rest._places.pop(name), -1)
        return rest

    def take(self, name: str) -> None:
        """Take a task out, if it is here."""
        place = self._places.pop(name, None)
        if place is None:
            return
        run = place.status.last_run
        self._by_round.pop(run.round_key, None)
        self._by_run.pop(run.key, None)
        self._pulled.pop(run.key, None)
        self._by_host[place.host].discard(name)
        self._count(place, -1)

    def lease_ends(self, leases: Mapping[str, datetime]) -> Iterable[tuple[str, datetime]]:
        """Yield the run keys of those that agents hold, and when each is taken from its agent."""
        for run, place in self._pulled.items():
            ends = [end for end in (leases.get(run), place.latest) if end is not None]
            if ends:
                yield run, min(ends)

    def roused(self, desired: Desired, observed: Observed, now: datetime) -> set[str]:
        """Return those that are to be looked at again, by what is new since the last call."""
        before, seen = self._desired, self._observed
        self._desired, self._observed = desired, observed
        if not _rests_on_the_same(before, desired) or _own(seen) != _own(observed):
            return set(self._places)
        lost = self._by_round.keys() - observed.followed
        names = {self._by_round[key] for key in lost}
        names |= {self._by_run[key] for key in observed.retry_reasons if key in self._by_run}
        names |= {self._by_run[run] for run, end in self.lease_ends(observed.leases) if end <= now}
        for host in differing(seen.hosts, observed.hosts):
            names |= self._by_host.get(host, set())
        return names


def may_rest(spec: Task, status: Status, desired: Desired, observed: Observed) -> bool:
    """Return whether a task may be left alone about which a plan found nothing to do or to say."""
    has_wait = status.waiting is not None and not _waits_for_merge(status)
    if has_wait or status.removed or status.run is None:
        return False
    if deadline_end(spec, status) is not None:  # it has a time of its own
        return False
    if status.phase is Phase.REVIEW_PENDING:
        return True
    if status.phase.is_live and status.assigned_agent is not None:
        return status.claim is None
    host, probe = (
        desired.hosts.get(status.assigned_host or ""),
        observed.hosts.get(status.assigned_host or ""),
    )
    if status.phase is not Phase.RUNNING or host is None or (probe and not probe.reachable):
        return False
    is_followed = not observed.can_reach(status) or status.last_run.round_key in observed.followed
    return is_followed and not host.drain and spec.over_budget != "stop"


def _waits_for_merge(status: Status) -> bool:
    """Return whether a task waits for what its pull request said last: that stays until it says more."""
    waiting = status.waiting
    return status.phase is Phase.REVIEW_PENDING and waiting is not None and waiting.reason in MERGE_REASONS


def _rests_on_the_same(before: Desired, after: Desired) -> bool:
    """Return whether hosts, repos and settings are what they were."""
    parts = ("fleet", "hosts", "repos", "adapters", "accounts")
    return all(
        (old := getattr(before, part)) is (new := getattr(after, part)) or old == new for part in parts
    )


def _own(observed: Observed) -> tuple[object, ...]:
    return observed.machine, observed.takes_over, observed.drift
