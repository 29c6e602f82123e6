"""
Code repositories: a bare mirror of each on this machine.

Work starts from a commit of the mirror and comes back into it as a bundle; here
it is checked, and from here it is pushed. A host needs no credential for that.
"""

import asyncio
import logging
import os
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from itertools import chain, starmap
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from pathspec import GitIgnoreSpec

from reconciler.core.errors import NotFound, Unavailable
from reconciler.core.forge.merge_queue import MergeChain
from reconciler.core.leaks import Leak, commit_passage, find_leaks, patch_passages
from reconciler.core.masking import Mask
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Repo
from reconciler.core.text import without_credentials
from reconciler.dispatch.batching import Batches
from reconciler.dispatch.merging import MergeConflict, merge, rebase
from reconciler.dispatch.mirrors import make, remake, reset_settings
from reconciler.dispatch.retrying import StepFailed
from reconciler.dispatch.secret_gate import with_unpacked
from reconciler.git.catfile import CatFile, Receive
from reconciler.git.process import Git, GitFailed, GitResult
from reconciler.git.upkeep import is_crowded, keep_up

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_TIMEOUT = 600.0
"""Seconds for a command on the mirror."""
_NETWORK_TIMEOUT = 1800.0
"""Seconds; the first fetch of a large repository takes long."""
SILENCE = 60.0
"""Seconds without progress output after which a repository counts as unreachable."""
_PUSH_SILENCE = 300.0
"""The same after the work was sent: a forge then processes it without output."""
_MOMENT = 2.0
"""Seconds for which what was seen of the base branch there is taken for what it is now."""
_REST = 600.0
"""Seconds within which a mirror is rebuilt at most once: further damage has another cause."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[^/:\s]+:")
_NOT_ALLOWED = re.compile(
    r"authentication failed|could not read (?:username|password)|permission denied|host key verification"
    r"|returned error: 40[13]|access denied",
    re.IGNORECASE,
)
_AWAY = re.compile(
    r"unable to access '\w+://|could not resolve|connection (?:refused|reset|timed out|closed)"
    r"|network is unreachable|no route to host"
    r"|early eof|hung up|unexpected disconnect|rpc failed|timed out|returned error: (?:429|5\d\d)",
    re.IGNORECASE,
)
"""Git's messages when the connection to the repository failed."""
_DAMAGED_THERE = re.compile(
    r"repository corruption|stored in \./"
    r"|remote: (?:fatal|error): .{0,200}(?:corrupt|inflate|unable to (?:read|unpack))"
    r"|(?:unexpected line|bad config line \d+) in (?:file )?\./"
    r"|unknown repository extension|expected git repo version|invalid gitfile format",
    re.IGNORECASE,
)
"""Git's messages of a repository there that it cannot read; of one here they name the whole path."""
_NOT_OURS = "not our ref"
"""The repository there lacks a commit that it names: it is damaged, or one of several that lags behind."""
_NO_ROOM = re.compile(r"no space left|quota exceeded|read-only file system|input/output error", re.IGNORECASE)
_UNFIT = {
    "dubious ownership": "it belongs to another user than the reconciler's; let that user own it, or trust "
    "it with `git config --global --add safe.directory '{place}'` as the reconciler's user",
    "mismatched algorithms": "its objects are named by SHA-256, which a code repository here cannot have; "
    "name one in the SHA-1 format",
    "shallow roots": "it is shallow: a part of its history is missing; run `git fetch --unshallow` there, "
    "or name the repository that it was made from",
}
"""Permanent failures: part of git's message → what to do about it."""
_NOT_THERE = re.compile(
    r"not found|does not appear to be a git repository|does not exist|no such file|couldn't find remote ref"
    r"|not a git repository|transport .* not allowed|returned error: 4(?!07|08|25|29)\d\d",
    re.IGNORECASE,
)
_DECLINED = re.compile(r"rejected|declined|aborted by hook", re.IGNORECASE)
_BUNDLE = re.compile(rb"# v2 git bundle\n(?:-[0-9a-f]{40}[^\n]*\n)*(?P<head>[0-9a-f]{40}) [^\n]+\n\n")
_PATCH = (
    *("diff-tree", "--stdin", "--root", "-r", "-p", "--cc", "-U0", "--text", "--no-renames"),
    *("--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/"),
)
"""Every line that commits add, those of binary files too; see `core.leaks.patch_passages`."""
_UNKNOWN_SECRETS = (
    "the reconciler was started anew while the agent worked, and the secrets that it was given cannot be "
    "looked up any more: its work cannot be searched for them, so it is not delivered"
)
_NAMED = 3
_MOST_NAMES = 10
_MOST_DIFF = 1024 * 1024
"""Bytes of a diff that are shown."""
_MOST_COMMITS = 256
"""Names of commits that are kept in a mirror; each of git's fetches reads all of them."""
_OURS = "the reconciler's user"
_MOST_AT_GITLAB = 3
"""Branches in a push. For a push of more, GitLab sends no webhook, and begins no pipeline for the fifth."""


