"""
Proof of where work comes from: `verify`.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.cli.output import OutputFormat, output_option, print_document
from reconciler.cli.pager import busy, paged
from reconciler.cli.terminal import value_block
from reconciler.core.errors import NotFound

if TYPE_CHECKING:
    from reconciler.cli.session import FleetSession
    from reconciler.cli.shapes import LinkShape, ProofShape, VerifyShape
    from reconciler.cli.trace import RunTrace
    from reconciler.core.audit import DeliveredWork, Flaw, RunOnRecord
    from reconciler.git.process import Git
    from reconciler.store.audit import Audited
    from reconciler.store.batch_signatures import RecordSignatures

_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_MOST_FLAWS = 20
"""Flaws that are printed as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One link of the chain from a commit of the work to who asked for it."""

    name: str
    is_sound: bool | None
    """None: it could not be looked at here."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The chain of one run."""

    run: str
    links: Sequence[Link]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is looked at beside the fleet's repository."""

    code: Path | None
    """A clone of the code repository."""
    allowed_signers: Path | None


@dataclass(frozen=True, slots=True)
class Brought:
    """What a commit of a code repository has to do with a delivery."""

    delivery: "DeliveredWork"
    how: str


@click.command(
    "verify",
    epilog=examples(
        "reconciler verify",
        "reconciler verify web/fix-login",
        "reconciler verify 1a2b3c4 --code ~/web --allowed-signers ~/.config/git/signers",
    ),
)
@click.argument("what", metavar="[COMMIT|RUN|BRANCH|PR|TASK]", required=False)
@click.option(
    "--code",
    type=click.Path(file_okay=False, path_type=Path),
    help="A clone of the code repository; the reconciler's own copy if left out.",
)
@click.option(
    "--allowed-signers",
    type=click.Path(dir_okay=False, resolve_path=True, path_type=Path),
    help="File of git's gpg.ssh.allowedSignersFile: specs and record must be signed by one of these.",
)
@output_option("text")
@click.pass_obj
def verify_command(
    context: Context, what: str | None, code: Path | None, allowed_signers: Path | None, output: OutputFormat
) -> int:
    """
    Verify the record, and the way from work to who asked for it.

    Looks at the repositories alone, so a clone will do. The whole record is held
    against itself: one line, every step following from the one before, no run
    started twice, each for the spec that it names. With a commit of the work
    (or of a merge that brought it), a run, a branch, a pull request or a task, each link
    is told: merged, delivered, run, adapter, spec, who asked. Exits 5 if one does not hold.
    """
    sources = Sources(code=code, allowed_signers=allowed_signers)
    audited, proofs = asyncio.run(_verify(context, what, sources))
    if not print_document(verify_document(audited, proofs), output):
        with paged(context):
            click.echo("\n\n".join([_record_text(audited), *map(_proof_text, proofs)]))
    return ExitCode.OK if _holds(audited, proofs) else ExitCode.ENDED_BADLY


def _holds(audited: "Audited", proofs: Sequence[Proof]) -> bool:
    return not audited.flaws and all(link.is_sound is not False for proof in proofs for link in proof.links)


async def _verify(context: Context, what: str | None, sources: Sources) -> "tuple[Audited, Sequence[Proof]]":
    from reconciler.cli.session import open_fleet, spec_path
    from reconciler.specs.parse import campaign_generation, campaign_path
    from reconciler.store.audit import SpecPlaces, audit_records

    async with open_fleet(context) as fleet:
        branch, *others = (await fleet.record_branches()).values()
        with busy("looking at every commit of the record"):
            audited = await audit_records(
                fleet.repository,
                (branch, *others),
                fleet.branch,
                spec_places=SpecPlaces(
                    lambda task: spec_path("task", task), campaign_path, campaign_generation
                ),
                allowed_signers=sources.allowed_signers,
            )
        if audited is None:
            raise NotFound(f"there is no record: {fleet.repository} has no branch {branch}")
        audited = replace(audited, flaws=[*audited.flaws, *await _rewinds(fleet, branch)])
        if what is None:
            return audited, ()
        proofs = [proof async for proof in _proofs(fleet, what, audited, sources)]
    return audited, proofs


