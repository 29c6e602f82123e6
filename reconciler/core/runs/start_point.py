"""
Tasks that build on others: from which commit they begin, against which branch, what they are handed down.
"""

from collections.abc import Mapping

from reconciler.core.model.specs import Desired, Repo, Task
from reconciler.core.model.status import Phase, Predecessor, Status

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


def predecessors(task: Task, statuses: Mapping[str, Status | None]) -> tuple[Predecessor, ...]:
    """Return what came of the tasks that one builds on, in the order in which its spec names them."""
    names = dict.fromkeys((*task.depends_on, task.start_from or ""))
    return tuple(_predecessor(name, status) for name in names if (status := statuses.get(name)) is not None)


def _predecessor(name: str, status: Status) -> Predecessor:
    run, commit = status.run, status.head_commit
    return Predecessor(
        task=name,
        repo=run.repo if run else None,
        branch=run.branch if run and commit else None,
        commit=commit,
        summary=status.summary,
        outputs=status.outputs,
    )
