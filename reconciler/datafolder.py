"""
Data folder of a reconciler: its content can be recreated, so damage in it never prevents a start.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from tempfile import TemporaryFile

from reconciler.core.errors import UsageError
from reconciler.files import make_folder, sync_folder, write_synced

log = logging.getLogger(__name__)

_MACHINE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FOLDERS = ("clones", "repos", "logs", "hosts", "hooks", "notifications")
_FILES = ("machine", "cookie_key", "agents.json", "hooks/deliveries.jsonl")


def prepare_data_folder(folder: Path) -> None:
    """
    Make the data folder unless it is there, and see that it can be written in. Raises UsageError.

    Files in the way, of the wrong kind or unreadable, are moved aside.
    """
    try:
        make_folder(folder)
        TemporaryFile(dir=folder).close()
        for path in (folder / name for name in _FOLDERS):
            if path.exists() and not path.is_dir():
                _set_aside(path)
        for path in (folder / name for name in _FILES):
            if path.exists() and not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
                _set_aside(path)
    except OSError as error:
        raise UsageError(
            f"the data folder {folder} cannot be used: {error.strerror}; see who may write "
            "there, or name another one with --data-dir or RECONCILER_DATA_DIR"
        ) from error


def machine(folder: Path, on_record: Collection[str], draw: Callable[[], str]) -> str:
    """
    Return the random name, made once, under which local runs of this data folder are recorded.

    Where the file with it is damaged it is the one `on_record`, if there is
    one only: a fleet is mostly served from one machine, and under another name
    none of its local runs could be reached.
    """
    file = folder / "machine"
    try:
        stored = file.read_bytes().decode("ascii", "replace").strip()
    except FileNotFoundError:
        return _keep(file, draw())
    if _MACHINE.fullmatch(stored):
        return stored
    name = next(iter(on_record)) if len(on_record) == 1 else draw()
    how = "taken from the record" if name in on_record else "new: see --take-over for the runs of the old one"
    log.warning("%s is damaged; the name of this machine is %s, %s", file, name, how)
    file.unlink()
    return _keep(file, name)


def cookie_key(folder: Path, draw: Callable[[], str]) -> bytes:
    """Return the key that cookies of the pages are signed with, drawn once; without it all log in again."""
    file = folder / "cookie_key"
    try:
        stored = file.read_bytes().strip()
    except FileNotFoundError:
        stored = b""
    if re.fullmatch(rb"[0-9a-f]{32,128}", stored):
        return stored
    file.unlink(missing_ok=True)
    return _keep(file, draw()).encode("ascii")


def _keep(file: Path, name: str) -> str:
    """Write the name atomically, unless another process was first; return the name on disk."""
    fresh = file.with_suffix(f".{os.getpid()}")
    write_synced(fresh, name.encode("ascii"))
    try:
        file.hardlink_to(fresh)
    except FileExistsError:
        name = file.read_text(encoding="ascii")
    finally:
        fresh.unlink()
    sync_folder(file.parent)
    return name


def _set_aside(path: Path) -> None:
    """Rename a file that is in the way; only the last one is kept."""
    aside = path.with_name(f"{path.name}.damaged")
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    log.warning("%s was in the way: it is %s now", path, aside.name)
    path.replace(aside)
