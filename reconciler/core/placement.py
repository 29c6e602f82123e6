"""
Where a task runs: feasible, then ranked, then chosen, and why not the others.

The score is counted in free slots, so that a person can check it by hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.model import Desired, FailureClass, Host, Observed, Status, Task

RESUMES = 100.0
"""For the host that holds the agent's session: going on there saves the story being told anew."""

FAILED_HERE = -100.0
"""For the host of the failed attempt: another may do better."""

PREFERRED = 10.0
"""For each wish in `prefer` that the host meets."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host that could take the task now."""

    host: str
    score: float
    why: str
    """What the score is made of, in words."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Which host, and why not the others."""

    chosen: str | None = None
    ranked: tuple[Candidate, ...] = ()
    """The hosts that could take it, the best first."""
    rejected: Mapping[str, str] = field(default_factory=dict)
    """Why not, by host."""
    full: tuple[str, ...] = ()
    """Those of the rejected that only lack a free slot."""


def place(
    task: Task, status: Status | None, desired: Desired, observed: Observed, live: Mapping[str, int]
) -> Placement:
    """Return where the task should run, with `live` runs on each host."""
    rejected, full, ranked = {}, [], []
    for host in desired.hosts.values():
        free = host.slots - live.get(host.name, 0)
        if why := _why_not(task, host, observed):
            rejected[host.name] = why
        elif free <= 0:
            rejected[host.name] = "has no free slot"
            full.append(host.name)
        else:
            ranked.append(_candidate(task, status, host, free, observed.load.get(host.name)))
    ranked.sort(key=lambda candidate: (-candidate.score, candidate.host))
    chosen = ranked[0].host if ranked else None
    return Placement(chosen, tuple(ranked), rejected, tuple(sorted(full)))


def _why_not(task: Task, host: Host, observed: Observed) -> str:
    """Return every reason, busy slots apart, why the host cannot take the task; empty if it can."""
    probe = observed.hosts.get(host.name)
    lacking = [label for label in task.requires if label not in host.labels and label != host.name]
    reasons = {
        f"lacks {', '.join(lacking)}": lacking,
        f"does not offer {task.adapter}": host.adapters is not None and task.adapter not in host.adapters,
        "is cordoned": host.cordon,
        "is draining": host.drain,
        "has no slots": host.slots == 0,
        "is not reachable": probe is not None and not probe.reachable,
    }
    return ", ".join(words for words, applies in reasons.items() if applies)


def _candidate(task: Task, status: Status | None, host: Host, free: int, load: float | None) -> Candidate:
    wishes = [wish for wish in task.prefer if wish in host.labels or wish == host.name]
    terms = {
        f"{free} free, weight {host.weight:g}": free * host.weight,
        f"load {load or 0:.2f}": -(load or 0.0),
        f"preferred: {', '.join(wishes)}": PREFERRED * len(wishes),
        "holds the session": RESUMES if _resumes(task, status, host) else 0.0,
        "the last attempt failed here": FAILED_HERE if _failed(status, host) else 0.0,
    }
    why = ", ".join(words for words, value in terms.items() if value)
    return Candidate(host.name, round(sum(terms.values()), 3), why)


def _resumes(task: Task, status: Status | None, host: Host) -> bool:
    return (
        status is not None
        and status.session_id is not None
        and (status.assigned_host, status.adapter) == (host.name, task.adapter)
    )


def _failed(status: Status | None, host: Host) -> bool:
    """Return whether an attempt that is not gone on with failed on this host."""
    return (
        status is not None
        and status.assigned_host == host.name
        and status.session_id is None
        and status.failure is not None
        and status.failure.kind is not FailureClass.QUOTA
    )
