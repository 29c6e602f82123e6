"""
Prompts and adapters: `prompt`, `adapter test`, `adapter parse`, `adapter check`, `adapter record`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.cli.output import Document, OutputFormat, output_option, print_document, print_table
from reconciler.cli.pager import paged
from reconciler.cli.references import NameParam, one_task, task_name
from reconciler.cli.terminal import value_block
from reconciler.core.errors import UsageError
from reconciler.core.model.specs import LOCAL

if TYPE_CHECKING:
    from reconciler.cli.recordings import Judged
    from reconciler.core.adapter import Adapter
    from reconciler.core.model.runs import Verdict
    from reconciler.core.model.specs import Desired, Task
    from reconciler.core.model.status import Status
    from reconciler.dispatch.adapter_check import CheckResult
    from reconciler.specs.parse import File


@click.command(
    epilog=examples("reconciler prompt web/fix-login", "reconciler prompt web/fix-login --rev main")
)
@one_task
@click.option("--rev", metavar="REVISION", help="Read a commit or branch in place of the work tree.")
@click.pass_obj
def prompt(context: Context, args: tuple[str, ...], rev: str | None) -> None:
    """
    Print the prompt of a task.

    Of a live task it is the prompt of its current round, otherwise the one
    its next run would begin with.
    """
    text = asyncio.run(_prompt(context, args, rev))
    with paged(context):
        click.echo(text, nl=False)


async def _prompt(context: Context, args: Sequence[str], rev: str | None) -> str:
    from reconciler.cli.session import open_fleet, pick
    from reconciler.core.errors import SpecError
    from reconciler.core.runs.command import build_prompt
    from reconciler.specs.build import build

    async with open_fleet(context) as fleet:
        revision, files = await fleet.files(rev)
        observed = await fleet.observed()
    desired = build(files, revision=revision)
    name = task_name(args, desired.tasks)
    task = pick(desired, "task", desired.tasks, name)
    if problems := desired.broken.get(name):
        raise SpecError(problems)
    return build_prompt(task, next_round(task, observed.statuses, clock.now()), desired)


def next_round(task: "Task", statuses: "Mapping[str, Status]", now: datetime) -> "Status":
    """Return the status of the live round, or the one with which the task's next run would begin."""
    from reconciler.core.model.runs import run_key
    from reconciler.core.model.status import OnHost, Phase, Run, Status
    from reconciler.core.runs.start_point import predecessors

    status = statuses.get(task.name)
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
    attempt = status.attempt + 1
    run = Run(
        key=run_key(task.name, task.generation, attempt),
        round=1,
        holder=OnHost(host=LOCAL),
        adapter=task.adapter,
        branch=task.branch,
        title=task.headline,
        predecessors=predecessors(task, statuses),
    )
    rounds = status.review.count + (status.phase is Phase.REVIEW_PENDING)
    review = status.review.model_copy(update={"count": rounds})
    changes = {"phase": Phase.ASSIGNED, "attempt": attempt, "run": run, "review": review}
    return status.model_copy(update=changes)


@click.group(
    epilog=examples(
        "reconciler adapter test codex",
        "reconciler adapter parse codex recorded.jsonl --rc 0",
        "reconciler adapter record codex quota --task web/fix-login",
        "reconciler adapter check",
    )
)
def adapter() -> None:
    """Test adapters: on a host, or on recorded output."""


# --- adapter test ----------------------------------------------------------


@adapter.command(
    epilog=examples(
        "reconciler adapter test codex", "reconciler adapter test claude-code --host gpu1 --no-prompt"
    )
)
@click.argument("name", type=NameParam("adapter"))
@click.option(
    "--host",
    type=NameParam("host"),
    default=LOCAL,
    show_default=True,
    metavar="NAME",
    help="Where to try it.",
)
@click.option("--no-prompt", is_flag=True, help="Do not call the model, which may cost something.")
@output_option("text")
@click.pass_obj
def test_command(context: Context, name: str, host: str, no_prompt: bool, output: OutputFormat) -> int:
    """
    Test whether an agent's CLI works on a host.

    Asks for its version, runs its health command, and gives it a prompt of one
    line in an empty folder: all as a real run would, with the same secrets.
    Exits 5 if any of it does not work.
    """
    show = _show_check if not output.is_for_programs else lambda _: None
    with TemporaryDirectory(prefix="reconciler-test-", ignore_cleanup_errors=True) as folder:
        results = _tried(context, name, host, data=Path(folder), with_prompt=not no_prompt, show=show)
        tried = asyncio.run(results)
    works = all(check_result.ok is not False for check_result in tried)
    checks = [_check_document(check_result) for check_result in tried]
    print_document({"adapter": name, "host": host, "ok": works, "checks": checks}, output)
    return ExitCode.OK if works else ExitCode.ENDED_BADLY


