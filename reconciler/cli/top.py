"""
The fleet at work, full screen: `top`.
"""

import asyncio
import os
import select
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import click

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.help import examples
from reconciler.cli.output import COLOURS, print_table
from reconciler.core.text import one_line
from reconciler.core.times import ago

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from reconciler.core.views import HostView, ReadModel, TaskView

TICK = 1.0
"""Seconds between two drawings, for ages to go on; what changed is drawn at once."""
QUIT = frozenset({"q", "Q", "\x03", "\x04"})
HEAD = ("TASK", "PHASE", "SINCE", "ATTEMPT", "WHERE", "WHY")
RANK = {"failed": 0, "escalated": 0, "broken": 0, "running": 1, "assigned": 1, "review_pending": 2}
"""What is drawn first; all else waits, or is done."""


@click.command(epilog=examples("reconciler top", "reconciler top | head   # once, as a table"))
@click.pass_obj
def top(context: Context) -> None:
    """
    Show the fleet at work, live and full screen; q leaves.

    What needs a person comes first, then what runs, then what waits and why.
    Where stdout is no terminal it is printed once.
    """
    asyncio.run(_live(context) if sys.stdout.isatty() and sys.stdin.isatty() else _once(context))


async def _once(context: Context) -> None:
    async with _models(context) as models:
        model = await anext(models)
        print_table(HEAD, task_rows(model, clock.now()), empty="nothing is open: every task is done")


@asynccontextmanager
async def _models(context: Context) -> "AsyncIterator[AsyncIterator[ReadModel]]":
    from reconciler.cli.follow import FleetFollower
    from reconciler.cli.session import open_fleet

    async with open_fleet(context) as fleet, aclosing(FleetFollower(fleet).models()) as models:
        yield models


async def _live(context: Context) -> None:
    from rich.console import Console

    # Past the guarded stdout, which lets no cursor be moved; what is drawn is harmless text.
    encoding = sys.stdout.encoding
    file = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding=encoding, errors="backslashreplace")
    console = Console(file=file, no_color=bool(os.environ.get("NO_COLOR")), highlight=False)
    with file:
        await _draw(context, console)


async def _draw(context: Context, console: "Console") -> None:
    from rich.live import Live

    async with _models(context) as models:
        model = await anext(models)
        following = asyncio.ensure_future(anext(models))
        try:
            with _keys(), Live(console=console, screen=True, auto_refresh=False) as live:
                while not _wants_to_leave():
                    live.update(screen(model, clock.now(), console.size.height), refresh=True)
                    await asyncio.wait([following], timeout=TICK / 4)
                    if following.done():
                        model = following.result()
                        following = asyncio.ensure_future(anext(models))
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@contextmanager
def _keys() -> Iterator[None]:
    """Let single keys be read, and the terminal be as it was in the end."""
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _wants_to_leave() -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(ready) and os.read(sys.stdin.fileno(), 1).decode("latin-1") in QUIT


# --- What is drawn ---------------------------------------------------------


def screen(model: "ReadModel", now: datetime, height: int) -> "RenderableType":
    """Return the whole screen: counts and hosts above, tasks below, as many as there is room for."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    tasks = Table(box=None, expand=True, pad_edge=False, header_style="bold")
    for title in HEAD[:-1]:
        tasks.add_column(title, no_wrap=True, overflow="ellipsis")
    tasks.add_column(HEAD[-1], no_wrap=True, overflow="ellipsis", ratio=1)
    hosts = [host_line(host) for host in model.hosts().values()]
    room = max(1, height - len(hosts) - 5)
    rows = task_rows(model, now)
    for row in rows[:room]:
        name, phase, *others = (Text(one_line(cell)) for cell in row)
        phase.stylize(COLOURS.get(row[1], ""))
        tasks.add_row(name, phase, *others)
    more = f"{len(rows) - room} more; `reconciler get` lists them" if len(rows) > room else "q leaves"
    return Group(Text(counts(model), style="bold"), *map(Text, hosts), Text(), tasks, Text(more, style="dim"))


def counts(model: "ReadModel") -> str:
    """Return how many tasks are in which state, and how many things need a person."""
    states = Counter(view.state for view in model.tasks().values())
    needs = sum(1 for _ in model.needs())
    asks = f"; {needs} need{'s' * (needs == 1)} a person" if needs else ""
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items())) + asks


def host_line(host: "HostView") -> str:
    """Return a host with its slots: `gpu1 up ##..`."""
    return f"{host.name:<16} {host.state:<9} {'#' * host.used}{'.' * host.free} {host.used}/{host.spec.slots}"


def task_rows(model: "ReadModel", now: datetime) -> Sequence[Sequence[str]]:
    """Return tasks that are not done, what needs a person first."""
    from reconciler.cli.render import shown_reason

    open_tasks = [view for view in model.tasks().values() if not _is_done(view)]
    return [
        (
            view.name,
            view.state,
            ago(view.since, now) if view.since else "-",
            str(view.status.attempt) if view.status else "-",
            view.assigned_host or view.assigned_agent or "-",
            shown_reason(view) or _last_output(view, now),
        )
        for view in sorted(open_tasks, key=lambda view: (RANK.get(view.state, 3), view.name))
    ]


def _last_output(view: "TaskView", now: datetime) -> str:
    return f"last output {ago(view.last_output_at, now)} ago" if view.last_output_at else ""


def _is_done(view: "TaskView") -> bool:
    return view.state in {"completed", "cancelled", "removed"}
