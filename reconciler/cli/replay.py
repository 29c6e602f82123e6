"""
Decisions on record, made again: `replay`.
"""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.cli.output import OutputFormat, output_option, print_document
from reconciler.cli.terminal import value_block
from reconciler.core.errors import NotFound, UsageError

if TYPE_CHECKING:
    from reconciler.cli.session import FleetSession
    from reconciler.cli.shapes import ReplayShape
    from reconciler.core.model.status import Observed
    from reconciler.core.planning.replay import RecordedStep, Replay
    from reconciler.core.transitions import TransitionRecord


@dataclass(frozen=True, slots=True)
class _Replayed:
    """A commit of the record, and what came of its decision."""

    record: "TransitionRecord"
    replay: "Replay"


@click.command(
    "replay",
    epilog=examples("reconciler replay 1a2b3c4", "reconciler replay fleet-state -o json"),
)
@click.argument("commit")
@output_option("text")
@click.pass_obj
def replay_command(context: Context, commit: str, output: OutputFormat) -> int:
    """
    Make a decision on record again from what it rested on, and compare.

    Looks at the repository alone, so a clone will do: the specs that the commit names, the
    record as it was before it, and what else it rested on (load of the hosts, money spent),
    which its trailer Decision-Inputs has. Says that the decision is the same, or where it
    differs; what came from outside is told to be a fact, and no decision. Exits 5 if it
    differs, or is no legal step.
    """
    replayed = asyncio.run(_replay(context, commit))
    if not print_document(replay_document(replayed), output):
        click.echo(_text(replayed))
    return ExitCode.ENDED_BADLY if replayed.replay.verdict == "differs" else ExitCode.OK


async def _replay(context: Context, revision: str) -> _Replayed:
    from reconciler.cli.session import open_fleet
    from reconciler.core.planning.replay import Replay, replay

    async with open_fleet(context) as fleet:
        branch, *others = (await fleet.record_branches()).values()
        if others:
            raise UsageError("decisions of a fleet with shards cannot be made again")
        record, step, observed = await _step(fleet, branch, revision)
        if step is None:
            message = "news, and no decision" if record.host or record.account else "no step of a task"
            return _Replayed(record, Replay(verdict="fact", message=message))
        if not record.revision:
            raise NotFound(f"{record.commit} names no commit of the specs (Spec-Revision)")
        specs, files = await fleet.files(record.revision)
        return _Replayed(record, replay(step, await fleet.in_force(specs, files), observed))


async def _step(
    fleet: "FleetSession", branch: str, revision: str
) -> "tuple[TransitionRecord, RecordedStep | None, Observed]":
    """Return what a commit of the record says, its step, and what was on record before it."""
    from reconciler.core.planning.replay import RecordedStep
    from reconciler.core.views import observed_on_record
    from reconciler.git.provenance import is_ancestor
    from reconciler.store.archive import read_archived
    from reconciler.store.messages import parse_message
    from reconciler.store.records import Records

    repository, commit = fleet.repository, await fleet.resolve(revision)
    head = repository.read_ref(repository.ref(branch))
    if head is None or not await is_ancestor(repository.git, commit, head):
        raise NotFound(
            f"{commit[:10]} is no commit of the record ({branch}); `reconciler history` lists them"
        )
    record = parse_message(commit, await repository.git.run("cat-file", "commit", commit))
    parent = await repository.git.line("rev-parse", "-q", "--verify", f"{commit}^", codes=(0, 1))
    records = Records(repository, branch)
    statuses, hosts = await records.read(parent or None)
    names = [record.task] if record.task else []
    left, entered = [await read_archived(repository, each, names) for each in (parent, commit)]
    statuses = {**statuses, **left.statuses}
    observed = observed_on_record(statuses, hosts, dict(records.damaged), dict(records.accounts))
    if record.task is None:
        return record, None, observed
    after = {**(await records.read(commit))[0], **entered.statuses}
    before = statuses.get(record.renamed_from or record.task)
    return record, RecordedStep(record=record, before=before, after=after.get(record.task)), observed


_VERDICTS = {
    "same": "the same decision",
    "differs": "DIFFERS",
    "fact": "a fact",
    "open": "cannot be made again",
}


def _text(replayed: _Replayed) -> str:
    record, replay = replayed.record, replayed.replay
    step = f"{record.before} → {record.after}" if record.before else record.after
    lines = {
        "commit": f"{record.commit[:10]} {f'{record.name}: {step}' if step else ''}".rstrip(),
        "specs": (record.revision or "")[:10],
        "inputs": record.inputs or "",
        "replay": f"{_VERDICTS[replay.verdict]}: {replay.message}",
        "differs": "\n".join(replay.differences),
        "decisive": "\n".join(replay.decisive),
        "hosts": "\n".join(replay.hosts),
    }
    return value_block((name, text) for name, text in lines.items() if text)


def replay_document(replayed: _Replayed) -> "ReplayShape":
    """Return the outcome as `-o json` prints it."""
    record, replay = replayed.record, replayed.replay
    return {
        "commit": record.commit,
        "revision": record.revision,
        "verdict": replay.verdict,
        "message": replay.message,
        "differences": [*replay.differences],
        "inputs": record.inputs,
        "decisive": [*replay.decisive],
        "hosts": [*replay.hosts],
    }
