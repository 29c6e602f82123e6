"""
What `doctor` looks at: this machine, the fleet's repository, its secrets, hosts, repos and forges.

Every check yields what it found, each with the command that puts it right, where there is one.
A check that cannot look tells that, and ends no other.
"""

import asyncio
import os
import re
import shlex
import shutil
import stat
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from reconciler import clock
from reconciler.cli.context import Context
from reconciler.cli.extras import APPRISE, install_command
from reconciler.cli.remedies import with_known_remedy
from reconciler.core.errors import ReconcilerError, Unavailable, UsageError
from reconciler.core.names import DEFAULT_SHARD
from reconciler.core.references import split

if TYPE_CHECKING:
    from reconciler.cli.hosts import HostCheck
    from reconciler.cli.serving import Serving
    from reconciler.cli.session import FleetSession
    from reconciler.core.adapter import Secret
    from reconciler.core.model.specs import Desired, Forge, Host, Repo
    from reconciler.forge.forgejo import ForgeRegistry

Result = Literal["ok", "warning", "failed"]

OLDEST_GIT = (2, 36)
"""Oldest git that syncs what a remote is sent; all else works with older ones."""
LEAST_ROOM = 512 << 20
"""Bytes that must be free where the data folder is."""
LEAST_INODES = 10_000
INSTALL = {
    "claude-code": "npm install -g @anthropic-ai/claude-code",
    "codex": "npm install -g @openai/codex",
    "gemini": "npm install -g @google/gemini-cli",
    "opencode": "npm install -g opencode-ai",
    "qwen": "npm install -g @qwen-code/qwen-code",
}
"""How the CLIs of built-in adapters are installed, for the user that runs them."""


class CheckFinding(NamedTuple):
    """What a check found of one thing."""

    check: str
    """What was looked at: git, identity, repository, specs, …"""
    result: Result
    message: str
    fix: str = ""
    """Command that puts it right; empty if none can."""


async def findings(context: Context) -> AsyncIterator[CheckFinding]:
    """Yield all that is found, this machine first."""
    for check in (_git, _identity, _data):
        async for finding in _guarded(check.__name__.strip("_"), check(context)):
            yield finding
    async for finding in _guarded("repository", _repository(context)):
        yield finding


async def _guarded(name: str, checks: AsyncIterator[CheckFinding]) -> AsyncIterator[CheckFinding]:
    """Yield what a check finds; if it cannot look, that."""
    try:
        async for finding in checks:
            yield finding
    except (ReconcilerError, OSError) as error:
        yield failure(name, with_known_remedy(str(error)))


def failure(check: str, message: str, fix: str = "") -> CheckFinding:
    """Return what is wrong, with the command in the message that puts it right if no other is given."""
    return CheckFinding(check, "failed", message, fix or command_in(message))


def warning(check: str, message: str, fix: str = "") -> CheckFinding:
    """Return what works, but hardly as it should."""
    return CheckFinding(check, "warning", message, fix or command_in(message))


_COMMAND = re.compile(
    r"`((?:reconciler|git|ssh\S*|chmod|sudo|npm|systemctl|loginctl|export) [^`]+)`|call: (git .+)$"
)


def command_in(message: str) -> str:
    """Return the first command that a message tells to type; empty if there is none, or it has a blank."""
    match = _COMMAND.search(message)
    command = (match[1] or match[2]).strip() if match else ""
    return "" if re.search(r"\b(NAME|TASK|ADDRESS|PATH|…)\b", command) else command


# --- This machine ----------------------------------------------------------


async def _git(_: Context) -> AsyncIterator[CheckFinding]:
    from reconciler.git.process import Git

    result = await Git.nowhere().attempt("--version")
    version = result.text.removeprefix("git version ")
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if numbers < OLDEST_GIT:
        message = f"{version} is old: 2.36 and newer keep what is pushed through a loss of power"
        yield warning("git", message, _installs("git"))
    else:
        yield CheckFinding("git", "ok", version)


_PACKAGES: Mapping[str, str] = {
    "apt-get": "sudo apt-get install {}",
    "dnf": "sudo dnf install {}",
    "apk": "sudo apk add --upgrade {}",
    "pacman": "sudo pacman -S {}",
    "zypper": "sudo zypper install {}",
    "brew": "brew upgrade {}",
}
"""How the newest package of a name is installed, by the program that does it."""


