"""
Transport: short commands on a host, and bytes of its files from an offset.

It is all in which local runs and runs over SSH differ.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

SAFE_WORD = re.compile(r"[A-Za-z0-9_./$+=:,@%-]+\Z")
"""Arguments that are safe in any login shell; everything else goes over stdin."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Result of a short command on a host."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Transport(Protocol):
    """Connection to one host."""

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
        """Close the connection; runs on the host go on."""
