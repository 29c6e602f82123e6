"""
Host session: the runs and workspaces of one fleet on one host.
"""

import shlex
from dataclasses import dataclass

from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Host
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.paths import DEFAULT_WORKDIR
from reconciler.dispatch.proofs import Proofs
from reconciler.dispatch.retrying import StepFailed
from reconciler.dispatch.runs import LOCAL_PACE, QUEUE_PACE, REMOTE_PACE, Pace, Runs
from reconciler.dispatch.schedulers import scheduler_of
from reconciler.dispatch.schedulers.base import Scheduler
from reconciler.dispatch.scripts import Scripts
from reconciler.dispatch.transport import SAFE_WORD, Transport
from reconciler.dispatch.workspace import Workspaces


@dataclass(frozen=True, slots=True)
class HostSession:
    """The runs and the workspaces of one fleet on one host."""

    transport: Transport
    spec: Host
    """As it was when the session was opened."""
    scheduler: Scheduler
    runs: Runs
    workspaces: Workspaces


def open_session(
    host: Host, transport: Transport, *, fleet: str, logs: LogFolder, pace: Pace, proofs: Proofs
) -> HostSession:
    """Return the session of a host; nothing is sent yet. Raises StepFailed if its spec cannot work."""
    folder, scheduler, scripts = f"{workdir(host)}/{fleet}", scheduler_of(host), host_scripts(host, transport)
    return HostSession(
        transport=transport,
        spec=host,
        scheduler=scheduler,
        runs=Runs(
            scripts,
            transport,
            root=f"{folder}/runs",
            logs=logs,
            pace=pace,
            proofs=proofs,
            has_queue=scheduler.has_queue,
        ),
        workspaces=Workspaces(scripts, fleet=folder, shares_mirrors=host.is_local),
    )


def host_scripts(host: Host, transport: Transport) -> Scripts:
    """Return the scripts of a host; nothing is sent yet. Raises StepFailed if its spec cannot work."""
    scheduler = scheduler_of(host)
    return Scripts(
        transport,
        host=host.name,
        shell=_safe(host, "shell", host.shell),
        workdir=workdir(host),
        scheduler=_exports(host) + scheduler.functions if scheduler.functions else "",
    )


def is_same_place(session: HostSession, host: Host) -> bool:
    """Return whether the runs of a host are still carried out as in its session."""
    before = session.spec
    fields = ("shell", "workdir", "scheduler") + (("env",) if host.scheduler else ())
    return all(getattr(before, field) == getattr(host, field) for field in fields)


def usual_pace(host: Host) -> Pace:
    """Return the follower's poll intervals for a host."""
    if host.scheduler:
        return QUEUE_PACE
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


def _exports(host: Host) -> str:
    """Return shell text that sets the host's environment: its scheduler may be found by it alone."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in host.env.items())


def _safe(host: Host, field: str, word: str) -> str:
    if not SAFE_WORD.match(word):
        raise StepFailed(
            FailureClass.CONFIG,
            f"host {host.name}: {field} {word!r} is not safe on a command line; "
            "use a path of letters, digits and any of _ . / + = : , @ % -",
        )
    return word
