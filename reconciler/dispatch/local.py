"""
This machine as a host: its runs are subprocesses.
"""

import asyncio
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from reconciler.core.errors import Refused, Unavailable
from reconciler.dispatch.transport import SAFE_WORD, CommandResult, Transport
from reconciler.subprocesses import end, start

_PASSED_ON = frozenset({"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"})
_PASSED_ON_PREFIXES = ("LC_", "XDG_")
"""Prefixes of the variables that agents inherit; all others may be secrets."""


class LocalTransport(Transport):
    """Commands as subprocesses; relative paths in their arguments start at the host's working folder."""

    def __init__(self, folder: Path, environ: Mapping[str, str] = os.environ) -> None:
        self._folder = folder
        self._env = {
            name: value
            for name, value in environ.items()
            if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
        }

    async def call(self, argv: Sequence[str], stdin: bytes = b"", *, timeout: float) -> CommandResult:
        """Run a short command and return all that it printed; see Transport."""
        process = await self._start(argv)
        try:
            async with asyncio.timeout(timeout):
                stdout, stderr = await process.communicate(stdin)
        except TimeoutError:
            raise Unavailable(
                f"this machine took longer than {timeout:g} s for `{' '.join(argv)}`; "
                "see whether it is overloaded"
            ) from None
        finally:
            if process.returncode is None:
                await end(process)
        code = process.returncode or 0
        return CommandResult(code if code >= 0 else 128 - code, stdout, stderr)  # as a shell reports a signal

    async def read(self, path: str, offset: int, limit: int) -> bytes:
        """Return bytes of a file; see Transport."""
        try:
            # An agent may have put a pipe there, which would block, or an endless device.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
                return os.pread(descriptor, limit, offset) if is_file else b""
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise Unavailable(f"cannot read {path}: {error.strerror}; see who may read it") from error

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _is_plain(self, argv: Sequence[str]) -> bool:
        """Return whether a command needs no shell: no variables in it, and a program that is there."""
        return not any("$" in word for word in argv) and bool(
            shutil.which(argv[0], path=self._env.get("PATH"))
        )

    async def _start(self, argv: Sequence[str]) -> asyncio.subprocess.Process:
        for word in argv:
            if not SAFE_WORD.match(word):
                raise ValueError(f"not safe on a command line: {word!r}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(
                f"this machine: cannot make the folder {self._folder}: {error.strerror}; "
                "check `workdir` (a folder the reconciler's user may write to) and the disk"
            ) from error
        try:
            return await start(
                *(argv if self._is_plain(argv) else _by_shell(argv)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=self._folder,
                env=self._env,
            )  # a leader of its group, as the wrapper relies on
        except OSError as error:
            raise Unavailable(
                f"cannot start a process in {self._folder}: {error.strerror}; "
                "see whether it can be written to, and how many processes there may be"
            ) from error


def _by_shell(argv: Sequence[str]) -> Sequence[str]:
    return ("sh", "-c", "exec " + " ".join(f'"{word}"' for word in argv))
