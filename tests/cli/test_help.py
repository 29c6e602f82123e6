"""
The help: examples that can be typed, completion of names, manual pages; and `top`.
"""

import io
import os
import pty
import re
import shlex
import shutil
import subprocess
from datetime import UTC, datetime

import click
import pytest

from reconciler.cli.help import WIDTH
from reconciler.cli.main import cli
from reconciler.cli.man import commands
from tests.forking import Process, run


def every_command():
    ctx = click.Context(cli, info_name="reconciler")
    return {" ".join(path): command for path, command in commands(cli, ("reconciler",), ctx)}


def examples_of(command):
    lines = (command.epilog or "").splitlines()
    assert lines[:2] == ["\b", "Examples:"]
    assert all(line.startswith("  ") for line in lines[2:])
    assert all(len(line) <= WIDTH - 2 or " " not in line.strip() for line in lines[2:])
    return "\n".join(line.strip() for line in lines[2:]).replace("\\\n", "").splitlines()


def calls(line):
    """Return the arguments of every call of the program in a line of shell."""
    parts, current = [], []
    for token in [*shlex.split(re.sub(r"\$\(|\)(?=\s|$)", " ; ", line), comments=True), ";"]:
        if token in {"&&", "|", ";", ">", "<"}:
            parts.append(current)
            current = []
        else:
            current.append(token)
    return [part[part.index("reconciler") + 1 :] for part in parts if "reconciler" in part]


def parse(command, path, args, parent):
    """Parse arguments as a call would, and carry nothing out."""
    with command.make_context(path, list(args), parent=parent) as ctx:
        rest = [*getattr(ctx, "_protected_args", []), *ctx.args]
        if isinstance(command, click.Group) and rest:
            name, below, left = command.resolve_command(ctx, rest)
            parse(below, name, left, ctx)


@pytest.mark.parametrize("name", every_command())
def test_every_command_has_examples_that_can_be_typed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("task.yaml", "recorded.jsonl", "out.json", "jeeves.token", "specs/tasks/web"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    lines = examples_of(every_command()[name])

    typed = [args for line in lines for args in calls(line)]
    for args in typed:
        parse(cli, "reconciler", args, None)

    own = name.split()[1:]
    assert any(args[: len(own)] == own for args in typed) or name == "reconciler"


def test_the_help_shows_the_examples_as_they_are():
    from click.testing import CliRunner

    done = CliRunner().invoke(cli, ["wait", "--help"], prog_name="reconciler")

    assert "\n  Examples:\n    reconciler wait web/fix-login\n" in done.stdout


# --- Completion ------------------------------------------------------------


def completed(fleet, *args):
    """Return what a shell would offer for the last word."""
    line = " ".join(["reconciler", "--repo", str(fleet.folder), *args])
    asked = {"_RECONCILER_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(2 + len(args))}
    env = os.environ | asked
    done = run(fleet.command[:3], env=env, capture_output=True, text=True, check=False)
    return [offer.partition(",")[2] for offer in done.stdout.splitlines() if offer]


@pytest.mark.parametrize(
    ("args", "offered"),
    [
        (["describe", "he"], ["hello"]),
        (["describe", "task/he"], ["task/hello"]),
        (["describe", "host/g"], ["host/gpu1"]),
        (["get", "hosts", "g"], ["gpu1"]),
        (["get", "ho"], ["hosts"]),
        (["wait", "hello", "web/"], ["web/fix"]),
        (["host", "drain", "g"], ["gpu1"]),
        (["adapter", "test", "cod"], ["codex"]),
        (["get", "-o", "js"], ["json", "jsonpath="]),
        (["wai"], ["wait"]),
    ],
)
def test_a_shell_completes_commands_kinds_and_names(fleet, args, offered):
    fleet.write("specs/hosts/gpu1.yaml", "address: gpu1.example.org\n")
    fleet.write("specs/tasks/web/fix.yaml", "goal: x\nscript: 'true'\n")
    fleet.commit()

    assert completed(fleet, *args) == offered


def test_completion_says_nothing_where_there_is_no_fleet(fleet, tmp_path):
    (tmp_path / "nowhere").mkdir()
    fleet.folder = tmp_path / "nowhere"

    assert completed(fleet, "describe", "he") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_its_script(fleet, shell):
    text = fleet.run("completion", shell).stdout

    assert "_RECONCILER_COMPLETE" in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)


# --- Manual pages ----------------------------------------------------------


def test_every_command_has_a_manual_page(fleet, tmp_path):
    fleet.run("man", str(tmp_path / "man"))

    pages = {page.stem for page in (tmp_path / "man").iterdir()}
    text = (tmp_path / "man/reconciler-host-add.1").read_text()
    assert pages == {name.replace(" ", "-") for name in every_command()}
    assert ".SH EXAMPLES" in text
    assert "\\-\\-identity" in text
    if shutil.which("man"):
        done = subprocess.run(
            ["man", "-l", "--warnings", str(tmp_path / "man/reconciler-get.1")],
            capture_output=True,
            check=True,
            env=os.environ | {"MANROFFOPT": "-ww", "PAGER": "cat"},
        )
        assert done.stderr == b""


# --- top -------------------------------------------------------------------


def test_top_is_a_table_where_it_is_piped(fleet):
    fleet.write("specs/tasks/failed.yaml", "goal: x\nretries: 0\nscript: exit 3\n")
    fleet.write("specs/tasks/waits.yaml", "goal: x\nscript: 'true'\nrequires: [gpu]\n")
    fleet.commit()
    fleet.run("run", "--until-idle")

    rows = [row.split()[:2] for row in fleet.run("top").stdout.splitlines()]

    assert rows == [["TASK", "PHASE"], ["failed", "failed"], ["waits", "created"]]


def test_top_fills_the_terminal_until_q(fleet):
    ours, theirs = pty.openpty()
    env = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with Process([*fleet.command, "top"], **streams, env=env) as process:
        os.close(theirs)
        seen = b""
        while b"q leaves" not in seen:
            seen += os.read(ours, 65536)
        os.write(ours, b"q")
        try:
            while piece := os.read(ours, 65536):
                seen += piece
        except OSError:
            pass
    os.close(ours)

    assert process.returncode == 0
    assert b"\x1b[?1049h" in seen  # the other screen, and back
    assert b"\x1b[?1049l" in seen
    assert b"hello" in seen


def test_top_says_where_nothing_is_open():
    from rich.console import Console

    from reconciler.cli.top import NOTHING, Board, screen

    console = Console(width=80, record=True, file=io.StringIO())
    console.print(screen(Board("2 completed", ["local up"], []), datetime(2030, 1, 1, tzinfo=UTC), 24))

    assert NOTHING in console.export_text()
