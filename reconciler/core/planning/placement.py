"""
Where a task runs: feasible, then ranked, then chosen, and why not the others.

The score is counted in free slots, so that a person can check it by hand.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

from reconciler.core.faults import fault_message
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Desired, Host, ReviewBy, Task
from reconciler.core.model.status import HostStatus, Observed, Run, Status
from reconciler.core.planning.accounts import AccountPool
from reconciler.core.planning.context import differing
from reconciler.core.planning.limits import spent_today
from reconciler.core.runs.sandbox import needs_network, sandbox_of

RESUMES = 100.0
"""For the host that holds the agent's session: going on there saves the story being told anew."""

FAILED_HERE = -10_000.0
"""For the host of the failed attempt: another may do better, be it one with far fewer slots."""

ELSEWHERE = "does not have the workspace of the task"
"""Why no other host will do while an answered task goes back to its own."""

UNASKED = "has not answered a probe yet"
"""Why a host cannot be had before anything is known of it."""

PREFERRED = 10.0
"""For each wish in `prefer` that the host meets."""


class Candidate(NamedTuple):
    """A host that could take the task now."""

    host: str
    score: float
    free: int
    """Free slots."""
    weight: float
    load: float
    preferred: tuple[str, ...] = ()
    """Wishes of the task that it meets."""
    resumes: bool = False
    has_failed: bool = False

    @property
    def why(self) -> str:
        """What the score is made of, in words."""
        terms = {
            f"{self.free} free, weight {self.weight:g}": self.free * self.weight,
            f"load {self.load:.2f}": self.load,
            f"preferred: {', '.join(self.preferred)}": self.preferred,
            "holds the session": self.resumes,
            "the last attempt failed here": self.has_failed,
        }
        return ", ".join(reason for reason, applies in terms.items() if applies)


@dataclass(frozen=True, slots=True)
class Placement:
    """Which host, and why not the others."""

    chosen: str | None = None
    ranked: tuple[Candidate, ...] = ()
    """The hosts that could take it, the best first."""
    rejected: Mapping[str, str] = field(default_factory=dict)
    """Why not, by host."""
    full: tuple[str, ...] = ()
    """Those of the rejected that only lack free slots."""
    spent: tuple[str, ...] = ()
    """Those of the rejected that only lack money today."""
    unserved: tuple[str, ...] = ()
    """Those of the rejected that only lack an account that can be had."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Those of the full whose free slots are kept for another task, and for which."""
    account: str | None = None
    """Of the chosen: whose credential the run uses; None for the adapter's own."""
    fallback: str = ""
    """Why the task's `fallback` runs it; empty if that does not."""


_Kind = tuple[str, str | None, tuple[str, ...], int, ReviewBy | None]
"""What of a task decides which hosts fit it: adapter, repo, labels, slots, reviewer."""


class _Fit:
    """The hosts that fit a kind of task, busy slots and money apart, and why the others do not."""

    def __init__(self, hosts: Mapping[str, Host]) -> None:
        self.stale = set(hosts)
        """Those to ask once more."""
        self.fitting: dict[str, Host] = {}
        self.rejected: dict[str, str] = {}
        self.has_budgets = False
        """Whether any of the fitting has a budget of its own."""
        self.ranking = _Ranking(self)

    def refresh(self, task: Task, desired: Desired, observed: Observed) -> None:
        """Ask those hosts once more about which something is new."""
        if not self.stale:
            return
        for name in self.stale:
            host = desired.hosts.get(name)
            why = _why_not_or_fault(task, host, desired, observed) if host else ""
            self.rejected.pop(name, None)
            if why:
                self.rejected[name] = why
        self.fitting = {name: host for name, host in desired.hosts.items() if name not in self.rejected}
        self.has_budgets = any(host.daily_budget for host in self.fitting.values())
        self.ranking = _Ranking(self)
        self.stale = set()


