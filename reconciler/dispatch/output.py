"""
What agents print: bytes in, a verdict out.

The bytes become events, the rules of the adapter are asked of the events, and
`core.outcome` judges what they answered. Nothing here trusts its input: any
bytes give a verdict.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.parser import ParsedResult

from reconciler.core.adapter import Adapter, Output, Usage
from reconciler.core.model import FailureClass, Order, Verdict
from reconciler.core.outcome import Facts, spent, verdict
from reconciler.core.text import harmless

Event = dict[str, Any]


def read_output(
    adapter: Adapter,
    *,
    stdout: bytes,
    stderr: bytes,
    exit_code: int,
    now: datetime,
    order: Order | None = None,
) -> Verdict:
    """
    Return what to make of what a CLI printed and how it ended.

    `exit_code` is the shell's: 128 + n after signal n. Without an order (a
    recording) nothing is known of the session and the answer that were asked for.
    """
    if adapter.output.format == "text":
        return verdict(_text_facts(stdout, stderr, exit_code), now)
    return verdict(_event_facts(adapter.output, stdout, stderr, exit_code, order), now)


def parse_recording(adapter: Adapter, stdout: Path, exit_code: int, now: datetime) -> Verdict:
    """
    Return the verdict for a recorded output.

    What stands beside it under the same name with the ending `.stderr` is read
    too. `exit_code` may be Python's: negative after a signal.
    """
    beside = stdout.with_suffix(".stderr")
    return read_output(
        adapter,
        stdout=stdout.read_bytes(),
        stderr=beside.read_bytes() if beside != stdout and beside.is_file() else b"",
        exit_code=exit_code if exit_code >= 0 else 128 - exit_code,
        now=now,
    )


def verdict_as_json(found: Verdict) -> dict[str, Any]:
    """Return a verdict in the form that `adapter parse -o json` prints."""
    tokens = found.usage.model_dump(include={"input_tokens", "output_tokens", "cached_tokens"})
    return {
        "outcome": found.outcome,
        "class": found.kind,
        "message": found.message,
        "session_id": found.session_id,
        "text": found.text,
        "usage": tokens,
        "cost_usd": found.usage.cost_usd,
        "turns": found.usage.turns,
        "retry_at": found.model_dump(mode="json", include={"retry_at"})["retry_at"],
        "notes": list(found.notes),
    }


# --- Facts -----------------------------------------------------------------


def _text_facts(stdout: bytes, stderr: bytes, exit_code: int) -> Facts:
    """Raw text: there is nothing but the exit code to go by."""
    return Facts(
        exit_code=exit_code,
        complete=exit_code == 0,
        succeeded=exit_code == 0,
        text=_end(stdout),
        needs_text=False,
        stderr=_end(stderr) or _end(stdout),
    )


def _event_facts(rules: Output, stdout: bytes, stderr: bytes, exit_code: int, order: Order | None) -> Facts:
    transcript = read_events(stdout, stderr)
    events = READERS[rules.reader](transcript) if rules.reader else list(transcript.events)
    wanted = order.session_id if order else None
    session = _text(_ask(rules.session_id, events))
    before = order.session_totals if order and session == wanted else Usage()
    totals = _usage(rules, events)
    return Facts(
        exit_code=exit_code,
        complete=bool(_ask(rules.terminal, events)) if rules.terminal else _is_whole(transcript),
        succeeded=bool(_ask(rules.success, events)) if rules.success else exit_code == 0,
        text=_text(_ask(rules.text, events)) or "",
        error=_text(_ask(rules.error, events)) or "",
        error_class=_class(rules, events, exit_code),
        error_status=_status(_ask(rules.error_status, events)),
        stderr=_end(stderr),
        session_id=session,
        wanted_session=wanted,
        denials=_texts(_ask(rules.denials, events)),
        lacks_structure=_is_structure_asked(rules, order) and not _ask(rules.structured, events),
        started=bool(events),
        was_cut=transcript.was_cut,
        totals=totals if totals != Usage() else before,
        usage=spent(before, totals, rules.cumulative),
        notes=(*_texts(_ask(rules.notes, events)), *transcript.notes),
    )


def _is_whole(transcript: "Transcript") -> bool:
    return bool(transcript.events) and not transcript.was_cut


def _class(rules: Output, events: list[Event], exit_code: int) -> FailureClass | None:
    told = _text(_ask(rules.error_class, events)) or rules.exit_codes.get(str(exit_code))
    return FailureClass(told) if told in set(FailureClass) else None


def _is_structure_asked(rules: Output, order: Order | None) -> bool:
    return order is not None and rules.schema_flag is not None and rules.schema_flag in order.argv


def _usage(rules: Output, events: list[Event]) -> Usage:
    return Usage(
        input_tokens=int(_number(_ask(rules.input_tokens, events))),
        output_tokens=int(_number(_ask(rules.output_tokens, events))),
        cached_tokens=int(_number(_ask(rules.cached_tokens, events))),
        cost_usd=round(_number(_ask(rules.cost_usd, events)), 6),
        turns=int(_number(_ask(rules.turns, events))),
    )


# --- Rules -----------------------------------------------------------------


def _ask(expression: str | None, events: list[Event]) -> Any:
    """Return what a JMESPath expression finds; None also if the events are not of the kind it expects."""
    if expression is None:
        return None
    try:
        return _compiled(expression).search(events)
    except (JMESPathError, TypeError, ValueError, RecursionError):
        return None


@lru_cache(maxsize=512)
def _compiled(expression: str) -> ParsedResult:
    return jmespath.compile(expression)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _status(value: object) -> int | None:
    return value if isinstance(value, int) else None


LARGEST = 1e15
"""A number above this is nonsense."""


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if math.isfinite(value) and 0 <= value <= LARGEST else 0.0


# --- Bytes to events -------------------------------------------------------

TAIL = 64 * 1024
"""How much of a text's end is looked at, in bytes."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a CLI printed, taken apart."""

    events: tuple[Event, ...]
    stderr: bytes
    was_cut: bool
    """The last line begins like JSON and stops in the middle."""
    notes: tuple[str, ...] = ()