class _Delivery(NamedTuple):
    """A commit to be pushed to a ref."""

    ref: str
    head: str
    expected: str | None
    """Commit that the ref holds; None if it is not there."""


Push = Callable[[str, str, str | None], Awaitable[str]]
"""Pushes a commit to a ref that holds the commit expected; returns why it could not, empty if it could."""


def mirror_name(repo: str) -> str:
    """Return the name of the folder with the mirror of a repo."""
    return f"{repo.replace('/', '+')}.git"


def whole_url(url: str, fleet: Path) -> str:
    """Return where a code repository is; a path is relative to the fleet's repository."""
    return url if _ADDRESS.match(url) else str(fleet / url)


_Step = Callable[Concatenate["CodeRepository", P], Coroutine[Any, Any, T]]


def _with_rebuilt_mirror(step: _Step[P, T]) -> _Step[P, T]:
    """Retry a step once with a rebuilt mirror, if the mirror caused the failure."""

    @wraps(step)
    async def rebuilding(self: "CodeRepository", /, *args: P.args, **options: P.kwargs) -> T:
        before = self._remade
        await self._reset_settings()
        try:
            return await step(self, *args, **options)
        except GitFailed as damage:
            await self._rebuild_mirror(damage, before)
        try:
            return await step(self, *args, **options)
        except GitFailed as damage:
            raise self._not_rebuildable(damage) from damage

    return rebuilding


