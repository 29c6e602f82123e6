"""
Failures of tasks, with local details: the end of the agent's output, the workspace.
"""

import glob
from dataclasses import replace
from pathlib import Path

from reconciler.core.errors import NotFound, Refused
from reconciler.core.masking import Mask
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Desired, Host
from reconciler.core.model.status import Phase, Status
from reconciler.core.runs.failure import LINES, FailureSummary, summarize_failure
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.paths import DEFAULT_WORKDIR, local_folder
from reconciler.dispatch.protocol import folder_name
from reconciler.dispatch.shown_logs import WITHHELD, ShownLogs

END = 16_384
"""Bytes that are read from the end of a log."""


def describe_failure(
    task: str, status: Status | None, desired: Desired, data: Path, logs: ShownLogs | None = None
) -> FailureSummary | None:
    """
    Return why a task's last run failed, with local details; None if it did not.

    `data` is this fleet's data folder. `logs` are those of the process that
    injected the secrets of runs; without it, of runs with secrets no output is
    read: only that process could mask them.
    """
    if status is None or status.failure is None:
        return None
    is_printed = status.failure.kind is not FailureClass.VALIDATION
    logs = logs or _logs_without_secrets(status, desired, data)
    summary = summarize_failure(task, status, _printed(logs, status) if is_printed else "")
    place = _workspace(status, desired.hosts.get(status.assigned_host or ""), data)
    if not (summary and place):
        return summary
    return replace(summary, workspace=place, kept_until=status.since + desired.fleet.keep_failed)


def local_failure(task: str, status: Status, data: Path) -> FailureSummary | None:
    """Return the failure summary of a run with a workspace in the default local folder; else None."""
    if status.assigned_host is None or not (
        place := _workspace_folder(data / "hosts" / status.assigned_host, status)
    ):
        return None
    why = summarize_failure(task, status)
    return replace(why, workspace=place) if why else None


def _logs_without_secrets(status: Status, desired: Desired, data: Path) -> ShownLogs:
    """Return the logs of a run; withheld if they may contain injected secrets."""
    adapter = desired.adapters.get(status.run.adapter or "") if status.run else None
    mask = Mask(withheld=WITHHELD if adapter is None or adapter.secrets else "")
    return ShownLogs(LogFolder(data / "logs"), lambda _task, _run: mask)


def _printed(logs: ShownLogs, status: Status) -> str:
    """Return the end of the agent's output in its last round, if it is on this machine: errors first."""
    if status.run is None:
        return ""
    parts = [part for part in logs.parts(status.run.key) if "validation" not in part.label]
    for is_error in (True, False):
        part = next((each for each in reversed(parts) if ("(stderr)" in each.label) is is_error), None)
        if part and (text := _end(logs, status.run.key, part.label, part.size)).strip():
            return text
    return ""


def _end(logs: ShownLogs, run: str, label: str, size: int) -> str:
    """Return the last whole lines of a log; empty for one that is withheld, or holds events for programs."""
    try:
        lines = logs.read(run, label, max(0, size - END), size)
    except (NotFound, Refused):
        return ""
    texts = [line.text.rstrip("\n") for line in lines[1 if size > END else 0 :]]
    return "\n".join(text for text in texts[-LINES * 3 :] if not text.startswith(("{", "[")))


def _workspace(status: Status, host: Host | None, data: Path) -> str:
    """Return where the workspace of a failed run is, as `host:path`; the fleet's own id is in the middle."""
    if status.phase is not Phase.FAILED or status.run is None or host is None:
        return ""
    if not host.is_local:
        return f"{host.name}:{host.workdir or DEFAULT_WORKDIR}/*/work/{folder_name(status.run.key)}"
    return _workspace_folder(local_folder(host, data), status)


def _workspace_folder(folder: Path, status: Status) -> str:
    """Return the workspace of a failed run below the working folder of a local host; empty if it is gone."""
    if status.phase is not Phase.FAILED or status.run is None:
        return ""
    folders = sorted(folder.glob(f"*/work/{glob.escape(folder_name(status.run.key))}"))
    return f"{status.assigned_host}:{folders[0]}" if folders else ""
