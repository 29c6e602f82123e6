"""
Files of a host, read from offsets through handles that are kept open.

A read then costs the host one `pread` and no process: following hundreds of
growing files stays cheap. One client is as old as its connection.
"""

import asyncio
import contextlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import cast

import asyncssh

READ_CHUNK = 255 * 1024
"""Most bytes of one request: sshd answers no more at once."""

_AHEAD = 8
"""Requests under way at a time when there is a backlog."""
_KEPT = 800
"""Most open handles: sshd's limit is that of its open files, usually 1024."""
_KEPT_SECONDS = 60.0
"""A handle at the end of its file is reopened after this: the path may name another file by now."""


@dataclass(slots=True)
class _OpenHandle:
    """An open handle, and the number of its readers."""

    file: asyncssh.SFTPClientFile
    opened: float
    readers: int = 0


class Files:
    """The files of one host, over one connection."""

    def __init__(self, client: asyncssh.SFTPClient) -> None:
        self._client = client
        self._kept: OrderedDict[str, _OpenHandle] = OrderedDict()

    async def read(self, path: str, offset: int, limit: int) -> bytes:
        """
        Return at most `limit` bytes from `offset`; empty at the end of the file or if it is not there.

        Raises asyncssh.Error.
        """
        try:
            kept = await self._keep(path)
        except asyncssh.SFTPNoSuchFile:
            return b""
        kept.readers += 1
        try:
            data = await _read(kept.file, offset, limit)
        finally:
            kept.readers -= 1
        await self._close_stale(path, at_end=not data)
        return data

    async def _keep(self, path: str) -> _OpenHandle:
        kept = self._kept.get(path)
        if kept is None:
            # One request is one read (block_size 0): split ones would go past the end of a growing file,
            # and asyncssh leaves the errors of those to nobody.
            file = await self._client.open(path, "rb", encoding=None, block_size=0)
            kept = self._kept.setdefault(path, _OpenHandle(file, asyncio.get_running_loop().time()))
            if kept.file is not file:  # somebody was quicker
                await _close(file)
        self._kept.move_to_end(path)
        return kept

    async def _close_stale(self, path: str, *, at_end: bool) -> None:
        """Close this handle if it is old, and the least recently used ones if there are too many."""
        leave = [path] if at_end and self._is_old(path) else []
        leave += list(self._kept)[: max(0, len(self._kept) - _KEPT)]
        for name in leave:
            kept = self._kept.get(name)
            if kept and not kept.readers:
                del self._kept[name]
                await _close(kept.file)

    def _is_old(self, path: str) -> bool:
        kept = self._kept.get(path)
        return kept is not None and kept.opened + _KEPT_SECONDS < asyncio.get_running_loop().time()


async def _read(file: asyncssh.SFTPClientFile, offset: int, limit: int) -> bytes:
    """Send one request; a full answer means a backlog, which is read with several requests at once."""
    data = await _piece(file, offset, min(limit, READ_CHUNK))
    more = data if len(data) == READ_CHUNK else b""
    while more and len(data) < limit:
        more = await _pieces(file, offset + len(data), limit - len(data))
        data += more
    return data


async def _pieces(file: asyncssh.SFTPClientFile, offset: int, limit: int) -> bytes:
    """Return the data of several concurrent requests, up to the first short answer."""
    reads = [
        (offset + start, min(READ_CHUNK, limit - start))
        for start in range(0, min(limit, _AHEAD * READ_CHUNK), READ_CHUNK)
    ]
    whole = b""
    for (_, size), data in zip(
        reads, await asyncio.gather(*(_piece(file, *ask) for ask in reads)), strict=True
    ):
        whole += data
        if len(data) < size:  # the end, then; the file may have grown beyond it before the next was answered
            break
    return whole


async def _piece(file: asyncssh.SFTPClientFile, offset: int, size: int) -> bytes:
    return cast("bytes", await file.read(size, offset))  # opened without an encoding


async def _close(file: asyncssh.SFTPClientFile) -> None:
    with contextlib.suppress(asyncssh.Error):
        await file.close()
