"""
Where tasks are in the archive: looked up by name, without the models that read what is there.

A folder for each month has them (`store/layout.py`), so that a lookup costs what there are of months,
whatever there is of tasks.
"""

import re
from collections.abc import Collection, Sequence

from reconciler.git.objects import present
from reconciler.git.repository import Repository
from reconciler.store.layout import ARCHIVE_ROOT, archive_path, recorded_task

_FEW = 50
"""So many names are looked for one by one; for more, the archive is listed once."""
_FOLDER = re.compile(rb"40000 (\d{4}-\d{2})\0")
"""Entry of a folder in git's tree object."""


async def archived_paths(repository: Repository, head: str, task: str) -> Sequence[str]:
    """Return where the file of a task is in the archive at a commit: at one path, or none."""
    paths = await possible_paths(repository, head, [task])
    contents = await present(repository, [f"{head}:{path}" for path in paths])
    return [path for path, content in zip(paths, contents.values(), strict=True) if content is not None]


async def possible_paths(repository: Repository, head: str, names: Collection[str]) -> Sequence[str]:
    """Return where the tasks may be in the archive at a commit, the oldest month first."""
    months = await _months(repository, head) if names else ()
    if not months or len(names) <= _FEW:
        return [archive_path(name, month) for month in months for name in names]
    args = ("ls-tree", "-r", "-z", "--full-tree", "--name-only", head, "--", f"{ARCHIVE_ROOT}/")
    listed = (await repository.git.run(*args)).decode("utf-8", "surrogateescape").split("\0")
    wanted = set(names)
    return [path for path in listed if recorded_task(path) in wanted]


async def _months(repository: Repository, head: str) -> Sequence[str]:
    folder = f"{head}:{ARCHIVE_ROOT}"
    content = (await present(repository, [folder]))[folder]
    return [month.decode() for month in _FOLDER.findall(content or b"")]
