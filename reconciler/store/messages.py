"""
Commit messages of the state branch: written from a transition record, and parsed back into one.

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

from reconciler.core.times import time_at
from reconciler.core.transitions import TransitionRecord, account_record, host_record, task_record

if TYPE_CHECKING:  # who reads a message back needs none of these
    from reconciler.core.hosts import HostChange
    from reconciler.core.lifecycle import Transition
    from reconciler.core.runs.accounts import AccountChange

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\xa0\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]+")
_TRAILER = re.compile(r"([A-Z][A-Za-z0-9-]*): (.*)\Z")
_COMMITTED = re.compile(r"^committer .*> (\d+) [+-]\d{4}$", re.MULTILINE)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_BODY = 2000
_VALUE = 400
"""Most characters of a body, and of a trailer's value."""
_MOST = {"Decision-Inputs": 16000}
"""Of the trailer that cannot be read when it was cut; the planner bounds how many hosts it names."""
_TRAILERS: Mapping[str, str] = {
    "Task": "task",
    "From": "before",
    "To": "after",
    "Renamed-From": "renamed_from",
    "Run": "run",
    "Host": "host",
    "Account": "account",
    "Agent": "worker",
    "Cause": "cause",
    "Actor": "actor",
    "Spec-Revision": "revision",
    "Delivery": "delivery",
    "Prompt-SHA256": "prompt_sha256",
    "Adapter-Blob": "adapter_blob",
    "CLI-Version": "cli_version",
    "Second-Opinion": "opinion",
    "Egress-Denied": "denied",
    "Validated": "validated",
    "Program-Version": "program_version",
    "Decision-Inputs": "inputs",
    "Prev-Transition": "previous",
}
"""Which trailer holds which field of the record, in their order."""


def render_message(transition: "Transition", *, revision: str = "", previous: str | None = None) -> str:
    """
    Return the commit message of a transition.

    `revision` is the commit of the specs that were in force, `previous` the
    commit of the task's previous transition. Whatever a reason or a name
    holds stays on its own line: nothing in it can pass for a trailer.
    """
    record = task_record(transition, revision=revision, previous=previous)
    event = _CAMEL.sub(" ", type(transition.event).__name__).lower()
    if record.after is None:
        step = f"{record.before} → removed" if record.before else "removed"
    elif record.before == record.after:
        step = f"{record.after}, {event}"
    else:
        step = _step(record)
    return _message(f"task {_one_line(transition.task, _VALUE)}: {step}", record)


def render_host(change: "HostChange", *, revision: str = "") -> str:
    """Return the commit message of news of a host; see `render_message`."""
    record = host_record(change, revision=revision)
    return _message(f"host {change.host}: {_step(record)}", record)


def render_account(change: "AccountChange", *, revision: str = "") -> str:
    """Return the commit message of news of an account; see `render_message`."""
    record = account_record(change, revision=revision)
    return _message(f"account {change.account}: {_step(record)}", record)


def parse_message(commit: str, content: bytes) -> TransitionRecord:
    """Return the record parsed from a commit message; fields it lacks keep their defaults."""
    headers, _, message = content.decode("utf-8", "replace").partition("\n\n")
    trailers, committed = trailers_of(message), _COMMITTED.search(headers)
    return TransitionRecord(
        at=time_at(int(committed[1]) if committed else 0),
        reason=reason_of(message),
        commit=commit,
        **{field: trailers[key] for key, field in _TRAILERS.items() if key in trailers},
    )


def trailers_of(message: str) -> Mapping[str, str]:
    """Return the trailers of a commit message; empty if its last paragraph holds anything else."""
    lines = message.rstrip("\n").rpartition("\n\n")[2].split("\n")
    matches = [_TRAILER.match(line) for line in lines]
    return {match[1]: match[2] for match in matches if match} if all(matches) else {}


def reason_of(message: str) -> str:
    """Return the sentence between the subject and the trailers."""
    paragraphs = message.rstrip("\n").split("\n\n")
    return paragraphs[1] if len(paragraphs) > 2 else ""  # noqa: PLR2004 - subject, body, trailers


def _step(record: TransitionRecord) -> str:
    if record.before in {None, record.after}:
        return record.after or ""
    return f"{record.before} → {record.after}"


def _message(subject: str, record: TransitionRecord) -> str:
    values = {
        key: _one_line(getattr(record, field) or "", _MOST.get(key, _VALUE))
        for key, field in _TRAILERS.items()
    }
    trailers = "\n".join(f"{key}: {value}" for key, value in values.items() if value)
    body = _one_line(record.reason, _BODY)
    return "\n\n".join(filter(None, (subject, body, f"{trailers}\n")))


def _one_line(text: str, most: int) -> str:
    line = _UNPRINTABLE.sub(" ", text).strip()
    return line if len(line) <= most else f"{line[: most - 1]}…"
