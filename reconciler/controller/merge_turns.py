"""
Merge turns: which pull requests of a repo are merged in one visit, and in which order.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

from reconciler.controller.ports import Clock
from reconciler.core.model.forge import MergeRefusal

MERGE_TURN = timedelta(seconds=10)
"""For so long at most one pull request is merged after another before anything else is done in a repo."""
MOST_COMPUTING = 4
"""Merges in a row that a visit asks for while the forge computes; such a try costs a forge little."""
PAUSE = timedelta(seconds=0.25)
"""Delay after that; it becomes a quarter of the time for which the forge has not been ready for any."""
LASTING = timedelta(seconds=8)
"""From this time on people are told that the forge computes."""


class MergeTurns:
    """
    Merges pull requests one after another, going on where the last visit left off.

    Each merge makes a forge compute all others anew, one after another; those that it was done
    with meanwhile come last. So the next one that is ready is found by asking for one after
    another, which is quicker than to wait for any. What takes too long, or finds the forge not
    ready again and again, waits for the next visit.
    That asks first for what was asked for, which is ready first, and which some forges compute
    only when they are asked; unless they are slow: then others have their turn.
    """

    def __init__(self, clock: Clock, longest: Callable[[], timedelta]) -> None:
        self._clock = clock
        self._longest = longest
        """Returns the longest delay."""
        self._last: dict[str, int] = {}
        """Number that had its turn last, by repo."""
        self._since: dict[str, datetime] = {}
        """Since when the forge has not been ready for any, by repo; none after a merge."""

    async def merge(
        self,
        repo: str,
        numbers: Mapping[str, int],
        merge: Callable[[str], Awaitable[MergeRefusal | None]],
        until: datetime,
    ) -> timedelta | None:
        """
        Merge the pull requests of these tasks with `merge`, given their numbers, to the end of the turn.

        Returns after which time the forge is asked again; None if all had their turn.
        """
        last, computing = self._last.get(repo, 0), 0
        queue = deque(sorted(numbers, key=lambda name: (numbers[name] <= last, numbers[name])))
        while queue and computing < min(MOST_COMPUTING, len(queue)):
            if self._clock() >= until:
                return timedelta(0)
            name = queue.popleft()
            refusal = await merge(name)
            is_computing = refusal is not None and refusal.kind == "computing"
            if is_computing:
                queue.append(name)
                computing += 1
            else:
                self._since.pop(repo, None)
                computing = 0
            if not is_computing or self.is_slow(repo):
                self._last[repo] = numbers[name]
        return self._pause(repo) if queue else None

    def is_slow(self, repo: str) -> bool:
        """Return whether the forge has not been ready for any merge of a repo for a while."""
        return self._lasts(repo) >= LASTING

    def _lasts(self, repo: str) -> timedelta:
        now = self._clock()
        return max(now - self._since.get(repo, now), timedelta(0))

    def _pause(self, repo: str) -> timedelta:
        self._since.setdefault(repo, self._clock())
        return min(max(self._lasts(repo) / 4, PAUSE), self._longest())
