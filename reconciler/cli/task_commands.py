"""
Task commands: `suspend`, `retry`, `answer`, `approve` and the like edit the task's file, commit and push it.
"""

import asyncio
import sys
from collections.abc import Callable, Sequence
from functools import partial

import click

from reconciler import clock
from reconciler.cli.change import (
    change,
    is_confirmed,
    reason_option,
)
from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.cli.references import NameParam, task_names, tasks_argument
from reconciler.core.edits import (
    FieldChanges,
    answering,
    approving,
    cancelling,
    choosing,
    edit_message,
    rejecting,
    removal_subject,
    resuming,
    retrying,
    suspending,
)
from reconciler.core.errors import UsageError
from reconciler.core.model.specs import TaskSpec
from reconciler.core.model.status import Reason, Status

DecideTask = Callable[[str, TaskSpec, Status | None], FieldChanges | str]
"""Decide which fields of a task change, or why there is nothing to do."""


@click.command(
    epilog=examples(
        "reconciler suspend web/fix-login",
        "reconciler suspend web/a web/b --reason 'Freeze before the release'",
    )
)
@tasks_argument
@reason_option
@click.pass_obj
def suspend(context: Context, args: tuple[str, ...], reason: str) -> None:
    """
    Suspend tasks: keep them from starting new runs.

    A live run is stopped; `reconciler resume` lets the task go on.
    """
    asyncio.run(_change(context, "Suspend", args, reason, suspending))


@click.command(epilog=examples("reconciler resume web/fix-login"))
@tasks_argument
@reason_option
@click.pass_obj
def resume(context: Context, args: tuple[str, ...], reason: str) -> None:
    """Resume suspended tasks."""
    asyncio.run(_change(context, "Resume", args, reason, resuming))


@click.command(epilog=examples("reconciler cancel web/fix-login --reason 'Somebody did it by hand'"))
@tasks_argument
@reason_option
@click.pass_obj
def cancel(context: Context, args: tuple[str, ...], reason: str) -> None:
    """
    Cancel tasks: end their runs, and start no more.

    A live run is stopped; `reconciler retry` asks for the task again.
    """
    asyncio.run(_change(context, "Cancel", args, reason, cancelling))


@click.command(
    epilog=examples(
        "reconciler retry web/fix-login", "reconciler retry web/fix-login && reconciler wait web/fix-login"
    )
)
@tasks_argument
@reason_option
@click.pass_obj
def retry(context: Context, args: tuple[str, ...], reason: str) -> None:
    """
    Retry settled tasks: run them again.

    Raises `rerun` in the task's file; a cancelled task becomes active again.
    """
    asyncio.run(_change(context, "Retry", args, reason, retrying))


@click.command(
    epilog=examples(
        "reconciler answer web/fix-login 'Use the session cookie'",
        "cat answer.md | reconciler answer web/fix-login --to q2-1 -",
    )
)
@click.argument("task", metavar="[task/]NAME", type=NameParam("task"))
@click.argument("text", required=False)
@click.option("--to", "question", metavar="ID", help="The question that is meant; else the one that waits.")
@reason_option
@click.pass_obj
def answer(context: Context, task: str, text: str | None, question: str | None, reason: str) -> None:
    """
    Answer the question of a task's agent; it goes on with the answer.

    TEXT is the answer, - for standard input. Without it the question is shown.
    The first answer counts.
    """
    asyncio.run(_answer(context, task, text, question, reason))


@click.command("approve", epilog=examples("reconciler approve web/fix-login --reason 'As discussed'"))
@tasks_argument
@reason_option
@click.pass_obj
def approve_plan(context: Context, args: tuple[str, ...], reason: str) -> None:
    """
    Approve the plans of tasks: their agents carry them out.

    Of tasks with `mode: plan`. `reconciler answer TASK TEXT` says what to change in a plan instead.
    """
    asyncio.run(_change(context, "Approve", args, reason, approving))


@click.command("reject", epilog=examples("reconciler reject web/fix-login --reason 'Not this quarter'"))
@tasks_argument
@reason_option
@click.pass_obj
def reject_plan(context: Context, args: tuple[str, ...], reason: str) -> None:
    """
    Reject the plans of tasks, which cancels them.

    `reconciler retry` asks for a new plan.
    """
    asyncio.run(_change(context, "Reject", args, reason, rejecting))


