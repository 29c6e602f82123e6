"""
Progress output of `run` and `serve`: a line for each step.
"""

import sys
from datetime import datetime
from pathlib import Path

from reconciler.cli.failures import failure_text
from reconciler.cli.terminal import columns_of, terminal_size, wrap
from reconciler.controller.ports import Step
from reconciler.core.hosts import HostChange
from reconciler.core.lifecycle import Transition
from reconciler.core.model.specs import Desired
from reconciler.core.runs.accounts import AccountChange
from reconciler.core.text import one_line
from reconciler.core.times import format_time
from reconciler.core.views import BAD_ENDS
from reconciler.dispatch.failures import describe_failure


def is_bad_end(step: Step) -> bool:
    """Return whether a task ended in a phase that needs a person's attention."""
    after = step.after if isinstance(step, Transition) else None
    return after is not None and after.phase in BAD_ENDS and not after.archived


def line(step: Step) -> str:
    """Return a step as one line, or on a narrow terminal as several: time, name, from → to, why."""
    if isinstance(step, HostChange):
        stand = "gone" if step.after is None else step.after.state
        return _line(step.at, f"host {step.host}", stand, step.reason)
    if isinstance(step, AccountChange):
        state = step.after.state if step.after else "usable"
        return _line(step.at, f"account {step.account}", state, step.reason)
    before = step.before.phase if step.before else "·"
    after = step.after.phase if step.after else "·"
    change = f"{before} → {after}" if before != after else str(after)
    return _line(step.event.origin.at, step.task, change, step.event.origin.reason)


def _line(time: datetime, name: str, change: str, reason: str) -> str:
    moment = format_time(time.replace(microsecond=0))
    text = f"{moment}  {name:<28}  {change:<24}  {one_line(reason)}"
    width = _width()
    if width is None or columns_of(text) <= width:
        return text
    below = wrap(one_line(reason), max(width - len(MARGIN), len(MARGIN)))
    return "\n".join((f"{moment}  {name}  {change}", *(f"{MARGIN}{part}" for part in below)))


def _width() -> int | None:
    """Return how wide the terminal is; None where stdout is none: there a step is one line."""
    return terminal_size().columns if sys.stdout.isatty() else None


def bad_end_lines(step: Step, desired: Desired, data: Path) -> str:
    """Return the lines below a step by which a task ended badly: why and what to do; empty for others."""
    if not (isinstance(step, Transition) and is_bad_end(step) and step.after):
        return ""
    failure = describe_failure(step.task, step.after, desired, data)
    lines = failure_text(failure).splitlines()[1:] if failure else []  # the first is in the line itself
    return "\n".join(f"{MARGIN}{line}" for line in lines)


MARGIN = " " * 22
"""Width of the time in a line."""
