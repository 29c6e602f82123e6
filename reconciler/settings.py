"""
Settings of the process; those of the fleet are in `specs/fleet.yaml`.
"""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from reconciler.core.names import DEFAULT_SHARD


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """How the HTTP API is served."""

    listen: str
    """Address and port, such as `127.0.0.1:8420`."""

    tls_cert: Path | None = None
    """Certificate chain, PEM."""

    tls_key: Path | None = None
    """Its private key, PEM."""

    behind_proxy: bool = False
    """Whether it is behind a proxy that terminates TLS and forwards the peers' addresses."""

    public_url: str = ""
    """URL by which others reach it, without a slash at the end; empty if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the fleet is and how this process serves it."""

    repo: str
    """Git repository of the fleet: a bare or ordinary one by its path, or a remote one by its URL."""

    branch: str | None = None
    """Branch with the specs; the repository's HEAD if None."""

    data_dir: Path
    """Caches, logs, and the local host's runs and workspaces. Nothing in it is the only copy of state."""

    shard: str = DEFAULT_SHARD
    """Part of the fleet that is reconciled, of those in `shards` of fleet.yaml; what none of them has."""

    machine_dir: Path | None = None
    """What the machine remembers of its fleets apart from their data folders; None: nothing."""

    take_over: bool = False
    """Whether local runs of another machine, which is gone for good, are restarted here."""

    allowed_signers: Path | None = None
    """Who may sign specs, as in git's `gpg.ssh.allowedSignersFile`; None: they need not be signed."""

    signing_key: Path | None = None
    """SSH key with which the reconciler signs its commits to specs and record; None: it does not."""

    web: Web | None = None
    """The HTTP API; None: there is none."""

    sweep_interval: timedelta = timedelta(hours=1)
    """Interval at which workspaces and run folders that are no longer needed are removed from each host."""

    keep_logs: timedelta = timedelta(days=30)
    """How long logs of agents are kept in the data folder once their tasks are settled."""

    keep_logs_mb: int = 4096
    """Most disk for these logs, in MiB; the oldest are removed first. Those of open tasks always stay."""

    stop_grace: timedelta = timedelta(seconds=2)
    """Longest time from SIGTERM to the end of the process; runs go on."""
