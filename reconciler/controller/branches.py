"""
Branch controller: notices pushes to the branches of tasks, also where there is no pull request.

A push is a sign of life and nothing else; what it means for a review is read
from the pull request.
"""

from collections.abc import Collection, Mapping
from datetime import timedelta

from reconciler.controller.cache import FleetCache
from reconciler.controller.hints import Hints
from reconciler.controller.inbox import Inbox
from reconciler.controller.poller import Latch, Poller
from reconciler.controller.ports import Clock, Forges
from reconciler.core.events import BranchSeen
from reconciler.core.model.forge import Hint
from reconciler.core.model.specs import Repo

SETTLES = timedelta(seconds=5)
"""
Delay of the look after a push.

Most pushes are deliveries of ours: by then their run's end is on record, with
the head, and they are no news.
"""
_MOST_HEADS = 1000


class BranchController:
    """Reads the branches that webhooks spoke of, and tells what was pushed."""

    def __init__(self, forges: Forges, cache: FleetCache, inbox: Inbox, clock: Clock) -> None:
        self._forges = forges
        self._cache = cache
        self._inbox = inbox
        self._clock = clock
        self._hints = Hints[str]()
        self._heads: dict[tuple[str, str], str] = {}
        """Head that was told last, by task and branch: a delivery that is replayed is no push."""
        self.poller: Poller[Repo] = Poller(
            poll=self._poll,
            subjects=self._repos,
            interval=lambda: cache.desired.fleet.forge_interval,
            clock=clock,
            failure="pushes to branches of its tasks wait for the next look",
        )

    def notify(self, hint: Hint, latch: Latch | None = None) -> None:
        """Look at the branch that a hint names, in a moment; `latch` is held until that was done."""
        if hint.branch is None:
            return
        repos = self._cache.desired.repos.keys() & hint.repos
        at = self._clock() + SETTLES
        for repo in repos:
            self._hints.add(repo, hint.branch, hint.delivery)
            self.poller.due.setdefault(repo, at)
        self.poller.notify(repos, at=at, latch=latch)

    def _repos(self) -> Mapping[str, Repo]:
        repos = self._cache.desired.repos
        return {name: repos[name] for name in self._hints.repos if name in repos}

    async def _poll(self, repo: Repo) -> None:
        with self._hints.taken(repo.name) as hints:
            looks = [await self._look(repo, branch, delivery) for branch, delivery in hints.items()]
        await self._inbox.wait_recorded(set().union(*looks))

    async def _look(self, repo: Repo, branch: str, delivery: str) -> Collection[str]:
        """Look at a branch; return the tasks whose work is on it."""
        tasks, at = self._cache.on_branch(repo.name, branch), self._clock()
        if not tasks or repo.forge is None:
            return ()
        head = await self._forges.branch_head(repo.forge, branch)
        for task in tasks:
            if head is not None and self._heads.get((task, branch)) != head:
                self._inbox.emit(BranchSeen(task=task, branch=branch, head=head, at=at, delivery=delivery))
                self._heads.pop((task, branch), None)
                self._heads[task, branch] = head
        self._heads = dict(list(self._heads.items())[-_MOST_HEADS:])
        return tasks
