"""
Dry run: a run that does nothing, to see whether a host can carry out runs.

It goes the way of every other: the same transport, scripts, quoting, sessions
and proofs. What it brings back is compared, and what it leaves behind must be
gone.
"""

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from reconciler.core.errors import Refused, Unavailable
from reconciler.core.model.specs import Host
from reconciler.core.text import one_line, tail
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.proofs import Proofs
from reconciler.dispatch.protocol import RunState, Stage, agent_id, agent_job
from reconciler.dispatch.retrying import StepFailed
from reconciler.dispatch.runs import Bounds, RunEnding
from reconciler.dispatch.session import HostSession, open_session, usual_pace
from reconciler.dispatch.transport import Transport

DRY_RUN_FOLDER = "host-check"
"""Where these runs are on a host; the folders of fleets beside it are named by their ids."""
_PROMPT = 'it\'s "one" $(two) `three` \\ four\n\tfünf\n'
_SCRIPT = """
[ "$1" = "$REHEARSED" ] || exit 3
cat
id -u >&2
cat /proc/sys/kernel/random/boot_id >&2 2>/dev/null || echo - >&2
if [ -S "${SSH_AUTH_SOCK-}" ]; then echo agent >&2; else echo - >&2; fi
left=$(setsid env -i sh -c 'echo $$; exec sleep 60 </dev/null >/dev/null 2>&1' &) # known once it has begun
echo "$left" >&2
"""
_ENDING = RunEnding(grace=1)
_TIMEOUT = 30.0
_PATIENCE = 60.0
_HELD = {
    "cgroup": "a cgroup of its own",
    "reaper": "its supervisor, the parent of all that loses its own",
    "mark": "a mark in the environment",
}


@dataclass(frozen=True, slots=True)
class DryRun:
    """Result of a dry run."""

    problems: tuple[str, ...] = ()
    """Why no run can be carried out there."""
    warnings: tuple[str, ...] = ()
    """What agents could reach there, and should not."""
    held_by: tuple[str, ...] = ()
    """Means by which the processes of a run are found at its end: `cgroup`, `reaper`, `mark`."""
    is_shared: bool | None = None
    """Whether a node of a cluster has the working folder too; None if that is not known, or not asked."""

    @property
    def description(self) -> str:
        """`held_by` as text for people."""
        return " and ".join(_HELD[each] for each in self.held_by)


async def dry_run(host: Host, transport: Transport, *, token: str) -> DryRun:
    """Carry out a dry run. `token` is random, so that two never collide."""
    with TemporaryDirectory(prefix="reconciler-") as folder:
        logs, proofs = LogFolder(Path(folder) / "logs"), Proofs(Path(folder) / "proofs")
        pace = usual_pace(host)
        try:
            host_session = open_session(
                host, transport, fleet=DRY_RUN_FOLDER, logs=logs, pace=pace, proofs=proofs
            )
        except StepFailed as error:
            return DryRun(problems=(str(error),))
        return await _run_dry(host, host_session, logs, agent_id(f"check.g{token[:8]}.a1", 1))


async def _run_dry(host: Host, session: HostSession, logs: LogFolder, run_id: str) -> DryRun:
    runs, waits_for = session.runs, list[str]()
    try:
        async with asyncio.timeout(_PATIENCE):
            return await _carry_out(host, session, logs, run_id, waits_for)
    except TimeoutError:
        if waits_for:
            warning = f"it could not be tried: after {_PATIENCE:g} s a run still waited {waits_for[-1]}"
            return DryRun(warnings=(warning,))
        return DryRun(problems=(f"no run was over within {_PATIENCE:g} s; see whether it is overloaded",))
    except (Unavailable, Refused) as error:
        return DryRun(problems=(f"no run can be carried out: {error}",))
    finally:
        with suppress(TimeoutError, Unavailable, Refused):
            async with asyncio.timeout(_PATIENCE):
                await runs.cancel(run_id, "cancelled", _ENDING)
                await runs.remove([run_id])
        await runs.close()


async def _carry_out(
    host: Host, session: HostSession, logs: LogFolder, run_id: str, waits_for: list[str]
) -> DryRun:
    """Return what came of the run; as long as it waits in a queue, `waits_for` ends in what for."""

    def look(state: RunState) -> None:
        waits_for[:] = [scheduler.wait_message(state.why)] if state.stage is Stage.QUEUED else []

    runs, scheduler = session.runs, session.scheduler
    env = {**host.env, "REHEARSED": _PROMPT}
    job = scheduler.job_head((), timedelta(seconds=_TIMEOUT)) + agent_job(
        ("sh", "-c", _SCRIPT, "sh", _PROMPT), env=env, folder="/"
    )
    held_by = await runs.means()
    state = await runs.start(run_id, job, _PROMPT.encode(), timeout=_TIMEOUT, ending=_ENDING)
    bounds = Bounds(output=2**20, time=_TIMEOUT, on_look=look)
    state = await runs.follow(run_id, state, bounds, _ENDING)
    stderr = logs.read(run_id, "err").decode(errors="replace")
    if state.stage is not Stage.DONE or state.exit_code != 0:
        if state.why in scheduler.ends:
            return DryRun(problems=(f"no run can be carried out: {scheduler.ends[state.why].message}",))
        how = state.stage if state.stage is not Stage.DONE else f"exit code {state.exit_code}"
        last_lines = one_line(tail(stderr, lines=2, characters=300))
        return DryRun(
            problems=(f"a run that does nothing ended badly ({how}): {last_lines}",), held_by=held_by
        )
    if not runs.proofs.is_ours(run_id, state):
        return DryRun(problems=("somebody else writes the records of runs there",), held_by=held_by)
    if logs.read(run_id, "out") != _PROMPT.encode():
        return DryRun(problems=("a prompt does not arrive there as it was sent",), held_by=held_by)
    uid, boot, agent, left = (stderr.split() + ["-"] * 4)[:4]
    if host.agent_forwarding and agent != "agent":
        return DryRun(
            problems=("no SSH agent is forwarded to it; see SSH_AUTH_SOCK here, AllowAgentForwarding there",),
            held_by=held_by,
        )
    warnings = await _warnings(host, session.transport, uid, boot, "" if scheduler.has_queue else left)
    return DryRun(warnings=tuple(warnings), held_by=held_by, is_shared=scheduler.has_queue or None)


async def _warnings(host: Host, transport: Transport, uid: str, boot: str, left: str) -> list[str]:
    warnings = []
    is_own_user = host.is_local or (uid == str(os.getuid()) and boot == _boot())
    if is_own_user and host.sandbox is None:
        warnings.append(
            "its agents run as the user of the reconciler, and can read and write what it can; "
            "give them a user of their own, or a sandbox (docs/security.md)"
        )
    if left.isdigit():
        script = (
            f"state=$(sed 's/^.*) //' /proc/{left}/stat 2>/dev/null)\n"
            f"case $state in [ZX]*) ;; *) kill -9 {left} 2>/dev/null && echo left ;; esac\n"
        )
        answer = await transport.call((host.shell, "-s"), script.encode(), timeout=_TIMEOUT)
        if b"left" in answer.stdout:
            warnings.append(
                "what clears its environment outlives its run there; install perl or python3, "
                "or let its user make cgroups (docs/security.md)"
            )
    return warnings


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