class _Ranking:
    """
    Memo of how the hosts that fit rank, where nothing but slots and load decides.

    From one task to the next, slots or load of a few have changed.
    """

    def __init__(self, fit: _Fit) -> None:
        self._fit = fit
        self._seen: tuple[Mapping[str, object], ...] | None = None
        self._candidates: dict[str, Candidate] = {}
        self._ranked: list[Candidate] = []
        self._rejected = dict(fit.rejected)
        self._full: list[str] = []

    def place(
        self, task: Task, used: Mapping[str, int], load: Mapping[str, float], kept: Mapping[str, str]
    ) -> "Placement":
        """Return where the task should run."""
        for name in self._news(used, load, kept) & self._fit.fitting.keys():
            self._drop(name)
            host = self._fit.fitting[name]
            free = host.slots - used.get(name, 0)
            if free < task.slots or name in kept:
                self._rejected[name] = _why_not_now(task, host, free, kept)
                insort(self._full, name)
            else:
                self._candidates[name] = candidate = _candidate(host, free, load)
                insort(self._ranked, candidate, key=_rank)
        chosen = self._ranked[0].host if self._ranked else None
        holders = {name: kept[name] for name in sorted(kept) if name in self._full}
        return Placement(
            chosen, tuple(self._ranked), dict(self._rejected), full=tuple(self._full), kept=holders
        )

    def _news(
        self, used: Mapping[str, int], load: Mapping[str, float], kept: Mapping[str, str]
    ) -> AbstractSet[str]:
        """Return the hosts of which anything is not what it was."""
        before, self._seen = self._seen, (dict(used), dict(load), dict(kept))
        if before is None:
            return self._fit.fitting.keys()
        pairs: Iterable[tuple[Mapping[str, object], Mapping[str, object]]] = zip(
            before, self._seen, strict=True
        )
        return {name for old, new in pairs if old != new for name, _ in old.items() ^ new.items()}

    def _drop(self, name: str) -> None:
        """Forget what was said of a host."""
        if candidate := self._candidates.pop(name, None):
            del self._ranked[bisect_left(self._ranked, _rank(candidate), key=_rank)]
        elif self._rejected.pop(name, None):
            del self._full[bisect_left(self._full, name)]


class HostFits:
    """
    Memo of which hosts fit which kind of task.

    A fleet has few kinds and many hosts, and little is new about these from one plan to the next.
    """

    def __init__(self) -> None:
        self._desired, self._observed = Desired(), Observed()
        self._fits: dict[_Kind, _Fit] = {}

    def fit(self, task: Task, desired: Desired, observed: Observed) -> _Fit:
        """Return which hosts fit a task."""
        self._notice(desired, observed)
        kind = task.adapter, task.repo, task.requires, task.slots, task.review_by
        fit = self._fits.get(kind)
        if fit is None:
            if len(self._fits) >= _MOST_KINDS:
                self._fits.clear()
            fit = self._fits[kind] = _Fit(desired.hosts)
        fit.refresh(task, desired, observed)
        return fit

    def _notice(self, desired: Desired, observed: Observed) -> None:
        """Let those hosts be asked once more whose spec, probe or trial is not what it was."""
        if desired is self._desired and observed is self._observed:
            return
        before, seen = self._desired, self._observed
        self._desired, self._observed = desired, observed
        if (desired.adapters, desired.accounts) != (before.adapters, before.accounts):
            self._fits.clear()
        stale = differing(before.hosts, desired.hosts) | differing(seen.hosts, observed.hosts)
        stale |= seen.half_open ^ observed.half_open
        for fit in self._fits.values() if stale else ():
            fit.stale |= stale


_MOST_KINDS = 64


def reachable_runs(statuses: Mapping[str, Status], observed: Observed) -> Iterator[tuple[str, str, Run]]:
    """Yield task, host and run of those that are live on a host; a local host is another on each machine."""
    for name, status in statuses.items():
        if status.assigned_host and (run := status.live_run) and observed.can_reach(status):
            yield name, status.assigned_host, run


def slots_in_use(statuses: Mapping[str, Status], observed: Observed) -> Counter[str]:
    """Return how many slots of each host the live runs take; one that waits for its delivery takes none."""
    used = Counter[str]()
    for name, host, run in reachable_runs(statuses, observed):
        if not statuses[name].waits_for_delivery:
            used[host] += run.slots
    return used


