"""
Clone of a fleet that was named by a URL: only a copy, so damage is repaired or the clone recreated.

A machine that lost its power leaves files behind that are empty, and one whose
git was killed leaves locks. Neither may keep the fleet from its next start.
"""

import asyncio
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from reconciler.core.errors import Unavailable
from reconciler.git.process import Git, printable_error

log = logging.getLogger(__name__)

STALE = 10.0
"""Seconds after which a lock is stale: git holds one only briefly."""
_HEAD = b"ref: refs/heads/main\n"
_REF = re.compile(rb"(?:[0-9a-f]{40}|[0-9a-f]{64}|ref: refs/\S+)\s*\Z")
_PACKED = re.compile(rb"(?:#.*|\^[0-9a-f]{40,64}|[0-9a-f]{40,64} refs/\S+)\Z")
_MISMATCH = re.compile(r"mismatched algorithms: client \w+; server (sha\d+)")


async def prepare_clone(git_dir: Path, url: str) -> str:
    """
    Create the bare clone if needed, empty at first; return the name of its hash function.

    Damage in an existing one is repaired; one that cannot be repaired
    is thrown away. Raises Unavailable.
    """
    git = Git.local(git_dir)
    await asyncio.to_thread(repair, git_dir)
    if (git_dir / "HEAD").exists() and (why := await _fault(git)):
        log.warning("the clone of %s is damaged and made again: %s", printable_error(url), why)
        await asyncio.to_thread(_empty, git_dir)
    return await _init(git, url)


async def recreate(git_dir: Path, url: str, hash_name: str) -> str:
    """Replace the clone by an empty one with another hash function; return its name."""
    await asyncio.to_thread(_empty, git_dir)
    return await _init(Git.local(git_dir), url, f"--object-format={hash_name}")


def hash_of_remote(error: Unavailable) -> str | None:
    """Return the hash of a remote for which a fetch failed because the clone has another; None if not so."""
    match = _MISMATCH.search(str(error))
    return match[1] if match else None


def repair(git_dir: Path) -> bool:
    """
    Remove corrupt files and stale locks from a clone; return whether there were any.

    A ref that goes comes back with the next fetch.
    """
    bad = list(_bad_files(git_dir))
    for path in bad:
        log.warning("%s is damaged, or a lock that was left behind: it is removed", path)
        remove(path)
    head = git_dir / "HEAD"
    if git_dir.is_dir() and any(git_dir.iterdir()) and not head.exists():
        head.write_bytes(_HEAD)
    return bool(bad)


def remove(path: Path) -> None:
    """Remove whatever is at a path, if anything is. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _bad_files(git_dir: Path) -> Iterator[Path]:
    below = list(git_dir.glob("refs/**/*"))
    refs = [path for path in below if path.is_file()]
    for path in (*git_dir.glob("*"), *below):
        if path.exists() and not path.is_file() and not path.is_dir():  # whoever opens a pipe waits
            yield path
    for path in (git_dir / "HEAD", *refs):
        content = None if path.name.endswith(".lock") else _content(path)
        if content is not None and not _REF.match(content):
            yield path
    packed = _content(git_dir / "packed-refs")
    if packed is not None and not all(map(_PACKED.match, packed.splitlines())):
        yield git_dir / "packed-refs"
    locks = [*git_dir.glob("*.lock"), *(path for path in below if path.name.endswith(".lock"))]
    yield from _stale(git_dir, locks)


def _stale(folder: Path, locks: Sequence[Path]) -> Iterator[Path]:
    """Yield the stale locks, by the clock of the disk, which may have been set back."""
    if not locks:
        return
    with suppress(OSError), NamedTemporaryFile(dir=folder) as fresh:
        now = Path(fresh.name).stat().st_mtime
        for path in locks:
            with suppress(FileNotFoundError):
                if abs(now - path.stat().st_mtime) > STALE:
                    yield path


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError:
        return None


async def _fault(git: Git) -> str:
    """Return why a clone is unusable; empty if every ref leads to an object."""
    result = await git.attempt("for-each-ref", "--format=%(objecttype)")
    return result.message if result.code or "broken" in result.message else ""


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        remove(path)


async def _init(git: Git, url: str, *options: str) -> str:
    # No template: those of this machine may bring hooks and settings of their own.
    await git.run("init", "--quiet", "--bare", "--template=", *options)
    await git.run("config", "remote.origin.url", url)
    return await git.line("rev-parse", "--show-object-format")