def _installs(package: str) -> str:
    """Return the command that installs a package here; empty where none is known to."""
    return next((line.format(package) for tool, line in _PACKAGES.items() if shutil.which(tool)), "")


async def _identity(_: Context) -> AsyncIterator[CheckFinding]:
    from reconciler.git.checkout import Checkout

    if await asyncio.to_thread(Checkout(Path.cwd()).has_identity):
        yield CheckFinding("identity", "ok", "git knows in whose name it commits")
        return
    name, address = (
        "git config --global user.name 'Your Name'",
        "git config --global user.email you@example.org",
    )
    yield failure("identity", "git does not know who commits", f"{name} && {address}")


async def _data(context: Context) -> AsyncIterator[CheckFinding]:
    """Yield whether the data folder, or the place where it will be, can be used."""
    with suppress(UsageError):  # there is no repository: that is told below
        folder = context.data_dir
        for finding in _data_folder(folder):
            yield finding


def _data_folder(folder: Path) -> Iterator[CheckFinding]:
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    quoted = shlex.quote(str(there))
    if not there.is_dir():
        yield failure(
            "data",
            f"{there} is no folder, and the data folder is to be {folder}",
            f"mv {quoted} {quoted}.aside",
        )
        return
    if not os.access(there, os.W_OK | os.X_OK):
        is_mine = there.stat().st_uid == os.geteuid()
        fix = f"chmod u+rwx {quoted}" if is_mine else f"sudo chown -R {os.geteuid()} {quoted}"
        yield failure("data", f"{there}: this user may not write there", fix)
        return
    disk = os.statvfs(there)
    free = disk.f_bavail * disk.f_frsize
    if free < LEAST_ROOM:
        yield failure(
            "data",
            f"{free >> 20} MiB are free at {there}; make room, or name another place (RECONCILER_DATA_DIR)",
            _biggest(quoted),
        )
    elif disk.f_files and disk.f_favail < LEAST_INODES:
        yield failure(
            "data",
            f"{disk.f_favail} inodes are free at {there}",
            f"du -x --inodes {quoted} | sort -n | tail -20",
        )
    else:
        yield CheckFinding("data", "ok", f"{folder}, {free / (1 << 30):.1f} GiB free")


def _biggest(folder: str) -> str:
    """Return the command that lists what takes the most room below a folder, as it is written in a shell."""
    return f"du -axm {folder} | sort -n | tail -20"


# --- The fleet's repository ------------------------------------------------


async def _repository(context: Context) -> AsyncIterator[CheckFinding]:
    from reconciler.cli.session import open_fleet

    async with open_fleet(context) as fleet:
        yield CheckFinding("repository", "ok", f"{fleet.repository}, branch {fleet.branch}")
        desired, _ = await fleet.recorded()
        for name, check in (
            ("specs", _specs(fleet, desired)),
            ("record", _record(fleet)),
            ("reconciler", _reconciler(fleet)),
        ):
            async for finding in _guarded(name, check):
                yield finding
        async for finding in _guarded("secrets", _secrets(desired)):
            yield finding
        async for finding in _guarded("repos", _repos(fleet, desired)):
            yield finding
        if desired.forges:  # what speaks to them takes longest to import
            async for finding in _guarded("forges", _forges(fleet, desired)):
                yield finding
        async for finding in _guarded("hosts", _hosts(context, desired)):
            yield finding


async def _specs(fleet: "FleetSession", desired: "Desired") -> AsyncIterator[CheckFinding]:
    if desired.problems:
        for finding in _broken_files(desired):
            yield finding
    else:
        there = f"{_many(len(desired.tasks), 'task')}, {_many(len(desired.hosts), 'host')}"
        yield CheckFinding("specs", "ok", f"{there}, no mistakes")
    if desired.warnings:
        many = _many(len(desired.warnings), "doubt")
        yield warning("specs", f"{many}: {min(desired.warnings)}", "reconciler validate")
    folder = fleet.repository.folder
    if folder is None:
        return
    at = f"git -C {shlex.quote(str(folder))}"
    lock = fleet.repository.git_dir / "index.lock"
    if lock.exists():
        message = f"{lock} keeps git from committing: left by one that was killed, unless one runs"
        yield failure("specs", message, f"rm {shlex.quote(str(lock))}")
    from reconciler.git.process import Git

    changed = await Git.discovering(folder).attempt("status", "--porcelain", "--", "specs")
    if changed.code == 0 and changed.text:
        count = len(changed.text.splitlines())
        yield warning(
            "specs",
            f"{count} file{'s' * (count != 1)} below specs/ not committed: the reconciler sees none of it",
            f"{at} add specs && {at} commit -m 'Change the specs'",
        )


