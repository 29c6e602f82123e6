"""
Transitions as they happen, a line each.
"""

from reconciler.core.fields import format_time
from reconciler.core.lifecycle import Transition
from reconciler.core.model import Phase

BAD_ENDS = frozenset({Phase.FAILED, Phase.ESCALATED})
"""Phases that make a command which waited for the end exit with `ENDED_BADLY`."""


def line(step: Transition) -> str:
    """Return a transition as one line: time, task, from → to, why."""
    time = format_time(step.event.at)[11:19]
    before = step.before.phase if step.before else "·"
    after = step.after.phase if step.after else "·"
    change = f"{before} → {after}" if before != after else str(after)
    return f"{time}  {step.task:<28}  {change:<24}  {step.event.reason}"
