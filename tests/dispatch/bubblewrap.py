"""Whether bubblewrap works here."""

import subprocess

import pytest

_TRIAL = ("bwrap", "--unshare-user", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true")


def _works() -> bool:
    try:
        return subprocess.run(_TRIAL, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_bwrap = pytest.mark.skipif(not _works(), reason="bubblewrap is not there, or does not work here")
