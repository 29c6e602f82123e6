"""
Transport pool: one shared transport per host, closed together.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from reconciler.core.errors import Unavailable
from reconciler.core.model.specs import Host
from reconciler.dispatch.ssh.route import Route, route
from reconciler.dispatch.transport import CommandResult, Transport

if TYPE_CHECKING:  # asyncssh is a third of what a fleet without remote hosts would import
    from reconciler.dispatch.ssh.connection import ConnectLimiter, ConnectTimeouts, SshConnector
    from reconciler.dispatch.ssh.transport import SshTransport


class RoutedTransport(Transport):
    """
    Transport over the route that the host's spec names now.

    Whoever follows a run holds on to this for hours. Meanwhile a person may
    have trusted the host's new key, or sshd may have moved to another port.
    """

    def __init__(self, now: "Callable[[], SshTransport]") -> None:
        self._now = now

    async def call(self, argv: Sequence[str], stdin: bytes = b"", *, timeout: float) -> CommandResult:
        """Run a short command; see Transport. Raises Unavailable also if the spec has no valid route."""
        return await self._now().call(argv, stdin, timeout=timeout)

    async def read(self, path: str, offset: int, limit: int) -> bytes:
        """Return a piece of a file; see Transport. Raises Unavailable also if the spec has no valid route."""
        return await self._now().read(path, offset, limit)

    async def close(self) -> None:
        """Let go of the host; runs on it go on."""
        with contextlib.suppress(Unavailable):
            await self._now().close()


HostAccount = tuple[str, str | None, str | None]
"""Name, address and user of a host: they identify its runs. Other fields only say how to connect."""


class TransportPool:
    """
    Gives the transport of a host: the same one as long as its runs are in the same place.

    `hosts` tells the hosts as they are now. A host whose way has changed gets a
    new connection, the old one ends when nobody uses it any more. One that has
    moved to another address or user gets another transport, and runs that were
    begun in the old place are followed there. What is not `is_lasting`, such as
    a check, leaves to those who stay what they keep on a host.
    """

    def __init__(
        self,
        hosts: Callable[[], Mapping[str, Host]],
        *,
        local: Callable[[Host], Transport],
        jitter: Callable[[], float],
        agent_path: str | None = None,
        patience: "ConnectTimeouts | None" = None,
        is_lasting: bool = True,
    ) -> None:
        self._is_lasting = is_lasting
        self._hosts = hosts
        self._local = local
        self._jitter = jitter
        self._agent_path = agent_path
        self._patience = patience
        self._gate: ConnectLimiter | None = None
        self._locals: dict[str, Transport] = {}
        self._lines: dict[Route, SshConnector] = {}
        self._remotes: dict[Route, SshTransport] = {}
        self._ways: WeakValueDictionary[HostAccount, RoutedTransport] = WeakValueDictionary()
        """Transports in use; a follower keeps its own for the whole run."""
        self._requested: dict[HostAccount, Host] = {}
        """Each host as last requested, for when it is gone from the specs."""
        self._latest: dict[HostAccount, Route] = {}

    def __call__(self, host: Host) -> Transport:
        """Return the transport of the host; nothing is sent yet."""
        if host.is_local:
            return self._local_one(host)
        account = _account(host)
        if account not in self._requested:
            self._forget_moved()
        self._requested[account] = host
        way = self._ways.get(account)
        if way is None:
            way = self._ways[account] = RoutedTransport(partial(self._remote, account))
        return way

    def line(self, host: Host) -> "SshConnector":
        """Return the connector to a remote host. Raises Unavailable for an unknown jump host."""
        return self._line(route(host, self._hosts()))

    async def close(self) -> None:
        """Close all transports; runs on the hosts go on."""
        await asyncio.gather(
            *(transport.close() for transport in [*self._locals.values(), *self._remotes.values()])
        )
        await asyncio.gather(*(line.close() for line in self._lines.values()))

    def _remote(self, account: HostAccount) -> "SshTransport":
        """Return the transport over the current route. Raises Unavailable for an unknown jump host."""
        hosts = self._hosts()
        host = hosts.get(account[0])
        way = route(host if host and _account(host) == account else self._requested[account], hosts)
        before = self._latest.get(account, way)
        self._latest[account] = way
        if before != way:
            self._forget(before)
        if way not in self._remotes:
            from reconciler.dispatch.ssh.transport import SshTransport  # noqa: PLC0415 - see above

            self._remotes[way] = SshTransport(self._line(way), is_lasting=self._is_lasting)
        return self._remotes[way]

    def _forget_moved(self) -> None:
        """Drop former addresses of hosts, once nothing is followed there."""
        current = {_account(host) for host in self._hosts().values()}
        for account in self._requested.keys() - current - set(self._ways):
            del self._requested[account]
            if before := self._latest.pop(account, None):
                self._forget(before)

    def _forget(self, way: Route) -> None:
        """Drop a route that is no longer used, and connectors that no other route shares."""
        taken = set(self._latest.values())
        if way in taken:
            return
        if remote := self._remotes.pop(way, None):
            remote.retire()
        needed = {whole[:length] for whole in taken for length in range(1, len(whole) + 1)}
        self._lines = {route: line for route, line in self._lines.items() if route in needed or line.is_used}

    def _line(self, way: Route) -> "SshConnector":
        """Return the connector to the last hop of a route; common first hops are shared."""
        from reconciler.dispatch.ssh.connection import (  # noqa: PLC0415 - see above
            ConnectLimiter,
            ConnectTimeouts,
            SshConnector,
        )

        if way not in self._lines:
            self._gate = self._gate or ConnectLimiter()
            self._lines[way] = SshConnector(
                way[-1],
                via=self._line(way[:-1]) if way[:-1] else None,
                gate=self._gate,
                patience=self._patience or ConnectTimeouts(),
                jitter=self._jitter,
                agent_path=self._agent_path,
            )
        return self._lines[way]

    def _local_one(self, host: Host) -> Transport:
        if host.name not in self._locals:
            self._locals[host.name] = self._local(host)
        return self._locals[host.name]


def _account(host: Host) -> HostAccount:
    return host.name, host.address, host.user
