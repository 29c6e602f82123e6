"""
What happens, in its order: `events`.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.help import examples
from reconciler.cli.output import Listing, ListWriter, list_options
from reconciler.cli.references import reference_argument, task_name
from reconciler.core.transitions import TransitionRecord, transition_document

if TYPE_CHECKING:
    from reconciler.store.history import HistoryReader

BATCH = 1000
"""Events that are read at once."""


@click.command(
    epilog=examples(
        "reconciler events -f",
        "reconciler events web/fix-login -f -n 0",
        "reconciler events -f -o jsonpath='{.at} {.task} {.after}'",
    )
)
@reference_argument("[[task/]NAME]", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on, until Ctrl-C, with what happens from now on.")
@click.option(
    "-n",
    "--number",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="How many of the past to begin with.",
)
@click.option(
    "--after",
    metavar="COMMIT",
    help="Begin after this commit of the record, as `-o json` names it: nothing is missed or told twice.",
)
@list_options("table", "wide")
@click.pass_obj
def events(
    context: Context,
    args: tuple[str, ...],
    *,
    follow: bool,
    number: int,
    after: str | None,
    listing: Listing,
) -> None:
    """
    Show what happens, oldest first, as it happens with -f.

    The same as `history`, which looks back from the newest. With -f, JSON is
    printed a line for each event.
    """
    if listing.sort_by and follow:
        raise click.UsageError("--sort-by cannot be meant with -f: events come in the order of time")
    asyncio.run(_events(context, args, number, after, listing, is_followed=follow))


async def _events(
    context: Context,
    args: Sequence[str],
    number: int,
    after: str | None,
    listing: Listing,
    *,
    is_followed: bool,
) -> None:
    from reconciler.cli.follow import moves
    from reconciler.cli.history import columns
    from reconciler.cli.session import open_fleet
    from reconciler.store.history import HistoryReader

    async with open_fleet(context) as fleet:
        ref = fleet.repository.ref(await fleet.record_branch())
        past = HistoryReader(fleet.repository, lambda: fleet.repository.read_ref(ref) or "")
        task = task_name(args, await fleet.names("task")) if args else None
        shown = columns(clock.now(), is_terminal=False, is_one=task is not None)
        writer = ListWriter(shown, transition_document, listing, is_stream=is_followed)
        if after is None:
            last = past.head()
            entries = [*reversed(await past.before(None, task, number))] if number else []
            if task is not None and not entries:
                await fleet.spec_file("task", task)  # nothing has happened to it; or it is not there
        else:
            last, entries = await _since(past, after, task)
        writer.write(entries)
        if not is_followed:
            return
        async with aclosing(moves(fleet.repository, [ref])) as changes:
            async for _ in changes:
                last, entries = await _since(past, last, task)
                writer.write(entries)


async def _since(past: "HistoryReader", last: str, task: str | None) -> tuple[str, list[TransitionRecord]]:
    """Return the newest commit, and what happened up to it after another one, to one task or to all."""
    entries: list[TransitionRecord] = []
    while batch := await past.since(last, BATCH):
        entries += batch
        last = batch[-1].commit
    return last, [each for each in entries if task in {None, each.task, each.renamed_from}]
