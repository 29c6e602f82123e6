"""
The ways to all hosts: each made once, shared, and closed together.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from reconciler.core.errors import Unavailable
from reconciler.core.model import Host
from reconciler.dispatch.line import Gate, Line, Patience
from reconciler.dispatch.route import Route, route
from reconciler.dispatch.ssh import SshTransport
from reconciler.dispatch.transport import Answer, Transport


class NoWay(Transport):
    """A host whose spec names no way to it: every use says why."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def call(self, words: Sequence[str], stdin: bytes = b"", *, timeout: float) -> Answer:  # noqa: ARG002  Transport's
        """Raise Unavailable."""
        raise Unavailable(self._why)

    async def read(self, path: str, offset: int, limit: int) -> bytes:  # noqa: ARG002  Transport's
        """Raise Unavailable."""
        raise Unavailable(self._why)

    async def close(self) -> None:
        """Do nothing: nothing is open."""


class Transports:
    """
    Gives the transport of a host: the same one as long as the way to it is the same.

    `hosts` tells the hosts as they are now, so that a jump is found by its name.
    A host whose way has changed gets a new connection, the old one ends when
    nobody uses it any more.
    """

    def __init__(
        self,
        hosts: Callable[[], Mapping[str, Host]],
        *,
        local: Callable[[Host], Transport],
        jitter: Callable[[], float],
        agent_path: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._hosts = hosts
        self._local = local
        self._jitter = jitter
        self._agent_path = agent_path
        self._patience = patience or Patience()
        self._gate = Gate()
        self._locals: dict[str, Transport] = {}
        self._lines: dict[Route, Line] = {}
        self._remotes: dict[Route, SshTransport] = {}
        self._no_ways: dict[str, NoWay] = {}
        self._latest: dict[str, Route] = {}

    def __call__(self, host: Host) -> Transport:
        """Return the transport of the host; nothing is sent yet."""
        if host.is_local:
            return self._local_one(host)
        try:
            way = route(host, self._hosts())
        except Unavailable as error:
            return self._no_ways.setdefault(str(error), NoWay(str(error)))
        before = self._latest.get(host.name, way)
        if before != way:
            self._remotes[before].retire()
        self._latest[host.name] = way
        if way not in self._remotes:
            self._remotes[way] = SshTransport(self._line(way))
        return self._remotes[way]

    def line(self, host: Host) -> Line:
        """Return the line to a host that is not this machine. Raises Unavailable for a jump to nowhere."""
        return self._line(route(host, self._hosts()))

    async def close(self) -> None:
        """Let go of all hosts; runs on them go on."""
        await asyncio.gather(
            *(transport.close() for transport in [*self._locals.values(), *self._remotes.values()])
        )
        await asyncio.gather(*(line.close() for line in self._lines.values()))

    def _line(self, way: Route) -> Line:
        """Return the line to the last hop of the way; hops that two ways begin with are shared."""
        if way not in self._lines:
            self._lines[way] = Line(
                way[-1],
                via=self._line(way[:-1]) if way[:-1] else None,
                gate=self._gate,
                patience=self._patience,
                jitter=self._jitter,
                agent_path=self._agent_path,
            )
        return self._lines[way]

    def _local_one(self, host: Host) -> Transport:
        if host.name not in self._locals:
            self._locals[host.name] = self._local(host)
        return self._locals[host.name]
