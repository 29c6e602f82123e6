"""
Specs of tasks that were done long ago, removed: `archive`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta

import click

from reconciler import clock
from reconciler.cli.change import is_confirmed, reason_option
from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.cli.params import duration
from reconciler.core.edits import archive_subject, edit_message
from reconciler.core.fields import format_duration

_MOST_FILES = 5000
"""In one commit: git is told their names on its command line."""


@click.command(
    "archive",
    epilog=examples("reconciler archive", "reconciler archive --done-for 30d --yes --reason 'Monthly'"),
)
@click.option(
    "--done-for",
    "age",
    metavar="DURATION",
    default="90d",
    show_default=True,
    callback=duration,
    help="How long ago a task must have been completed or cancelled.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@reason_option
@click.pass_obj
def archive(context: Context, age: timedelta, yes: bool, reason: str) -> int:
    """
    Archive tasks that were done long ago: remove their specs.

    Shows the tasks, then removes their spec files in one commit for each 5,000. The reconciler moves their
    statuses to the archive, by month, and does not load them any more; `get NAME`, `describe`,
    `history` and `logs` still have them. A spec that comes back is not run again. Failed and
    escalated tasks stay, and tasks on which others that stay depend.
    """
    return asyncio.run(_archive(context, age, reason, is_sure=yes))


async def _archive(context: Context, age: timedelta, reason: str, *, is_sure: bool) -> ExitCode:
    from reconciler.cli.session import open_fleet
    from reconciler.core.archiving import finished_specs

    async with open_fleet(context) as fleet:
        files = finished_specs(*await fleet.recorded(), clock.now(), age)
        if not files:
            click.echo(f"no task has been done for {format_duration(age)}", err=True)
            return ExitCode.OK
        count = _print(files)
        what = f"the {len(files)} spec files" if len(files) > 1 else "the spec file"
        refusal = f"{what} of these tasks ({count}) are removed with --yes"
        if not is_confirmed(f"Remove {what} of these tasks ({count})?", is_sure=is_sure, refusal=refusal):
            click.echo("nothing was changed", err=True)
            return ExitCode.FAILURE
        for some in _parts([*files]):
            subject = archive_subject(sum(len(files[path]) for path in some))
            await fleet.remove(some, edit_message(subject, reason))
    return ExitCode.OK


def _parts(paths: Sequence[str]) -> Sequence[Sequence[str]]:
    return [paths[start : start + _MOST_FILES] for start in range(0, len(paths), _MOST_FILES)]


def _print(files: Mapping[str, Sequence[str]]) -> int:
    """Print the tasks, a line each; return how many these are."""
    names = sorted(name for each in files.values() for name in each)
    click.echo("\n".join(names))
    return len(names)
