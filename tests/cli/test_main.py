"""
The edge where commands end: help, exit codes, one line for an error.
"""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import reconciler
from reconciler.cli.exits import ERRORS, ExitCode, exit_code
from reconciler.cli.main import COMMANDS, Root, cli
from reconciler.core.errors import (
    Conflict,
    IllegalTransition,
    NotFound,
    Problem,
    ReconcilerError,
    Refused,
    SpecError,
    Unavailable,
    UsageError,
)

PACKAGE = Path(reconciler.__file__).parent
HEAVY = ("pydantic", "sanic", "asyncssh", "rich", "ruamel", "git", "jinja2", "watchfiles", "asyncio")


def run(*arguments):
    return CliRunner().invoke(cli, arguments, prog_name="reconciler")


def failing(error):
    """Return a root command with one subcommand that raises the error."""

    @click.command()
    def fail():
        raise error

    return OneCommand(fail)


class OneCommand(Root):
    """The same edge around one command."""

    def __init__(self, command):
        super().__init__("reconciler")
        self.command = command

    def resolve_command(self, _, args):
        return args[0], self.command, []


def test_help_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from reconciler.cli.main import cli\n"
        "try: cli.main(['--help'], prog_name='reconciler')\n"
        f"finally: print('heavy:', *[name for name in {HEAVY!r} if name in sys.modules])\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "plan" in done.stdout
    assert done.stdout.rstrip().endswith("heavy:")


def test_help_lists_every_command_and_every_exit_code():
    done = run("--help")

    assert done.exit_code == 0
    for name in Root.entries:
        assert f"  {name} " in done.stdout
    for code in ExitCode:
        assert f"  {code.value:<3}  {code.meaning}" in done.stdout


def test_no_arguments_at_all_print_the_help():
    done = run()

    assert done.exit_code == 0
    assert done.stdout == run("--help").stdout


@pytest.mark.parametrize("name", Root.entries)
def test_a_line_of_the_help_is_the_first_line_of_the_command_itself(name):
    entry = Root.entries[name]
    module, _, attribute = entry.place.partition(":")

    command = getattr(import_module(module), attribute)

    assert command.name == name
    assert command.help.strip().splitlines()[0] == entry.summary


def test_no_command_stands_in_two_sections():
    names = [name for entries in COMMANDS.values() for name in entries]

    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verson"], "no such command 'verson' (did you mean 'version'?)"),
        (["apply"], "no such command 'apply' (did you mean 'run'?)"),
        (["version", "--frmat"], "--frmat"),
        (["version", "-o", "xml"], "'xml' is not one of"),
        (["init", "a", "b"], "unexpected extra argument"),
    ],
)
def test_a_call_that_cannot_work_exits_64_and_says_where_help_is(arguments, message):
    done = run(*arguments)

    assert done.exit_code == 64
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "--help'" in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SpecError([Problem("specs/fleet.yaml", 1, 1, "bad")]), 1),
        (IllegalTransition("completed --Started-->"), 1),
        (ReconcilerError("something else"), 1),
        (OSError(28, "No space left on device"), 1),
        (click.ClickException("no"), 1),
        (NotFound("no task 'x'"), 3),
        (Refused("no"), 4),
        (Conflict("somebody wrote first"), 6),
        (UsageError("not like this"), 64),
        (click.BadParameter("not like this"), 64),
        (Unavailable("later"), 69),
        (click.Abort(), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_error_ends_in_its_documented_code_without_a_traceback(error, code):
    done = CliRunner().invoke(failing(error), ["fail"])

    assert done.exit_code == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "/x/a"), "/x/a: No space left on device; make room"),
        (OSError(30, "Read-only file system", "/x/a"), "/x/a: Read-only file system; mount it for writing"),
        (PermissionError(13, "Permission denied", "/x/a"), "/x/a: Permission denied; see who may write"),
        (Unavailable("git add failed (128): '/x/index.lock': Permission denied"), "; see who may write"),
        (Unavailable("git status failed (128): write error. Out of diskspace"), "; make room there"),
        (
            Unavailable("git@forge: Permission denied (publickey)."),
            "(publickey); `git ls-remote` with the address",
        ),
        (Unavailable("/x: No space left on device; see `df`"), "device; see `df`\n"),
        (
            FileNotFoundError(2, "No such file or directory", "/x/a"),
            "error: /x/a: No such file or directory; see",
        ),
    ],
)
def test_what_the_file_system_refuses_says_where_why_and_what_to_do(error, words):
    done = CliRunner().invoke(failing(error), ["fail"])

    assert words in done.stderr
    assert "Errno" not in done.stderr


@pytest.mark.parametrize("depth", [1, 2])
def test_errors_of_things_that_ran_together_end_in_the_code_of_the_first(depth):
    error = Unavailable("later")
    for _ in range(depth):
        error = ExceptionGroup("unhandled errors in a TaskGroup", [error, Refused("no")])

    done = CliRunner().invoke(failing(error), ["fail"])

    assert (done.exit_code, done.stderr.partition(";")[0]) == (69, "error: later")


def test_a_mistake_of_ours_beside_other_errors_keeps_its_traceback():
    group = ExceptionGroup("together", [Unavailable("later"), ZeroDivisionError()])

    done = CliRunner().invoke(failing(group), ["fail"])

    assert isinstance(done.exception, ExceptionGroup)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_raised_within_a_handler_of_groups(path):
    # CPython 3.11.2, which Debian 12 brings, wraps it in a group once more.
    handlers = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.TryStar)]
    bodies = [statement for node in handlers for handler in node.handlers for statement in handler.body]

    assert not [each for body in bodies for each in ast.walk(body) if isinstance(each, ast.Raise)]


def test_every_error_of_the_core_has_a_code():
    assert {exit_code(kind("x")) for kind in ERRORS} == set(ERRORS.values())


def test_problems_of_files_are_printed_as_they_are():
    problem = Problem("specs/tasks/a.yaml", 3, 7, "unknown key", "gaol", "goal")

    done = CliRunner().invoke(failing(SpecError([problem, problem])), ["fail"])

    assert done.stderr.splitlines() == [str(problem)] * 2


@pytest.mark.parametrize("folder", ["a file/data", "a file", "/proc/data", "/proc"])
@pytest.mark.parametrize("is_remote", [False, True])
def test_a_data_folder_that_cannot_be_used_is_told_with_what_to_do(fleet, folder, is_remote):
    (fleet.folder / "a file").touch()
    fleet.data = fleet.folder / folder
    command = ["--repo", f"file://{fleet.folder}", "plan"] if is_remote else ["run", "--once"]

    done = fleet.run(*command)

    assert done.exit_code == 64
    assert str(fleet.data) in done.stderr
    assert "--data-dir" in done.stderr
    assert "Errno" not in done.stderr


def test_the_version_is_data_on_stdout():
    assert run("version").stdout.startswith("reconciler ")
    assert '"version"' in run("version", "-o", "json").stdout
    assert run("--version").exit_code == 0


def test_a_mistake_of_ours_keeps_its_traceback():
    done = CliRunner().invoke(failing(ZeroDivisionError()), ["fail"])

    assert isinstance(done.exception, ZeroDivisionError)
