"""
Long output goes to a pager on a terminal, and only there; what takes long says what it does.
"""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from tests.forking import Process

PAGER = "sh -c 'echo PAGED; cat'"


def on_a_terminal(argv, lines=10, columns=60, **env):
    """Return what a command prints where stdin and stdout are a terminal of that size."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    env = {**inherited, "TERM": "xterm", "RECONCILER_PAGER": PAGER, **env}
    with Process(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 65536):
                seen += piece
        except OSError:  # the terminal is gone with the last that has it
            pass
        os.close(ours)
    assert process.returncode == 0
    return seen.decode()


def test_only_what_is_longer_than_the_terminal_goes_to_a_pager(fleet):
    assert "PAGED" in on_a_terminal([*fleet.command, "describe", "hello"])
    assert "PAGED" not in on_a_terminal([*fleet.command, "describe", "hello"], lines=90)
    assert "PAGED" not in on_a_terminal([*fleet.command, "--no-pager", "describe", "hello"])
    assert "PAGED" not in fleet.run("describe", "hello").stdout


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_a_table_is_as_wide_as_the_terminal(fleet, columns):
    fleet.write("specs/tasks/hello.yaml", "goal: x\nscript: 'true'\nrequires: [gpu, a-rather-long-label]\n")
    fleet.commit()
    fleet.run("run", "--until-idle")

    lines = on_a_terminal([*fleet.command, "history"], lines=99, columns=columns).splitlines()

    widths = [len(line.replace("\x1b[1m", "").replace("\x1b[0m", "")) for line in lines]
    assert max(widths) <= columns


BUSY = """
import os, sys, threading
from reconciler.cli import pager
pager.PATIENCE = 0.0 if sys.argv[1] == "long" else 60
told, write = threading.Event(), os.write
pager.os.write = lambda file, text: (write(file, text), told.set())
with pager.busy("asking gpu1", may_ask=len(sys.argv) > 2):
    if threading.active_count() > 1 and sys.argv[1] == "long":
        told.wait()
print("done")
"""


def test_what_takes_long_is_told_on_a_terminal_and_wiped_away():
    shown = on_a_terminal([sys.executable, "-c", BUSY, "long"])

    assert "asking gpu1" in shown
    assert shown.endswith("\x1b[Kdone\r\n")
    assert "asking" not in on_a_terminal([sys.executable, "-c", BUSY, "short"])
    assert on_a_terminal([sys.executable, "-c", BUSY, "long", "still"]) == "asking gpu1 …\r\ndone\r\n"
    piped = subprocess.run([sys.executable, "-c", BUSY, "long"], capture_output=True, text=True, check=True)
    assert (piped.stdout, piped.stderr) == ("done\n", "")
