"""
Route to a host: its jump hosts, then the host itself.

Equal routes may share their connections; what does not change the way (slots,
labels, a cordon) is not in it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.core.errors import Unavailable
from reconciler.core.model.specs import Host

_INLINE_JUMP = re.compile(
    r"(?:(?P<user>[^@\s]+)@)?(?P<address>\[[0-9A-Fa-f:.]+\]|[^@:\s]+)(?::(?P<port>\d+))?\Z"
)
SSH_PORT = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One machine on the route, and how it is reached from the one before."""

    name: str
    address: str
    port: int = SSH_PORT
    user: str | None = None
    host_key: tuple[str, ...] = ()
    identity: str | None = None
    agent_forwarding: bool = False
    ssh_config: bool = False
    shell: str = "sh"

    def __str__(self) -> str:
        return f"{self.name} ({self.address}:{self.port})"


Route = tuple[Hop, ...]


def route(host: Host, hosts: Mapping[str, Host]) -> Route:
    """
    Return the hops to the host in the order in which they are taken.

    Raises Unavailable if a jump is not known, goes in a circle, or would have
    to be trusted without a pinned key.
    """
    way: list[Hop] = []
    seen: set[str] = set()
    here: Host | None = host
    while here is not None:
        if here.name in seen:
            circle = " → ".join([host.name, *(hop.name for hop in reversed(way)), here.name])
            raise Unavailable(
                f"host {host.name}: jump goes in a circle ({circle}); change one of the `jump` fields"
            )
        seen.add(here.name)
        way.insert(0, _hop(here))
        here = _jump(here, hosts) if here.jump else None
    return tuple(way)


def _hop(host: Host) -> Hop:
    if host.address is None:
        raise Unavailable(
            f"host {host.name}: it has no address, so nothing can be reached over SSH through it"
        )
    return Hop(
        name=host.name,
        address=host.address,
        port=host.port,
        user=host.user,
        host_key=host.host_key,
        identity=host.identity,
        agent_forwarding=host.agent_forwarding,
        ssh_config=host.ssh_config,
        shell=host.shell,
    )


def _jump(host: Host, hosts: Mapping[str, Host]) -> Host:
    """Return the jump host: the host of that name, else the machine at that address."""
    jump = host.jump or ""
    if jump in hosts:
        return hosts[jump]
    match = _INLINE_JUMP.match(jump)
    if match is None:
        raise Unavailable(f"host {host.name}: jump {jump!r} is neither a host's name nor `user@address:port`")
    address, port = match["address"].strip("[]"), int(match["port"] or SSH_PORT)
    for other in hosts.values():
        if (other.address, other.port) == (address, port):
            return other.model_copy(update={"user": match["user"] or other.user})
    raise Unavailable(
        f"host {host.name}: jump {jump!r} is no host of this fleet, so its key is pinned nowhere; "
        "describe it in specs/hosts/ (`slots: 0` if nothing shall run there) and name it here"
    )
