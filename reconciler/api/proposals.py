"""
Proposals: tasks proposed by outside agents, each on a branch for a person to merge.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from reconciler.controller.ports import FleetView, SpecWriter
from reconciler.controller.whole import whole_desired
from reconciler.core.errors import Conflict, NotNow, Problem, SpecError, UsageError
from reconciler.core.model.specs import TaskDefaults
from reconciler.core.names import check_name
from reconciler.core.text import visible
from reconciler.wire import Proposal, ProposalRequest

PROPOSAL_ADAPTER = "script"
"""The adapter that proposals may not use: with it, the task itself is the code to run."""
BRANCHES = "proposals/"
"""Prefix of the branches of proposals."""

SetKeys = Callable[[str, Mapping[str, Any]], str]
"""Return the text of a YAML file with some keys set."""

CheckFile = Callable[[str, str], Awaitable[Sequence[Problem]]]
"""Return what would be wrong with a file, given its path and text, among the specs as they are."""


class Proposals:
    """Commits proposals to branches of the fleet's repository, where they have no effect yet."""

    def __init__(self, view: FleetView, writer: SpecWriter, edit: SetKeys, check: CheckFile) -> None:
        self._view = view
        self._writer = writer
        self._edit = edit
        self._check = check

    async def propose(self, request: ProposalRequest, agent: str) -> Proposal:
        """
        Commit an agent's proposal to its branch; idempotent.

        Raises UsageError for an invalid name, NotNow if it is taken or
        something else is proposed under it, SpecError if the task would be
        wrong, Unavailable.
        """
        self._require_free(request.name)
        given = request.model_dump(exclude={"name"}, mode="json")
        texts = {key: _visible(value) for key, value in given.items() if value}
        fields = {**texts, **self._mode(request.repo or "")}
        path, text = f"specs/tasks/{request.name}.yaml", self._edit("", fields)
        if problems := await self._check(path, text):
            raise SpecError(problems)
        branch = f"{BRANCHES}{request.name}"
        message = (
            f"Propose task {request.name}\n\n"
            f"Agent {agent} proposes it; it is in force once a person merges this branch.\n\n"
            f"Proposed-By: {agent}\n"
        )
        head, _ = await self._writer.files(path)
        try:
            commit = await self._writer.put({path: text}, message, made_from=head, branch=branch)
        except Conflict:  # a person reviewing it must not merge something else
            raise NotNow(f"another task {request.name} is proposed already; choose another name") from None
        return Proposal(task=request.name, branch=branch, commit=commit)

    def _mode(self, repo: str) -> Mapping[str, str]:
        """Return the execution mode: `http_pull` where no adapter is set by default."""
        desired = self._view.desired
        defaults: list[TaskDefaults] = [desired.fleet]
        if repo in desired.repos:
            defaults.append(desired.repos[repo])
        has_agent = any(spec.adapter != PROPOSAL_ADAPTER for spec in defaults)
        return {} if has_agent else {"execution_mode": "http_pull"}

    def _require_free(self, name: str) -> None:
        try:
            check_name(name)
        except ValueError as error:
            raise UsageError(str(error)) from None
        desired = whole_desired(self._view)
        if name in desired.tasks or name in desired.broken:
            raise NotNow(f"there is a task {name} already; choose another name")


def _visible(value: str | Sequence[str]) -> str | Sequence[str]:
    """Return the text of an agent without invisible characters."""
    return visible(value) if isinstance(value, str) else [visible(each) for each in value]
