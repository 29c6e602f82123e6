"""
Usage and cost: `cost`, from history alone.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from heapq import merge
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.help import examples
from reconciler.cli.output import OutputFormat, output_option, print_document, print_table
from reconciler.cli.pager import busy
from reconciler.cli.params import duration
from reconciler.core.adapter import Usage
from reconciler.core.costs import KEYS, NONE, Contest, Sums, contests_by_name, sums_by_name, total
from reconciler.core.fields import format_duration
from reconciler.core.times import format_time

if TYPE_CHECKING:
    from reconciler.cli.shapes import CostShape
    from reconciler.store.spending import Spending


@click.command(
    epilog=examples(
        "reconciler cost", "reconciler cost --by day --since 30d", "reconciler cost --by model -o json"
    )
)
@click.option(
    "--by", type=click.Choice(list(KEYS)), default="task", show_default=True, help="What to group by."
)
@click.option(
    "--since", metavar="DURATION", callback=duration, help="Only what is newer than this, such as 7d."
)
@output_option("table")
@click.pass_obj
def cost(context: Context, by: str, since: timedelta | None, output: OutputFormat) -> None:
    """
    Show usage: tokens, time and money.

    Read from the history of the record alone, so that removed tasks count too.
    Money is what the agents' CLIs report; where they report none, tokens by the
    price of the model (specs/prices.yaml): RECKONED says how much of it. UNPRICED
    are tokens without either, which cost what nobody knows. WON says how many
    variants were chosen, of how many that ended: who wins where.
    """
    begin = clock.now() - since if since is not None else None
    spent = asyncio.run(_spending(context, begin))
    sums, contests = sums_by_name(spent, by), contests_by_name(spent, by)
    if not print_document(cost_document(sums, by, begin, contests), output):
        whole = total(sums)
        columns = {name: text for name, text in _MONEY.items() if name == "USD" or float(text(whole))}
        rows = [_row(name, usage, columns.values()) for name, usage in (*sums.items(), ("total", whole))]
        head = _head(by, columns)
        if contests:
            head, rows = (*head, "WON"), [(*row, _won(contests.get(row[0]))) for row in rows]
        print_table(head, rows if sums else [])


async def _spending(context: Context, since: datetime | None) -> "Sequence[Spending]":
    from reconciler.cli.session import open_fleet
    from reconciler.store.spending import spending

    async with open_fleet(context) as fleet:
        with busy("summing up the history"):
            branches = (await fleet.record_branches()).values()
            read = [await spending(fleet.repository, branch, since=since) for branch in branches]
            return [*merge(*read, key=lambda each: each.at)]


_MONEY: Mapping[str, Callable[[Usage], str]] = {
    "USD": lambda usage: f"{usage.cost_usd:.2f}",
    "RECKONED": lambda usage: f"{usage.reckoned_usd:.2f}",
    "UNPRICED": lambda usage: str(usage.unpriced_tokens),
}
"""Columns about money; those but the first are left out where nothing is in them."""


def _head(by: str, columns: Iterable[str]) -> Sequence[str]:
    return by.upper(), "INPUT", "OUTPUT", "CACHED", "TURNS", "TIME", *columns


def _row(name: str, usage: Usage, columns: Iterable[Callable[[Usage], str]]) -> Sequence[str]:
    return (
        name,
        str(usage.input_tokens),
        str(usage.output_tokens),
        str(usage.cached_tokens),
        str(usage.turns),
        format_duration(timedelta(seconds=usage.seconds)),
        *(column(usage) for column in columns),
    )


def _won(contest: Contest | None) -> str:
    return f"{contest.wins}/{contest.tries}" if contest else ""


def cost_document(
    sums: Sums, by: str, since: datetime | None, contests: Mapping[str, Contest] = MappingProxyType({})
) -> "CostShape":
    """Return sums as `-o json` prints them."""
    return {
        "by": by,
        "since": format_time(since) if since else None,
        "sums": [
            {
                by: name if name != NONE else None,
                **usage.model_dump(),
                **contests.get(name, Contest())._asdict(),
            }
            for name, usage in sums.items()
        ],
        "total": total(sums).model_dump(),
    }
