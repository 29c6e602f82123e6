"""
Issue controller: turns issues into tasks, and follows commands in comments of allowed people.

Both end in commits to the specs: from there on, an issue's task is like any other.
What could not be done stays to be done. Issues are compared with the files
anew at each look; of comments it is remembered up to where they were worked.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, TypeVar

from reconciler.controller.poller import Poller
from reconciler.controller.ports import Clock, FleetView, Forges, SpecWriter, Step
from reconciler.core.errors import Conflict, ReconcilerError, SpecError, Unavailable, UsageError
from reconciler.core.forge.comments import (
    Command,
    apply_command,
    is_among,
    parse_command,
    refusal_reply,
    status_reply,
    success_reply,
)
from reconciler.core.forge.issues import (
    ISSUE_TASKS,
    FieldEdit,
    Mark,
    closed_task_file,
    issue_task_name,
    number_in,
    open_task_file,
    read_mark,
    task_at,
    task_path,
)
from reconciler.core.forge.presentation import issue_number
from reconciler.core.lifecycle import Transition
from reconciler.core.model.forge import Comment, Issue, ManagedComment, PullRequestSnapshot
from reconciler.core.model.specs import Forge, IssueRules, Repo, TaskSpec
from reconciler.core.model.status import Phase, Status
from reconciler.core.text import one_line

log = logging.getLogger(__name__)

T = TypeVar("T")

Parse = Callable[[str, str], TaskSpec]
"""Parse the text of a task's file, given its path. Raises SpecError."""

_REDO = 3
"""Attempts to edit a file that others edit at the same time."""
_LOOK_BACK = timedelta(days=1)
"""After a start, comments older than this are ignored."""
_OPENING = timedelta(minutes=1)
"""Time within which a pull request that was opened is on record."""
_OVERLAP = timedelta(minutes=1)
"""Overlap of the periods that are queried: a comment may become visible late."""


