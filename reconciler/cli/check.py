"""
Before a push: `validate`, `plan`, `schema`.
"""

import asyncio
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.cli.notices import say_if_nobody_serves
from reconciler.cli.output import OutputFormat, output_option, print_document, print_table
from reconciler.cli.pager import paged
from reconciler.core.errors import Problem, UsageError
from reconciler.core.references import kind_of
from reconciler.core.text import one_line

if TYPE_CHECKING:
    from reconciler.cli.shapes import ProblemShape
    from reconciler.core.model.specs import Desired, Kind
    from reconciler.core.model.status import Observed
    from reconciler.specs.parse import File

_LONGEST_PATH = 200
"""Characters of a path in a message."""
SCHEMA_KINDS: "tuple[Kind, ...]" = (
    "task",
    "campaign",
    "host",
    "repo",
    "adapter",
    "account",
    "agent",
    "fleet",
    "prices",
)


@click.command(
    epilog=examples("reconciler validate", "reconciler validate specs/tasks/web -o github   # in CI")
)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(exists=True, path_type=Path))
@output_option("text", "github", help="How to print it; github: as annotations of a pull request.")
@click.pass_obj
def validate(context: Context, paths: tuple[Path, ...], output: OutputFormat) -> int:
    """
    Report every mistake in the specs.

    Warnings are about specs that are valid but probably not meant so. Adapters are held
    to the recordings beside them (specs/adapters/NAME/recordings). Reads the files
    as they are now, committed or not, and needs no repository: a folder with
    specs/ will do. With PATHs, only mistakes in these files and folders are
    shown. Of a URL, or a repository without a work tree, the branch is read.
    Exits 1 if there are any.
    """
    from reconciler.cli.recordings import recording_problems
    from reconciler.cli.shell_syntax import unreadable_commands
    from reconciler.specs.build import build

    root, files = _spec_files(context, paths)
    desired = build(files)
    missing = _missing_repositories(root, files, desired) if root.is_absolute() else ()
    unreadable = unreadable_commands(files, desired)
    misread = recording_problems(files, desired, clock.now())
    mistakes = sorted((*desired.problems, *desired.warnings, *missing, *unreadable, *misread))
    shown = [each for each in mistakes if _is_below(root / each.path, paths)]
    problems = [each for each in shown if each.severity == "error"]
    if not print_document([problem_document(problem) for problem in shown], output):
        for problem in shown:
            click.echo(annotation(problem) if output.form == "github" else _where_it_is(problem, root))
    click.echo(_summary(len(files), problems) + _warned(len(shown) - len(problems)), err=True)
    return ExitCode.FAILURE if problems else ExitCode.OK


def _spec_files(context: Context, paths: Sequence[Path]) -> "tuple[Path, Mapping[str, File]]":
    """Return the spec files and the folder that they are in; an empty path for those of a branch."""
    from reconciler.specs.worktree import read_worktree

    try:
        root = context.work_tree(paths)
    except UsageError:
        if paths or context.repo is None:
            raise
        return Path(), asyncio.run(_committed(context))
    return root, read_worktree(root)


async def _committed(context: Context) -> "Mapping[str, File]":
    from reconciler.cli.session import open_fleet

    async with open_fleet(context) as fleet:
        return (await fleet.files(None))[1]


def _missing_repositories(root: Path, files: "Mapping[str, File]", desired: "Desired") -> Iterator[Problem]:
    """Yield the repos that are a path, to where nothing is on this machine."""
    from reconciler.specs.parse import locate_mistakes
    from reconciler.specs.rules import Mistake, is_path

    for name, repo in desired.repos.items():
        path = f"specs/repos/{name}.yaml"
        place = os.path.normpath(root / repo.url)
        if is_path(repo.url) and path in files and not _is_repository(place):
            message = f"there is no repository at {one_line(place, _LONGEST_PATH)} on this machine"
            yield from locate_mistakes([Mistake(("url",), message, is_doubt=True)], path, files[path].data)


def _is_repository(place: str) -> bool:
    """Return whether git would find a repository there; what no file can be called is none."""
    try:
        return any(Path(place + below).exists() for below in ("/.git", "/HEAD", ".git/HEAD", ".git/.git"))
    except (OSError, ValueError):
        return False


def _is_below(path: Path, wanted: Sequence[Path]) -> bool:
    return not wanted or any(path.is_relative_to(above.resolve()) for above in wanted)


