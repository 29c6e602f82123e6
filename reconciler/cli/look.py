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
from reconciler.cli.notices import say_if_nobody_serves
from reconciler.cli.output import list_output, print_json, print_list, print_table, print_yaml

if TYPE_CHECKING:
    from reconciler.core.model import Desired, Observed
    from reconciler.core.placement import Placement
    from reconciler.specs.explain import Explained

PLURALS = {f"{kind}s": kind for kind in ("task", "host", "agent", "adapter", "repo")}


@click.command()
@click.argument("kind", type=click.Choice(list(PLURALS)))
@click.argument("names", metavar="[NAME]...", nargs=-1)
@list_output
@click.pass_obj
def get(context: Context, kind: str, names: tuple[str, ...], output: str) -> None:
    """List tasks, hosts, agents, adapters or repos."""
    from reconciler.cli.kinds import KINDS

    shown = KINDS[PLURALS[kind]]
    desired, observed, closed = asyncio.run(_recorded(context, kind=shown.name))
    items = shown.pick(desired, observed, names, closed)
    print_list(items, shown.columns(clock.now()), shown.document, output)


@click.command()
@click.argument("words", metavar="[KIND[/]]NAME", nargs=-1, required=True)
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
    from reconciler.cli.kinds import KINDS, named

    if len(words) > 1 and (len(words) > 2 or words[0] not in KINDS):  # noqa: PLR2004 - a kind and a name
        raise click.UsageError(f"one thing at a time: {' '.join(words)!r} is no kind and a name")
    kind, name = named("/".join(words))
    desired, observed, closed = asyncio.run(_recorded(context, kind=kind.name))
    (item,) = kind.pick(desired, observed, [name], closed)
    if output == "text":
        click.echo(kind.details(item, clock.now()))
    else:
        {"json": print_json, "yaml": print_yaml}[output](kind.document(item))


async def _recorded(context: Context, *, kind: str) -> "tuple[Desired, Observed, Mapping[str, datetime]]":
    """Return what is asked for, what is on record, and, of hosts that people closed, since when."""
    from reconciler.cli.fleet import opened

    async with opened(context) as fleet:
        desired, observed = await fleet.recorded()
        await say_if_nobody_serves(fleet, desired.fleet.state_branch, observed.statuses, clock.now())
        hosts = desired.hosts.values() if kind == "host" else ()
        closed = [host.name for host in hosts if host.cordon or host.drain]
        return desired, observed, await fleet.closed_since(closed)


@click.command()
@click.argument("kind", type=click.Choice(["task"]))
@click.argument("name")
@click.option("--rev", metavar="REVISION", help="Look at a commit or branch in place of the work tree.")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print it."
)
@click.pass_obj
def explain(context: Context, kind: str, name: str, rev: str | None, output: str) -> None:
    """
    Show where each value of a task comes from.

    And where it would run now: every host, with the reason for or against it.
    """
    from reconciler.cli.preview import placement_document, placement_rows

    fields, placement = asyncio.run(_explained(context, name, rev))
    if output == "json":
        origins = [{"field": each.field, "value": each.value, "origin": each.origin} for each in fields]
        print_json(
            {"kind": kind, "name": name, "fields": origins, "placement": placement_document(placement)}
        )
    else:
        print_table(("FIELD", "VALUE", "FROM"), [(each.field, each.value, each.origin) for each in fields])
        click.echo()
        print_table(("HOST", "CHOICE", "SCORE", "WHY"), list(placement_rows(placement)))


async def _explained(context: Context, name: str, rev: str | None) -> "tuple[Sequence[Explained], Placement]":
    from reconciler.cli.fleet import opened
    from reconciler.core.placement import place, slots_in_use
    from reconciler.specs.explain import explain as explained
    from reconciler.specs.fleet import build

    async with opened(context) as fleet:
        revision, files = await fleet.files(rev)
        observed = await fleet.observed()
    fields = explained(files, name)
    desired = build(files, revision=revision)
    others = {other: status for other, status in observed.statuses.items() if other != name}
    used = slots_in_use(others, observed)
    return fields, place(desired.tasks[name], observed.statuses.get(name), desired, observed, used)