async def _tried(
    context: Context,
    name: str,
    host: str,
    *,
    data: Path,
    with_prompt: bool,
    show: "Callable[[CheckResult], None]",
) -> "Sequence[CheckResult]":
    from reconciler.cli.session import pick, specs_here
    from reconciler.dispatch.adapter_check import AdapterCheck
    from reconciler.dispatch.output import read_output
    from reconciler.serve.transports import ways

    desired = await specs_here(context)
    adapter, place = (
        pick(desired, "adapter", desired.adapters, name),
        pick(desired, "host", desired.hosts, host),
    )
    tried = []
    async with ways(lambda: desired.hosts, data, is_lasting=False) as transports:
        check = AdapterCheck(
            adapter=adapter,
            host=place,
            transport=transports(place),
            data=data,
            token=clock.random_hex(),
            clock=clock.now,
            read_output=read_output,
        )
        async with aclosing(check.results(with_prompt=with_prompt)) as results:
            async for check_result in results:
                show(check_result)
                tried.append(check_result)
    return tried


def _show_check(check_result: "CheckResult") -> None:
    result = {True: "ok", False: "failed", None: "-"}[check_result.ok]
    click.echo(f"{check_result.name:<8} {result:<7} {check_result.message}")


def _check_document(check_result: "CheckResult") -> Document:
    from reconciler.dispatch.output import verdict_as_json

    cli, verdict = check_result.cli, check_result.verdict
    return {
        "check": check_result.name,
        "ok": check_result.ok,
        "message": check_result.message,
        **({"version": cli.version, "path": cli.path} if cli else {}),
        **({"verdict": verdict_as_json(verdict)} if verdict else {}),
    }


# --- adapter parse ---------------------------------------------------------


@adapter.command(
    "parse",
    epilog=examples(
        "reconciler adapter parse codex recorded.jsonl --rc 0",
        "reconciler adapter parse claude-code out.json --rc 1 -o json",
    ),
)
@click.argument("name", type=NameParam("adapter"))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rc", "exit_code", type=click.IntRange(-64, 255), required=True, help="How the CLI exited.")
@output_option("text")
@click.pass_obj
def parse_output(context: Context, name: str, file: Path, exit_code: int, output: OutputFormat) -> None:
    """
    Show the verdict for a recorded output.

    FILE is what the CLI printed. What it printed on stderr is read from a
    file of the same name with the ending .stderr, if there is one.
    """
    from reconciler.dispatch.output import parse_recording, verdict_as_json

    verdict = parse_recording(asyncio.run(_adapter(context, name)), file, exit_code, clock.now())
    if not print_document(verdict_as_json(verdict), output):
        click.echo(_verdict_block(verdict))


async def _adapter(context: Context, name: str) -> "Adapter":
    """Return an adapter of the fleet, or a built-in one outside of a fleet."""
    from reconciler.cli.session import pick, specs_here

    desired = await specs_here(context)
    return pick(desired, "adapter", desired.adapters, name)


def _verdict_block(verdict: "Verdict") -> str:
    usage = verdict.usage
    tokens = f"{usage.input_tokens} in, {usage.output_tokens} out, {usage.cached_tokens} cached"
    rows = [
        ("outcome", verdict.outcome),
        ("class", verdict.kind or ""),
        ("message", verdict.message),
        ("session", verdict.session_id or ""),
        ("tokens", tokens),
        ("cost", f"{usage.cost_usd:g} USD"),
        ("turns", str(usage.turns)),
        ("retry at", verdict.retry_at.isoformat() if verdict.retry_at else ""),
        ("notes", "\n".join(verdict.notes)),
        ("text", verdict.text),
    ]
    return value_block((name, value) for name, value in rows if value)


# --- adapter check ---------------------------------------------------------


