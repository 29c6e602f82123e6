"""
Watch of refs: a hint that a branch moved, never a fact; a missed one costs time until the next look.
"""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import Path

from watchfiles import Change, awatch

from reconciler.git.repository import Repository

_STEP = 10
_DEBOUNCE = 50
"""Milliseconds. A push is noticed within about 20; smaller steps wake an idle process more often."""


async def ref_changes(repository: Repository, refs: Iterable[str]) -> AsyncGenerator[None, None]:
    """Yield whenever one of the refs (full names) may have moved, until the iterator is closed."""
    files = {repository.git_dir / ref for ref in refs} | {repository.git_dir / "packed-refs"}
    of_interest = {str(path) for path in files} | {
        str(folder) for path in files for folder in path.parents if repository.git_dir in folder.parents
    }

    def is_one(_: Change, path: str) -> bool:
        return path in of_interest

    folders = {_existing(path.parent) for path in files}
    looking = awatch(*folders, watch_filter=is_one, step=_STEP, debounce=_DEBOUNCE, recursive=False)
    async with aclosing(looking) as changes:
        async for _ in changes:
            yield


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(above for above in (folder, *folder.parents) if above.is_dir())