def read_events(stdout: bytes, stderr: bytes = b"") -> Transcript:
    r"""
    Return the JSON objects in an output, in order.

    They may be one value over many lines, an array, or a line each; lines end
    with `\n` only (U+2028 may stand in a string). Everything else is noise,
    which is counted and left out.
    """
    whole = _loads(stdout)
    if whole is not _NOTHING:
        return Transcript(tuple(_objects(whole)), stderr, was_cut=False)
    events, noise = list[Event](), list[bytes]()
    for line in stdout.split(b"\n"):
        value = _loads(line)
        found = list(_objects(value))
        events += found
        if not found and line.strip():
            noise.append(line)
    if not events and (last := last_object(stdout)) is not None:
        return Transcript((last,), stderr, was_cut=False)
    was_cut = bool(noise) and _looks_cut(stdout)
    count = len(noise) - was_cut
    notes = (f"{count} lines of output are no events",) if events and count else ()
    return Transcript(tuple(events), stderr, was_cut, notes)


def last_object(text: bytes) -> Event | None:
    """Return the JSON object that a text ends with, of one line or many; None if there is none."""
    end = text[-TAIL:].rstrip()
    if not end.endswith(b"}"):
        return None
    start = len(end)
    while (start := end.rfind(b"{", 0, start)) >= 0:
        if start == 0 or end[start - 1 : start] == b"\n":
            value = _loads(end[start:])
            if isinstance(value, dict):
                return value
    return None


_NOTHING = object()


def _loads(text: bytes) -> Any:
    """Return the JSON value of a text, with terminal codes taken out if need be; `_NOTHING` if it is none."""
    bare = text.strip()
    if not bare:
        return _NOTHING
    try:
        return json.loads(bare)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(harmless(bare.decode("utf-8", "replace")).strip())
    except (ValueError, RecursionError):
        return _NOTHING


def _objects(value: Any) -> Iterator[Event]:
    if isinstance(value, dict):
        yield value
    elif isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def _looks_cut(stdout: bytes) -> bool:
    last = stdout[stdout.rstrip(b"\r\n").rfind(b"\n") + 1 :]
    return harmless(last[:TAIL].decode("utf-8", "replace")).lstrip().startswith(("{", "["))


