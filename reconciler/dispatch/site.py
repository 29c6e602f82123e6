"""
One host with all that is needed to work there.
"""

from dataclasses import dataclass
from pathlib import Path

from reconciler.core.model import FailureClass, Host
from reconciler.dispatch.logs import Logs
from reconciler.dispatch.runs import LOCAL_PACE, REMOTE_PACE, Pace, Runs
from reconciler.dispatch.scripts import Scripts
from reconciler.dispatch.steps import StepFailed
from reconciler.dispatch.transport import SAFE_WORD, Transport
from reconciler.dispatch.workspace import Workspaces

DEFAULT_WORKDIR = "~/.local/state/reconciler"


@dataclass(frozen=True, slots=True)
class Site:
    """The runs and the workspaces of one fleet on one host."""

    transport: Transport
    shell: str
    workdir: str | None
    runs: Runs
    workspaces: Workspaces


def open_site(host: Host, transport: Transport, *, fleet: str, logs: Logs, pace: Pace) -> Site:
    """Return the site of a host; nothing is sent yet. Raises StepFailed if its spec cannot work."""
    folder = f"{workdir(host)}/{fleet}"
    scripts = Scripts(
        transport, host=host.name, shell=_safe(host, "shell", host.shell), workdir=workdir(host)
    )
    return Site(
        transport=transport,
        shell=host.shell,
        workdir=host.workdir,
        runs=Runs(scripts, transport, root=f"{folder}/runs", logs=logs, pace=pace),
        workspaces=Workspaces(scripts, fleet=folder, shares_mirrors=host.is_local),
    )


def usual_pace(host: Host) -> Pace:
    """Return how often the follower looks at a host."""
    return LOCAL_PACE if host.is_local else REMOTE_PACE


def workdir(host: Host) -> str:
    """
    Return the working folder of a host as a word of a command line.

    A local transport's commands start there. Raises StepFailed for a folder that is no safe word.
    """
    if host.is_local:
        return "."
    folder = host.workdir or DEFAULT_WORKDIR
    return _safe(host, "workdir", f"$HOME{folder[1:]}" if folder.startswith("~/") else folder)


def local_folder(host: Host, data: Path) -> Path:
    """Return the working folder of a local host, for its LocalTransport; below `data` by default."""
    return Path(host.workdir).expanduser() if host.workdir else data / "hosts" / host.name


def _safe(host: Host, field: str, word: str) -> str:
    if not SAFE_WORD.match(word):
        raise StepFailed(
            FailureClass.CONFIG,
            f"host {host.name}: {field} {word!r} cannot stand on a command line; "
            "use a path of letters, digits and any of _ . / + = : , @ % -",
        )
    return word
