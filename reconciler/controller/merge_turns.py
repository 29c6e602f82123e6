"""
Merge turns: which pull requests of a repo are merged in one visit, and in which order.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

from reconciler.controller.ports import Clock
from reconciler.core.model.forge import MergeRefusal

MERGE_TURN = timedelta(seconds=10)
"""For so long at most a visit merges one pull request after another."""
MOST_COMPUTING = 4
"""Merges in a row that a visit asks for while the forge computes."""
PAUSE = timedelta(seconds=1)
"""Delay after that; it doubles as long as the forge is not ready for any."""


class MergeTurns:
    """
    Merges pull requests one after another, by their numbers, going on where the last visit left off.

    Each merge makes a forge compute the others anew, in that order: so the next one is ready first.
    What takes too long, or finds the forge not ready again and again, waits
    for the next visit: what is new meanwhile has its turn.
    """

    def __init__(self, clock: Clock, longest: Callable[[], timedelta]) -> None:
        self._clock = clock
        self._longest = longest
        """Returns the longest delay."""
        self._last: dict[str, int] = {}
        """Number that had its turn last, by repo."""
        self._pauses: dict[str, timedelta] = {}
        """Next delay, by repo; none after a merge."""

    async def merge(
        self, repo: str, numbers: Mapping[str, int], merge: Callable[[str], Awaitable[MergeRefusal | None]]
    ) -> timedelta | None:
        """
        Merge the pull requests of these tasks with `merge`, given their numbers.

        Returns after which time the next visit is due; None if all had their turn.
        """
        last, until, computing = self._last.get(repo, 0), self._clock() + MERGE_TURN, 0
        for name in sorted(numbers, key=lambda name: (numbers[name] <= last, numbers[name])):
            if computing == MOST_COMPUTING:
                break
            if self._clock() >= until:
                return timedelta(0)
            refusal = await merge(name)
            self._last[repo] = numbers[name]
            computing = computing + 1 if refusal and refusal.kind == "computing" else 0
            if not computing:
                self._pauses.pop(repo, None)
        return self._pause(repo) if computing else None

    def _pause(self, repo: str) -> timedelta:
        pause = self._pauses.get(repo, PAUSE)
        self._pauses[repo] = min(pause * 2, self._longest())
        return pause
