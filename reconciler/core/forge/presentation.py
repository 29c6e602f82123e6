"""
Presentation: what a forge should show of a task on its pull request and its issue.

It is derived from the record alone, so that showing it again changes nothing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from reconciler.core.costs import money
from reconciler.core.forge.markdown import code, fenced
from reconciler.core.forge.pull_request import IN_QUEUE, first_wait, may_merge
from reconciler.core.model.forge import CommitStatus, ForgeView, ManagedComment, PullRequestSnapshot
from reconciler.core.model.runs import Check, Opinion
from reconciler.core.model.specs import Repo, Task
from reconciler.core.model.status import (
    MERGE_REASONS,
    QUEUE_REASONS,
    HostStatus,
    Phase,
    Question,
    Reason,
    Status,
)
from reconciler.core.text import head, one_line, tail

TITLE_LENGTH = 200
GOAL_LENGTH = 10_000
MOST_CHECKS = 50
_ISSUES = ("issues", "-/issues", "-/work_items")
"""Where the pages of issues are, below that of their repository; the last two are GitLab's."""
_NUMBER = re.compile(r"#?([1-9][0-9]{0,17})\Z")


def desired_view(
    task: Task,
    status: Status,
    repo: Repo,
    pull: PullRequestSnapshot | None = None,
    *,
    bot: str,
    host: HostStatus | None = None,
    address: str = "",
    bases: tuple[str, str | None] | None = None,
) -> ForgeView | None:
    """
    Return what the repo's forge should show of a task now; None if that is nothing.

    `pull` is its pull request as it was read last, `host` what is known of the
    host of the last run, `address` the page of the task, if there is one;
    `bases` are what `stack.pull_bases` says of its pull request.
    """
    issue, run = issue_number(task, repo), status.run
    has_pull = _has_pull(task, status)
    if repo.forge is None or not (has_pull or issue):
        return None
    base, leaves = bases or (repo.base, None)
    merges = has_pull and pull is not None and may_merge(task, status, pull, repo, bot=bot)
    opens = has_pull and status.phase is Phase.REVIEW_PENDING and status.review.pull_request is None
    wait = first_wait(task, status, repo) if opens and base == repo.base else _merge_wait(status)
    return ForgeView(
        task=task.name,
        branch=run.branch if run else task.branch,
        base=base,
        leaves=leaves,
        opens=opens,
        title=one_line(run.title if run else task.pr_title or task.headline, TITLE_LENGTH),
        body="\n\n".join([*_body(task, status, issue, host), *_foot(task, wait, address)]),
        is_draft=repo.draft,
        labels=repo.labels,
        reviewers=repo.reviewers,
        phase=status.phase,
        commit_status=_commit_status(status, address) if has_pull else None,
        notes=tuple(_linked(_notes(task, status), task, address)) if has_pull else (),
        merges=status.head_commit if merges else None,
        merge_style=repo.merge_style,
        issue=issue,
        issue_notes=tuple(_linked(_issue_notes(task, status), task, address)) if issue else (),
        closes_issue=issue is not None and status.phase is Phase.COMPLETED,
    )


def is_shown(task: Task, status: Status) -> bool:
    """Return whether there may be something to show of a task."""
    return not status.removed and (task.issue is not None or _has_pull(task, status))


def _has_pull(task: Task, status: Status) -> bool:
    """Return whether the task has a pull request, or should have one."""
    is_known = status.phase is Phase.REVIEW_PENDING or status.review.pull_request is not None
    return task.review == "pull_request" and status.head_commit is not None and is_known


def issue_number(task: Task, repo: Repo) -> int | None:
    """Return the number of the issue that a task answers, if it is one of its repo's own."""
    if task.issue is None or repo.forge is None:
        return None
    before, slash, number = task.issue.strip().rstrip("/").rpartition("/")
    ends = (f"/{repo.forge.repo}/{folder}" for folder in _ISSUES)
    is_own = not slash or any(map(before.endswith, ends))
    match = _NUMBER.match(number)
    return int(match[1]) if match and is_own else None


# --- The pull request ------------------------------------------------------


def _merge_wait(status: Status) -> str:
    """Return what the merge waits for; not at which place, as each change is a write to the forge."""
    if status.waiting is None or status.waiting.reason not in MERGE_REASONS:
        return ""
    return IN_QUEUE if status.waiting.reason in QUEUE_REASONS else status.waiting.message


def _body(task: Task, status: Status, issue: int | None, host: HostStatus | None) -> Iterator[str]:
    yield f"## Goal\n\n{fenced(head(task.goal, characters=GOAL_LENGTH))}"
    if issue:
        yield f"It answers issue #{issue}."
    if status.summary:
        yield f"## What was done\n\nThe agent says:\n\n{fenced(status.summary)}"
    if status.checks:
        yield f"## Validation\n\n{_validation(status.checks)}"
    if status.opinion:
        yield f"## Second opinion\n\n{_opinion(status.opinion)}"
    yield f"## Run\n\n{_bullets(_facts(task, status, host))}"


def _foot(task: Task, wait: str, address: str) -> Iterator[str]:
    if wait:
        yield f"Not merged yet:\n\n{fenced(wait)}"
    if address:
        yield _link(task, address)


def _link(task: Task, address: str) -> str:
    return f"[Task {task.name}]({address})"


def _validation(checks: Sequence[Check]) -> str:
    lines = [
        f"- {code(check.command)} {'passed' if check.exit_code == 0 else check.ending}"
        for check in checks[:MOST_CHECKS]
    ]
    if left := len(checks) - len(lines):
        lines.append(f"- and {left} more")
    failed = next((check for check in checks if check.exit_code != 0), None)
    end = [fenced(tail(failed.output, lines=40, characters=4_000))] if failed else []
    return "\n\n".join(["\n".join(lines), *end])


