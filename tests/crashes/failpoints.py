"""
Failpoints: the reconciler, ended by `os._exit` before or after a side effect that is named here.

A failpoint is a function of the program by its place; a process of its own wraps it and runs
a command: `python failpoints.py GROUP NUMBER before|after ARGUMENTS...`. Nothing of it is in
the program.
"""

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import Any, Literal

When = Literal["before", "after"]
DIED = 77
"""Exit code of a process that came to its failpoint."""


@dataclass(frozen=True, slots=True)
class Failpoint:
    """A side effect, and the function that has it."""

    name: str
    place: str
    """`module:Class.method`, in the package."""
    about: str = ""
    """Only calls whose arguments, as text, have this."""


RUN_POINTS: Sequence[Failpoint] = (
    Failpoint("take the lease", "store.leader:LeaderLease.take"),
    Failpoint("fetch", "git.repository:Repository.fetch"),
    Failpoint("parse", "specs.source:SpecSource.read"),
    Failpoint("plan", "core.planning.incremental:Planner.plan"),
    Failpoint("commit created", "store.state:StateBranch._record", "event=Created("),
    Failpoint("commit assigned", "store.state:StateBranch._record", "event=Assigned("),
    Failpoint("move the ref", "store.writer:Writer._stream_through"),
    Failpoint("sync the folders", "store.writer:Writer._sync"),
    Failpoint("push", "store.state:StateBranch._push"),
    Failpoint("mark", "store.high_water:MarkFile.store"),
    Failpoint("draw the proof", "dispatch.proofs:Proofs.draw"),
    Failpoint("workspace", "dispatch.workspace:Workspaces.prepare"),
    Failpoint("launch", "dispatch.runs:Runs.start"),
    Failpoint("commit running", "store.state:StateBranch._record", "event=Started("),
    Failpoint("read", "dispatch.round:Round._judge"),
    Failpoint("take up", "dispatch.workspace:Workspaces.take_up"),
    Failpoint("bring back", "dispatch.repos:CodeRepository.receive"),
    Failpoint("push branch", "dispatch.repos:CodeRepository._push"),
    Failpoint("commit the end", "store.state:StateBranch._record", "event=Completed("),
    Failpoint("clean up workspaces", "dispatch.workspace:Workspaces.remove"),
    Failpoint("clean up runs", "dispatch.runs:Runs.remove"),
    Failpoint("release the lease", "store.leader:LeaderLease.release"),
)
FORGE_POINTS: Sequence[Failpoint] = (
    Failpoint("keep the webhook", "forge.journal:Journal.add"),
    Failpoint("settle the webhook", "forge.journal:Journal.complete"),
    Failpoint("take up the issue", "store.bot_commits:BotCommitter.put"),
    Failpoint("commit review_pending", "store.state:StateBranch._record", "event=Submitted("),
    Failpoint("open pull request", "forge.writer:ForgeWriter._open"),
    Failpoint("write its text", "forge.writer:ForgeWriter._write_text"),
    Failpoint("label", "forge.writer:ForgeWriter._set_phase"),
    Failpoint("set a commit status", "forge.writer:ForgeWriter.commit_status"),
    Failpoint("commit the pull request", "store.state:StateBranch._record", "event=PullRequestOpened("),
    Failpoint("commit the review", "store.state:StateBranch._record", "event=ChangesRequested("),
    Failpoint("merge", "forge.writer:ForgeWriter._merge"),
    Failpoint("commit the merge", "store.state:StateBranch._record", "event=Completed("),
    Failpoint("comment", "forge.writer:ForgeWriter.upsert_comment"),
    Failpoint("close the issue", "forge.writer:ForgeWriter._close_issue"),
)
AGENT_POINTS: Sequence[Failpoint] = (
    Failpoint("take", "controller.leases:WorkerLeases.acquire"),
    Failpoint("commit assigned", "store.state:StateBranch._record", "event=Assigned("),
    Failpoint("hand out", "controller.leases:WorkerLeases.settle", "LeaseRequest("),
    Failpoint("begin", "controller.leases:WorkerLeases.submit", "claim=None"),
    Failpoint("commit running", "store.state:StateBranch._record", "event=Started("),
    Failpoint("heartbeat", "controller.leases:WorkerLeases.heartbeat"),
    Failpoint("keep the log", "dispatch.worker_logs:AgentLogs.append"),
    Failpoint("report", "controller.leases:WorkerLeases.submit", "claim=Claim("),
    Failpoint("commit the report", "store.state:StateBranch._record", "event=Reported("),
    Failpoint("verify", "dispatch.dispatcher:Dispatcher.verify"),
    Failpoint("commit the end", "store.state:StateBranch._record", "event=Completed("),
    Failpoint("acknowledge", "controller.leases:WorkerLeases.settle", "claim=Claim("),
)
GROUPS: Mapping[str, Sequence[Failpoint]] = {
    "run": RUN_POINTS,
    "forge": FORGE_POINTS,
    "agents": AGENT_POINTS,
}


def armed_command(group: str, point: Failpoint | None, when: When, *args: str) -> list[str]:
    """Return a command of the program that ends at a failpoint, if there is one."""
    if point is None:
        return [sys.executable, "-m", "reconciler", *args]
    return [sys.executable, __file__, group, str(GROUPS[group].index(point)), when, *args]


def arm(point: Failpoint, when: When) -> None:
    """End this process at its next call of the failpoint."""
    owner, name = find(point)
    setattr(owner, name, _failing(getattr(owner, name), point.about, when))


def find(point: Failpoint) -> tuple[Any, str]:
    """Return what has the function of a failpoint, and its name there."""
    module, _, path = point.place.partition(":")
    owner: Any = import_module(f"reconciler.{module}")
    *above, name = path.split(".")
    for step in above:
        owner = getattr(owner, step)
    return owner, name


def _failing(real: Callable[..., Any], about: str, when: When) -> Callable[..., Any]:
    def is_meant(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        return about in f"{args} {kwargs}" if about else True

    @wraps(real)
    async def fail_async(*args: Any, **kwargs: Any) -> Any:
        is_here = is_meant(args, kwargs)
        if is_here and when == "before":
            os._exit(DIED)
        result = await real(*args, **kwargs)
        if is_here and when == "after":
            os._exit(DIED)
        return result

    @wraps(real)
    def fail(*args: Any, **kwargs: Any) -> Any:
        is_here = is_meant(args, kwargs)
        if is_here and when == "before":
            os._exit(DIED)
        result = real(*args, **kwargs)
        if is_here and when == "after":
            os._exit(DIED)
        return result

    return fail_async if inspect.iscoroutinefunction(real) else fail


def _run_armed(group: str, number: str, when: When, *args: str) -> None:
    arm(GROUPS[group][int(number)], when)
    sys.argv = ["reconciler", *args]
    import_module("reconciler.cli.main").main()


if __name__ == "__main__":
    _run_armed(*sys.argv[1:])
