"""
Egress proxy of one sandbox: a program for hosts, which needs Python's library (3.9 or later) alone.

    python3 egress_proxy.py CHANNEL PARENT DESTINATION...

It gets its listening sockets over the descriptor `CHANNEL`, and ends with the process of the pidfd `PARENT`.
A destination is `HOST:PORT`; the host a name, `*.NAME`, or a network such as `10.0.0.0/8` or `[fd00::/8]`.
An address that is not public is reached if it is listed itself, whatever name leads there. A name is resolved
once: what was checked is what is connected to. Ports of `localhost` are passed on as they are.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Union

Address = Union[IPv4Address, IPv6Address]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

DENIED = "egress denied: "
"""How a line begins that names a destination which was denied, each once."""
MOST_DENIED = 20
"""Most of these lines."""
_CONNECTIONS = 512
_PIECE = 1 << 16
"""Bytes; also the most of the head of a request."""
_PATIENCE = 30
"""Seconds that a request, a name, or a connection may take."""
_LONGEST_NAME = 253
_PORTS = 1 << 16
_HIDING = tuple(map(ip_network, ("2002::/16", "2001::/23")))
"""IPv6 addresses with others in them (6to4, Teredo)."""
_PUBLIC_IPV6 = ip_network("2000::/3")
_LOOPBACK = ("127.0.0.1", "::1")


class DeniedError(Exception):
    """A destination may not be reached."""


def serve_sandbox(args: Sequence[str]) -> None:
    """Serve one sandbox until it ends."""
    channel, parent = socket.socket(fileno=int(args[0])), int(args[1])
    _stand_apart()
    ready, _, _ = select.select([channel.fileno(), parent], [], [])
    text, descriptors = b"", list[int]()
    if channel.fileno() in ready:
        text, descriptors, _, _ = socket.recv_fds(channel, 4096, 250)
    if descriptors:
        ports = [int(port) for port in text.split() if port.isdigit()]
        sockets = [socket.socket(fileno=each) for each in descriptors]
        asyncio.run(Proxy(Rules(args[2:])).serve(sockets, ports, channel, parent))


def _stand_apart() -> None:
    """Get no signal of the run, which has the network as long as it lives, and keep none of its files."""
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)


class Rules:
    """What may be reached."""

    def __init__(self, destinations: Iterable[str]) -> None:
        self._names, self._networks = set[tuple[str, int]](), []
        for text in destinations:
            host, _, port = text.rpartition(":")
            try:
                self._networks.append((ip_network(host.strip("[]")), int(port)))
            except ValueError:
                self._names.add((host, int(port)))
        ports = [port for host, port in self._names if host == "localhost"]
        self._networks += [(ip_network(each), port) for each in _LOOPBACK for port in ports]

    def addresses(self, name: str, port: int, resolved: Iterable[str]) -> list[str]:
        """
        Return which of the addresses of a name, or the address that it is, may be connected to.

        Raises DeniedError if none.
        """
        addresses = [address for address in map(as_address, resolved) if address is not None]
        allowed = [each for each in addresses if self._is_listed(each, port)]
        if as_address(name) is None:
            self.require_name(name, port)
            allowed = [each for each in addresses if each in allowed or _is_public(each)]
            if not allowed:
                listed = ", ".join(map(str, addresses[:3]))
                raise DeniedError(f"leads to {listed}, which is not public, and not listed itself")
        if not allowed:
            raise DeniedError("is not listed")
        return list(map(str, allowed))

    def require_name(self, name: str, port: int) -> None:
        """Raise DeniedError unless a name is listed, or all below one that it is below."""
        labels = name.split(".")
        above = ("*." + ".".join(labels[at:]) for at in range(1, len(labels)))
        if not any((each, port) in self._names for each in (name, *above)):
            raise DeniedError("is not listed")

    def _is_listed(self, address: Address, port: int) -> bool:
        if address.is_unspecified or address.is_multicast:
            return False
        return any(port == of and address in network for network, of in self._networks)


def as_address(text: str) -> Address | None:
    """Return the address that a text is; None if it is a name."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and (
        address not in _PUBLIC_IPV6 or any(address in network for network in _HIDING)
    ):
        return False
    return address.is_global and not address.is_multicast


