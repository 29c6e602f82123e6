"""
Host key scan: shows a host's key, for a person to verify.

Nothing here trusts anything: what is shown becomes trusted when a person has
written it into the host's spec.
"""

from dataclasses import dataclass

from reconciler.core.errors import UsageError
from reconciler.core.model.specs import Host
from reconciler.dispatch.pool import TransportPool
from reconciler.dispatch.ssh.connection import known_keys
from reconciler.dispatch.ssh.diagnosis import fingerprint


@dataclass(frozen=True, slots=True)
class ShownKey:
    """A host's public key as it showed it just now."""

    text: str
    """As it is pinned in `host_key`: `ssh-ed25519 AAAA…`."""
    fingerprint: str
    """As `ssh-keygen -lf` prints it on the host: `ssh-ed25519 SHA256:…`."""


@dataclass(frozen=True, slots=True)
class HostKeyScan:
    """Host key scan: the key that the host shows, and the one that its spec pins."""

    shown: ShownKey
    pinned: tuple[str, ...]
    """Fingerprints."""

    @property
    def is_pinned(self) -> bool:
        """Whether there is nothing to do."""
        return self.shown.fingerprint in self.pinned

    @property
    def is_changed(self) -> bool:
        """Whether another key was trusted until now: a person should know why before saying yes."""
        return bool(self.pinned) and not self.is_pinned


async def scan_host_key(host: Host, transports: TransportPool) -> HostKeyScan:
    """
    Ask the host for its key, through its jump hosts, whose keys must be pinned; without logging in to it.

    Raises UsageError for the local host, and Unavailable.
    """
    if host.is_local:
        raise UsageError(f"host {host.name} is this machine: there is no key to trust")
    line = transports.line(host)
    key = await line.shown_key()
    kind, data, *_ = key.export_public_key().decode().split()
    return HostKeyScan(
        shown=ShownKey(f"{kind} {data}", fingerprint(key)),
        pinned=tuple(map(fingerprint, known_keys(line.hop))),
    )
