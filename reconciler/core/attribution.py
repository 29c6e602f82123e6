"""
Attribution: the person whose commit asked for a change, and their reason.

An action that follows from a change of the specs is recorded with the author of
that change and their reason, so that nobody has to search for the commit.
"""

from dataclasses import replace

from reconciler.core.events import (
    ITSELF,
    Archived,
    Cancelled,
    Created,
    Event,
    QuestionAnswered,
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

_ANSWERS = (
    *(Archived, Created, Cancelled, QuestionAnswered, Released, Removed),
    *(Renamed, Renewed, Restored, SpecChanged, SpecRemoved),
)
"""Events caused by a commit to the specs; all others have causes of their own."""
_NAME = 80
_MOST_TEXT = 200


def attribute(desired: Desired, event: Event) -> Event:
    """Return the event with the author and the reason of the spec change that caused it, if any."""
    asker, origin = desired.askers.get(event.task), event.origin
    if asker is None or origin.actor != ITSELF or origin.cause == "clock" or not _is_answer(event):
        return event
    text = one_line(visible(asker.message), _MOST_TEXT)
    reason = f"{origin.reason}: {text}" if text else origin.reason
    actor = one_line(visible(asker.person), _NAME) or ITSELF
    return replace(event, origin=replace(origin, reason=reason, actor=actor))


def _is_answer(event: Event) -> bool:
    if isinstance(event, WaitingChanged):
        return event.waiting is not None and event.waiting.reason is Reason.SUSPENDED
    return isinstance(event, _ANSWERS)
