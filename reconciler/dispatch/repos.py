"""
Code repositories, as this machine knows them: a bare mirror of each.

Work starts from a commit of the mirror and comes back into it as a bundle; here
it is checked, and from here it is pushed. A host needs no credential for that.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path

from pathspec import GitIgnoreSpec

from reconciler.core.errors import Unavailable
from reconciler.core.model import FailureClass, Repo
from reconciler.dispatch.git import Done, git, without_credentials
from reconciler.dispatch.steps import StepFailed

_NETWORK_TIMEOUT = 1800.0
"""Seconds; the first fetch of a large repository takes long."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[^/:\s]+:")
_NOT_ALLOWED = re.compile(
    r"authentication failed|could not read (?:username|password)|permission denied|host key verification"
    r"|returned error: 40[13]|access denied",
    re.IGNORECASE,
)
_NOT_THERE = re.compile(
    r"not found|does not appear to be a git repository|does not exist|no such file|couldn't find remote ref"
    r"|not a git repository|transport .* not allowed",
    re.IGNORECASE,
)
_DECLINED = re.compile(r"rejected|declined|aborted by hook", re.IGNORECASE)
_BUNDLE = re.compile(rb"# v2 git bundle\n(?:-[0-9a-f]{40}[^\n]*\n)*(?P<head>[0-9a-f]{40}) [^\n]+\n\n")
_NAMED = 3
_OURS = "the reconciler's user"

Push = Callable[[str, str, str | None], Awaitable[str]]
"""Pushes a commit to a ref that holds the commit expected; returns why it could not, empty if it could."""


