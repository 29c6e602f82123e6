"""
Waiting for tasks: `wait`.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import click

from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.cli.params import duration
from reconciler.cli.references import task_names, tasks_argument
from reconciler.core.errors import NotFound
from reconciler.core.fields import format_duration
from reconciler.core.references import no_such

if TYPE_CHECKING:
    from reconciler.cli.session import FleetSession
    from reconciler.core.views import TaskView

PickNames = Callable[[Collection[str]], Sequence[str]]
"""Chooses among the names of all tasks."""
Aim = Literal["completed", "review", "settled"]
AIMS: tuple[Aim, ...] = ("completed", "review", "settled")


@click.command(
    epilog=examples(
        "reconciler wait web/fix-login",
        "reconciler wait web/fix-login web/fix-logout --for review --timeout 2h",
        "reconciler retry docs/spelling && reconciler wait docs/spelling --for settled",
    )
)
@tasks_argument
@click.option(
    "--for",
    "aim",
    type=click.Choice(AIMS),
    default="completed",
    show_default=True,
    help="completed; review: its pull request is open, or it is completed; settled: however it ends.",
)
@click.option(
    "--timeout",
    metavar="DURATION",
    callback=duration,
    help="Longest time, such as 30m; none if left out.",
)
@click.pass_obj
def wait(context: Context, args: tuple[str, ...], *, aim: Aim, timeout: timedelta | None) -> int:
    """
    Wait until tasks are completed, or got as far as --for says.

    Ends as soon as all did, or one cannot any more: then it exits 5. After
    --timeout it exits 124. What they do meanwhile is told on stderr.
    """
    return asyncio.run(_wait(context, args, aim, timeout))


async def _wait(context: Context, args: Sequence[str], aim: Aim, limit: timedelta | None) -> ExitCode:
    from reconciler.cli.session import open_fleet

    async with open_fleet(context) as fleet:
        return await wait_for(fleet, lambda names: task_names(args, names), aim, limit)


async def wait_for(fleet: "FleetSession", pick: PickNames, aim: Aim, limit: timedelta | None) -> ExitCode:
    """
    Wait for tasks and tell what they do; return how that ended.

    `pick` chooses their names among those of all tasks. Raises NotFound.
    """
    watch = _Watch(aim)
    try:
        async with asyncio.timeout(limit.total_seconds() if limit else None):
            return await watch.follow(fleet, pick)
    except TimeoutError:
        more = (
            f" for {', '.join(watch.left)}; `reconciler describe {watch.left[0]}` says more"
            if watch.left
            else ""
        )
        click.echo(f"after {format_duration(limit or timedelta())} still waiting{more}", err=True)
        return ExitCode.TIMED_OUT


class _Watch:
    """Tasks that are waited for."""

    def __init__(self, aim: Aim) -> None:
        self._aim = aim
        self._lines: dict[str, str] = {}
        self.left: list[str] = []
        """Those that are not there yet."""

    async def follow(self, fleet: "FleetSession", pick: PickNames) -> ExitCode:
        """Follow the fleet until it is decided how this ends."""
        from reconciler.cli.follow import FleetFollower

        names: Sequence[str] = ()
        async with aclosing(FleetFollower(fleet).models()) as models:
            async for model in models:
                names = names or _there(pick, model.names())
                views = {name: model.task(name) for name in names}
                if (ended := self._look(views)) is not None:
                    return ended
        raise AssertionError("a fleet is followed for ever")  # pragma: no cover - as its type cannot say

    def _look(self, views: "Mapping[str, TaskView]") -> ExitCode | None:
        ends = {name: has_reached(view, self._aim) for name, view in views.items()}
        for name, view in views.items():
            self._tell(view)
            if ends[name] and name in (self.left or views):
                click.echo(f"{name} {view.phase}")
        self.left = [name for name, end in ends.items() if not end]
        if any(end is False for end in ends.values()):
            self._say_why(next(views[name] for name, end in ends.items() if end is False))
            return ExitCode.ENDED_BADLY
        return None if self.left else ExitCode.OK

    def _tell(self, view: "TaskView") -> None:
        from reconciler.cli.render import shown_reason

        place = f" on {view.assigned_host or view.assigned_agent}" if view.is_live else ""
        why = shown_reason(view)
        args = f"{view.name}: {view.state}{place}" + (f", {why}" if why else "")
        if self._lines.get(view.name) != args:
            self._lines[view.name] = args
            click.echo(args, err=True)

    def _say_why(self, view: "TaskView") -> None:
        from reconciler.cli.failures import failure_text

        if view.cause:
            click.echo(failure_text(view.cause), err=True)


def has_reached(view: "TaskView", aim: Aim) -> bool | None:
    """Return whether a task got as far as is waited for; False if it cannot any more, None: not yet."""
    from reconciler.core.model.status import Phase

    if view.status is None and view.spec is None and not view.problems:
        return False  # it is gone
    if not view.phase.is_settled:
        return (aim == "review" and view.phase is Phase.REVIEW_PENDING) or None
    if view.spec and view.status and view.spec.work != view.status.work:
        return None  # it was asked for once more, and that is not on record yet
    return aim == "settled" or view.phase is Phase.COMPLETED


def _there(pick: PickNames, names: Collection[str]) -> Sequence[str]:
    picked = pick(names)
    for name in picked:
        if name not in names:
            raise NotFound(no_such("task", name, names))
    return picked
