"""
Errors, named by what to do next.

`SpecError`: a person must edit a file. `Unavailable`: try again later, with
backoff. `Conflict`: another writer was first; fetch and plan again, at once.
`Refused`: the other side said no; nothing was recorded.
`IllegalTransition`: a bug of the reconciler.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake in one file: where, what, and what to do about it."""

    path: str
    """File, relative to the root of the fleet's repository."""

    line: int
    """1-based; 1 when the whole file is meant."""

    column: int
    """1-based, in characters."""

    message: str
    """What is wrong and what to do about it."""

    field: str = ""
    """Dotted path of the field, such as `budget.cost_usd`; empty for the file as a whole."""

    hint: str = ""
    """The name that was probably meant; empty if there is none."""

    severity: Literal["error", "warning"] = "error"
    """A warning blocks nothing: the spec is valid, but probably not what was meant."""

    def __str__(self) -> str:
        field = f"{self.field}: " if self.field else ""
        hint = f" (did you mean {self.hint!r}?)" if self.hint else ""
        return f"{self.path}:{self.line}:{self.column}: {self.severity}: {field}{self.message}{hint}"


class ReconcilerError(Exception):
    """Root of the errors this program raises on purpose."""

    on_host = False
    """Whether the cause is a host or the connection to it, and nothing else."""


class SpecError(ReconcilerError):
    """A person must edit a file: every problem found in it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: Sequence[Problem] = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class UsageError(ReconcilerError):
    """A command was called wrongly; the message says what to do instead."""


class NotFound(ReconcilerError):
    """There is nothing of the requested name."""


class Unavailable(ReconcilerError):
    """Try again later, with backoff and jitter."""


class Gone(Unavailable):
    """A git object is missing, and waiting does not bring it back."""


class Rewound(Unavailable):
    """The state branch or the specs were rewound; everything stops until a person decides how to go on."""


class Conflict(ReconcilerError):
    """Optimistic concurrency: another writer was first. Fetch, plan again, at once."""


class Refused(ReconcilerError):
    """The other side said no (401, 403, 409, 410); nothing was recorded."""


class NotNow(Refused):
    """The request does not fit the task's execution mode or phase (409)."""


class LogGap(NotNow):
    """A log chunk does not start where the stored log ends (409)."""

    def __init__(self, kept: int, offset: int) -> None:
        super().__init__(
            f"the log is kept up to byte {kept}, so a piece that begins at {offset} leaves a gap; "
            f"send it from offset {kept}"
        )
        self.kept = kept


class LeaseLost(Refused):
    """The agent does not hold the task, or no longer does (410)."""


class IllegalTransition(ReconcilerError):
    """An event arrived in a phase that does not allow it: a bug of the reconciler."""
