"""
To whom a change is owed: the person whose commit asked for it, and their reason.

What the reconciler does because the specs say so is on record with who wrote
that, and why, so that nobody has to look for the commit.
"""

from dataclasses import replace

from reconciler.core.events import (
    Cancelled,
    Created,
    Event,
    Released,
    Removed,
    Renamed,
    Renewed,
    Restored,
    SpecChanged,
    SpecRemoved,
    WaitingChanged,
)
from reconciler.core.model.specs import Desired
from reconciler.core.model.status import Reason
from reconciler.core.text import one_line, visible

_ANSWERS = (Created, Cancelled, Released, Removed, Renamed, Renewed, Restored, SpecChanged, SpecRemoved)
"""Events that a commit to the specs leads to; others have causes of their own."""
_BY_ITSELF = "reconciler"
_NAME = 80
_WORDS = 200


def attribute(desired: Desired, event: Event) -> Event:
    """Return an event with the person who asked for it and their reason, if it answers a commit of theirs."""
    asker = desired.askers.get(event.task)
    if asker is None or event.actor != _BY_ITSELF or event.cause == "clock" or not _is_answer(event):
        return event
    words = one_line(visible(asker.words), _WORDS)
    reason = f"{event.reason}: {words}" if words else event.reason
    return replace(event, actor=one_line(visible(asker.person), _NAME) or _BY_ITSELF, reason=reason)


def _is_answer(event: Event) -> bool:
    if isinstance(event, WaitingChanged):
        return event.waiting is not None and event.waiting.reason is Reason.SUSPENDED
    return isinstance(event, _ANSWERS)
