"""
Place of a fleet: where its repository was reconciled last, so that a copied folder is told from a moved one.

A copy (`cp -r`, a restored backup beside the original) has the whole record and
every mark of the fleet. Two reconcilers that go on from there would each do
what is new, under the same run keys. The place is noted in the repository: a
copy takes the note along, and finds the original where the note says.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import UsageError
from reconciler.files import parse_json, replace_atomically
from reconciler.git.repository import Repository
from reconciler.store.locks import lock_file, lock_holder
from reconciler.store.remote_record import contains

_FILE = "reconciler-place.json"


@dataclass(frozen=True, slots=True)
class Place:
    """A folder and its inode: a moved folder keeps that, a copied one does not."""

    path: str
    inode: int


def require_own_place(repository: Repository) -> None:
    """Raise UsageError if the repository is a copy of one that is still where it was reconciled."""
    if why_not := why_copy(repository):
        raise UsageError(why_not)


def why_copy(repository: Repository) -> str:
    """Return why a copy is not to be reconciled, and both ways out; empty for what is none."""
    original = copied_from(repository)
    if original is None:
        return ""
    return (
        f"{repository} is a copy of {_shown(original)}, where this fleet was reconciled last: from here "
        "everything new would be done a second time, under the same names; leave the fleet to the original, "
        "or, once nobody reconciles it there any more, go on here: `reconciler adopt-record --copy`"
    )


def copied_from(repository: Repository) -> Path | None:
    """Return the repository that this one is a copy of, if that is still there."""
    if repository.address:
        return None
    noted, here = _noted(repository.git_dir), _place(repository.git_dir)
    if noted is None or noted.path == here.path or noted.inode == here.inode:
        return None
    original = Path(noted.path)
    return original if _noted(original) else None


def has_place(repository: Repository) -> bool:
    """Return whether a fleet was reconciled in this repository before; False in a fresh clone of it."""
    return _noted(repository.git_dir) is not None


def note_place(repository: Repository) -> None:
    """Note that the fleet is reconciled here, or will be from now on. Raises OSError."""
    here = _place(repository.git_dir)
    if not repository.address and _noted(repository.git_dir) != here:
        _note(repository.git_dir, here)


async def adopt_place(repository: Repository, branch: str) -> str:
    """
    Let a copy be the fleet from now on, and its original be the copy; return the original.

    Raises UsageError if it is no copy, a reconciler is at work on the original,
    or that has a newer record.
    """
    original = copied_from(repository)
    if original is None:
        raise UsageError(
            f"{repository} is no copy of a fleet that is still there: `reconciler run` goes on here"
        )
    if (holder := lock_holder(lock_file(original, branch))) is not None:
        raise UsageError(f"a reconciler (pid {holder}) is at work on {_shown(original)}: end it first")
    listed = await repository.git.run("ls-remote", str(original), f"refs/heads/{branch}")
    theirs, ours = listed.decode().partition("\t")[0], repository.read_ref(f"refs/heads/{branch}")
    if theirs and not (ours and await contains(repository, ours, theirs)):
        raise UsageError(
            f"{_shown(original)} has more on record than {repository}, which would be done again: fetch it "
            f"(`git fetch {_shown(original)} {branch}:{branch}`), or leave the fleet to it"
        )
    here = _place(repository.git_dir)
    for git_dir in (original, repository.git_dir):
        _note(git_dir, here)
    return _shown(original)


def _shown(git_dir: Path) -> str:
    return str(git_dir.parent if git_dir.name == ".git" else git_dir)


def _place(git_dir: Path) -> Place:
    return Place(str(git_dir.resolve()), git_dir.stat().st_ino)


def _note(git_dir: Path, place: Place) -> None:
    content = json.dumps({"path": place.path, "inode": place.inode})
    replace_atomically(git_dir / _FILE, f"{content}\n".encode(), durable=True)


def _noted(git_dir: Path) -> Place | None:
    """Return the noted place; None if there is none that can be read."""
    file = git_dir / _FILE
    try:
        noted = parse_json(file.read_bytes()) if file.is_file() else None
    except (OSError, ValueError):
        return None
    match noted:
        case {"path": str(path), "inode": int(inode)}:
            return Place(path, inode)
    return None
