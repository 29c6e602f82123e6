"""
Looking at a fleet: `get`, `describe`, `explain`.

`get` and `describe` show the committed specs and the record, not the work tree.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.help import examples
from reconciler.cli.notices import say_if_nobody_serves, say_if_unserved
from reconciler.cli.output import (
    Listing,
    ListWriter,
    OutputFormat,
    list_options,
    output_option,
    print_document,
    print_list,
    print_table,
)
from reconciler.cli.pager import paged
from reconciler.cli.references import explained_argument, reference_argument, resolve_references, task_name
from reconciler.cli.selectors import Selector, selector_option
from reconciler.core.errors import NotFound
from reconciler.core.names import DEFAULT_SHARD
from reconciler.core.times import age_at

if TYPE_CHECKING:
    from reconciler.cli.looks import Look, ShownThing
    from reconciler.cli.session import FleetSession
    from reconciler.cli.shapes import ExplainShape, WaitsForShape
    from reconciler.cli.shown import ShownKind
    from reconciler.core.model.specs import Desired
    from reconciler.core.model.status import Waiting
    from reconciler.core.planning.placement import Placement
    from reconciler.core.runs.failure import FailureSummary
    from reconciler.core.views import ReadModel, TaskView
    from reconciler.specs.explain import Explained


@click.command(
    epilog=examples(
        "reconciler get",
        "reconciler get tasks -l team=web --sort-by -since",
        "reconciler get hosts -o wide",
        "reconciler get task web/fix-login -o jsonpath='{.status.run}'",
        "reconciler get -w --no-headers",
    )
)
@reference_argument("[KIND] [NAME]...", required=False)
@selector_option
@click.option("-w", "--watch", is_flag=True, help="Go on, until Ctrl-C, with what changes.")
@click.option("--watch-only", is_flag=True, help="The same without the list to begin with.")
@list_options()
@click.pass_obj
def get(
    context: Context,
    args: tuple[str, ...],
    *,
    selectors: tuple[Selector, ...],
    watch: bool,
    watch_only: bool,
    listing: Listing,
) -> None:
    """
    List tasks, campaigns, hosts, agents, adapters, accounts or repos.

    Tasks if no KIND is named. A kind may be written in the singular, the plural
    or short (t, c, h, ag, ad, ac, r), and before a name: `get host/local`. With -w,
    JSON is printed a line for each thing, whenever it changed.
    """
    if watch or watch_only:
        asyncio.run(_watch(context, args, selectors, listing, has_list=not watch_only))
        return
    shown, items = asyncio.run(_listed(context, args))
    items = shown.select(items, selectors)
    with paged(context):
        print_list(items, shown.columns(age_at(clock.now())), shown.document, listing)
    if shown.name == "task" and listing.output.form in {"table", "wide"}:
        _say_what_failed(items, in_full=len(items) == 1 and len(args) > 0)


async def _watch(
    context: Context, args: Sequence[str], selectors: Sequence[Selector], listing: Listing, *, has_list: bool
) -> None:
    """Print things, and those again that changed, until we are interrupted."""
    from reconciler.cli.follow import FleetFollower
    from reconciler.cli.session import open_fleet

    writer: ListWriter[Any] | None = None
    documents: dict[str, dict[str, Any]] = {}
    async with open_fleet(context) as fleet, aclosing(FleetFollower(fleet).models()) as models:
        async for model in models:
            shown, items = await _picked(fleet, model, args)
            picked = listing.sorted(shown.select(items, selectors), shown.document)
            fresh = {each["name"]: each for each in map(_lasting, map(shown.document, picked))}
            for name in documents.keys() - fresh.keys():
                click.echo(f"{shown.name} {name} is gone", err=True)
            if writer is not None or has_list:
                writer = writer or ListWriter(shown.columns(age_at(clock.now())), shown.document, listing)
                changed = [
                    item
                    for item, (name, each) in zip(items, fresh.items(), strict=True)
                    if documents.get(name) != each
                ]
                writer.write(changed)
            writer = writer or ListWriter(shown.columns(age_at(clock.now())), shown.document, listing)
            documents = fresh


def _lasting(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document without the figures that change all the time."""
    return {key: value for key, value in document.items() if key != "live"}


