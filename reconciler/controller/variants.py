"""
Variant controller: brings the chosen work to the branch of its task, and closes the branches of variants.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.controller.cache import FleetCache
from reconciler.controller.inbox import Inbox
from reconciler.controller.poller import Poller
from reconciler.controller.ports import Clock, Dispatch
from reconciler.core.events import VariantClosed, VariantDelivered
from reconciler.core.model.specs import Repo
from reconciler.core.model.status import Phase, Status, VariantChoice


@dataclass(frozen=True, slots=True)
class _Delivery:
    """The chosen work, to be brought to the branch of its task."""

    task: str
    repo: Repo
    branch: str
    expected: str | None
    """What the branch holds, if it was delivered before."""
    variant: str
    chosen: Status


@dataclass(frozen=True, slots=True)
class _Closing:
    """The branch of a variant, which nobody needs any more."""

    task: str
    repo: Repo
    branch: str
    head: str
    choice: VariantChoice


class VariantController:
    """Does what is left once a variant is chosen; both may be done again after a crash."""

    def __init__(self, dispatch: Dispatch, cache: FleetCache, inbox: Inbox, clock: Clock) -> None:
        self._dispatch = dispatch
        self._cache = cache
        self._inbox = inbox
        self._clock = clock
        self.poller: Poller[_Delivery | _Closing] = Poller(
            poll=self._poll,
            subjects=lambda: {job.task: job for job in self._jobs()},
            interval=lambda: cache.desired.fleet.poll_interval,
            clock=clock,
            done=inbox.wake,
            failure="its chosen variant waits for the next look",
        )

    def _jobs(self) -> Iterator[_Delivery | _Closing]:
        for name, status in self._cache.in_group("chosen").items():
            spec = self._cache.desired.tasks.get(name)
            repo = self._cache.desired.repos.get(spec.repo or "") if spec else None
            if spec is None or repo is None:
                continue
            if spec.variant_of:
                yield from self._closing(name, spec.variant_of, status, repo)
            elif status.choice and not status.choice.is_taken and status.phase is Phase.CREATED:
                variant = status.choice.variant
                if chosen := self._cache.statuses.get(variant):
                    yield _Delivery(name, repo, spec.branch, status.head_commit, variant, chosen)

    def _closing(self, name: str, parent: str, status: Status, repo: Repo) -> Iterator[_Closing]:
        task = self._cache.statuses.get(parent)
        if task and task.choice and task.choice.is_taken and status.run and status.head_commit:
            yield _Closing(name, repo, status.run.branch, status.head_commit, task.choice)

    async def _poll(self, job: _Delivery | _Closing) -> None:
        if isinstance(job, _Closing):
            await self._dispatch.close_branch(job.repo, job.branch, job.head)
            closed = VariantClosed(task=job.task, at=self._clock(), choice=job.choice)
            self._inbox.emit(closed)
        elif job.chosen.head_commit:
            head = await self._dispatch.deliver(job.repo, job.chosen.head_commit, job.branch, job.expected)
            delivered = VariantDelivered(
                task=job.task, variant=job.variant, head=head, at=self._clock(), chosen=job.chosen
            )
            self._inbox.emit(delivered)
        await self._inbox.wait_recorded({job.task})
