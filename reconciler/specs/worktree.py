"""
Specs in a work tree, as a push would bring them.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from reconciler.specs.layers import blob_id
from reconciler.specs.parse import ROOT, File
from reconciler.specs.yaml import MAX_BYTES


def read_worktree(root: Path, hash_name: str = "sha1") -> Mapping[str, File]:
    """
    Return the files below `specs/` in a folder, by path, with the blob ids git would give them.

    `hash_name` is of the hash that the repository's ids are made with. Symbolic
    links and other repositories (submodules) are returned as such and not followed. Raises OSError.
    """
    return {path.relative_to(root).as_posix(): _read(path, hash_name) for path in _walk(root / ROOT)}


def _walk(folder: Path) -> Iterator[Path]:
    if folder.is_symlink():
        yield folder
        return
    for place, folders, names in os.walk(folder):
        entries = [name for name in folders if Path(place, name).is_symlink() or _is_repository(place, name)]
        folders[:] = [name for name in folders if name not in entries]
        yield from (Path(place, name) for name in sorted(names + entries))


def _is_repository(place: str, name: str) -> bool:
    return name != ".git" and os.path.lexists(Path(place, name, ".git"))


def _read(path: Path, hash_name: str) -> File:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        data = os.fsencode(path.readlink())
        return File("120000", blob_id(data, hash_name), data)
    if stat.S_ISDIR(status.st_mode):
        return File("160000", "", b"")
    if not stat.S_ISREG(status.st_mode):
        return File("000000", "", b"")
    mode = "100755" if status.st_mode & stat.S_IXUSR else "100644"
    data = path.read_bytes()
    return File(mode, blob_id(data, hash_name), data[: MAX_BYTES + 1])
