"""
Losses of power while things are acknowledged: each is there on whatever a disk may have kept.

By default a part of the states: all that have nothing but what was synced, and some of the others.
RECONCILER_TEST_POWER=all starts on every one; `python -m tests.crashes.power` prints the table.
"""

import os
import shutil
import subprocess

import pytest

from tests.crashes.disk import STRACE
from tests.crashes.power import table

HOW = os.environ.get("RECONCILER_TEST_POWER", "")
SOME = 80
"""Of the states that have more than what was synced, each so-manieth."""


def can_trace() -> bool:
    """Tell whether strace is there, and may look into processes."""
    if shutil.which(STRACE[0]) is None:
        return False
    return (
        subprocess.run([STRACE[0], "-o", os.devnull, "true"], capture_output=True, check=False).returncode
        == 0
    )


@pytest.mark.skipif(not can_trace(), reason="strace is not there, or may not look into processes")
@pytest.mark.timeout(3600 if HOW else 300)
async def test_whatever_a_disk_keeps_all_that_was_acknowledged_is_there_and_the_next_start_works(
    tmp_path, monkeypatch
):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")

    rows = await table(tmp_path / "root", 1, every=1 if HOW else SOME)

    assert {(state.about, "; ".join(said)) for state, said in rows if said} == set()
    assert len(rows) > 20