@dataclass
class IssueController:
    """Carries issues and commands from the forges of the fleet's repos into its specs."""

    forges: Forges
    writer: SpecWriter
    view: FleetView
    clock: Clock
    parse: Parse
    edit: FieldEdit

    ignored: int = field(default=0, init=False)
    """Commands of people who are not on the allow-list."""

    poller: Poller[Repo] = field(init=False)
    _since: dict[str, datetime] = field(default_factory=dict, init=False)
    """Time up to which the comments of each repo were handled."""
    _awaited: set[str] = field(default_factory=set, init=False)
    """Repos with a command on a pull request that is not on record yet."""
    _worked: dict[str, set[str]] = field(default_factory=dict, init=False)
    """Keys of handled or ignored commands that may be listed again, by repo."""

    def __post_init__(self) -> None:
        self.poller = Poller(
            poll=self.poll,
            subjects=self._repos,
            interval=lambda: self.view.desired.fleet.forge_interval,
            clock=self.clock,
            failure="its issues wait for the next look",
        )

    async def poll(self, repo: Repo) -> None:
        """Sync the issues of a repo and follow its comments; what fails is retried at the next poll."""
        forge, rules = repo.forge, self.view.desired.fleet.issues
        if forge is None or rules is None:
            return
        place = _Target(repo.name, forge, rules)
        self._awaited.discard(repo.name)
        comments = await self._comments(place)  # issues first: a command refers to the issue as it is now
        await self._sync_files(place)
        await self._follow_comments(place, comments)

    def on_step(self, step: Step) -> None:
        """Poll a repo now if a command waits there for the pull request that just came on record."""
        after = step.after if isinstance(step, Transition) else None
        if after and after.run and after.review.pull_request and after.run.repo in self._awaited:
            self.poller.notify([after.run.repo])

    def _repos(self) -> Mapping[str, Repo]:
        """Return the repos whose issues are looked at; of several at the same place, the first."""
        if self.view.desired.fleet.issues is None:
            return {}
        places: dict[tuple[str, str], Repo] = {}
        for _, repo in sorted(self.view.desired.repos.items()):
            if repo.forge:
                places.setdefault((repo.forge.api, repo.forge.repo.casefold()), repo)
        return {repo.name: repo for repo in places.values()}

    # --- Issues ------------------------------------------------------------

    async def _sync_files(self, place: "_Target") -> None:
        """Bring the files of a repo's issues up to date, in one commit."""
        listed = await self.forges.issues(place.forge, place.rules.label)
        if listed is None:  # switched off: the tasks of its issues go on
            return
        issues = {issue.number: issue for issue in listed if place.takes(issue)}

        async def bring() -> None:
            head, files = await self.writer.files(ISSUE_TASKS)
            news = [*self._new(place, issues, files), *await self._gone(place, issues, files)]
            if news:
                await self.writer.put(
                    {task_path(each.task): each.text for each in news}, _message(place, news), made_from=head
                )

        await _insist(bring)

    def _new(
        self, place: "_Target", issues: Mapping[int, Issue], files: Mapping[str, str]
    ) -> "Iterator[_News]":
        """Yield the spec files that an issue creates or changes."""
        for number, issue in sorted(issues.items()):
            name = issue_task_name(place.repo, number)
            before = files.get(task_path(name))
            try:
                after = open_task_file(before, place.repo, issue, self.edit)
            except SpecError as error:
                log.info(
                    "task %s does not follow its issue: %s", name, error
                )  # reported where specs are read, too
                continue
            if after is not None and after != before:
                verb = "Take up" if before is None else "Update"
                yield _News(verb, name, after, issue.title, issue.url, issue.author)

    async def _gone(
        self, place: "_Target", issues: Collection[int], files: Mapping[str, str]
    ) -> "Sequence[_News]":
        """
        Return the files of tasks whose issue is closed, deleted, or without its label.

        A label that is not there at all was deleted or renamed: that says nothing of any issue.
        """
        unlisted = [each for each in self._unlisted(place, files) if each.number not in issues]
        if unlisted and not issues and not await self.forges.has_label(place.forge, place.rules.label):
            label = one_line(place.rules.label, 100)
            log.warning("%s has no label %s any more: the tasks of its issues go on", place.repo, label)
            return []
        missing = []
        for path, name, number, mark in unlisted:
            if await self._is_over(place, number, name):
                with suppress(SpecError):  # broken by hand: reported where specs are read
                    after = closed_task_file(files[path], self.edit)
                    missing.append(_News("Cancel", name, after, "its issue is gone", mark.url, ""))
        return missing

    def _unlisted(self, place: "_Target", files: Mapping[str, str]) -> "Iterator[_IssueFile]":
        """Yield the files of tasks that their issue keeps going, as far as they are not settled."""
        for path, text in sorted(files.items()):
            name, mark = task_at(path), read_mark(text)
            number, status = number_in(place.repo, name), self.view.statuses.get(name)
            is_settled = status is not None and status.phase.is_settled
            if number is not None and mark is not None and mark.is_open and not is_settled:
                yield _IssueFile(path, name, number, mark)

    async def _is_over(self, place: "_Target", number: int, name: str) -> bool:
        """
        Return whether a task ends because its issue, looked up on its own, is closed or gone.

        One that was requested again since goes on. Merging closes issues too: a task
        that waits for its merge is not cancelled by it.
        """
        status = self.view.statuses.get(name)
        issue = await self.forges.issue(place.forge, number)
        if issue is None:
            return True
        if issue.state == "open" and issue.has(place.rules.label):
            return False
        touched_at = await self.writer.touched_at(task_path(name), apart_from=_ISSUE)
        if touched_at and touched_at > (issue.closed_at or issue.updated_at):
            return False
        return not (
            status and status.phase is Phase.REVIEW_PENDING and await self._may_be_merged(place, status)
        )

    async def _may_be_merged(self, place: "_Target", status: Status) -> bool:
        """Return whether a delivered task may be about to be completed."""
        if status.review.pull_request is None:
            return True
        branch, number = status.last_run.branch, status.review.pull_request.number
        pull = (await self.forges.pulls(place.forge, [branch], [number])).get(branch)
        return not isinstance(pull, PullRequestSnapshot) or pull.is_merged

    # --- Comments ----------------------------------------------------------

    async def _comments(self, place: "_Target") -> Sequence[Comment]:
        """Return the comments of a repo that may be new."""
        since = self._since.setdefault(place.repo, self.clock() - _LOOK_BACK)
        return await self.forges.comments(place.forge, since - _OVERLAP)

    async def _follow_comments(self, place: "_Target", comments: Sequence[Comment]) -> None:
        """
        Follow the commands among a repo's new comments, each once, in order.

        One that fails is tried again at the next poll, and blocks no other.
        """
        since = self._since[place.repo]
        worked = self._worked.get(place.repo, set()) | {comment.key for comment in comments}
        self._worked[place.repo] = worked & {_key(comment) for comment in comments}
        failed = None
        for comment in sorted(comments, key=lambda each: (each.created_at, each.id)):
            try:
                await self._work(place, comment)
            except ReconcilerError as error:
                failed = error
            if failed is None:
                since = self._since[place.repo] = max(since, min(comment.created_at, self.clock()))
        if failed:
            raise failed

    async def _work(self, place: "_Target", comment: Comment) -> None:
        """Follow a comment, if it is a command and was not followed yet."""
        command, worked = parse_command(comment.body), self._worked[place.repo]
        if command and not comment.key and _key(comment) not in worked:
            await self._follow(place, comment, command)
            worked.add(_key(comment))

    async def _follow(self, place: "_Target", comment: Comment, command: Command) -> None:
        """Carry out a comment's command, then reply: the reply marks it as done."""
        if not place.allows(comment.author):
            self.ignored += 1
            author = one_line(comment.author, 100)
            log.warning("%s may not command agents: comment on %s#%d", author, place.repo, comment.number)
            return
        name = await self._task_of(place, comment)
        if name is None and self._may_be_opened(place, comment):
            self._awaited.add(place.repo)
            why = "the pull request of a task may not be on record yet"
            raise Unavailable(f"comment on {place.repo}#{comment.number}: {why}")
        if name is None:
            text = refusal_reply("no task belongs to this")
        elif command.verb == "status":
            text = status_reply(name, self.view.statuses.get(name))
        else:
            text = await _insist(lambda: self._obey(place, comment, command, name))
        note = ManagedComment(key=_key(comment), text=text)
        await self.forges.upsert_comment(place.forge, comment.number, note, on_pull=bool(comment.on_pull))

    async def _task_of(self, place: "_Target", comment: Comment) -> str | None:
        """Return the task whose pull request or issue a comment is on."""
        name = self._of_pull(place, comment.number) if comment.on_pull is not False else None
        is_of_issue = name is None and not comment.on_pull
        return await self._of_issue(place, comment.number) if is_of_issue else name

    def _of_pull(self, place: "_Target", number: int) -> str | None:
        for name, status in self.view.statuses.items():
            run, pull = status.run, status.review.pull_request
            is_there = run and run.repo == place.repo and not status.removed
            if is_there and pull and pull.number == number:
                return name
        return None

    async def _of_issue(self, place: "_Target", number: int) -> str | None:
        made = issue_task_name(place.repo, number)
        if (await self.writer.files(task_path(made)))[1]:
            return made
        desired = self.view.desired
        repo, tasks = desired.repos.get(place.repo), sorted(desired.tasks.items())
        if repo is None:
            return None
        mine = (name for name, task in tasks if task.repo == repo.name and issue_number(task, repo) == number)
        return next(mine, None)

    def _may_be_opened(self, place: "_Target", comment: Comment) -> bool:
        """Return whether a comment may be on a pull request that was opened just now and is not known yet."""
        opening = (
            status.run is not None and status.run.repo == place.repo and status.review.pull_request is None
            for status in self.view.statuses.values()
            if status.phase is Phase.REVIEW_PENDING
        )
        return self.clock() < comment.created_at + _OPENING and any(opening)

    async def _obey(self, place: "_Target", comment: Comment, command: Command, name: str) -> str:
        """
        Edit the file of a task as the command says; return the reply.

        The commit names the comment, so that one that was followed before a
        crash kept the answer back is not followed twice.
        """
        path, mark = task_path(name), f"{place.repo}/{comment.id}"
        if await self.writer.has_told(_COMMENT, mark, comment.created_at - _LOOK_BACK):
            return success_reply(command, name)
        head, files = await self.writer.files(path)
        if path not in files:
            return refusal_reply(f"{path} is not there")
        try:
            spec = self.parse(path, files[path])
            changes = apply_command(
                command, name, spec, self.view.statuses.get(name), self.view.desired.hosts
            )
            if isinstance(changes, str):
                return refusal_reply(changes)
            text = self.edit(files[path], changes)
        except (SpecError, UsageError) as error:
            return refusal_reply(str(error))
        value = one_line(command.value, 60)
        subject = f"{command.verb.capitalize()} {name}{f': {value}' if value else ''}"
        why = f"{one_line(comment.author, 100)} asks for it in a comment on {place.repo}#{comment.number}."
        trailers = _trailers((_COMMENT, mark), (_AUTHOR, comment.author))
        await self.writer.put({path: text}, f"{subject}\n\n{why}\n\n{trailers}", made_from=head)
        return success_reply(command, name)


