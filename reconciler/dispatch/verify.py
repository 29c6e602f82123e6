"""
Verification of work that an outside agent says it finished.

The branch is looked up in the code repository, and its
validation is run on a host of ours, in a workspace of its own.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from reconciler.core.adapter import Adapter
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.leaks import leak_check
from reconciler.core.masking import Mask
from reconciler.core.model.runs import (
    Assignment,
    Check,
    Claim,
    FailureClass,
    Report,
    RunRequest,
    ValidationRequest,
    Verdict,
)
from reconciler.core.model.specs import Host
from reconciler.core.text import tail
from reconciler.dispatch.protocol import agent_id, check_key
from reconciler.dispatch.repos import CodeRepository
from reconciler.dispatch.retrying import StepFailed
from reconciler.dispatch.round import failed

_NO_AGENT = Adapter(name="validation")

Validate = Callable[[RunRequest], Awaitable[Sequence[Check]]]
"""Runs only the validation of an order."""


class _Work(NamedTuple):
    """The work on a branch: its commits."""

    base: str
    head: str
    commits: int
    """0 if together they change nothing."""


async def verify(
    assignment: Assignment, claim: Claim, repository: CodeRepository | None, validate: Validate
) -> Report:
    """
    Return the report on the finished work.

    The commit that is validated names the validation: asking again finds it
    done, and work that was pushed since is validated anew. Raises Unavailable.
    """
    text = tail(claim.result, lines=200, characters=20_000)
    verdict = Verdict(outcome="success", text=text, usage=claim.usage)
    host = assignment.validate_on if assignment.validation else None
    try:
        if repository is None:
            return Report(verdict=verdict)
        branch = claim.branch or assignment.branch
        work = await _look(assignment, branch, repository)
        if leaks := await repository.leaks(work.base, work.head, Mask(), agent_id(assignment.run, 1)):
            return Report(verdict=verdict, checks=(leak_check(leaks),), base_commit=work.base)
        checks = await _validated(assignment, host, branch, work.head, validate) if host else ()
    except StepFailed as error:
        return Report(verdict=failed(verdict, error))
    return Report(
        verdict=verdict,
        checks=tuple(checks),
        base_commit=work.base,
        head_commit=work.head if work.commits else assignment.start_from,
        commits=work.commits,
    )


async def _look(assignment: Assignment, branch: str, repository: CodeRepository) -> _Work:
    """Return the work on the branch. Raises StepFailed if it cannot be the task's, and Unavailable."""
    if branch == repository.repo.base:
        raise _refused(
            f"branch {branch!r} is the base branch, which work only comes to by review; "
            f"push your work to {assignment.branch!r} and report again"
        )
    head = await repository.find(branch)
    if head is None and assignment.allow_empty:
        head = assignment.start_from or await repository.newest()
    if head is None:
        raise _refused(f"branch {branch!r} is not there; push it and report again")
    if assignment.start_from is not None:
        base = await repository.starting_point(assignment.start_from)
    else:
        base = await repository.fork(head)
        if base == head and not assignment.allow_empty:
            raise _refused(
                f"branch {branch!r} has no commits that {repository.repo.base!r} does not have; "
                "commit your work, push it and report again"
            )
    return _Work(base, head, await repository.check(base, head))


async def _validated(
    assignment: Assignment, host: Host, branch: str, head: str, validate: Validate
) -> Sequence[Check]:
    request = ValidationRequest(
        run=assignment.run,
        task=assignment.task,
        host=host,
        repo=assignment.repo,
        branch=branch,
        commit=head,
        validation=assignment.validation,
        env=assignment.env,
        timeout=assignment.timeout,
    )
    return await validate_commit(request, check_key(assignment.run, head), validate)


async def validate_commit(request: ValidationRequest, key: str, validate: Validate) -> Sequence[Check]:
    """Return what the validation of a commit came to. Raises StepFailed, Unavailable."""
    try:
        return await validate(validation_order(request, key))
    except Refused as error:  # a person must fix the host; that is no fault of the work
        raise Unavailable(str(error)) from error


def validation_order(request: ValidationRequest, key: str) -> RunRequest:
    """Return the order of which only the validation is run, under a key of its own."""
    return RunRequest(
        run=key,
        round=1,
        task=request.task,
        host=request.host,
        adapter=_NO_AGENT,
        repo=request.repo,
        argv=(),
        prompt="",
        env=request.env,
        branch=request.branch,
        start_from=request.commit,
        validation=request.validation,
        timeout=request.timeout,
        stall_timeout=request.timeout,
        commit_message="",
    )


def candidate_key(request: ValidationRequest) -> str:
    """Return the key of a commit of a merge queue: it names what is run, too, as a repo may change that."""
    content = json.dumps((request.commit, request.validation, sorted(request.env.items())))
    return check_key(request.run, hashlib.sha256(content.encode()).hexdigest())


def _refused(message: str) -> StepFailed:
    return StepFailed(FailureClass.AGENT, message)
