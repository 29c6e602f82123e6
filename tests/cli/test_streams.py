"""
What happens to output that nobody reads, that has no room, that an encoding does not have.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading

import pytest

from reconciler.cli.exits import ExitCode
from reconciler.cli.progress import line
from reconciler.cli.streams import LineWriter, LogHandler
from reconciler.core.hosts import HostChange
from tests.cli.test_serve import serving
from tests.dispatch.world import NOW

GOAL = "goal: Say → hello 😀 \\u202eevil\nscript: echo hello\n"
COMMANDS = [
    "get tasks",
    "get tasks -o json",
    "get tasks -o yaml",
    "describe task hello",
    "history",
    "logs hello",
    "prompt hello",
    "events",
    "explain hello",
    "trace hello",
    "doctor --all",
    "--help",
]
"""One of each way to print."""


def shell(fleet, text, **env):
    """Run shell text in which `$r` is the reconciler of a fleet."""
    quoted = " ".join(f"'{word}'" for word in fleet.command)
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; r() {{ {quoted} "$@"; }}; {text}'],
        env=os.environ | env,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def done(fleet):
    """Return a fleet whose task, with odd characters in its goal, is completed."""
    fleet.write("specs/tasks/hello.yaml", f'goal: "{GOAL.splitlines()[0][6:]}"\nscript: echo "→ hello"\n')
    fleet.commit()
    fleet.reconcile()
    return fleet


# --- Commands ---------------------------------------------------------------


def test_a_command_whose_reader_went_away_ends_in_silence(done):
    ended = shell(done, "; ".join(f"r {message} | true; echo $?" for message in COMMANDS[::2]))

    assert set(map(int, ended.stdout.split())) <= {ExitCode.OK, ExitCode.UNREAD}
    assert ended.stderr.replace(b"--- round 1 agent ---\n", b"") in {b"", b"--- round 1 agent (stderr) ---\n"}


def test_a_command_whose_output_has_no_room_says_so_in_a_line(done):
    for message in COMMANDS[1::3]:
        ended = shell(done, f"r {message} >/dev/full")

        assert ended.returncode == ExitCode.FAILURE, message
        assert b"error: the output cannot be written: No space left on device; make room" in ended.stderr
        assert b"Traceback" not in ended.stderr
        assert b"Exception" not in ended.stderr


@pytest.mark.parametrize("ways", ["<&- >&- 2>&-", "2>/dev/full"])
def test_a_command_needs_no_streams_to_do_its_work(fleet, ways):
    ended = shell(fleet, f"r suspend hello {ways}; echo $?")

    assert ended.stdout.split()[-1] == b"0"
    assert "desired: suspended" in fleet.read("specs/tasks/hello.yaml")
    assert fleet.git("status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("env", "encoding"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, "latin-1"),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, "utf-8"),
    ],
)
def test_a_command_prints_in_any_encoding(done, env, encoding):
    for message in COMMANDS if encoding == "latin-1" else COMMANDS[1:4]:
        ended = shell(done, f"r {message}", **env)

        assert ended.returncode == ExitCode.OK, ended.stderr
        assert b"Traceback" not in ended.stderr
        if "json" in message:
            assert json.loads(ended.stdout.decode(encoding))[0]["name"] == "hello"
        if "describe" in message:
            assert ended.stdout.decode(encoding).replace("\\u2192", "→").count("Say → hello") == 2


def test_an_error_is_told_in_any_encoding(fleet):
    fleet.write("specs/tasks/bad.yaml", "goal: →\nfoo→: 1\n")

    ended = shell(fleet, f"r validate '{fleet.folder}'", PYTHONIOENCODING="latin-1")

    assert ended.returncode == ExitCode.FAILURE
    assert b"Traceback" not in ended.stderr


def test_no_command_prints_what_a_terminal_would_obey(done):
    ended = shell(done, "; ".join(f"r {message}" for message in COMMANDS[3:7]))

    assert "evil" in ended.stdout.decode()
    assert "\u202e" not in ended.stdout.decode()
    assert b"\x1b" not in ended.stdout + ended.stderr


# --- What reconciles --------------------------------------------------------


@pytest.mark.parametrize("ways", ["| true", "| head -1", ">/dev/full 2>&1", "2>/dev/full", "<&- >&- 2>&-"])
def test_whether_anybody_reads_it_does_not_matter_to_what_reconciles(fleet, ways):
    for number in range(3):
        fleet.write(f"specs/tasks/more{number}.yaml", "goal: More.\nscript: echo more\n")
    fleet.commit()

    ended = shell(fleet, f"r run --until-idle -v {ways}")

    assert b"Traceback" not in ended.stderr
    tasks = json.loads(fleet.run("get", "tasks", "-o", "json").stdout)
    assert {task["phase"] for task in tasks} == {"completed"}


def test_serving_goes_on_when_its_reader_went_away(fleet):
    with serving(fleet) as (process, _):
        process.stdout.close()
        fleet.write("specs/tasks/later.yaml", "goal: Later.\nscript: echo later\n")
        fleet.commit()
        followed = shell(fleet, "until r history later | grep -q completed; do :; done")
        is_alive = process.poll() is None
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)

    assert (followed.returncode, is_alive, code) == (0, True, ExitCode.OK)


def test_a_reader_that_reads_nothing_keeps_nobody_waiting(monkeypatch):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8") as stream, os.fdopen(reader, "rb") as read:
        monkeypatch.setattr(sys, "stdout", stream)
        line_writer = LineWriter()

        for number in range(20_000):
            line_writer.tell(f"{number} " + "x" * 100)

        first = read.readline()
        threading.Thread(target=lambda: [read.readline() for _ in range(9_000)]).start()
        line_writer.close()
        line_writer.tell("and goes on")
    assert first.startswith(b"0 x")


def test_a_log_line_has_date_and_zone_and_nothing_a_terminal_would_obey(monkeypatch, tmp_path):
    with (tmp_path / "log").open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        line_writer = LineWriter()
        record = logging.LogRecord("x", logging.WARNING, "", 0, "host %s \x1b]0;x\x07\u202e", ("h",), None)
        record.created = NOW.timestamp()
        LogHandler(line_writer).emit(record)
        line_writer.close()

    assert (tmp_path / "log").read_text() == "2030-01-31T09:00:00Z  WARNING  host h \n"


def test_a_step_has_date_and_zone_in_one_line():
    step = HostChange(host="h", at=NOW, reason="a\x1b[31m\nb \u202e", before=None, after=None)

    assert line(step).split("  ")[0] == "2030-01-31T09:00:00Z"
    assert line(step).endswith("a b")


def test_on_a_narrow_terminal_the_reason_of_a_step_goes_on_below(monkeypatch):
    step = HostChange(host="h" * 30, at=NOW, reason="a reason " * 12, before=None, after=None)
    monkeypatch.setattr("reconciler.cli.progress._width", lambda: 80)

    first, *below = line(step).splitlines()

    assert first == f"2030-01-31T09:00:00Z  host {'h' * 30}  gone"
    assert all(part.startswith(" " * 22) and len(part) <= 80 for part in below)
