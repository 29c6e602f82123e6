"""
The commits of the state branch, read for an audit: the oldest first, in batches, each with what it changes.
"""

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import NamedTuple

from reconciler.core.audit import Audit, Flaw, RecordCommit, Unreadable
from reconciler.core.errors import SpecError
from reconciler.core.model.status import Phase, Status
from reconciler.core.transitions import TransitionRecord
from reconciler.git.objects import present
from reconciler.git.repository import Repository
from reconciler.store import statuses
from reconciler.store.batch_signatures import RecordSignatures, record_signatures
from reconciler.store.high_water import APPROVAL
from reconciler.store.layout import (
    ACCOUNTS,
    ARCHIVE_ROOT,
    HOSTS,
    IDENTITY_FILE,
    STATE_ROOT,
    name_under,
    recorded_task,
)
from reconciler.store.messages import parse_message, trailers_of

_BATCH = 500
"""Commits whose files are in memory at once."""
_ROOTS = (f"{STATE_ROOT}/", f"{ARCHIVE_ROOT}/")
_PARENT = re.compile(r"^parent ([0-9a-f]+)$", re.MULTILINE)
_AUTHOR = re.compile(r"^author (.*) \d+ [+-]\d{4}$", re.MULTILINE)
_DIFF = (
    *("diff-tree", "--stdin", "-r", "-z", "--always", "--root", "--no-renames", "--no-abbrev"),
    *("--diff-merges=first-parent",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """What an audit of a whole record found."""

    audit: Audit
    head: str
    flaws: Sequence[Flaw]
    signatures: RecordSignatures | None = None
    """What its signatures vouch for; None if they were not looked at."""


class SpecPlaces(NamedTuple):
    """Where the specs of tasks are, and which generation one of a campaign has."""

    own: Callable[[str], str]
    """Returns the path of the file that a task has for itself."""
    campaign: Callable[[str], str]
    """Returns the path of the campaign that it would be of; empty if none could."""
    generation: Callable[[str, bytes], str]
    """Returns the generation of a task in the content of a campaign; empty if it is not of it."""


async def audit_record(
    repository: Repository,
    branch: str,
    specs_branch: str,
    *,
    spec_places: SpecPlaces,
    allowed_signers: Path | None = None,
) -> Audited | None:
    """
    Audit every commit of the state branch; None if there is none.

    `spec_places` tells where the spec of a task is. Signatures are checked
    against a file of allowed signers, where there is one. Specs commits that the record
    names must be on the specs branch, each no older than the one before. Raises
    Unavailable.
    """
    head = repository.read_ref(repository.ref(branch))
    if head is None:
        return None
    audit = Audit(is_own_branch=branch != specs_branch)
    line = await SpecsLine.read(repository, specs_branch)
    flaws: list[Flaw] = []
    async for commit in _commits(repository, head, spec_places):
        flaws += audit.look(commit)
        flaws += line.look(commit.record)
    signed = await record_signatures(repository, head, allowed_signers) if allowed_signers else None
    flaws += signed.flaws if signed else ()
    return Audited(audit=audit, head=head, flaws=flaws, signatures=signed)


async def audit_records(
    repository: Repository,
    branches: Sequence[str],
    specs_branch: str,
    *,
    spec_places: SpecPlaces,
    allowed_signers: Path | None = None,
) -> Audited | None:
    """Audit the records of all shards of a fleet as one, see `audit_record`: no run may be on two."""
    read = [
        await audit_record(
            repository, branch, specs_branch, spec_places=spec_places, allowed_signers=allowed_signers
        )
        for branch in branches
    ]
    there = [each for each in read if each]
    return reduce(_joined, there) if there else None


def _joined(one: Audited, other: Audited) -> Audited:
    twice = sorted(one.audit.runs.keys() & other.audit.runs.keys())
    flaws = [Flaw(other.head, f"run {run} is on the record of another shard too") for run in twice]
    return replace(
        one,
        audit=one.audit.joined(other.audit),
        flaws=[*one.flaws, *other.flaws, *flaws],
        signatures=one.signatures or other.signatures,
    )


class SpecsLine:
    """The commits of the specs in their order: what a record names must follow it."""

    def __init__(self, order: Mapping[str, int], branch: str) -> None:
        self._order = order
        self._branch = branch
        self._newest = -1

    @classmethod
    async def read(cls, repository: Repository, branch: str) -> "SpecsLine":
        """Return the line of a branch, empty if it is not there."""
        head = repository.read_ref(repository.ref(branch))
        listed = await repository.git.run("rev-list", "--topo-order", "--reverse", head) if head else b""
        return cls({commit: at for at, commit in enumerate(listed.decode().split())}, branch)

    def look(self, record: TransitionRecord) -> Iterator[Flaw]:
        """Yield what is wrong with the specs commit that a record names."""
        if not record.revision:
            return
        at = self._order.get(record.revision)
        if at is None:
            yield Flaw(
                record.commit, f"names specs commit {record.revision[:10]}, which is not on {self._branch}"
            )
        elif at < self._newest:
            yield Flaw(
                record.commit, f"names specs commit {record.revision[:10]}, older than one that was in force"
            )
        else:
            self._newest = at


async def _commits(repository: Repository, head: str, spec_places: SpecPlaces) -> AsyncIterator[RecordCommit]:
    listed = await repository.git.run("rev-list", "--first-parent", "--reverse", head)
    ids = listed.decode().split()
    for start in range(0, len(ids), _BATCH):
        batch = ids[start : start + _BATCH]
        changed = await _changed(repository, batch)
        blobs = {blob for files in changed.values() for blob in files.values() if blob}
        contents = await present(repository, [*batch, *sorted(blobs)])
        commits = [_commit(each, contents, changed[each]) for each in batch]
        specs = await _specs(repository, commits, spec_places)
        for commit in commits:
            yield _with_generation(commit, specs, spec_places, repository)


async def _changed(repository: Repository, commits: Sequence[str]) -> Mapping[str, Mapping[str, str | None]]:
    """Return the files that each commit changes: blob id by path, None for one that is removed."""
    listed = await repository.git.run(*_DIFF, stdin="\n".join([*commits, ""]).encode())
    fields = iter(listed.decode("utf-8", "surrogateescape").split("\0"))
    changed: dict[str, dict[str, str | None]] = {}
    files: dict[str, str | None] = {}
    for each in fields:
        if each.startswith(":"):
            blob = each.split(" ")[3]
            files[next(fields)] = blob if blob.strip("0") else None
        elif each.strip():
            files = changed.setdefault(each.strip(), {})
    return changed


def _commit(
    commit: str, contents: Mapping[str, bytes | None], files: Mapping[str, str | None]
) -> RecordCommit:
    content = contents[commit] or b""
    headers, _, message = content.decode("utf-8", "replace").partition("\n\n")
    author = _AUTHOR.search(headers)
    of_record = {path: blob for path, blob in files.items() if path.startswith(_ROOTS)}
    of_record = dict(sorted(of_record.items(), key=lambda each: each[1] is not None))  # what is there wins
    tasks = {name: path for path in of_record if (name := recorded_task(path))}
    hosts = {name: path for path in of_record if (name := name_under(HOSTS, path))}
    accounts = {name: path for path in of_record if (name := name_under(ACCOUNTS, path))}
    ours = {*hosts.values(), *accounts.values(), IDENTITY_FILE}
    return RecordCommit(
        record=parse_message(commit, content),
        author=author[1] if author else "",
        parents=tuple(_PARENT.findall(headers)),
        tasks={name: _status(path, of_record[path], contents) for name, path in tasks.items()},
        hosts=frozenset(hosts),
        accounts=frozenset(accounts),
        others=tuple(sorted(path for path in of_record if path not in ours and not recorded_task(path))),
        is_founding=IDENTITY_FILE in of_record,
        is_approval=APPROVAL in trailers_of(message),
    )


def _status(path: str, blob: str | None, contents: Mapping[str, bytes | None]) -> Status | Unreadable | None:
    if blob is None:
        return None
    content = contents[blob]
    if content is None:
        return Unreadable(f"object {blob} is missing")
    try:
        return statuses.load_status(Status, content, path)
    except SpecError as error:
        return Unreadable(str(error))


# --- The specs that assigned runs answer ------------------------------------


def _spec_objects(commit: RecordCommit, spec_places: SpecPlaces) -> Sequence[str]:
    """Return git's names of what may be the spec that a step which assigns a run answers."""
    record = commit.record
    if not record.task or not record.revision or record.after != Phase.ASSIGNED:
        return ()
    paths = (spec_places.own(record.task), spec_places.campaign(record.task))
    return [f"{record.revision}:{path}" for path in paths if path]


async def _specs(
    repository: Repository, commits: Sequence[RecordCommit], spec_places: SpecPlaces
) -> Mapping[str, bytes | None]:
    names = {name for commit in commits for name in _spec_objects(commit, spec_places)}
    return await present(repository, sorted(names))


def _with_generation(
    commit: RecordCommit,
    specs: Mapping[str, bytes | None],
    spec_places: SpecPlaces,
    repository: Repository,
) -> RecordCommit:
    names = _spec_objects(commit, spec_places)
    if not names:
        return commit
    own, *campaign = (specs[name] for name in names)
    if own is not None:
        return replace(commit, generation=repository.blob_id(own))
    content = campaign[0] if campaign else None
    generation = spec_places.generation(commit.record.task or "", content) if content else ""
    return replace(commit, generation=generation)
