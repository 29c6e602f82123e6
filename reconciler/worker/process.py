"""
A command as a process group: begun once it is on record, and ended as a whole.
"""

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from reconciler.core.masking import Mask
from reconciler.dispatch.scripts import script_file
from reconciler.git.process import PLACES
from reconciler.subprocesses import end, start

GRACE = 15.0
"""Seconds between TERM and KILL."""

_GATE = 'read -r go && [ "$go" = go ] || exit 125; exec <"$RECONCILER_PROMPT_FILE"; exec sh -c "$0"'
"""Waits for a line on stdin; if we die before writing it, the command never starts."""
_WRAPPER = ("sh", str(script_file("wrapper")))
_TICK = 0.05
_SECRET = re.compile(
    r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|PRIVATE_?KEY|_KEY$|_DSN$|DATABASE_URL", re.IGNORECASE
)
_PROC = Path("/proc")


@asynccontextmanager
async def run_command(
    command: str, *, folder: Path, env: Mapping[str, str], output: Path, record: Callable[[str], None]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """
    Run shell text with the prompt as its input, and end all that it started on the way out.

    `env` names the prompt (`RECONCILER_PROMPT_FILE`). What is printed goes to
    the end of the file `output`. `record` is told the identity of the process
    before the command begins. It is held together in the way of runs on hosts,
    by the same script, which keeps its records in a folder beside `output`.
    """
    records = records_beside(output)
    records.mkdir(exist_ok=True)
    with output.open("ab") as out:
        process = await start(
            *_WRAPPER,
            "hold",
            str(records),
            "sh",
            "-c",
            _GATE,
            command,
            cwd=folder,
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=out,
            stderr=out,
        )
    try:
        record(identity(process.pid))
        if process.stdin is not None:
            process.stdin.write(b"go\n")
            process.stdin.close()
        yield process
    finally:
        await _end(process, records)


def records_beside(output: Path) -> Path:
    """Return the folder of what is known of the processes that print to a file."""
    return output.with_name("run")


async def _end(process: asyncio.subprocess.Process, records: Path) -> None:
    """End the command, with a grace period, and all its processes."""
    if process.returncode is None:
        await _end_held(records)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), GRACE)
    await end(process)


async def _end_held(records: Path) -> None:
    ending = await asyncio.create_subprocess_exec(
        *_WRAPPER,
        "end",
        str(records),
        "TERM",
        str(int(GRACE)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await ending.wait()


def environment() -> dict[str, str]:
    """Return the environment for commands: without our settings, such as the token, or places of git's."""
    return {
        name: value
        for name, value in os.environ.items()
        if not (name.startswith("RECONCILER_") or PLACES.match(name))
    }


def mask() -> Mask:
    """Return a mask for the secrets in our environment, recognised by the names of their variables."""
    return Mask(frozenset(value for name, value in os.environ.items() if _SECRET.search(name)))


# --- Of an earlier life ----------------------------------------------------


def identity(pid: int) -> str:
    """Return an identity for a process that is never reused: pid, boot id and start time."""
    return f"{pid} {_boot()} {_start_time(pid)}"


async def end_left_over(identity: str, records: Path) -> None:
    """End the process that an earlier run of this program left, with its children, if it still runs."""
    grace = GRACE if await asyncio.to_thread(records.is_dir) else 0  # otherwise nothing supervises it
    number, boot, born = identity.split(" ", 2)
    pid = int(number)
    if boot != _boot():
        return
    await _end_held(records)
    with suppress(TimeoutError):
        async with asyncio.timeout(grace):
            while _start_time(pid) == born:  # noqa: ASYNC110 - nobody tells us of the end of what is not our child
                await asyncio.sleep(_TICK)
    if _start_time(pid) in {born, ""}:  # otherwise the pid was reused
        _signal(pid, signal.SIGKILL)


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _boot() -> str:
    """Return the boot id of the machine; empty where there is none."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "-"


def _start_time(pid: int) -> str:
    """Return the start time of a process in the system's own format; empty if it is gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        if (_PROC / "self/stat").exists():
            return ""
    done = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return "-".join(done.stdout.split())