class CodeRepository:
    """
    The mirror of one repo.

    A damaged mirror is rebuilt: all of it can be fetched again.
    """

    def __init__(self, repo: Repo, *, mirrors: Path, fleet: Path, silence: float = SILENCE) -> None:
        self.repo = repo
        self.folder = mirrors / mirror_name(repo.name)
        self.url = whole_url(repo.url, fleet)
        self._git = Git.local(self.folder, timeout=_TIMEOUT)
        self._silence = silence
        self._lock = asyncio.Lock()
        self._listed = "", 0.0
        """Commit of the base branch there, and when it was seen."""
        self._remade = 0
        """How often the mirror was rebuilt."""
        self._rests_until = 0.0
        self._may_push = False
        """Whether a push was once seen to be allowed."""
        self._chain: tuple[tuple[object, ...], MergeChain] = (), MergeChain(base="")
        """The chain that was made last, and of what."""
        self._bundling = Counter[str]()
        """How many bundles are being made of a ref."""
        self._naming = asyncio.Lock()
        """Held while names for bundles are made, and while old names go."""
        self._listings = Batches[tuple[str, ...], Mapping[str, str]](self._list_all)
        self._pushes = Batches[_Delivery, bool](self._push_all)

    @_with_rebuilt_mirror
    async def newest(self) -> str:
        """Return the newest commit of the base branch. Raises StepFailed, and Unavailable."""
        async with self._lock:
            await self._create()
            return await self._fetch_base()

    @_with_rebuilt_mirror
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
                    f"commit {start_from}, to go on from, is not in {self.place} any more",
                )
            return start_from

    @_with_rebuilt_mirror
    async def find(self, branch: str) -> str | None:
        """
        Return the commit that a branch holds there; None if there is no such branch.

        It is brought here, and the base branch with it. Raises StepFailed, and Unavailable.
        """
        await self.newest()
        ref = f"refs/heads/{branch}"
        head = await self._look(ref)
        if head is not None:
            await self._fetch_commit(ref, head)
        return head

    @_with_rebuilt_mirror
    async def bundle(self, commits: Sequence[str], have: Sequence[str]) -> bytes:
        """Return the commits with all that a host which has the commits `have` lacks."""
        refs = [f"refs/reconciler/base/{commit}" for commit in commits]
        self._bundling.update(refs)
        try:
            async with self._naming:
                for ref, commit in zip(refs, commits, strict=True):
                    await self._git.run("update-ref", ref, commit)
            excluded = [f"^{other}" for other in have if await self._has(other)]
            return await self._git.run("bundle", "create", "-q", "-", *refs, *excluded)
        finally:
            self._bundling -= Counter(refs)  # which keeps no zeros

    @_with_rebuilt_mirror
    async def fork(self, head: str) -> str:
        """Return the commit at which work left the base branch. Raises StepFailed if it never was on it."""
        fork = await self._fork(head)
        if fork is None:
            raise self._failed(
                FailureClass.AGENT,
                f"the work ({head}) has no commit in common with {self.repo.base!r}; start from that branch",
            )
        return fork

    @_with_rebuilt_mirror
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

    @_with_rebuilt_mirror
    async def receive(self, bundle: bytes, name: str) -> str:
        """
        Import the commits of a bundle and return their head. Raises StepFailed if they are damaged.

        Not by `git fetch`, which (up to 2.45 at least) does not check what a bundle brings.
        """
        head, pack = self._opened(bundle)
        done = await self._git.attempt("index-pack", "--stdin", "--fix-thin", "--strict", stdin=pack)
        if done.code or not await self._has(head):
            await self._git.run("for-each-ref", "--count=1")  # fails if the mirror is damaged
            raise self._failed(
                FailureClass.AGENT, f"the work is refused: {done.message or 'its head is missing'}"
            )
        await self._git.run("update-ref", f"refs/reconciler/done/{name}", head)
        return head

    def _opened(self, bundle: bytes) -> tuple[str, bytes]:
        match = _BUNDLE.match(bundle)
        if match is None:
            raise self._failed(FailureClass.AGENT, "the work is refused: it is no git bundle of one branch")
        return match["head"].decode(), bundle[match.end() :]

    @_with_rebuilt_mirror
    async def check(self, base: str, head: str) -> int:
        """
        Return how many commits the work has; 0 if together they change nothing.

        Raises StepFailed if it does not go on from `base`, or touches what the repo does not allow.
        """
        if not await self._is_ancestor(base, head):
            raise self._failed(
                FailureClass.AGENT,
                f"the work ({head}) does not go on from {base}; history must not be rewritten",
            )
        if self.repo.paths:
            await self._check_paths(base, head)
        if not await self._changes(base, head):
            return 0
        # Of commits that came in by a merge of the base branch, the merge counts.
        return int(await self._git.run("rev-list", "--count", "--first-parent", f"{base}..{head}"))

    @_with_rebuilt_mirror
    async def leaks(self, base: str, head: str, mask: Mask, name: str) -> tuple[Leak, ...]:
        """
        Return the secrets in what the commits of the work add, be it removed again by a later one.

        `mask` has those that the run was given. Raises StepFailed if they are
        not known any more, unless the work of that name was searched before.
        """
        ref, gate = f"refs/reconciler/searched/{name}", self.repo.secret_gate
        if gate.own and mask.withheld:
            if await self._git.line("rev-parse", "-q", "--verify", ref, codes=(0, 1)) == head:
                return ()
            raise self._failed(FailureClass.HOST, _UNKNOWN_SECRETS)
        listed = await self._git.run("rev-list", head, "--not", base, self._base)
        patch = await self._git.run(*_PATCH, stdin=listed)
        commits: dict[str, bytes] = {}
        await self._read(listed.decode().split(), commits.__setitem__)
        leaks = await asyncio.to_thread(self._search, commits, patch, mask)
        if not leaks:
            await self._git.run("update-ref", ref, head)
        return leaks

    def _search(self, commits: Mapping[str, bytes], patch: bytes, mask: Mask) -> tuple[Leak, ...]:
        gate = self.repo.secret_gate
        return find_leaks(
            chain(starmap(commit_passage, commits.items()), with_unpacked(patch_passages(patch))),
            mask if gate.own else Mask(),
            formats=gate.formats,
            is_allowed=GitIgnoreSpec.from_lines(gate.allow).match_file,
        )

    @_with_rebuilt_mirror
    async def see_way_back(self, branch: str, expected: str | None) -> None:
        """
        Preflight check: raise StepFailed if work could not be pushed to its branch later.

        Called before an agent starts, which costs money; see `deliver`.
        """
        if branch == self.repo.base:
            raise self._onto_base(branch)
        async with self._lock:
            await self._create()
        there = await self._look_for(branch)
        if expected is None and there is not None:
            raise self._taken(branch, there, expected)
        if self.repo.push == "reconciler" and not self._may_push:
            await self._see_access(branch, there)
            self._may_push = True

    @_with_rebuilt_mirror
    async def deliver(
        self,
        head: str,
        branch: str,
        expected: str | None,
        push: Push | None = None,
        *,
        stack: str | None = None,
    ) -> str:
        """
        Push the work to its branch, if that is at our last delivery (None: it did not exist).

        Return the commit that the branch holds then: where the base branch has
        moved, another than `head` by the rule of the repo, unless it is on top of
        work (`stack`) that is not merged yet. A branch that is gone
        was merged or tidied away, and is made anew. `push` does it from
        elsewhere; its result is verified. Idempotent.
        Raises Clash, StepFailed, and Unavailable.
        """
        if branch == self.repo.base:
            raise self._onto_base(branch)
        # Git holds a push to what the branch is expected to hold: only why it refuses has to be looked at.
        is_ready = self.repo.base_moved == "leave" and push is None
        if is_ready and await self._pushes.add(_Delivery(f"refs/heads/{branch}", head, expected)):
            return head
        there = await self._look_for(branch)
        if there is not None and there != expected:
            if await self._is_ours(head, branch, there):
                return there
            raise self._taken(branch, there, expected)
        ready = head
        if self.repo.base_moved != "leave":
            newest = await self.newest()
            if stack is None or await self._is_ancestor(stack, newest):
                ready = await self._moved(head, branch, newest)
        if there != ready:
            await self._push_and_verify(ready, branch, expected, there, push)
        return ready

    async def close(self, branch: str, head: str) -> None:
        """Delete a branch that holds our delivery; one that was pushed to is left. Raises Unavailable."""
        async with self._lock:
            await self._create()
        ref = f"refs/heads/{branch}"
        if await self._look(ref) != head:
            return
        if (error := await self._push("", ref, head)) and await self._look(ref) == head:
            raise self._error(f"cannot delete {branch!r} in", error)

    async def diff(self, base: str, head: str) -> str:
        """
        Return what the work changes, as `git diff` prints it, its first megabyte.

        Nothing is fetched for it. Raises NotFound if one of the commits is not in the mirror.
        """
        for commit in (base, head):
            if not self.folder.is_dir() or not await self._has(commit):
                raise NotFound(
                    f"commit {commit[:10]} of {self.repo.name} is not on the reconciler's machine; "
                    f"it is at {without_credentials(self.url)}, if anywhere"
                )
        return (await self._git.diff(base, head))[:_MOST_DIFF].decode("utf-8", "replace")

    @_with_rebuilt_mirror
    async def merged(self, heads: Collection[str]) -> frozenset[str]:
        """Return those of the commits that are on the base branch by now. Raises StepFailed, Unavailable."""
        await self.newest()
        return frozenset([head for head in heads if await self._is_ancestor(head, self._base)])

    @_with_rebuilt_mirror
    async def merge_chain(self, heads: Sequence[tuple[str, str]]) -> MergeChain:
        """
        Merge heads (branch and commit) onto the newest base, one after another, up to a conflict.

        Nothing is pushed, and no file is checked out. The same heads on the same base are the
        same commits. Raises StepFailed, and Unavailable.
        """
        base = await self.newest()
        made_of = (self._remade, base, *heads)
        if self._chain[0] == made_of:
            return self._chain[1]
        absent = {head for branch, head in heads if not await self._has_or_fetches(branch, head)}
        there = [(branch, head) for branch, head in heads if head not in absent]
        landed = {head for _, head in there if await self._is_ancestor(head, base)}
        commits, conflicts = await self._merge_all(base, [each for each in there if each[1] not in landed])
        await self._git.run("update-ref", "refs/reconciler/queue", [base, *commits][-1])  # keeps them here
        chain = MergeChain(
            base=base,
            commits=tuple(commits),
            conflicts=tuple(conflicts),
            landed=frozenset(landed),
            absent=frozenset(absent),
        )
        if not absent:
            self._chain = made_of, chain
        return chain

    async def _merge_all(
        self, base: str, heads: Sequence[tuple[str, str]]
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Return the commit after each head, and the files in which the next one conflicts."""
        commits = [base]
        for branch, head in heads:
            message = f"Merge branch {branch!r} into {self.repo.base}"
            try:
                commits.append(await merge(self._git, commits[-1], head, message))
            except MergeConflict as error:
                return commits[1:], error.files
        return commits[1:], ()

    async def _has_or_fetches(self, branch: str, head: str) -> bool:
        """Return whether a commit is here; it is fetched if its branch still holds it."""
        ref = f"refs/heads/{branch}"
        if not await self._has(head) and await self._look(ref) == head:
            await self._fetch_commit(ref, head)
        return await self._has(head)

    @_with_rebuilt_mirror
    async def land(self, commit: str, base: str) -> bool:
        """
        Let the base branch hold a commit that descends from what it holds; False if that is not `base`.

        Raises StepFailed if it may not be pushed, and Unavailable.
        """
        error = await self._push(commit, self._base, base)
        now = await self._look(self._base) if error else commit
        if now == base:
            raise self._error(f"cannot push {self.repo.base!r} to", error)
        if now == commit:
            await self._git.run("update-ref", self._base, commit)  # it may be asked of before the next fetch
        return now == commit

    async def _is_ours(self, head: str, branch: str, there: str) -> bool:
        """
        Return whether the branch holds the delivered work already.

        It was delivered then, and we fell before we could say so: on the base
        of that time the same work gives the same commit.
        """
        if there == head or self.repo.base_moved == "leave":
            return there == head
        await self.newest()
        await self._fetch_commit(f"refs/heads/{branch}", there)
        fork = await self._fork(there)
        with suppress(MergeConflict):
            return fork is not None and there == await self._moved(head, branch, fork)
        return False

    async def _moved(self, head: str, branch: str, base: str) -> str:
        """Return the work rebased on, or merged with, a commit of the base branch, as the repo says."""
        if await self._is_ancestor(base, head) or await self._is_ancestor(head, base):
            return head
        replayed = await rebase(self._git, head, base) if self.repo.base_moved == "rebase" else None
        message = f"Merge branch {self.repo.base!r} into {branch}"
        return replayed or await merge(self._git, head, base, message)

    async def _push_and_verify(
        self, commit: str, branch: str, expected: str | None, there: str | None, push: Push | None
    ) -> None:
        """Push a commit to a branch that was seen at `there`, and verify the result."""
        ref = f"refs/heads/{branch}"
        error = await (push or self._push)(commit, ref, there)
        if not error and push is None:
            return
        now = await self._look(ref)
        if now == commit:
            return
        if error and now is not None and now != there:
            raise self._taken(branch, now, expected)
        if error:
            await self._look_for(branch)  # a conflicting branch name may have appeared meanwhile
            who = "the host's user" if push else _OURS
            raise self._error(f"cannot push {branch!r} to", error, who=who)
        raise self._failed(
            FailureClass.HOST,
            f"the host says that it pushed {commit} to branch {branch!r}, which holds {now}; "
            "see where it pushes to",
        )

    async def _push(self, head: str, ref: str, expected: str | None, *options: str) -> str:
        return await self._push_together([_Delivery(ref, head, expected)], *options)

    async def _push_all(self, deliveries: Sequence[_Delivery]) -> bool:
        """
        Push work to its branches; return whether all of them were pushed. Raises Unavailable for one alone.

        A push that is never answered may be for one of them: it must not take the others with it each time.
        """
        most = _MOST_AT_GITLAB if self._is_at_gitlab else len(deliveries)
        lots = [deliveries[at : at + most] for at in range(0, len(deliveries), most)]
        try:
            return not any([await self._push_together(lot) for lot in lots])
        except Unavailable:
            if len(deliveries) == 1:
                raise
            return False

    async def _push_together(self, deliveries: Sequence[_Delivery], *options: str) -> str:
        """Push commits to refs; return why not all of them were pushed, empty if they were."""
        args = (
            "--progress",
            "--no-verify",
            "--no-follow-tags",
            *options,
            *(f"--force-with-lease={each.ref}:{each.expected or ''}" for each in deliveries),
            "--",
            self.url,
            *(f"{each.head}:{each.ref}" for each in deliveries),
        )
        done = await self._run_network("push", *args, silence=max(self._silence, _PUSH_SILENCE))
        return done.message or f"git ended with {done.code}" if done.code else ""

    async def _look_for(self, branch: str) -> str | None:
        """
        Return the commit of a branch there; None if it is not there.

        Raises StepFailed if it conflicts with another branch: git keeps a branch as a file, not as a folder.
        """
        parents = [branch[:at] for at, letter in enumerate(branch) if letter == "/"]
        names = (branch, *parents, f"{branch}/*", self.repo.base)
        heads = await self._list(*(f"refs/heads/{name}" for name in names))
        self._listed = heads.get(self._base, ""), asyncio.get_running_loop().time()
        below = f"refs/heads/{branch}/"
        rivals = [name for name in parents if f"refs/heads/{name}" in heads]
        rivals += sorted(ref.removeprefix("refs/heads/") for ref in heads if ref.startswith(below))
        if rivals:
            raise self._failed(
                FailureClass.CONFIG,
                f"branch {rivals[0]!r} is there, and git cannot have {branch!r} beside it; "
                "rename or remove that branch, or choose another `branch_name`",
            )
        return heads.get(f"refs/heads/{branch}")

    async def _see_access(self, branch: str, there: str | None) -> None:
        """Raise StepFailed if we may not push; tried with a dry run."""
        place = Path(self.url)
        for folder in (place, place / ".git"):
            if (folder / "objects").is_dir() and not os.access(folder / "objects", os.W_OK):
                raise self._failed(
                    FailureClass.AUTH, f"{_OURS} may not write to {folder}; give {_OURS} access"
                )
        error = await self._push(await self._known_base(), f"refs/heads/{branch}", there, "--dry-run")
        if error:
            raise self._error(f"cannot push {branch!r} to", error)

    async def _known_base(self) -> str:
        """Return the base branch as the mirror has it, or has it now."""
        return await self._base_here() or await self.newest()

    async def _check_paths(self, base: str, head: str) -> None:
        """Raise StepFailed for changes outside the allowed paths; merged ones of the base do not count."""
        touched, fork = await self._changed(base, head), await self.fork(head)
        if not await self._is_ancestor(fork, base):
            touched &= await self._changed(fork, head)
        allowed = GitIgnoreSpec.from_lines(self.repo.paths)
        wrong = sorted(name for name in touched if not allowed.match_file(name))
        if wrong:
            more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
            names = ", ".join(map(repr, wrong[:_NAMED])) + more
            raise self._failed(FailureClass.AGENT, f"the work touches {names}, outside of the repo's `paths`")

    async def _changes(self, base: str, head: str) -> bool:
        """Return whether the work leaves other files than it got, or brings a branch up to date."""
        fork = await self._fork(head)
        if fork is not None and await self._is_ancestor(base, fork):
            return not await self._same_files(head, fork)
        return not await self._same_files(head, base) or fork != await self._fork(base)

    async def _same_files(self, one: str, other: str) -> bool:
        trees = await self._git.run("rev-parse", f"{one}^{{tree}}", f"{other}^{{tree}}")
        return len(set(trees.split())) == 1

    async def _fork(self, head: str) -> str | None:
        return await self._git.line("merge-base", self._base, head, codes=(0, 1)) or None

    async def _changed(self, old: str, new: str) -> set[str]:
        listed = await self._git.run("diff", "--name-only", "--no-renames", "-z", old, new)
        return {name.decode(errors="surrogateescape") for name in listed.split(b"\0") if name}

    async def tidy(self, is_needed: Callable[[str], bool]) -> None:
        """
        Join packs of the mirror if there are many, and drop names of what is over; no object goes.

        `is_needed` tells of the id of a round whether its task is open.
        Raises StepFailed, Unavailable, OSError.
        """
        await self._reset_settings()
        if not (self.folder / "HEAD").exists():
            return
        old = [*await self._named_rounds(is_needed), *await self._old_commits()]
        async with self._naming:
            lines = "".join(f"delete {ref}\n" for ref in old if not self._bundling[ref])
            await self._git.run("update-ref", "--stdin", stdin=lines.encode())
        if is_crowded(self.folder):
            await keep_up(self._git, self.folder, graph=False)

    async def _named_rounds(self, is_needed: Callable[[str], bool]) -> list[str]:
        """Return the names of work of rounds that is delivered, or given up."""
        refs = await self._git.line(
            "for-each-ref", "--format=%(refname)", "refs/reconciler/done", "refs/reconciler/searched"
        )
        return [ref for ref in refs.split() if not is_needed(ref.rpartition("/")[2])]

    async def _old_commits(self) -> list[str]:
        """Return the names of commits that runs began with, but for those that a host may still offer."""
        of = ("refs/reconciler/base", "refs/reconciler/seen")
        refs = await self._git.line("for-each-ref", "--sort=-creatordate", "--format=%(refname)", *of)
        return refs.split()[_MOST_COMMITS:]

    async def _create(self) -> None:
        if (self.folder / "HEAD").exists():
            return
        if self.folder.exists() or self.folder.is_symlink():
            raise GitFailed("it has no HEAD")
        try:
            await make(self.folder)
        except OSError as error:
            raise self._not_rebuildable(error) from error

    async def _rebuild_mirror(self, damage: GitFailed, remade: int) -> None:
        """Rebuild the mirror, unless somebody else did since it was the `remade`th."""
        async with self._lock:
            if self._remade != remade:
                return
            clock = asyncio.get_running_loop().time
            if clock() < self._rests_until:
                raise self._not_rebuildable(damage)
            log.warning(
                "repo %s: the mirror %s is damaged and made again: %s", self.repo.name, self.folder, damage
            )
            self._rests_until = clock() + _REST
            self._remade += 1
            try:
                await remake(self.folder, self._base)
            except OSError as error:
                raise self._not_rebuildable(error) from error

    async def _reset_settings(self) -> None:
        """Drop settings that somebody put into the mirror: git would run what they name."""
        try:
            if await asyncio.to_thread(reset_settings, self.folder):
                log.warning(
                    "repo %s: somebody changed settings of the mirror %s; they are dropped",
                    self.repo.name,
                    self.folder,
                )
        except OSError as error:
            raise self._not_rebuildable(error) from error

    def _not_rebuildable(self, why: Exception) -> StepFailed:
        return self._failed(
            FailureClass.HOST,
            f"the mirror {self.folder} cannot be worked in: {why}; see whether our disk is full, "
            "and who may write there",
        )

    async def _fetch_base(self) -> str:
        """Return the newest commit of the base branch, fetched unless it was seen to be here this moment."""
        head, at = self._listed
        is_news = asyncio.get_running_loop().time() - at < _MOMENT
        if head and is_news and head == await self._base_here():
            return head
        await self._fetch(f"+{self._base}:{self._base}")
        return await self._git.line("rev-parse", f"{self._base}^{{commit}}")

    async def _base_here(self) -> str:
        """Return the commit of the base branch in the mirror; empty if there is none."""
        return await self._git.line("rev-parse", "-q", "--verify", f"{self._base}^{{commit}}", codes=(0, 1))

    async def _fetch_all(self) -> None:
        await self._fetch("--prune", "+refs/heads/*:refs/heads/*")

    async def _fetch_commit(self, ref: str, commit: str) -> None:
        """Fetch the commit that a ref there was seen to hold."""
        async with self._lock:
            if not await self._has(commit):
                await self._fetch(f"+{ref}:refs/reconciler/seen/{commit}")
            if not await self._has(commit):
                raise Unavailable(f"repo {self.repo.name}: {ref} moved from {commit} while it was fetched")

    async def _fetch(self, *args: str) -> None:
        *options, refspec = args
        flags = ("--progress", "--no-tags", "--no-write-fetch-head", *options)
        done = await self._run_network("fetch", *flags, "--", self.url, refspec)
        if not done.code and "shallow roots" not in done.message:  # git only warns about those
            return
        error = self._error("cannot fetch from", done.message)
        if (
            any(sign in done.message for sign in (*_UNFIT, _NOT_OURS))
            or _DAMAGED_THERE.search(done.message)
            or _AWAY.search(done.message)
            or _NO_ROOM.search(done.message)
        ):
            raise error
        # Ask the remote without the mirror: if that works, the mirror is damaged.
        source = refspec.lstrip("+").partition(":")[0]
        if source not in await self._list(source) and "*" not in source:
            raise await self._no_base() if source == self._base else error
        raise GitFailed(done.message)

    async def _no_base(self) -> StepFailed:
        """Return the failure of a repository without the base branch, with those that are there."""
        there = [name.removeprefix("refs/heads/") for name in await self._list("refs/heads/*")]
        if not there:
            # For git, a page of a proxy or a login is an empty repository, too.
            other = ", or see what answers at that address" if self.repo.url.startswith("http") else ""
            return self._failed(
                FailureClass.CONFIG, f"{self.place} is empty; push a first commit to it{other}"
            )
        why = f"there is no branch {self.repo.base!r} at {self.place}, only {', '.join(there[:_MOST_NAMES])}"
        return self._failed(FailureClass.CONFIG, f"{why}; name the right one as `base` in its spec")

    async def _list(self, *refs: str) -> Mapping[str, str]:
        """Return the commits of refs that are there, those of these among them, by full name."""
        return await self._listings.add(refs)

    async def _list_all(self, questions: Sequence[tuple[str, ...]]) -> Mapping[str, str]:
        """Return the commits of those of the refs that are there, by full name."""
        refs = dict.fromkeys(chain.from_iterable(questions))
        done = await self._run_network("ls-remote", "--", self.url, *refs, mirror=False)
        if done.code:
            raise self._error("cannot look at", done.message)
        pairs = (line.split("\t") for line in done.text.splitlines())
        return {name: commit for commit, name in pairs}

    async def _look(self, ref: str) -> str | None:
        """Return the commit of a ref there; None if there is no such ref."""
        return (await self._list(ref)).get(ref)

    async def _run_network(self, *args: str, silence: float | None = None, mirror: bool = True) -> GitResult:
        """Run a git network command, in the mirror or outside any repository, with a limit on silence."""
        if mirror:
            await self._reset_settings()
        git = Git.networked(self.folder) if mirror else Git.nowhere()
        silence = silence or self._silence
        try:
            return await git.attempt(*args, timeout=_NETWORK_TIMEOUT, silence=silence)
        except Unavailable as error:
            raise Unavailable(f"repo {self.repo.name}: {self.place} does not answer: {error}") from error

    async def _read(self, commits: Sequence[str], receive: Receive) -> None:
        files = CatFile(self._git)
        try:
            await files.read(commits, receive)
        finally:
            await files.close()

    async def _has(self, commit: str) -> bool:
        return (await self._git.attempt("cat-file", "-e", f"{commit}^{{commit}}")).code == 0

    async def _is_ancestor(self, one: str, other: str) -> bool:
        done = await self._git.attempt("merge-base", "--is-ancestor", one, other)
        if done.code > 1 and await self._has(one):
            raise GitFailed(f"git merge-base failed ({done.code}): {done.message}")
        return done.code == 0

    @property
    def _base(self) -> str:
        return f"refs/heads/{self.repo.base}"

    @property
    def _is_at_gitlab(self) -> bool:
        forge = self.repo.forge
        return "gitlab" in self.repo.url or (forge is not None and forge.kind == "gitlab")

    @property
    def place(self) -> str:
        """Its address, without credentials."""
        return without_credentials(self.url)

    def _error(self, what: str, reason: str, *, who: str = _OURS) -> Exception:
        message = f"repo {self.repo.name}: {what} {self.place}: {reason}"
        if remedy := next((remedy for sign, remedy in _UNFIT.items() if sign in reason), None):
            return StepFailed(FailureClass.CONFIG, f"{message}; {remedy.format(place=self.place)}")
        is_near = not _ADDRESS.match(self.repo.url) or self.repo.url.startswith("file:")
        if _DAMAGED_THERE.search(reason) or (is_near and _NOT_OURS in reason):
            remedy = "it is damaged there, or not made for the git here; see what `git fsck` says in it"
            return StepFailed(FailureClass.CONFIG, f"{message}; {remedy}")
        if _NOT_ALLOWED.search(reason):
            return StepFailed(FailureClass.AUTH, f"{message}; give {who} access")
        if _DECLINED.search(reason):
            return StepFailed(FailureClass.CONFIG, f"{message}; the rules of the branch are set there")
        if _NOT_THERE.search(reason):
            return StepFailed(FailureClass.CONFIG, f"{message}; fix `url` or `base` in its spec")
        return Unavailable(message)

    def _onto_base(self, branch: str) -> StepFailed:
        return self._failed(FailureClass.CONFIG, f"work is never pushed onto the base branch {branch!r}")

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
