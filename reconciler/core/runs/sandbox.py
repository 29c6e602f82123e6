"""
The sandbox of a run: what the specs of its host and of its adapter ask for together.
"""

from itertools import chain

from reconciler.core.adapter import AdapterSpec, Sandbox
from reconciler.core.model.specs import Host


def sandbox_of(host: Host, adapter: AdapterSpec | None) -> Sandbox | None:
    """
    Return the sandbox in which the runs of an adapter are on a host; None if neither asks for one.

    The stricter counts: no network if either has none, and what either hides is hidden whatever is
    granted. What either grants is granted, and of the adapter its sessions.
    """
    parts = [each.sandbox for each in (host, adapter) if each and each.sandbox is not None]
    if not parts:
        return None
    sessions = adapter.sessions if adapter else ()
    return Sandbox(
        network=all(part.network for part in parts),
        writable=(*chain.from_iterable(part.writable for part in parts), *sessions),
        readable=tuple(chain.from_iterable(part.readable for part in parts)),
        hidden=tuple(chain.from_iterable(part.hidden for part in parts)),
    )


def needs_network(adapter: AdapterSpec) -> bool:
    """Return whether runs of an adapter call a model: then its CLI has arguments that choose one."""
    return bool(adapter.model)
