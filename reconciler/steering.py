"""
Steering: what people ask for from a page, as commits on the specs branch in their name.

The same edits as those of commands, of the same files, by the same rules.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from reconciler.controller.ports import FleetView
from reconciler.controller.whole import status_anywhere, whole_desired
from reconciler.core.edits import (
    HOST_EDITS,
    TASK_EDITS,
    FieldChanges,
    answering,
    edit_message,
    edit_subject,
    removal_subject,
)
from reconciler.core.errors import Conflict, NotFound, Problem, SpecError, UsageError
from reconciler.core.model.specs import LOCAL, HostSpec, Kind, TaskSpec
from reconciler.core.model.status import Reason
from reconciler.core.names import check_name, spec_owner
from reconciler.core.planning.plan import prune_digest
from reconciler.specs.edit import edit, edit_spec
from reconciler.specs.parse import FLEET_FILE, ROOT, File, read_spec, read_spec_of

CheckFile = Callable[[str, str], Awaitable[Sequence[Problem]]]
"""Return what would be wrong with a file, given its path and text, among the specs as they are."""


class SpecEditor(Protocol):
    """The branch with the specs, read and committed to in somebody's name; see `store.bot_commits`."""

    async def files(self, under: str) -> tuple[str, Mapping[str, str]]:
        """Return the newest commit and the text of its files, by path. Raises Unavailable."""

    async def put(
        self,
        files: Mapping[str, str | None],
        message: str,
        *,
        made_from: str | None = None,
        author: str | None = None,
    ) -> str:
        """Commit changed files and return the commit. Raises Conflict, Unavailable, Refused."""


class Outcome(NamedTuple):
    """What came of something that was asked for."""

    commit: str
    """Empty: there was nothing to do."""
    message: str
    """What is so now, or why there was nothing to do."""


class Steering:
    """Edits the specs for those who look at pages."""

    def __init__(self, view: FleetView, editor: SpecEditor, check: CheckFile) -> None:
        self._view = view
        self._editor = editor
        self._check = check

    async def edit(self, kind: Kind, verb: str, name: str, person: str, reason: str) -> Outcome:
        """
        Do what a verb of `TASK_EDITS` or `HOST_EDITS` says to a task or a host.

        Raises NotFound, UsageError, SpecError if its file is broken, Conflict if
        somebody else changed it meanwhile, Unavailable, Refused.
        """
        return await self._edit(
            kind, verb, name, person=person, reason=reason, decide=partial(self._decided, kind, verb, name)
        )

    async def answer(
        self, name: str, text: str, question: str | None, person: str, reason: str = ""
    ) -> Outcome:
        """
        Answer a question of a task, by its id; the one that waits, if None.

        Raises as `edit` does.
        """

        def decide(file: File) -> FieldChanges | str:
            spec = read_spec_of(TaskSpec, name, self._path(name), file)
            return answering(name, spec, status_anywhere(self._view, name), text, question)

        return await self._edit("task", "answer", name, person=person, reason=reason, decide=decide)

    async def _edit(
        self,
        kind: Kind,
        verb: str,
        name: str,
        *,
        person: str,
        reason: str,
        decide: Callable[[File], FieldChanges | str],
    ) -> Outcome:
        path = self._path(name) if kind == "task" else _path(kind, name)
        head, files = await self._editor.files(path)
        if path not in files and (kind, name) != ("host", LOCAL):
            raise NotFound(f"{path} is not in the specs")
        text = files.get(path, "")
        changes = decide(File("100644", "", text.encode()))
        if isinstance(changes, str):
            return Outcome("", changes)
        message = edit_message(edit_subject(verb.capitalize(), kind, name), reason)
        new = {path: edit_spec(text, name, changes, path=path)}
        commit = await self._editor.put(new, message, made_from=head, author=person)
        return Outcome(commit, f"{name}: {', '.join(f'{key} is {value}' for key, value in changes.items())}")

    def _decided(self, kind: Kind, verb: str, name: str, file: File) -> FieldChanges | str:
        if kind == "task" and verb in TASK_EDITS:
            spec = read_spec_of(TaskSpec, name, self._path(name), file)
            return TASK_EDITS[verb](name, spec, status_anywhere(self._view, name))
        if kind == "host" and verb in HOST_EDITS:
            return HOST_EDITS[verb](name, read_spec(HostSpec, _path(kind, name), file))
        raise UsageError(f"{verb!r} is nothing that can be done to a {kind}")

    def _path(self, task: str) -> str:
        """Return where the spec of a task is: in its own file, or in that of its campaign."""
        spec = whole_desired(self._view).tasks.get(task)
        return _path("campaign", spec.campaign) if spec and spec.campaign else _path("task", spec_owner(task))

    def removals(self) -> Sequence[str]:
        """Return the tasks whose removal waits for a person."""
        waiting = self._view.last_plan.waiting
        return sorted(name for name, wait in waiting.items() if wait.reason is Reason.APPROVAL)

    async def approve(self, digest: str, person: str, reason: str) -> Outcome:
        """Allow the removals that wait, if they are those that were shown. Raises as `edit` does."""
        names = self.removals()
        if not names:
            return Outcome("", "no removal waits")
        if prune_digest(names) != digest:
            raise Conflict("other tasks wait to be removed by now; look at them and allow them again")
        head, files = await self._editor.files(FLEET_FILE)
        text = edit(files.get(FLEET_FILE, ""), {"prune_approved": digest}, path=FLEET_FILE)
        message = edit_message(removal_subject(len(names)), reason)
        commit = await self._editor.put({FLEET_FILE: text}, message, made_from=head, author=person)
        return Outcome(commit, f"the removal of {len(names)} tasks is allowed")

    def compose(self, fields: FieldChanges, more: str) -> str:
        """Return the text of a task's file: fields that are known by name, then what was written as YAML."""
        text = edit("", {key: value for key, value in fields.items() if value})
        return f"{text}{more.rstrip()}\n" if more.strip() else text

    async def check(self, name: str, text: str) -> Sequence[Problem]:
        """Return what would be wrong with a new task: all that `validate` says. Raises UsageError."""
        try:
            check_name(name)
        except ValueError as error:
            raise UsageError(str(error)) from None
        desired = whole_desired(self._view)
        if name in desired.tasks or name in desired.broken:
            raise UsageError(f"there is a task {name} already; choose another name")
        return await self._check(_path("task", name), text)

    async def submit(self, name: str, text: str, person: str, reason: str) -> Outcome:
        """Commit a new task. Raises SpecError for one with mistakes, and as `edit` and `check` do."""
        if problems := await self.check(name, text):
            raise SpecError(problems)
        path = _path("task", name)
        head, files = await self._editor.files(path)
        if path in files:
            raise UsageError(f"there is a task {name} already; choose another name")
        message = edit_message(edit_subject("Submit", "task", name), reason)
        return Outcome(
            await self._editor.put({path: text}, message, made_from=head, author=person),
            f"{name} is asked for",
        )


def _path(kind: Kind, name: str) -> str:
    return f"{ROOT}/{kind}s/{check_name(name)}.yaml"