async def _rewinds(fleet: "FleetSession", branch: str) -> "Sequence[Flaw]":
    """Return which lines do not descend from what is remembered, outside of them, to have been acted on."""
    from reconciler.core.audit import Flaw

    lines = [
        (line, await line.marks.rewind(line.kind, line.branch, line.head))
        for line in await fleet.lines(branch)
    ]
    return [Flaw(line.head or "", str(rewind)) for line, rewind in lines if rewind]


async def _proofs(
    fleet: "FleetSession", what: str, audited: "Audited", sources: Sources
) -> AsyncIterator[Proof]:
    """Yield the chain of every run that is meant. Raises NotFound if there is none."""
    from reconciler.cli.trace import traces

    code = Code(fleet, sources.code)
    deliveries = list(reversed(audited.audit.deliveries.values()))
    brought = await code.brought_by(what, deliveries)
    for run in await traces(fleet, brought.delivery.run if brought else what):
        seen = audited.audit.runs.get(run.run)
        yield Proof(
            run=run.run,
            links=[
                *([Link(name="commit", is_sound=True, message=brought.how)] if brought else []),
                *[link async for link in _landed_links(code, run, deliveries, seen)],
                await _delivered_link(code, run, deliveries),
                _run_link(run, audited),
                *([await _adapter_link(fleet, run, seen)] if seen else []),
                await _spec_link(fleet, run, audited),
                await _asked_link(fleet, run, sources.allowed_signers),
            ],
        )


# --- The links -------------------------------------------------------------


async def _landed_links(
    code: "Code", run: "RunTrace", deliveries: "Sequence[DeliveredWork]", seen: "RunOnRecord | None"
) -> AsyncIterator[Link]:
    """Yield whether what landed is what a merge queue validated, if one did."""
    if seen is None or not seen.validated:
        return
    about = f"with {seen.validated[:10]}, which the merge queue validated"
    last = next((each for each in deliveries if each.run == run.run), None)
    git = await code.of(last) if last else None
    if last is None or git is None or run.phase != "completed":
        yield Link(name="landed", is_sound=None, message=about)
        return
    branch, flaw = await _way_of(git, last.head, seen.validated)
    message = f"{about}: {flaw}" if flaw else f"{about}, on {branch}"
    yield Link(name="landed", is_sound=not flaw, message=message)


async def _way_of(git: "Git", head: str, validated: str) -> tuple[str, str]:
    """Return the branch to which work came with a commit, or what is wrong with that."""
    from reconciler.git.provenance import first_parent_refs, has_commit, is_ancestor

    if not await has_commit(git, validated):
        return "", "that commit is not there"
    if not await is_ancestor(git, head, validated):
        return "", f"it does not have {head[:10]}"
    refs = await first_parent_refs(git, validated)
    return (refs[0], "") if refs else ("", "no branch here was ever at it")


async def _delivered_link(code: "Code", run: "RunTrace", deliveries: "Sequence[DeliveredWork]") -> Link:
    """Return whether what a run delivered last is there."""
    last = next((each for each in deliveries if each.run == run.run), None)
    if last is None:
        return Link(name="delivered", is_sound=None, message="nothing, by this run")
    git = await code.of(last)
    if git is None:
        hint = f"{last.head[:10]}; name a clone of {last.repo} with --code"
        return Link(name="delivered", is_sound=None, message=hint)
    return await _is_there(git, last)


async def _is_there(git: "Git", delivery: "DeliveredWork") -> Link:
    from reconciler.git.provenance import has_commit, is_ancestor

    about = f"{delivery.head[:10]} on {delivery.branch}, on top of {delivery.base[:10]} of {delivery.repo}"
    if not await has_commit(git, delivery.head):
        return Link(name="delivered", is_sound=False, message=f"{about}: that commit is not there")
    if not await is_ancestor(git, delivery.base, delivery.head):
        return Link(name="delivered", is_sound=False, message=f"{about}: it does not descend from that")
    count = await git.line("rev-list", "--count", f"{delivery.base}..{delivery.head}")
    return Link(name="delivered", is_sound=True, message=f"{about}: {count} commits")


