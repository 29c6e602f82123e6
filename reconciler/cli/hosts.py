"""
Hosts: `host add`, `host check`, `host trust`, `host cordon`, `host uncordon`, `host drain`.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reconciler import clock
from reconciler.cli.change import (
    change,
    is_confirmed,
    reason_option,
    set_fields,
    spec_of,
)
from reconciler.cli.context import Context
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples
from reconciler.cli.output import OutputFormat, output_option, print_document, print_table
from reconciler.cli.pager import busy
from reconciler.cli.params import duration
from reconciler.cli.references import NameParam
from reconciler.core.edits import FieldChanges, cordoning, draining, edit_message, uncordoning
from reconciler.core.errors import Problem, Refused, Unavailable, UsageError
from reconciler.core.model.specs import HostSpec

if TYPE_CHECKING:
    from reconciler.cli.shapes import HostCheckShape
    from reconciler.core.adapter import Adapter
    from reconciler.core.model.specs import Desired, Host
    from reconciler.core.model.status import HostCli
    from reconciler.dispatch.dry_run import DryRun
    from reconciler.dispatch.pool import TransportPool
    from reconciler.dispatch.probe import HostFacts
    from reconciler.dispatch.ssh.trust import HostKeyScan

NO_VALUE = "-"
hosts_argument = click.argument("names", metavar="NAME...", nargs=-1, required=True, type=NameParam("host"))
DecideHost = Callable[[str, HostSpec], FieldChanges | str]
"""Decide which fields of a host change, or why there is nothing to do."""


@click.group(
    epilog=examples(
        "reconciler host add gpu1 agents@gpu1.example.org",
        "reconciler host check",
        "reconciler host drain gpu1 --deadline 1h",
    )
)
def host() -> None:
    """Add, check, trust, cordon and drain hosts."""


# --- check -----------------------------------------------------------------


@host.command(epilog=examples("reconciler host check", "reconciler host check gpu1 -o json"))
@click.argument("names", metavar="[NAME]...", nargs=-1, type=NameParam("host"))
@output_option("table", "wide", help="How to print it; wide: with all that a host told of itself.")
@click.pass_obj
def check(context: Context, names: tuple[str, ...], output: OutputFormat) -> int:
    """
    Probe hosts, and carry out a dry run on each.

    All hosts if none is named, at the same time. Exits 5 if one of them cannot
    be used: it does not answer, lacks something that every run needs, cannot
    start a run, or lacks an adapter that its spec names. Warns of what is not
    kept from agents there.
    """
    checks, problems = asyncio.run(_check(context, names))
    for problem in problems:
        click.echo(str(problem), err=True)
    for each in checks:
        for warning in each.result.warnings if each.result else ():
            click.echo(f"warning: host {each.host.name}: {warning}", err=True)
    if not print_document([check_document(each) for each in checks], output):
        is_wide = output.form == "wide"
        print_table(*_columns(HOST_HEAD, [_host_row(each) for each in checks], is_wide=is_wide))
        if clusters := [_cluster_row(each) for each in checks if each.facts and each.facts.scheduler]:
            click.echo()
            print_table(CLUSTER_HEAD, clusters)
        rows = [row for each in checks for row in _cli_rows(each)]
        if rows:
            click.echo()
            print_table(CLI_HEAD, rows)
    is_well = not problems and all(each.is_usable for each in checks)
    return ExitCode.OK if is_well else ExitCode.ENDED_BADLY


@dataclass(frozen=True, slots=True)
class HostCheck:
    """Result of `host check` for one host."""

    host: "Host"
    facts: "HostFacts | None"
    """None: it did not answer."""
    problems: tuple[str, ...]
    """Problems of the host itself, and what to do about them."""
    result: "DryRun | None" = None
    """Result of the dry run; None if it was not tried."""

    @property
    def clis(self) -> "Mapping[str, HostCli]":
        """Probe result of each requested adapter."""
        clis = (self.facts and self.facts.clis) or {}
        return {name: facts.cli for name, facts in clis.items()}

    @property
    def is_usable(self) -> bool:
        """Whether the host and the adapters that its spec names work; others may be missing."""
        named = self.host.adapters or {}
        return not self.problems and all(cli.ok for name, cli in self.clis.items() if name in named)


async def _check(context: Context, names: Sequence[str]) -> tuple[Sequence[HostCheck], Sequence[Problem]]:
    """Check the named hosts, or all with a valid spec; also return the problems of the others' files."""
    from reconciler.cli.session import pick, spec_folder, specs_here

    desired = await specs_here(context)
    wanted = [pick(desired, "host", desired.hosts, name) for name in names or sorted(desired.hosts)]
    bad = [] if names else [each for each in desired.problems if each.path.startswith(spec_folder("host"))]
    with busy(f"asking {len(wanted)} host{'s' * (len(wanted) != 1)}"):
        return await check_hosts(context, desired, wanted), bad