def _where_it_is(problem: Problem, root: Path) -> str:
    """Return the problem as text, its path relative to the current folder."""
    here, path = Path.cwd(), root / problem.path
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return str(problem).replace(problem.path, str(shown), 1)


def _summary(count: int, problems: Sequence[Problem]) -> str:
    files = f"{count} file{'s' * (count != 1)}"
    if not problems:
        return f"{files}, no mistakes"
    bad = len({problem.path for problem in problems})
    return f"{len(problems)} mistake{'s' * (len(problems) != 1)} in {bad} of {files}"


def _warned(count: int) -> str:
    return f"; {count} warning{'s' * (count != 1)}" if count else ""


def problem_document(problem: Problem) -> "ProblemShape":
    """Return a mistake as `-o json` prints it."""
    return {
        "path": problem.path,
        "line": problem.line,
        "column": problem.column,
        "field": problem.field,
        "message": problem.message,
        "hint": problem.hint,
        "severity": problem.severity,
    }


def annotation(problem: Problem) -> str:
    """Return a mistake as a workflow command of GitHub and Forgejo Actions."""
    message = str(problem).partition(f": {problem.severity}: ")[2]
    path = _escaped(problem.path).replace(":", "%3A").replace(",", "%2C")
    return f"::{problem.severity} file={path},line={problem.line},col={problem.column}::{_escaped(message)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


@click.command(
    epilog=examples(
        "reconciler plan", "reconciler plan -o wide", "reconciler plan --rev origin/main --exit-code"
    )
)
@click.option("--rev", metavar="REVISION", help="Read a commit or branch in place of the work tree.")
@click.option("--exit-code", is_flag=True, help="Exit 2 if there are changes, 1 if there are mistakes.")
@output_option("table", "wide", help="How to print it; wide: with every host, and why it was not chosen.")
@click.pass_obj
def plan_command(context: Context, rev: str | None, exit_code: bool, output: OutputFormat) -> int:
    """
    Show what would start, wait and stop, and why.

    Compares the work tree, as if it were pushed, with what is on record.
    Nothing is done by it.
    """
    from reconciler.cli.preview import placement_rows, plan_document
    from reconciler.core.planning.preview import has_changes, plan_fleet, plan_lines

    desired, observed = asyncio.run(_previewed(context, rev))
    result = plan_fleet(desired, observed, clock.now())
    if not print_document(plan_document(result, desired), output):
        _print_problems((*desired.problems, *desired.warnings))
        with paged(context):
            print_table(("ACTION", "TASK", "HOST", "REASON"), plan_lines(result), empty="nothing to do")
            for name, placement in sorted(result.placements.items()) if output.form == "wide" else ():
                click.echo(f"\n{name}")
                print_table(("HOST", "CHOICE", "SCORE", "WHY"), list(placement_rows(placement)))
    if not exit_code:
        return ExitCode.OK
    if desired.problems:
        return ExitCode.FAILURE
    return ExitCode.CHANGES if has_changes(result) else ExitCode.OK


async def _previewed(context: Context, rev: str | None) -> "tuple[Desired, Observed]":
    from reconciler.cli.session import open_fleet

    async with open_fleet(context) as fleet:
        revision, files = await fleet.files(rev)
        observed = await fleet.observed()
        await say_if_nobody_serves(fleet, await fleet.state_branch(), observed.statuses, clock.now())
        return await fleet.in_force(revision, files), observed


def _print_problems(problems: Iterable[Problem]) -> None:
    for problem in problems:
        click.echo(str(problem), err=True)


class KindChoice(click.Choice[str]):
    """A kind of spec, in the singular, the plural or short."""

    def __init__(self) -> None:
        super().__init__(SCHEMA_KINDS)

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the kind in the singular."""
        return super().convert(kind_of(value) or value, param, ctx)


@click.command(epilog=examples("reconciler schema task", "reconciler schema > schemas.json"))
@click.argument("kind", type=KindChoice(), required=False)
def schema_command(kind: "Kind | None") -> None:
    """Print the JSON Schema of a kind of spec, or of all kinds."""
    from reconciler.specs.schema import json_schema

    shown = json_schema(kind) if kind else {each: json_schema(each) for each in SCHEMA_KINDS}
    click.echo(json.dumps(shown, indent=2))
