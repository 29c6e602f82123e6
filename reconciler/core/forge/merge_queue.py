"""
Merge queue: which approved branches are validated together, and which of them land.

The approved branches of a repo are merged one after another onto its base branch. Each
commit of this chain is made of the base and of the heads before it and of nothing else, so
what came of it holds for ever: a prefix that lands is the base of the rest, whose commits are
the same as before, and a base that somebody else moves leaves none of them.

Validated is the whole chain; what passes, lands. If it does not pass, the first commit that
fails is found by bisection, what passes on the way lands, and the branch that comes with that
commit goes back to its agent. Nothing is ever sent back but the first of the chain, on a base
that passes itself.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from reconciler.core.forge.pull_request import NOTE_LENGTH, approved_at, is_queued
from reconciler.core.model.forge import PullRequestSnapshot, QueueNews
from reconciler.core.model.runs import Check
from reconciler.core.model.specs import Repo, Task
from reconciler.core.model.status import Status
from reconciler.core.text import one_line, tail

LONGEST_CHAIN = 16
"""Branches that are merged and validated together at most; the others wait for their turn."""
_NAMED = 4
"""Most branches or files that a message names."""

Result = Literal["green", "red"]
"""What came of the validation of a commit; one that has not ended has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEntry:
    """An approved branch in the queue."""

    task: str
    number: int
    """Of its pull request."""
    run: str
    """Key of the run that delivered it."""
    branch: str
    head: str
    """The commit that was approved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeChain:
    """Heads merged onto a base branch, one after another."""

    base: str
    """Commit of the base branch."""
    commits: tuple[str, ...] = ()
    """After each head, in order: as many as could be merged."""
    conflicts: tuple[str, ...] = ()
    """Files in which the next head conflicts with that."""
    landed: frozenset[str] = frozenset()
    """Heads that are on the base branch already."""
    absent: frozenset[str] = frozenset()
    """Heads that are not there to be merged."""

    def commit(self, position: int) -> str:
        """Return the commit after so many heads; the base after none."""
        return self.commits[position - 1] if position else self.base


# --- The decision ----------------------------------------------------------


class Validate(NamedTuple):
    """Validate the commit after so many heads; 0 is the base itself."""

    position: int


class Land(NamedTuple):
    """Let the base branch be the commit after so many heads."""

    position: int


class SendBack(NamedTuple):
    """Send the first branch back to its agent: alone it conflicts with the base, or breaks it."""

    why: Literal["conflict", "red"]


class Stuck(NamedTuple):
    """Do nothing: the base branch does not pass by itself, so nobody knows who breaks it."""


Step = Validate | Land | SendBack | Stuck


def next_step(chain: MergeChain, results: Mapping[str, Result]) -> Step:
    """
    Return what to do about a queue that is not empty, given what came of commits so far.

    Each branch that fails costs at most 1 + ceil(log2 n) validations of n branches, the queue
    itself one, and a base that was not validated one more.
    """
    if not chain.commits:
        return SendBack("conflict")
    states = [results.get(commit) for commit in chain.commits]
    if "green" in states:
        return Land(len(states) - states[::-1].index("green"))
    if "red" not in states:
        return Validate(len(states))
    first_red = states.index("red") + 1
    if first_red > 1:
        return Validate(first_red // 2)
    return _BY_BASE[results.get(chain.base)]


_BY_BASE: Mapping[Result | None, Step] = {None: Validate(0), "green": SendBack("red"), "red": Stuck()}
"""What a first branch that fails alone leads to, by the result of the base."""


# --- The queue -------------------------------------------------------------


def queue_entries(
    repo: Repo,
    tasks: Mapping[str, Task],
    statuses: Mapping[str, Status],
    pulls: Mapping[str, PullRequestSnapshot],
    *,
    bot: str,
) -> Sequence[QueueEntry]:
    """
    Return the queue of a repo, in order, given its pull requests as they were read, by task.

    Whoever entered first is first; among those that entered together, whoever was approved
    first. Both are on record, here or on the forge: a restart changes nothing.
    """
    queued: list[tuple[tuple[datetime, tuple[datetime, int], int], QueueEntry]] = []
    for name, pull in pulls.items():
        task, status = tasks.get(name), statuses.get(name)
        if task is None or status is None or not is_queued(task, status, pull, repo, bot=bot):
            continue
        since = status.waiting.since if status.waiting else status.since
        run = status.last_run
        entry = QueueEntry(task=name, number=pull.number, run=run.key, branch=run.branch, head=pull.head)
        queued.append(((since, approved_at(pull, bot), pull.number), entry))
    return [entry for _, entry in sorted(queued, key=lambda each: each[0])]


# --- Messages --------------------------------------------------------------


def queue_news(
    repo: Repo,
    entries: Sequence[QueueEntry],
    chain: MergeChain,
    step: Step,
    *,
    checks: Sequence[Check] = (),
    error: str = "",
) -> Iterator[tuple[QueueEntry, QueueNews]]:
    """
    Yield what the queue says of each of its branches; the message is its waiting reason.

    `checks` are those of the commit that decided the step, `error` why it cannot be carried
    out now.
    """
    if isinstance(step, SendBack):
        first, *entries = entries
        yield first, _sent_back(repo, chain, step, checks)
    for place, entry in enumerate(entries, start=1):
        if place > LONGEST_CHAIN:
            yield entry, QueueNews(message=f"in the merge queue, behind {LONGEST_CHAIN} others")
        else:
            yield entry, _news(repo, entries, chain, step, place, checks=checks, error=error)


def _news(
    repo: Repo,
    entries: Sequence[QueueEntry],
    chain: MergeChain,
    step: Step,
    place: int,
    *,
    checks: Sequence[Check],
    error: str,
) -> QueueNews:
    where = f"place {place} in the merge queue"
    if isinstance(step, Stuck):
        why = f"{repo.base} itself ({chain.base[:10]}) does not pass: {_failure(checks)}; repair it first"
        return QueueNews(message=f"{where}; {why}", is_stuck=True)
    if isinstance(step, SendBack) or place > max(step.position, 1):
        return QueueNews(message=f"{where}, behind those that are validated first")
    commit = chain.commit(step.position)
    what = _made_of(repo, entries[: step.position], commit)
    if isinstance(step, Validate):
        end = f", and cannot be now: {error}" if error else ""
        return QueueNews(message=f"{where}; {what} is validated{end}")
    if error:
        message = f"{where}; {what} passed, but cannot land: {error}"
        return QueueNews(message=message, is_stuck=True, validated=commit)
    return QueueNews(message=f"{where}; {what} passed, and lands", validated=commit)


def _made_of(repo: Repo, entries: Sequence[QueueEntry], commit: str) -> str:
    names = [f"#{entry.number}" for entry in entries]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    made_of = f" with {', '.join(names[:_NAMED])}{more}" if names else " itself"
    return f"{repo.base}{made_of} ({commit[:10]})"


def _failure(checks: Iterable[Check]) -> str:
    check = next((each for each in checks if each.exit_code), None)
    return f"`{one_line(check.command, 200)}` {check.ending}" if check else "it has no checks"


def _sent_back(repo: Repo, chain: MergeChain, step: SendBack, checks: Sequence[Check]) -> QueueNews:
    base = repo.base
    todo = f"Run `git merge origin/{base}`, see that it is at {chain.base[:10]} or later"
    if step.why == "conflict":
        files = [one_line(file, 200) for file in chain.conflicts[:_NAMED]]
        more = [f"and {len(chain.conflicts) - _NAMED} more"] if len(chain.conflicts) > _NAMED else []
        details = f"{todo}, resolve the conflicts, and commit. They are in:\n\n" + "\n".join([*files, *more])
        return QueueNews(problem=f"it conflicts with {base} in the merge queue", details=details)
    why = _failure(checks)
    failed = next((each for each in checks if each.exit_code), None)
    printed = tail(failed.output, lines=60, characters=NOTE_LENGTH - 1_000) if failed else ""
    details = (
        f"Merged into {base} ({chain.base[:10]}), which passes by itself, this branch does not pass: {why}. "
        f"{todo}, repair it, and commit.\n\n{printed}"
    )
    return QueueNews(problem=f"merged into {base} it does not pass: {why}", details=details)
