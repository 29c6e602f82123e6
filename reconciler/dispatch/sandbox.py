"""
Sandbox: shell text that puts a command of a run into bubblewrap, and that tries it on a host.

It lists what may be seen: what nobody thought of is not in it. Nothing here does I/O but reading the programs
that an egress list needs on a host.
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from reconciler.core.egress import expanded
from reconciler.dispatch.egress_proxy import DENIED, MOST_DENIED

if TYPE_CHECKING:
    from reconciler.core.adapter import Sandbox

_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt"),
    *("/nix/store", "/gnu/store", "/snap", "/sys/devices/system"),
)
"""What of a host every run reads: its programs, their libraries and settings, how many cores there are."""
_KEYS = (
    *("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers", "/etc/sudoers.d"),
    *("/etc/ssh", "/etc/ssl/private", "/etc/pki/tls/private", "/etc/krb5.keytab", "/etc/reconciler"),
    *("/etc/letsencrypt", "/etc/wireguard", "/etc/NetworkManager/system-connections", "/etc/kubernetes"),
)
"""What of that is not for it; most of it none but root could read anyway."""
_KEPT = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "TERM", "TZ", "LANG", "LANGUAGE", "LC_*"),
    *("SSL_CERT_*", "*_proxy", "*_PROXY", "RECONCILER_RUN_DIR"),
    *("run", "bwrap", "python", "safe", "inner", "at"),
)
"""
Variables that come into it from outside; all others are those of the specs. The last are of the job: what a
login exports under such a name has our value by now, without which `$run/tmp` would be the `/tmp` of all.
"""
_DEVICES = "/dev/"
MISSING = "missing"
"""Answer of a host without bubblewrap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """The sandbox of one run; paths are absolute and of the host."""

    sandbox: "Sandbox"
    work: str
    """Workspace."""
    fleet: str
    """Folder with those of all runs, of which nothing is seen but what is named here."""
    writable: tuple[str, ...] = ()
    """Folders of the run itself."""
    readable: tuple[str, ...] = ()
    """The same that it cannot change, such as objects that its workspace borrows; the run does without
    those that are not there."""
    forwards_agent: bool = False
    """Whether the SSH agent of the connection is to be had."""


MAKE_TEMPORARY = 'rm -rf "$run/tmp"; mkdir -m 700 "$run/tmp" || give_up workspace'
"""Line of a job that makes the folder for temporary files, which its supervisor removes."""
MISSING_PYTHON = "python3 is missing"


def look_up(confinement: Confinement) -> list[str]:
    """
    Return the first lines of a job: the programs that set up its sandbox.

    They are looked up before specs put folders on the PATH.
    """
    lines = ["bwrap=$(command -v bwrap) && safe=$PATH || give_up sandbox"]
    if confinement.sandbox.destinations:
        lines += [*_FIND_PYTHON, f'[ -n "$python" ] || {{ echo "{MISSING_PYTHON}" >&2; give_up sandbox; }}']
        lines += _write_programs()
    return lines


_FIND_PYTHON = (
    "has='import asyncio, ipaddress, os, socket, sys; os.pidfd_open(os.getpid()); socket.recv_fds'",
    'python=$(python3 -I -S -c "$has; print(sys.executable)" 2>/dev/null) &&',
    'python=$(readlink -f "$python") || python=',
)
"""Lines that find a Python which can be the proxy."""


@cache
def _write_programs() -> Sequence[str]:
    """Return lines that put the programs of an egress list into the run's folder."""
    end = "END_OF_THE_PROGRAM"
    texts = {name: Path(__file__).with_name(f"{name}.py").read_text("utf-8") for name in _EGRESS}
    return [
        line
        for name, text in texts.items()
        for line in (f"cat >\"$run/{name}.py\" <<'{end}' || give_up workspace", *text.splitlines(), end)
    ]


_EGRESS = ("egress", "egress_proxy")
_INSIDE = "/run/egress.py"
"""Where the first of them is in the sandbox."""
_LOOPBACK = "localhost:"
_UNPRIVILEGED = 1024
"""Ports below are opened by nobody in a sandbox."""