def _run_link(run: "RunTrace", audited: "Audited") -> Link:
    seen, flaws = audited.audit.runs.get(run.run), len(audited.flaws)
    if seen is None or flaws:
        about = f"the record has {flaws} flaws, so it proves nothing" if flaws else "it is not on record"
        return Link(name="run", is_sound=False, message=f"{run.run}: {about}")
    by = " ".join(filter(None, (seen.adapter, seen.model))) or "an outside agent"
    prompt = f", prompt sha256 {seen.prompt_sha256[:16]}" if seen.prompt_sha256 else ""
    opinion = f", second opinion: {seen.opinion}" if seen.opinion else ""
    about = f"{run.run}, {by} on {run.host or 'nobody'}, round {seen.round}{prompt}{opinion}; now {run.phase}"
    return Link(name="run", is_sound=True, message=about)


async def _adapter_link(fleet: "FleetSession", run: "RunTrace", seen: "RunOnRecord") -> Link:
    """Return whether the adapter that started a run is one of the specs, or built in here."""
    from reconciler.cli.session import spec_path
    from reconciler.specs.layers import builtin_blobs

    if not (seen.adapter and seen.adapter_blob):
        return Link(name="adapter", is_sound=None, message="none on record")
    tools = {"its CLI": seen.cli_version, "started by reconciler": seen.program_version}
    version = "".join(f", {name} {value}" for name, value in tools.items() if value)
    path, about = spec_path("adapter", seen.adapter), f"{seen.adapter} ({seen.adapter_blob[:10]}){version}"
    git, revision = fleet.repository.git, run.revision
    there = await git.line("rev-parse", "-q", "--verify", f"{revision}:{path}", codes=(0, 1))
    if seen.adapter_blob == there:
        return Link(name="adapter", is_sound=True, message=f"{about}, {path} as it was in {revision[:10]}")
    specs = fleet.repository.ref(fleet.branch)
    of_file = ("log", "-1", "--format=%H", f"--find-object={seen.adapter_blob}", specs, "--", path)
    if commit := (await git.attempt(*of_file)).text.strip():
        return Link(name="adapter", is_sound=True, message=f"{about}, {path} as in {commit[:10]}")
    if seen.adapter_blob == builtin_blobs().get(seen.adapter):
        return Link(name="adapter", is_sound=not there, message=f"{about}, built in")
    if there:
        message = f"{about}: {path} was {there[:10]} in {revision[:10]}, and never that"
        return Link(name="adapter", is_sound=False, message=message)
    return Link(
        name="adapter", is_sound=None, message=f"{about}, built into another version of the reconciler"
    )


async def _spec_link(fleet: "FleetSession", run: "RunTrace", audited: "Audited") -> Link:
    """Return the spec that a run answers; that it is the one named was looked at with the record."""
    from reconciler.cli.session import spec_path
    from reconciler.specs.parse import campaign_path

    path, campaign = spec_path("task", run.task), campaign_path(run.task)
    name = f"{run.revision}:{path}"
    if campaign and not await fleet.repository.git.line("rev-parse", "-q", "--verify", name, codes=(0, 1)):
        path = campaign
    seen = audited.audit.runs.get(run.run)
    blob = seen.generation[:10] if seen else "?"
    return Link(
        name="spec",
        is_sound=bool(seen) and not audited.flaws,
        message=f"{path} ({blob}), as it was in {run.revision[:10] or '?'}",
    )


async def _asked_link(fleet: "FleetSession", run: "RunTrace", allowed_signers: Path | None) -> Link:
    from reconciler.git.provenance import signature

    if not run.spec_commit:
        return Link(name="asked by", is_sound=False, message="the commit that wrote the spec is not there")
    signed = await signature(fleet.repository.git, run.spec_commit, allowed_signers)
    return Link(
        name="asked by",
        is_sound=signed.is_good if allowed_signers else True,
        message=f"{run.spec_commit[:10]} {run.subject} ({signed})",
    )


