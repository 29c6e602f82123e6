"""
Scripts on a host: installed once per version, then called by name.
"""

import hashlib
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from reconciler.core.errors import Refused, Unavailable
from reconciler.core.text import both_ends, one_line
from reconciler.dispatch.transport import CommandResult, Transport

_ANSWER = re.compile(rb"^(?P<kind>[SE])(?: |$)", re.MULTILINE)
"""Beginning of an answer; a login shell's banner before it is skipped."""
SCRIPTS = ("wrapper", "workspace")
_SCHEDULER = b"#SCHEDULER\n"
"""Line of the wrapper that the functions of another scheduler take the place of."""
_BROUGHT = b"S brought "
_IN_PLACE = b"S brought same"
_END = "end: of the input"
"""Line that no input has."""
CALL_TIMEOUT = 60.0
"""Seconds; for all that needs no grace and moves no repository."""


@dataclass(frozen=True, slots=True)
class Script:
    """A shell script that lies beside this module."""

    name: str
    source: bytes
    hash: str
    """SHA-256, in hex."""

    @property
    def digest(self) -> str:
        """The beginning of its hash, by which versions are told apart."""
        return self.hash[:12]


def script_file(name: str) -> Path:
    """Return where a script lies on this machine."""
    return Path(__file__).with_name(f"{name}.sh")


@cache
def script(name: str, scheduler: str = "") -> Script:
    """Return a script by its name; the wrapper with the functions of a scheduler in place of its own."""
    source = script_file(name).read_bytes().replace(_SCHEDULER, scheduler.encode()).rstrip() + b"\n"
    return Script(name, source, hashlib.sha256(source).hexdigest())


@dataclass(frozen=True, slots=True)
class Following:
    """A call that a host goes on to by itself, if the answer of one before ends in one of these lines."""

    lines: Sequence[str]
    name: str
    args: Sequence[str]
    stdin: bytes
    """A few lines."""