def place(
    task: Task,
    status: Status | None,
    desired: Desired,
    observed: Observed,
    used: Mapping[str, int],
    *,
    kept: Mapping[str, str] = MappingProxyType({}),
    only: str | None = None,
    accounts: AccountPool,
    account: str | None = None,
    model: str | None = None,
    fits: "HostFits | None" = None,
) -> Placement:
    """
    Return where the task should run.

    `used` slots of each host are taken; the free ones of hosts in `kept` are
    for the task that is named there. With `only`, no other host will do, and
    with `account` no other account; for `model` see `AccountPool.can_have`.
    `fits` remembers which hosts fit from one call to the next.
    """
    fit = (fits or HostFits()).fit(task, desired, observed)
    has_accounts = account is not None or accounts.matter(task)
    has_past = bool(task.prefer) or (status is not None and status.run is not None)
    if only is None and not has_accounts and not has_past and not fit.has_budgets:
        return fit.ranking.place(task, used, observed.load, kept)
    rejected, full, spent, ranked = dict(fit.rejected), list[str](), list[str](), list[Candidate]()
    unserved = list[str]()
    if only is not None:
        rejected |= {name: ELSEWHERE for name in desired.hosts if name != only}
    for name, host in fit.fitting.items():
        if only is not None and name != only:
            continue
        free = host.slots - used.get(name, 0)
        if host.daily_budget and spent_today(desired, observed.spent, ("host", name)):
            rejected[name] = "has spent its daily budget"
            spent.append(name)
        elif has_accounts and accounts.is_barred(task, name):
            rejected[name] = "is no host where an account of the task may be used"
        elif has_accounts and not accounts.can_have(task, name, only=account, model=model):
            rejected[name] = accounts.wait(task, [name], only=account).message
            unserved.append(name)
        elif free < task.slots or name in kept:
            rejected[name] = _why_not_now(task, host, free, kept)
            full.append(name)
        else:
            plain = _candidate(host, free, observed.load)
            ranked.append(_with_past(plain, task, status, host) if has_past else plain)
    ranked.sort(key=_rank)
    chosen = ranked[0].host if ranked else None
    return Placement(
        chosen,
        tuple(ranked),
        rejected,
        full=tuple(sorted(full)),
        spent=tuple(sorted(spent)),
        unserved=tuple(sorted(unserved)),
        kept={name: kept[name] for name in sorted(full) if name in kept},
    )


def _candidate(host: Host, free: int, loads: Mapping[str, float]) -> Candidate:
    load = loads.get(host.name, 0.0)
    return Candidate(host.name, round(free * host.weight - load, 3), free, host.weight, load)


def _rank(candidate: Candidate) -> tuple[float, str]:
    """Return what sorts candidates: the best first, of equal ones the first by name."""
    return -candidate.score, candidate.host


def goes_on(task: Task, status: Status, host: str, observed: Observed) -> bool:
    """Return whether the run whose question was answered can go on there: its workspace is there."""
    run = status.interrupted_run
    is_there = run is not None and (status.assigned_host, run.adapter) == (host, task.adapter)
    return is_there and observed.can_reach(status)


def home_host(task: Task, status: Status, desired: Desired, observed: Observed, now: datetime) -> str | None:
    """
    Return the host that a task waits for, because the run whose question was answered goes on there.

    None if there is no such run, or its host is gone, or has been away since the answer for too long.
    """
    host = desired.hosts.get(status.assigned_host or "")
    if host is None or not goes_on(task, status, host.name, observed):
        return None
    is_patient = now < patience_end(status, desired)
    return host.name if is_patient or not _why_not_or_fault(task, host, desired, observed) else None


def patience_end(status: Status, desired: Desired) -> datetime:
    """Return until when an answered task waits for who has its workspace or session."""
    answered_at = status.questions[-1].answered_at if status.questions else None
    return (answered_at or status.since) + desired.fleet.lost_after


def _why_not_or_fault(task: Task, host: Host, desired: Desired, observed: Observed) -> str:
    """Return the same, and for a host that cannot be thought about what happened: others are there."""
    try:
        return _why_not(task, host, desired, observed)
    except Exception as error:  # noqa: BLE001 - whatever it is, other hosts are there
        return fault_message(error, "asking for it")


def _why_not(task: Task, host: Host, desired: Desired, observed: Observed) -> str:
    """Return every reason, busy slots and money apart, why the host cannot take the task; empty if it can."""
    probe = observed.hosts.get(host.name)
    lacking = [label for label in task.requires if label not in host.capabilities and label != host.name]
    offers = host.adapters is None or task.adapter in host.adapters
    reasons = {
        f"lacks {', '.join(lacking)}": lacking,
        f"does not offer {task.adapter}": not offers,
        f"may not work on {task.repo}": task.repo and host.repos is not None and task.repo not in host.repos,
        "is suspended": host.desired == "suspended",
        "is cordoned": host.cordon,
        "is draining": host.drain,
        "has no slots": host.slots == 0,
        f"has {host.slots} of the {task.slots} slots it takes": 0 < host.slots < task.slots,
        UNASKED: probe is None and not host.is_local,
        "is not reachable": probe is not None and not probe.reachable,
        _fault(host, observed): True,
        _cli_problem(task.adapter, host, desired, observed): offers,
        _sandbox_problem(task.adapter, host, desired, observed): offers,
        _reviewer_problem(task, host, desired, observed): True,
    }
    return ", ".join(reason for reason, applies in reasons.items() if applies and reason)