@click.command("choose", epilog=examples("reconciler choose web/fix-login 2 --reason 'Fewer moving parts'"))
@click.argument("task", metavar="[task/]NAME", type=NameParam("task"))
@click.argument("variant")
@reason_option
@click.pass_obj
def choose_variant(context: Context, task: str, variant: str, reason: str) -> None:
    """
    Choose among the variants of a task that asks a person to.

    VARIANT is its number, or its name such as `web/fix-login@2`. `reconciler describe` shows them.
    """
    asyncio.run(_change(context, "Choose for", (task,), reason, partial(_chosen, variant)))


def _chosen(variant: str, name: str, spec: TaskSpec, status: Status | None) -> FieldChanges | str:
    return choosing(name, spec, status, variant)


# --- Doing -----------------------------------------------------------------


async def _change(context: Context, verb: str, args: Sequence[str], reason: str, decide: DecideTask) -> None:
    from reconciler.cli.session import open_fleet

    async with open_fleet(context) as fleet:
        statuses = (await fleet.observed()).statuses
        await change(
            fleet,
            TaskSpec,
            task_names(args, statuses.keys() | await fleet.names("task")),
            lambda name, spec: decide(name, spec, statuses.get(name)),
            verb=verb,
            reason=reason,
        )


async def _answer(context: Context, name: str, text: str | None, question: str | None, reason: str) -> None:
    from reconciler.cli.session import open_fleet

    async with open_fleet(context) as fleet:
        statuses = (await fleet.observed()).statuses
        names = task_names((name,), statuses.keys() | await fleet.names("task"))
        status = statuses.get(names[0])
        if text is None and status and status.question:
            click.echo(status.question.text)
            raise UsageError(f"{status.question.id} waits for `reconciler answer {names[0]} TEXT`")
        given = sys.stdin.read() if text == "-" else text or ""
        await change(
            fleet,
            TaskSpec,
            names,
            lambda name, spec: answering(name, spec, statuses.get(name), given, question),
            verb="Answer",
            reason=reason,
        )


# --- Removals --------------------------------------------------------------


@click.command(
    "approve-prune",
    epilog=examples(
        "reconciler approve-prune", "reconciler approve-prune --yes --reason 'The quarter is over'"
    ),
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@reason_option
@click.pass_obj
def approve_prune(context: Context, yes: bool, reason: str) -> int:
    """
    Approve a large removal of tasks that waits for it.

    Shows the tasks whose specs are gone. Exactly these may then be removed;
    if the set changes before it is done, it waits again.
    """
    return asyncio.run(_approve(context, reason, is_sure=yes))


async def _approve(context: Context, reason: str, *, is_sure: bool) -> ExitCode:
    from reconciler.cli.session import open_fleet
    from reconciler.core.planning.plan import plan, prune_digest
    from reconciler.core.shards import shard_parts
    from reconciler.specs.edit import edit
    from reconciler.specs.parse import FLEET_FILE

    async with open_fleet(context) as fleet:
        parts = shard_parts(*await fleet.recorded())
        plans = [plan(desired, observed, clock.now()) for _, desired, observed in parts]
        held = [
            sorted(name for name, wait in each.waiting.items() if wait.reason is Reason.APPROVAL)
            for each in plans
        ]
        names = next(filter(None, held), [])  # of one shard at a time: each knows its own
        if not names:
            click.echo("no removal waits", err=True)
            return ExitCode.OK
        digest = prune_digest(names)
        click.echo("\n".join(names))
        these = f"these {len(names)} tasks" if len(names) > 1 else "this task"
        what = f"the removal of {these} ({digest})"
        refusal = f"{what} is allowed with --yes"
        if not is_confirmed(f"Allow {what}?", is_sure=is_sure, refusal=refusal):
            click.echo("nothing was changed", err=True)
            return ExitCode.FAILURE
        text = edit(await fleet.settings_text(), {"prune_approved": digest}, path=FLEET_FILE)
        await fleet.commit(FLEET_FILE, text, edit_message(removal_subject(len(names)), reason))
        click.echo(f"allowed: {digest}", err=True)
    return ExitCode.OK
