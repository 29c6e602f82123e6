"""
Workspaces on a host: where agents work, and from where their work is fetched.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from reconciler.core.errors import Refused, Unavailable
from reconciler.core.masking import Mask
from reconciler.core.model.runs import Check, FailureClass, RunRequest
from reconciler.core.text import both_ends, one_line, without_credentials
from reconciler.dispatch.protocol import agent_id, batches, folder_name
from reconciler.dispatch.repos import CodeRepository
from reconciler.dispatch.retrying import StepFailed
from reconciler.dispatch.scripts import Following, Scripts

_LONG = 1800.0
"""Seconds; for a step that writes or reads a whole repository."""
_BUNDLE_LIMIT = 512 * 1024 * 1024
_NEED = "S need"
_FAULT = b"S fault "
_UNFIT = b"S unfit "
_UNFINISHED = b"S unfinished\n"
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A workspace; paths are absolute and of the host."""

    base: str | None
    """Commit it started from; None without a repo."""
    folder: str
    run_folder: str
    """Of the agent's run."""

    @property
    def fleet(self) -> str:
        """Folder of this fleet on the host."""
        return self.run_folder.rpartition("/runs/")[0]


@dataclass(frozen=True, slots=True)
class Collected:
    """The committed work of a round."""

    base: str
    head: str


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An unfinished git operation that the agent left, so that its work cannot be delivered."""

    lines: tuple[str, ...]

    def withheld(self, mask: Mask) -> "Unfinished":
        """Return the same without secrets: the agent chose the names in it."""
        return Unfinished(tuple(map(mask.withhold, self.lines)))

    def check(self) -> Check:
        """Return it as a failed check: the agent gets it back like a failed validation."""
        return Check(
            command="git status",
            exit_code=1,
            seconds=0.0,
            output="\n".join(("The work was left unfinished:", *self.lines)),
            summary=f"the work was left unfinished: {self.lines[0]}",
        )


class Workspaces:
    """
    The workspaces of one fleet on one host, below the folder `fleet` (a word of a command line).

    `shares_mirrors`: the host is this machine, and reads our own mirrors.
    """

    def __init__(self, scripts: Scripts, *, fleet: str, shares_mirrors: bool) -> None:
        self._scripts = scripts
        self._fleet = fleet
        self._shares_mirrors = shares_mirrors
        self.patience = _LONG
        self._feeding: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Serializes sending commits: many runs that start at once need the same ones."""
        self._sizes: dict[str, int] = {}
        """Cache of measured sizes."""

    async def find(self, order: RunRequest) -> Prepared:
        """Return the workspace of a run, as it is. Raises Refused and Unavailable."""
        return self._prepared((await self._call("find", *_names(order))).decode())

    async def prepare(self, order: RunRequest, repository: CodeRepository | None) -> Prepared:
        """
        Make the workspace of a run, or clean it for its next round.

        Nothing is touched once the agent of the round was started. Raises
        StepFailed, Refused and Unavailable.
        """
        keep = "keep" if order.keeps_work else ""
        if repository is None:
            lines = _without_repo(order)
            return self._prepared((await self._call("prepare", *_names(order), stdin=lines)).decode())
        newest = await repository.newest()
        commit = newest if order.start_from is None else await repository.starting_point(order.start_from)
        mirror, upstream = self._mirror(repository), repository.repo.base
        lines = _lines(order.adapter.name, mirror, order.branch, commit, upstream, newest, keep, order.mode)
        commits = (commit, newest)
        return self._prepared(
            await self._call_fed(
                "prepare", *_names(order), stdin=lines, repository=repository, commits=commits
            )
        )

    def preparation(self, order: RunRequest, lines: Sequence[str]) -> Following:
        """Return the call that prepares a workspace without a repo, after an answer with such a last line."""
        args = ("prepare", self._fleet, *_names(order))
        return Following(lines, "workspace", args, _without_repo(order))

    def read_prepared(self, answer: bytes) -> Prepared | None:
        """Return the workspace that such a call has made; None if it did not, or was not made."""
        with suppress(Unavailable, KeyError, ValueError):
            return self._prepared(answer.decode())
        return None

    async def write(self, order: RunRequest, files: Mapping[str, str]) -> None:
        """
        Write the files of a round, by their paths as in specs; each text ends with a line end.

        Writing them again is writing them once. Raises StepFailed for a path that cannot be had
        in this repository, Refused and Unavailable.
        """
        lines = "".join(f"{text.count(chr(10))} {path}\n{text}" for path, text in files.items())
        await self._call("write", *_names(order), stdin=lines.encode())

    async def discard(self, agents: Iterable[str]) -> None:
        """Remove the files of rounds, by the ids of their agents. Raises Refused and Unavailable."""
        for some in batches(agents):
            await self._call("discard", *some)

    async def undo(self, order: RunRequest, repository: CodeRepository) -> None:
        """
        Take back all that a round did to a workspace which it found clean, commits too.

        Doing it again changes nothing. Raises StepFailed, Refused and Unavailable.
        """
        lines = _lines(order.adapter.name, self._mirror(repository), order.branch)
        await self._call("undo", *_names(order), stdin=lines)

    async def take_up(self, order: RunRequest, repository: CodeRepository) -> Collected | Unfinished:
        """
        Commit what the agent left uncommitted and return all its work, or what prevents that.

        What git was in the middle of is looked at before anything is committed.
        Raises StepFailed if there is no repository to commit in, Refused and Unavailable.
        """
        left_out = [path for path in order.adapter.cleanup if "\n" not in path]
        mirror = self._mirror(repository)
        lines = [order.adapter.name, mirror, str(len(left_out)), *left_out, order.commit_message]
        answer = await self._call_bounded("take", *_names(order), stdin="\n".join(lines).encode())
        if answer.startswith(_UNFINISHED):
            problems = answer.removeprefix(_UNFINISHED).decode(errors="replace").splitlines()
            return Unfinished(tuple(one_line(line) for line in problems))
        message = answer.decode().split()
        return Collected(self._commit(message[2]), self._commit(message[3]))

    async def bundle(self, order: RunRequest, repository: CodeRepository, base: str) -> bytes:
        """Return the commits of the round as a git bundle. Raises StepFailed, Refused and Unavailable."""
        mirror = _lines(self._mirror(repository))
        answer = await self._call_bounded("bundle", *_names(order), base, stdin=mirror)
        head, _, bundle = answer.partition(b"\n")
        size = int(head.split()[2])
        if size > _BUNDLE_LIMIT:
            raise StepFailed(
                FailureClass.AGENT,
                f"the work is larger than {_BUNDLE_LIMIT // 2**20} MiB; "
                "keep what is built out of it (.gitignore)",
            )
        if len(bundle) != size:
            raise Unavailable(
                f"host {self._scripts.host}: the work of {order.run} was cut on its way: "
                f"{len(bundle)} of {size} bytes; see whether the disk is full there"
            )
        return bundle

    async def push(
        self, order: RunRequest, repository: CodeRepository, commit: str, ref: str, expected: str | None
    ) -> str:
        """
        Push a commit of the round from the host, if the ref holds what is expected (None: does not exist).

        Returns the error; empty on success. Raises Unavailable.
        """
        lines = _lines(self._mirror(repository), repository.url, ref, expected or "")
        try:
            await self._call_fed(
                "push", *_names(order), commit, stdin=lines, repository=repository, commits=(commit,)
            )
        except Refused as error:
            return without_credentials(str(error))
        return ""

    async def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """
        Return how many KiB of disk workspaces take, by the names that `list` gives.

        Each is measured once: it must not be worked in any more.
        """
        names = frozenset(names)
        for some in batches(names - self._sizes.keys()):
            lines = (await self._call("sizes", *some)).decode().splitlines()[1:]
            pairs = (line.split(maxsplit=1) for line in lines)
            self._sizes |= {name: int(size) for size, name in pairs}
        self._sizes = {name: size for name, size in self._sizes.items() if name in names}
        return self._sizes

    async def list(self) -> list[str]:
        """Return the names of all workspaces: run keys as `folder_name` writes them."""
        return (await self._call("ls")).decode().splitlines()[1:]

    async def remove(self, names: Iterable[str]) -> Mapping[str, str]:
        """
        Remove workspaces, by the names that `list` gives; a few are kept as spares for later ones.

        Return the commits in them that were never fetched, by those names.
        """
        unfetched = dict[str, str]()
        for some in batches(names):
            lines = (await self._call("rm", *some)).decode(errors="replace").splitlines()[1:]
            unfetched |= {
                name: self._commit(commit) for name, _, commit in (each.partition(" ") for each in lines)
            }
        return unfetched

    def mirror(self, repository: CodeRepository, prepared: Prepared) -> str:
        """Return the folder of the objects that a workspace borrows; absolute."""
        mirror = self._mirror(repository)
        return mirror if mirror.startswith("/") else f"{prepared.fleet}/{mirror}"

    def _mirror(self, repository: CodeRepository) -> str:
        return str(repository.folder) if self._shares_mirrors else f"repos/{repository.folder.name}"

    async def _call_fed(
        self, verb: str, *args: str, stdin: bytes, repository: CodeRepository, commits: tuple[str, ...]
    ) -> str:
        """Call a script that needs commits on the host; missing ones are sent in a bundle."""
        answer = (await self._call(verb, *args, stdin=stdin)).decode()
        if not answer.startswith(_NEED):
            return answer
        async with self._feeding[repository.folder.name]:
            answer = (await self._call(verb, *args, stdin=stdin)).decode()
            if not answer.startswith(_NEED):  # somebody else did it meanwhile
                return answer
            have = [line.removeprefix("have ") for line in answer.splitlines()[1:]]
            bundle = await repository.bundle(commits, have)
            answer = (await self._call(verb, *args, stdin=stdin + bundle)).decode()
        if answer.startswith(_NEED):
            raise self._misunderstood(answer, "an end of its needs")
        return answer

    async def _call(self, verb: str, *args: str, stdin: bytes = b"") -> bytes:
        """Call the script. Raises StepFailed for what no other host would help with."""
        answer = await self._scripts.call(
            "workspace", verb, self._fleet, *args, stdin=stdin, timeout=self.patience
        )
        for prefix, kind in ((_FAULT, FailureClass.AGENT), (_UNFIT, FailureClass.CONFIG)):
            if answer.startswith(prefix):
                why = both_ends(answer.removeprefix(prefix).decode(errors="replace"))
                raise StepFailed(kind, f"host {self._scripts.host}: {one_line(why, 2000)}")
        return answer

    async def _call_bounded(self, verb: str, *args: str, stdin: bytes = b"") -> bytes:
        """Call the script to read what an agent left; not retried after a timeout, as that may be endless."""
        began = asyncio.get_running_loop().time()
        try:
            return await self._call(verb, *args, stdin=stdin)
        except Unavailable as error:
            if asyncio.get_running_loop().time() - began < self.patience:
                raise
            raise StepFailed(
                FailureClass.AGENT,
                f"host {self._scripts.host}: the workspace could not be read completely within "
                f"{self.patience / 60:g} min; see what the agent left there",
            ) from error

    def _prepared(self, answer: str) -> Prepared:
        fields = dict(line.split(" ", 1) for line in answer.splitlines())
        if fields.get("S") != "ready":
            raise self._misunderstood(answer, "a workspace")
        base = None if fields["base"] == "-" else self._commit(fields["base"])
        return Prepared(base, fields["work"], fields["run"])

    def _commit(self, word: str) -> str:
        if not _COMMIT.match(word):
            raise self._misunderstood(word, "a commit")
        return word

    def _misunderstood(self, answer: str, expected: str) -> Unavailable:
        return Unavailable(
            f"host {self._scripts.host}: it answered {answer[:200]!r} where {expected} was expected; "
            "see whether its disk is full, and which git it has"
        )


def _without_repo(order: RunRequest) -> bytes:
    keep = "keep" if order.keeps_work else ""
    return _lines(order.adapter.name, "", "", "", "", "", keep, order.mode)


def _lines(*fields: str) -> bytes:
    return "".join(f"{field}\n" for field in fields).encode()


def _names(order: RunRequest) -> tuple[str, str]:
    return folder_name(order.run), agent_id(order.run, order.round)
