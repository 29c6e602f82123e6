"""
Recording: what a CLI once printed, and the verdict that its adapter has to give on it.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from reconciler.core.adapter import Fraction, Whole
from reconciler.core.fields import Frozen, Strings, Text
from reconciler.core.model.runs import FailureClass, Verdict
from reconciler.core.text import one_line


class Expected(Frozen):
    """The verdict on a recording; what is left out may be anything."""

    outcome: Literal["success", "failed"]
    """Outcome."""
    kind: Annotated[FailureClass, Field(strict=False)] | None = Field(None, alias="class")
    """Failure class; none for a success."""
    message: Text | None = None
    """A part of the message."""
    session_id: Text | None = None
    """Session that the CLI named."""
    text: Text | None = None
    """A part of the agent's last words."""
    input_tokens: Whole | None = None
    """Input tokens, cached ones not counted."""
    output_tokens: Whole | None = None
    """Output tokens."""
    cached_tokens: Whole | None = None
    """Input tokens that came from a cache."""
    cost_usd: Fraction | None = None
    """Cost in US dollars."""
    turns: Whole | None = None
    """Turns the agent took."""


class Recording(Frozen):
    """A recorded run. `specs/adapters/NAME/recordings/*.yaml`, beside `*.stdout` and `*.stderr`."""

    exit_code: Annotated[int, Field(ge=-64, le=255)]
    """How the CLI exited; of one that a signal ended, -15 or 143."""
    argv: Strings = ()
    """Arguments that the verdict depends on, such as the adapter's `schema_flag`."""
    session: Text | None = None
    """Session that the CLI was to go on with."""
    expect: Expected
    """Verdict that the adapter has to give."""

    @property
    def shell_code(self) -> int:
        """The exit code as a shell gives it: 128 + n after signal n."""
        return self.exit_code if self.exit_code >= 0 else 128 - self.exit_code


_PARTS = ("message", "text")
"""Fields of which a part is expected."""
_COUNTS = ("input_tokens", "output_tokens", "cached_tokens", "cost_usd", "turns")
_LONGEST = 120


def differences(expected: Expected, verdict: Verdict) -> Iterator[tuple[str, str]]:
    """Yield each field in which a verdict is another than was expected, with both values in words."""
    if verdict.outcome != expected.outcome:
        yield "outcome", f"the verdict is {verdict.outcome}: {one_line(verdict.message, _LONGEST)}"
        return
    if verdict.kind != expected.kind and verdict.outcome == "failed":
        yield "class", f"the class is {verdict.kind}, not {expected.kind}"
    for field in _PARTS:
        part, whole = getattr(expected, field), getattr(verdict, field)
        if part is not None and part not in whole:
            yield field, f"{part!r} is not in {one_line(whole, _LONGEST)!r}"
    pairs = {"session_id": verdict.session_id} | {name: getattr(verdict.usage, name) for name in _COUNTS}
    for field, value in pairs.items():
        wanted = getattr(expected, field)
        if wanted is not None and wanted != value:
            yield field, f"it is {value}, not {wanted}"


def expectation(verdict: Verdict) -> dict[str, object]:
    """Return what is expected of a recording once its adapter gave the right verdict on it."""
    counts = {name: value for name in _COUNTS if (value := getattr(verdict.usage, name))}
    texts = {
        "class": str(verdict.kind) if verdict.kind else None,
        "message": one_line(verdict.message, _LONGEST).rstrip("…") or None,
        "session_id": verdict.session_id,
        "text": one_line(verdict.text, _LONGEST).rstrip("…") if "\n" not in verdict.text.strip() else None,
    }
    return {
        "outcome": verdict.outcome,
        **{name: text for name, text in texts.items() if text},
        **counts,
    }
