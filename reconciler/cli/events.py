"""
What happens, in its order: `events`.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING

import click

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.help import examples
from reconciler.cli.output import Listing, ListWriter, list_options
from reconciler.cli.references import reference_argument, task_name
from reconciler.core.errors import NotFound
from reconciler.core.transitions import TransitionRecord, transition_document

if TYPE_CHECKING:
    from reconciler.git.repository import Repository
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
        refs = [fleet.repository.ref(branch) for branch in (await fleet.record_branches()).values()]
        past = [HistoryReader(fleet.repository, partial(_head, fleet.repository, ref)) for ref in refs]
        task = task_name(args, await fleet.names("task")) if args else None
        shown = columns(clock.now(), is_terminal=False, is_one=task is not None)
        writer = ListWriter(shown, transition_document, listing, is_stream=is_followed)
        if after is None:
            last = {each: each.head() for each in past}
            entries = await _before(fleet.repository, last.values(), task, number) if number else []
            if task is not None and not entries:
                await fleet.spec_file("task", task)  # nothing has happened to it; or it is not there
        else:
            last, entries = await _since({await _having(past, after): after}, task)
            last = {each: last.get(each, each.head()) for each in past}
        writer.write(entries)
        if not is_followed:
            return
        async with aclosing(moves(fleet.repository, refs)) as changes:
            async for _ in changes:
                last, entries = await _since(last, task)
                writer.write(entries)


async def _before(
    repository: "Repository", heads: Iterable[str], task: str | None, most: int
) -> "list[TransitionRecord]":
    """Return what happened up to these commits, oldest first: what comes after is told after it."""
    from reconciler.store.history import HistoryReader, newest_of

    read = [await HistoryReader(repository, partial(str, head)).before(None, task, most) for head in heads]
    return [*reversed(newest_of(read, most))]


def _head(repository: "Repository", ref: str) -> str:
    return repository.read_ref(ref) or ""


async def _having(past: "Sequence[HistoryReader]", commit: str) -> "HistoryReader":
    """Return the record that a commit is of, of one shard or another. Raises NotFound."""
    for each in past[:-1]:
        with suppress(NotFound):
            await each.since(commit, 0)
            return each
    return past[-1]


async def _since(
    lasts: "Mapping[HistoryReader, str]", task: str | None
) -> "tuple[dict[HistoryReader, str], list[TransitionRecord]]":
    """Return the newest commits, and what happened up to them after others, to one task or to all."""
    entries: list[TransitionRecord] = []
    newest: dict[HistoryReader, str] = {}
    for past, last in lasts.items():
        newest[past] = last
        while batch := await past.since(newest[past], BATCH):
            entries += batch
            newest[past] = batch[-1].commit
    if len(lasts) > 1:
        entries.sort(key=lambda entry: entry.at)
    return newest, [each for each in entries if task in {None, each.task, each.renamed_from}]
