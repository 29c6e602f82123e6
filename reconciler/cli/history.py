"""
History and logs: `history`, `logs`.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.cli.notices import say_if_nobody_serves
from reconciler.cli.output import Column, Listing, list_options, print_list
from reconciler.cli.pager import paged
from reconciler.cli.references import one_task, reference_argument, task_name
from reconciler.core.errors import NotFound, SpecError
from reconciler.core.names import DEFAULT_SHARD
from reconciler.core.text import harmless
from reconciler.core.times import ago, format_time
from reconciler.core.transitions import TransitionRecord, transition_document

if TYPE_CHECKING:
    from reconciler.cli.session import FleetSession
    from reconciler.core.model.status import Status
    from reconciler.store.reader import StateReader

FOLLOW_INTERVAL = 0.2
"""Seconds between looks at logs that are being followed."""

# --- History ---------------------------------------------------------------


@click.command(
    epilog=examples(
        "reconciler history", "reconciler history web/fix-login -o wide", "reconciler history -n 1000 -o json"
    )
)
@reference_argument("[[task/]NAME]", required=False)
@click.option(
    "-n", "--number", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many."
)
@list_options("table", "wide")
@click.pass_obj
def history_command(context: Context, args: tuple[str, ...], number: int, listing: Listing) -> None:
    """
    Show what happened, newest first.

    With what led to it, who asked for it, and why. BY is who wrote the commit
    of the specs that asked for a change, or the agent that did; their args
    stand in the reason.
    """
    entries = asyncio.run(_history(context, args, number))
    is_terminal = sys.stdout.isatty() and not listing.is_wide
    shown = columns(clock.now(), is_terminal=is_terminal, is_one=bool(args))
    with paged(context):
        print_list(entries, shown, transition_document, listing)


async def _history(context: Context, args: Sequence[str], number: int) -> Sequence[TransitionRecord]:
    from reconciler.cli.session import open_fleet

    async with open_fleet(context) as fleet:
        task = task_name(args, await fleet.names("task")) if args else None
        entries = await fleet.history(task, number)
        if task is not None and not entries:
            await fleet.spec_file("task", task)  # the task exists and has no history; otherwise it is unknown
        return entries


def change_of(entry: TransitionRecord) -> str:
    """Return the transition as text: before and after."""
    before, after = entry.before or "new", entry.after or "removed"
    return after if before == after else f"{before} → {after}"


def columns(now: datetime, *, is_terminal: bool, is_one: bool) -> Sequence[Column]:
    """Return the columns of `history`: fewer and narrower on a terminal, to leave room for the reason."""
    at = (
        Column("WHEN", lambda entry: ago(entry.at, now))
        if is_terminal
        else Column("TIME", lambda entry: format_time(entry.at))
    )
    return (
        at,
        *(() if is_terminal and is_one else (Column("NAME", lambda entry: entry.name, least=12),)),
        Column("CHANGE", change_of, least=19),
        Column("HOST", lambda entry: entry.host or "-", is_wide=is_terminal, least=7),
        Column("RUN", lambda entry: entry.run or "-", is_wide=True),
        Column("BY", lambda entry: entry.actor, least=10),
        Column("CAUSE", lambda entry: entry.cause, is_wide=True),
        Column("COMMIT", lambda entry: entry.commit[:10], is_wide=True),
        Column("REASON", lambda entry: entry.reason),
    )


# --- Logs ------------------------------------------------------------------


@click.command(
    epilog=examples(
        "reconciler logs web/fix-login",
        "reconciler logs web/fix-login -f",
        "reconciler logs web/fix-login --attempt 1",
    )
)
@one_task
@click.option("-f", "--follow", is_flag=True, help="Follow the log until the run has ended.")
@click.option("--attempt", type=click.IntRange(min=1), help="Attempt to show; the last if left out.")
@click.option("--raw", is_flag=True, help="Print raw bytes, including control characters.")
@click.pass_obj
def logs(context: Context, args: tuple[str, ...], follow: bool, attempt: int | None, raw: bool) -> int:
    """
    Print the output of a task's agent.

    Logs are kept on the machine that ran `reconciler run`. With -f it exits 5
    if the task ended badly.
    """
    return asyncio.run(_logs(context, args, attempt, _Printer(is_raw=raw), is_followed=follow))


async def _logs(
    context: Context, args: Sequence[str], attempt: int | None, printer: "_Printer", *, is_followed: bool
) -> ExitCode:
    from reconciler.cli.session import named_tasks, open_fleet
    from reconciler.dispatch.logs import LogFolder

    async with open_fleet(context) as fleet:
        if attempt is None and (good := await _good_run(fleet, args)):
            good_run, shard = good
            _print_log(context.data_of(shard), good_run, printer)
            return ExitCode.OK
        record = await fleet.record()
        task = task_name(args, (await record.load(named_tasks(args)))[0])
        status = await _status(fleet, record, task)
        shard = record.shards.get(task, DEFAULT_SHARD)
        data = context.data_of(shard)
        kept = LogFolder(data / "logs")
        run = status.run_key if attempt is None else await _run_of(fleet, task, attempt)
        branch = await fleet.state_branch()
        is_said = status.phase.is_live and await say_if_nobody_serves(
            fleet, branch, {task: status}, clock.now()
        )
        while is_followed and run is not None and status.run_key == run and status.phase.is_live:
            printer.print_new(kept.paths(run))
            is_said = is_said or await say_if_nobody_serves(fleet, branch, {task: status}, clock.now())
            await asyncio.sleep(FOLLOW_INTERVAL)
            await fleet.repository.fetch()
            status = await _status(fleet, record, task)
        why = await _why(fleet, task, status, data) if status.run_key == run else ""
    if run is None:
        raise NotFound(f"{task} has not run yet: it is {status.phase}; `reconciler describe {task}` says why")
    _print_log(data, run, printer)
    if why:
        click.echo(f"---\n{why}", err=True)
    return _exit_code(status) if is_followed else ExitCode.OK


def _exit_code(status: "Status") -> ExitCode:
    from reconciler.core.views import BAD_ENDS

    return ExitCode.ENDED_BADLY if status.phase in BAD_ENDS else ExitCode.OK


async def _good_run(fleet: "FleetSession", args: Sequence[str]) -> tuple[str, str] | None:
    """
    Return the last run of a task that did not fail, and its shard, by the last look.

    None if that says nothing of it.
    """
    from reconciler.cli.looks import look_snapshot

    look = (await look_snapshot(fleet)).load()
    tasks = look.kinds["task"].find(look) if look else {}
    recorded = {name: task.document for name, task in tasks.items() if task.document["status"]}
    document = recorded.get(task_name(args, recorded)) if recorded else None
    if document is None or document["cause"] or not document["status"]["run"]:
        return None
    return document["status"]["run"], document.get("shard", DEFAULT_SHARD)


def _print_log(data: Path, run: str, printer: "_Printer") -> None:
    """Print the rest of a run's log in a data folder. Raises NotFound if there is none."""
    from reconciler.dispatch.logs import LogFolder

    kept = LogFolder(data / "logs")
    if not printer.print_new(kept.paths(run), to_end=True):
        raise NotFound(f"no logs of {run} in {data}: they are on the machine that ran it, until it is swept")