def _opinion(opinion: Opinion) -> str:
    about = f"{code(opinion.adapter)}, of {opinion.commit[:12]}: {_OPINIONS[opinion.verdict]}"
    notes = [fenced(f"{note.place}{note.text}") for note in opinion.findings]
    return "\n\n".join([about, *([fenced(opinion.message)] if opinion.message else []), *notes])


_OPINIONS = {
    "approve": "approved",
    "changes": "asks for changes, which the agent has not made; a person decides",
    "failed": "came to no verdict, so nothing is approved; a person decides",
}


def _facts(task: Task, status: Status, host: HostStatus | None) -> Iterator[str]:
    if status.assigned_agent:
        yield f"Agent: {code(status.assigned_agent)}"
    elif adapter := status.run and status.run.adapter:
        cli = host.adapters.get(adapter) if host else None
        yield f"Adapter: {code(' '.join([adapter, *([cli.version] if cli and cli.version else [])]))}"
    if model := status.run and status.run.model:
        yield f"Model: {code(model)}"
    if status.assigned_host:
        yield f"Host: {code(status.assigned_host)}"
    yield f"Attempt: {status.attempt}; review rounds: {status.review.count} of {task.max_reviews}"
    usage = status.usage
    yield (
        f"Tokens: {usage.input_tokens:,} in, {usage.cached_tokens:,} cached, {usage.output_tokens:,} out"
        f"; cost: {money(usage)}"
    )


def _bullets(lines: Iterator[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


# --- Lights and notes ------------------------------------------------------

_STATUSES: Mapping[Phase, tuple[Literal["pending", "success", "failure"], str]] = {
    Phase.CREATED: ("pending", "the agent is about to make the changes"),
    Phase.ASSIGNED: ("pending", "the agent is about to make the changes"),
    Phase.RUNNING: ("pending", "the agent makes the changes"),
    Phase.REVIEW_PENDING: ("pending", "waits for review"),
    Phase.COMPLETED: ("success", "completed"),
    Phase.FAILED: ("failure", "failed"),
    Phase.CANCELLED: ("failure", "cancelled"),
    Phase.ESCALATED: ("failure", "a person must act"),
}
"""The commit status of the work's head."""


def _commit_status(status: Status, address: str) -> CommitStatus:
    state, message = _STATUSES[status.phase]
    return CommitStatus(commit=status.head_commit or "", state=state, description=message, url=address)


def _linked(notes: Iterable[ManagedComment], task: Task, address: str) -> Iterator[ManagedComment]:
    """Yield the notices with a link to the page of the task, if there is one."""
    for note in notes:
        yield replace(note, text=f"{note.text}\n\n{_link(task, address)}") if address else note


def _notes(task: Task, status: Status) -> Iterator[ManagedComment]:
    """Yield the notices for people at the pull request; each is posted once."""
    when = f"{status.attempt}.{status.review.count}"
    why = fenced(status.failure.message if status.failure else "it does not say why")
    if status.question:
        yield _question_note(task, status.question)
    elif status.phase is Phase.ESCALATED:
        message = "The agent does not go on by itself; a person must act."
        yield ManagedComment(key=f"escalated:{when}", text=f"{message}\n\n{why}")
    elif status.phase is Phase.FAILED:
        message = f"The agent failed. `reconciler retry {task.name}` lets it try again."
        yield ManagedComment(key=f"failed:{when}", text=f"{message}\n\n{why}")
    elif status.waiting and status.waiting.reason is Reason.PERSON:
        key = f"paused:{(status.head_commit or '')[:12]}"
        yield ManagedComment(key=key, text=f"The agent pauses.\n\n{fenced(status.waiting.message)}")


def _question_note(task: Task, question: Question) -> ManagedComment:
    if question.kind == "choice":
        begin = "Several variants passed validation:"
        how = (
            f"Begin a comment with `/agent answer {question.id}` and go on with the number of the one to "
            f"keep, or use `reconciler choose {task.name}`."
        )
    elif question.kind == "plan":
        begin = "The agent has a plan, and waits for your yes:"
        how = (
            "`/agent approve` lets it go on and `/agent reject` cancels the task; for another plan, begin a "
            f"comment with `/agent answer {question.id}` and go on with what to change. "
            f"Or use `reconciler approve {task.name}`."
        )
    else:
        begin = "The agent asks:"
        how = (
            f"Answer with a comment that begins with `/agent answer {question.id}` and goes on with the "
            f"answer, or with `reconciler answer {task.name}`."
        )
    return ManagedComment(key=f"question:{question.id}", text=f"{begin}\n\n{fenced(question.text)}\n\n{how}")


def _issue_notes(task: Task, status: Status) -> Iterator[ManagedComment]:
    """Yield a question, unless the pull request has it; and how the task ended; each is posted once."""
    if status.question and not _has_pull(task, status):
        yield _question_note(task, status.question)
    where = f" in pull request #{status.review.pull_request.number}" if status.review.pull_request else ""
    ends = {
        Phase.COMPLETED: f"Task {code(task.name)} is completed{where}.",
        Phase.CANCELLED: f"Task {code(task.name)} is cancelled.",
        Phase.FAILED: f"Task {code(task.name)} failed; a person must act.",
        Phase.ESCALATED: f"Task {code(task.name)} waits for a person to act.",
    }
    if status.phase not in ends:
        return
    summary = status.summary if status.phase is Phase.COMPLETED else status.failure and status.failure.message
    details = [fenced(summary)] if summary else []
    key = f"{status.phase}:{status.attempt}.{status.review.count}"
    yield ManagedComment(key=key, text="\n\n".join([ends[status.phase], *details]))