async def check_hosts(context: Context, desired: "Desired", hosts: "Sequence[Host]") -> Sequence[HostCheck]:
    """Ask hosts what they are and have, and carry out a run that does nothing on each, at the same time."""
    from reconciler.serve.transports import ways

    data = context.data_dir
    async with ways(lambda: desired.hosts, data, is_lasting=False) as transports:
        return await asyncio.gather(
            *(_check_host(host, transports, desired.adapters, data) for host in hosts)
        )


async def _check_host(
    host: "Host", transports: "TransportPool", adapters: "Mapping[str, Adapter]", data: Path
) -> HostCheck:
    from reconciler.dispatch.dry_run import dry_run
    from reconciler.dispatch.paths import local_folder
    from reconciler.dispatch.probe import host_problems, needed_sandboxes, probe

    workdir = str(local_folder(host, data)) if host.is_local else None
    try:
        facts = await probe(
            transports(host), host, adapters, workdir=workdir, sandboxes=needed_sandboxes(host, adapters)
        )
    except (Unavailable, Refused) as error:
        return HostCheck(host, None, (str(error),))
    tried = await dry_run(host, transports(host), token=clock.random_hex())
    return HostCheck(host, facts, (*host_problems(facts, clock.now()), *tried.problems), tried)


HOST_HEAD = (
    "HOST",
    "USABLE",
    "LATENCY",
    "SYSTEM",
    "CORES",
    "LOAD",
    "MEMORY FREE",
    "DISK FREE",
    "GIT",
    "BOOT",
    "ENDS RUNS BY",
    "WHY",
)
ONLY_WIDE = frozenset({"CORES", "MEMORY FREE", "BOOT", "ENDS RUNS BY"})
"""Columns of hosts that `-o wide` shows: all of them together are wider than a terminal."""
CLUSTER_HEAD = ("HOST", "SCHEDULER", "VERSION", "PARTITIONS", "PROCTRACK", "ENDS DETACHED", "SHARED FOLDER")
CLI_HEAD = ("HOST", "ADAPTER", "USABLE", "VERSION", "PATH", "WHY")


