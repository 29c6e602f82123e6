"""
Logs of outside agents, received in chunks and kept beside the logs of other runs.

What was acknowledged is on disk. A piece may come again, whole or in part.
"""

import asyncio
from threading import Lock
from weakref import WeakValueDictionary

from reconciler.core.errors import LogGap, Unavailable
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.protocol import agent_id

_MOST = 64 * 2**20
"""Bytes kept of one run: as many as of a run on a host."""


class AgentLogs:
    """The logs of outside agents, by the keys of their runs."""

    def __init__(self, logs: LogFolder, *, most: int = _MOST) -> None:
        self._logs = logs
        self._most = most
        self._locks: WeakValueDictionary[str, Lock] = WeakValueDictionary()
        """One piece of a run at a time; of threads, as one goes on though nobody waits for it any more."""

    def size(self, run: str) -> int:
        """Return how many bytes are kept."""
        return self._logs.size(_id(run), "out")

    async def append(self, run: str, offset: int, data: bytes) -> int:
        """
        Keep a piece that begins at an offset; return how many bytes are kept then, safe on the disk.

        What is kept already is passed over, and of a log that is full nothing
        more is kept. Pieces of different runs do not wait for each other.
        Raises LogGap, and Unavailable.
        """
        lock = self._locks.setdefault(run, Lock())
        try:
            return await asyncio.to_thread(self._append, lock, run, offset, data)
        except OSError as error:
            raise Unavailable(
                f"the log cannot be written: {error.strerror}; see whether the reconciler's disk is full"
            ) from error

    def _append(self, lock: Lock, run: str, offset: int, data: bytes) -> int:
        with lock:
            kept = self.size(run)
            if offset > kept and kept < self._most:
                raise LogGap(kept, offset)
            new = data[kept - offset :][: max(0, self._most - kept)]
            self._logs.append(_id(run), "out", new)
            self._logs.sync(_id(run), "out")
            return kept + len(new)


def _id(run: str) -> str:
    return agent_id(run, 1)
