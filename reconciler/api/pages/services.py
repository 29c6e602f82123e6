"""
What pages show beside the read model: commits, logs, diffs, origins of values, spending.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from reconciler.core.costs import Spent
from reconciler.core.edits import FieldChanges
from reconciler.core.errors import Problem
from reconciler.core.model.specs import Desired, Kind
from reconciler.core.model.status import Status


class CommitInfo(Protocol):
    """A commit of the fleet's repository."""

    @property
    def commit(self) -> str:
        """Its id, whole."""

    @property
    def parents(self) -> tuple[str, ...]:
        """Commits that it was made on."""

    @property
    def author(self) -> str:
        """Name and address."""

    @property
    def committer(self) -> str:
        """Name and address."""

    @property
    def committed_at(self) -> datetime:
        """When it was made."""

    @property
    def message(self) -> str:
        """Subject, body and trailers."""

    @property
    def patch(self) -> str:
        """As `git diff` prints it against the first parent."""

    @property
    def is_cut(self) -> bool:
        """Whether the patch was too long to be whole."""


class SpecText(Protocol):
    """A file of the specs that are in force."""

    @property
    def text(self) -> str:
        """What stands in it."""

    @property
    def revision(self) -> str:
        """Commit it was read at."""

    @property
    def changed(self) -> str:
        """Commit that changed it last; empty if that is not known."""


class SpecValue(Protocol):
    """A field of a task with where it comes from."""

    @property
    def field(self) -> str:
        """Such as `priority`, or `env.PAGE`."""

    @property
    def value(self) -> str:
        """As it would stand in YAML, on one line."""

    @property
    def origin(self) -> str:
        """`specs/repos/shop.yaml:7`, or `default`."""


class LogPart(Protocol):
    """One log of a run."""

    @property
    def label(self) -> str:
        """For people, such as `round 1 agent (stderr)`."""

    @property
    def size(self) -> int:
        """Bytes."""


class ShownLine(Protocol):
    """A line of a log."""

    @property
    def begin(self) -> int:
        """Byte at which it begins."""

    @property
    def end(self) -> int:
        """Byte after it."""

    @property
    def text(self) -> str:
        """What it says, with its line end if it has one yet."""


class RunLogs(Protocol):
    """What the agents of runs printed, with every secret masked that they were given."""

    def parts(self, run: str) -> Sequence[LogPart]:
        """Return the logs of a run, in the order of its rounds; none if they are not here."""

    def read(self, run: str, label: str, begin: int, end: int) -> Sequence[ShownLine]:
        """
        Return the lines between two bytes of a log.

        Raises NotFound, and Refused where it may hold secrets that are not known any more.
        """

    def last_line(self, run: str, number: int) -> str:
        """Return the last line that a round printed that holds anything; empty if there is none."""


class HookReport(NamedTuple):
    """What came of webhooks since the start."""

    counts: Sequence[tuple[str, str, int]]
    """Event, what became of it (taken, duplicate, ignored, refused), how many."""
    taken: Sequence[tuple[datetime, str, str]]
    """The last that were taken: when, event, repos. Newest first."""


class ActionOutcome(Protocol):
    """What came of something that was asked for."""

    @property
    def commit(self) -> str:
        """Empty: there was nothing to do."""

    @property
    def message(self) -> str:
        """What is so now, or why there was nothing to do."""


class SpecActions(Protocol):
    """
    Edits of the specs, each a commit in a person's name.

    All raise NotFound, UsageError, SpecError, Conflict, Unavailable, Refused.
    """

    async def edit(self, kind: Kind, verb: str, name: str, person: str, reason: str) -> ActionOutcome:
        """Do what a verb says to a task or a host."""

    async def answer(
        self, name: str, text: str, question: str | None, person: str, reason: str = ""
    ) -> ActionOutcome:
        """Answer a question of a task, by its id; the one that waits, if None."""

    async def approve(self, digest: str, person: str, reason: str) -> ActionOutcome:
        """Allow the removals that wait, if they are those that were shown."""

    def compose(self, fields: FieldChanges, more: str) -> str:
        """Return the text of a task's file: fields, then what was written as YAML."""

    async def check(self, name: str, text: str) -> Sequence[Problem]:
        """Return what would be wrong with a new task."""

    async def submit(self, name: str, text: str, person: str, reason: str) -> ActionOutcome:
        """Commit a new task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageServices:
    """The services of the pages."""

    fleet: str
    """What the fleet is called: its repository, in a word."""
    logs: RunLogs
    steering: SpecActions
    commit: Callable[[str], Awaitable[CommitInfo]]
    """Return a commit of the specs or the record by its id, of 7 digits or more. Raises NotFound."""
    last_commits: Callable[[], Awaitable[Mapping[str, str]]]
    """Return the commit of the last transition of every task, by name."""
    statuses_at: Callable[[Sequence[tuple[str, str]]], Awaitable[Sequence[Status | None]]]
    """Return the status at each commit of a task (both are named); None where there is none to be read."""
    file: Callable[[str], Awaitable[SpecText]]
    """Return a file of the specs by its path. Raises NotFound."""
    explain: Callable[[str], Awaitable[Sequence[SpecValue]]]
    """Return each field of a task with its origin. Raises NotFound, SpecError."""
    diff: Callable[[str, str, str], Awaitable[str]]
    """Return how a commit of a repo (by name) differs from another, as `git diff` says. Raises NotFound."""
    specs_at: Callable[[str], Awaitable[Desired]]
    """Return what the specs of a commit or branch ask for. Raises NotFound."""
    load: Callable[[], Mapping[str, float]]
    """Return the load per core of the hosts that were asked, as of their last probe."""
    files_touched: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]]
    """Return the commit that changed each of some files of the specs or the record last, by path."""
    forge_problems: Callable[[], Mapping[str, str]]
    """Return why forges cannot be worked with now, by repo; that of the fleet's own is `.fleet`."""
    hooks: Callable[[], HookReport]
    """Return what came of webhooks."""
    unsent: Callable[[], Mapping[str, str]]
    """Return which notifications could not be sent and why, in a sentence, by target."""
    spending: Callable[[datetime], Awaitable[Sequence[Spent]]]
    """Return what was spent since a time, the oldest first. Raises Unavailable."""