def _fault(host: Host, observed: Observed) -> str:
    """Return why no run can start on a host that answers; empty if one can, or is to find out."""
    probe = observed.hosts.get(host.name)
    if probe is None or not probe.reachable or not probe.fault or host.name in observed.half_open:
        return ""
    return f"cannot start runs: {probe.fault}"


def _reviewer_problem(task: Task, host: Host, desired: Desired, observed: Observed) -> str:
    """Return why the work cannot be reviewed on the host; empty if it can, or need not."""
    if (reviewer := task.review_by) is None or task.repo is None:
        return ""
    account = desired.accounts.get(reviewer.account or "")
    if account and account.hosts is not None and host.name not in account.hosts:
        return f"is no host where account {account.name} may be used (review_by)"
    if host.adapters is not None and reviewer.adapter not in host.adapters:
        return f"does not offer {reviewer.adapter} (review_by)"
    problems = (
        _cli_problem(reviewer.adapter, host, desired, observed),
        _sandbox_problem(reviewer.adapter, host, desired, observed),
    )
    return ", ".join(filter(None, problems))


def _sandbox_problem(name: str, host: Host, desired: Desired, observed: Observed) -> str:
    """Return why the runs of an adapter cannot be in the sandbox that they need there; empty if they can."""
    adapter, probe = desired.adapters.get(name), observed.hosts.get(host.name)
    sandbox = sandbox_of(host, adapter)
    if sandbox is None:
        return ""
    if adapter and needs_network(adapter) and not sandbox.network:
        return f"has a sandbox without network, and {name} calls a model"
    if probe is None or (probe.reachable and probe.sandbox is None):
        return "has not been asked for a sandbox yet"
    if not probe.reachable:
        return ""
    if probe.sandbox:
        return f"has no sandbox: {probe.sandbox}"
    return _egress_problem(probe) if sandbox.destinations else ""


def _egress_problem(probe: HostStatus) -> str:
    if probe.egress is None:
        return "has not been asked for an egress list yet"
    return f"can have no egress list: {probe.egress}" if probe.egress else ""


def _cli_problem(name: str, host: Host, desired: Desired, observed: Observed) -> str:
    """Return what the last probe has against the agent's CLI on the host; empty for nothing."""
    adapter, probe = desired.adapters.get(name), observed.hosts.get(host.name)
    if probe is None or not probe.reachable or adapter is None or adapter.version is None:
        return ""
    cli = probe.adapters.get(name)
    if cli is None:
        return "" if host.is_local else f"has not been asked for {name} yet"
    return "" if cli.ok else f"has no {name} that will do: {cli.message}"


def _why_not_now(task: Task, host: Host, free: int, kept: Mapping[str, str]) -> str:
    """Return why the slots of the host are not to be had."""
    if free < task.slots:
        return f"has {free} of the {task.slots} slots it takes free" if free > 0 else "has no free slot"
    return f"is kept free for {kept[host.name]}"


def _with_past(plain: Candidate, task: Task, status: Status | None, host: Host) -> Candidate:
    """Return the candidate with what the task wishes, and what happened to it there, in its score."""
    met = tuple(each for each in task.prefer if each in host.capabilities or each == host.name)
    resumes, has_failed = _resumes(task, status, host), _failed(status, host)
    score = plain.free * plain.weight - plain.load + PREFERRED * len(met)
    score += RESUMES * resumes + FAILED_HERE * has_failed
    return plain._replace(score=round(score, 3), preferred=met, resumes=resumes, has_failed=has_failed)


def _resumes(task: Task, status: Status | None, host: Host) -> bool:
    if status is None or status.session is None or status.run is None:
        return False
    return status.session_at(host.name, task.adapter, status.run.account) is not None


def _failed(status: Status | None, host: Host) -> bool:
    """Return whether an attempt that is not gone on with failed on this host."""
    if status is None or status.failure is None or status.session is not None:
        return False
    return status.assigned_host == host.name and status.failure.kind is not FailureClass.QUOTA
