"""
A running `git fast-import`: git's own code writes every byte of the repository.

See `store.writer` for who may write and when it is durable.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from subprocess import TimeoutExpired
from tempfile import TemporaryFile

from reconciler.git.process import Git, pipes, printable_error

IDENTITY = "reconciler <reconciler@localhost>"

_OPTIONS = (
    *("-c", "core.filesRefLockTimeout=2000"),  # `git gc` of somebody else holds the ref for a moment
    *("-c", "pack.compression=1"),  # most of the time goes into zlib; a repack packs tightly later
    *("-c", "fastimport.unpackLimit=1"),  # a pack is two files to sync, a loose commit is five or more
)
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "67108864", "MALLOC_TRIM_THRESHOLD_": "268435456"}
"""
Bytes that glibc keeps for reuse; other C libraries ignore it.

Each object is packed by a zlib stream of its own, of 260 KB. By default that
memory goes back to the kernel after each, and comes anew, page by page: a third
of the time that a commit takes.
"""
_END = 10.0
"""Seconds it gets to end by itself."""
_UNREAD = 512
"""Most ids left in the pipe: 64 KiB of it hold 1,600, and git waits when it is full."""


@dataclass(frozen=True, slots=True)
class Change:
    """One commit to write."""

    at: datetime
    files: Mapping[str, bytes | None]
    """Content by path; None: the file goes."""
    message: Callable[[Callable[[int], str]], str]
    """Called with a function that returns the id of an earlier commit of the batch, counted from 0."""


class FastImport:
    """
    A stream of commits onto one ref, and the ids of those that are not sealed yet.

    To be used from one thread at a time. Every method raises OSError if the
    process is gone; `message` then says why.
    """

    def __init__(
        self, git: Git, git_dir: Path, ref: str, head: str | None, *, keep_open: Sequence[int], force: bool
    ) -> None:
        """
        Start on top of `head`; `keep_open` are file descriptors that git holds until it ends.

        `force` moves the ref whether that adds to it or not.
        """
        self.commits = 0
        """Commits written by this process; its memory grows with them."""
        self.head = head
        """Commit that the next one goes on top of, as of the last seal."""
        self._ref = ref
        self._from = head
        self._written = 0
        self._ids: list[str] = []
        self._stderr = TemporaryFile()  # noqa: SIM115 - closed by close()
        git = git.synced().with_options(*_OPTIONS).with_env(_MEMORY)
        command = ("fast-import", "--quiet", *(("--force",) if force else ()))
        self._process = git.keep_running(*command, stderr=self._stderr, keep_open=keep_open)
        self._talk, self._answers = pipes(self._process)
        self._report = git_dir / f"fast_import_crash_{self._process.pid}"

    def commit(self, change: Change) -> None:
        """Write one commit on top of the last."""
        message = change.message(self.id_of).encode()
        seconds = int(change.at.timestamp())
        self._send(f"commit {self._ref}\nmark :{self._written + 1}\ncommitter {IDENTITY} {seconds} +0000\n")
        self._data(message)
        if self._from:
            self._send(f"from {self._from}\n")
            self._from = None
        for path, content in change.files.items():
            self._file(path, content)
        self._written += 1
        self.commits += 1
        if self._written - len(self._ids) >= _UNREAD:
            self._read_marks()

    def seal(self) -> Sequence[str]:
        """Write everything out and move the ref, if that adds to it; return the ids since the last time."""
        unread = self._ask_marks()
        self._send("checkpoint\nprogress sealed\n")  # with the questions: one round trip for both
        self._ids += [self._read_answer() for _ in range(unread)]
        if self._read_answer() != "progress sealed":
            raise OSError("unexpected answer")
        ids, self._ids, self._written = self._ids, [], 0
        self.head = ids[-1] if ids else self.head
        return ids

    def go_on_from(self, commit: str) -> None:
        """Put the next commit on top of another one than the last."""
        self.head = self._from = commit

    @property
    def message(self) -> str:
        """What git said on stderr so far."""
        self._stderr.seek(0)
        return printable_error(self._stderr.read())

    def close(self) -> None:
        """End the process in good order; everything must be sealed."""
        with suppress(OSError, TimeoutExpired):  # it may be gone already
            self._process.communicate(timeout=_END)
        self.kill()

    def kill(self) -> None:
        """End the process at once: what is not sealed is not written."""
        self._process.kill()
        with suppress(OSError):
            self._process.communicate()
        self._stderr.close()
        self._report.unlink(
            missing_ok=True
        )  # of a failure that is told in `message`; nobody would tidy it up

    def id_of(self, index: int) -> str:
        """Return the id of a commit that is not sealed yet, counted from 0."""
        if index >= len(self._ids):
            self._read_marks()
        return self._ids[index]

    def _read_marks(self) -> None:
        """Get the ids that are not known yet: a mark is answered at once, without a checkpoint."""
        self._ids += [self._read_answer() for _ in range(self._ask_marks())]

    def _ask_marks(self) -> int:
        """Ask for the ids that are not known yet; return how many answers there will be."""
        unknown = range(len(self._ids), self._written)
        self._send("".join(f"get-mark :{number + 1}\n" for number in unknown))
        return len(unknown)

    def _file(self, path: str, content: bytes | None) -> None:
        if content is None:
            self._send(f"D {path}\n")
        else:
            self._send(f"M 100644 inline {path}\n")
            self._data(content)

    def _data(self, content: bytes) -> None:
        self._send(f"data {len(content)}\n")
        self._talk.write(content + b"\n")

    def _send(self, text: str) -> None:
        self._talk.write(text.encode())

    def _read_answer(self) -> str:
        self._talk.flush()
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise OSError("git fast-import ended")
        return line.decode().rstrip("\n")
