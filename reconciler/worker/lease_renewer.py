"""
Lease renewal for clients that cannot do it: a language model sends no heartbeat every twenty seconds.
"""

import asyncio
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Self

from reconciler.core.errors import ReconcilerError, Unavailable
from reconciler.wire import Lease
from reconciler.worker.client import ApiClient


@dataclass(slots=True)
class _Hold:
    renewal: "asyncio.Task[None]"
    active_at: float
    """Monotonic time of the agent's last sign of life."""


class LeaseRenewer:
    """
    Renews leases until they are released or lost.

    `quiet`: seconds of silence of an agent after which its lease is left to
    run out; None: it ends with this.
    """

    def __init__(self, quiet: float | None = None) -> None:
        self._quiet = quiet
        self._holds: dict[tuple[str, int], _Hold] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        renewals = [hold.renewal for hold in self._holds.values()]
        for renewal in renewals:
            renewal.cancel()
        await asyncio.gather(*renewals, return_exceptions=True)

    def keep(self, client: ApiClient, lease: Lease) -> None:
        """Renew a lease from now on."""
        self._holds = {key: hold for key, hold in self._holds.items() if not hold.renewal.done()}
        key = lease.task, lease.epoch
        if key not in self._holds:
            self._holds[key] = _Hold(asyncio.create_task(self._renew(client, lease)), monotonic())

    def touch(self, task: str, epoch: int) -> None:
        """Note a sign of life of the agent."""
        if hold := self._holds.get((task, epoch)):
            hold.active_at = monotonic()

    def release(self, task: str, epoch: int) -> None:
        """Stop renewing a lease."""
        if hold := self._holds.pop((task, epoch), None):
            hold.renewal.cancel()

    async def _renew(self, client: ApiClient, lease: Lease) -> None:
        every = lease.heartbeat_seconds
        while True:
            await asyncio.sleep(every)
            if self._is_quiet(lease):
                return
            try:
                answer = await client.heartbeat(lease.task, lease.epoch)
            except Unavailable:
                continue
            except ReconcilerError:
                return  # the agent is told the same when it next reports
            if answer.desired == "lost":
                return
            every = answer.heartbeat_seconds

    def _is_quiet(self, lease: Lease) -> bool:
        hold = self._holds.get((lease.task, lease.epoch))
        return hold is None or (self._quiet is not None and monotonic() - hold.active_at > self._quiet)
