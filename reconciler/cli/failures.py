"""
Failures of tasks, with local details: the end of the agent's output, the workspace.
"""

import glob
from dataclasses import replace
from pathlib import Path

from reconciler.cli.terminal import value_block
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Desired, Host
from reconciler.core.model.status import Phase, Status
from reconciler.core.runs.failure import LINES, FailureSummary, summarize_failure, summary_rows
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.paths import DEFAULT_WORKDIR, local_folder
from reconciler.dispatch.protocol import folder_name

END = 16_384
"""Bytes that are read from the end of a log."""


def describe_failure(task: str, status: Status | None, desired: Desired, data: Path) -> FailureSummary | None:
    """
    Return why a task's last run failed, with local details; None if it did not.

    `data` is this fleet's data folder.
    """
    if status is None or status.failure is None:
        return None
    is_shown = status.failure.kind is not FailureClass.VALIDATION and not _has_secrets(status, desired)
    summary = summarize_failure(task, status, _printed(data, status) if is_shown else "")
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


def _has_secrets(status: Status, desired: Desired) -> bool:
    """Return whether a log may contain injected secrets, which only the injecting process could mask."""
    adapter = desired.adapters.get(status.run.adapter or "") if status.run else None
    return adapter is None or bool(adapter.secrets)


def _printed(data: Path, status: Status) -> str:
    """Return the end of the agent's output in its last round, if it is on this machine: errors first."""
    if status.run is None:
        return ""
    logs = LogFolder(data / "logs").paths(status.run.key)
    paths = [path for label, path in logs if "validation" not in label]
    for stream in ("err", "out"):
        path = next((each for each in reversed(paths) if each.name == stream), None)
        if path and (text := _end(path)).strip():
            return text
    return ""


def _end(path: Path) -> str:
    """Return the last whole lines of a file; empty for one that holds events for programs."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - END))
        text = file.read().decode("utf-8", "replace")
    lines = text.splitlines()[1 if size > END else 0 :]
    return "\n".join(line for line in lines[-LINES * 3 :] if not line.startswith(("{", "[")))


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


def failure_text(summary: FailureSummary) -> str:
    """Return a failure as lines for people, its cause first."""
    return value_block((name, value) for name, value in summary_rows(summary) if value)
