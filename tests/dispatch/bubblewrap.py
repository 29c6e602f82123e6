"""Whether bubblewrap works here."""

import subprocess
from pathlib import Path

import pytest

_TRIAL = ("bwrap", "--unshare-user", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true")


def _works() -> bool:
    try:
        return subprocess.run(_TRIAL, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_bwrap = pytest.mark.skipif(not _works(), reason="bubblewrap is not there, or does not work here")


def without(program: str, folder: Path) -> Path:
    """Return a folder with all programs of this machine but one."""
    folder.mkdir()
    for each in Path("/usr/bin").iterdir():
        if each.name != program:
            (folder / each.name).symlink_to(each)
    return folder