def _say_what_failed(views: "Sequence[TaskView]", *, in_full: bool) -> None:
    """Print on stderr what to do about failed tasks: in full for a single named one, else where to look."""
    failed = [view for view in views if view.is_bad_end]
    if not failed:
        return
    if in_full and failed[0].cause:
        from reconciler.cli.failures import failure_text

        click.echo(failure_text(failed[0].cause), err=True)
    else:
        name = failed[0].name
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        click.echo(f"{name}{more} failed: `reconciler describe {name}` shows why, and what to do", err=True)


async def _listed(
    context: Context, args: Sequence[str], *, is_one: bool = False
) -> "tuple[ShownKind, list[Any]]":
    """Return the kind and its items; for a few tasks also why they failed."""
    from reconciler.cli.looks import look_snapshot, save_look
    from reconciler.cli.serving import forge_outages
    from reconciler.cli.session import open_fleet

    async with open_fleet(context) as fleet:
        snapshot = await look_snapshot(fleet)
        outages = await forge_outages(fleet, await fleet.state_branch())
        look = None if outages else snapshot.load()
        if look and not look.summary.is_settled:
            await say_if_unserved(fleet, await fleet.state_branch(), clock.now())
        if look and (picked := await _pick_of_look(fleet, look, args, is_one=is_one)):
            kind, things = picked
            if not (_has_causes(kind, args, is_one=is_one) and any(map(_has_cause, things))):
                return kind, things
        model = await _read(fleet, args, is_quiet=look is not None)
        if outages:
            from reconciler.core.views import forge_waits

            waits = forge_waits(model.desired, model.observed.statuses, outages)
            faults = {repo: outage.why for repo, outage in outages.items()}
            model = replace(model, unrecorded=waits, forge_faults=faults)
        if look is None and not outages:
            await save_look(fleet, snapshot, model)
        return await _picked(fleet, model, args, is_one=is_one)


async def _pick_of_look(
    fleet: "FleetSession", look: "Look", args: Sequence[str], *, is_one: bool
) -> "tuple[ShownKind, list[Any]] | None":
    """Return what args pick of the last look; None if some of it is in the archive, which no look has."""
    try:
        return _pick(look.kinds, look, args, is_one=is_one)
    except NotFound:
        if await fleet.is_archived(args):
            return None
        raise


async def _read(fleet: "FleetSession", args: Sequence[str], *, is_quiet: bool) -> "ReadModel":
    """
    Return the read model, from the specs and the record, with tasks of the archive that args name.

    Says that nobody serves, unless quiet.
    """
    from reconciler.cli.serving import figures_in
    from reconciler.core.views import ReadModel

    desired, observed = await fleet.recorded(args)
    if not is_quiet:
        await say_if_nobody_serves(fleet, desired.fleet.state_branch, observed.statuses, clock.now())
    return ReadModel(desired, observed, live=figures_in(fleet.context.data_dir))


async def _picked(
    fleet: "FleetSession", model: "ReadModel", args: Sequence[str], *, is_one: bool = False
) -> "tuple[ShownKind, list[Any]]":
    """Return the kind that args mean, and what they pick of a fleet; of tasks that are named also causes."""
    from reconciler.cli.kinds import SHOWN_KINDS

    shown, items = _pick(SHOWN_KINDS, model, args, is_one=is_one)
    if shown.name == "host":
        model = replace(model, closed=await _closed(fleet, shown.name, model.desired))
        _, items = _pick(SHOWN_KINDS, model, args, is_one=is_one)
    has_causes = _has_causes(shown, args, is_one=is_one)
    return shown, _with_causes(items, model.desired, fleet.context) if has_causes else items


