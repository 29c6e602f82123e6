"""
Errors, named by what to do next.

`SpecError`: a person must edit a file. `Unavailable`: try again later, with
backoff. `Conflict`: somebody wrote first; fetch and think again, at once.
`Refused`: the other side said no; nothing was recorded.
`IllegalTransition`: a mistake of ours.
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
    """What is wrong, in words."""

    field: str = ""
    """Dotted path of the field, such as `budget.cost_usd`; empty for the file as a whole."""

    hint: str = ""
    """A name the writer may have meant."""

    severity: Literal["error", "warning"] = "error"
    """A warning keeps nothing back: it works, but hardly as it was meant."""

    def __str__(self) -> str:
        field = f"{self.field}: " if self.field else ""
        hint = f" (did you mean {self.hint!r}?)" if self.hint else ""
        return f"{self.path}:{self.line}:{self.column}: {self.severity}: {field}{self.message}{hint}"


class ReconcilerError(Exception):
    """Root of the errors this program raises on purpose."""

    on_host = False
    """Whether it was a host, or the way to it, that could not do its part; nothing else is to blame then."""


class SpecError(ReconcilerError):
    """A person must edit a file: every problem found in it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: Sequence[Problem] = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class UsageError(ReconcilerError):
    """A command was called in a way that cannot work; the message says what to do instead."""


class NotFound(ReconcilerError):
    """Nothing has the name that was asked for."""


class Unavailable(ReconcilerError):
    """Try again later, with backoff and jitter."""


class Gone(Unavailable):
    """An object of git that was asked for by its id is not there, and waiting does not bring it back."""


class Rewound(Unavailable):
    """A record or specs went back; nothing goes on until a person says how."""


class Conflict(ReconcilerError):
    """Optimistic concurrency: another writer was first. Fetch, plan again, at once."""


class Refused(ReconcilerError):
    """The other side said no (401, 403, 409, 410); nothing was recorded."""


class NotNow(Refused):
    """What an agent asks for cannot be had in this mode or phase (409)."""


class LogGap(NotNow):
    """A piece of a log does not follow on what is kept of it (409)."""

    def __init__(self, kept: int, offset: int) -> None:
        super().__init__(
            f"the log is kept up to byte {kept}, so a piece that begins at {offset} leaves a gap; "
            f"send it from offset {kept}"
        )
        self.kept = kept


class LeaseLost(Refused):
    """The task is not, or no longer, the agent's (410)."""


class IllegalTransition(ReconcilerError):
    """An event arrived in a phase that does not know it: our own mistake, loud."""
