"""
Upkeep of a repository while work goes on in it: packs are joined, and the commit graph is extended.

Every batch of the record and every fetch leaves a pack or loose objects, and
git's own upkeep is off (see `process`). No object that is whole is ever
removed, named or not: others borrow them, or are about to name them.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from reconciler.git.process import Git

MOST_PACKS = 200
"""Packs that call for upkeep: a thousand of them slow every git process down."""
_MOST_LOOSE = 27
"""Loose objects in one of their 256 folders that call for it: about 6,900 in all, as with `gc.auto`."""
_LARGE_INDEX = 1 << 20
"""Bytes of a pack's index (some 35,000 objects) from which on a commit graph is worth its time."""
_STALE_LOCK = 3600.0
"""Seconds after which a lock of an index or graph is a dead process's: a large graph takes minutes."""
_STALE_FILE = 86400.0
"""Seconds after which a temporary file is nobody's any more: a large fetch may take hours."""
_ROOM = 64 << 20
_LOCKS = (
    "pack/multi-pack-index.lock",
    "info/commit-graph.lock",
    "info/commit-graphs/commit-graph-chain.lock",
)
_TEMPORARY = ("pack/tmp_*", "pack/.tmp-*", "??/tmp_obj_*", "info/commit-graphs/tmp_*", "info/tmp_*")


def is_crowded(git_dir: Path) -> bool:
    """Return whether a repository has so many packs or loose objects that they are to be joined."""
    loose = sum(1 for _ in (git_dir / "objects" / "17").glob("*"))
    return count_packs(git_dir) > MOST_PACKS or loose > _MOST_LOOSE


def count_packs(git_dir: Path) -> int:
    """Return how many packs there are."""
    return sum(1 for _ in (git_dir / "objects" / "pack").glob("*.pack"))


def lacks_graph(git_dir: Path) -> bool:
    """Return whether a large repository has no commit graph that knows which paths commits change."""
    sizes = (_size(index) for index in (git_dir / "objects" / "pack").glob("*.idx"))
    return any(size > _LARGE_INDEX for size in sizes) and not _has_paths(git_dir)


async def keep_up(git: Git, git_dir: Path, *, graph: bool = True) -> bool:
    """
    Join packs and loose objects, and extend the commit graph; return whether all of it was done.

    Not if another process is at it, or there is no room. What a killed one
    left behind is removed once it is old. Raises Unavailable if git fails.
    """
    with _turn(git_dir) as is_ours:
        if not is_ours or not _has_room(git_dir):
            return False
        _remove_leftovers(git_dir / "objects")
        # What a web server of files needs to know is updated only where somebody has it.
        quiet = ("-q",) if (git_dir / "info/refs").exists() else ("-q", "-n")
        await git.run("-c", "pack.threads=1", "repack", "-d", *quiet, "--geometric=2", "--write-midx")
        if graph:
            # A graph that somebody's `git gc` made knows no paths, nor does what is split off it later.
            split = "--split" if _has_paths(git_dir) else "--split=replace"
            await git.run("commit-graph", "write", "--reachable", split, "--changed-paths")
    return True


@contextmanager
def _turn(git_dir: Path) -> Iterator[bool]:
    """Single flight: yield whether nobody else is at it."""
    lock = os.open(git_dir / "reconciler-upkeep.pid", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
            return
        yield False
    finally:
        os.close(lock)


def _has_room(git_dir: Path) -> bool:
    """Return whether the disk takes all packs once more: a full one has other needs."""
    packs, disk = (git_dir / "objects" / "pack"), os.statvfs(git_dir)
    return disk.f_bavail * disk.f_frsize > _ROOM + sum(_size(pack) for pack in packs.glob("*.pack"))


def _has_paths(git_dir: Path) -> bool:
    """Return whether the commit graph has filters of changed paths (its chunk `BIDX`)."""
    info = git_dir / "objects" / "info"
    layers = [*info.glob("commit-graphs/*.graph"), *info.glob("commit-graph")]
    return bool(layers) and all(b"BIDX" in _head(layer) for layer in layers)


def _head(path: Path) -> bytes:
    with suppress(OSError), path.open("rb") as file:
        return file.read(256)
    return b""


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _remove_leftovers(objects: Path) -> None:
    """Remove locks and temporary files of killed processes, which would stop or fill what is here."""
    with suppress(OSError), NamedTemporaryFile(dir=objects) as fresh:
        now = Path(fresh.name).stat().st_mtime  # by the clock of the disk
        for name in _LOCKS:
            _remove_older(objects / name, now - _STALE_LOCK)
        for pattern in _TEMPORARY:
            for path in objects.glob(pattern):
                _remove_older(path, now - _STALE_FILE)


def _remove_older(path: Path, than: float) -> None:
    with suppress(OSError):
        if path.lstat().st_mtime < than:
            path.unlink()