def _has_causes(shown: "ShownKind", args: Sequence[str], *, is_one: bool) -> bool:
    """Return whether failures are shown with what this machine has of them: of tasks that are named."""
    return shown.name == "task" and (is_one or not _is_list(args))


def _has_cause(thing: "ShownThing") -> bool:
    return thing.document["cause"] is not None


def _is_list(args: Sequence[str]) -> bool:
    """Return whether a whole kind is meant."""
    from reconciler.core.references import kind_of

    return not args or (len(args) == 1 and kind_of(args[0]) is not None)


def _pick(
    kinds: "Mapping[str, ShownKind]", model: Any, args: Sequence[str], *, is_one: bool
) -> "tuple[ShownKind, list[Any]]":
    """Return the kind that args mean, and what they pick. Raises UsageError, NotFound."""
    from reconciler.core.references import kind_of

    if not is_one and _is_list(args):
        shown = kinds[(kind_of(args[0]) if args else None) or "task"]
        return shown, shown.pick(model)
    references = resolve_references(args, lambda kind: kinds[kind].find(model))
    for each in references:
        is_no_task = each.kind == "task" and each.name not in kinds["task"].find(model)
        if is_no_task and each.name in kinds["campaign"].find(model):
            raise NotFound(f"no task {each.name!r}, but a campaign: `campaign/{each.name}`")
    if len({each.kind for each in references}) > 1:
        raise click.UsageError(f"one kind at a time: {' '.join(args)!r} names several; call it once for each")
    if is_one and len(references) > 1:
        raise click.UsageError(f"one thing at a time: {' '.join(args)!r} is no kind and a name")
    shown = kinds[references[0].kind]
    return shown, shown.pick(model, [each.name for each in references])


def _with_causes(views: "Sequence[TaskView]", desired: "Desired", context: Context) -> "list[TaskView]":
    """Return tasks with the local details of their failures."""
    from reconciler.dispatch.failures import describe_failure

    return [
        replace(
            view,
            known_cause=describe_failure(
                view.name, view.status, desired, context.data_of(view.shard or DEFAULT_SHARD)
            ),
        )
        for view in views
    ]


@click.command(epilog=examples("reconciler describe web/fix-login", "reconciler describe host/gpu1 -o yaml"))
@reference_argument("[KIND[/]]NAME")
@output_option("text")
@click.pass_obj
def describe_command(context: Context, args: tuple[str, ...], output: OutputFormat) -> None:
    """
    Show everything about one task, campaign, host, agent, adapter, account or repo.

    `web/fix-login` is a task; other kinds are named, as in `host/local` or
    `host local`.
    """
    _describe(context, args, output)


def _describe(context: Context, args: Sequence[str], output: OutputFormat) -> None:
    kind, items = asyncio.run(_listed(context, args, is_one=True))
    (item,) = items
    if not print_document(kind.document(item), output):
        with paged(context):
            click.echo(kind.details(item, age_at(clock.now())))


async def _closed(fleet: "FleetSession", kind: str, desired: "Desired") -> "Mapping[str, datetime]":
    """Return when hosts were closed by people, by name."""
    hosts = desired.hosts.values() if kind == "host" else ()
    return await fleet.closed_since([host.name for host in hosts if host.cordon or host.drain])