def _end(text: bytes) -> str:
    return text[-TAIL:].decode("utf-8", "replace")


# --- Readers: what expressions cannot carry --------------------------------


def _claude(transcript: Transcript) -> list[Event]:
    """
    Tell denials that stopped the agent from those it found a way around.

    In a stream the agent went on if the last tool it used was not a denied
    one; a single result object does not show that, and counts as stopped.
    """
    events = list(transcript.events)
    results = [event for event in events if event.get("type") == "result"]
    if not results:
        return events
    last, notes = results[-1], list[str]()
    if len(results) > 1:
        notes.append(f"{len(results)} results; the last one counts")
    denials = [denial for denial in _list(last.get("permission_denials")) if isinstance(denial, dict)]
    used = _tool_results(events)
    if used and used[-1] not in {denial.get("tool_use_id") for denial in denials}:
        notes += [f"denied on the way: {denial.get('tool_name')}" for denial in denials]
        denials = []
    return [*events, {**last, "permission_denials": denials, "notes": notes}]


def _tool_results(events: list[Event]) -> list[object]:
    """Return the ids of the tools whose results the agent was given, in order."""
    messages = [event.get("message") for event in events if event.get("type") == "user"]
    contents = [_list(message.get("content")) for message in messages if isinstance(message, dict)]
    return [
        part.get("tool_use_id")
        for content in contents
        for part in content
        if isinstance(part, dict) and part.get("type") == "tool_result"
    ]


def _codex(transcript: Transcript) -> list[Event]:
    """
    Keep the last turn, count cached tokens apart, and put the old format into words of the new one.

    Input tokens include cached ones here; elsewhere they do not.
    """
    events = list(transcript.events)
    if any("msg" in event for event in events):
        events = list(_modern(events))
    starts = [index for index, event in enumerate(events) if event.get("type") == "turn.started"]
    threads = [event for event in events if event.get("type") == "thread.started"]
    turn = events[starts[-1] :] if starts else [event for event in events if event not in threads]
    return [*threads, *map(_uncached, turn)]


def _uncached(event: Event) -> Event:
    usage = event.get("usage")
    if not isinstance(usage, dict):
        return event
    fresh = _number(usage.get("input_tokens")) - _number(usage.get("cached_input_tokens"))
    return {**event, "usage": {**usage, "uncached_input_tokens": max(fresh, 0)}}


def _modern(events: list[Event]) -> Iterator[Event]:
    """
    Yield the events of Codex up to 0.43, `{"id", "msg"}`, as those of today.

    It knows no last event: its turn is over if the agent's message was followed
    by the count of its tokens and nothing else.
    """
    usage = Event()
    for event in events:
        message = event.get("msg")
        if not isinstance(message, dict):
            continue
        kind = message.get("type")
        if kind == "task_started":
            yield {"type": "turn.started"}
        elif kind == "agent_message":
            yield {
                "type": "item.completed",
                "item": {"type": "agent_message", "text": message.get("message")},
            }
        elif kind == "error":
            yield {"type": "turn.failed", "error": {"message": message.get("message")}}
        elif kind == "token_count":
            info = message.get("info")
            usage = info.get("total_token_usage", usage) if isinstance(info, dict) else usage
    kinds = [event["msg"].get("type") for event in events if isinstance(event.get("msg"), dict)]
    if [kind for kind in kinds if kind != "turn_diff"][-2:] == ["agent_message", "token_count"]:
        yield {"type": "turn.completed", "usage": usage, "notes": ["old format: its end is a guess"]}


def _stderr_json(transcript: Transcript) -> list[Event]:
    """Take the JSON object at the end of stderr, where some CLIs put their error, as the last event."""
    error = last_object(transcript.stderr)
    return [*transcript.events, error] if error else list(transcript.events)


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else []


READERS: dict[str, Callable[[Transcript], list[Event]]] = {
    "claude": _claude,
    "codex": _codex,
    "stderr_json": _stderr_json,
}
