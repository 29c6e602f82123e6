"""
Tokens of outside agents: `token new`, `token list`, `token revoke`.

A token is shown once. The specs hold its hash, so who may come in is reviewed
and undone as everything else is.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from reconciler import clock
from reconciler.cli.change import reason_option, set_fields, spec_of
from reconciler.cli.context import Context
from reconciler.cli.help import examples
from reconciler.cli.output import Column, Listing, list_options, print_list
from reconciler.cli.params import duration
from reconciler.cli.references import NameParam
from reconciler.core.edits import FieldChanges, edit_message
from reconciler.core.errors import NotFound, UsageError

if TYPE_CHECKING:
    from reconciler.cli.session import FleetSession
    from reconciler.cli.shapes import TokenShape
    from reconciler.core.model.specs import Agent, AgentSpec
    from reconciler.specs.parse import File

MOST_TOKENS = 2
"""Tokens of one agent: its current one and, during a rotation, the next."""


@click.group(epilog=examples("reconciler token new jeeves", "reconciler token list"))
def token_group() -> None:
    """Create, list and revoke tokens of outside agents."""


@token_group.command(
    epilog=examples(
        "reconciler token new jeeves > jeeves.token",
        "reconciler token new jeeves --expires 90d",
        "reconciler token new jeeves --rotate",
    )
)
@click.argument("agent", type=NameParam("agent"))
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["agent", "read", "admin"]),
    help="What the token may do; may be repeated. `agent` if left out: take tasks and report on them.",
)
@click.option(
    "--expires",
    metavar="DURATION",
    callback=duration,
    help="How long the agent's tokens are good, such as 90d.",
)
@click.option("--rotate", is_flag=True, help="Make a second one; the first stays good until it is revoked.")
@reason_option
@click.pass_obj
def new(
    context: Context,
    *,
    agent: str,
    scopes: tuple[str, ...],
    expires: timedelta | None,
    rotate: bool,
    reason: str,
) -> None:
    """
    Make a token for AGENT and print it, once.

    Its hash goes into specs/agents/AGENT.yaml, which is made if it is not
    there, as a commit in your name. Scopes and expiry are those of the agent:
    both of its tokens have them during a rotation.
    """
    click.echo(asyncio.run(_new(context, agent, scopes, expires, rotates=rotate, reason=reason)))


async def _new(
    context: Context,
    name: str,
    scopes: Sequence[str],
    expires: timedelta | None,
    *,
    rotates: bool,
    reason: str,
) -> str:
    from reconciler.api.tokens import new_token
    from reconciler.cli.session import open_fleet
    from reconciler.core.times import format_time

    _check(name)
    async with open_fleet(context) as fleet:
        file, spec = await _agent(fleet, name)
        secret, digest = new_token(name, clock.random_hex)
        changes: FieldChanges = {"token_hash": [*_kept(name, spec, rotates=rotates), digest]}
        if scopes:
            changes = {**changes, "scopes": list(scopes)}
        if expires:
            changes = {**changes, "expires": format_time(clock.now() + expires)}
        elif spec.expires:
            click.echo(f"it expires at {format_time(spec.expires)}, as the agent's spec says", err=True)
        verb = "Rotate the token" if rotates else "Make a token"
        await _commit(fleet, name, file, changes, edit_message(f"{verb} of agent {name}", reason))
    return secret


def _kept(name: str, spec: "AgentSpec", *, rotates: bool) -> Sequence[str]:
    """Return the hashes that stay beside a new one."""
    if spec.token_hash and not rotates:
        raise UsageError(
            f"agent {name} has a token: --rotate makes a second one, `reconciler token revoke {name}` "
            "takes it away"
        )
    if len(spec.token_hash) >= MOST_TOKENS:
        raise UsageError(
            f"agent {name} has {len(spec.token_hash)} tokens: "
            f"end the last rotation with `reconciler token revoke {name} --old`"
        )
    return spec.token_hash


@token_group.command(
    epilog=examples("reconciler token revoke jeeves", "reconciler token revoke jeeves --old")
)
@click.argument("agent", type=NameParam("agent"))
@click.option("--old", is_flag=True, help="Only those before the newest one: the end of a rotation.")
@reason_option
@click.pass_obj
def revoke(context: Context, agent: str, *, old: bool, reason: str) -> None:
    """
    Take tokens away from AGENT.

    They are refused as soon as the reconciler has seen the commit.
    """
    asyncio.run(_revoke(context, agent, only_old=old, reason=reason))


async def _revoke(context: Context, name: str, *, only_old: bool, reason: str) -> None:
    from reconciler.cli.session import open_fleet

    _check(name)
    async with open_fleet(context) as fleet:
        file = await fleet.spec_file("agent", name)
        hashes = _spec(name, file).token_hash
        kept = hashes[-1:] if only_old else ()
        if kept == hashes:
            click.echo(f"agent {name} has no {'older ' if only_old else ''}token", err=True)
            return
        which = "the old token" if only_old else "every token"
        changes = {"token_hash": list(kept) or None}
        await _commit(fleet, name, file, changes, edit_message(f"Revoke {which} of agent {name}", reason))
        click.echo(f"{name}: {len(hashes) - len(kept)} revoked, {len(kept)} left")


@token_group.command("list", epilog=examples("reconciler token list", "reconciler token list -o json"))
@list_options()
@click.pass_obj
def list_(context: Context, listing: Listing) -> None:
    """List agents and their tokens; the tokens themselves are nowhere."""
    from reconciler.core.times import format_time

    def document(agent: "Agent") -> "TokenShape":
        expires = format_time(agent.expires) if agent.expires else None
        return {
            "name": agent.name,
            "tokens": len(agent.token_hash),
            "expires": expires,
            "scopes": list(agent.scopes),
            "desired": agent.desired,
        }

    columns = (
        Column("AGENT", lambda agent: agent.name),
        Column("TOKENS", lambda agent: str(len(agent.token_hash))),
        Column("EXPIRES", lambda agent: document(agent)["expires"] or "never"),
        Column("SCOPES", lambda agent: ",".join(agent.scopes)),
        Column("DESIRED", lambda agent: agent.desired),
    )
    print_list(asyncio.run(_agents(context)), columns, document, listing)


async def _agents(context: Context) -> "Sequence[Agent]":
    from reconciler.cli.session import open_fleet

    async with open_fleet(context) as fleet:
        desired, _ = await fleet.recorded()
    return [desired.agents[name] for name in sorted(desired.agents)]


# --- The agent's file ------------------------------------------------------


def _check(name: str) -> None:
    from reconciler.core.names import check_name

    try:
        check_name(name)
    except ValueError as error:
        raise UsageError(str(error)) from None


async def _agent(fleet: "FleetSession", name: str) -> "tuple[File, AgentSpec]":
    """Return the spec file of an agent, raw and parsed; empty ones if there is none."""
    from reconciler.core.model.specs import AgentSpec
    from reconciler.specs.parse import NO_FILE

    try:
        file = await fleet.spec_file("agent", name)
    except NotFound:
        return NO_FILE, AgentSpec()
    return file, _spec(name, file)


def _spec(name: str, file: "File") -> "AgentSpec":
    from reconciler.core.model.specs import AgentSpec

    return spec_of(AgentSpec, name, file)


async def _commit(
    fleet: "FleetSession", name: str, file: "File", changes: FieldChanges, commit_message: str
) -> None:
    from reconciler.cli.session import spec_path

    await set_fields(fleet, spec_path("agent", name), file, changes, commit_message)