def _columns(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, is_wide: bool
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return a table with all of its columns, or without those that are only in a wide one."""
    shown = [number for number, title in enumerate(head) if is_wide or title not in ONLY_WIDE]
    return [head[number] for number in shown], [[row[number] for number in shown] for row in rows]


def _host_row(check: HostCheck) -> Sequence[str]:
    facts, usable = check.facts, "yes" if check.is_usable else "no"
    why = "; ".join(check.problems)
    if facts is None:
        return check.host.name, usable, *[NO_VALUE] * (len(HOST_HEAD) - 3), why
    return (
        check.host.name,
        usable,
        f"{facts.latency * 1000:.0f} ms",
        f"{facts.os or ''} {facts.arch or ''}".strip() or NO_VALUE,
        _shown(facts.cores),
        NO_VALUE if facts.load is None else f"{facts.load:.2f}",
        f"{_gib(facts.memory_free_mb)} of {_gib(facts.memory_mb)}",
        _gib(facts.disk_free_mb),
        facts.git or NO_VALUE,
        (facts.boot_id or NO_VALUE)[:8],
        ", ".join(check.result.held_by if check.result else ()) or NO_VALUE,
        why,
    )


def _cluster_row(check: HostCheck) -> Sequence[str]:
    scheduler = check.facts.scheduler if check.facts else None
    if scheduler is None:
        raise LookupError(f"host {check.host.name} has no scheduler")
    ends = "by Slurm" if scheduler.ends_detached else "by marks"
    is_shared = check.result.is_shared if check.result else None
    shared = {True: "yes", False: "no", None: "not known"}[is_shared]
    partitions = ", ".join(scheduler.partitions) or NO_VALUE
    about = scheduler.name, scheduler.version, partitions, scheduler.proctrack
    return check.host.name, *about, ends, shared


def _cli_rows(check: HostCheck) -> Iterator[Sequence[str]]:
    for name, cli in sorted(check.clis.items()):
        usable = "yes" if cli.ok else "no"
        yield check.host.name, name, usable, cli.version or NO_VALUE, cli.path or NO_VALUE, cli.message


def _shown(number: int | None) -> str:
    return NO_VALUE if number is None else str(number)


def _gib(mebibytes: int | None) -> str:
    return NO_VALUE if mebibytes is None else f"{mebibytes / 1024:.1f} GiB"


def check_document(check: HostCheck) -> "HostCheckShape":
    """Return a checked host as `-o json` prints it."""
    facts = check.facts
    document: HostCheckShape = {
        "host": check.host.name,
        "usable": check.is_usable,
        "reachable": facts is not None,
        "problems": list(check.problems),
        "adapters": {name: cli.model_dump(mode="json") for name, cli in check.clis.items()},
    }
    if facts:
        document["latency_ms"] = round(facts.latency * 1000, 1)
        document["os"] = facts.os
        document["arch"] = facts.arch
        document["cores"] = facts.cores
        document["load"] = facts.load
        document["memory_mb"] = facts.memory_mb
        document["memory_free_mb"] = facts.memory_free_mb
        document["disk_free_mb"] = facts.disk_free_mb
        document["boot_id"] = facts.boot_id
        document["shell"] = facts.shell
        document["git"] = facts.git
        document["sandbox"] = facts.sandbox
        document["egress"] = facts.egress
        if scheduler := facts.scheduler:
            document["scheduler"] = {
                "name": scheduler.name,
                "version": scheduler.version,
                "partitions": list(scheduler.partitions),
                "proctrack": scheduler.proctrack,
                "ends_detached": scheduler.ends_detached,
                "shared_folder": check.result.is_shared if check.result else None,
            }
    if check.result:
        document["ends_runs_by"] = list(check.result.held_by)
        document["warnings"] = list(check.result.warnings)
    return document


# --- trust -----------------------------------------------------------------


@host.command(epilog=examples("reconciler host trust gpu1"))
@click.argument("name", type=NameParam("host"))
@click.option("--yes", is_flag=True, help="Do not ask.")
@reason_option
@click.pass_obj
def trust(context: Context, name: str, yes: bool, reason: str) -> int:
    """
    Pin the key that a host shows.

    Shows its fingerprint, to be compared with what `ssh-keygen -lf
    /etc/ssh/ssh_host_ed25519_key.pub` prints on the host, and after a yes
    writes the key into the host's spec, commits and pushes.
    """
    return asyncio.run(_trust(context, name, reason, is_sure=yes))


@host.command(
    epilog=examples(
        "reconciler host add gpu1 agents@gpu1.example.org",
        "reconciler host add gpu2 10.0.0.7:2222 --identity ~/.ssh/fleet --slots 4 --label gpu",
    )
)
@click.argument("name", type=NameParam("host"))
@click.argument("address", metavar="[USER@]ADDRESS[:PORT]")
@click.option("--identity", metavar="FILE", help="Private key to log in with; the SSH agent if left out.")
@click.option(
    "--jump", metavar="HOST", type=NameParam("host"), help="Another host of the fleet to go through."
)
@click.option("--slots", type=click.IntRange(0, 1000), help="How many runs at once; 2 if left out.")
@click.option("--label", "labels", multiple=True, help="What the host has, such as gpu; may be repeated.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@reason_option
@click.pass_obj
def add(
    context: Context,
    /,
    *,
    name: str,
    address: str,
    yes: bool,
    reason: str,
    labels: Sequence[str],
    **more: Any,
) -> int:
    """
    Add a host to the fleet, its key pinned.

    Shows the fingerprint of the key that it shows, as `host trust` does, and
    after a yes makes specs/hosts/NAME.yaml, commits and pushes.
    """
    fields = {**_address(address), **{key: value for key, value in more.items() if value is not None}}
    if labels:
        fields["labels"] = list(labels)
    return asyncio.run(_add(context, name, fields, reason, is_sure=yes))


def _address(text: str) -> dict[str, Any]:
    """Parse `user@address:port` into fields; an IPv6 address with a port is in brackets."""
    user, _, place = text.rpartition("@")
    match = re.fullmatch(
        r"\[(?P<v6>[^]]+)\](?::(?P<p6>\d+))?|(?P<name>[^:]+):(?P<port>\d+)|(?P<all>.+)", place
    )
    if match is None:
        raise click.UsageError(f"{text!r} is not an address such as agents@gpu1.example.org or 10.0.0.7:2222")
    port = match["p6"] or match["port"]
    fields: dict[str, Any] = {"address": match["v6"] or match["name"] or match["all"]}
    return fields | ({"user": user} if user else {}) | ({"port": int(port)} if port else {})


async def _add(context: Context, name: str, fields: FieldChanges, reason: str, *, is_sure: bool) -> ExitCode:
    from reconciler.cli.session import open_fleet, spec_path
    from reconciler.core.model.specs import Host
    from reconciler.specs.edit import edit
    from reconciler.specs.parse import File

    path = spec_path("host", name)
    async with open_fleet(context) as fleet:
        if name in await fleet.names("host"):
            raise UsageError(
                f"host {name} is there already: edit {path}, or call `reconciler host trust {name}`"
            )
        text = edit("", fields, path=path)
        spec = spec_of(HostSpec, name, File("100644", "", text.encode()))
        new = Host(name=name, **{field: getattr(spec, field) for field in spec.model_fields_set})
        desired, _ = await fleet.recorded()
        scan = await _confirmed(context, new, {**desired.hosts, name: new}, is_sure=is_sure)
        if scan is None:
            return ExitCode.FAILURE
        commit_message = edit_message(f"Add host {name}", f"{scan.shown.fingerprint}\n\n{reason}".strip())
        await fleet.commit(path, edit(text, {"host_key": scan.shown.text}, path=path), commit_message)
    click.echo(f"{name}: added in {path}, its key pinned; `reconciler host check {name}` tries it", err=True)
    return ExitCode.OK


async def _trust(context: Context, name: str, reason: str, *, is_sure: bool) -> ExitCode:
    from reconciler.cli.session import open_fleet, pick, spec_path

    async with open_fleet(context) as fleet:
        file = await fleet.spec_file("host", name)
        desired, _ = await fleet.recorded()
        host = pick(desired, "host", desired.hosts, name)
        scan = await _confirmed(context, host, desired.hosts, is_sure=is_sure)
        if scan is None or scan.is_pinned:
            return ExitCode.OK if scan else ExitCode.FAILURE
        commit_message = edit_message(
            f"Trust the key of host {name}", f"{scan.shown.fingerprint}\n\n{reason}".strip()
        )
        await set_fields(fleet, spec_path("host", name), file, {"host_key": scan.shown.text}, commit_message)
        click.echo(f"{name}: host_key is pinned now", err=True)
    return ExitCode.OK


async def _confirmed(
    context: Context, host: "Host", hosts: "Mapping[str, Host]", *, is_sure: bool
) -> "HostKeyScan | None":
    """Print the key that a host shows; return it if the person confirms it."""
    from reconciler.cli.session import spec_path
    from reconciler.dispatch.ssh.trust import scan_host_key
    from reconciler.serve.transports import ways

    async with ways(lambda: hosts, context.data_dir) as transports:
        scan = await scan_host_key(host, transports)
    click.echo(f"{host.name} shows {scan.shown.fingerprint}")
    if scan.is_pinned:
        click.echo(f"it is pinned in {spec_path('host', host.name)} already", err=True)
        return scan
    _warn(scan)
    refusal = f"without a terminal the key of {host.name} is trusted with --yes"
    if is_confirmed(f"Is this the key of {host.name}?", is_sure=is_sure, refusal=refusal):
        return scan
    click.echo("nothing was changed", err=True)
    return None


def _warn(scan: "HostKeyScan") -> None:
    """Warn if another key was trusted until now."""
    if scan.is_changed:
        for fingerprint in scan.pinned:
            click.echo(f"pinned is {fingerprint}")
        click.echo(
            "THE KEY HAS CHANGED: the host was set up anew, or somebody is in between. "
            "Find out which before you trust it.",
            err=True,
        )


# --- cordon, uncordon, drain -----------------------------------------------


@host.command(epilog=examples("reconciler host cordon gpu1 --reason 'New disk on Friday'"))
@hosts_argument
@reason_option
@click.pass_obj
def cordon(context: Context, names: tuple[str, ...], reason: str) -> None:
    """Cordon hosts: start no new runs there; live ones go on."""
    asyncio.run(_change(context, "Cordon", names, reason, cordoning))


@host.command(epilog=examples("reconciler host uncordon gpu1"))
@hosts_argument
@reason_option
@click.pass_obj
def uncordon(context: Context, names: tuple[str, ...], reason: str) -> None:
    """Uncordon hosts: let them take runs again after a cordon or drain."""
    asyncio.run(_change(context, "Uncordon", names, reason, uncordoning))


@host.command(epilog=examples("reconciler host drain gpu1", "reconciler host drain gpu1 --deadline 1h"))
@hosts_argument
@click.option(
    "--deadline",
    metavar="DURATION",
    callback=duration,
    help="Stop what still runs after this time, such as 1h, and go on with it elsewhere.",
)
@reason_option
@click.pass_obj
def drain(context: Context, names: tuple[str, ...], deadline: timedelta | None, reason: str) -> None:
    """Drain hosts: start no new runs there and let the live ones finish."""
    until = (clock.now() + deadline).replace(microsecond=0) if deadline is not None else None
    asyncio.run(_change(context, "Drain", names, reason, lambda name, spec: draining(name, spec, until)))


async def _change(context: Context, verb: str, names: Sequence[str], reason: str, decide: DecideHost) -> None:
    from reconciler.cli.session import open_fleet

    async with open_fleet(context) as fleet:
        await change(fleet, HostSpec, names, decide, verb=verb, reason=reason)