class _Target(NamedTuple):
    """Where issues are, and which of them count."""

    repo: str
    forge: Forge
    rules: IssueRules

    def takes(self, issue: Issue) -> bool:
        """Return whether an issue becomes a task; a forge without the label lists all issues."""
        return issue.state == "open" and issue.has(self.rules.label) and self.allows(issue.author)

    def allows(self, person: str) -> bool:
        """Return whether a person is on the allow-list."""
        return is_among(person, self.rules.authors)


class _IssueFile(NamedTuple):
    path: str
    task: str
    number: int
    mark: Mark


class _News(NamedTuple):
    verb: str
    task: str
    text: str
    """Of its file."""
    message: str
    url: str
    author: str


def _key(comment: Comment) -> str:
    return f"command:{comment.id}"


async def _insist(work: Callable[[], Awaitable[T]]) -> T:
    """Run a read-modify-write step; repeat it on a conflict."""
    for _ in range(_REDO - 1):
        with suppress(Conflict):
            return await work()
    return await work()


# --- Words of commits ------------------------------------------------------

_ISSUE, _ISSUE_AUTHOR = "Issue", "Issue-Author"
_COMMENT, _AUTHOR = "Forge-Comment", "Forge-Author"


def _message(place: _Target, news: Sequence[_News]) -> str:
    lines = [f"{each.verb} {each.task}: {one_line(each.message, 100)}" for each in news]
    trailers = "".join(_trailers((_ISSUE, each.url), (_ISSUE_AUTHOR, each.author)) for each in news)
    if len(lines) == 1:
        return f"{lines[0]}\n\n{trailers}"
    return "\n\n".join([f"Follow {len(lines)} issues of {place.repo}", "\n".join(lines), trailers])


def _trailers(*values: tuple[str, str]) -> str:
    return "".join(f"{key}: {one_line(value, 300)}\n" for key, value in values if value)
