"""
Counts of a fleet: how many tasks stand where, since when the oldest wait, what needs a person.

One pass over the record that makes no view of tasks about which there is nothing to say.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from reconciler.core.conditions import NEEDS_A_PERSON
from reconciler.core.model.status import QUEUE_REASONS, Phase, Reason
from reconciler.core.views import BAD_ENDS, ReadModel, count_phases, task_need

NOTHING = "none"
"""In place of a reason, of a task that waits for nothing."""


@dataclass(frozen=True, slots=True)
class FleetCounts:
    """How many, and since when."""

    tasks: Mapping[tuple[str, str], int]
    """Tasks by phase and what they wait for."""
    waiting_since: Mapping[str, datetime]
    """Since when the first of the tasks in `created` wait, by what for."""
    needs: Mapping[str, int]
    """What needs a person, by why; see `core.needs.Need`."""
    needs_since: datetime | None
    """Since when the first of the tasks and hosts need one; None if none does, or it is not on record."""
    campaigns: Mapping[tuple[str, str], int]
    """Tasks of each campaign, by where they stand."""
    queued: Mapping[str, int]
    """Branches in the merge queue of each repo that has one."""


def fleet_counts(model: ReadModel) -> FleetCounts:
    """Return the counts of a fleet as it stands."""
    tasks, since = Counter[tuple[str, str]](), dict[str, datetime]()
    needs, times = Counter[str](), list[datetime]()
    for name in model.names():
        phase, reason, at = _state_of(model, name)
        tasks[phase, reason] += 1
        if phase is Phase.CREATED and at is not None:
            since[reason] = min(at, since.get(reason, at))
        is_bad, is_stuck = phase in BAD_ENDS, reason in NEEDS_A_PERSON
        if (is_bad or is_stuck) and (need := _need(model, name, phase, is_bad=is_bad)):
            needs[need] += 1
            times += [at] if at is not None else []
    for why, at in _other_needs(model):
        needs[why] += 1
        times += [at] if at else []
    return FleetCounts(tasks, since, needs, min(times, default=None), dict(_campaigns(model)), _queued(model))


def _state_of(model: ReadModel, name: str) -> tuple[Phase, str, datetime | None]:
    """Return the phase of a task, what it waits for, and since when it does."""
    status = model.observed.statuses.get(name)
    waiting = status.waiting if status else model.planned.get(name)
    phase = status.phase if status else Phase.CREATED
    at = waiting.since if waiting else status.since if status else None
    if name in model.desired.broken or name in model.observed.damaged:
        return phase, Reason.SPEC_ERROR, at
    return phase, waiting.reason if waiting else NOTHING, at


def _need(model: ReadModel, name: str, phase: Phase, *, is_bad: bool) -> str | None:
    """Return why a task needs a person; its problems are counted with the specs."""
    if is_bad and name not in model.desired.broken and name not in model.observed.damaged:
        return phase.value.capitalize()  # as `task_need` has it, and there may be thousands
    view = model.task(name)
    need = None if view.problems else task_need(view)
    return need[0] if need else None


def _campaigns(model: ReadModel) -> Iterator[tuple[tuple[str, str], int]]:
    statuses = model.observed.statuses
    for name, campaign in model.desired.campaigns.items():
        phases = (statuses[task].phase if task in statuses else Phase.CREATED for task in campaign.tasks)
        for group, count in count_phases(phases).items():
            yield (name, group), count


def _queued(model: ReadModel) -> Mapping[str, int]:
    queued = Counter({repo.name: 0 for repo in model.desired.repos.values() if repo.merge == "queue"})
    for status in model.observed.statuses.values():
        if status.waiting and status.waiting.reason in QUEUE_REASONS and status.run:
            queued[status.run.repo or NOTHING] += 1
    return queued


def _other_needs(model: ReadModel) -> Iterator[tuple[str, datetime | None]]:
    for _ in model.desired.problems:
        yield "Broken", None
    for host in model.hosts().values():
        if host.state == "down" and host.status:
            yield "Down", host.status.since
    for account in model.observed.accounts.values():
        if account.state == "failing":
            yield "Circuit", account.since
