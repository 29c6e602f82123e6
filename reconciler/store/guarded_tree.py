"""
Guarded tree: the specs branch, protected against being rewound behind what was acted on.
"""

from reconciler.core.errors import Rewound
from reconciler.git.objects import GitTree
from reconciler.git.repository import Repository
from reconciler.store.high_water import HighWaterMarks, Rewind


class GuardedTree(GitTree):
    """A branch that keeps returning the last commit acted on while its head does not descend from it."""

    def __init__(
        self, repository: Repository, branch: str, marks: HighWaterMarks, *, only_looks: bool = False
    ) -> None:
        """Read a branch; who only looks is shown what is there, where what was acted on is lost."""
        super().__init__(repository, branch)
        self._marks = marks
        self._only_looks = only_looks
        self.is_acted_on = False
        """Whether the reader acts on what it reads, so that the marks advance."""
        self.rewind: Rewind | None = None
        """The rewind found by the last read; None if there was none."""

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
