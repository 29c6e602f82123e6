"""
Host probe: one script that asks for platform, resources and agent CLIs.
"""

import asyncio
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from reconciler.core.adapter import Adapter, Sandbox, Version
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.model.specs import Host, HostAdapter
from reconciler.core.model.status import HostCli, HostStatus
from reconciler.core.runs.sandbox import sandbox_of
from reconciler.core.text import one_line
from reconciler.core.version import check_version
from reconciler.dispatch.sandbox import egress_fault, probe_text, sandbox_fault
from reconciler.dispatch.schedulers import scheduler_of
from reconciler.dispatch.schedulers.base import SchedulerFacts
from reconciler.dispatch.transport import SAFE_WORD, CommandResult, Transport

N = TypeVar("N", int, float)

_SCRIPT = Path(__file__).with_name("probe.sh")
_DEFAULT_WORKDIR = "~/.local/state/reconciler"
_OVERHEAD = 90.0
"""Seconds for everything but the CLIs: connecting, a slow login shell."""
_LATENCY_TIMEOUT = 15.0
_CLI = re.compile(rb"^cli (\d+) (\d+) (yes|no) (\d+) (.*)\n", re.MULTILINE)
_LITTLE_DISK_MB = 1024
_LEAST_DISK_MB, _LEAST_FILES = 64, 1000
"""Less than this, and no run starts, nor before there is twice as much again: it must not flap."""
_SKEW = timedelta(minutes=5)
"""Clock skew beyond which tokens, certificates and makefiles begin to fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CliFacts:
    """Result of one CLI's version probe."""

    cli: HostCli
    answered: bool = True
    """False if it took too long: then nothing new is known of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """A host as it is now; None where it could not say."""

    latency: float
    """Seconds that the shortest command takes, there and back."""
    os: str | None = None
    arch: str | None = None
    boot_id: str | None = None
    cores: int | None = None
    load: float | None = None
    """Of the last minute."""
    memory_mb: int | None = None
    memory_free_mb: int | None = None
    disk_free_mb: int | None = None
    """Of the disk with the working folder."""
    workdir_writable: bool = False
    """Whether the file operations that a run begins with succeeded there."""
    workdir_fault: str = ""
    """The host's error if they did not."""
    files_free: int | None = None
    """How many more files the disk of the working folder takes."""
    temporary_fault: str = ""
    """Folder for temporary files, if nothing can be written there."""
    environment_fault: str = ""
    """The PATH under the host's `env`, if no shell can be started with it."""
    scripts_fault: str = ""
    """Why the scripts that carry out runs cannot be called there."""
    clock: int | None = None
    """Seconds since 1970, as the host believes."""
    shell: str | None = None
    """Login shell of the user."""
    git: str | None = None
    """Version."""
    sandbox: str | None = None
    """Why no run can be in a sandbox there; empty if it can, None if it was not asked."""
    egress: str | None = None
    """Why no run whose sandbox has an egress list can; as `sandbox`."""
    scheduler: SchedulerFacts | None = None
    """What starts runs there, if it is not the host itself."""
    clis: Mapping[str, CliFacts] | None = None
    """By adapter; those without a version probe are not in it. None if none was asked."""

    @property
    def load_per_core(self) -> float | None:
        """Load divided by the number of cores."""
        return None if self.load is None or not self.cores else self.load / self.cores


async def probe(
    transport: Transport,
    host: Host,
    adapters: Mapping[str, Adapter] | None = None,
    *,
    workdir: str | None = None,
    sandboxes: Sequence[Sandbox] = (),
) -> HostFacts:
    """
    Ask the host for everything; its CLIs only if adapters are given: all at once, each with its time limit.

    `workdir` is that of a local host whose spec names none. In each of `sandboxes` a command
    is run. Raises Unavailable, and Refused if its spec cannot work.
    """
    check_workdir(host)
    adapters_to_probe = [adapter for adapter in offered_adapters(host, adapters or {}) if adapter.version]
    slowest = max((_seconds(adapter) for adapter in adapters_to_probe), default=0)
    script = _script(
        host, adapters_to_probe, workdir or host.workdir or _DEFAULT_WORKDIR, sandboxes=sandboxes
    )
    answer = await transport.call((host.shell, "-s"), script.encode(), timeout=slowest + _OVERHEAD)
    latency = await _latency(transport)
    facts = _facts(host, answer, latency)
    return facts if adapters is None else replace(facts, clis=_clis(host, answer, adapters_to_probe))


def check_workdir(host: Host) -> None:
    """Raise Refused if the working folder of a host is not safe on a command line."""
    folder = "." if host.is_local else (host.workdir or _DEFAULT_WORKDIR).removeprefix("~")
    if not SAFE_WORD.match(folder):
        raise Refused(
            f"host {host.name}: workdir {folder!r} is not safe on a command line; "
            "use a path of letters, digits and any of _ . / + = : , @ % -"
        )


