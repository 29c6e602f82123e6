"""
Code repositories, as this machine knows them: a bare mirror of each.

Work starts from a commit of the mirror and comes back into it as a bundle; here
it is checked, and from here it is pushed. A host needs no credential for that.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from pathspec import GitIgnoreSpec

from reconciler.core.errors import Unavailable
from reconciler.core.model import FailureClass, Repo
from reconciler.dispatch.git import Done, git, without_credentials
from reconciler.dispatch.merging import Clash, merge, rebase
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


def whole_url(url: str, fleet: Path) -> str:
    """Return where a code repository is; a path is relative to the fleet's repository."""
    return url if _ADDRESS.match(url) else str(fleet / url)


class CodeRepository:
    """The mirror of one repo."""

    def __init__(self, repo: Repo, *, mirrors: Path, fleet: Path) -> None:
        self.repo = repo
        self.folder = mirrors / f"{repo.name.replace('/', '+')}.git"
        self.url = whole_url(repo.url, fleet)
        self._lock = asyncio.Lock()

    async def newest(self) -> str:
        """Return the newest commit of the base branch. Raises StepFailed, and Unavailable."""
        async with self._lock:
            await self._create()
            return await self._fetch_base()

    async def starting_point(self, start_from: str | None) -> str:
        """
        Return the commit to start from: the one asked for, else the newest of the base branch.

        Raises StepFailed if it cannot be had, and Unavailable.
        """
        if start_from is None:
            return await self.newest()
        async with self._lock:
            await self._create()
            if not await self._has(start_from):
                await self._fetch_all()
            if not await self._has(start_from):
                raise self._failed(
                    FailureClass.CONFIG,
                    f"commit {start_from}, to go on from, is not in {self._place} any more",
                )
            return start_from

    async def find(self, branch: str) -> str | None:
        """
        Return the commit that a branch holds there; None if there is no such branch.

        It is brought here, and the base branch with it. Raises StepFailed, and Unavailable.
        """
        await self.newest()
        ref = f"refs/heads/{branch}"
        head = await self._look(ref)
        if head is not None:
            await self._bring(ref, head)
        return head

    async def bundle(self, commits: Sequence[str], have: Sequence[str]) -> bytes:
        """Return the commits with all that a host which has the commits `have` lacks."""
        refs = [f"refs/reconciler/base/{commit}" for commit in commits]
        for ref, commit in zip(refs, commits, strict=True):
            await self._git("update-ref", ref, commit)
        known = [f"^{other}" for other in have if await self._has(other)]
        return (await self._git("bundle", "create", "-q", "-", *refs, *known)).stdout

    async def fork(self, head: str) -> str:
        """Return the commit at which work left the base branch. Raises StepFailed if it never was on it."""
        fork = await self._fork(head)
        if fork is None:
            raise self._failed(
                FailureClass.AGENT,
                f"the work ({head}) has no commit in common with {self.repo.base!r}; start from that branch",
            )
        return fork

    async def check_base(self, base: str, start_from: str | None) -> None:
        """Raise StepFailed unless a workspace may have started from this commit; it is what its host says."""
        if not await self._has(base):
            await self.starting_point(start_from)
        if base == start_from:
            return
        if not await self._is_ancestor(base, self._base):
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
        # Of commits that came in by a merge of the base branch, the merge counts.
        return int((await self._git("rev-list", "--count", "--first-parent", f"{base}..{head}")).text)

    async def deliver(self, head: str, branch: str, expected: str | None, push: Push | None = None) -> str:
        """
        Push the work to its branch, if that stands where we last left it (None: it never was there).

        Return the commit that the branch holds then: where the base branch has
        moved, another than `head` by the rule of the repo. A branch that is gone
        was merged or tidied away, and is made anew. `push` does it from
        elsewhere; what it did is looked at. Doing it again changes nothing.
        Raises Clash, StepFailed, and Unavailable.
        """
        if branch == self.repo.base:
            raise self._failed(FailureClass.CONFIG, f"work is never pushed onto the base branch {branch!r}")
        there = await self._look(f"refs/heads/{branch}")
        if there is not None and there != expected:
            if await self._is_ours(head, branch, there):
                return there
            raise self._taken(branch, there, expected)
        ready = head
        if self.repo.base_moved != "leave":
            ready = await self._moved(head, branch, await self.newest())
        if there != ready:
            await self._bring_out(ready, branch, expected, there, push)
        return ready

    async def merged(self, heads: Collection[str]) -> frozenset[str]:
        """Return those of the commits that are on the base branch by now. Raises StepFailed, Unavailable."""
        await self.newest()
        return frozenset([head for head in heads if await self._is_ancestor(head, self._base)])

    async def _is_ours(self, head: str, branch: str, there: str) -> bool:
        """
        Return whether the branch holds what was made of the work.

        It was delivered then, and we fell before we could say so: on the base
        of that time the same work gives the same commit.
        """
        if there == head or self.repo.base_moved == "leave":
            return there == head
        await self.newest()
        await self._bring(f"refs/heads/{branch}", there)
        fork = await self._fork(there)
        with suppress(Clash):
            return fork is not None and there == await self._moved(head, branch, fork)
        return False

    async def _moved(self, head: str, branch: str, base: str) -> str:
        """Return the work as it stands on a commit of the base branch, by the rule of the repo."""
        if await self._is_ancestor(base, head) or await self._is_ancestor(head, base):
            return head
        replayed = await rebase(self._git, head, base) if self.repo.base_moved == "rebase" else None
        message = f"Merge branch {self.repo.base!r} into {branch}"
        return replayed or await merge(self._git, head, base, message)

    async def _bring_out(
        self, commit: str, branch: str, expected: str | None, there: str | None, push: Push | None
    ) -> None:
        """Push a commit to a branch that was seen `there`, and see whether it came through."""
        ref = f"refs/heads/{branch}"
        trouble = await (push or self._push)(commit, ref, there)
        if not trouble and push is None:
            return
        now = await self._look(ref)
        if now == commit:
            return
        if trouble and now is not None and now != there:
            raise self._taken(branch, now, expected)
        if trouble:
            who = "the host's user" if push else _OURS
            raise self._trouble(f"cannot push {branch!r} to", trouble, who=who)
        raise self._failed(
            FailureClass.HOST,
            f"the host says that it pushed {commit} to branch {branch!r}, which holds {now}; "
            "see where it pushes to",
        )

    async def _push(self, head: str, ref: str, expected: str | None) -> str:
        lease = f"--force-with-lease={ref}:{expected or ''}"
        words = ("-q", "--no-verify", "--no-follow-tags", lease, "--", self.url, f"{head}:{ref}")
        done = await self._talk("push", *words)
        return done.words or f"git ended with {done.code}" if done.code else ""

    async def _check_paths(self, base: str, head: str) -> None:
        """Raise StepFailed for files that work must leave alone; what a merge brought in is not its own."""
        touched, fork = await self._changed(base, head), await self.fork(head)
        if not await self._is_ancestor(fork, base):
            touched &= await self._changed(fork, head)
        allowed = GitIgnoreSpec.from_lines(self.repo.paths)
        wrong = sorted(name for name in touched if not allowed.match_file(name))
        if wrong:
            more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
            names = ", ".join(map(repr, wrong[:_NAMED])) + more
            raise self._failed(FailureClass.AGENT, f"the work touches {names}, outside of the repo's `paths`")

    async def _fork(self, head: str) -> str | None:
        return (await self._git("merge-base", self._base, head, expected=(0, 1))).text or None

    async def _changed(self, old: str, new: str) -> set[str]:
        listed = await self._git("diff", "--name-only", "--no-renames", "-z", old, new)
        return {name.decode(errors="surrogateescape") for name in listed.stdout.split(b"\0") if name}

    async def _create(self) -> None:
        if not (self.folder / "HEAD").exists():
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            await self._git("init", "-q", "--bare", "--template=")

    async def _fetch_base(self) -> str:
        await self._fetch(f"+{self._base}:{self._base}")
        return (await self._git("rev-parse", f"{self._base}^{{commit}}")).text

    async def _fetch_all(self) -> None:
        await self._fetch("--prune", "+refs/heads/*:refs/heads/*")

    async def _bring(self, ref: str, commit: str) -> None:
        """Fetch the commit that a ref there was seen to hold."""
        async with self._lock:
            if not await self._has(commit):
                await self._fetch(f"+{ref}:refs/reconciler/seen/{commit}")
            if not await self._has(commit):
                raise Unavailable(f"repo {self.repo.name}: {ref} moved from {commit} while it was fetched")

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

    async def _git(self, *words: str, stdin: bytes = b"", expected: Sequence[int] = (0,)) -> Done:
        done = await git(self.folder, *words, stdin=stdin)
        if done.code not in expected:
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
    def _base(self) -> str:
        return f"refs/heads/{self.repo.base}"

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

    def _taken(self, branch: str, there: str, expected: str | None) -> StepFailed:
        if expected is None:
            return self._failed(
                FailureClass.CONFIG,
                f"branch {branch!r} is there already ({there}) and is not this task's; "
                "remove it, or choose another `branch_name`",
            )
        return self._failed(
            FailureClass.CONFIG,
            f"somebody pushed {there} to branch {branch!r} after {expected} was delivered; it is left alone",
            touched=there,
        )

    def _failed(self, kind: FailureClass, why: str, *, touched: str | None = None) -> StepFailed:
        return StepFailed(kind, f"repo {self.repo.name}: {why}", touched=touched)
