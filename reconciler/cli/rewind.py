"""
Decisions about a rewound or displaced record, or rewound specs.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from reconciler.cli.change import is_confirmed, reason_option
from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples

if TYPE_CHECKING:
    from reconciler.cli.session import FleetSession
    from reconciler.store.high_water import BranchLine

_sure = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command(
    "approve-rewind",
    epilog=examples(
        "reconciler approve-rewind record",
        "reconciler approve-rewind specs --yes --reason 'A secret was taken out'",
    ),
)
@click.argument("kinds", metavar="[record|specs]...", nargs=-1, type=click.Choice(["record", "specs"]))
@_sure
@reason_option
@click.pass_obj
def approve_rewind(context: Context, kinds: tuple[str, ...], yes: bool, reason: str) -> int:
    """
    Approve a record or specs that moved back, and go on from there.

    Shows what went back and, on your word, commits on top of it that this may
    be. Tasks that only the lost record knew as done are done again, under
    attempt numbers that were never given; of specs, what was taken back (a
    revoked token, a removed host) is in force again.
    """
    return asyncio.run(_approve(context, kinds, reason, is_sure=yes))


async def _approve(context: Context, kinds: Sequence[str], reason: str, *, is_sure: bool) -> ExitCode:
    from reconciler.cli.session import open_fleet
    from reconciler.store.rewinds import approve

    async with open_fleet(context) as fleet:
        waiting = [line for line in await _gone_back(fleet) if not kinds or line.kind in kinds]
        if not waiting:
            click.echo("nothing went back", err=True)
        for line in waiting:
            left = ", ".join(commit[:10] for commit in await line.left())
            what = f"that {line.branch} goes on at {(line.head or 'nothing')[:10]} without {left}"
            refusal = f"{what}: this is allowed with --yes"
            if not is_confirmed(f"Allow {what}?", is_sure=is_sure, refusal=refusal):
                click.echo("nothing was changed", err=True)
                return ExitCode.FAILURE
            commit = await approve(line, reason)
            click.echo(f"{line.branch}: {commit[:10]} allows it", err=True)
    return ExitCode.OK


async def _gone_back(fleet: "FleetSession") -> "Sequence[BranchLine]":
    """Print what was rewound, and return it."""
    branch = await fleet.record_branch()
    return [line for line in await fleet.lines(branch) if await line.left()]


@click.command("restore-record", epilog=examples("reconciler restore-record"))
@_sure
@click.pass_obj
def restore_record(context: Context, yes: bool) -> int:
    """
    Restore a record that was lost or moved back.

    The state branch gets the newest commit that was ever acknowledged, as long
    as that only adds to it.
    """
    return asyncio.run(_restore(context, is_sure=yes))


async def _restore(context: Context, *, is_sure: bool) -> ExitCode:
    from reconciler.cli.session import open_fleet
    from reconciler.store.rewinds import restore

    async with open_fleet(context) as fleet:
        line = next((line for line in await _gone_back(fleet) if line.kind == "record"), None)
        if line is None:
            click.echo("the record did not go back", err=True)
            return ExitCode.OK
        question = f"Put {line.branch} back to what was acknowledged?"
        refusal = f"{line.branch} is put back with --yes"
        if not is_confirmed(question, is_sure=is_sure, refusal=refusal):
            click.echo("nothing was changed", err=True)
            return ExitCode.FAILURE
        click.echo(f"{line.branch} is at {(await restore(line))[:10]} again", err=True)
    return ExitCode.OK


@click.command(
    "adopt-record", epilog=examples("reconciler adopt-record", "reconciler adopt-record --from origin --yes")
)
@click.option(
    "--from", "remote", metavar="REMOTE", help="Whose record; the only remote that has one, if left out."
)
@click.option("--anew", is_flag=True, help="Begin an empty record: no remote has one.")
@click.option("--copy", is_flag=True, help="Go on in this copied folder, and not in the original any more.")
@_sure
@click.pass_obj
def adopt_record(context: Context, remote: str | None, anew: bool, copy: bool, yes: bool) -> int:
    """
    Adopt the record of a remote in this clone, and reconcile here.

    From then on the record of the fleet is in this repository. Only one place
    may go on with it: end the reconciler at the other one for good.
    """
    if bool(remote) + anew + copy > 1:
        raise click.UsageError("--from, --anew and --copy exclude each other")
    if copy:
        return asyncio.run(_adopt_copy(context, is_sure=yes))
    return asyncio.run(_adopt(context, remote, is_anew=anew, is_sure=yes))


async def _adopt_copy(context: Context, *, is_sure: bool) -> ExitCode:
    from reconciler.cli.session import open_fleet
    from reconciler.store.place import adopt_place

    async with open_fleet(context) as fleet:
        question = f"Go on in {fleet.repository}, and nowhere else?"
        if not is_confirmed(question, is_sure=is_sure, refusal="adopting a record is confirmed with --yes"):
            click.echo("nothing was changed", err=True)
            return ExitCode.FAILURE
        original = await adopt_place(fleet.repository, await fleet.state_branch())
        click.echo(f"this is the fleet now, and {original} its copy; `reconciler run` goes on here", err=True)
    return ExitCode.OK


async def _adopt(context: Context, remote: str | None, *, is_anew: bool, is_sure: bool) -> ExitCode:
    from reconciler.cli.session import open_fleet
    from reconciler.core.errors import UsageError
    from reconciler.store.place import note_place
    from reconciler.store.remote_record import adopt, begin_record

    async with open_fleet(context) as fleet:
        if fleet.repository.address:
            raise UsageError("a fleet that is named by its URL has its record there: serve it as it is")
        branch = await fleet.state_branch()
        what = "an empty record" if is_anew else "the record of the remote"
        question = f"Go on in {fleet.repository} with {what}, and nowhere else?"
        if not is_confirmed(question, is_sure=is_sure, refusal="adopting a record is confirmed with --yes"):
            click.echo("nothing was changed", err=True)
            return ExitCode.FAILURE
        commit = await (
            begin_record(fleet.repository, branch) if is_anew else adopt(fleet.repository, branch, remote)
        )
        note_place(fleet.repository)
        click.echo(f"{branch} is at {commit[:10]} here; `reconciler run` goes on from it", err=True)
    return ExitCode.OK