_MOST_FILES = 5
"""Broken files that are told of one by one."""


def _broken_files(desired: "Desired") -> Iterator[CheckFinding]:
    """Yield each file with mistakes, the first of them and what opens it; then how many more there are."""
    firsts = {problem.path: problem for problem in sorted(desired.problems, reverse=True)}
    for path in sorted(firsts)[:_MOST_FILES]:
        kind, name = split(path)
        fix = f"reconciler edit {kind}/{name}" if kind else "reconciler validate"
        yield failure("specs", str(firsts[path]), fix)
    if len(firsts) > _MOST_FILES:
        yield failure(
            "specs", f"{_many(len(firsts) - _MOST_FILES, 'more file')} with mistakes", "reconciler validate"
        )


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


async def _record(fleet: "FleetSession") -> AsyncIterator[CheckFinding]:
    from reconciler.git.durability import advice
    from reconciler.store.place import why_copy
    from reconciler.store.remote_record import unfetched

    branch = await fleet.state_branch()
    if why := why_copy(fleet.repository):
        yield failure("record", why)
    lines = await fleet.lines(branch)
    rewinds = [await fleet.marks.rewind(line.kind, line.branch, line.head) for line in lines]
    for rewind in filter(None, rewinds):
        yield failure("record", str(rewind))
    for remote in await unfetched(fleet.repository, branch):
        ref = f"{branch}:refs/remotes/{remote.name}/{branch}"
        yield warning(
            "record",
            f"none was fetched from {remote.name}, which may have it",
            f"git fetch {remote.name} {ref}",
        )
    for text in await advice(fleet.repository):
        yield warning("record", text)
    if not any(rewinds):
        head = fleet.line("record", branch).head
        yield CheckFinding(
            "record", "ok", f"{branch} at {head[:10]}" if head else f"{branch}: nothing on it yet"
        )


async def _reconciler(fleet: "FleetSession") -> AsyncIterator[CheckFinding]:
    from reconciler.cli.serving import serving

    branch = await fleet.state_branch()
    shards = await fleet.shards(branch)
    for shard in shards:
        name = "" if len(shards) == 1 else f"shard {shard}: "
        option = "" if shard == DEFAULT_SHARD else f" --shard {shard}"
        for finding in _served(fleet, branch, await serving(fleet, branch, shard), option):
            yield finding._replace(message=f"{name}{finding.message}")


def _served(fleet: "FleetSession", branch: str, who: "Serving", option: str) -> Iterator[CheckFinding]:
    if who.is_running is False:
        if not fleet.repository.is_looked_at_elsewhere(branch):
            yield warning("reconciler", "none runs for this fleet", f"reconciler run{option}")
    elif who.presence and who.presence.error:
        yield failure("reconciler", who.presence.error)
    else:
        place = f"{who.host or 'this machine'} (pid {who.pid or '?'})"
        yield CheckFinding("reconciler", "ok", f"`reconciler {who.mode or 'run'}` on {place}")


# --- Secrets ---------------------------------------------------------------


async def _secrets(desired: "Desired") -> AsyncIterator[CheckFinding]:
    used = {task.adapter for task in desired.tasks.values()}
    for name in sorted(used & desired.adapters.keys()):
        for variable, secret in desired.adapters[name].secrets.items():
            if secret.on == "reconciler":
                yield await _secret(f"{variable} of adapter {name}", secret)
    for repo, forge in sorted(desired.forges.items()):
        for path, secret in forge.secrets.items():
            name = ".".join(path)
            ways: dict[str, _Way] = {"webhook_secret": "drawn", "app.key": "lines"}
            yield await _secret(f"{name} of forge {repo}", secret, ways.get(name, "typed"))
    targets = desired.fleet.notify.targets if desired.fleet.notify else {}
    for target, url in sorted(targets.items()):
        yield await _secret(f"URL of target {target}", url)
    if targets and find_spec("apprise") is None:
        yield failure(
            "notifications", "the package apprise is missing: none can be sent", install_command(APPRISE)
        )
    hosts = (host for host in desired.hosts.values() if host.identity)
    for host in hosts:
        yield _private_file(f"identity of host {host.name}", _home(host.identity or ""))


