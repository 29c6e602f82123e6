"""
Working folders of hosts. A module of its own, since read-only commands need no more.
"""

from pathlib import Path

from reconciler.core.model.specs import Host

DEFAULT_WORKDIR = "~/.local/state/reconciler"
"""Working folder of a host that is reached over SSH."""


def local_folder(host: Host, data: Path) -> Path:
    """Return the working folder of a local host, for its LocalTransport; below `data` by default."""
    return Path(host.workdir).expanduser() if host.workdir else data / "hosts" / host.name
