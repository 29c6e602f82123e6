"""
Shutdown: how a process that serves a fleet ends on a signal.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from reconciler.settings import Settings

_LIMIT = 4
"""Multiple of `stop_grace` after which the process is ended forcibly."""


class Shutdown:
    """Graceful shutdown on SIGTERM and SIGINT; forced after a time limit, or at once by a second signal."""

    def __init__(self, do: Callable[[], None], limit: float, tell: Callable[[int], None]) -> None:
        """`limit` is in seconds; `tell` is called with the first signal."""
        self.do = do
        self._limit = limit
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self.is_asked = False

    def __call__(self, number: int, _: object) -> None:
        """Handle a signal."""
        if self.is_asked:
            os._exit(128 + number)
        self.is_asked = True
        # A thread, as the loop itself may be what hangs, and so may the threads that Python waits for.
        timer = threading.Timer(self._limit, os._exit, (os.EX_OK,))
        timer.daemon = True
        timer.start()
        self._tell(number)
        with suppress(RuntimeError):  # the loop is closed: it has ended by itself
            self._loop.call_soon_threadsafe(self.do)


@contextmanager
def ending(do: Callable[[], None], settings: Settings, tell: Callable[[int], None]) -> Iterator[Shutdown]:
    """Install the handlers; restore the previous ones afterwards, if no signal came."""
    made = Shutdown(do, settings.stop_grace.total_seconds() * _LIMIT, tell)
    before = {number: signal.signal(number, made) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield made
    finally:
        if not made.is_asked:
            for number, handler in before.items():
                signal.signal(number, handler)
