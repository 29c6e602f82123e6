"""
Services: what the API needs beside the loop.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from reconciler.api.pages.services import PageServices
from reconciler.controller.ports import Hooks
from reconciler.core.figures import FiguresOf
from reconciler.core.model.status import Status
from reconciler.core.transitions import HistoryFilter, TransitionRecord
from reconciler.wire import Proposal, ProposalRequest


class HistorySource(Protocol):
    """The history of the state branch."""

    def head(self) -> str:
        """Return the commit that the controller's statuses are of, no newer one; empty before the first."""

    async def since(self, commit: str, limit: int) -> Sequence[TransitionRecord]:
        """
        Return the records after a commit (empty: all), oldest first.

        Raises NotFound if that commit is not in the history, Unavailable.
        """

    async def before(self, commit: str | None, task: str | None, limit: int) -> Sequence[TransitionRecord]:
        """
        Return the records up to now, or before a commit, newest first; of one task, or of all.

        Raises NotFound if that commit is not in the history, Unavailable.
        """

    async def archived(self, task: str) -> Status | None:
        """Return the status of a task in the archive; None if it is not there. Raises Unavailable."""

    async def search(
        self, wanted: HistoryFilter, commit: str | None, limit: int
    ) -> Sequence[TransitionRecord]:
        """
        Return what fits a filter, up to now or before a commit, newest first.

        Raises NotFound if that commit is not in the history, Unavailable.
        """


class WorkerLogStore(Protocol):
    """Logs of outside agents, on disk."""

    def size(self, run: str) -> int:
        """Return how many bytes of a run's log are kept."""

    async def append(self, run: str, offset: int, data: bytes) -> int:
        """
        Keep a piece of a log and return how much is kept then; it is on disk.

        Bytes that are kept already are ignored. Raises LogGap if `offset` is beyond
        it, Refused if the log is too long, Unavailable.
        """


class MetricsService(Protocol):
    """Metrics of the reconciler, and who is told of each answer."""

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that an Accept header asks for, and its media type."""

    def request(self, operation: str, status: int, seconds: float) -> None:
        """Take note of an answer, and how long it took."""


Propose = Callable[[ProposalRequest, str], Awaitable[Proposal]]
"""
Commit an agent's proposal to a branch of its own.

Raises SpecError, NotNow (there is a task of that name), Unavailable.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Services of the API beside the loop: history, logs of workers, proposals, webhooks, pages."""

    record: HistorySource
    logs: WorkerLogStore
    propose: Propose
    hooks: Hooks
    whole_url: Callable[[str], str]
    """Resolve the URL of a code repository that may be relative to the fleet's."""
    pages: PageServices
    figures: FiguresOf = lambda *_: None
    unready: Callable[[], str] = lambda: ""
    """Return why tasks are not reconciled now, as text; empty if they are."""
    metrics: MetricsService | None = None
    """None: there are none."""
