"""
From a commit to its runs, from a run to what came of it: `trace` and `diff`.
"""

import asyncio
import os
import re
import sys
from collections.abc import Sequence
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
    from reconciler.git.file_history import FileCommit, FileHistory

# --- trace -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunSteps:
    """The steps of a run on record, the oldest first."""

    run: str
    steps: Sequence[TransitionRecord]
    before: str
    """Commit of the specs at the end of the task's run before; empty for the first one."""

    @property
    def task(self) -> str:
        """The task, by its present name."""
        return self.steps[-1].task or ""

    @property
    def specs(self) -> frozenset[str]:
        """Where its spec may have been: in files of its own, or of campaigns."""
        return self.own_specs | self.campaigns

    @property
    def own_specs(self) -> frozenset[str]:
        """Files that the task would have for itself; more than one if it was renamed meanwhile."""
        from reconciler.cli.session import spec_path

        return frozenset(spec_path("task", task) for task in self._names)

    @property
    def campaigns(self) -> frozenset[str]:
        """Files of the campaigns that it would be of."""
        from reconciler.specs.parse import campaign_path

        return frozenset(path for name in self._names if (path := campaign_path(name)))

    @property
    def _names(self) -> frozenset[str]:
        return frozenset(step.task for step in self.steps if step.task)

    @property
    def revisions(self) -> Sequence[str]:
        """Commits of the specs that were in force, the oldest first, each once."""
        return [*dict.fromkeys(step.revision for step in self.steps if step.revision)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTrace:
    """A run: who asked for it, and what came of it."""

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
    changes: Sequence["FileCommit"]
    """Later commits to the spec while the run went on, such as an answer, the oldest first."""
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

    From any of them: a commit of the specs (a goal, an answer, a retry, a
    cancellation), of the record, or of the work itself, a run, its branch, its
    pull request (number or address), its task.
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
    statuses = (await fleet.observed([what])).statuses
    with busy("reading the history"):
        runs = runs_on_record(await fleet.history(None, None))
        commit = await _revision(fleet, what)
        changed = await _changed_by(fleet, commit) if commit else frozenset()
        near = [run for run in runs if run.specs & changed]
        named = [run for run in runs if _is_meant(run, statuses.get(run.task), what, commit)]
        specs = await _spec_history(fleet, [*near, *named])
        led_to = [run for run in near if any(each.commit == commit for each in _spec_changes(specs, run))]
        traced = [_traced(specs, run, statuses.get(run.task)) for run in led_to or named]
    if not traced:
        raise NotFound(
            f"no run is known that {what!r} led to or names: it may be a commit, a run, a branch, a pull "
            "request or a task; `reconciler history -o wide` lists runs"
        )
    return traced


async def _revision(fleet: "FleetSession", what: str) -> str | None:
    """Return the commit of the fleet's repository that is meant, if one is."""
    result = await fleet.repository.git.attempt(
        "rev-parse", "--quiet", "--verify", "--end-of-options", f"{what}^{{commit}}"
    )
    return result.text if result.code == 0 else None


def runs_on_record(records: Sequence[TransitionRecord]) -> Sequence[RunSteps]:
    """Return every run that these records are of, both the newest first."""
    from reconciler.core.model.status import Phase

    settled = {phase.value for phase in Phase if phase.is_settled}
    steps: dict[str, list[TransitionRecord]] = {}
    for record in reversed(records):
        is_again = record.after == "created" and record.before in settled
        if record.run and record.task and not is_again:  # that names the run before, and is no step of it
            steps.setdefault(record.run, []).append(record)
    last: dict[str, str] = {}
    runs = []
    for run, mine in steps.items():
        runs.append(RunSteps(run, mine, last.get(mine[0].task or "", "")))
        last[runs[-1].task] = (runs[-1].revisions or [runs[-1].before])[-1]
    return runs[::-1]


async def _changed_by(fleet: "FleetSession", commit: str) -> frozenset[str]:
    """Return the files that a commit changed; of a merge, those that differ from each parent."""
    options = ("--root", "-c", "-r", "-z", "--name-only", "--no-commit-id", "--no-renames")
    result = await fleet.repository.git.attempt("diff-tree", *options, commit)
    return frozenset(result.stdout.decode("utf-8", "replace").split("\0"))


async def _spec_history(fleet: "FleetSession", runs: Sequence[RunSteps]) -> "FileHistory":
    """Return the history of the specs of these runs, which one walk reads for all of them."""
    from reconciler.cli.session import spec_folder
    from reconciler.git.file_history import read_file_history

    tips = {revision: None for run in runs for revision in (*run.revisions, run.before) if revision}
    return await read_file_history(
        fleet.repository.git, [*tips], spec_folder("task"), spec_folder("campaign")
    )


def _spec_changes(specs: "FileHistory", run: RunSteps) -> "Sequence[FileCommit]":
    """Return the commits that changed a run's spec since the task's run before, the newest first."""
    return specs.changes(_spec_files(specs, run), run.revisions, run.before)


def _spec_files(specs: "FileHistory", run: RunSteps) -> frozenset[str]:
    """Return where a run's spec was: in a file of its own if there ever was one, else in its campaign's."""
    return run.own_specs if specs.changes(run.own_specs, run.revisions) else run.campaigns


def _traced(specs: "FileHistory", run: RunSteps, status: "Status | None") -> RunTrace:
    # What only changes what is asked for, such as that the spec is gone, is no end of a run.
    last = next((each for each in reversed(run.steps) if each.before != each.after), run.steps[-1])
    first = run.steps[0]
    revision = first.revision or ""
    files = _spec_files(specs, run)
    spec = specs.changes(files, [revision])
    newer = specs.changes(files, run.revisions, revision) if revision else []
    is_last = status is not None and status.run is not None and status.run.key == run.run
    pull = status.review.pull_request if status and is_last else None
    return RunTrace(
        task=run.task,
        run=run.run,
        host=first.host or first.worker,
        began=first.at,
        ended=None if last.after in {"assigned", "running"} else last.at,
        phase=last.after or "removed",
        reason=last.reason,
        revision=revision,
        spec_commit=spec[0].commit if spec else "",
        subject=spec[0].subject if spec else "",
        changes=newer[::-1],
        branch=status.run.branch if status and status.run and status.run.repo else None,
        head=status.head_commit if status and is_last else None,
        pull_request=pull.url if pull else None,
    )


_COMMIT = re.compile(r"[0-9a-f]{7,64}")


def _is_meant(run: RunSteps, status: "Status | None", what: str, commit: str | None) -> bool:
    """Return whether a run is one that what the person named leads to."""
    if commit and any(commit in {step.revision, step.commit} for step in run.steps):
        return True
    mine = status.run if status else None
    is_last = mine is not None and mine.key == run.run
    head = status.head_commit if status and is_last else None
    if _COMMIT.fullmatch(what) and head and head.startswith(what):
        return True
    pull = status.review.pull_request if status else None
    is_pull = pull is not None and what in {pull.url, f"#{pull.number}", str(pull.number)}
    branch = mine.branch if mine and mine.repo else None
    return is_pull or what in {run.run, branch, run.task, *run.specs}


def trace_text(run: RunTrace) -> str:
    """Return the way of a run, for people."""
    ended = f", ended {format_time(run.ended)}" if run.ended else ", live"
    at = f" at {run.head[:10]}" if run.head else ""
    rows = [
        ("asked by", f"{run.spec_commit[:10]} {run.subject}"),
        *(("changed by", f"{each.commit[:10]} {each.subject}") for each in run.changes),
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
        "changes": [{"commit": each.commit, "subject": each.subject} for each in run.changes],
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
        desired, observed = await fleet.recorded(args)
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
