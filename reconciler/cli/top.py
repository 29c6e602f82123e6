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
from typing import TYPE_CHECKING, NamedTuple

import click

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.help import examples
from reconciler.cli.output import COLOURS, print_table
from reconciler.core.text import one_line
from reconciler.core.times import age_at, ago

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from reconciler.core.views import HostView, ReadModel, TaskView

TICK = 0.5
"""Seconds between two drawings, for ages to go on and keys to be read; what changed is drawn at once."""
NOTHING = "nothing is open: every task is done"
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
        rows = [task_row(view, clock.now()) for view in board_of(model).tasks]
        print_table(HEAD, rows, empty=NOTHING)


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
                board = board_of(model)
                while not _wants_to_leave():
                    live.update(screen(board, clock.now(), console.size.height), refresh=True)
                    await asyncio.wait([following], timeout=TICK)
                    if following.done():
                        board = board_of(following.result())
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


class Board(NamedTuple):
    """What is drawn of a fleet, put together once for each change of it."""

    counts: str
    hosts: Sequence[str]
    tasks: "Sequence[TaskView]"
    """Those that are not done, what needs a person first."""


def board_of(model: "ReadModel") -> Board:
    """Return what is to be drawn of a fleet."""
    open_tasks = [view for view in model.tasks().values() if not _is_done(view)]
    tasks = sorted(open_tasks, key=lambda view: (RANK.get(view.state, 3), view.name))
    return Board(state_counts(model), [host_line(host) for host in model.hosts().values()], tasks)


def screen(board: Board, now: datetime, height: int) -> "RenderableType":
    """Return the whole screen: counts and hosts above, tasks below, as many as there is room for."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    tasks = Table(box=None, expand=True, pad_edge=False, header_style="bold")
    for title in HEAD[:-1]:
        tasks.add_column(title, no_wrap=True, overflow="ellipsis")
    tasks.add_column(HEAD[-1], no_wrap=True, overflow="ellipsis", ratio=1)
    hosts = board.hosts[: height // 2]
    room = max(1, height - len(hosts) - 5)
    for view in board.tasks[:room]:
        name, phase, *others = (Text(one_line(cell)) for cell in task_row(view, now))
        phase.stylize(COLOURS.get(view.state, ""))
        tasks.add_row(name, phase, *others)
    left = len(board.tasks) - room
    more = f"{left} more; `reconciler get` lists them; q leaves" if left > 0 else "q leaves"
    shown = tasks if board.tasks else Text(NOTHING)
    return Group(Text(board.counts, style="bold"), *map(Text, hosts), Text(), shown, Text(more, style="dim"))


def state_counts(model: "ReadModel") -> str:
    """Return how many tasks are in which state, and how many things need a person."""
    states = Counter(view.state for view in model.tasks().values())
    needs = sum(1 for _ in model.needs())
    asks = f"; {needs} need{'s' * (needs == 1)} a person" if needs else ""
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items())) + asks


def host_line(host: "HostView") -> str:
    """Return a host with its slots: `gpu1 up ##..`."""
    return f"{host.name:<16} {host.state:<9} {'#' * host.used}{'.' * host.free} {host.used}/{host.spec.slots}"


def task_row(view: "TaskView", now: datetime) -> Sequence[str]:
    """Return the cells of a task."""
    from reconciler.cli.live import live_text
    from reconciler.cli.render import shown_reason

    return (
        view.name,
        view.state,
        ago(view.since, now) if view.since else "-",
        str(view.status.attempt) if view.status else "-",
        view.assigned_host or view.assigned_agent or "-",
        shown_reason(view) or (live_text(view.live, age_at(now)) if view.live else ""),
    )


def _is_done(view: "TaskView") -> bool:
    return view.state in {"completed", "cancelled", "removed"}
