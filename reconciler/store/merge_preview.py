"""
Merge preview: the specs as they would be with a pull request merged.

The merge is made among the objects, of no branch and in nobody's checkout: the
same two commits give the same one.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from reconciler.core.errors import Conflict, Unavailable
from reconciler.git.objects import GitTree
from reconciler.git.remote import NETWORK_TIMEOUT
from reconciler.git.repository import Repository
from reconciler.store.bot_commits import bot_git

_CLEAN, _CONFLICTS = 0, 1
"""Exit codes of `git merge-tree`; any other is a failure."""
_DATED = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), "946684800 +0000")
"""Fixed commit time, so that the merge commit is deterministic."""


class PullTree(GitTree):
    """A tree for `specs.source.SpecSource`, used for one pull request after the other."""

    def __init__(self, repository: Repository) -> None:
        super().__init__(repository, "")
        self._merged = ""

    async def check_out_merge(self, ref: str, head: str, base: str) -> None:
        """
        Merge the head of a pull request into a commit; `files` and `blobs` then read the result.

        `ref` is where the remote has the head, of those from forks, too. Raises
        Conflict if that needs a person, Unavailable if the head cannot be had.
        """
        await self.obtain(ref, head)
        git = self._repository.git
        args = ("merge-tree", "--write-tree", "--no-messages", "--name-only", base, head)
        result = await git.attempt(*args)
        tree, *files = result.stdout.decode("utf-8", "replace").splitlines() or [""]
        if result.code == _CONFLICTS:
            raise Conflict(f"it changes the same as others did meanwhile: {', '.join(files[:3])}")
        if result.code != _CLEAN:
            raise Unavailable(f"{ref} cannot be merged to look at it: {result.message}")
        self._merged = await self._commit(tree, base, head)

    async def fetch(self, heads: Mapping[str, str]) -> None:
        """
        Fetch the heads of pull requests that are not here, by their refs, all at once.

        It saves a fetch for each of them; what cannot be had is told when it is checked out.
        """
        missing = [ref for ref, head in heads.items() if not await self._is_here(head)]
        if missing:
            with suppress(Unavailable):
                await self._fetch_refs(missing)

    async def head(self) -> str:
        """Return the merge commit made last."""
        return self._merged

    async def obtain(self, ref: str, head: str) -> None:
        """Fetch the head of a pull request, if it is not here. Raises Unavailable."""
        if await self._is_here(head):
            return
        await self._fetch_refs([ref])
        if not await self._is_here(head):
            raise Unavailable(f"{ref} has moved on from {head[:10]}")

    async def _fetch_refs(self, refs: Sequence[str]) -> None:
        args = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "origin")
        await self._repository.network.run(*args, *refs, timeout=NETWORK_TIMEOUT)

    async def _is_here(self, commit: str) -> bool:
        return (await self._repository.git.attempt("cat-file", "-e", f"{commit}^{{commit}}")).code == 0

    async def _commit(self, tree: str, *parents: str) -> str:
        git = bot_git(self._repository.git).with_env(_DATED)
        args = [word for parent in parents for word in ("-p", parent)]
        return await git.line("commit-tree", tree, *args, "-F", "-", stdin=b"preview\n")
