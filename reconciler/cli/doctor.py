"""
Is everything there that a fleet needs? `doctor`.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.cli.output import COLOURS, OutputFormat, output_option, print_document
from reconciler.cli.pager import busy
from reconciler.cli.terminal import terminal_size, wrap
from reconciler.core.text import one_line

if TYPE_CHECKING:
    from reconciler.cli.health import CheckFinding
    from reconciler.cli.shapes import FindingShape


@click.command(
    epilog=examples(
        "reconciler doctor",
        "reconciler doctor --all",
        "reconciler doctor -o jsonpath='{.fix}' | grep .   # only the commands",
    )
)
@click.option("-a", "--all", "shows_all", is_flag=True, help="Tell what is well, too.")
@output_option("text")
@click.pass_obj
def doctor(context: Context, *, shows_all: bool, output: OutputFormat) -> int:
    """
    Check everything that a fleet needs, and say what puts right what is wrong.

    This machine, git, the specs and the record, secrets, code repositories,
    forges, and every host with a run that does nothing. Changes nothing. Exits
    5 if something does not work; a warning is no such thing.
    """
    with busy("looking at everything"):
        results = asyncio.run(_findings(context))
    if not print_document([finding_document(each) for each in results], output):
        _print(results, shows_all=shows_all)
    return ExitCode.ENDED_BADLY if any(each.result == "failed" for each in results) else ExitCode.OK


async def _findings(context: Context) -> "Sequence[CheckFinding]":
    from reconciler.cli.health import findings

    order = {"failed": 0, "warning": 1, "ok": 2}
    return sorted([each async for each in findings(context)], key=lambda each: order[each.result])


def _print(results: "Sequence[CheckFinding]", *, shows_all: bool) -> None:
    for each in results:
        if shows_all or each.result != "ok":
            result = click.style(f"{each.result:<8}", fg=COLOURS.get(each.result, "green"))
            first, *more = _lines(one_line(each.message))
            click.echo(
                "\n".join((f"{result} {each.check:<11} {first}", *(" " * INDENT + line for line in more)))
            )
            if each.fix:
                click.echo(f"{'':<8}   fix: {each.fix}")
    counts = [sum(each.result == result for each in results) for result in ("failed", "warning", "ok")]
    click.echo(f"{counts[0]} failed, {counts[1]} warnings, {counts[2]} ok", err=True)


INDENT = 21
"""Columns before what was found: the result and what was looked at."""


def _lines(message: str) -> Sequence[str]:
    """Return a message as lines that fit beside the result on a terminal; elsewhere as one."""
    if not sys.stdout.isatty():
        return [message]
    return wrap(message, max(terminal_size().columns - INDENT, INDENT)) or [""]


def finding_document(finding: "CheckFinding") -> "FindingShape":
    """Return what was found as `-o json` prints it."""
    return {
        "check": finding.check,
        "result": finding.result,
        "message": finding.message,
        "fix": finding.fix or None,
    }
