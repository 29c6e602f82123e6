"""
How what reconciles ends: whatever it is doing, and with words about what goes on without it.
"""

import os
import random
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

import reconciler
from reconciler.cli.exits import ExitCode

PACKAGE = Path(reconciler.__file__).parent

HANGING = """\
command: [cat]
secrets:
  KEY: {{file: {pipe}}}
"""


def started(fleet, *args):
    return subprocess.Popen(
        [*fleet.command, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def hang(fleet):
    """Let a task need a secret from a pipe that nobody writes to: a thread waits for it for ever."""
    pipe = fleet.data.parent / "pipe"
    os.mkfifo(pipe)
    fleet.write("specs/adapters/hanging.yaml", HANGING.format(pipe=pipe))
    fleet.write("specs/tasks/hello.yaml", "goal: Say hello.\nadapter: hanging\n")
    fleet.commit()
    return pipe


@pytest.mark.parametrize("command", ["run", "serve --listen 127.0.0.1:0"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_whenever_it_is_told_to(fleet, command, number):
    for each in range(8):
        fleet.write(f"specs/tasks/more{each}.yaml", f"goal: More.\nscript: sleep 0.{each}; exit {each % 2}\n")
    fleet.commit()
    moments = random.Random(command)

    for _ in range(6):
        with started(fleet, *command.split()) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(moments.uniform(0.3, 3))
            process.send_signal(number)
            _, said = process.communicate(timeout=60)

        if "Traceback" in said and f"{PACKAGE}/" not in said:
            continue  # on a slow machine: not a line of ours had run
        # Before it listens to signals they end it as they end any program.
        assert process.returncode in {ExitCode.OK, -number, ExitCode.INTERRUPTED}, said
        assert "Traceback" not in said


@pytest.mark.parametrize("command", ["run", "serve --listen 127.0.0.1:0"])
def test_it_ends_though_something_hangs(fleet, command):
    hang(fleet)
    with started(fleet, *command.split()) as process:
        assert next(line for line in process.stdout if "assigned" in line)

        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)

    assert process.returncode == ExitCode.OK


def test_the_second_interruption_ends_it_at_once(fleet):
    hang(fleet)
    with started(fleet, "run") as process:
        assert next(line for line in process.stdout if "assigned" in line)

        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "ending; once more ends at once\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)

    assert process.returncode == ExitCode.INTERRUPTED


def test_at_its_end_it_says_what_goes_on(fleet):
    mark = fleet.data.parent / "go"
    fleet.write(
        "specs/tasks/hello.yaml", f"goal: Say hello.\nscript: 'until [ -e {mark} ]; do sleep 0.1; done'\n"
    )
    fleet.commit()
    with started(fleet, "run") as process:
        assert next(line for line in process.stdout if "running" in line)

        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    mark.touch()

    assert process.returncode == ExitCode.OK
    assert "1 run goes on without the reconciler: hello on local" in said
    assert "reconciler run" in said
    assert "completed" in fleet.reconcile()
