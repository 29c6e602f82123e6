"""
Merge queues: what `core.forge.merge_queue` decides is carried out, a step at each visit of a repo.

Nothing of a queue is kept but what can be had again: its order is on record, its commits are
made of what is merged, and a host remembers the validation of each under a name that is
derived from it. What is pushed is on record first, as validated.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from reconciler import log_fields
from reconciler.controller.inbox import Inbox
from reconciler.controller.ports import Clock, Dispatch, FleetView, Meter, ValidationOutcome
from reconciler.core.errors import ReconcilerError, Unavailable
from reconciler.core.events import MergeSeen, PullRequestSeen
from reconciler.core.faults import bug_message
from reconciler.core.forge.merge_queue import (
    LONGEST_CHAIN,
    Land,
    MergeChain,
    QueueEntry,
    Result,
    SendBack,
    Step,
    Stuck,
    Validate,
    next_step,
    queue_entries,
    queue_news,
)
from reconciler.core.model.forge import PullRequestSnapshot, QueueNews
from reconciler.core.model.runs import Check, ValidationRequest
from reconciler.core.model.specs import LOCAL, Repo
from reconciler.core.model.status import Phase

log = logging.getLogger(__name__)


AGAIN = timedelta(hours=1)
"""After this time a base that did not pass is validated once more: the fault may have been outside of it."""
_PATIENCE = 30.0
"""Seconds for a host to forget what it validated."""


@dataclass(slots=True)
class _Queue:
    """What is remembered of the queue of a repo between two visits."""

    repo: Repo
    """As it was: what another validation came to says nothing."""
    checks: dict[str, Sequence[Check]] = field(default_factory=dict)
    """What came of commits."""
    requests: dict[str, ValidationRequest] = field(default_factory=dict)
    """By which those were validated."""
    stuck_since: datetime | None = None
    """Since when the base is known not to pass by itself."""
    request: ValidationRequest | None = None
    """What is validated now."""
    validation: asyncio.Task[None] | None = None
    numbers: Sequence[int] = ()
    """Pull requests that are merged and validated together."""
    ready: frozenset[str] = frozenset()
    """Commits that had passed before those were read last."""
    error: str = ""
    """The first error of a validation or a landing since one succeeded: each other would be a commit."""
    outage: str = ""
    """The first error since its code repository could be worked with."""

    @property
    def results(self) -> Mapping[str, Result]:
        return {commit: "green" if _is_green(checks) else "red" for commit, checks in self.checks.items()}

    def keep(self, chain: MergeChain) -> None:
        """Forget what came of commits that nobody needs any more, such as those on another base."""
        needed = {chain.base, *chain.commits}
        self.checks = {commit: checks for commit, checks in self.checks.items() if commit in needed}
        self.requests = {commit: request for commit, request in self.requests.items() if commit in needed}


class MergeQueues:
    """The merge queues of a fleet's repos; `notify` has a repo visited once more."""

    def __init__(
        self,
        dispatch: Dispatch,
        view: FleetView,
        inbox: Inbox,
        clock: Clock,
        notify: Callable[[str], None],
        *,
        meter: Meter,
    ) -> None:
        self._dispatch = dispatch
        self._view = view
        self._inbox = inbox
        self._clock = clock
        self._meter = meter
        self._notify = notify
        self._queues: dict[str, _Queue] = {}
        self._ends = set[asyncio.Task[None]]()
        """Validations that are being ended, as nobody needs them any more."""

    @property
    def is_validating(self) -> bool:
        """Whether something happens by itself."""
        return any(queue.validation is not None for queue in self._queues.values())

    def landing(self, repo: str) -> Collection[int]:
        """Return the pull requests that are to be read anew: something passed, and may land now."""
        queue = self._queues.get(repo)
        if queue is None:
            return ()
        queue.ready = frozenset(commit for commit, result in queue.results.items() if result == "green")
        return queue.numbers if queue.ready else ()

    async def close(self) -> None:
        """Stop waiting for validations; they go on."""
        validations = [queue.validation for queue in self._queues.values() if queue.validation]
        for task in [*validations, *self._ends]:
            task.cancel()
        await asyncio.gather(*validations, *self._ends, return_exceptions=True)
        self._queues.clear()

    async def visit(
        self, repo: Repo, pulls: Mapping[str, PullRequestSnapshot | Unavailable | None], bot: str
    ) -> None:
        """
        Take a step with the queue of a repo, given its pull requests as they are on record, by task.

        It is long for no validation: that goes on between visits.
        """
        readable = {name: pull for name, pull in pulls.items() if isinstance(pull, PullRequestSnapshot)}
        if repo.merge != "queue":
            readable = {}
        entries = self._entries(repo, readable, bot)
        queue = self._queues.get(repo.name)
        if queue is None or queue.repo != repo or not entries:
            self._drop(repo.name)
        if not entries:
            return
        queue = self._queues.setdefault(repo.name, _Queue(repo))
        visit = _Visit(repo, queue, entries, readable, bot)
        try:
            await self._step(visit, await self._chain(visit))
        except Unavailable as error:
            log.warning("repo %s: its merge queue waits: %s", repo.name, error)
        except Exception as error:
            log.exception("repo %s: its merge queue waits, with an unexpected error", repo.name)
            queue.error = queue.error or bug_message(error)

    def _entries(
        self, repo: Repo, pulls: Mapping[str, PullRequestSnapshot], bot: str
    ) -> Sequence[QueueEntry]:
        """Return who is queued by what is asked for, and on record, at this moment."""
        return queue_entries(repo, self._view.desired.tasks, self._view.statuses, pulls, bot=bot)

    async def _chain(self, visit: "_Visit") -> MergeChain:
        """Return the queue's heads merged onto the base. Raises Unavailable; that is told if it lasts."""
        queue, entries = visit.queue, visit.entries[:LONGEST_CHAIN]
        queue.numbers = [entry.number for entry in entries]
        try:
            chain = await self._dispatch.merge_chain(
                visit.repo, [(entry.branch, entry.head) for entry in entries]
            )
        except Unavailable as error:
            news = QueueNews(message=f"in the merge queue, which waits: {queue.outage}")
            for entry in visit.entries if queue.outage else ():
                self._emit(visit, entry, news)
            queue.outage = queue.outage or str(error)
            raise
        queue.outage = ""
        return chain

    def _drop(self, repo: str) -> None:
        """Forget a queue that is empty, or of which other things are asked."""
        queue = self._queues.pop(repo, None)
        if queue is not None:
            self._end(queue)

    # --- A step ------------------------------------------------------------

    async def _step(self, visit: "_Visit", chain: MergeChain) -> None:
        self._tell_apart(visit, chain)
        gone, queue = chain.landed | chain.absent, visit.queue
        visit = replace(visit, entries=[entry for entry in visit.entries if entry.head not in gone])
        queue.keep(chain)
        if not visit.entries:
            self._end(queue)
            return
        step = self._decide(queue, chain)
        queue.stuck_since = queue.stuck_since or self._clock() if isinstance(step, Stuck) else None
        if isinstance(step, Validate) and queue.validation is None:
            self._begin(visit, chain, step)
        self._tell(visit, chain, step)
        await self._inbox.wait_recorded({entry.task for entry in visit.entries})
        if isinstance(step, Land):
            await self._land(visit, chain, step)
        elif isinstance(step, Stuck):
            await self._try_again(queue)
        elif isinstance(step, SendBack):
            self._let_go(visit, chain)

    def _decide(self, queue: _Queue, chain: MergeChain) -> Step:
        """Return the next step; what is validated already goes on as long as it is in the queue."""
        step, commits = next_step(chain, queue.results), (chain.base, *chain.commits)
        if isinstance(step, Validate) and queue.request and queue.request.commit in commits:
            return Validate(commits.index(queue.request.commit))
        self._end(queue)
        return step

    def _let_go(self, visit: "_Visit", chain: MergeChain) -> None:
        """Go on without the branch that was sent back; as it is, it may come again and is validated anew."""
        status = self._view.statuses.get(visit.entries[0].task)
        if status is None or status.phase is not Phase.REVIEW_PENDING:
            visit.queue.checks.pop(chain.commits[0] if chain.commits else "", None)
            self._notify(visit.repo.name)

    def _tell(self, visit: "_Visit", chain: MergeChain, step: Step) -> None:
        """Emit what the queue says of each of its pull requests."""
        commit = {SendBack: chain.commits[:1], Stuck: (chain.base,)}.get(type(step), ())
        checks = [check for each in commit for check in visit.queue.checks.get(each, ())]
        error = visit.queue.error
        for entry, news in queue_news(visit.repo, visit.entries, chain, step, checks=checks, error=error):
            self._emit(visit, entry, news)

    def _tell_apart(self, visit: "_Visit", chain: MergeChain) -> None:
        """Emit what is on the base already, and what is not there to be merged."""
        for entry in visit.entries:
            if entry.head in chain.landed:  # it landed just before we fell, or somebody else merged it
                status = self._view.statuses.get(entry.task)
                validated = status.review.validated if status else None
                self._emit_merge(visit.repo, entry, chain.base if validated == chain.base else "")
            elif entry.head in chain.absent:
                message = f"not in the merge queue: its branch does not hold {entry.head[:10]} now"
                self._emit(visit, entry, QueueNews(message=message))

    def _emit(self, visit: "_Visit", entry: QueueEntry, news: QueueNews) -> None:
        pull = replace(visit.pulls[entry.task], queue=news)
        self._inbox.emit(PullRequestSeen(task=entry.task, pull=pull, at=self._clock(), bot=visit.bot))

    def _emit_merge(self, repo: Repo, entry: QueueEntry, landed: str) -> None:
        self._inbox.emit(
            MergeSeen(task=entry.task, head=entry.head, at=self._clock(), base=repo.base, landed=landed)
        )

    async def _land(self, visit: "_Visit", chain: MergeChain, step: Land) -> None:
        """Push what passed, if all that it brings is still queued, and on record as validated."""
        commit, brought = chain.commit(step.position), visit.entries[: step.position]
        if commit not in visit.queue.ready:
            self._notify(visit.repo.name)
            return
        if self._view.desired.repos.get(visit.repo.name) != visit.repo:  # it may ask for other validation
            return
        queued = self._entries(visit.repo, visit.pulls, visit.bot)
        if not all(entry in queued and self._is_validated(entry, commit) for entry in brought):
            return
        try:
            is_landed = await self._dispatch.land(visit.repo, commit, chain.base)
        except Unavailable as error:
            visit.queue.error = visit.queue.error or str(error)
            self._tell(visit, chain, step)
            raise
        visit.queue.error = ""
        self._notify(visit.repo.name)
        if is_landed:
            log.info("repo %s: %s with %d branches landed", visit.repo.name, commit, len(brought))
            for entry in brought:
                self._emit_merge(visit.repo, entry, commit)

    def _is_validated(self, entry: QueueEntry, commit: str) -> bool:
        status = self._view.statuses.get(entry.task)
        if status is None or status.phase is not Phase.REVIEW_PENDING or status.head_commit != entry.head:
            return False
        return status.review.validated == commit

    async def _try_again(self, queue: _Queue) -> None:
        """Forget, after a time, that a base did not pass: here, and on the host."""
        if queue.stuck_since is None or self._clock() < queue.stuck_since + AGAIN:
            return
        queue.stuck_since = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await asyncio.gather(*map(self._dispatch.end_validation, queue.requests.values()))
                queue.checks.clear()
        self._notify(queue.repo.name)

    # --- Validations -------------------------------------------------------

    def _begin(self, visit: "_Visit", chain: MergeChain, step: Validate) -> None:
        """Begin to validate a commit, or take that up where it stands."""
        repo, name, last = visit.repo, visit.repo.name, visit.entries[max(step.position - 1, 0)]
        host = self._view.desired.hosts.get(repo.validate_on or LOCAL)
        if host is None:
            visit.queue.error = f"there is no host {repo.validate_on or LOCAL!r}: see `validate_on`"
            return
        # In the name of the last branch that is in it: with that it stays, and with that it goes.
        request = ValidationRequest(
            run=last.run,
            task=last.task,
            host=host,
            repo=repo,
            branch=repo.base,
            commit=chain.commit(step.position),
            validation=repo.validation,
            env=repo.env,
            timeout=repo.timeout,
        )
        visit.queue.request = request
        task = asyncio.create_task(self._validate(visit.queue, request), name=f"merge queue of {name}")
        visit.queue.validation = task

    async def _validate(self, queue: _Queue, request: ValidationRequest) -> None:
        log_fields.bind(subject=queue.repo.name)
        outcome: ValidationOutcome = "fault"
        try:
            checks = await self._dispatch.validate(request)
        except ReconcilerError as error:
            log.warning("repo %s: %s cannot be validated now: %s", queue.repo.name, request.commit, error)
            queue.error = queue.error or str(error)
        except Exception as error:
            log.exception("repo %s: %s cannot be validated", queue.repo.name, request.commit)
            queue.error = queue.error or bug_message(error)
        else:
            queue.error = ""
            queue.checks[request.commit], queue.requests[request.commit] = checks, request
            outcome = "passed" if _is_green(checks) else "failed"
            self._notify(queue.repo.name)
        finally:
            if queue.validation is asyncio.current_task():  # else it was ended, in vain
                queue.request = queue.validation = None
                self._meter.queue_validated(queue.repo.name, outcome)
            self._inbox.wake()

    def _end(self, queue: _Queue) -> None:
        """End what is validated in vain; who waits for its host meanwhile is not waited for."""
        task, request = queue.validation, queue.request
        queue.request = queue.validation = None
        if task is None or request is None:
            return
        task.cancel()
        ending = asyncio.create_task(self._dispatch.end_validation(request))
        self._ends.add(ending)
        ending.add_done_callback(self._ends.discard)


@dataclass(frozen=True, slots=True)
class _Visit:
    """One visit of a queue that is not empty."""

    repo: Repo
    queue: _Queue
    entries: Sequence[QueueEntry]
    pulls: Mapping[str, PullRequestSnapshot]
    bot: str


def _is_green(checks: Sequence[Check]) -> bool:
    """Return whether a validation passed; one without any command did not."""
    return bool(checks) and all(check.exit_code == 0 for check in checks)
