"""
From a commit to its runs, from a run to what came of it: `trace` and `diff`.
"""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.context import Context
from reconciler.cli.help import examples
from reconciler.cli.output import OutputFormat, output_option, print_document
from reconciler.cli.pager import busy, paged
from reconciler.cli.references import one_task, task_name
from reconciler.cli.terminal import value_block
from reconciler.core.errors import NotFound
from reconciler.core.times import format_time
from reconciler.core.transitions import TransitionRecord

if TYPE_CHECKING:
    from reconciler.cli.session import FleetSession
    from reconciler.cli.shapes import TraceShape
    from reconciler.core.model.specs import Desired
    from reconciler.core.model.status import Run, Status

# --- trace -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTrace:
    """A run: who spec_commit for it, and what came of it."""

    task: str
    run: str
    host: str | None
    began: datetime
    ended: datetime | None
    """None: it is live."""
    phase: str
    """Phase of the task after the last step of this run."""
    reason: str
    revision: str
    """Commit of the specs that was in force."""
    spec_commit: str
    """Commit that wrote the spec; empty if that is not known."""
    subject: str
    """Author and subject of it."""
    branch: str | None
    head: str | None
    """Commit of the branch; of the task's last run only."""
    pull_request: str | None


@click.command(
    epilog=examples(
        "reconciler trace HEAD",
        "reconciler trace web/fix-login.g1a2b3c4d.a1",
        "reconciler trace task/web/fix-login",
        "reconciler trace '#12' -o json",
    )
)
@click.argument("what", metavar="REVISION|RUN|BRANCH|PR|TASK")
@output_option("text")
@click.pass_obj
def trace(context: Context, what: str, output: OutputFormat) -> None:
    """
    Show which commit led to which runs, and to which pull request.

    From any of them: a commit of the specs, or of the work itself, a run, its
    branch, its pull request (number or address), its task.
    """
    runs = asyncio.run(_trace(context, what))
    if not print_document([trace_document(run) for run in runs], output):
        with paged(context):
            click.echo("\n\n".join(map(trace_text, runs)))


async def _trace(context: Context, what: str) -> Sequence[RunTrace]:
    from reconciler.cli.session import open_fleet

    async with open_fleet(context) as fleet:
        return await traces(fleet, what)


async def traces(fleet: "FleetSession", what: str) -> Sequence[RunTrace]:
    """Return the runs that a commit, run, branch, pull request or task names or led to. Raises NotFound."""
    statuses = (await fleet.observed()).statuses
    with busy("reading the history"):
        records = await fleet.history(None, None)
        commit = await _revision(fleet, what)
        runs = [each async for each in _runs(fleet, records, statuses)]
    chosen = [run for run in runs if commit and run.spec_commit == commit] or [
        run for run in runs if _is_meant(run, statuses.get(run.task), what, commit)
    ]
    if not chosen:
        raise NotFound(
            f"no run is known that {what!r} led to or names: it may be a commit, a run, a branch, a pull "
            "request or a task; `reconciler history -o wide` lists runs"
        )
    return chosen


async def _revision(fleet: "FleetSession", what: str) -> str | None:
    """Return the commit of the fleet's repository that is meant, if one is."""
    result = await fleet.repository.git.attempt(
        "rev-parse", "--quiet", "--verify", "--end-of-options", f"{what}^{{commit}}"
    )
    return result.text if result.code == 0 else None


async def _runs(
    fleet: "FleetSession", records: Sequence[TransitionRecord], statuses: "Mapping[str, Status]"
) -> AsyncIterator[RunTrace]:
    """Yield every run on record, the newest first."""
    steps: dict[str, list[TransitionRecord]] = {}
    for record in records:
        if record.run and record.task:
            steps.setdefault(record.run, []).append(record)
    wrote: dict[tuple[str, str], tuple[str, str]] = {}
    for run, mine in steps.items():
        last, first = mine[0], mine[-1]
        task, revision = last.task or "", first.revision or ""
        if (revision, task) not in wrote:
            wrote[revision, task] = await _wrote(fleet, revision, first.task or "")
        spec_commit, subject = wrote[revision, task]
        status = statuses.get(task)
        is_last = status is not None and status.run is not None and status.run.key == run
        pull = status.review.pull_request if status and is_last else None
        yield RunTrace(
            task=task,
            run=run,
            host=first.host or first.worker,
            began=first.at,
            ended=None if last.after in {"assigned", "running"} else last.at,
            phase=last.after or "removed",
            reason=last.reason,
            revision=revision,
            spec_commit=spec_commit,
            subject=subject,
            branch=status.run.branch if status and status.run and status.run.repo else None,
            head=status.head_commit if status and is_last else None,
            pull_request=pull.url if pull else None,
        )


async def _wrote(fleet: "FleetSession", revision: str, task: str) -> tuple[str, str]:
    """Return the commit that wrote a task's spec as it was at a revision, and its author and subject."""
    from reconciler.cli.session import spec_path

    result = await fleet.repository.git.attempt(
        "log", "-1", "--format=%H%x00%an: %s", revision or "HEAD", "--", spec_path("task", task)
    )
    commit, _, subject = result.text.partition("\0")
    return (commit, subject) if result.code == 0 else ("", "")