_Way = Literal["typed", "drawn", "lines"]
"""How a secret is set: typed as one line, drawn by chance, or pasted as the lines of a file."""


async def _secret(what: str, secret: "Secret", way: _Way = "typed") -> CheckFinding:
    from reconciler.dispatch.retrying import StepFailed
    from reconciler.dispatch.secrets import find_secret

    if secret.file:
        finding = _private_file(what, _home(secret.file))
        if finding.result != "ok":
            return finding._replace(fix=finding.fix or _way_to_set(secret, way))
    try:
        value = await find_secret(what, secret)
    except (StepFailed, ReconcilerError) as error:
        return failure("secrets", str(error), _way_to_set(secret, way))
    if not value:
        return failure("secrets", f"{what} is empty", _way_to_set(secret, way))
    return CheckFinding("secrets", "ok", what)


def _home(name: str) -> Path:
    return Path(name).expanduser()


_WAYS: Mapping[_Way, str] = {
    "typed": "printf 'paste it, then Enter: ' >&2; head -n 1",
    "drawn": "head -c 32 /dev/urandom | base64",
    "lines": "echo 'paste its lines, then Ctrl-D:' >&2; cat",
}


def _way_to_set(secret: "Secret", way: _Way) -> str:
    """Return the command that sets a secret without it being in any argument or history."""
    if secret.file:
        file = _home(secret.file)
        folder, name = shlex.quote(str(file.parent)), shlex.quote(str(file))
        return f"(umask 077; mkdir -p {folder}; {_WAYS[way]} >{name})"
    if secret.env:
        return f"printf 'paste it, then Enter: ' >&2; IFS= read -r {secret.env} && export {secret.env}"
    return ""


def _private_file(what: str, file: Path) -> CheckFinding:
    """Return whether a file is there, may be read here, and by nobody else."""
    quoted = shlex.quote(str(file))
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except FileNotFoundError:
        fix = f"ssh-keygen -q -t ed25519 -N '' -f {quoted}" if what.startswith("identity") else ""
        return failure("secrets", f"{what}: {file} is not there", fix)
    except PermissionError:
        return failure("secrets", f"{what}: this user may not look for {file}", _gives(_closed_folder(file)))
    if not os.access(file, os.R_OK):
        fix = f"chmod 600 {quoted}" if file.stat().st_uid == os.geteuid() else _gives(file)
        return failure("secrets", f"{what}: this user may not read {file}", fix)
    if mode & 0o077:
        fix = f"chmod 600 {quoted}"
        return failure("secrets", f"{what}: others may read {file} (mode {mode:o})", fix)
    return CheckFinding("secrets", "ok", what)


def _closed_folder(file: Path) -> Path:
    """Return the folder above a file that keeps this user out."""
    return next((each for each in reversed(file.parents) if not os.access(each, os.X_OK)), file.parent)


def _gives(place: Path) -> str:
    """Return the command that gives a file or folder to this user."""
    return f"sudo chown {os.geteuid()} {shlex.quote(str(place))}"


# --- Code repositories and forges ------------------------------------------


async def _repos(fleet: "FleetSession", desired: "Desired") -> AsyncIterator[CheckFinding]:
    from reconciler.dispatch.repos import whole_url

    base = fleet.repository.folder or fleet.repository.git_dir
    checks = [_repo(each, whole_url(each.url, base)) for each in desired.repos.values()]
    mirrors = [_mirror(name, fleet.context.data_dir) for name in desired.repos]
    for finding in await asyncio.gather(*checks, *mirrors):
        if finding:
            yield finding


async def _mirror(repo: str, data: Path) -> CheckFinding | None:
    """Return whether the mirror of a code repository is damaged; None if it is sound, or not there yet."""
    from reconciler.git.process import Git

    folder = data / "repos" / f"{repo.replace('/', '+')}.git"
    if not folder.is_dir():
        return None
    try:
        checked = await Git.local(folder, timeout=_LONG).attempt(
            "fsck", "--connectivity-only", "--no-dangling"
        )
    except Unavailable:  # it is large, and no damage was met so far
        return None
    if checked.code == 0:
        return None
    message = (
        f"the mirror of {repo}, {folder}, is damaged; it is made again, around what is sound, when a run"
    )
    return warning("repos", f"{message} needs it: {checked.message}")


