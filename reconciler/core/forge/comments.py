"""
Commands in comments on a forge, and the replies to them.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Literal, NamedTuple

from reconciler.core.edits import TASK_EDITS, FieldChanges, answering
from reconciler.core.forge.markdown import code, visible_text
from reconciler.core.model.specs import TaskSpec
from reconciler.core.model.status import Status
from reconciler.core.text import harmless, one_line


class Command(NamedTuple):
    """A command in the first line of a comment."""

    verb: Literal["retry", "cancel", "approve", "reject", "status", "model", "host", "answer", "unknown"]
    value: str = ""
    """Model, host or answer; for an unknown command, what was written."""
    question: str | None = None
    """Id of the question that is answered; None: the one that waits."""


_ASKS = re.compile(r"/agent(?:[ \t]+(.*))?")
_ANSWERS = re.compile(r"/agent[ \t]+answer\b[ \t]*(?:(q\d+-\d+|c-[0-9a-f]{8})(?!\S))?(.*)", re.DOTALL)
"""An answer goes on to the end of the comment."""
_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+\[\]-]{0,99}")


def is_among(person: str, people: Collection[str]) -> bool:
    """
    Return whether a person is one of those; names on forges are case-insensitive.

    Letters of ASCII alone are folded: others become one of them, such as U+212A a `k`.
    """
    return _folded(person) in {_folded(each) for each in people}


def _folded(name: str) -> str:
    return name.lower() if name.isascii() else name


def parse_command(text: str) -> Command | None:
    """
    Return the command in the first line of a comment; None if there is none.

    What begins with `/agent` and is none of the commands is `unknown`: whoever
    wrote it should be told.
    """
    text = harmless(text).strip()
    answer = _ANSWERS.match(text)
    if answer and answer[2].strip():
        return Command("answer", visible_text(answer[2]).strip(), answer[1])
    line = text.split("\n")[0].rstrip()
    match = _ASKS.fullmatch(line)
    if match is None:
        return None
    match (match[1] or "").split():
        case [("retry" | "cancel" | "approve" | "reject" | "status") as verb]:
            return Command(verb)
        case [("model" | "host") as verb, value] if _VALUE.fullmatch(value):
            return Command(verb, value)
        case _:
            return Command("unknown", one_line(line, 100))


def apply_command(
    command: Command, name: str, spec: TaskSpec, status: Status | None, hosts: Collection[str]
) -> FieldChanges | str:
    """
    Return which fields of a task's file a command changes, or why there is nothing to do.

    Raises UsageError for an answer to what nobody asks.

    A host is preferred, not required: a task must not wait for ever for one
    that is full or away.
    """
    match command.verb:
        case "retry" | "cancel" | "approve" | "reject":
            return TASK_EDITS[command.verb](name, spec, status)
        case "model":
            return {"model": command.value}
        case "answer":
            return answering(name, spec, status, command.value, command.question)
        case "host" if command.value in hosts:
            return {"prefer": [command.value]}
        case "host":
            return f"there is no host {command.value!r}; there are: {', '.join(sorted(hosts))}"
        case _:
            return f"{command.value!r} is no command"


# --- What they are answered ------------------------------------------------


def success_reply(command: Command, name: str) -> str:
    """Return the reply to a command that was carried out; deterministic, so that it is posted once."""
    return _REPLIES[command.verb].format(task=code(name), value=code(command.value))


_REPLIES: Mapping[str, str] = {
    "retry": "Task {task} is asked for once more.",
    "cancel": "Task {task} is cancelled; a live run is stopped. `/agent retry` asks for it again.",
    "approve": "Task {task} goes on: its plan is approved.",
    "reject": "Task {task} is cancelled: its plan is rejected. `/agent retry` asks for another.",
    "answer": "Task {task} goes on with the answer.",
    "model": "Task {task} uses model {value} from its next run on.",
    "host": "Task {task} prefers host {value} from its next run on.",
}


USAGE = (
    "I know `/agent retry`, `/agent cancel`, `/agent status`, `/agent answer TEXT`, `/agent approve`, "
    "`/agent reject`, `/agent model NAME` and `/agent host NAME`."
)


def refusal_reply(why: str) -> str:
    """Return the answer to a command that changed nothing."""
    return f"Nothing was changed: {code(why)}\n\n{USAGE}"


def status_reply(name: str, status: Status | None) -> str:
    """Return the status of a task, as a reply for people."""
    if status is None:
        return f"Task {code(name)} is new; nothing is on record yet."
    return "\n".join([f"Task {code(name)} is **{status.phase}**.", "", *_facts(status)]).rstrip()


def _facts(status: Status) -> Iterator[str]:
    if status.waiting:
        yield f"- waits for {status.waiting.reason}: {code(status.waiting.message)}"
    if status.failure:
        yield f"- last failure ({status.failure.kind}): {code(status.failure.message)}"
    if status.attempt:
        yield f"- attempts: {status.attempt}, of which {status.failures} failed"
    if where := status.assigned_host or status.assigned_agent:
        yield f"- last run on {code(where)}"
    if status.review.count:
        yield f"- rounds of requested changes: {status.review.count}"
    if status.review.pull_request:
        yield f"- pull request: #{status.review.pull_request.number}"
