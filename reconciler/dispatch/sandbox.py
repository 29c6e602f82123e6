"""
Sandbox: shell text that puts a command of a run into bubblewrap, and that tries it on a host.

It lists what may be seen: what nobody thought of is not in it. Nothing here does I/O.
"""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    *("run", "bwrap", "safe", "inner", "at"),
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


LOOK_UP = "bwrap=$(command -v bwrap) && safe=$PATH || give_up sandbox"
"""First line of a job: the programs that set up its sandbox, before specs put folders on the PATH."""
MAKE_TEMPORARY = 'rm -rf "$run/tmp"; mkdir -m 700 "$run/tmp" || give_up workspace'
"""Line of a job that makes the folder for temporary files, which its supervisor removes."""


def confined(confinement: Confinement, env: Iterable[str]) -> str:
    """
    Return the shell function `confined COMMAND...`, which becomes the command in the sandbox.

    It needs `$bwrap` and `$safe` (see `LOOK_UP`), `$run` with a folder `tmp`, and in `$at` the
    program of the agent, if there is one. `env` are the names of variables that the specs set.

    bubblewrap mounts in the order of its arguments, and each line puts its own before those that
    are there: what counts most is first here.
    """
    sandbox, work = confinement.sandbox, shlex.quote(confinement.work)
    unshare = "--unshare-user --unshare-all" + (" --share-net" if sandbox.network else "")
    return "\n".join(
        (
            "confined() {",
            "inner=$PATH PATH=$safe",
            *_clear_environment((*env, *(["SSH_AUTH_SOCK"] if confinement.forwards_agent else []))),
            f'set -- --chdir {work} -- "$@"',
            *(_FORWARD if confinement.forwards_agent else ()),
            *_hide((*sandbox.hidden, *_KEYS)),
            *_bind("--bind-try", confinement.writable),
            *_bind("--bind", (confinement.work,)),
            *_bind("--ro-bind-try", confinement.readable),
            f'set -- --tmpfs {shlex.quote(confinement.fleet)} "$@"',
            *_grant(sandbox),
            *_PROGRAMS.format(work=work).splitlines(),
            *_BASE.splitlines(),
            *_bind("--ro-bind-try", _SYSTEM),
            'set -- --die-with-parent --setenv TMPDIR /tmp --setenv IS_SANDBOX 1 "$@"',
            f'set -- {unshare} --cap-drop ALL "$@"',
            'PATH=$inner; exec "$bwrap" "$@"',
            "}",
        )
    )


def probe_text(sandbox: "Sandbox") -> str:
    """
    Return shell text that tries a sandbox in `$folder`, and tells the fact `sandbox`.

    That is `works`, `missing`, or how bubblewrap failed.
    """
    confinement = Confinement(sandbox=sandbox, work="/usr", fleet="/var")
    return "\n".join(
        (
            'try_sandbox() ( run=$folder at= && mkdir -p "$folder/tmp" || return',
            f'bwrap=$(command -v bwrap) && safe=$PATH || {{ echo "bwrap: {MISSING}"; return 1; }}',
            confined(confinement, ()),
            "confined true )",
            'said=$(try_sandbox 2>&1) && said="bwrap: works"',
            'said=${said#"${said%%bwrap: *}"}; said=${said#bwrap: }',
            "said=$(echo \"$said\" | sed '1!d')",
            'fact sandbox "${said:-it says nothing}"',
        )
    )


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
