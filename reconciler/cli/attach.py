"""
Taking tasks over: `attach` holds a task and says how a person goes on with it, `release` gives it back.
"""

import asyncio
import os
import shlex
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import click

from reconciler.cli.change import change, reason_option
from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.cli.params import duration
from reconciler.cli.references import NameParam
from reconciler.core.edits import attaching, releasing
from reconciler.core.errors import NotFound
from reconciler.core.fields import format_duration
from reconciler.core.model.specs import TaskSpec
from reconciler.core.model.status import Phase
from reconciler.core.names import DEFAULT_SHARD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.cli.session import FleetSession
    from reconciler.core.model.specs import Desired, Host
    from reconciler.core.model.status import Status


@click.command(epilog=examples("reconciler attach web/fix-login", "reconciler attach web/fix-login --exec"))
@click.argument("task", metavar="[task/]NAME", type=NameParam("task"))
@click.option("--exec", "is_run", is_flag=True, help="Run the command here instead of printing it.")
@click.option(
    "--timeout",
    metavar="DURATION",
    callback=duration,
    default="2m",
    show_default=True,
    help="How long to wait for the end of a live run.",
)
@reason_option
@click.pass_obj
def attach(context: Context, task: str, *, is_run: bool, timeout: timedelta, reason: str) -> int:
    """
    Take a task over: go on with its agent's session yourself.

    Prints the command for that, in the task's workspace. Holds the task: its live run
    is ended, its workspace and session stay, and no other run starts until
    `reconciler release`. Log in to the host as its spec says, with your own access;
    the agent's secrets are not passed on.
    """
    return asyncio.run(_attach(context, task, timeout, reason, is_run=is_run))


@click.command(
    epilog=examples(
        "reconciler release web/fix-login",
        "reconciler release web/fix-login 'It works; add tests'",
    )
)
@click.argument("task", metavar="[task/]NAME", type=NameParam("task"))
@click.argument("text", required=False, default="")
@reason_option
@click.pass_obj
def release(context: Context, task: str, text: str, reason: str) -> None:
    """
    Give a task that was taken over back to its agent.

    It goes on in its workspace. TEXT tells it what was done, and what is left.
    """
    asyncio.run(_release(context, task, text, reason))


async def _attach(context: Context, name: str, timeout: timedelta, reason: str, *, is_run: bool) -> int:
    from reconciler.cli.session import open_fleet

    async with open_fleet(context) as fleet:
        status = (await fleet.observed()).statuses.get(name)
        decide = partial(attaching, status=status)
        await change(fleet, TaskSpec, (name,), decide, verb="Attach to", reason=reason)
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                status = await _ended(fleet, name)
        except TimeoutError:
            wait = format_duration(timeout)
            click.echo(f"the run of {name} has not ended after {wait}; is a reconciler running?", err=True)
            return ExitCode.TIMED_OUT
        command = await _command(fleet, context, name, status)
    if status.phase is Phase.REVIEW_PENDING:
        click.echo(
            f"{name} is in review: what you do in this workspace is delivered only if you push it to "
            f"{status.last_run.branch} yourself",
            err=True,
        )
    if is_run:
        os.execvp(command[0], list(command))  # noqa: S606 - the person asked for it, and it takes this terminal
    click.echo(shlex.join(command))
    return ExitCode.OK


async def _release(context: Context, name: str, text: str, reason: str) -> None:
    from reconciler.cli.session import open_fleet

    async with open_fleet(context) as fleet:
        status = (await fleet.observed()).statuses.get(name)
        decide = partial(releasing, status=status, text=text)
        await change(fleet, TaskSpec, (name,), decide, verb="Release", reason=reason)


async def _ended(fleet: "FleetSession", name: str) -> "Status":
    """Return the status of a task once no run of it is live."""
    from reconciler.cli.follow import FleetFollower

    async with aclosing(FleetFollower(fleet).models()) as models:
        async for model in models:
            status = model.observed.statuses.get(name)
            if status is not None and not status.phase.is_live:
                return status
    raise AssertionError("a fleet is followed for ever")  # pragma: no cover - as its type cannot say


async def _command(fleet: "FleetSession", context: Context, name: str, status: "Status") -> "Sequence[str]":
    from reconciler.dispatch.paths import workspace_path

    desired, _ = await fleet.recorded()
    host = desired.hosts.get(status.assigned_host or "")
    record = await fleet.record()
    fleet_id = await record.fleet_id(name)
    if host is None or fleet_id is None:
        raise NotFound(f"host {status.assigned_host} is not there any more")
    folder = workspace_path(
        host, context.data_of(record.shards.get(name, DEFAULT_SHARD)), fleet_id, status.last_run.key
    )
    command = f"cd {_quoted_path(folder)} && exec {_program(desired, status)}"
    return login_argv(host, command, jump=desired.hosts.get(host.jump or ""))


def _program(desired: "Desired", status: "Status") -> str:
    """Return what a person runs in the workspace: the CLI with the session, or a shell."""
    from reconciler.core.runs.command import attach_argv

    adapter = desired.adapters.get(status.last_run.adapter or "")
    argv = attach_argv(adapter, status.session.id if status.session else None) if adapter else ()
    return shlex.join(argv) if argv else '"${SHELL:-sh}"'


def login_argv(host: "Host", command: str, *, jump: "Host | None" = None) -> "Sequence[str]":
    """Return the argv that runs a command in a terminal on a host; `jump` is the host it goes through."""
    if host.is_local:
        return ("sh", "-c", command)
    over = f"{_place(jump)}:{jump.port}" if jump else host.jump
    options = {"-p": str(host.port), "-i": host.identity, "-J": over}
    given = [part for option, value in options.items() if value for part in (option, value)]
    return ("ssh", "-t", *given, _place(host), command)


def _place(host: "Host") -> str:
    return f"{host.user}@{host.address}" if host.user else str(host.address)


def _quoted_path(folder: str) -> str:
    """Return a path as a word of a shell; `~` at its beginning stays the home folder."""
    return f"~/{shlex.quote(folder[2:])}" if folder.startswith("~/") else shlex.quote(folder)
