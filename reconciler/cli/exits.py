"""
Exit codes, and which error leads to which.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Self

from reconciler.core.errors import (
    Conflict,
    NotFound,
    ReconcilerError,
    Refused,
    Rewound,
    Unavailable,
    UsageError,
)


class ExitCode(IntEnum):
    """Exit code of a command; described in `reconciler --help`."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        """Make an exit code with its meaning."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    OK = 0, "done"
    FAILURE = 1, "failed, or the specs have mistakes"
    CHANGES = 2, "changes are pending (plan --exit-code)"
    NOT_FOUND = 3, "nothing has that name"
    REFUSED = 4, "refused, or not authenticated"
    ENDED_BADLY = 5, "a task that was waited for ended badly, or a check failed"
    CONFLICT = 6, "repeated conflicts with another writer"
    ATTENTION = 7, "something waits for a person, or was rewound and must be approved"
    NOT_RUNNING = 8, "no reconciler runs (`status`)"
    USAGE = 64, "wrong usage"
    UNAVAILABLE = 69, "cannot be reached now; try again later"
    TIMED_OUT = 124, "what was waited for did not come in time"
    INTERRUPTED = 130, "interrupted"
    UNREAD = 141, "its output is no longer read"


ERRORS: Mapping[type[ReconcilerError], ExitCode] = {
    UsageError: ExitCode.USAGE,
    NotFound: ExitCode.NOT_FOUND,
    Refused: ExitCode.REFUSED,
    Conflict: ExitCode.CONFLICT,
    Rewound: ExitCode.ATTENTION,
    Unavailable: ExitCode.UNAVAILABLE,
    ReconcilerError: ExitCode.FAILURE,
}
"""The first matching row decides."""


def exit_code(error: ReconcilerError) -> ExitCode:
    """Return the exit code for an error."""
    return next(code for kind, code in ERRORS.items() if isinstance(error, kind))
