"""
Status of a fleet as a whole: `status`.
"""

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import click

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.cli.live import live_document, live_text
from reconciler.cli.output import OutputFormat, output_option, print_document
from reconciler.cli.terminal import shown_table, value_block
from reconciler.core.needs import Need
from reconciler.core.times import age_at, ago, format_time, time_at

if TYPE_CHECKING:
    from reconciler.cli.looks import FleetSummary
    from reconciler.cli.serving import Serving
    from reconciler.cli.session import FleetSession
    from reconciler.cli.shapes import ReconcilerShape, StatusShape
    from reconciler.core.figures import LiveFigures
    from reconciler.store.remote_record import Fetched, Remote


_LEAST_ROOM = 16 << 20
"""Bytes of a disk below which the next commit may be the one that does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStatus:
    """Summary of a fleet: who reconciles, counts, what needs a person."""

    serving: "Serving"
    shards: "Mapping[str, Serving]"
    """Who reconciles the other shards, of a fleet that has several reconcilers."""
    specs_branch: str
    specs: str | None
    """Newest commit."""
    state_branch: str
    state: str | None
    """Newest commit; None: it was never run."""
    state_at: datetime | None
    fetched: "Fetched | None"
    """Where the record was fetched from, in a clone."""
    elsewhere: "Remote | None"
    """Remote that has the record, or may have it, in a clone: the reconciler runs there."""
    phases: Mapping[str, int]
    hosts: Mapping[str, int]
    live: "Mapping[str, LiveFigures]"
    """How far the live runs are that are followed with this data folder, by task."""
    needs: Sequence[Need]
    advice: Sequence[str]


@click.command(epilog=examples("reconciler status", "reconciler status -o jsonpath='{.reconciler.pid}'"))
@output_option("text")
@click.pass_obj
def status(context: Context, output: OutputFormat) -> int:
    """
    Show who reconciles, and what needs a person.

    Exits 0 if a reconciler runs and nobody needs to act, 7 if something waits
    for a person, 8 if no reconciler runs.
    """
    fleet = asyncio.run(_fleet_status(context))
    if not print_document(status_document(fleet), output):
        click.echo(text(fleet, clock.now()))
    return status_exit_code(fleet)


def status_exit_code(fleet: FleetStatus) -> ExitCode:
    """Return the exit code of `status`: a missing reconciler outweighs what waits for a person."""
    if any(who.is_running is False for who in (fleet.serving, *fleet.shards.values())):
        return ExitCode.NOT_RUNNING
    return ExitCode.ATTENTION if fleet.needs else ExitCode.OK


# --- Looking ---------------------------------------------------------------


async def _fleet_status(context: Context) -> FleetStatus:
    from reconciler.cli.serving import serving
    from reconciler.cli.session import open_fleet
    from reconciler.git.durability import advice
    from reconciler.store.remote_record import fetched_record, remotes, unfetched

    async with open_fleet(context) as fleet:
        branch = await fleet.state_branch()
        fetched = await fetched_record(fleet.repository, branch)
        from_there = [
            each for each in await remotes(fleet.repository) if fetched and each.name == fetched.remote
        ]
        others = [*from_there, *await unfetched(fleet.repository, branch)]
        lines = await _lines(fleet, branch)
        fleet.notices.update(need.message for need in lines)  # they are listed among the needs
        summary, live = await _summary(fleet)
        state = fleet.line("record", branch).head
        who, *rest = [await serving(fleet, branch, each) for each in await fleet.shards(branch)]
        others_serving = dict(zip((await fleet.shards(branch))[1:], rest, strict=True))
        return FleetStatus(
            serving=who,
            shards=others_serving,
            specs_branch=fleet.branch,
            specs=fleet.line("specs", fleet.branch).head,
            state_branch=branch,
            state=state,
            state_at=await _committed_at(fleet, state) if state else None,
            fetched=fetched,
            elsewhere=others[0] if others else None,
            phases=summary.phases,
            hosts=summary.hosts,
            live=live,
            needs=[
                *lines,
                *_full_disks(fleet),
                *(need for each in (who, *rest) for need in _of_serving(each)),
                *summary.needs,
            ],
            advice=await advice(fleet.repository),
        )


async def _summary(fleet: "FleetSession") -> "tuple[FleetSummary, Mapping[str, LiveFigures]]":
    """Return what there is to say of tasks and hosts, and how far the live runs are."""
    from reconciler.cli.looks import look_snapshot, save_look, summary_of

    snapshot = await look_snapshot(fleet)
    if look := snapshot.load():
        return look.summary, {}
    from reconciler.cli.serving import figures_in
    from reconciler.core.views import ReadModel

    desired, observed = await fleet.recorded()
    model = ReadModel(desired, observed, live=figures_in(fleet.context.data_dir))
    await save_look(fleet, snapshot, model)
    return summary_of(model), {view.name: view.live for view in model.runs() if view.live}


async def _committed_at(fleet: "FleetSession", commit: str) -> datetime | None:
    result = await fleet.repository.git.attempt("log", "-1", "--format=%ct", commit)
    return time_at(int(result.stdout)) if result.code == 0 else None


async def _lines(fleet: "FleetSession", branch: str) -> Sequence[Need]:
    from reconciler.store.place import why_copy

    copy = why_copy(fleet.repository)
    rewinds = [
        await fleet.marks.rewind(line.kind, line.branch, line.head) for line in await fleet.lines(branch)
    ]
    copies = [Need("record", "Copied", copy)] if copy else []
    return [*copies, *(Need(rewind.kind, "Rewound", str(rewind)) for rewind in rewinds if rewind)]


def _full_disks(fleet: "FleetSession") -> Iterator[Need]:
    """Yield the full disk of the record, or of the data folder: its reconciler may not be able to say so."""
    data = fleet.context.data_dir
    for folder in (fleet.repository.git_dir, *([data] if data.is_dir() else [])):
        disk = os.statvfs(folder)
        if disk.f_bavail * disk.f_frsize < _LEAST_ROOM:
            why = "until there is more nothing goes on record, so nothing starts; what runs goes on"
            yield Need("disk", "Full", f"less than {_LEAST_ROOM >> 20} MiB are free at {folder}; {why}")
            return


def _of_serving(who: "Serving") -> Iterator[Need]:
    if who.presence and who.is_running and who.presence.error:
        yield Need("reconciler", "Error", who.presence.error)
    for repo, outage in sorted(who.presence.forges.items()) if who.presence and who.is_running else ():
        yield Need(f"forge {repo.removeprefix('.')}", "Forge", outage.why)
    if who.presence and who.is_running and who.presence.unsent:
        yield Need("notifications", "Unsent", who.presence.unsent)


# --- Showing ---------------------------------------------------------------


def status_document(fleet: FleetStatus) -> "StatusShape":
    """Return the status of a fleet as `-o json` prints it."""
    who, presence = fleet.serving, fleet.serving.presence
    running: ReconcilerShape = {
        "mode": who.mode or None,
        "pid": who.pid or None,
        "machine": who.host or None,
        "since": who.since or None,
        "address": (presence and presence.address) or None,
        "specs": (presence and presence.specs) or None,
        "state": (presence and presence.state) or None,
        "error": (presence and presence.error) or None,
    }
    document: StatusShape = {
        "running": who.is_running,
        "reconciler": running if who.is_running is not False else None,
        "ended_at": format_time(who.last_sign) if who.last_sign else None,
        "specs": {"branch": fleet.specs_branch, "commit": fleet.specs},
        "state": {
            "branch": fleet.state_branch,
            "commit": fleet.state,
            "at": format_time(fleet.state_at) if fleet.state_at else None,
            "remote": fleet.fetched.remote if fleet.fetched else None,
            "fetched_at": format_time(fleet.fetched.at) if fleet.fetched and fleet.fetched.at else None,
        },
        "tasks": dict(fleet.phases),
        "hosts": dict(fleet.hosts),
        "live": [{"task": name, **live_document(figures)} for name, figures in fleet.live.items()],
        "needs": [{"what": need.what, "why": need.why, "message": need.message} for need in fleet.needs],
        "advice": list(fleet.advice),
    }
    if fleet.shards:
        document["shards"] = {
            shard: {"running": each.is_running, "pid": each.pid or None, "machine": each.host or None}
            for shard, each in fleet.shards.items()
        }
    return document


def text(fleet: FleetStatus, now: datetime) -> str:
    """Return the status of a fleet as text for people."""
    fields = [
        ("reconciler", _who(fleet, now)),
        *((f"shard {shard}", _who_runs(who, now, shard)) for shard, who in fleet.shards.items()),
        ("specs", _at(fleet.specs_branch, fleet.specs, None, now) + _acted_on(fleet)),
        ("record", _record(fleet, now)),
        ("tasks", _counts(fleet.phases) or "none"),
        ("hosts", _counts(fleet.hosts) or "none"),
    ]
    parts = [value_block(fields)]
    if fleet.live:
        rows = ((name, live_text(figures, age_at(now))) for name, figures in sorted(fleet.live.items()))
        parts.append(shown_table(("RUNNING", "SO FAR"), rows))
    if fleet.needs:
        parts.append(shown_table(("NEEDS A PERSON", "WHY", "MESSAGE"), fleet.needs))
    return "\n\n".join([*parts, *fleet.advice])


def _who(fleet: FleetStatus, now: datetime) -> str:
    who = fleet.serving
    if who.is_running is False and fleet.elsewhere:
        there = fleet.elsewhere
        return f"none runs here; whether one does at {there.name}: `reconciler --repo {there.url} status`"
    return _who_runs(who, now)


def _who_runs(who: "Serving", now: datetime, shard: str = "") -> str:
    if who.is_running is False:
        ended = f"; the last one ended {ago(who.last_sign, now)} ago" if who.last_sign else ""
        option = f" --shard {shard}" if shard else ""
        return f"none runs{ended}; start one with `reconciler run{option}`"
    since = f", since {who.since}" if who.since else ""
    machine = f" on {who.host}" if who.host else ""
    address = f", {who.presence.address}" if who.presence and who.presence.address else ""
    doubt = "" if who.is_running else " holds the lease (whether it is alive cannot be told from here)"
    return f"`reconciler {who.mode or 'run'}` (pid {who.pid or '?'}){machine}{since}{address}{doubt}"


def _record(fleet: FleetStatus, now: datetime) -> str:
    where = _at(fleet.state_branch, fleet.state, fleet.state_at, now)
    if fleet.fetched is None:
        return where
    when = f"{ago(fleet.fetched.at, now)} ago" if fleet.fetched.at else "some time ago"
    return f"{where}, as fetched from {fleet.fetched.remote} {when}"


def _at(branch: str, commit: str | None, at: datetime | None, now: datetime) -> str:
    if commit is None:
        return f"{branch}, nothing on it yet"
    return f"{branch} at {commit[:10]}" + (f", {ago(at, now)} ago" if at else "")


def _acted_on(fleet: FleetStatus) -> str:
    presence = fleet.serving.presence if fleet.serving.is_running else None
    acted_on = presence.specs if presence else ""
    return f" (acted on: {acted_on[:10]})" if acted_on and acted_on != fleet.specs else ""


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
