"""
Root command: the table of commands, and the mapping of errors to exit codes.
"""

import gc
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import click

from reconciler import __version__
from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode, exit_code
from reconciler.cli.folders import NamedFolder
from reconciler.cli.help import examples
from reconciler.cli.remedies import with_remedy
from reconciler.cli.streams import OutputLost, guard, mute
from reconciler.cli.terminal import did_you_mean
from reconciler.core.errors import ReconcilerError, SpecError


class CommandEntry(NamedTuple):
    """A command that is imported when it is called, and its line in the help."""

    place: str
    """Module and name within it, as `package.module:name`."""
    summary: str


COMMANDS: Mapping[str, Mapping[str, CommandEntry]] = {
    "Begin": {
        "init": CommandEntry(
            "reconciler.cli.init:init", "Create a fleet's repository, with examples to edit."
        ),
        "demo": CommandEntry(
            "reconciler.cli.demo:demo", "Run a small fleet on this machine, and show what it does."
        ),
        "run": CommandEntry(
            "reconciler.cli.run:run",
            "Reconcile: bring the fleet to what its specs say, and record every step.",
        ),
        "serve": CommandEntry(
            "reconciler.cli.run:serve_command",
            "Reconcile, and serve the HTTP API for outside agents and webhooks.",
        ),
    },
    "Check before a push": {
        "validate": CommandEntry("reconciler.cli.check:validate", "Report every mistake in the specs."),
        "plan": CommandEntry(
            "reconciler.cli.check:plan_command", "Show what would start, wait and stop, and why."
        ),
        "schema": CommandEntry(
            "reconciler.cli.check:schema_command", "Print the JSON Schema of a kind of spec, or of all kinds."
        ),
    },
    "Look": {
        "get": CommandEntry(
            "reconciler.cli.get:get", "List tasks, campaigns, hosts, agents, adapters, accounts or repos."
        ),
        "describe": CommandEntry(
            "reconciler.cli.get:describe_command",
            "Show everything about one task, campaign, host, agent, adapter, account or repo.",
        ),
        "explain": CommandEntry(
            "reconciler.cli.get:explain_command",
            "Show where each value of a task comes from, or what an error means.",
        ),
        "history": CommandEntry(
            "reconciler.cli.history:history_command", "Show what happened, newest first."
        ),
        "top": CommandEntry(
            "reconciler.cli.top:top", "Show the fleet at work, live and full screen; q leaves."
        ),
        "events": CommandEntry(
            "reconciler.cli.events:events", "Show what happens, oldest first, as it happens with -f."
        ),
        "trace": CommandEntry(
            "reconciler.cli.trace:trace",
            "Show which commit led to which runs, and to which pull request.",
        ),
        "diff": CommandEntry(
            "reconciler.cli.trace:diff",
            "Show what a task's branch changes: from where it began to what was delivered last.",
        ),
        "verify": CommandEntry(
            "reconciler.cli.verify:verify_command",
            "Verify the record, and the way from work to who asked for it.",
        ),
        "replay": CommandEntry(
            "reconciler.cli.replay:replay_command",
            "Make a decision on record again from what it rested on, and compare.",
        ),
        "wait": CommandEntry(
            "reconciler.cli.wait:wait", "Wait until tasks are completed, or got as far as --for says."
        ),
        "doctor": CommandEntry(
            "reconciler.cli.doctor:doctor",
            "Check everything that a fleet needs, and say what puts right what is wrong.",
        ),
        "status": CommandEntry(
            "reconciler.cli.status:status", "Show who reconciles, and what needs a person."
        ),
        "logs": CommandEntry("reconciler.cli.history:logs", "Print the output of a task's agent."),
        "open": CommandEntry(
            "reconciler.cli.open:open_command", "Open a task's pull request, or its page, in a browser."
        ),
        "prompt": CommandEntry("reconciler.cli.adapter:prompt", "Print the prompt of a task."),
        "cost": CommandEntry("reconciler.cli.cost:cost", "Show usage: tokens, time and money."),
    },
    "Act (edit the specs, commit, push)": {
        "submit": CommandEntry(
            "reconciler.cli.submit:submit", "Submit a task: write its file, validate, commit and push it."
        ),
        "edit": CommandEntry(
            "reconciler.cli.submit:edit_command",
            "Edit the spec of a task, host, agent, adapter or repo in $EDITOR.",
        ),
        "suspend": CommandEntry(
            "reconciler.cli.task_commands:suspend", "Suspend tasks: keep them from starting new runs."
        ),
        "resume": CommandEntry("reconciler.cli.task_commands:resume", "Resume suspended tasks."),
        "cancel": CommandEntry(
            "reconciler.cli.task_commands:cancel", "Cancel tasks: end their runs, and start no more."
        ),
        "answer": CommandEntry(
            "reconciler.cli.task_commands:answer",
            "Answer the question of a task's agent; it goes on with the answer.",
        ),
        "approve": CommandEntry(
            "reconciler.cli.task_commands:approve_plan",
            "Approve the plans of tasks: their agents carry them out.",
        ),
        "reject": CommandEntry(
            "reconciler.cli.task_commands:reject_plan", "Reject the plans of tasks, which cancels them."
        ),
        "choose": CommandEntry(
            "reconciler.cli.task_commands:choose_variant",
            "Choose among the variants of a task that asks a person to.",
        ),
        "attach": CommandEntry(
            "reconciler.cli.attach:attach", "Take a task over: go on with its agent's session yourself."
        ),
        "release": CommandEntry(
            "reconciler.cli.attach:release", "Give a task that was taken over back to its agent."
        ),
        "retry": CommandEntry("reconciler.cli.task_commands:retry", "Retry settled tasks: run them again."),
        "archive": CommandEntry(
            "reconciler.cli.archive:archive", "Archive tasks that were done long ago: remove their specs."
        ),
        "approve-prune": CommandEntry(
            "reconciler.cli.task_commands:approve_prune",
            "Approve a large removal of tasks that waits for it.",
        ),
    },
    "The record": {
        "adopt-record": CommandEntry(
            "reconciler.cli.rewind:adopt_record",
            "Adopt the record of a remote in this clone, and reconcile here.",
        ),
        "restore-record": CommandEntry(
            "reconciler.cli.rewind:restore_record", "Restore a record that was lost or moved back."
        ),
        "approve-rewind": CommandEntry(
            "reconciler.cli.rewind:approve_rewind",
            "Approve a record or specs that moved back, and go on from there.",
        ),
    },
    "Hosts and adapters": {
        "host": CommandEntry("reconciler.cli.hosts:host", "Add, check, trust, cordon and drain hosts."),
        "adapter": CommandEntry(
            "reconciler.cli.adapter:adapter", "Test adapters: on a host, or on recorded output."
        ),
    },
    "Outside agents": {
        "token": CommandEntry(
            "reconciler.cli.token:token_group", "Create, list and revoke tokens of outside agents."
        ),
        "agent": CommandEntry(
            "reconciler.cli.worker:agent", "Work as an outside agent: take tasks from a reconciler over HTTP."
        ),
        "mcp": CommandEntry("reconciler.cli.mcp:mcp", "Serve a reconciler's tasks to an agent as MCP tools."),
    },
    "Forges": {
        "forge": CommandEntry(
            "reconciler.cli.forge:forge", "Connect repositories on a forge: token, labels, webhooks."
        ),
        "webhook": CommandEntry(
            "reconciler.cli.webhook:webhook", "Install, test and check the webhooks of repos."
        ),
    },
    "Notifications": {
        "notify": CommandEntry(
            "reconciler.cli.notify:notify_group", "Send a test message to the targets of notifications."
        ),
    },
    "Other": {
        "completion": CommandEntry(
            "reconciler.cli.completion:completion", "Print what makes a shell complete commands and names."
        ),
        "man": CommandEntry("reconciler.cli.man:man", "Write a manual page for every command into a folder."),
        "version": CommandEntry("reconciler.cli.version:version", "Print the version."),
    },
}
"""Every command, by section of the help."""


