"""
Batched reads of objects by id, through one running `git cat-file`.
"""

import asyncio
import subprocess
import threading
from collections.abc import Callable, Sequence
from tempfile import TemporaryFile
from typing import IO

from reconciler.core.errors import Gone, Unavailable
from reconciler.git.process import Git, pipes, printable_error

_AHEAD = 256
"""Objects per batch; two batches of requests fit into a pipe, so that neither side deadlocks."""

_CHUNK = 1 << 20

Receive = Callable[[str, bytes], None]
"""Called with the id and the content of each object, in the thread that reads."""


class CatFile:
    """
    A running `git cat-file`, started when first needed and again if it died.

    Reading happens in threads, one at a time: a pipe read by blocking calls is
    several times quicker than one read by an event loop.
    """

    def __init__(self, git: Git) -> None:
        self._git = git
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None

    async def read(
        self, ids: Sequence[str], receive: Receive, *, limit: int | None = None, skip_missing: bool = False
    ) -> None:
        """
        Hand the content of each object to `receive`, in order; larger ones cut to `limit` + 1 bytes.

        Raises Gone if one of them is not there, unless those are skipped; Unavailable.
        """
        await asyncio.to_thread(self._read, ids, receive, limit, skip_missing)

    async def close(self) -> None:
        """End the process."""
        await asyncio.to_thread(self._end)

    def _read(self, ids: Sequence[str], receive: Receive, limit: int | None, skip_missing: bool) -> None:
        with self._turn:
            process = self._running()
            try:
                _pipeline(process, ids, receive, limit, skip_missing=skip_missing)
            except OSError as error:
                raise Unavailable(
                    f"git cat-file ended in the middle of reading: {self._stderr_text()}"
                ) from error
            except BaseException:
                self._stop()  # answers to earlier requests are still in the pipe
                raise

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        self._stderr = TemporaryFile()  # noqa: SIM115 - closed by _stop
        self._process = self._git.keep_running("cat-file", "--batch-command", "--buffer", stderr=self._stderr)
        return self._process

    def _stderr_text(self) -> str:
        if self._stderr is None:
            return ""
        self._stderr.seek(0)
        return printable_error(self._stderr.read())

    def _end(self) -> None:
        with self._turn:
            self._stop()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None


def _pipeline(
    process: subprocess.Popen[bytes],
    ids: Sequence[str],
    receive: Receive,
    limit: int | None,
    *,
    skip_missing: bool,
) -> None:
    """Send the next batch before the answers to the last one are read, so that git never idles."""
    requests, answers = pipes(process)
    lots = [ids[start : start + _AHEAD] for start in range(0, len(ids), _AHEAD)]
    for lot, awaited in zip([*lots, ()], [(), *lots], strict=True):
        if lot:
            requests.write("".join(f"contents {name}\n" for name in lot).encode() + b"flush\n")
            requests.flush()
        for name in awaited:
            content = _content(answers, limit)
            if content is not None:
                receive(name, content)
            elif not skip_missing:
                raise Gone(f"object {name} is not in the repository; `git fsck` says what else")


def _content(answers: IO[bytes], limit: int | None) -> bytes | None:
    """Return the content of the next object; None if it is missing."""
    header = answers.readline()
    if not header:
        raise OSError("end of stream")
    if header.endswith(b" missing\n"):
        return None
    size = int(header.rsplit(b" ", 1)[1])
    kept = size if limit is None else min(size, limit + 1)
    content = answers.read(kept)
    _skip(answers, size + 1 - kept)  # with the line end after the content
    if len(content) < kept:
        raise OSError("end of stream")
    return content


def _skip(answers: IO[bytes], count: int) -> None:
    while count:
        skipped = len(answers.read(min(count, _CHUNK)))
        if not skipped:
            raise OSError("end of stream")
        count -= skipped
