"""
Signed specs: which commits of the specs may be acted on, where every one must be signed.

The branch as it is pushed counts, by its first parents: who merges and signs
vouches for what the merge brings. Git checks the signatures, against a file of
allowed signers outside of the repository, so nobody who may push can change it.
"""

from dataclasses import dataclass
from pathlib import Path

from reconciler.git.process import printable_error
from reconciler.git.provenance import signature
from reconciler.git.repository import Repository


@dataclass(frozen=True, slots=True)
class Signed:
    """The newest commit that may be acted on, and why a later one may not."""

    commit: str | None
    """None: there is none."""
    objection: str = ""


class SignedSpecs:
    """Follows a branch from one signed commit to the next."""

    def __init__(self, repository: Repository, allowed_signers: Path) -> None:
        self._repository = repository
        self._allowed = allowed_signers
        self._good: str | None = None
        """Newest commit that may be acted on, so far."""

    async def newest(self, head: str, acted_on: str | None) -> Signed:
        """
        Return how far the branch may be acted on.

        `acted_on` is the newest commit that was acted on before; without one, the
        head alone must be signed. The first commit that is not signed ends it:
        what is on top of it is not acted on either. Raises Unavailable.
        """
        since = self._good or acted_on
        for commit in await self._commits(since, head):
            signed = await signature(self._repository.git, commit, self._allowed)
            if not signed.is_good:
                return Signed(
                    since, f"{await self._described(commit)}: {signed}; {self._remedy(since, commit)}"
                )
            since = self._good = commit
        return Signed(since)

    async def _commits(self, since: str | None, head: str) -> list[str]:
        if since is None:
            return [head]
        args = ("rev-list", "--first-parent", "--reverse", f"{since}..{head}")
        return (await self._repository.git.run(*args)).decode().split()

    async def _described(self, commit: str) -> str:
        about = await self._repository.git.run("log", "-1", "--format=%h by %an: %s", commit)
        return f"specs commit {printable_error(about)} is not signed by any of {self._allowed}"

    def _remedy(self, since: str | None, commit: str) -> str:
        if since is None:
            return "there is no earlier commit to go by: push one that is signed (`git commit -S`)"
        at = since[:10]
        return (
            f"the specs at {at} stay in force; one of them vouches for it by `git reset --hard {at}`, "
            f"`git merge --no-ff -S {commit[:10]}` and a push"
        )
