"""
What people ask for in words instead of an editor: the task's file is edited, committed and pushed.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.core.errors import SpecError, UsageError
from reconciler.core.model import Reason, Status, TaskSpec, Wish

if TYPE_CHECKING:
    from reconciler.specs.parse import File

Changes = Mapping[str, object]
Decide = Callable[[str, TaskSpec, Status | None], Changes | str]
"""Tell which fields of a task change, or why there is nothing to do."""

names_argument = click.argument("names", metavar="NAME...", nargs=-1, required=True)
reason_option = click.option("--reason", default="", help="Why; it stands in the commit.")


@click.command()
@names_argument
@reason_option
@click.pass_obj
def suspend(context: Context, names: tuple[str, ...], reason: str) -> None:
    """
    Let tasks rest.

    A live run is stopped; `reconciler resume` lets the task go on.
    """
    asyncio.run(_change(context, "Suspend", names, reason, suspending))


@click.command()
@names_argument
@reason_option
@click.pass_obj
def resume(context: Context, names: tuple[str, ...], reason: str) -> None:
    """Let suspended tasks go on."""
    asyncio.run(_change(context, "Resume", names, reason, resuming))


@click.command()
@names_argument
@reason_option
@click.pass_obj
def cancel(context: Context, names: tuple[str, ...], reason: str) -> None:
    """
    Give tasks up.

    A live run is stopped; `reconciler retry` asks for the task again.
    """
    asyncio.run(_change(context, "Cancel", names, reason, cancelling))


@click.command()
@names_argument
@reason_option
@click.pass_obj
def retry(context: Context, names: tuple[str, ...], reason: str) -> None:
    """
    Run settled tasks once more.

    Raises `rerun` in the task's file; a cancelled task becomes active again.
    """
    asyncio.run(_change(context, "Retry", names, reason, retrying))


# --- Deciding --------------------------------------------------------------


def suspending(name: str, spec: TaskSpec, _: Status | None) -> Changes | str:
    """Suspend a task that is active."""
    if spec.desired is Wish.ACTIVE:
        return {"desired": "suspended"}
    return f"{name} is {spec.desired} already"


def resuming(name: str, spec: TaskSpec, _: Status | None) -> Changes | str:
    """Resume a task that is suspended."""
    if spec.desired is Wish.CANCELLED:
        raise UsageError(f"{name} is cancelled: `reconciler retry {name}` asks for it again")
    return {"desired": "active"} if spec.desired is Wish.SUSPENDED else f"{name} is active already"


def cancelling(name: str, spec: TaskSpec, _: Status | None) -> Changes | str:
    """Cancel a task that is not cancelled."""
    if spec.desired is Wish.CANCELLED:
        return f"{name} is cancelled already"
    return {"desired": "cancelled"}


def retrying(name: str, spec: TaskSpec, status: Status | None) -> Changes | str:
    """Ask once more for a task that is settled, or cancelled."""
    if spec.desired is Wish.CANCELLED:
        return {"desired": "active", "rerun": spec.rerun + 1}
    if status is None or not status.phase.is_settled:
        return (
            f"{name} is {status.phase if status else 'new'}: it is not settled, so there is nothing to retry"
        )
    return {"rerun": spec.rerun + 1}


# --- Doing -----------------------------------------------------------------


async def _change(context: Context, verb: str, names: Sequence[str], reason: str, decide: Decide) -> None:
    """Decide on every task first, so that a wrong name changes nothing; then commit, a task at a time."""
    from reconciler.cli.fleet import opened, task_path
    from reconciler.specs.edit import edit

    async with opened(context) as fleet:
        statuses = (await fleet.observed()).statuses
        files = {name: await fleet.task_file(name) for name in dict.fromkeys(names)}
        decided = {name: decide(name, _spec(name, files[name]), statuses.get(name)) for name in files}
        for name, changes in decided.items():
            if isinstance(changes, str):
                click.echo(changes, err=True)
                continue
            path = task_path(name)
            text = edit(files[name].data.decode(), changes, path=path)
            await fleet.commit(path, text, _message(f"{verb} {name}", reason))
            click.echo(f"{name}: {', '.join(f'{field} is {value} now' for field, value in changes.items())}")


def _spec(name: str, file: "File") -> TaskSpec:
    """Return the spec in a task's file. Raises SpecError if it is broken."""
    from reconciler.cli.fleet import task_path
    from reconciler.specs.parse import Parser

    parsed = Parser().parse(task_path(name), file)
    if parsed is None or not isinstance(parsed.spec, TaskSpec):
        raise SpecError(parsed.problems if parsed else ())
    return parsed.spec


def _message(subject: str, reason: str) -> str:
    return f"{subject}\n\n{reason}\n" if reason else f"{subject}\n"


# --- Removals --------------------------------------------------------------


@click.command("approve-prune")
@click.option("--yes", is_flag=True, help="Do not ask.")
@reason_option
@click.pass_obj
def approve_prune(context: Context, yes: bool, reason: str) -> int:
    """
    Allow a large removal that waits.

    Shows the tasks whose specs are gone. Exactly these may then be removed;
    if the set changes before it is done, it waits again.
    """
    return asyncio.run(_approve(context, reason, is_sure=yes))


async def _approve(context: Context, reason: str, *, is_sure: bool) -> ExitCode:
    from reconciler.cli.fleet import opened
    from reconciler.core.plan import plan, prune_digest
    from reconciler.specs.edit import edit
    from reconciler.specs.parse import FLEET

    async with opened(context) as fleet:
        waiting = plan(*await fleet.recorded(), clock.now()).waiting
        names = sorted(name for name, wait in waiting.items() if wait.reason is Reason.APPROVAL)
        if not names:
            click.echo("no removal waits", err=True)
            return ExitCode.OK
        digest = prune_digest(names)
        click.echo("\n".join(names))
        if not (is_sure or _is_confirmed(len(names), digest)):
            click.echo("nothing was changed", err=True)
            return ExitCode.FAILURE
        text = edit(await fleet.settings_text(), {"prune_approved": digest}, path=FLEET)
        message = _message(f"Allow the removal of {len(names)} tasks", reason)
        await fleet.commit(FLEET, text, message)
        click.echo(f"allowed: {digest}", err=True)
    return ExitCode.OK


def _is_confirmed(count: int, digest: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(f"the removal of these {count} tasks ({digest}) is allowed with --yes")
    return click.confirm(f"Allow the removal of these {count} tasks ({digest})?", err=True)