@adapter.command(
    "check", epilog=examples("reconciler adapter check", "reconciler adapter check my-agent -o json")
)
@click.argument("name", type=NameParam("adapter"), required=False)
@output_option("text")
@click.pass_obj
def check_recordings(context: Context, name: str | None, output: OutputFormat) -> int:
    """
    Hold adapters to their recordings.

    Reads every recording in specs/adapters/NAME/recordings with its adapter and
    compares the verdict with the expected one. Exits 5 if one is another.
    """
    from reconciler.cli.recordings import judge_recordings

    files, desired = asyncio.run(_specs(context))
    judged, problems = judge_recordings(files, desired, clock.now())
    chosen = [each for each in judged if name in {None, each.case.adapter}]
    wrong = [each for each in problems if name is None or each.path.startswith(f"specs/adapters/{name}/")]
    documents = [_judged_document(each) for each in chosen]
    if not print_document({"recordings": documents, "problems": [str(each) for each in wrong]}, output):
        rows = [_judged_row(each) for each in chosen]
        print_table(("ADAPTER", "RECORDING", "VERDICT", "OK"), rows, empty="no recordings")
        for problem in (*wrong, *(problem for each in chosen for problem in each.problems)):
            click.echo(str(problem), err=True)
    return ExitCode.ENDED_BADLY if wrong or any(each.problems for each in chosen) else ExitCode.OK


async def _specs(context: Context) -> "tuple[Mapping[str, File], Desired]":
    """Return the files of the work tree's specs, else of the branch's, and what they ask for."""
    from reconciler.cli.session import spec_files
    from reconciler.specs.build import build

    revision, files = await spec_files(context)
    return files, build(files, revision=revision)


def _judged_row(judged: "Judged") -> tuple[str, ...]:
    verdict = judged.verdict
    return (
        judged.case.adapter,
        judged.case.name,
        verdict.outcome if verdict.kind is None else f"{verdict.outcome} ({verdict.kind})",
        "no" if judged.problems else "yes",
    )


def _judged_document(judged: "Judged") -> Document:
    from reconciler.dispatch.output import verdict_as_json

    return {
        "adapter": judged.case.adapter,
        "recording": judged.case.name,
        "ok": not judged.problems,
        "differences": [problem.message for problem in judged.problems],
        "verdict": verdict_as_json(judged.verdict),
    }


# --- adapter record --------------------------------------------------------


@adapter.command(
    epilog=examples(
        "reconciler adapter record codex quota --task web/fix-login",
        "reconciler adapter record my-agent refused --from recorded.jsonl --rc 1",
    )
)
@click.argument("name", type=NameParam("adapter"))
@click.argument("recording")
@click.option("--task", type=NameParam("task"), metavar="TASK", help="Record the last run of a task.")
@click.option("--round", "number", type=click.IntRange(min=1), help="Round of it; the last if left out.")
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Record what the CLI printed by hand, with a .stderr of the same name beside it.",
)
@click.option("--rc", "exit_code", type=click.IntRange(-64, 255), help="How the CLI exited, with --from.")
@click.pass_obj
def record(
    context: Context,
    name: str,
    recording: str,
    *,
    task: str | None,
    number: int | None,
    source: Path | None,
    exit_code: int | None,
) -> None:
    """
    Keep an output beside its adapter, as a test of it.

    Writes specs/adapters/NAME/recordings/RECORDING.stdout, .stderr and .yaml: what
    was printed, and the verdict that the adapter gives on it now. Read them
    before you commit them. Secrets of the adapter are masked as far as they can
    be looked up here, and what looks like a well-known token is masked too.
    """
    from reconciler.cli.recording import Printed, mask_of, printed_by, write_recording
    from reconciler.cli.session import pick

    if (task is None) is (source is None) or (source is not None) is (exit_code is None):
        raise UsageError("give either --task, or --from and --rc")
    _, desired = asyncio.run(_specs(context))
    adapter = pick(desired, "adapter", desired.adapters, name)
    mask = asyncio.run(mask_of(adapter, desired.accounts.values(), is_whole=source is None))
    if source is not None and exit_code is not None:
        beside = source.with_suffix(".stderr")
        stderr = beside.read_bytes() if beside != source and beside.is_file() else b""
        printed = Printed(source.read_bytes(), stderr, exit_code)
    else:
        printed = asyncio.run(printed_by(context, task or "", number))
    for path in write_recording(context.work_tree(), adapter, recording, printed, mask=mask, now=clock.now()):
        click.echo(path)