class Code:
    """The code repositories, where they are at hand."""

    def __init__(self, fleet: "FleetSession", clone: Path | None) -> None:
        self._fleet = fleet
        self._clone = clone

    async def of(self, delivery: "DeliveredWork") -> "Git | None":
        """Return git for the clone that was named, or else the reconciler's own copy."""
        from reconciler.git.process import Git

        if self._clone is not None:
            git_dir = await Git.discovering(self._clone).line("rev-parse", "--absolute-git-dir")
            return Git.local(Path(git_dir))
        mirror = self._fleet.context.data_dir / "repos" / f"{delivery.repo.replace('/', '+')}.git"
        return Git.local(mirror) if mirror.is_dir() else None

    async def brought_by(self, what: str, deliveries: "Sequence[DeliveredWork]") -> "Brought | None":
        """
        Return the delivery that a commit of a code repository is part of or brings, and how.

        None if it is no commit of one. Raises NotFound if no run delivered it.
        """
        from reconciler.git.provenance import has_commit, is_of, landing

        if not _COMMIT.fullmatch(what):
            return None
        copies = [(each, git) for each in deliveries if (git := await self.of(each))]
        at_hand = [(each, git) for each, git in copies if await has_commit(git, what)]
        there = [(each, git) for each, git in at_hand if await has_commit(git, each.head)]
        for each, git in there:
            if await is_of(git, what, each.base, each.head):
                return Brought(each, f"{what[:10]} is part of what was delivered")
        for each, git in there:  # compares changes, which takes longer
            if how := await landing(git, what, each.base, each.head):
                return Brought(each, f"{what[:10]} {how}")
        if at_hand:
            repos = ", ".join(sorted({each.repo for each, _ in at_hand}))
            raise NotFound(
                f"{what} is in {repos}, and no run on record delivered it; `git show {what}` says who made it"
            )
        return None


# --- What is printed --------------------------------------------------------


def _record_text(audited: "Audited") -> str:
    audit, flaws = audited.audit, audited.flaws
    about = f"{audit.commits} commits up to {audited.head[:10]}, {audit.steps} steps, {len(audit.runs)} runs"
    approved = [
        f"{commit[:10]} goes on from an earlier commit, as a person approved" for commit in audit.approvals
    ]
    approved += _signed_text(audited.signatures)
    if not flaws:
        return value_block([("record", "\n".join([f"{about}: each follows from the one before", *approved]))])
    left = len(flaws) - _MOST_FLAWS
    lines = [f"{flaw.commit[:10]} {flaw.what}" for flaw in flaws[:_MOST_FLAWS]]
    more = [f"and {left} more; -o json has all"] if left > 0 else []
    return value_block([("record", "\n".join([f"{about}: NOT SOUND", *lines, *more, *approved]))])


def _signed_text(signatures: "RecordSignatures | None") -> list[str]:
    if signatures is None:
        return []
    if signatures.since is None:
        return ["not signed; run the reconciler with --signing-key"]
    return [f"signed since {signatures.since[:10]}, by {', '.join(signatures.signers)}"]


_MARKS = {True: "ok", False: "NOT SOUND", None: "not looked at"}


def _proof_text(proof: Proof) -> str:
    return value_block((link.name, f"{_MARKS[link.is_sound]}: {link.message}") for link in proof.links)


def verify_document(audited: "Audited", proofs: Sequence[Proof]) -> "VerifyShape":
    """Return the outcome as `-o json` prints it."""
    audit = audited.audit
    return {
        "is_sound": _holds(audited, proofs),
        "head": audited.head,
        "commits": audit.commits,
        "steps": audit.steps,
        "runs": len(audit.runs),
        "approvals": audit.approvals,
        "signed_since": audited.signatures.since if audited.signatures else None,
        "signers": [*audited.signatures.signers] if audited.signatures else [],
        "flaws": [{"commit": flaw.commit, "what": flaw.what} for flaw in audited.flaws],
        "proofs": [_proof_document(proof) for proof in proofs],
    }


def _proof_document(proof: Proof) -> "ProofShape":
    return {"run": proof.run, "links": [_link_document(link) for link in proof.links]}


def _link_document(link: Link) -> "LinkShape":
    return {"name": link.name, "is_sound": link.is_sound, "message": link.message}