NAMES = (click.Abort, click.ClickException, ReconcilerError, OSError)
"""Errors that end a command with one line; any other is a bug, with its traceback."""

SYNONYMS = {
    "list": "get",
    "ls": "get",
    "ps": "get",
    "show": "describe",
    "inspect": "describe",
    "apply": "run",
    "start": "run",
    "up": "run",
    "check": "doctor",
    "create": "submit",
    "new": "submit",
    "add": "submit",
    "delete": "cancel",
    "stop": "cancel",
    "kill": "cancel",
    "rm": "cancel",
    "pause": "suspend",
    "tail": "logs",
}
"""What tools like this one call a command, to suggest ours."""


class Root(click.Group):
    """Root group: imports commands when they are called, and turns errors into exit codes."""

    entries: Mapping[str, CommandEntry] = {
        name: entry for part in COMMANDS.values() for name, entry in part.items()
    }

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run; print an error in one line, and exit with the documented code."""
        try:
            result = super().main(*args, **{**extra, "standalone_mode": False})
            sys.stdout.flush()
        except OutputLost as lost:
            mute()
            if lost.is_unread:
                sys.exit(ExitCode.UNREAD)
            click.echo(f"error: {with_remedy(str(lost), lost)}", err=True)
            sys.exit(ExitCode.FAILURE)
        except (*NAMES, ExceptionGroup) as error:
            code, message = report_error(_first_error(error))
            click.echo(message, err=True)
            sys.exit(code)
        sys.exit(result if isinstance(result, int) else ExitCode.OK)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every name, in the order of the table."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name."""
        if cmd_name not in self.entries:
            return None
        module, _, name = self.entries[cmd_name].place.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name, or suggest a similar one."""
        name = args[0]
        if name not in self.entries and not name.startswith("-") and not ctx.resilient_parsing:
            meant = SYNONYMS.get(name, name)
            ctx.fail(f"no such command {name!r}{did_you_mean(meant, self.entries)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections from the table, so that help imports no command."""
        for section, entries in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl([(name, entry.summary) for name, entry in entries.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write examples, and the table of exit codes."""
        super().format_epilog(ctx, formatter)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code.value), code.meaning) for code in ExitCode])


@click.group(
    cls=Root,
    invoke_without_command=True,
    epilog=examples(
        "reconciler init my-fleet && cd my-fleet",
        "reconciler doctor",
        "reconciler submit --goal 'Fix the typos in README.md' --repo web --wait",
        "reconciler top",
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--repo",
    envvar="RECONCILER_REPO",
    show_envvar=True,
    metavar="PATH|URL",
    help="The fleet's git repository; the one around the current folder if left out.",
)
@click.option(
    "--branch",
    envvar="RECONCILER_BRANCH",
    show_envvar=True,
    metavar="NAME",
    help="Branch with the specs; what HEAD points at if left out.",
)
@click.option(
    "--data-dir",
    envvar="RECONCILER_DATA_DIR",
    show_envvar=True,
    metavar="PATH",
    type=NamedFolder(),
    help="Caches, logs and local runs; a folder under ~/.local/state/reconciler if left out.",
)
@click.option("--no-pager", is_flag=True, help="Print long output straight to the terminal.")
@click.version_option(__version__, prog_name="reconciler")
@click.pass_context
def cli(
    ctx: click.Context, repo: str | None, branch: str | None, data_dir: Path | None, *, no_pager: bool
) -> None:
    """
    GitOps for fleets of coding agents.

    What should be done, and where it may be done, stands as YAML in git.
    """
    ctx.obj = Context(repo=repo, branch=branch, data=data_dir, has_pager=not no_pager)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """
    Run the command line, and exit without interpreter cleanup.

    To take all modules apart again takes a fifth of what most commands do, as
    does looking for garbage while they are imported. What must last is on the
    disk by then: it would survive `kill -9` too.
    """
    guard()
    gc.set_threshold(50_000, 20, 20)
    try:
        cli.main(prog_name="reconciler")
    except SystemExit as end:
        _leave(end.code)


def _leave(code: object) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(
            OSError, ValueError, AttributeError, OutputLost
        ):  # the reader is gone, or the stream is closed
            stream.flush()
    os._exit(code if isinstance(code, int) else ExitCode.FAILURE if code else ExitCode.OK)


def _first_error(error: Exception) -> Exception:
    """Return the first error of an exception group of known errors, as concurrent tasks raise it."""
    while isinstance(error, ExceptionGroup):
        if error.split(NAMES)[1] is not None:
            raise error
        error = error.exceptions[0]
    return error


def report_error(error: Exception) -> tuple[int, str]:
    """Return the exit code and the message of an error, which ends with what to type next."""
    match error:
        case click.UsageError():
            return ExitCode.USAGE, f"error: {error.format_message()}{_where_help_is(error)}"
        case click.ClickException():
            return ExitCode.FAILURE, f"error: {with_remedy(error.format_message(), error)}"
        case SpecError():
            return exit_code(error), str(error)
        case ReconcilerError():
            return exit_code(error), f"error: {with_remedy(str(error), error)}"
        case click.Abort():
            return ExitCode.INTERRUPTED, "interrupted"
    return ExitCode.FAILURE, f"error: {with_remedy(_message(error), error)}"


def _message(error: Exception) -> str:
    """Return what an error says; of a file its name first, and no number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _where_help_is(error: click.UsageError) -> str:
    return f"\nTry '{error.ctx.command_path} --help'." if error.ctx else ""
