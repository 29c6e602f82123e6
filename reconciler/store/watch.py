"""
Watch of refs: a hint that a branch moved, never a fact; a missed one costs time until the next look.
"""

from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import aclosing
from pathlib import Path

from reconciler.git.repository import Repository
from reconciler.store.inotify import folder_changes, has_inotify

_STEP = 10
_DEBOUNCE = 50
"""Milliseconds, where the kernel does not tell by itself. Smaller steps wake an idle process more often."""


async def ref_changes(repository: Repository, refs: Iterable[str]) -> AsyncGenerator[None, None]:
    """Yield whenever one of the refs (full names) may have moved, until the iterator is closed."""
    files = {repository.git_dir / ref for ref in refs} | {repository.git_dir / "packed-refs"}
    of_interest = {str(path) for path in files} | {
        str(folder) for path in files for folder in path.parents if repository.git_dir in folder.parents
    }

    def folders() -> set[Path]:  # git removes those of branches that are empty, and makes them again
        return {_existing(path.parent) for path in files}

    async with aclosing(folder_changes(folders) if has_inotify() else _polled(folders())) as changes:
        async for path in changes:
            if path is None or path in of_interest:
                yield


async def _polled(folders: Collection[Path]) -> AsyncGenerator[str, None]:
    """Yield each path that changed in folders, as `folder_changes` does."""
    from watchfiles import awatch  # noqa: PLC0415  its libraries take memory, and few need them

    looking = awatch(*folders, watch_filter=None, step=_STEP, debounce=_DEBOUNCE, recursive=False)
    async with aclosing(looking) as changes:
        async for some in changes:
            for _, path in some:
                yield path


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(above for above in (folder, *folder.parents) if above.is_dir())
