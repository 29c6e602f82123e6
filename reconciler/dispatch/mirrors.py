"""
A mirror that is damaged, made again.

All of it can be had once more, so all of it is thrown away: refs, settings,
locks, whatever lies there. Only sound objects stay, and stay where they are:
workspaces of this machine borrow them, and what was delivered by agents and is
not pushed yet is nowhere else.
"""

import asyncio
import hashlib
import logging
import os
import re
import shutil
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from reconciler.core.times import time_at
from reconciler.git.process import Git

log = logging.getLogger(__name__)

UNUSED = timedelta(days=30)
"""How long the mirror of a repo is kept that neither specs nor runs name any more; on hosts as well."""
_LOOSE = re.compile(r"[0-9a-f]{38}(?:[0-9a-f]{24})?")
_PACKED = re.compile(rb"^([0-9a-f]{40,64}) (refs/[^\n]+)$", re.MULTILINE)
_COMMIT = re.compile(rb"[0-9a-f]{40,64}\n?")
_LONG = 1800.0
"""Seconds; a repository may be large."""
_CHUNK = 1 << 20
_SETTINGS = b"[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"
_AS_MADE = re.compile(
    rb"(?:\[core\]\n|\[extensions\]\n"
    rb"|\t(?:repositoryformatversion|filemode|bare|ignorecase|precomposeunicode|refstorage) = \w+\n)*"
)
"""Settings that `git init` writes; none of them names a program, an address or another file."""
_MOST_SETTINGS = 4096
_NEVER_MADE = ("config.worktree", "commondir", "info", "hooks", "objects/info/alternates")
"""What would bring settings, programs or objects from elsewhere; a mirror is made without."""


async def make(folder: Path) -> None:
    """
    Make a bare repository, whole from the moment at which it is there.

    Others look at its settings meanwhile. Raises OSError, GitFailed, and Unavailable if git cannot
    be started.
    """
    fresh = await _fresh_beside(folder)
    await Git.local(fresh).run("init", "-q", "--bare", "--template=")
    await asyncio.to_thread(fresh.rename, folder)


async def _fresh_beside(folder: Path) -> Path:
    """Return where a new repository may be made; nothing is there. Raises OSError."""
    fresh = folder.with_name(f"{folder.name}.new")
    await asyncio.to_thread(_remove, fresh)
    fresh.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return fresh


async def remake(folder: Path, ref: str) -> None:
    """
    Make a bare repository anew around its sound objects.

    The ref stays if everything behind it is sound: then only what is new is
    fetched again. Raises OSError, and Unavailable if git cannot be started.
    """
    commit = await asyncio.to_thread(_read_ref, folder, ref)
    fresh = await _fresh_beside(folder)
    await Git.local(fresh, timeout=_LONG).attempt("init", "-q", "--bare", "--template=")
    await asyncio.to_thread(_put_around_objects, fresh, folder)
    git = Git.local(folder, timeout=_LONG)
    await _keep_sound_packs(git, folder)
    if commit and (await git.attempt("rev-list", "--objects", "--quiet", commit)).code == 0:
        await git.attempt("update-ref", ref, commit)


def reset_settings(folder: Path) -> bool:
    """
    Remove settings that are not as a mirror is made; return whether there were any.

    Agents on this machine may write here, and git would run what they set:
    SSH commands, credential helpers, drivers. Raises OSError.
    """
    if not (folder / "HEAD").exists():
        return False
    odd = [place for name in _NEVER_MADE if os.path.lexists(place := folder / name)]
    for place in odd:
        _remove(place)
    config = folder / "config"
    if _is_as_made(config):
        return bool(odd)
    _remove(config)
    config.write_bytes(_SETTINGS)
    return True


def remove_unused(mirrors: Path, used: Collection[str], now: datetime) -> None:
    """
    Remove the mirrors of repos that nobody has used for long: all of that can be fetched again.

    `used` are the names of folders in use; the time of a folder is when it last was.
    """
    for folder in mirrors.glob("*.git"):
        with suppress(OSError):
            if folder.name in used:
                os.utime(folder, (now.timestamp(), now.timestamp()))
            elif now - time_at(folder.lstat().st_mtime) > UNUSED:
                log.info("the mirror %s is removed: its repo was not used for %d days", folder, UNUSED.days)
                _remove(folder)


def _is_as_made(config: Path) -> bool:
    if config.is_symlink() or not config.is_file() or config.stat().st_size > _MOST_SETTINGS:
        return False
    return _AS_MADE.fullmatch(config.read_bytes()) is not None


def _read_ref(folder: Path, ref: str) -> str | None:
    with suppress(OSError):
        content = (folder / ref).read_bytes()
        return content.decode().strip() if _COMMIT.fullmatch(content) else None
    with suppress(OSError):
        pairs = _PACKED.findall((folder / "packed-refs").read_bytes())
        return next((commit.decode() for commit, name in pairs if name == ref.encode()), None)
    return None


def _put_around_objects(fresh: Path, folder: Path) -> None:
    """
    Let everything beside the objects be as in a new repository, and drop objects that are not sound.

    HEAD goes first and comes last: where it is, the settings are those of a mirror (`reset_settings`).
    """
    if folder.is_symlink() or not folder.is_dir():
        _remove(folder)
    objects = folder / "objects"
    if objects.is_symlink() or not objects.is_dir():
        _remove(objects)
    objects.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in sorted(folder.iterdir(), key=_is_head, reverse=True):
        if left != objects:
            _remove(left)
    for damaged in list(_unsound(objects)):
        _remove(damaged)
    for name in ("info", "pack"):
        (objects / name).mkdir(exist_ok=True)
    for made in sorted(fresh.iterdir(), key=_is_head):
        if made.name != "objects":
            made.rename(folder / made.name)
    _remove(fresh)


def _is_head(path: Path) -> bool:
    return path.name == "HEAD"


def _unsound(objects: Path) -> Iterator[Path]:
    """Yield what is no sound object, nor a pack: what is derived from those, and what somebody left."""
    for place in objects.iterdir():
        if place.name == "pack" and place.is_dir():
            yield from (each for each in place.iterdir() if each.suffix not in {".pack", ".idx"})
        elif re.fullmatch(r"[0-9a-f]{2}", place.name) and place.is_dir():
            yield from (each for each in place.iterdir() if not _is_sound(each))
        else:
            yield place


def _is_sound(file: Path) -> bool:
    """Return whether a loose object is what its name says."""
    name = file.parent.name + file.name
    if not _LOOSE.fullmatch(file.name) or not file.is_file():
        return False
    digest, reader = hashlib.new("sha1" if len(name) == 40 else "sha256"), zlib.decompressobj()  # noqa: PLR2004 - git's names
    try:
        with file.open("rb") as stream:
            while piece := stream.read(_CHUNK):
                digest.update(reader.decompress(piece))
    except (OSError, zlib.error):
        return False
    return reader.eof and digest.hexdigest() == name


async def _keep_sound_packs(git: Git, folder: Path) -> None:
    """Drop packs that are not sound; one whose index alone is not gets it anew."""
    packs = folder / "objects" / "pack"
    for index in packs.glob("*.idx"):
        if not index.with_suffix(".pack").is_file():
            _remove(index)
    for pack in sorted(packs.glob("*.pack")):
        if (await git.attempt("verify-pack", "--", str(pack))).code == 0:
            continue
        _remove(pack.with_suffix(".idx"))
        if (await git.attempt("index-pack", str(pack))).code:
            _remove(pack)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
