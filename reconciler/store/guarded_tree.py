"""
Guarded tree: the specs branch, protected against what was not signed, and against being rewound.
"""

from reconciler.core.errors import Rewound, Unavailable
from reconciler.git.objects import GitTree
from reconciler.git.repository import Repository
from reconciler.store.high_water import HighWaterMarks, Rewind
from reconciler.store.signed_specs import SignedSpecs


class GuardedTree(GitTree):
    """A branch that keeps returning the last commit acted on while its head does not descend from it."""

    def __init__(
        self,
        repository: Repository,
        branch: str,
        marks: HighWaterMarks,
        *,
        only_looks: bool = False,
        signed: SignedSpecs | None = None,
    ) -> None:
        """
        Read a branch; who only looks is shown what is there, where what was acted on is lost.

        With `signed`, only signed commits are acted on.
        """
        super().__init__(repository, branch)
        self._marks = marks
        self._only_looks = only_looks
        self.is_acted_on = False
        """Whether the reader acts on what it reads, so that the marks advance."""
        self.rewind: Rewind | None = None
        """The rewind found by the last read; None if there was none."""
        self._signed = signed
        self.unsigned = ""
        """Why the last read did not return the head, if that was not signed."""

    async def head(self) -> str:
        """
        Return the newest commit that may be acted on.

        Raises Unavailable if the branch is not there, Rewound if it went back
        behind a commit that is not in the repository any more, Unavailable if
        no commit is signed as it must be.
        """
        head = await super().head()
        self.rewind = await self._marks.rewind("specs", self._branch, head)
        if self.rewind is not None:
            if self.rewind.is_lost and self._only_looks:
                return head
            if self.rewind.is_lost:
                raise Rewound(str(self.rewind))
            return self.rewind.was
        if self._signed is not None:
            head = await self._signed_head(self._signed, head)
        return head

    async def act_on(self, commit: str) -> None:
        """Remember that a commit is acted on, if it is; durable when it returns. Raises Unavailable."""
        if self.is_acted_on and self.rewind is None:
            await self._marks.advance("specs", self._branch, commit)

    async def _signed_head(self, signed: SignedSpecs, head: str) -> str:
        """Return the newest commit that is signed. Only what this machine remembers says where to begin."""
        newest = await signed.newest(head, self._marks.acted_on("specs", self._branch))
        self.unsigned = newest.objection
        if newest.commit is None:
            raise Unavailable(newest.objection)
        return newest.commit
