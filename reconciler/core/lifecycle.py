"""
Where a task stands, and what can happen to it there.

The table is the whole truth about what may follow what; `transition` is the
only place that assigns a phase.
"""

from dataclasses import dataclass

from reconciler.core.events import Event
from reconciler.core.model import Status


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of one task, as it goes on record: a commit on the state branch."""

    task: str
    """Its name after the step."""
    before: Status | None
    """None: there was no status yet."""
    after: Status | None
    """None: the status file goes."""
    event: Event
