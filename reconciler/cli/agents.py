"""
What agents are told and what they say: `prompt`, `adapter parse`.
"""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.output import print_json
from reconciler.cli.text import block, did_you_mean
from reconciler.core.errors import NotFound, UsageError

if TYPE_CHECKING:
    from reconciler.core.adapter import Adapter
    from reconciler.core.model import Status, Task, Verdict


@click.command()
@click.argument("task")
@click.option("--rev", metavar="REVISION", help="Look at a commit or branch in place of the work tree.")
@click.pass_obj
def prompt(context: Context, task: str, rev: str | None) -> None:
    """
    Print what an agent is told.

    Of a live TASK it is the prompt of its current round, otherwise the one
    its next run would begin with.
    """
    click.echo(asyncio.run(_prompt(context, task, rev)), nl=False)


async def _prompt(context: Context, name: str, rev: str | None) -> str:
    from reconciler.cli.fleet import opened
    from reconciler.core.command import told
    from reconciler.specs.fleet import build

    async with opened(context) as fleet:
        revision, files = await fleet.files(rev)
        observed = await fleet.observed()
    desired = build(files, revision=revision)
    task = desired.tasks.get(name)
    if task is None:
        raise NotFound(f"no task {name!r}{did_you_mean(name, desired.tasks)}")
    return told(task, upcoming(task, observed.statuses.get(name), clock.now()), desired)


def upcoming(task: "Task", status: "Status | None", now: datetime) -> "Status":
    """Return the status of the live round, or the one that the next run of the task begins with."""
    from reconciler.core.model import Phase, Status, run_key

    if status is not None and status.phase.is_live:
        return status
    if status is None or status.phase.is_settled:
        attempt = status.attempt if status else 0
        status = Status(
            phase=Phase.CREATED,
            since=now,
            created_at=now,
            generation=task.generation,
            work=task.work,
            attempt=attempt,
        )
    run = {"attempt": status.attempt + 1, "round": 1, "branch_name": task.branch, "adapter": task.adapter}
    key = run_key(task.name, task.generation, status.attempt + 1)
    reviews = status.review_count + (status.phase is Phase.REVIEW_PENDING)
    return status.model_copy(update={**run, "run": key, "review_count": reviews, "phase": Phase.ASSIGNED})


@click.group()
def adapter() -> None:
    """Try adapters on what a CLI printed."""


@adapter.command()
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rc", "exit_code", type=click.IntRange(-64, 255), required=True, help="How the CLI exited.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print it.")
@click.pass_obj
def parse(context: Context, name: str, file: Path, exit_code: int, output: str) -> None:
    """
    Show the verdict for a recorded output.

    FILE is what the CLI printed. What it printed on stderr is read from a
    file of the same name with the ending .stderr, if there is one.
    """
    from reconciler.dispatch.output import parse_recording, verdict_as_json

    found = parse_recording(_adapter(context, name), file, exit_code, clock.now())
    if output == "json":
        print_json(verdict_as_json(found))
    else:
        click.echo(_verdict_block(found))


def _adapter(context: Context, name: str) -> "Adapter":
    """Return an adapter of the fleet around here, or a built-in one where there is no fleet."""
    from reconciler.specs.fleet import build
    from reconciler.specs.worktree import read_worktree

    try:
        files = read_worktree(context.work_tree())
    except UsageError:
        files = {}
    adapters = build(files).adapters
    if name not in adapters:
        raise NotFound(f"no adapter {name!r}{did_you_mean(name, adapters)}")
    return adapters[name]


def _verdict_block(found: "Verdict") -> str:
    usage = found.usage
    tokens = f"{usage.input_tokens} in, {usage.output_tokens} out, {usage.cached_tokens} cached"
    rows = [
        ("outcome", found.outcome),
        ("class", found.kind or ""),
        ("message", found.message),
        ("session", found.session_id or ""),
        ("tokens", tokens),
        ("cost", f"{usage.cost_usd:g} USD"),
        ("turns", str(usage.turns)),
        ("retry at", found.retry_at.isoformat() if found.retry_at else ""),
        ("notes", "\n".join(found.notes)),
        ("text", found.text),
    ]
    return block((name, value) for name, value in rows if value)