async def _repo(repo: "Repo", url: str) -> CheckFinding:
    from reconciler.git.process import Git

    fix = f"git ls-remote {shlex.quote(url)}"
    try:
        listed = await Git.nowhere().attempt("ls-remote", "--heads", "--", url, timeout=_LONG)
    except Unavailable as error:
        return failure("repos", f"{repo.name}: {error}", fix)
    if listed.code != 0:
        return failure("repos", f"{repo.name}: {listed.message}", fix)
    heads = [line.partition("refs/heads/")[2] for line in listed.text.splitlines()]
    if repo.base not in heads:
        there = ", ".join(heads[:5]) or "none at all"
        fix = f"reconciler edit repo/{repo.name} --set base={shlex.quote(heads[0])}" if heads else ""
        return failure("repos", f"{repo.name} has no branch {repo.base!r} to start from: {there}", fix)
    return CheckFinding("repos", "ok", f"{repo.name} answers, {repo.base} is there")


_LONG = 20.0


async def _forges(fleet: "FleetSession", desired: "Desired") -> AsyncIterator[CheckFinding]:
    from reconciler.cli.serving import serving
    from reconciler.dispatch.secrets import forge_secret
    from reconciler.forge.forgejo import ForgeRegistry

    who = await serving(fleet, await fleet.state_branch())
    served = who.presence.address if who.presence and who.is_running else ""
    forges = ForgeRegistry(forge_secret, clock.now)
    try:
        for name, forge in sorted(desired.forges.items()):
            results = await _forge(forges, name, forge)
            for finding in results:
                yield finding
            if forge.webhook_secret and all(finding.result == "ok" for finding in results):
                for finding in await _webhooks(fleet.context, forges, name, forge, served):
                    yield finding
    finally:
        await forges.close()


async def _forge(forges: "ForgeRegistry", name: str, forge: "Forge") -> Sequence[CheckFinding]:
    from reconciler.forge.client import Forbidden

    try:
        await forges.open_pulls(forge, "-")  # the least that its token must be let in for
    except ReconcilerError as error:
        is_token = isinstance(error, Forbidden) or "the token is refused" in str(error)
        fix = _way_in(forge) if is_token else _way_to_ask(forge)
        return [failure("forges", f"{name}: {error}", fix)]
    rights = await _rights(name, forge, forge.token) if forge.token else [_let_in(name)]
    return [*rights, *_clock_off(name, forges.offset(forge))]


def _clock_off(name: str, offset: timedelta) -> Sequence[CheckFinding]:
    """Return a warning if a forge's clock is off from ours: all goes on, but people read the wrong times."""
    if abs(offset) < _CLOCKS_AGREE:
        return []
    from reconciler.core.fields import format_duration

    minutes = timedelta(minutes=round(abs(offset) / timedelta(minutes=1)))
    span = f"{format_duration(minutes)} {'ahead of' if offset > timedelta() else 'behind'}"
    return [warning("forges", f"{name}: its clock is {span} this machine's: set one of them by NTP")]


_CLOCKS_AGREE = timedelta(minutes=1)


def _way_in(forge: "Forge") -> str:
    """Return the command that sets what lets the reconciler in."""
    return _way_to_set(forge.credential, "lines" if forge.app else "typed") if forge.credential else ""


def _way_to_ask(forge: "Forge") -> str:
    """Return the command that shows whether a forge answers."""
    from reconciler.forge.dialects import DIALECTS

    path = DIALECTS[forge.kind].probe
    return f"curl -sS {shlex.quote(f'{forge.api}/{path}')}"


async def _rights(name: str, forge: "Forge", token: "Secret") -> Sequence[CheckFinding]:
    """Return which rights the token of a forge lacks, each tried by use: about number 0, which is nothing."""
    from reconciler.dispatch.secrets import forge_secret
    from reconciler.forge.setup import forge_setup

    try:
        async with forge_setup(forge, lambda: forge_secret(token)) as setup:
            missing = await setup.missing_rights(await setup.repository())
            until = await setup.expires_on()
    except ReconcilerError as error:
        return [failure("forges", f"{name}: {error}")]
    if missing:
        fix = _way_to_set(token, "typed")
        return [failure("forges", f"{name}: its token lacks {', '.join(missing)}", fix)]
    if until and until <= (clock.now() + _SOON).date():
        return [warning("forges", f"{name}: its token expires on {until}", _way_to_set(token, "typed"))]
    return [_let_in(name)]


_SOON = timedelta(days=14)
"""So long before a token expires it is told."""


def _let_in(name: str) -> CheckFinding:
    return CheckFinding("forges", "ok", f"{name} answers, and lets the token in")


