"""
Egress: the destinations that runs in a sandbox may reach, as specs list them.
"""

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network

from reconciler.core.text import one_line

_WEB = (443, 80)
"""Ports of a destination without one."""
_DESTINATION = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?\Z", re.ASCII)
_NAME = re.compile(
    r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\Z", re.ASCII
)
_MOST = 100
_LONGEST = 253
"""Characters of a name, as in DNS."""
_LOOPBACK = "localhost"


def check_network(network: object) -> bool | tuple[str, ...]:
    """
    Return the `network` of a sandbox: whether there is one, or the destinations as they are listed.

    Raises ValueError with the reason, and with what to write.
    """
    if isinstance(network, bool):
        return network
    if not isinstance(network, list | tuple) or not all(isinstance(each, str) for each in network):
        raise ValueError("expected true, false, or a list of destinations such as ['api.example.org']")
    if not 0 < len(network) <= _MOST:
        raise ValueError(f"must list from 1 to {_MOST} destinations; write `false` for no network")
    for text in network:
        expanded(text)
    return tuple(network)


def expanded(text: str) -> tuple[str, ...]:
    """
    Return what a listed destination allows, each as `HOST:PORT`: without a port, those of the web.

    The host is a name in small letters, `*.NAME`, or a network such as `10.1.0.0/16` or `[fd00::/8]`.
    Raises ValueError.
    """
    match = _DESTINATION.match(text)
    if match is None:
        message = (
            f"{one_line(text, 100)!r} is no destination: write HOST or HOST:PORT, and IPv6 as [::1]:PORT"
        )
        raise ValueError(message)
    host, port = _host(match["host"], text), match["port"]
    if port is None and host == _LOOPBACK:
        raise ValueError(f"{text!r} is all of the host's loopback: name the port, as in '{_LOOPBACK}:8080'")
    if port is not None and not 0 < int(port) < 2**16:
        raise ValueError(f"{port} is no port: one from 1 to 65535")
    return tuple(f"{host}:{number}" for number in ([int(port)] if port else _WEB))


def intersection(ones: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Return the destinations, each with its port, that two lists allow both."""
    others = tuple(each for text in others for each in expanded(text))
    pairs = (_narrower(one, other) for text in ones for one in expanded(text) for other in others)
    return tuple(dict.fromkeys(filter(None, pairs)))


def _host(host: str, text: str) -> str:
    if host[:1] == "[" or re.fullmatch(r"[0-9.]+(/[0-9]+)?", host):
        return _network(host, text)
    name = host.lower().removesuffix(".")
    if not _NAME.match(name) or len(name) > _LONGEST:
        message = (
            f"{one_line(text, 100)!r} is no destination: write a name such as 'api.example.org', "
            "'*.example.org' for all below it, or an address, without scheme and path"
        )
        raise ValueError(message)
    return name


def _network(host: str, text: str) -> str:
    """Return the network of an address; that of a loopback address is the name of the loopback."""
    try:
        network = ip_network(host.strip("[]"), strict=False)
    except ValueError as error:
        raise ValueError(f"{one_line(text, 100)!r} is no address: {error}") from error
    if network.prefixlen == 0:
        raise ValueError(f"{text!r} is every address there is: write `network: true` for that")
    if network.is_loopback:
        return _LOOPBACK
    return f"[{network}]" if network.version == 6 else str(network)  # noqa: PLR2004 - as in IPv6


def _narrower(one: str, other: str) -> str | None:
    (host, port), (other_host, other_port) = one.rsplit(":", 1), other.rsplit(":", 1)
    if port != other_port:
        return None
    if _covers(host, other_host):
        return other
    return one if _covers(other_host, host) else None


def _covers(wide: str, narrow: str) -> bool:
    """Return whether all that a host allows is allowed by another."""
    if wide == narrow:
        return True
    if wide.startswith("*."):
        return narrow.endswith(wide[1:])
    networks = tuple(_networks((wide, narrow)))
    match networks:
        case (IPv4Network() as outer, IPv4Network() as inner):
            return inner.subnet_of(outer)
        case (IPv6Network() as outer, IPv6Network() as inner):
            return inner.subnet_of(outer)
    return False


def _networks(hosts: Iterable[str]) -> Iterator[IPv4Network | IPv6Network | None]:
    for host in hosts:
        try:
            yield ip_network(host.strip("[]"))
        except ValueError:
            yield None