def confined(confinement: Confinement, env: Iterable[str]) -> str:
    """
    Return the shell function `confined COMMAND...`, which becomes the command in the sandbox.

    It needs `$bwrap`, `$safe` and `$python` (see `look_up`), `$run` with a folder `tmp`, and in `$at`
    the program of the agent, if there is one. `env` are the names of variables that the specs set.

    bubblewrap mounts in the order of its arguments, and each line puts its own before those that
    are there: what counts most is first here.
    """
    sandbox, work = confinement.sandbox, shlex.quote(confinement.work)
    unshare = "--unshare-user --unshare-all" + (" --share-net" if sandbox.network is True else "")
    return "\n".join(
        (
            "confined() {",
            "inner=$PATH PATH=$safe",
            *_clear_environment((*env, *(["SSH_AUTH_SOCK"] if confinement.forwards_agent else []))),
            *_hand_out(sandbox.destinations),
            f'set -- --chdir {work} -- "$@"',
            *(_FORWARD if confinement.forwards_agent else ()),
            *_hide((*sandbox.hidden, *_KEYS)),
            *_bind("--bind-try", confinement.writable),
            *_bind("--bind", (confinement.work,)),
            *_bind("--ro-bind-try", confinement.readable),
            f'set -- --tmpfs {shlex.quote(confinement.fleet)} "$@"',
            *_grant(sandbox),
            *_PROGRAMS.format(work=work).splitlines(),
            *(_PYTHON if sandbox.destinations else ()),
            *_BASE.splitlines(),
            *_bind("--ro-bind-try", _SYSTEM),
            'set -- --die-with-parent --setenv TMPDIR /tmp --setenv IS_SANDBOX 1 "$@"',
            f'set -- {unshare} --cap-drop ALL "$@"',
            'set -- "$bwrap" "$@"',
            *_let_out(sandbox.destinations),
            'PATH=$inner; exec "$@"',
            "}",
        )
    )


def _hand_out(destinations: Sequence[str]) -> Sequence[str]:
    """Return lines that put before a command what hands sockets out of its sandbox."""
    return (f'set -- "$python" -I -S {_INSIDE} --inside "$@"',) if destinations else ()


_PYTHON = (
    f'set -- --ro-bind "$run/egress.py" {_INSIDE} "$@"',
    "case $python in /usr/* | /opt/* | /nix/* | /gnu/*) ;;",
    '*) each=${python%/bin/*}; set -- --ro-bind "$each" "$each" "$@" ;; esac',
)
"""Lines that let the program and its Python, wherever that is, be seen in a sandbox."""


def _let_out(destinations: Sequence[str]) -> Sequence[str]:
    """Return lines that put before bubblewrap what starts its proxy."""
    if not destinations:
        return ()
    allowed = [each for text in destinations for each in expanded(text)]
    ports = (int(each[len(_LOOPBACK) :]) for each in allowed if each.startswith(_LOOPBACK))
    args = shlex.join(
        [",".join(map(str, sorted({port for port in ports if port >= _UNPRIVILEGED}))), *allowed]
    )
    return (f'set -- "$python" -I -S "$run/egress.py" "$run/egress_proxy.py" {args} -- "$@"',)


def probe_text(sandbox: "Sandbox") -> str:
    """
    Return shell text that tries a sandbox in `$folder`, and tells the fact `sandbox`, or `egress`.

    That is `works`, `missing`, or how it failed. A sandbox with an egress list is the fact `egress`.
    """
    confinement = Confinement(sandbox=sandbox, work="/usr", fleet="/var")
    fact, which = ("egress", "$") if sandbox.destinations else ("sandbox", "1")
    return "\n".join(
        (
            'try_sandbox() ( run=$folder at= && mkdir -p "$folder/tmp" || return',
            f'command -v bwrap >/dev/null || {{ echo "bwrap: {MISSING}"; return 1; }}',
            "give_up() { exit 1; }",
            *look_up(confinement),
            confined(confinement, ()),
            "confined true )",
            'said=$(try_sandbox 2>&1) && said="bwrap: works"',
            'case $said in *"bwrap: "*) said=${said#"${said%%bwrap: *}"}; said=${said#bwrap: } ;; esac',
            f"said=$(echo \"$said\" | sed '{which}!d')",
            f'fact {fact} "${{said:-it says nothing}}"',
        )
    )


def egress_fault(answer: str) -> str:
    """Return why no run with an egress list can start on a host whose sandboxes work; empty if it can."""
    if answer == "works":
        return ""
    if answer == MISSING_PYTHON:
        return "an egress list needs a python3 of 3.9 or later and Linux 5.3; install it (package `python3`)"
    return f"the egress proxy does not work there ({answer}); see docs/sandbox.md"


