"""
The words of a commit on the state branch: written from a transition, read back by history.

    task web/fix-login: running → review_pending

    The branch task/web/fix-login is delivered and its checks pass.

    Task: web/fix-login
    From: running
    To: review_pending
    …
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # who reads a message back needs none of these
    from reconciler.core.hosts import HostChange
    from reconciler.core.lifecycle import Transition
    from reconciler.core.model.status import HostStatus

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\xa0\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]+")
_TRAILER = re.compile(r"([A-Z][A-Za-z0-9-]*): (.*)\Z")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_BODY = 2000
_VALUE = 400
"""Most characters of a body, and of a trailer's value."""


def render_message(transition: "Transition", *, revision: str = "", previous: str | None = None) -> str:
    """
    Return the commit message of a transition.

    `revision` is the commit of the specs that were in force, `previous` the
    commit of the task's previous transition. Whatever a reason or a name
    holds stays on its own line: nothing in it can pass for a trailer.
    """
    trailers = "\n".join(
        f"{key}: {value}" for key, value in _trailers(transition, revision, previous).items()
    )
    return f"{_subject(transition)}\n\n{_body(transition.event.origin.reason)}{trailers}\n"


def render_host(change: "HostChange", *, revision: str = "") -> str:
    """Return the commit message of news of a host; see `render`."""
    before, after = _stand(change.before), _stand(change.after)
    step = after if before == after else f"{before} → {after}"
    values = {
        "Host": change.host,
        "From": before,
        "To": after,
        "Cause": "host",
        "Actor": "reconciler",
        "Spec-Revision": revision,
    }
    trailers = "\n".join(f"{key}: {_one_line(value, _VALUE)}" for key, value in values.items() if value)
    return f"host {change.host}: {step}\n\n{_body(change.reason)}{trailers}\n"


def _stand(status: "HostStatus | None") -> str:
    if status is None:
        return "unknown"
    return status.state


def trailers_of(message: str) -> Mapping[str, str]:
    """Return the trailers of a commit message; empty if its last paragraph holds anything else."""
    lines = message.rstrip("\n").rpartition("\n\n")[2].split("\n")
    matches = [_TRAILER.match(line) for line in lines]
    return {match[1]: match[2] for match in matches if match} if all(matches) else {}


def reason_of(message: str) -> str:
    """Return the sentence between the subject and the trailers."""
    paragraphs = message.rstrip("\n").split("\n\n")
    return paragraphs[1] if len(paragraphs) > 2 else ""  # noqa: PLR2004 - subject, body, trailers


def _subject(transition: "Transition") -> str:
    before, after = transition.before, transition.after
    if after is None:
        step = f"{before.phase} → removed" if before else "removed"
    elif before is None:
        step = f"{after.phase}"
    elif before.phase is after.phase:
        step = f"{after.phase}, {_CAMEL.sub(' ', type(transition.event).__name__).lower()}"
    else:
        step = f"{before.phase} → {after.phase}"
    return f"task {_one_line(transition.task, _VALUE)}: {step}"


def _body(reason: str) -> str:
    """Return the reason as one indented-if-needed paragraph, or nothing."""
    line = _one_line(reason, _BODY)
    return f"{line}\n\n" if line else ""


def _trailers(transition: "Transition", revision: str, previous: str | None) -> Mapping[str, str]:
    before, after, event = transition.before, transition.after, transition.event
    status = after or before
    prompt = status.prompt_sha256 if status else None
    values = {
        "Task": transition.task,
        "From": before.phase if before else None,
        "To": after.phase if after else None,
        "Renamed-From": getattr(event, "old", None),
        "Run": getattr(event, "run", None) or (status.run if status else None),
        "Host": status.assigned_host if status else None,
        "Agent": status.assigned_agent if status else None,
        "Cause": event.origin.cause,
        "Actor": event.origin.actor,
        "Spec-Revision": revision,
        "Delivery": event.origin.delivery,
        "Prompt-SHA256": prompt if before is None or prompt != before.prompt_sha256 else None,
        "Prev-Transition": previous,
    }
    lines = {key: _one_line(value, _VALUE) for key, value in values.items() if value}
    return {key: value for key, value in lines.items() if value}


def _one_line(text: str, most: int) -> str:
    line = _UNPRINTABLE.sub(" ", text).strip()
    return line if len(line) <= most else f"{line[: most - 1]}…"