class Proxy:
    """Connects a sandbox with what it may reach."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._denied = set[tuple[str, int]]()
        self._places = asyncio.Semaphore(_CONNECTIONS)

    async def serve(
        self, sockets: Sequence[socket.socket], ports: Sequence[int], channel: socket.socket, parent: int
    ) -> None:
        """Serve on the first socket as a proxy, and on the others as the ports of the host's loopback."""
        over = asyncio.Event()
        asyncio.get_running_loop().add_reader(parent, over.set)
        handlers = [self._handle_request, *map(self._forwarder, ports)]
        for at, handler in enumerate(handlers):
            await asyncio.start_server(self._guarded(handler), sock=sockets[at], limit=_PIECE)
        channel.send(b"+")
        channel.close()
        await over.wait()
        os._exit(0)  # whatever is under way: the sandbox is gone

    def _guarded(self, handler: Handler) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async with self._places:
                try:
                    await handler(reader, writer)
                except (OSError, EOFError, asyncio.TimeoutError, asyncio.LimitOverrunError):
                    writer.transport.abort()
                finally:
                    writer.close()

        return handle

    def _forwarder(self, port: int) -> Handler:
        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _splice((reader, writer), await _open(_LOOPBACK, port))

        return forward

    async def _handle_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _PATIENCE)
        first, *fields = head[:-4].decode("latin-1").split("\r\n")
        try:
            method, target, version = first.split(" ")
            host, port, path = parsed_target(method, target)
        except ValueError:
            return await _answer(writer, "400 Bad Request", "this is a proxy, and that no request to one")
        try:
            server = await self._connect(host, port)
        except DeniedError as error:
            self._note(host, port, error)
            return await _answer(writer, "403 Forbidden", f"{DENIED}{host}:{port} {error}")
        except (OSError, asyncio.TimeoutError) as error:
            return await _answer(writer, "502 Bad Gateway", f"{host}:{port}: {error or 'no answer'}")
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            server[1].write(origin_head(method, path, version, fields))
        return await _splice((reader, writer), server)

    async def _connect(self, host: str, port: int) -> Streams:
        """Return a connection. Raises DeniedError, and OSError or TimeoutError if there is none."""
        resolved = [host]
        if as_address(host) is None:
            self._rules.require_name(host, port)  # before anybody is asked for it
            lookup = asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            resolved = [str(each[4][0]) for each in await asyncio.wait_for(lookup, _PATIENCE)]
        return await _open(self._rules.addresses(host, port, dict.fromkeys(resolved)), port)

    def _note(self, host: str, port: int, why: DeniedError) -> None:
        if (host, port) in self._denied or len(self._denied) >= MOST_DENIED:
            return
        self._denied.add((host, port))
        sys.stderr.write(f"{DENIED}{host}:{port} {why}\n")
        sys.stderr.flush()


def parsed_target(method: str, target: str) -> tuple[str, int, str]:
    """Return host, port and path of a request to a proxy. Raises ValueError."""
    path = "/"
    if method != "CONNECT":
        scheme, _, rest = target.partition("://")
        if scheme.lower() != "http":
            raise ValueError(f"no destination: {target!r}")
        authority, _, path = rest.partition("/")
        target, path = authority.rpartition("@")[2], f"/{path}"
    host, colon, port = target.rpartition(":")
    if not colon or "]" in port:
        host, port = target, "80"
    host = host.strip("[]").rstrip(".").lower()
    if not (host.isascii() and host.isprintable() and 0 < len(host) <= _LONGEST_NAME) or " " in host:
        raise ValueError(f"no destination: {target!r}")
    if not (port.isdecimal() and 0 < int(port) < _PORTS):
        raise ValueError(f"no destination: {target!r}")
    return host, int(port), path


def origin_head(method: str, path: str, version: str, fields: Iterable[str]) -> bytes:
    """Return the head of a request as its server takes it: without what is the proxy's, and for this one."""
    dropped = ("proxy-", "connection:", "keep-alive:")
    kept = (field for field in fields if not field.lower().startswith(dropped))
    return "\r\n".join((f"{method} {path} {version}", *kept, "Connection: close", "", "")).encode("latin-1")


async def _open(addresses: Iterable[str], port: int) -> Streams:
    """Return a connection to the first address that answers. Raises OSError or TimeoutError."""
    failure: Exception = OSError("no address")
    for address in addresses:
        try:
            return await asyncio.wait_for(asyncio.open_connection(address, port, limit=_PIECE), _PATIENCE)
        except (OSError, asyncio.TimeoutError) as error:
            failure = error
    raise failure


async def _answer(writer: asyncio.StreamWriter, status: str, text: str) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text) + 1}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n{text}\n".encode("latin-1", "replace"))
    await writer.drain()


async def _splice(one: Streams, other: Streams) -> None:
    """Pass on what either side sends, until both have ended."""
    try:
        await asyncio.gather(_copy(one[0], other[1]), _copy(other[0], one[1]))
    finally:
        other[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_PIECE):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


if __name__ == "__main__":
    serve_sandbox(sys.argv[1:])
