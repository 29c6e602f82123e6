"""
What is decided upon: everything a plan looks at, and the words for what waits.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from reconciler.core.model.specs import Desired, Task
from reconciler.core.model.status import Observed, Reason, Status, Waiting


@dataclass(frozen=True, slots=True)
class PlanContext:
    """A fleet at one moment, as far as a plan has got with it."""

    desired: Desired
    observed: Observed
    now: datetime
    names: AbstractSet[str]
    """The tasks to look at."""
    statuses: Mapping[str, Status]
    """Theirs and those of `faults`, with what the plan has put on record so far."""
    held: AbstractSet[str]
    """Tasks whose removal a person must allow."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """Tasks that are not among `names`, because thinking about them fails: they only keep their slots."""

    def spec(self, name: str) -> Task | None:
        """Return what is asked of a task; None if its file is gone or broken: then nothing new is decided."""
        return None if name in self.desired.broken else self.desired.tasks.get(name)

    def status(self, name: str) -> Status | None:
        """Return where any task stands: as the plan has left it, or as observed if it is not looked at."""
        return self.statuses.get(name) if name in self.names else self.observed.statuses.get(name)


class Wait(NamedTuple):
    """What a task waits for."""

    reason: Reason
    message: str
    until: datetime | None = None
    """When it ends by itself."""


def waiting(context: PlanContext, name: str, wait: Wait) -> Waiting:
    """Return the waiting with its time: of old if the reason is not new."""
    status = context.statuses.get(name)
    before = status.waiting if status else None
    if before is None or before.reason is not wait.reason:
        return Waiting(reason=wait.reason, message=wait.message, since=context.now)
    if before.message == wait.message:
        return before  # thousands may wait: nothing is made anew for those that go on waiting
    return Waiting(reason=wait.reason, message=wait.message, since=before.since)


def differing(before: Mapping[str, object], after: Mapping[str, object]) -> set[str]:
    """Return the names under which the two do not have the same object."""
    if before is after:
        return set()
    return {name for name in before.keys() | after.keys() if before.get(name) is not after.get(name)}
