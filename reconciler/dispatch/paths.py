"""
Working folders of hosts. A module of its own, since read-only commands need no more.
"""

from pathlib import Path

from reconciler.core.model.specs import Host
from reconciler.dispatch.protocol import folder_name

DEFAULT_WORKDIR = "~/.local/state/reconciler"
"""Working folder of a host that is reached over SSH."""


def local_folder(host: Host, data: Path) -> Path:
    """Return the working folder of a local host, for its LocalTransport; below `data` by default."""
    return Path(host.workdir).expanduser() if host.workdir else data / "hosts" / host.name


def workspace_path(host: Host, data: Path, fleet: str, run: str) -> str:
    """Return the workspace of a run on its host; `~` is the home folder of the user there."""
    root = str(local_folder(host, data)) if host.is_local else host.workdir or DEFAULT_WORKDIR
    return f"{root}/{fleet}/work/{folder_name(run)}"
