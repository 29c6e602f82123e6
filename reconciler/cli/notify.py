"""
Notifications from the shell: `notify test`.
"""

import asyncio
from typing import TYPE_CHECKING

import click

from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.core.errors import NotFound, SpecError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.core.adapter import Secret
    from reconciler.core.model.specs import Desired
    from reconciler.core.notifications.messages import Message


@click.group(epilog=examples("reconciler notify test", "reconciler notify test phone"))
def notify_group() -> None:
    """Send a test message to the targets of notifications."""


@notify_group.command(epilog=examples("reconciler notify test", "reconciler notify test phone"))
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.pass_obj
def test(context: Context, targets: tuple[str, ...]) -> int:
    """
    Send one message to each TARGET, or to all, and say what came of it.

    Targets are those of `notify` in specs/fleet.yaml as it is here, committed or not. Their
    secrets are looked up here: in the environment of this shell, which may
    not be that of the reconciler. Exits 1 if a target does not take its message.
    """
    return asyncio.run(_test(context, targets))


async def _test(context: Context, names: tuple[str, ...]) -> int:
    from reconciler.cli.session import specs_here
    from reconciler.core.errors import Unavailable
    from reconciler.dispatch.secrets import target_secret
    from reconciler.notifications.sender import AppriseSender

    targets = _targets(await specs_here(context))
    sender, failed = AppriseSender(target_secret), 0
    for name in names or tuple(targets):
        if name not in targets:
            raise NotFound(f"no target {name!r}; `notify.targets` has {', '.join(targets)}")
        try:
            await sender.send(name, targets[name], _message(name))
        except Unavailable as error:
            failed += 1
            click.echo(f"{name}: not sent: {error}{_remedy(str(error))}")
        else:
            click.echo(f"{name}: sent")
    return ExitCode.FAILURE if failed else ExitCode.OK


def _targets(desired: "Desired") -> "Mapping[str, Secret]":
    """Return the targets of a fleet. Raises SpecError if its file is broken, UsageError if there are none."""
    if problems := [each for each in desired.problems if each.path == "specs/fleet.yaml"]:
        raise SpecError(problems)
    if desired.fleet.notify is None or not desired.fleet.notify.targets:
        raise UsageError(
            "specs/fleet.yaml names no target; add `notify: {targets: {phone: {env: NOTIFY_PHONE}}, "
            "rules: [{to: phone}]}`"
        )
    return desired.fleet.notify.targets


def _message(target: str) -> "Message":
    from reconciler.core.notifications.messages import Message

    body = f"A test of the target {target}, sent by `reconciler notify test`. Nothing is wrong."
    return Message(title=f"reconciler: test of {target}", body=body)


def _remedy(why: str) -> str:
    """Return what to do where apprise is missing."""
    if "not installed" not in why:
        return ""
    from reconciler.cli.extras import APPRISE, install_command

    return f"; install it with `{install_command(APPRISE)}`"
