"""
The two ways out of a line that went back: put it back, or let it go on from where it is.

Both only add to what is there, so that the history stays one line that is never
rewritten. An approval is a commit by the person who gave it; it carries what
must not come twice: the numbers of attempts that only the lost commits tell of.
"""

from collections.abc import Mapping, Sequence

from reconciler.core.errors import Conflict, UsageError
from reconciler.core.model import Status, run_key
from reconciler.store import statuses
from reconciler.store.commits import commit_files, commit_tree, publish
from reconciler.store.git import Git
from reconciler.store.history import lives
from reconciler.store.layout import HOSTS, TASKS, status_path
from reconciler.store.marks import APPROVAL, Line
from reconciler.store.objects import GitTree
from reconciler.store.people import require_identity
from reconciler.store.records import Records
from reconciler.store.repository import Repository


async def restore(line: Line) -> str:
    """
    Put a branch back to the newest commit that was acknowledged; return it.

    Raises UsageError if that commit is lost, or the branch has others of its own.
    """
    head, there = line.head, await line.there()
    if not there:
        raise UsageError(f"what {line.branch} was at is not in {line.repository} any more: restore a backup")
    for commit in there:
        if head is None or await _is_ancestor(line.repository, head, commit):
            await publish(line.repository, line.branch, head, commit)
            return commit
    raise UsageError(
        f"{line.branch} has commits of its own since it went back, and they would be lost: "
        f"`reconciler approve-rewind {line.kind}` goes on from them"
    )


async def approve(line: Line, reason: str) -> str:
    """Let a branch go on from where it is, in the person's name; return the commit that says so."""
    left, head, there = await line.left(), line.head, await line.there()
    person = Git.personal(f"--git-dir={line.repository.git_dir}")
    await require_identity(person)
    is_record = line.kind == "record"
    attempts = await _attempts(line.repository, there) if is_record else {}
    message = _message(line, left, attempts, reason)
    if head is None:
        return await _begin_anew(line, person, there[0] if there else None, message)
    files = await _with_attempts(line.repository, line.branch, head, attempts) if is_record else {}
    if not files:
        commit = await commit_tree(line.repository, person, f"{head}^{{tree}}", [head], message)
        await publish(line.repository, line.branch, head, commit)
        return commit
    return await commit_files(line.repository, person, line.branch, files, message)


def _message(line: Line, left: Sequence[str], attempts: Mapping[str, int], reason: str) -> str:
    """Render the commit message; each lost commit and each last run in a trailer of its own."""
    what = "record" if line.kind == "record" else "specs"
    trailers = [f"{APPROVAL}: {commit}" for commit in left]
    trailers += [f"Run: {run_key(task, '', attempt)}" for task, attempt in sorted(attempts.items())]
    words = f"{reason}\n\n" if reason else ""
    return f"{what}: go on without {', '.join(commit[:10] for commit in left)}\n\n{words}" + "".join(
        f"{trailer}\n" for trailer in [*trailers, "Cause: person"]
    )


async def _attempts(repository: Repository, heads: Sequence[str]) -> Mapping[str, int]:
    """Return the last attempt of every task that the lost commits tell of."""
    found: dict[str, int] = {}
    for head in heads:
        for task, attempt in (await lives(repository, head)).attempts.items():
            found[task] = max(attempt, found.get(task, 0))
    return found


async def _with_attempts(
    repository: Repository, branch: str, head: str, attempts: Mapping[str, int]
) -> Mapping[str, str | None]:
    """Return the status files of tasks whose next attempt would have a number that was given before."""
    tasks, _ = await Records(repository, branch).read(head)
    behind = {name: status for name, status in tasks.items() if status.attempt < attempts.get(name, 0)}
    return {status_path(name): _raised(status, attempts[name]) for name, status in behind.items()}


def _raised(status: Status, attempt: int) -> str:
    return statuses.dump(status.model_copy(update={"attempt": attempt})).decode()


async def _begin_anew(line: Line, person: Git, lost: str | None, message: str) -> str:
    """Begin a branch that is gone: after the lost commit, if it is there, with nothing on record."""
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
