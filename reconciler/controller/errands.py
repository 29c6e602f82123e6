"""
Errands to hosts: sweeps, probes. They run beside the loop, which never waits for them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime, timedelta

from reconciler.core.model import Host


class Errands:
    """
    One kind of errand, to each host again and again.

    Never two at once to the same host, and no host waits for another.
    `done` is called whenever one has ended.
    """

    def __init__(self, errand: Callable[[Host], Awaitable[None]], done: Callable[[], None]) -> None:
        self._errand = errand
        self._done = done
        self._due: dict[str, datetime] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    def send(self, hosts: Mapping[str, Host], now: datetime, interval: timedelta) -> None:
        """Start the errand to every host where it is due."""
        self._due = {name: time for name, time in self._due.items() if name in hosts}
        for name, host in hosts.items():
            if name not in self._running and self._due.get(name, now) <= now:
                self._due[name] = now + interval
                self._running[name] = asyncio.create_task(self._run(host))

    def hurry(self, names: Iterable[str]) -> None:
        """Let the errand to these hosts be due now; where one is under way, once more after it."""
        for name in names:
            self._due.pop(name, None)

    def next(self) -> datetime | None:
        """Return when the next one is due, those under way apart."""
        return min((time for name, time in self._due.items() if name not in self._running), default=None)

    def is_idle(self, hosts: Iterable[str]) -> bool:
        """Return whether none is under way and every one of the hosts had its turn."""
        return not self._running and all(name in self._due for name in hosts)

    def cancel(self) -> None:
        """Call back those under way."""
        for task in self._running.values():
            task.cancel()

    async def _run(self, host: Host) -> None:
        try:
            await self._errand(host)
        finally:
            del self._running[host.name]
            self._done()
