"""
A way to a host: short commands, and bytes of files from an offset.

Local runs and runs over SSH differ in this and in nothing else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

SAFE_WORD = re.compile(r"[A-Za-z0-9_./$+=:,@%-]+\Z")
"""What may stand on a command line that any login shell reads; all else goes over stdin."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a short command on a host gave back."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Transport(Protocol):
    """One host, reached in one way."""

    async def call(self, argv: Sequence[str], stdin: bytes = b"", *, timeout: float) -> CommandResult:
        """
        Run a short command and return all that it printed.

        `argv` must each match `SAFE_WORD` (ValueError otherwise); `$HOME` in
        them is expanded by the shell of the host. `timeout` is in seconds.
        Raises Unavailable if the host cannot be reached, or the command was
        cut off or took too long: then it is not known whether it ran. Raises
        Refused if it cannot run before a person has fixed something.
        """

    async def read(self, path: str, offset: int, limit: int) -> bytes:
        """
        Return at most `limit` bytes of a file from `offset`; empty at its end or if it is not there.

        `path` is absolute. Raises Unavailable.
        """

    async def close(self) -> None:
        """Let go of the host; runs on it go on."""
