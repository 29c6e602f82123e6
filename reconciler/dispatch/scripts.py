"""
Our scripts on a host: brought there once per content, then called by name.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from reconciler.core.errors import Refused, Unavailable
from reconciler.core.text import one_line
from reconciler.dispatch.git import both_ends
from reconciler.dispatch.transport import Transport

_ANSWER = re.compile(rb"^(?P<kind>[SE])(?: |$)", re.MULTILINE)
"""What a login shell prints before it (a banner) is passed over."""
_END = "END_OF_THE_SCRIPT"
CALL_TIMEOUT = 60.0
"""Seconds; for all that needs no grace and moves no repository."""


@dataclass(frozen=True, slots=True)
class Script:
    """A shell script that lies beside this module."""

    name: str
    source: bytes
    digest: str


@cache
def script(name: str) -> Script:
    """Return a script by its name."""
    source = Path(__file__).with_name(f"{name}.sh").read_bytes()
    return Script(name, source, hashlib.sha256(source).hexdigest()[:12])


class Scripts:
    """The scripts on one host, below its working folder (a word of a command line)."""

    def __init__(self, transport: Transport, *, host: str, shell: str, workdir: str) -> None:
        self._transport = transport
        self.host = host
        self.shell = shell
        self.workdir = workdir

    async def call(self, name: str, *words: str, stdin: bytes = b"", timeout: float = CALL_TIMEOUT) -> bytes:
        """
        Return the answer of a script, from its `S` on; it is brought to the host if it is not there.

        Raises Refused with the script's words, and Unavailable when it is not known whether it ran.
        """
        wanted = script(name)
        command = (self.shell, self._place(wanted), *words)
        answer = await self._transport.call(command, stdin, timeout=timeout)
        if not _ANSWER.search(answer.stdout):
            await self._bring(wanted)
            answer = await self._transport.call(command, stdin, timeout=timeout)
        found = _ANSWER.search(answer.stdout)
        if found is None:
            said = one_line((answer.stderr or answer.stdout).decode(errors="replace"), 300)
            raise Unavailable(
                f"host {self.host}: {name} {words[0]} gave no answer (exit {answer.exit_code}): {said}; "
                "see whether the disk is full there, and `shell` a POSIX shell"
            )
        text = answer.stdout[found.start() :]
        if found["kind"] == b"E":
            raise _refusal(f"host {self.host}: {name} {words[0]}", text.decode(errors="replace")[2:])
        return text

    def _place(self, wanted: Script) -> str:
        return f"{self.workdir}/bin/{wanted.name}-{wanted.digest}"

    async def _bring(self, wanted: Script) -> None:
        place = self._place(wanted)
        text = (
            f'umask 077; at="{place}"; mkdir -p "${{at%/*}}" && cat >"$at.$$" <<\'{_END}\' && '
            '{ [ ! -d "$at" ] || rm -rf "$at"; } && mv -f "$at.$$" "$at" && echo "S brought"\n'
            f"{wanted.source.decode()}{_END}\n"
        )
        answer = await self._transport.call((self.shell,), text.encode(), timeout=CALL_TIMEOUT)
        if b"S brought" not in answer.stdout:
            said = one_line((answer.stderr or answer.stdout).decode(errors="replace"), 300)
            raise Refused(
                f"host {self.host}: cannot write {place} there: {said}; "
                "check `workdir` (a folder its user may write to), `shell`, and the disk"
            )


def _refusal(where: str, words: str) -> Exception:
    message = f"{where}: {both_ends(words)}"
    return Unavailable(message) if words.startswith("short") else Refused(message)
