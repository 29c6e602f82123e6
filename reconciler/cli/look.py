"""
Looking at a fleet: `get`, `describe`, `explain`.

What `get` and `describe` show is what is committed and on record, not the work tree.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.names import one_task, refer, task_name, words_argument
from reconciler.cli.output import list_output, print_json, print_list, print_table, print_yaml

if TYPE_CHECKING:
    from reconciler.cli.fleet import Fleet
    from reconciler.cli.kinds import Kind
    from reconciler.core.model import Desired, Observed
    from reconciler.core.placement import Placement
    from reconciler.specs.explain import Explained


@click.command()
@words_argument("[KIND] [NAME]...", required=False)
@list_output
@click.pass_obj
def get(context: Context, words: tuple[str, ...], output: str) -> None:
    """
    List tasks, hosts, agents, adapters or repos.

    Tasks if no KIND is named. A kind may be written in the singular, the plural
    or short (t, h, ag, ad, r), and before a name: `get host/local`.
    """
    shown, names, desired, observed, closed = asyncio.run(_listed(context, words))
    items = shown.pick(desired, observed, names, closed)
    print_list(items, shown.columns(clock.now()), shown.document, output)


async def _listed(
    context: Context, words: Sequence[str]
) -> "tuple[Kind, Sequence[str], Desired, Observed, Mapping[str, datetime]]":
    """Return the kind and names meant, what is asked for and on record, and which hosts are closed."""
    from reconciler.cli.fleet import opened
    from reconciler.cli.kinds import KINDS
    from reconciler.core.references import kind_of

    async with opened(context) as fleet:
        desired, observed = await fleet.recorded()
        kind = kind_of(words[0]) if len(words) == 1 else None
        if kind or not words:
            shown, names = KINDS[kind or "task"], []
        else:
            found = refer(words, lambda kind: KINDS[kind].find(desired, observed, {}))
            if len({each.kind for each in found}) > 1:
                raise click.UsageError(f"one kind at a time: {' '.join(words)!r} names several")
            shown, names = KINDS[found[0].kind], [each.name for each in found]
        return shown, names, desired, observed, await _closed(fleet, shown.name, desired)


@click.command()
@words_argument("[KIND[/]]NAME")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text", help="How to print it."
)
@click.pass_obj
def describe(context: Context, words: tuple[str, ...], output: str) -> None:
    """
    Show all that is known of one thing.

    `web/fix-login` is a task; other kinds are named, as in `host/local` or
    `host local`.
    """
    kind, names, desired, observed, closed = asyncio.run(_listed(context, words))
    if len(names) != 1:
        raise click.UsageError(f"one thing at a time: {' '.join(words)!r} is no kind and a name")
    (item,) = kind.pick(desired, observed, names, closed)
    if output == "text":
        click.echo(kind.details(item, clock.now()))
    else:
        {"json": print_json, "yaml": print_yaml}[output](kind.document(item))


async def _closed(fleet: "Fleet", kind: str, desired: "Desired") -> "Mapping[str, datetime]":
    """Return, of hosts that people closed, since when."""
    hosts = desired.hosts.values() if kind == "host" else ()
    return await fleet.closed_since([host.name for host in hosts if host.cordon or host.drain])


@click.command()
@one_task
@click.option("--rev", metavar="REVISION", help="Look at a commit or branch in place of the work tree.")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print it."
)
@click.pass_obj
def explain(context: Context, words: tuple[str, ...], rev: str | None, output: str) -> None:
    """
    Show where each value of a task comes from.

    And where it would run now: every host, with the reason for or against it.
    """
    from reconciler.cli.preview import placement_document, placement_rows

    name, fields, placement = asyncio.run(_explained(context, words, rev))
    if output == "json":
        origins = [{"field": each.field, "value": each.value, "origin": each.origin} for each in fields]
        print_json(
            {"kind": "task", "name": name, "fields": origins, "placement": placement_document(placement)}
        )
    else:
        print_table(("FIELD", "VALUE", "FROM"), [(each.field, each.value, each.origin) for each in fields])
        click.echo()
        print_table(("HOST", "CHOICE", "SCORE", "WHY"), list(placement_rows(placement)))


async def _explained(
    context: Context, words: Sequence[str], rev: str | None
) -> "tuple[str, Sequence[Explained], Placement]":
    from reconciler.cli.fleet import opened
    from reconciler.core.placement import place, slots_in_use
    from reconciler.specs.explain import explain as explained
    from reconciler.specs.fleet import build

    async with opened(context) as fleet:
        revision, files = await fleet.files(rev)
        observed = await fleet.observed()
    desired = build(files, revision=revision)
    name = task_name(words, desired.tasks.keys() | desired.broken.keys())
    fields = explained(files, name)
    others = {other: status for other, status in observed.statuses.items() if other != name}
    used = slots_in_use(others, observed)
    return name, fields, place(desired.tasks[name], observed.statuses.get(name), desired, observed, used)
