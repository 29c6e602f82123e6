"""
Greeting of a login shell: what is wrong with one that does not just run what it is told.

`misunderstood` and `unended` are read from the top: the first condition that
holds says what is wrong and what to do about it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reconciler.core.text import one_line
from reconciler.dispatch.transport import CommandResult

GREETED, READY = b"reconciler-greeted\n", b"reconciler-ready\n"
"""What the first script over each connection prints."""

_FILES = "its startup files (~/.bashrc, ~/.profile)"
_SHOWN = 100
"""Bytes of its output that are looked at for a message."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """Answer of a login shell to the greeting."""

    answer: CommandResult
    after_eof: bool
    """Whether it ended only once there was no more to read."""

    @property
    def is_understood(self) -> bool:
        """Whether it ran what it was told to, and nothing else came of it."""
        return self.answer.stdout == GREETED + READY and self.answer.exit_code == 0

    @property
    def before(self) -> bytes:
        """What it printed before the answer; nothing if there was none."""
        return self.answer.stdout.partition(GREETED + READY)[0] if self.is_answered else b""

    @property
    def after(self) -> bytes:
        """What it printed after the answer."""
        return self.answer.stdout.partition(GREETED + READY)[2]

    @property
    def is_answered(self) -> bool:
        """Whether the whole answer is there, whatever is around it."""
        return GREETED + READY in self.answer.stdout

    @property
    def message(self) -> str:
        """What it said instead."""
        return one_line((self.answer.stderr or self.answer.stdout).decode(errors="replace"))


def misunderstood(greeted: Greeting, shell: str) -> str:
    """Return what is wrong with a login shell, judging by its answer to the greeting."""
    return next(describe(greeted, shell) for holds, describe in _MISUNDERSTOOD if holds(greeted))


def unended(out: bytes, code: int | None, seconds: float) -> str:
    """Return why a greeting goes on, from what was printed, and the exit code if that came."""
    if READY in out and code is not None:
        return (
            f"the login shell ended, but something that {_FILES} started keeps its output open (`… &`); "
            "give that `</dev/null >/dev/null 2>&1`, or begin them with `[ -t 0 ] || return`"
        )
    if READY in out:
        return (
            f"the login shell did what it was asked to, but did not end within {seconds:g} s; "
            f"see what {_FILES} say is done at its end (`trap … EXIT`, ~/.bash_logout)"
        )
    if out:
        return (
            f"the login shell prints text of its own ({_shown(out)}) and ran nothing within "
            f"{seconds:g} s; see what {_FILES} print, and what they wait for"
        )
    return f"the login shell gave no answer within {seconds:g} s; see what {_FILES} wait for"


def _prints(greeted: Greeting, _: str) -> str:
    when = "before" if greeted.before else "after"
    return (
        f"its login shell prints text {when} each command ({_shown(greeted.before or greeted.after)}); "
        "make its startup files (~/.bashrc, ~/.profile), or what takes their place (ForceCommand), "
        "silent where there is no terminal"
    )


def _changes_exit_code(greeted: Greeting, _: str) -> str:
    return (
        f"its login shell ends each command with exit code {greeted.answer.exit_code}, whatever that was; "
        f"see what {_FILES} say is done at its end (`trap … EXIT`)"
    )


def _reads(_: Greeting, __: str) -> str:
    return (
        "its login shell's startup files (~/.bashrc, ~/.profile) read the input that is meant for the "
        "command; begin them with `[ -t 0 ] || return`, so that they ask only where there is a terminal"
    )


def _redirects(_: Greeting, __: str) -> str:
    return (
        "its login shell's startup files (~/.bashrc, ~/.profile) lead its output elsewhere (`exec >…`); "
        "let them do so only where there is a terminal: begin them with `[ -t 0 ] || return`"
    )


def _allows_files_only(_: Greeting, __: str) -> str:
    return "it allows SFTP and no commands (ForceCommand internal-sftp); allow this user commands there"


def _ends_at_once(greeted: Greeting, _: str) -> str:
    return (
        f"its login shell ended (exit code {greeted.answer.exit_code}) before it ran anything; see whether "
        "its startup files (~/.bashrc, ~/.profile) say `exit`, `set -e` or `exec` with a redirection, and "
        "whether a forced command (ForceCommand, or `command=` in authorized_keys) stands in its place"
    )


def _fails(greeted: Greeting, shell: str) -> str:
    return (
        f"its login shell did not run `{shell} -s` (exit code {greeted.answer.exit_code}: "
        f"{greeted.message!r}); see what {_FILES} do, give the user a login shell, and set `shell` to a "
        "POSIX shell that is there"
    )


_MISUNDERSTOOD: Sequence[tuple[Callable[[Greeting], bool], Callable[[Greeting, str], str]]] = (
    (lambda greeted: bool(greeted.before or greeted.after), _prints),
    (lambda greeted: greeted.is_answered, _changes_exit_code),
    (lambda greeted: READY in greeted.answer.stdout or greeted.after_eof, _reads),
    (lambda greeted: READY in greeted.answer.stderr, _redirects),
    (lambda greeted: "sftp connections only" in greeted.message, _allows_files_only),
    (lambda greeted: not greeted.message, _ends_at_once),
    (lambda _: True, _fails),
)


def _shown(data: bytes) -> str:
    """Return printed bytes for a message; those that show nothing by their numbers."""
    text = one_line(data[:_SHOWN].decode(errors="replace"))
    return repr(text) if text else ascii(data[:_SHOWN])