def needed_sandboxes(host: Host, adapters: Mapping[str, Adapter]) -> tuple[Sandbox, ...]:
    """Return a sandbox of each kind that runs on the host need: one with an egress list is another kind."""
    offered = offered_adapters(host, adapters)
    needed = [sandbox for adapter in (None, *offered) if (sandbox := sandbox_of(host, adapter))]
    listing = any(sandbox.destinations for sandbox in needed)
    return (*([Sandbox()] if needed else []), *([_LISTING] if listing else []))


_LISTING = Sandbox(network=("localhost:9",))


def sandbox_problem(facts: HostFacts) -> Iterator[str]:
    """Yield why runs that need a sandbox cannot start on a host: all others can."""
    if facts.sandbox:
        yield f"no sandbox: {facts.sandbox}"
    elif facts.egress:
        yield f"no egress list: {facts.egress}"


def offered_adapters(host: Host, adapters: Mapping[str, Adapter]) -> list[Adapter]:
    """Return the adapters the host offers: those it names, or all."""
    names = adapters if host.adapters is None else host.adapters
    return [adapters[name] for name in names if name in adapters]


def reachable(facts: HostFacts, before: HostStatus | None, now: datetime) -> HostStatus:
    """Return the status of a host that answered; what was not asked, or took too long, stays as it was."""
    fault = "; ".join(faults(facts, was_broken=bool(before and before.fault)))
    is_same = before is not None and before.reachable and bool(before.fault) == bool(fault)
    clis = dict(before.adapters) if before else {}
    for name, new in (facts.clis or {}).items():
        clis[name] = new.cli if new.answered else clis.get(name, new.cli)
    return HostStatus(
        reachable=True,
        since=before.since if before and is_same else now,
        message=fault or "; ".join((*sandbox_problem(facts), *warnings(facts, now))),
        fault=fault,
        os=facts.os,
        arch=facts.arch,
        boot_id=facts.boot_id,
        git=facts.git,
        sandbox=facts.sandbox,
        egress=facts.egress,
        adapters=clis,
    )


def unreachable(error: Unavailable, before: HostStatus | None, now: datetime) -> HostStatus:
    """Return the status of a host that did not answer: the reason, beside what was known before."""
    if before is None:
        return HostStatus(reachable=False, since=now, message=str(error))
    since = now if before.reachable else before.since
    return before.model_copy(update={"reachable": False, "since": since, "message": str(error), "fault": ""})


def host_problems(facts: HostFacts, now: datetime) -> Iterator[str]:
    """Yield what is wrong with a host that answers, and what to do about it; apart from its CLIs."""
    yield from faults(facts)
    yield from sandbox_problem(facts)
    yield from warnings(facts, now)


def faults(facts: HostFacts, *, was_broken: bool = False) -> Iterator[str]:
    """Yield why no run can start on a host, and what to do; without figures, which change at each probe."""
    often = 2 if was_broken else 1
    if facts.scheduler:
        yield from facts.scheduler.faults
    if facts.git is None:
        yield "git is missing; install it, workspaces need it"
    if not facts.workdir_writable:
        why = f" ({facts.workdir_fault})" if facts.workdir_fault else ""
        yield (
            f"the working folder cannot be written to{why}; make room, or change `workdir` or its permissions"
        )
    elif facts.disk_free_mb is not None and facts.disk_free_mb < _LEAST_DISK_MB * often:
        yield (
            f"less than {_LEAST_DISK_MB} MiB of disk are left for the working folder; "
            f"make room: with {2 * _LEAST_DISK_MB} MiB free, runs start again"
        )
    elif facts.files_free is not None and facts.files_free < _LEAST_FILES * often:
        yield f"the disk of the working folder takes less than {_LEAST_FILES} more files; remove some"
    if facts.environment_fault:
        yield f"under the host's `env` no `sh` can be started ({facts.environment_fault}); correct its `env`"
    if facts.temporary_fault:
        yield f"nothing can be written in {facts.temporary_fault} (TMPDIR); make room, or fix its modes"
    if facts.scripts_fault:
        yield facts.scripts_fault


def warnings(facts: HostFacts, now: datetime) -> Iterator[str]:
    """Yield problems of a host that do not prevent runs."""
    if facts.disk_free_mb is not None and _LEAST_DISK_MB <= facts.disk_free_mb < _LITTLE_DISK_MB:
        yield f"less than {_LITTLE_DISK_MB} MiB of disk are left for the working folder; make room"
    if facts.clock is not None and abs(now.timestamp() - facts.clock) > _SKEW.total_seconds():
        yield f"its clock is off by more than {_SKEW.seconds // 60} minutes; set it (NTP)"