async def _webhooks(
    context: Context, forges: "ForgeRegistry", name: str, forge: "Forge", served: str
) -> Sequence[CheckFinding]:
    """Return what is found of the webhooks of a repo; nothing of it is a failure: polling goes on."""
    from reconciler.cli.webhook import webhook_check

    try:
        results = await (await webhook_check(context, name, forge, forges, served)).findings(sends=False)
    except ReconcilerError as error:
        return [warning("webhooks", f"{name}: {error}")]
    return [
        CheckFinding(
            "webhooks", "ok" if each.result == "ok" else "warning", f"{name}: {each.message}", each.fix
        )
        for each in results
    ]


# --- Hosts -----------------------------------------------------------------


async def _hosts(context: Context, desired: "Desired") -> AsyncIterator[CheckFinding]:
    from reconciler.cli.hosts import check_hosts

    wanted = [host for host in desired.hosts.values() if host.desired == "active" and not host.cordon]
    for host in desired.hosts.values():
        if host.cordon:
            yield CheckFinding("hosts", "ok", f"{host.name} is cordoned, so it was not asked")
    if any(host.address and not host.identity for host in wanted) and not _has_agent():
        yield warning(
            "hosts",
            "no SSH agent runs, and some hosts name no `identity`: nothing can log in there",
            'eval "$(ssh-agent)" && ssh-add',
        )
    used = {task.adapter for task in desired.tasks.values()}
    checks = await check_hosts(context, desired, wanted)
    for check in checks:
        name, is_well = check.host.name, True
        for problem in check.problems:
            is_well = False
            yield failure("hosts", f"{name}: {problem}", _host_fix(check, problem, context.data_dir))
        for adapter in sorted(_missing_clis(check, checks, used)):
            is_well = False
            fix = _there(check.host, INSTALL.get(adapter, ""))
            yield failure("hosts", f"{name}: {adapter}: {check.clis[adapter].message}", fix)
        for text in check.result.warnings if check.result else ():
            yield warning("hosts", f"{name}: {text}")
        if is_well:
            yield CheckFinding("hosts", "ok", f"{name} can carry out runs")


def _missing_clis(check: "HostCheck", checks: "Sequence[HostCheck]", used: Collection[str]) -> set[str]:
    """Return the CLIs that are missing on a host: those it names; on the first one, those no host has."""
    lacking = {name for name, cli in check.clis.items() if not cli.ok} & set(used)
    if check.host.adapters:
        return lacking & set(check.host.adapters)
    somewhere = {name for each in checks for name, cli in each.clis.items() if cli.ok}
    named = {name for each in checks for name in each.host.adapters or ()}
    is_first = check is next((each for each in checks if each.facts and not each.host.adapters), None)
    return lacking - somewhere - named if is_first else set()


def _host_fix(check: "HostCheck", problem: str, data: Path) -> str:
    """Return what to type about a problem of a host that names no command itself."""
    if command := command_in(problem):
        return command
    if check.facts is None:
        return f"reconciler host cordon {check.host.name} --reason 'does not answer'"
    if "its clock is off" in problem:
        return _there(check.host, "sudo timedatectl set-ntp true")
    if "git is missing" in problem:
        return _there(check.host, _installs("git") or "sudo apt-get install git")
    if "disk" in problem or "room" in problem:
        return _there(check.host, _biggest(_workdir(check.host, data)))
    return ""


def _workdir(host: "Host", data: Path) -> str:
    """Return the working folder of a host, as it is written in a shell there."""
    from reconciler.dispatch.paths import DEFAULT_WORKDIR, local_folder

    if host.is_local:
        return shlex.quote(str(local_folder(host, data)))
    folder = host.workdir or DEFAULT_WORKDIR
    return f"~/{shlex.quote(folder[2:])}" if folder.startswith("~/") else shlex.quote(folder)


def _has_agent() -> bool:
    return bool(os.environ.get("SSH_AUTH_SOCK")) and Path(os.environ["SSH_AUTH_SOCK"]).exists()


def _there(host: "Host", command: str) -> str:
    """Return a command as it is typed here to be carried out on a host."""
    if not command or host.address is None:
        return command
    user = f"{host.user}@" if host.user else ""
    key = f"-i {shlex.quote(host.identity)} " if host.identity else ""
    return f"ssh {key}-p {host.port} {user}{host.address} {shlex.quote(command)}"
