"""
The planner over many tasks that wait for a slot: from nothing, as after a restart, and after one fact; CPU.

The first is a look at every task, by which the incremental planner begins. After that it is told of one task
that changed, again and again.
"""

import time
from collections.abc import Iterator

from bench.rows import Row, row
from bench.specs import NOW, fleet
from reconciler.core.model.specs import Desired
from reconciler.core.model.status import Observed, Phase, Reason, Status, Waiting
from reconciler.core.planning.incremental import Planner
from reconciler.specs.build import build

FULL = Waiting(reason=Reason.SLOT, message="no free slot on any host that fits", since=NOW)
TURNS = 50
BEHIND = (
    "Some fifty checks of each task in Python, none over a tenth: a third is what it waits for and in which "
    "lane, a third its place in the backlog, a fifth its spec against its status."
)


def rows(quick: bool) -> Iterator[Row]:
    few, many = (100, 500) if quick else (1_000, 100_000)
    _, base = plans(few)
    first, later = plans(many)
    yield row(f"plan from nothing, {many:,} waiting", "s", [first], aim="≤ 2", behind=BEHIND)
    what = f"plan after one fact, {many:,} waiting"
    yield row(what, "ms", later, base, scale=1000, beside=f"of that with {few:,}", aim="≤ 1.2")


def plans(count: int) -> tuple[float, list[float]]:
    """Return the CPU seconds of the first plan, and of those after it."""
    desired = build(fleet(count), revision="1")
    observed = Observed(statuses=waiting(desired))
    planner = Planner()
    planner.notice(desired.tasks)
    first = cpu(planner, desired, observed)
    later = []
    for name in list(desired.tasks)[:TURNS]:
        planner.notice([name])
        later.append(cpu(planner, desired, observed))
    return first, later


def waiting(desired: Desired) -> dict[str, Status]:
    return {
        name: Status(
            phase=Phase.CREATED,
            since=NOW,
            created_at=NOW,
            generation=task.generation,
            work=task.work,
            waiting=FULL,
        )
        for name, task in desired.tasks.items()
    }


def cpu(planner: Planner, desired: Desired, observed: Observed) -> float:
    began = time.process_time()
    planner.plan(desired, observed, NOW)
    return time.process_time() - began