_COMMIT = re.compile(r"[0-9a-f]{7,64}")


def _is_meant(run: RunTrace, status: "Status | None", what: str, commit: str | None) -> bool:
    """Return whether a run is one that what the person named leads to."""
    if commit and commit == run.revision:
        return True
    if _COMMIT.fullmatch(what) and any(
        each and each.startswith(what) for each in (run.head, run.spec_commit)
    ):
        return True
    pull = status.review.pull_request if status else None
    is_pull = pull is not None and what in {pull.url, f"#{pull.number}", str(pull.number)}
    return is_pull or what in {run.run, run.branch, run.task, f"specs/tasks/{run.task}.yaml"}


def trace_text(run: RunTrace) -> str:
    """Return the way of a run, for people."""
    ended = f", ended {format_time(run.ended)}" if run.ended else ", live"
    at = f" at {run.head[:10]}" if run.head else ""
    rows = [
        ("asked by", f"{run.spec_commit[:10]} {run.subject}"),
        ("specs at", run.revision[:10]),
        ("task", run.task),
        ("run", f"{run.run} on {run.host or '-'}"),
        ("time", f"began {format_time(run.began)}{ended}"),
        ("then", f"{run.phase}: {run.reason}"),
        ("branch", f"{run.branch or ''}{at}"),
        ("pull request", run.pull_request or ""),
    ]
    return value_block((name, value) for name, value in rows if value.strip())


def trace_document(run: RunTrace) -> "TraceShape":
    """Return the way of a run as `-o json` prints it."""
    return {
        "spec_commit": run.spec_commit or None,
        "subject": run.subject,
        "revision": run.revision or None,
        "task": run.task,
        "run": run.run,
        "host": run.host,
        "began": format_time(run.began),
        "ended": format_time(run.ended) if run.ended else None,
        "phase": run.phase,
        "reason": run.reason,
        "branch": run.branch,
        "head": run.head,
        "pull_request": run.pull_request,
    }


# --- diff ------------------------------------------------------------------


@click.command(
    epilog=examples(
        "reconciler diff web/fix-login",
        "reconciler diff web/fix-login --stat",
        "reconciler diff web/fix-login | git apply",
    )
)
@one_task
@click.option("--stat", is_flag=True, help="Which files, and by how much.")
@click.pass_obj
def diff(context: Context, args: tuple[str, ...], *, stat: bool) -> None:
    """
    Show what a task's branch changes: from where it began to what was delivered last.

    Of what a live run does, nothing is known before it is delivered.
    """
    has_colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    options = ("--stat",) if stat else ()
    colour = "--color=always" if has_colours else "--color=never"
    text = asyncio.run(_diff(context, args, (colour, *options)))
    with paged(context):
        click.echo(text, nl=False)


async def _diff(context: Context, args: Sequence[str], options: Sequence[str]) -> str:
    from reconciler.cli.session import open_fleet
    from reconciler.git.process import Git

    async with open_fleet(context) as fleet:
        desired, observed = await fleet.recorded()
        name = task_name(args, observed.statuses.keys() | desired.tasks.keys())
        status = observed.statuses.get(name)
        if status is None:
            await fleet.spec_file("task", name)
        run = status.run if status else None
        if not (status and run and run.repo and status.head_commit and status.base_commit):
            raise NotFound(
                f"{name} has delivered no branch so far: {_why_none(status, run)}; "
                f"`reconciler describe {name}` shows how it is"
            )
        base = fleet.repository.folder or fleet.repository.git_dir
        commits = status.base_commit, status.head_commit
        folder = context.data_dir / "repos" / f"{run.repo.replace('/', '+')}.git"
        if not await _has(folder, commits):
            folder = await _fetched(context, desired, run, commits, base)
        return (await Git.local(folder).diff(*commits, *options)).decode("utf-8", "replace")


def _why_none(status: "Status | None", run: "Run | None") -> str:
    """Return why there is no branch to be shown."""
    if status is None:
        return "the reconciler has not seen it"
    return f"it is {status.phase}" if run is None or run.repo else "its spec names no repo to work in"


async def _has(folder: "Path", commits: Sequence[str]) -> bool:
    from reconciler.git.process import Git

    if not folder.is_dir():
        return False
    git = Git.local(folder)
    results = [await git.attempt("cat-file", "-e", f"{commit}^{{commit}}") for commit in commits]
    return all(result.code == 0 for result in results)


async def _fetched(
    context: Context, desired: "Desired", run: "Run", commits: Sequence[str], base: "Path"
) -> "Path":
    """Return a mirror of the code repository with a run's commits, fetched for this. Raises NotFound."""
    from reconciler.dispatch.repos import CodeRepository

    repo = desired.repos.get(run.repo or "")
    if repo is None:
        raise NotFound(f"repo {run.repo!r} is not in the specs any more: where it is is unknown")
    mirror = CodeRepository(repo, mirrors=context.data_dir / "looks", fleet=base)
    with busy(f"fetching {run.branch} of {repo.name}"):
        await mirror.find(run.branch)
    if not await _has(mirror.folder, commits):
        raise NotFound(
            f"the commits of {run.branch} are not in {repo.url} any more: the branch was removed, or "
            "moved; `reconciler trace` names them"
        )
    return mirror.folder
