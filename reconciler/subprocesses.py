"""
Subprocesses that are safe to cancel at any moment.

asyncio's own wait for ever in two cases: if everything is cancelled while one
is being started (CPython 3.11 never wakes who waits for its end), and if
something else holds the pipes of one that is over.
"""

import asyncio
import os
import signal
from contextlib import suppress
from typing import Any

_PATIENCE = 0.5
"""Seconds for a cancelled start to finish by itself."""


async def start(*argv: str, **options: Any) -> asyncio.subprocess.Process:
    """
    Start a process that leads a session, and so a process group, of its own.

    If this is cancelled there is no process afterwards. Raises OSError.
    """
    starting = asyncio.ensure_future(asyncio.create_subprocess_exec(*argv, start_new_session=True, **options))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await _end_start(starting)
        raise


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process and its group; return once it is gone, whoever else holds its pipes."""
    with suppress(ProcessLookupError):  # the whole group has ended meanwhile
        os.killpg(process.pid, signal.SIGKILL)
    transport = process._transport  # type: ignore[attr-defined]  # noqa: SLF001  there is no other way to let go of pipes
    # Not the whole of it: that asks after the process itself, and whoever waits for its end finds none.
    for pipe in filter(None, map(transport.get_pipe_transport, (0, 1, 2))):
        pipe.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            await process.wait()


async def _end_start(starting: "asyncio.Future[asyncio.subprocess.Process]") -> None:
    """Cancel a running start; a second cancellation wakes a wait that the first left hanging."""
    while not starting.done():
        await asyncio.wait([starting], timeout=_PATIENCE)
        starting.cancel()
    if not starting.cancelled() and starting.exception() is None:
        await end(starting.result())