def sandbox_fault(answer: str, os: str | None) -> str:
    """Return why no run can be in a sandbox on a host, and what to do, by its answer; empty if it can."""
    if answer == "works":
        return ""
    if answer != MISSING:
        return (
            f"bubblewrap does not work there ({answer}); allow its user to make user namespaces "
            "(docs/sandbox.md)"
        )
    if os not in {None, "Linux"}:
        return f"bubblewrap is for Linux, and this is {os}; let other hosts do what needs a sandbox"
    return "bubblewrap is not there; install it (package `bubblewrap`)"


def denied_egress(stderr: BinaryIO) -> tuple[str, ...]:
    """Return the destinations that the proxy of a run told to have denied, each once."""
    stderr.seek(0)
    matches = (_DENIAL.match(line) for line in stderr)
    destinations = dict.fromkeys(match[1].decode() for match in matches if match)
    return tuple(islice(destinations, MOST_DENIED))


_DENIAL = re.compile(rf"{DENIED}([!-~]{{1,260}}) ".encode())


_FORWARD = ('[ ! -S "${SSH_AUTH_SOCK-}" ] || set -- --bind "$SSH_AUTH_SOCK" "$SSH_AUTH_SOCK" "$@"',)


def _clear_environment(env: Iterable[str]) -> Sequence[str]:
    kept = "|".join((*_KEPT, *env))
    names = "env | sed -n 's/^\\([A-Za-z_][A-Za-z0-9_]*\\)=.*/\\1/p'"
    return [f'for each in $({names}); do case $each in {kept}) ;; *) unset "$each" ;; esac; done']


def _hide(paths: Iterable[str]) -> Sequence[str]:
    return [
        f"for each in {_listed(paths)}; do",
        '  if [ -d "$each" ]; then set -- --tmpfs "$each" "$@"',
        '  elif [ -e "$each" ]; then set -- --ro-bind /dev/null "$each" "$@"; fi',
        "done",
    ]


def _grant(sandbox: "Sandbox") -> Sequence[str]:
    devices = [path for path in sandbox.writable if path.startswith(_DEVICES)]
    folders = [path for path in sandbox.writable if not path.startswith(_DEVICES)]
    made = ['[ -e "$each" ] || mkdir -p "$each" 2>/dev/null || :']
    return [
        *_bind("--dev-bind-try", devices),
        *_bind("--bind-try", folders, first=made),
        *_bind("--ro-bind-try", sandbox.readable),
    ]


def _bind(option: str, paths: Iterable[str], *, first: Sequence[str] = ()) -> Sequence[str]:
    listed = _listed(paths)
    return (
        [f"for each in {listed}; do", *first, f'set -- {option} "$each" "$each" "$@"; done'] if listed else []
    )


def _listed(paths: Iterable[str]) -> str:
    return " ".join(
        f'"$HOME"{shlex.quote(path[1:])}' if path.startswith("~") else shlex.quote(path) for path in paths
    )


_PROGRAMS = """\
program= home=$(readlink -f "${{HOME:-/}}")
case ${{at-}} in /*) program=$(readlink -f "$at") && program=${{program%/*}} ;; esac
IFS=:
for each in $inner $program; do
  case $each in [!/]* | / | "$HOME" | {work} | {work}/* | /usr/* | /bin | /sbin) continue ;; esac
  real=$(readlink -f "$each") || continue
  case $home/ in "${{real%/}}"/*) continue ;; esac # the home itself, however it is spelled
  set -- --ro-bind-try "$each" "$each" "$@"
  [ "${{each##*/}}" != bin ] || [ "${{each%/*}}" = "$HOME" ] || {{
    each=${{each%/*}}/lib
    set -- --ro-bind-try "$each" "$each" "$@"
  }}
done
unset IFS
"""
"""Folders on the PATH and that of the agent's CLI, wherever they are, with the libraries beside them."""

_BASE = """\
case ${HOME-} in /?*) set -- --tmpfs "$HOME" "$@" ;; esac
each=$(readlink -f /etc/resolv.conf) && set -- --ro-bind-try "$each" "$each" "$@"
set -- --dev /dev --proc /proc --bind "$run/tmp" /tmp --bind "$run/tmp" /var/tmp "$@"
"""
