"""
The two remedies for a rewound line: restore it, or approve that it goes on from where it is.

Both only add to what is there, so that the history stays one line that is never
rewritten. An approval is a commit by the person who gave it; it carries what
must not come twice: the numbers of attempts that only the lost commits tell of.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from reconciler.core.errors import Conflict, UsageError
from reconciler.core.model.runs import run_key
from reconciler.core.model.status import Phase, Status
from reconciler.git.objects import GitTree
from reconciler.git.process import Git
from reconciler.git.repository import Repository
from reconciler.store import statuses
from reconciler.store.commits import commit_files, commit_tree, publish
from reconciler.store.high_water import APPROVAL, BranchLine
from reconciler.store.last_transitions import last_transitions
from reconciler.store.layout import HOSTS, TASKS, status_paths
from reconciler.store.records import Records
from reconciler.store.state_files import StateFiles
from reconciler.store.user_commits import require_identity


async def restore(line: BranchLine) -> str:
    """
    Put a branch back to the newest commit that was acknowledged; return it.

    Raises UsageError if that commit is lost, or the branch has others of its own.
    """
    head, there = await line.readable_head(), await line.there()
    if not there:
        raise UsageError(f"what {line.branch} was at is not in {line.repository} any more: restore a backup")
    for commit in there:
        if head is None or await _is_ancestor(line.repository, head, commit):
            await _remove_damaged(line, head)
            await publish(line.repository, line.branch, head, commit)
            return commit
    raise UsageError(
        f"{line.branch} has commits of its own since it went back, and they would be lost: "
        f"`reconciler approve-rewind {line.kind}` goes on from them"
    )


async def _remove_damaged(line: BranchLine, head: str | None) -> None:
    """Remove a ref that points to no commit, as after a loss of power: git refuses to move it."""
    if head is not None or line.repository.address:
        return
    ref = line.repository.ref(line.branch)
    if (await line.repository.git.attempt("symbolic-ref", "--quiet", ref)).code == 0:
        return
    file = line.repository.git_dir / ref
    with suppress(OSError):
        file.unlink()
    await line.repository.git.attempt("update-ref", "-d", ref)


async def approve(line: BranchLine, reason: str) -> str:
    """Approve that a branch goes on from where it is, in the person's name; return the approving commit."""
    left, head, there = await line.left(), await line.readable_head(), await line.there()
    person = Git.personal(line.repository.git_dir)
    await require_identity(person)
    is_record = line.kind == "record"
    attempts = await _attempts(line.repository, there) if is_record else {}
    message = _message(line, left, attempts, reason)
    if head is None:
        await _remove_damaged(line, head)
        return await _begin_anew(line, person, there[0] if there else None, message)
    files = await _of_statuses(line, head, there, attempts) if is_record else {}
    if not files:
        commit = await commit_tree(line.repository, person, f"{head}^{{tree}}", [head], message)
        await publish(line.repository, line.branch, head, commit)
        return commit
    return await commit_files(line.repository, person, line.branch, files, message)


def _message(line: BranchLine, left: Sequence[str], attempts: Mapping[str, int], reason: str) -> str:
    """Render the commit message; each lost commit and each last run in a trailer of its own."""
    what = "record" if line.kind == "record" else "specs"
    trailers = [f"{APPROVAL}: {commit}" for commit in left]
    trailers += [f"Run: {run_key(task, '', attempt)}" for task, attempt in sorted(attempts.items())]
    body = f"{reason}\n\n" if reason else ""
    return f"{what}: go on without {', '.join(commit[:10] for commit in left)}\n\n{body}" + "".join(
        f"{trailer}\n" for trailer in [*trailers, "Cause: person"]
    )


async def _attempts(repository: Repository, heads: Sequence[str]) -> Mapping[str, int]:
    """Return the last attempt of every task in the lost commits."""
    attempts: dict[str, int] = {}
    for head in heads:
        for task, attempt in (await last_transitions(repository, head)).attempts.items():
            attempts[task] = max(attempt, attempts.get(task, 0))
    return attempts


async def _of_statuses(
    line: BranchLine, head: str, there: Sequence[str], attempts: Mapping[str, int]
) -> Mapping[str, str | None]:
    """Return the corrected status files of tasks that would otherwise start or follow a run that is over."""
    records = Records(line.repository, line.branch)
    tasks, _ = await records.read(head)
    lost = [(await Records(line.repository, line.branch).read(commit))[0] for commit in there]
    fixed = {
        name: _with_new_attempts(status, attempts.get(name, 0), is_over=_is_over(name, status, lost))
        for name, status in tasks.items()
    }
    changed = {name: status for name, status in fixed.items() if status != tasks[name]}
    files = StateFiles.of(records.blobs)
    return {
        files.place(status_paths(name)): statuses.dump_status(status).decode()
        for name, status in changed.items()
    }


def _is_over(name: str, status: Status, lost: Sequence[Mapping[str, Status]]) -> bool:
    """Return whether a run recorded as live may be over, as the lost commits say, or are missing."""
    later = [each[name] for each in lost if name in each]
    return not any(other.phase.is_live and other.run_key == status.run_key for other in later)


def _with_new_attempts(status: Status, attempt: int, *, is_over: bool) -> Status:
    """Return a status from which no run key is used twice: a run that may be over is not continued."""
    phase = Phase.CREATED if status.phase.is_live and is_over else status.phase
    return status.model_copy(update={"phase": phase, "attempt": max(status.attempt, attempt)})


async def _begin_anew(line: BranchLine, person: Git, lost: str | None, message: str) -> str:
    """Recreate a missing branch, with an empty record: on top of the lost commit, if that is there."""
    files: Mapping[str, str | None] = {}
    if lost is not None and line.kind == "record":
        names = await GitTree(line.repository, line.branch).files(lost, "fleet-state")
        files = {name: None for name in names if name.startswith((TASKS, HOSTS))}
    if lost is not None and files:
        return await commit_files(
            line.repository, person, line.branch, files, message, begin_at=lost, publish=publish
        )
    tree = f"{lost}^{{tree}}" if lost else None
    commit = await commit_tree(line.repository, person, tree, [lost] if lost else [], message)
    try:
        await publish(line.repository, line.branch, None, commit)
    except Conflict as error:
        raise Conflict(f"{error}; look at it again") from error
    return commit


async def _is_ancestor(repository: Repository, old: str, new: str) -> bool:
    return (await repository.git.attempt("merge-base", "--is-ancestor", old, new)).code == 0
