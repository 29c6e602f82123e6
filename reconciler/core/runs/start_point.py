"""
Tasks that begin on the branch of another (`start_from`): from which commit, and against which branch.
"""

from collections.abc import Mapping

from reconciler.core.model.specs import Desired, Repo, Task
from reconciler.core.model.status import Phase, Status

_DELIVERED = frozenset({Phase.REVIEW_PENDING, Phase.COMPLETED})


def is_delivered(status: Status | None) -> bool:
    """Return whether the branch of a task can be begun on: it was validated and pushed."""
    return status is not None and status.phase in _DELIVERED


def start_commit(task: Task, desired: Desired, statuses: Mapping[str, Status]) -> str | None:
    """Return the commit that a run of a task begins on; None for the base branch."""
    before = statuses.get(task.start_from or "")
    if before is None or not is_delivered(before) or _is_merged(task, desired, before):
        return None
    return before.head_commit


def pull_bases(
    task: Task, repo: Repo, desired: Desired, statuses: Mapping[str, Status]
) -> tuple[str, str | None]:
    """
    Return the branch that a task's pull request is against, and the one that it is to be moved away from.

    That is the branch of the task that it began on, as long as that is open: each shows its own changes.
    """
    before = statuses.get(task.start_from or "")
    if before is None or before.run is None or before.head_commit is None:
        return repo.base, None
    if _is_merged(task, desired, before):
        return repo.base, before.run.branch
    return before.run.branch, None


def _is_merged(task: Task, desired: Desired, before: Status) -> bool:
    """Return whether the base branch has the work of the task before: it was completed by its merge."""
    spec = desired.tasks.get(task.start_from or "")
    return before.phase is Phase.COMPLETED and spec is not None and spec.review != "none"
