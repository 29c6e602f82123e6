"""
The sandbox of a run: what the specs of its host and of its adapter ask for together.
"""

from collections.abc import Iterable
from itertools import chain

from reconciler.core.adapter import AdapterSpec, Sandbox
from reconciler.core.egress import intersection
from reconciler.core.model.specs import Host


def sandbox_of(host: Host, adapter: AdapterSpec | None) -> Sandbox | None:
    """
    Return the sandbox in which the runs of an adapter are on a host; None if neither asks for one.

    The stricter counts: no network but what both allow, and what either hides is hidden whatever is
    granted. What either grants is granted, and of the adapter its sessions.
    """
    parts = [each.sandbox for each in (host, adapter) if each and each.sandbox is not None]
    if not parts:
        return None
    sessions = adapter.sessions if adapter else ()
    return Sandbox(
        network=_network(part.network for part in parts),
        writable=(*chain.from_iterable(part.writable for part in parts), *sessions),
        readable=tuple(chain.from_iterable(part.readable for part in parts)),
        hidden=tuple(chain.from_iterable(part.hidden for part in parts)),
    )


def _network(parts: Iterable[bool | tuple[str, ...]]) -> bool | tuple[str, ...]:
    """Return what all of them allow; if nothing, there is no network."""
    network: bool | tuple[str, ...] = True
    for part in parts:
        if isinstance(network, tuple) and isinstance(part, tuple):
            network = intersection(network, part)
        elif not network or not part:
            network = False
        elif isinstance(part, tuple):
            network = part
    return network or False


def needs_network(adapter: AdapterSpec) -> bool:
    """Return whether runs of an adapter call a model: then its CLI has arguments that choose one."""
    return bool(adapter.model)