async def _latency(transport: Transport) -> float:
    """Return how long the shortest command takes over the open connection."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    await transport.call(("true",), timeout=_LATENCY_TIMEOUT)
    return loop.time() - before


def _script(host: Host, adapters: Sequence[Adapter], workdir: str, *, sandboxes: Sequence[Sandbox]) -> str:
    asks = [f"( {_ask(number, host, adapter)} ) &" for number, adapter in enumerate(adapters)]
    tells = [f"tell {number}" for number in range(len(adapters))]
    place = f'"$HOME"/{shlex.quote(workdir[2:])}' if workdir.startswith("~/") else shlex.quote(workdir)
    lines = [
        f"workdir={place} shell={shlex.quote(host.shell)}",
        f"set_env() {{ :; {_exports(host.env)}}}",
        _SCRIPT.read_text(),
        *asks,
        "tell_host",
        *map(probe_text, sandboxes),
        scheduler_of(host).probe,
        "wait",
        *tells,
        "echo end",
    ]
    return "\n".join(lines) + "\n"


def _ask(number: int, host: Host, adapter: Adapter) -> str:
    exports = _exports({**host.env, **adapter.env})
    path = shlex.quote(_on_host(host, adapter.name).path or "")
    return f"{exports}ask {number} {_seconds(adapter)} {path} {shlex.join(_version(adapter).command)}"


def _exports(env: Mapping[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}; " for name, value in env.items())


def _facts(host: Host, answer: CommandResult, latency: float) -> HostFacts:
    if answer.exit_code != 0 or not answer.stdout.endswith(b"\nend\n"):
        message = one_line(answer.stderr.decode(errors="replace"), 200)
        raise Unavailable(
            f"host {host.name}: probe: no complete answer (exit code {answer.exit_code}: {message!r}); "
            "see whether it has memory left, and how many processes its user may have"
        )
    values: dict[str, str] = {}
    for line in answer.stdout.partition(b"\ncli ")[0].decode(errors="replace").splitlines():
        name, _, value = line.partition(" ")
        values[name] = one_line(value)
    facts = HostFacts(
        latency=latency,
        os=values.get("os"),
        arch=values.get("arch"),
        boot_id=values.get("boot"),
        cores=_number(values, "cores", int),
        load=_number(values, "load", float),
        memory_mb=_number(values, "memory", int),
        memory_free_mb=_number(values, "memory_free", int),
        disk_free_mb=_number(values, "disk_free", int),
        workdir_writable="writable" in values,
        workdir_fault=values.get("fault", ""),
        files_free=_number(values, "files_free", int),
        temporary_fault=values.get("temporary", ""),
        environment_fault=values.get("environment", ""),
        clock=_number(values, "clock", int),
        shell=values.get("shell"),
        git=values["git"].removeprefix("git version ") if "git" in values else None,
        sandbox=sandbox_fault(values["sandbox"], values.get("os")) if "sandbox" in values else None,
        egress=egress_fault(values["egress"]) if "egress" in values else None,
    )
    return _with_scheduler(host, facts, values)


def _with_scheduler(host: Host, facts: HostFacts, values: Mapping[str, str]) -> HostFacts:
    """
    Return the facts of a host with those of its scheduler; it is as unreachable as that.

    A login node may be another at each connection, and its load is not that of the nodes.
    """
    try:
        scheduler = scheduler_of(host).facts(values)
    except Unavailable as error:
        raise Unavailable(f"host {host.name}: {error}") from error
    return replace(facts, scheduler=scheduler, boot_id=None, load=None) if scheduler else facts


def _number(values: Mapping[str, str], name: str, kind: Callable[[str], N]) -> N | None:
    """Return the number in a text; None if it is empty or malformed."""
    try:
        return kind(values[name])
    except (KeyError, ValueError):
        return None


def _clis(host: Host, answer: CommandResult, adapters: Sequence[Adapter]) -> dict[str, CliFacts]:
    clis = {}
    position = 0
    while match := _CLI.search(answer.stdout, position):
        adapter, size = adapters[int(match[1])], int(match[4])
        position = match.end() + size
        printed = answer.stdout[match.end() : position].decode(errors="replace")
        clis[adapter.name] = _cli(host, adapter, match, printed)
    return clis


def _cli(host: Host, adapter: Adapter, match: re.Match[bytes], printed: str) -> CliFacts:
    """Return what one CLI's answer means."""
    command = shlex.join(_version(adapter).command)
    code, is_late, path = int(match[2]), match[3] == b"yes", match[5].decode(errors="replace") or None
    if is_late:
        message = f"`{command}` gave no answer within {_seconds(adapter)} s"
        return CliFacts(cli=HostCli(path=path, ok=False, message=message), answered=False)
    if path is None:
        program = _version(adapter).command[0]
        message = f"{program} is not there; install it, or name its `path` under the host's `adapters`"
        return CliFacts(cli=HostCli(ok=False, message=message))
    if code != 0:
        message = f"`{command}` ended with {code}: {one_line(printed, 200)}"
        return CliFacts(cli=HostCli(path=path, ok=False, message=message))
    check = check_version(_version(adapter), printed, _on_host(host, adapter.name).version)
    return CliFacts(cli=HostCli(path=path, version=check.version, ok=check.ok, message=check.message))


def _version(adapter: Adapter) -> Version:
    """Return the version probe of an adapter that was asked, and so has one."""
    return adapter.version or Version(command=())


def _seconds(adapter: Adapter) -> int:
    """Return the time limit of a version probe, as sleep(1) takes it everywhere."""
    return max(1, math.ceil(_version(adapter).timeout.total_seconds()))


def _on_host(host: Host, adapter: str) -> HostAdapter:
    return (host.adapters or {}).get(adapter, HostAdapter())
