"""
The branch with the specs, as far as it goes on: what was acted on once is not taken back by force.
"""

from reconciler.core.errors import Rewound
from reconciler.git.objects import GitTree
from reconciler.git.repository import Repository
from reconciler.store.high_water import HighWaterMarks, Rewind


class GuardedTree(GitTree):
    """A branch that stays at the last commit that was acted on while it does not descend from it."""

    def __init__(
        self, repository: Repository, branch: str, marks: HighWaterMarks, *, only_looks: bool = False
    ) -> None:
        """Read a branch; who only looks is shown what is there, where what was acted on is lost."""
        super().__init__(repository, branch)
        self._marks = marks
        self._only_looks = only_looks
        self.is_acted_on = False
        """Whether what is read is acted on, and so remembered."""
        self.rewind: Rewind | None = None
        """How the branch went back, as of the last look."""

    async def head(self) -> str:
        """
        Return the newest commit that may be acted on.

        Raises Unavailable if the branch is not there, Rewound if it went back
        behind a commit that is not in the repository any more.
        """
        head = await super().head()
        self.rewind = await self._marks.rewind("specs", self._branch, head)
        if self.rewind is not None:
            if self.rewind.is_lost and self._only_looks:
                return head
            if self.rewind.is_lost:
                raise Rewound(str(self.rewind))
            return self.rewind.was
        if self.is_acted_on:
            await self._marks.advance("specs", self._branch, head)
        return head
