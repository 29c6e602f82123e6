"""
From a task to where it can be seen: `open`.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from urllib.parse import quote

import click

from reconciler.cli.context import Context
from reconciler.cli.help import examples
from reconciler.cli.references import one_task, task_name
from reconciler.core.errors import NotFound


@click.command(
    epilog=examples(
        "reconciler open web/fix-login",
        "reconciler open web/fix-login --page",
        "curl $(reconciler open web/fix-login --page)",
    )
)
@one_task
@click.option("--page", is_flag=True, help="Its page of `reconciler serve`, even if it has a pull request.")
@click.pass_obj
def open_command(context: Context, args: tuple[str, ...], *, page: bool) -> None:
    """
    Open a task's pull request, or its page, in a browser.

    Prints the address; a browser is opened where there is one, and a terminal.
    """
    url = asyncio.run(_address(context, args, is_page=page))
    click.echo(url)
    if sys.stdout.isatty() and _has_browser():
        click.launch(url)


def _has_browser() -> bool:
    return sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")))


async def _address(context: Context, args: Sequence[str], *, is_page: bool) -> str:
    from reconciler.cli.serving import serving
    from reconciler.cli.session import open_fleet

    async with open_fleet(context) as fleet:
        statuses = (await fleet.observed(args)).statuses
        name = task_name(args, statuses.keys() | await fleet.names("task"))
        status = statuses.get(name)
        if status is None:
            await fleet.spec_file("task", name)  # says what may have been meant
        elif status.review.pull_request and not is_page:
            return status.review.pull_request.url
        who = await serving(fleet, await fleet.state_branch())
    if who.presence is None or not who.presence.address or not who.is_running:
        raise NotFound(
            f"{name} has no pull request, and no `reconciler serve` of this fleet shows its page here: start "
            f"one, or see it with `reconciler describe {name}`"
        )
    return f"{who.presence.address.rstrip('/')}/tasks/{quote(name)}"
