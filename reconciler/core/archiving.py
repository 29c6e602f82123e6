"""
Archiving: which spec files ask for nothing any more, because their tasks settled long ago.

Once such a file is gone, the status of its tasks is archived; see `core.planning.plan`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from reconciler.core.model.specs import Desired, Task
from reconciler.core.model.status import Observed, Phase
from reconciler.core.names import task_spec_file
from reconciler.core.planning.plan import needs_attention

_DONE = frozenset({Phase.COMPLETED, Phase.CANCELLED})
"""What failed or was escalated stays until a person has dealt with it."""


def finished_specs(
    desired: Desired, observed: Observed, now: datetime, age: timedelta
) -> Mapping[str, Sequence[str]]:
    """
    Return the spec files all of whose tasks were done so long ago, each with its tasks.

    Done is what was completed or cancelled and has no further time in its schedule. A file stays while
    a task of one that stays builds on one of its tasks.
    """
    files = defaultdict[str, list[str]](list)
    for name, task in desired.tasks.items():
        files[task_spec_file(name, task.campaign)].append(name)
    finished = {
        path: sorted(names)
        for path, names in sorted(files.items())
        if all(_is_finished(desired, observed, name, now - age) for name in names)
    }
    while needed := _needed(desired, finished):
        finished = {path: names for path, names in finished.items() if path not in needed}
    return finished


def _is_finished(desired: Desired, observed: Observed, name: str, before: datetime) -> bool:
    spec, status = desired.tasks[name], observed.statuses.get(name)
    if status is None or name in desired.broken or status.phase not in _DONE:
        return False
    return status.since <= before and not needs_attention(spec, status)


def _needed(desired: Desired, finished: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Return those of the files with a task that one of another file builds on, which stays."""
    place = {name: path for path, names in finished.items() for name in names}
    staying = (task for name, task in desired.tasks.items() if name not in place)
    return frozenset(place[name] for task in staying for name in _bases(task) if name in place)


def _bases(task: Task) -> Sequence[str]:
    return [*task.depends_on, *([task.start_from] if task.start_from else [])]