class CodeRepository:
    """The mirror of one repo."""

    def __init__(self, repo: Repo, *, mirrors: Path, fleet: Path) -> None:
        self.repo = repo
        self.folder = mirrors / f"{repo.name.replace('/', '+')}.git"
        self.url = repo.url if _ADDRESS.match(repo.url) else str(fleet / repo.url)
        self._lock = asyncio.Lock()

    async def starting_point(self, start_from: str | None) -> str:
        """
        Return the commit to start from: the one asked for, else the newest of the base branch.

        Raises StepFailed if it cannot be had, and Unavailable.
        """
        async with self._lock:
            await self._create()
            if start_from is None:
                return await self._fetch_base()
            if not await self._has(start_from):
                await self._fetch_all()
            if not await self._has(start_from):
                raise self._failed(
                    FailureClass.CONFIG,
                    f"commit {start_from}, to go on from, is not in {self._place} any more",
                )
            return start_from

    async def bundle(self, commit: str, have: Sequence[str]) -> bytes:
        """Return the commit with all that a host which has the commits `have` lacks."""
        ref = f"refs/reconciler/base/{commit}"
        await self._git("update-ref", ref, commit)
        known = [f"^{other}" for other in have if await self._has(other)]
        return (await self._git("bundle", "create", "-q", "-", ref, *known)).stdout

    async def check_base(self, base: str, start_from: str | None) -> None:
        """Raise StepFailed unless a workspace may have started from this commit; it is what its host says."""
        if not await self._has(base):
            await self.starting_point(start_from)
        if base == start_from:
            return
        if not await self._is_ancestor(base, f"refs/heads/{self.repo.base}"):
            raise self._failed(
                FailureClass.HOST,
                f"the workspace starts from {base}, which is not on {self.repo.base!r}; "
                "the branch was rewritten, or the host is not to be trusted",
            )

    async def receive(self, bundle: bytes, name: str) -> str:
        """
        Take in the commits of a bundle and return their head. Raises StepFailed if they are damaged.

        Not by `git fetch`, which (up to 2.45 at least) does not check what a bundle brings.
        """
        head, pack = self._opened(bundle)
        done = await git(self.folder, "index-pack", "--stdin", "--fix-thin", "--strict", stdin=pack)
        if done.code or not await self._has(head):
            raise self._failed(
                FailureClass.AGENT, f"the work is refused: {done.words or 'its head is missing'}"
            )
        await self._git("update-ref", f"refs/reconciler/done/{name}", head)
        return head

    def _opened(self, bundle: bytes) -> tuple[str, bytes]:
        match = _BUNDLE.match(bundle)
        if match is None:
            raise self._failed(FailureClass.AGENT, "the work is refused: it is no git bundle of one branch")
        return match["head"].decode(), bundle[match.end() :]

    async def check(self, base: str, head: str) -> int:
        """
        Return how many commits the work has.

        Raises StepFailed if it does not go on from `base`, or touches what the repo does not allow.
        """
        if not await self._is_ancestor(base, head):
            raise self._failed(
                FailureClass.AGENT,
                f"the work ({head}) does not go on from {base}; history must not be rewritten",
            )
        if self.repo.paths:
            await self._check_paths(base, head)
        return int((await self._git("rev-list", "--count", f"{base}..{head}")).text)

    async def deliver(self, head: str, branch: str, expected: str | None, push: Push | None = None) -> None:
        """
        Push the work to its branch, if that stands where we last left it (None: it never was there).

        One that is gone was merged or tidied away, and is made anew. `push`
        does it from elsewhere; what it did is looked at. Doing it again changes
        nothing. Raises StepFailed, and Unavailable.
        """
        if branch == self.repo.base:
            raise self._failed(FailureClass.CONFIG, f"work is never pushed onto the base branch {branch!r}")
        ref = f"refs/heads/{branch}"
        there = await self._look(ref)
        if there == head:
            return
        if there not in {None, expected}:
            raise self._failed(FailureClass.CONFIG, _taken(branch, there, expected))
        trouble = await (push or self._push)(head, ref, there)
        if not trouble and push is None:
            return
        there = await self._look(ref)
        if there == head:
            return
        if trouble:
            who = "the host's user" if push else _OURS
            raise self._trouble(f"cannot push {branch!r} to", trouble, who=who)
        raise self._failed(
            FailureClass.HOST,
            f"the host says that it pushed {head} to branch {branch!r}, which holds {there}; "
            "see where it pushes to",
        )

    async def merged(self, heads: Collection[str]) -> frozenset[str]:
        """Return those of the commits that are on the base branch by now. Raises StepFailed, Unavailable."""
        async with self._lock:
            await self._create()
            await self._fetch_base()
        base = f"refs/heads/{self.repo.base}"
        return frozenset([head for head in heads if await self._is_ancestor(head, base)])

    async def _push(self, head: str, ref: str, expected: str | None) -> str:
        lease = f"--force-with-lease={ref}:{expected or ''}"
        words = ("-q", "--no-verify", "--no-follow-tags", lease, "--", self.url, f"{head}:{ref}")
        done = await self._talk("push", *words)
        return done.words or f"git ended with {done.code}" if done.code else ""

    async def _check_paths(self, base: str, head: str) -> None:
        listed = await self._git("diff", "--name-only", "--no-renames", "-z", base, head)
        allowed = GitIgnoreSpec.from_lines(self.repo.paths)
        touched = [name.decode(errors="surrogateescape") for name in listed.stdout.split(b"\0") if name]
        wrong = [name for name in touched if not allowed.match_file(name)]
        if wrong:
            more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
            names = ", ".join(map(repr, wrong[:_NAMED])) + more
            raise self._failed(FailureClass.AGENT, f"the work touches {names}, outside of the repo's `paths`")

    async def _create(self) -> None:
        if not (self.folder / "HEAD").exists():
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            await self._git("init", "-q", "--bare", "--template=")

    async def _fetch_base(self) -> str:
        ref = f"refs/heads/{self.repo.base}"
        await self._fetch(f"+{ref}:{ref}")
        return (await self._git("rev-parse", f"{ref}^{{commit}}")).text

    async def _fetch_all(self) -> None:
        await self._fetch("--prune", "+refs/heads/*:refs/heads/*")

    async def _fetch(self, *words: str) -> None:
        *options, refspec = words
        done = await self._talk(
            "fetch", "-q", "--no-tags", "--no-write-fetch-head", *options, "--", self.url, refspec
        )
        if done.code:
            raise self._trouble("cannot fetch from", done.words)

    async def _look(self, ref: str) -> str | None:
        """Return the commit of a ref there; None if there is no such ref."""
        done = await self._talk("ls-remote", "--", self.url, ref)
        if done.code:
            raise self._trouble("cannot look at", done.words)
        pairs = (line.split("\t") for line in done.text.splitlines())
        return {name: commit for commit, name in pairs}.get(ref)

    async def _talk(self, *words: str) -> Done:
        return await git(self.folder, *words, remote=True, timeout=_NETWORK_TIMEOUT)

    async def _git(self, *words: str) -> Done:
        done = await git(self.folder, *words)
        if done.code:
            raise self._failed(
                FailureClass.HOST,
                f"git {words[0]} failed in {self.folder}: {done.words}; see whether our disk is full; "
                "the mirror may be removed, it is made again",
            )
        return done

    async def _has(self, commit: str) -> bool:
        return (await git(self.folder, "cat-file", "-e", f"{commit}^{{commit}}")).code == 0

    async def _is_ancestor(self, one: str, other: str) -> bool:
        return (await git(self.folder, "merge-base", "--is-ancestor", one, other)).code == 0

    @property
    def _place(self) -> str:
        return without_credentials(self.url)

    def _trouble(self, what: str, words: str, *, who: str = _OURS) -> Exception:
        message = f"repo {self.repo.name}: {what} {self._place}: {words}"
        if _NOT_ALLOWED.search(words):
            return StepFailed(FailureClass.AUTH, f"{message}; give {who} access")
        if _DECLINED.search(words):
            return StepFailed(FailureClass.CONFIG, f"{message}; the rules of the branch are set there")
        if _NOT_THERE.search(words):
            return StepFailed(FailureClass.CONFIG, f"{message}; mend `url` or `base` in its spec")
        return Unavailable(message)

    def _failed(self, kind: FailureClass, why: str) -> StepFailed:
        return StepFailed(kind, f"repo {self.repo.name}: {why}")


def _taken(branch: str, there: str | None, expected: str | None) -> str:
    if expected is None:
        return (
            f"branch {branch!r} is there already ({there}) and is not this task's; "
            "remove it, or choose another `branch_name`"
        )
    return f"somebody pushed {there} to branch {branch!r} after {expected} was delivered; it is left alone"