@click.command(
    epilog=examples(
        "reconciler explain web/fix-login",
        "reconciler explain web/fix-login -o jsonpath='{.placement.chosen}'",
        "reconciler explain error stall",
    )
)
@explained_argument
@click.option("--rev", metavar="REVISION", help="Look at a commit or branch in place of the work tree.")
@output_option("table")
@click.pass_obj
def explain_command(context: Context, args: tuple[str, ...], rev: str | None, output: OutputFormat) -> None:
    """
    Show where each value of a task comes from, or what an error means.

    Of a task also what it waits for, and where it would run now: every host, with the reason for or
    against it. Of `campaign/NAME` how far its tasks are, and what keeps more of them from beginning.
    `error CODE` explains a failure class, a reason to wait, the state of a host, an exit code
    or a message; `error` alone lists all codes.
    """
    from reconciler.cli.errors import WORD, explain_error

    if args[0] == WORD:
        explain_error(" ".join(args[1:]), output)
        return
    if _means_campaign(args):  # its tasks are explained one by one, and it by how far they are
        _describe(context, args, output)
        return
    from reconciler.cli.failures import failure_text
    from reconciler.cli.preview import placement_document, placement_rows
    from reconciler.cli.render import cause_document
    from reconciler.core.times import format_time

    name, fields, placement, failure, waiting = asyncio.run(_explained(context, args, rev))
    document: ExplainShape = {
        "kind": "task",
        "name": name,
        "cause": cause_document(failure) if failure else None,
        "waiting": _waits_for(waiting) if waiting else None,
        "fields": [{"field": each.field, "value": each.value, "origin": each.origin} for each in fields],
        "placement": placement_document(placement),
    }
    if not print_document(document, output):
        with paged(context):
            if failure:
                click.echo(f"{failure_text(failure)}\n")
            if waiting:
                click.echo(f"waits since {format_time(waiting.since)}: {waiting.reason}: {waiting.message}\n")
            print_table(
                ("FIELD", "VALUE", "FROM"), [(each.field, each.value, each.origin) for each in fields]
            )
            click.echo()
            print_table(("HOST", "CHOICE", "SCORE", "WHY"), list(placement_rows(placement)))


def _means_campaign(args: Sequence[str]) -> bool:
    from reconciler.core.references import kind_of, split

    return (kind_of(args[0]) if len(args) > 1 else split(args[0])[0]) == "campaign"


def _waits_for(waiting: "Waiting") -> "WaitsForShape":
    from reconciler.core.times import format_time

    return {
        "reason": waiting.reason,
        "message": waiting.message,
        "since": format_time(waiting.since),
    }


async def _explained(
    context: Context, args: Sequence[str], rev: str | None
) -> "tuple[str, Sequence[Explained], Placement, FailureSummary | None, Waiting | None]":
    from reconciler.cli.serving import forge_outages
    from reconciler.cli.session import open_fleet
    from reconciler.core.planning.accounts import AccountPool
    from reconciler.core.planning.placement import home_host, place, slots_in_use
    from reconciler.core.shards import shard_parts
    from reconciler.core.views import forge_waits
    from reconciler.dispatch.failures import describe_failure
    from reconciler.specs.explain import explain_fields

    async with open_fleet(context) as fleet:
        revision, files = await fleet.files(rev)
        observed = await fleet.observed(args)
        outages = await forge_outages(fleet, await fleet.state_branch())
        desired = await fleet.in_force(revision, files)
    name = task_name(args, desired.tasks.keys() | desired.broken.keys() | observed.statuses.keys())
    if name not in desired.tasks and (archived := observed.statuses.get(name)) and archived.archived:
        raise NotFound(f"{name} is archived: no spec asks for it; `reconciler describe {name}` shows it")
    fields = explain_fields(files, name)
    parts = shard_parts(desired, observed)
    shard, desired, observed = next(part for part in parts if name in {*part[1].tasks, *part[1].broken})
    others = {other: status for other, status in observed.statuses.items() if other != name}
    used = slots_in_use(others, observed)
    status = observed.statuses.get(name)
    failure = describe_failure(name, status, desired, context.data_of(shard))
    task = desired.tasks[name]
    home = home_host(task, status, desired, observed, clock.now()) if status else None
    accounts = AccountPool(desired, observed, others.values(), clock.now())
    placement = place(task, status, desired, observed, used, only=home, accounts=accounts)
    if placement.chosen:
        placement = replace(placement, account=accounts.choose(task, placement.chosen, status))
    waits = forge_waits(desired, {name: status} if status else {}, outages)
    waiting = status.waiting if status else None
    return (
        name,
        fields,
        placement,
        failure if status and status.has_failed else None,
        waits.get(name, waiting),
    )