class Scripts:
    """
    The scripts on one host, below its working folder (a word of a command line).

    `scheduler` is shell text with the functions that take the place of the wrapper's own.
    """

    def __init__(
        self, transport: Transport, *, host: str, shell: str, workdir: str, scheduler: str = ""
    ) -> None:
        self._transport = transport
        self._scheduler = scheduler
        self.host = host
        self.shell = shell
        self.workdir = workdir
        self._has_sums = True
        """Whether the host can tell the hash of a file, as far as is known."""

    async def call(self, name: str, *args: str, stdin: bytes = b"", timeout: float = CALL_TIMEOUT) -> bytes:
        """
        Return the answer of a script, from its `S` on; it is brought to the host if it is not there.

        Raises Refused with the script's message, and Unavailable when it is not known whether it ran;
        both with `on_host` set.
        """
        with _on_host():
            return await self._call(name, *args, stdin=stdin, timeout=timeout)

    async def _call(self, name: str, *args: str, stdin: bytes, timeout: float) -> bytes:
        wanted = self._script(name)
        command = (self.shell, self._place(wanted), *args)
        answer = await self._transport.call(command, stdin, timeout=timeout)
        if not _ANSWER.search(answer.stdout):
            await self._bring(wanted)
            answer = await self._transport.call(command, stdin, timeout=timeout)
        return self._answer(f"{name} {args[0]}", answer)

    def _answer(self, call: str, answer: CommandResult) -> bytes:
        match = _ANSWER.search(answer.stdout)
        if match is None:
            message = one_line((answer.stderr or answer.stdout).decode(errors="replace"), 300)
            raise Unavailable(
                f"host {self.host}: {call} gave no answer (exit {answer.exit_code}): {message}; "
                "see whether the disk is full there, `shell` a POSIX shell, "
                "and what a forced command lets pass"
            )
        text = answer.stdout[match.start() :]
        if match["kind"] == b"E":
            raise _refusal(f"host {self.host}: {call}", text.decode(errors="replace")[2:])
        return text

    async def install_all(self) -> bool:
        """
        Reinstall every script; return whether one had been changed.

        Agents on the host could have changed them, and we rely on them. Raises
        Refused and Unavailable, both `on_host`.
        """
        with _on_host():
            return _was_other(await self._ensure())

    async def install_all_then_call(
        self, name: str, *args: str, following: Following | None = None
    ) -> tuple[bool, bytes]:
        """
        Do both at once, as a start needs both: a call without stdin follows. Return what they return.

        Whatever a further call answers is at the end of that.
        """
        then = f"exec {self._command(name, *args)} </dev/null\n"
        if following:
            then = f"answer=$({self._command(name, *args)} </dev/null)\n" + self._case(following)
        with _on_host():
            answer = await self._ensure(then)
            called = answer.stdout.partition(_BROUGHT)[2].partition(b"\n")[2]
            return _was_other(answer), self._answer(f"{name} {args[0]}", replace(answer, stdout=called))

    def _command(self, name: str, *args: str) -> str:
        command = (self.shell, self._place(self._script(name)), *args)
        return " ".join(f'"{word}"' for word in command)

    def _case(self, following: Following) -> str:
        """Return shell text that prints `$answer`, and goes on if it ends as it must."""
        patterns = "|".join(f'*"\n{line}"' for line in following.lines)
        return (
            'printf "%s\\n" "$answer"\n'
            f"case $answer in {patterns})\n"
            f"exec {self._command(following.name, *following.args)} <<'{_END}'\n"
            f"{following.stdin.decode()}{_END}\n"
            ";; esac\n"
        )

    async def _ensure(self, then: str = "") -> CommandResult:
        """See to it that every script is in its place, then run more shell text."""
        if answer := await self._see_sums(then):
            return answer
        answer = await self._bring(*map(self._script, SCRIPTS), then=then)
        self._has_sums &= _IN_PLACE not in answer.stdout  # else they would have been seen
        return answer

    async def _see_sums(self, then: str) -> CommandResult | None:
        """
        Run shell text if every script is in its place, by their hashes; return None if that is not seen.

        One program is started for that, and the scripts are not sent.
        """
        if not self._has_sums:
            return None
        scripts = [self._script(name) for name in SCRIPTS]
        places = [f'"{self._place(each)}"' for each in scripts]
        sums = "\n".join(f"{each.hash}  {self._place(each)}" for each in scripts)
        tests = [f"[ -f {place} ] && [ ! -h {place} ]" for place in places]
        tests.append(f'[ "$(sha256sum {" ".join(places)} 2>/dev/null)" = "{sums}" ]')
        text = f"umask 077\nif {' && '.join(tests)}; then\necho '{_IN_PLACE.decode()}'\n{then}fi\n"
        answer = await self._transport.call((self.shell,), text.encode(), timeout=CALL_TIMEOUT)
        return answer if _BROUGHT in answer.stdout else None

    def _script(self, name: str) -> Script:
        return script(name, self._scheduler)

    def _place(self, wanted: Script) -> str:
        return f"{self.workdir}/bin/{wanted.name}-{wanted.digest}"

    async def _bring(self, *wanted: Script, then: str = "") -> CommandResult:
        """Install scripts, and say whether another file was in their place; then run more shell text."""
        text = "".join(
            [
                "umask 077; was=same\n",
                *map(self._install_command, wanted),
                'echo "S brought $was"\n',
                then,
            ]
        )
        answer = await self._transport.call((self.shell,), text.encode(), timeout=CALL_TIMEOUT)
        if _BROUGHT not in answer.stdout:
            message = one_line((answer.stderr or answer.stdout).decode(errors="replace"), 300)
            raise Refused(
                f"host {self.host}: cannot write {self._place(wanted[0])} there: {message}; "
                "check `workdir` (a folder its user may write to) and `shell`, "
                "and see whether the disk is full there"
            )
        return answer

    def _install_command(self, wanted: Script) -> str:
        """Return shell text that installs a script, and tells whether the same, another or none was there."""
        return (
            f"ours={shlex.quote(wanted.source.decode().rstrip())}\n"
            f'at="{self._place(wanted)}"\n'
            # A correct file is not rewritten, so that it works on a full disk.
            'if [ ! -f "$at" ] || [ -h "$at" ] || [ "$(cat "$at")" != "$ours" ]; then\n'
            '  if [ -e "$at" ] || [ -h "$at" ]; then was=other; else was=${was%same}; was=${was:-new}; fi\n'
            '  mkdir -p "${at%/*}" && rm -rf "$at.$$" && printf "%s\\n" "$ours" >"$at.$$" ||'
            ' { rm -f "$at.$$"; exit 1; }\n'
            '  [ ! -d "$at" ] || rm -rf "$at"\n'
            '  mv -f "$at.$$" "$at" || exit 1\n'
            "fi\n"
        )


def _was_other(answer: CommandResult) -> bool:
    return b"S brought other" in answer.stdout


@contextmanager
def _on_host() -> Iterator[None]:
    """Mark errors as `on_host`."""
    try:
        yield
    except (Unavailable, Refused) as error:
        error.on_host = True
        raise


def _refusal(where: str, answer: str) -> Exception:
    message = f"{where}: {both_ends(answer)}"
    return Unavailable(message) if answer.startswith(("short", "later")) else Refused(message)
