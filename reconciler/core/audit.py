"""
Audit of a record: whether every commit of the state branch is the next link of one chain.

Each transition names the commit of the task's transition before, the phase it
left and the run it is about, and changes one status file. Whoever removes,
reorders, adds or edits commits breaks one of these; the audit names the
commit at which it shows. What the newest commit alone says about itself is
proved by nothing after it: a signature, or a mark outside of the branch, does that.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.lifecycle import TRANSITIONS
from reconciler.core.model.runs import read_run_key, run_key
from reconciler.core.model.status import Phase, Status
from reconciler.core.transitions import TransitionRecord


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A status file that cannot be read, and why."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordCommit:
    """A commit of the state branch, and what it changes there."""

    record: TransitionRecord
    """What its message says; neither task nor host if it is no step."""
    author: str
    parents: tuple[str, ...]
    tasks: Mapping[str, Status | Unreadable | None]
    """Status files that it changes, by task; None for one that it removes."""
    hosts: frozenset[str] = frozenset()
    """Hosts whose files it changes."""
    accounts: frozenset[str] = frozenset()
    """Accounts whose files it changes."""
    others: tuple[str, ...] = ()
    """Paths of whatever else it changes."""
    is_founding: bool = False
    """Whether it only puts the fleet's id on record."""
    is_approval: bool = False
    """Whether a person approved in it that the record goes on from an earlier commit."""
    generation: str | None = None
    """Of a step that assigns a run: blob id of the spec at the revision it names; empty if there is none."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something in a record that the reconciler would not have written."""

    commit: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredWork:
    """What a run delivered, as the record has it."""

    task: str
    run: str
    repo: str
    branch: str
    base: str
    head: str
    commit: str
    """Commit of the record that says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOnRecord:
    """A run, as its last step has it."""

    round: int
    generation: str
    """Blob id of the spec that it answers."""
    adapter: str | None
    adapter_blob: str | None
    cli_version: str | None
    program_version: str | None
    model: str | None
    prompt_sha256: str | None
    opinion: str | None
    """What a second agent made of its work: adapter, verdict, commit."""
    validated: str | None
    """Commit with its work that passed validation in the merge queue and was to land."""


@dataclass(frozen=True, slots=True)
class _Link:
    """Where a task stands after the commits so far."""

    commit: str | None
    """Of its last step; None if its status was only written by hand so far."""
    status: Status | None


@dataclass(slots=True)
class Audit:
    """The audit of one record: `look` at each commit, the oldest first."""

    is_own_branch: bool = True
    """Whether nothing but the record is on the branch."""
    commits: int = 0
    steps: int = 0
    """Of tasks."""
    runs: dict[str, RunOnRecord] = field(default_factory=dict)
    """By key."""
    approvals: list[str] = field(default_factory=list)
    """Commits in which a person approved that the record goes on from an earlier commit."""
    deliveries: dict[str, DeliveredWork] = field(default_factory=dict)
    """By head."""
    _links: dict[str, _Link] = field(default_factory=dict)
    _attempts: dict[str, int] = field(default_factory=dict)

    def look(self, commit: RecordCommit) -> Sequence[Flaw]:
        """Return what is wrong with the next commit."""
        self.commits += 1
        flaws = [*self._flaws(commit)]
        self._follow(commit)
        return [Flaw(commit.record.commit, what) for what in flaws]

    def joined(self, other: "Audit") -> "Audit":
        """Return what both looked at: the records of two shards, to be looked at no further."""
        return Audit(
            self.is_own_branch,
            self.commits + other.commits,
            self.steps + other.steps,
            {**self.runs, **other.runs},
            [*self.approvals, *other.approvals],
            {**self.deliveries, **other.deliveries},
        )

    # --- What is wrong ------------------------------------------------------

    def _flaws(self, commit: RecordCommit) -> Iterator[str]:
        if len(commit.parents) > 1 and (self.is_own_branch or _changes_record(commit)):
            yield "is a merge: a record is one line"
        for task, status in commit.tasks.items():
            if isinstance(status, Unreadable):
                yield f"leaves a status of {task} that cannot be read: {status.why}"
        if commit.others:
            yield f"changes {', '.join(commit.others[:3])}, which no record has"
        record = commit.record
        if commit.is_approval:
            return
        if record.task:
            yield from self._of_step(record.task, commit)
        elif record.host or record.account:
            yield from _of_news(record, commit)
        elif commit.is_founding:
            yield from ["changes the id of the fleet"] if self.steps else []
        elif _changes_record(commit):
            yield f"was made by hand by {commit.author}: it is no step, and changes {_changed(commit)}"

    def _of_step(self, task: str, commit: RecordCommit) -> Iterator[str]:
        record = commit.record
        old = record.renamed_from or task
        link = self._links.get(old)
        expected = {task, old}
        if set(commit.tasks) != expected or commit.hosts or commit.accounts:
            yield f"is a step of {task}, but changes {_changed(commit)}"
        yield from self._of_order(record, link)
        before = link.status if link else None
        after = commit.tasks.get(task)
        if isinstance(after, Unreadable):
            return
        yield from phase_flaws(record, before, after)
        if after is not None:
            yield from _of_fields(record, before, after)
            yield from self._of_run(commit, after)

    def _of_order(self, record: TransitionRecord, link: _Link | None) -> Iterator[str]:
        """Hold the previous step that a step names against the one that is there."""
        there = link.commit if link else None
        is_first = record.before is None and record.previous is None
        if record.previous != there and not is_first:
            yield (
                f"names {_short(record.previous)} as the step before, but that is {_short(there)}: "
                "commits between them were removed, added, changed or moved"
            )

    def _of_run(self, commit: RecordCommit, after: Status) -> Iterator[str]:
        """Look at a step that may assign a run: no key is given twice, and its spec is what was asked for."""
        record, run = commit.record, after.run
        if run is None or after.phase is not Phase.ASSIGNED or record.before == Phase.ASSIGNED:
            return
        yield from self._of_key(run.key, run.round, after)
        if commit.generation is not None and commit.generation != after.generation:
            yield (
                f"answers the spec {after.generation[:10]}, but specs commit {_short(record.revision)} has "
                f"{commit.generation[:10] or 'none of that name'}"
            )

    def _of_key(self, key: str, round_number: int, after: Status) -> Iterator[str]:
        seen = self.runs.get(key)
        if seen is not None and round_number <= seen.round:
            yield f"starts run {key} a second time"
        named = read_run_key(key)
        if named is None or named[1] != after.attempt:
            yield f"assigns run {key} as attempt {after.attempt}"
            return
        task, attempt = named
        if seen is None and attempt <= self._attempts.get(task, 0):
            yield f"gives attempt {attempt} of {task} a second time"
        if key != run_key(task, after.generation, attempt) and seen is None:
            yield f"assigns run {key}, though the spec is {after.generation[:8]}"

    # --- What is known after it ---------------------------------------------

    def _follow(self, commit: RecordCommit) -> None:
        record = commit.record
        self.steps += bool(record.task)
        if commit.is_approval:
            self.approvals.append(record.commit)
        for task, status in commit.tasks.items():
            self._follow_task(task, status, commit)

    def _follow_task(self, task: str, status: Status | Unreadable | None, commit: RecordCommit) -> None:
        record, link = commit.record, self._links.get(task)
        last = record.commit if task == record.task else link.commit if link else None
        self._links[task] = _Link(last, status if isinstance(status, Status) else None)
        if isinstance(status, Status) and status.run is not None:
            self._follow_run(status, record)

    def _follow_run(self, status: Status, record: TransitionRecord) -> None:
        run = status.last_run
        self.runs[run.key] = _on_record(status, self.runs.get(run.key))
        if named := read_run_key(run.key):
            self._attempts[named[0]] = max(named[1], self._attempts.get(named[0], 0))
        if delivery := _delivery(status, record):
            self.deliveries.setdefault(delivery.head, delivery)


def _on_record(status: Status, seen: RunOnRecord | None) -> RunOnRecord:
    """Return a run as a status has it; the spec that it answers is that of its first step."""
    run = status.last_run
    return RunOnRecord(
        round=max(run.round, seen.round if seen else 0),
        generation=seen.generation if seen else status.generation,
        adapter=run.adapter,
        adapter_blob=run.adapter_blob,
        cli_version=run.cli_version,
        program_version=run.program_version,
        model=run.model,
        prompt_sha256=status.prompt_sha256,
        opinion=status.opinion.mark if status.opinion else None,
        validated=status.review.validated,
    )


def _delivery(status: Status, record: TransitionRecord) -> DeliveredWork | None:
    run = status.last_run
    if not (run.repo and status.base_commit and status.head_commit):
        return None
    return DeliveredWork(
        task=record.task or "",
        run=run.key,
        repo=run.repo,
        branch=run.branch,
        base=status.base_commit,
        head=status.head_commit,
        commit=record.commit,
    )


def _of_news(record: TransitionRecord, commit: RecordCommit) -> Iterator[str]:
    hosts = frozenset([record.host] if record.host else [])
    accounts = frozenset([record.account] if record.account else [])
    if (commit.hosts, commit.accounts) != (hosts, accounts) or commit.tasks:
        yield f"is news of {record.name}, but changes {_changed(commit)}"


def phase_flaws(record: TransitionRecord, before: Status | None, after: Status | None) -> Iterator[str]:
    """Yield what is wrong with the phases that a step says, by its files and by the table of transitions."""
    was, now = (status.phase if status else None for status in (before, after))
    if (record.before, record.after) != (was, now):
        yield f"says {_step(record.before, record.after)}, but the files say {_step(was, now)}"
    if now not in set(TRANSITIONS[was].values()):
        yield f"goes {_step(was, now)}, which no step does"


def _of_fields(record: TransitionRecord, before: Status | None, after: Status) -> Iterator[str]:
    """Look at what a step may not change, and at what its message repeats."""
    if before is not None:
        if after.created_at != before.created_at:
            yield "changes when the task was created"
        if after.attempt < before.attempt:
            yield f"takes the attempt back from {before.attempt} to {after.attempt}"
        if after.phase is before.phase and after.since != before.since:
            yield f"changes since when it is {after.phase}"
    if record.host != after.assigned_host or record.worker != after.assigned_agent:
        yield f"names {record.host or record.worker or 'nobody'} as who has the run, but the file does not"
    if record.prompt_sha256 and record.prompt_sha256 != after.prompt_sha256:
        yield "names a prompt that the file does not"
    yield from _of_judgements(record, after)
    run = after.run
    if record.adapter_blob and (run is None or record.adapter_blob != run.adapter_blob):
        yield "names an adapter that the file does not"
    if record.cli_version and (run is None or record.cli_version != run.cli_version):
        yield "names a version of a CLI that the file does not"


def _of_judgements(record: TransitionRecord, after: Status) -> Iterator[str]:
    """Look at what a step says that others made of the work."""
    if record.opinion and (after.opinion is None or record.opinion != after.opinion.mark):
        yield "names a second opinion that the file does not"
    if record.validated and record.validated != after.review.validated:
        yield "names a validated commit that the file does not"


def _changes_record(commit: RecordCommit) -> bool:
    return bool(commit.tasks or commit.hosts or commit.accounts or commit.others or commit.is_founding)


def _changed(commit: RecordCommit) -> str:
    hosts = [f"host {host}" for host in sorted(commit.hosts)]
    accounts = [f"account {account}" for account in sorted(commit.accounts)]
    return ", ".join([*sorted(commit.tasks), *hosts, *accounts, *commit.others][:5]) or "nothing of it"


def _step(before: str | None, after: str | None) -> str:
    return f"{before or 'nothing'} → {after or 'nothing'}"


def _short(commit: str | None) -> str:
    return commit[:10] if commit else "none"
