"""
Archive: the statuses of tasks that settled and whose specs are gone.
"""

from collections.abc import Collection

from reconciler.core.errors import Problem, SpecError
from reconciler.core.model.status import ArchivedTasks, Status
from reconciler.git.objects import present
from reconciler.git.repository import Repository
from reconciler.store import statuses
from reconciler.store.archive_paths import possible_paths
from reconciler.store.layout import recorded_task


async def read_archived(repository: Repository, head: str | None, names: Collection[str]) -> ArchivedTasks:
    """
    Return those of these tasks that are in the archive at a commit (None, or empty: no commit yet).

    Of one that somebody put there twice, the newest month counts. Raises Unavailable.
    """
    paths = await possible_paths(repository, head, names) if head else ()
    contents = await present(repository, [f"{head}:{path}" for path in paths])
    there, damaged = dict[str, Status](), dict[str, Problem]()
    for path, content in zip(paths, contents.values(), strict=True):
        name = recorded_task(path) or ""
        try:
            if content is not None:
                there[name] = statuses.load_status(Status, content, path)
        except SpecError as error:
            damaged[name] = error.problems[0]
    return ArchivedTasks(there, damaged)