async def _why(fleet: "FleetSession", task: str, status: "Status", data: Path) -> str:
    """Return why the run failed and what to do, as text; empty if it did not."""
    if status.failure is None:
        return ""
    from reconciler.cli.failures import failure_text
    from reconciler.dispatch.failures import describe_failure, local_failure

    failure = local_failure(task, status, data)
    if failure is None:  # the workspace's place is in the specs, which take longer to read
        desired, _ = await fleet.recorded()
        failure = describe_failure(task, status, desired, data)
    # The log itself was printed just now.
    return failure_text(replace(failure, output=(), next=failure.next[1:])) if failure else ""


async def _status(fleet: "FleetSession", record: "StateReader", task: str) -> "Status":
    statuses, _ = await record.load([task])
    status = statuses.get(task)
    if task in record.damaged:
        raise SpecError([record.damaged[task]])
    if status is None:
        await fleet.spec_file("task", task)
        raise NotFound(f"{task} has not run yet: the reconciler has not seen it; see `reconciler status`")
    return status


async def _run_of(fleet: "FleetSession", task: str, attempt: int) -> str:
    """Return the run key of an earlier attempt, from history."""
    for entry in await fleet.history(task, None):
        if entry.run and entry.run.endswith(f".a{attempt}"):
            return entry.run
    raise NotFound(f"{task} has no attempt {attempt}; `reconciler history {task} -o wide` lists them")


class _Printer:
    """Prints new lines of logs; incomplete last lines only at the end."""

    def __init__(self, *, is_raw: bool) -> None:
        self._is_raw = is_raw
        self._offsets: dict[Path, int] = {}

    def print_new(self, paths: "Sequence[tuple[str, Path]]", *, to_end: bool = False) -> bool:
        """Print what is new in the files, each under its label; return whether there were any so far."""
        for label, path in paths:
            if path not in self._offsets:
                click.echo(f"--- {label} ---", err=True)
            offset = self._offsets.setdefault(path, 0)
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read()
            data = data if to_end else data[: data.rfind(b"\n") + 1]
            self._offsets[path] = offset + len(data)
            self._print(data)
        return bool(self._offsets)

    def _print(self, data: bytes) -> None:
        if self._is_raw:
            sys.stdout.buffer.write(data)
        else:
            click.echo(harmless(data.decode("utf-8", "replace")), nl=False)
        sys.stdout.flush()
