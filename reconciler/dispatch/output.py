"""
What agents print: bytes in, a verdict out.

The bytes become events, the rules of the adapter are asked of the events, and
`core.outcome` judges what they answered. Nothing here trusts its input: any
bytes give a verdict.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from itertools import takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.parser import ParsedResult

from reconciler.core.adapter import Adapter, Output, Usage
from reconciler.core.model import FailureClass, Order, Verdict
from reconciler.core.outcome import EXIT_CODES, SIGNALS, Facts, class_of, retry_time, spent, verdict
from reconciler.core.patterns import chosen, lines_of, matches
from reconciler.core.text import harmless, one_line

Event = dict[str, Any]


def read_output(
    adapter: Adapter, *, stdout: bytes, stderr: bytes, exit_code: int, order: Order, now: datetime
) -> Verdict:
    """
    Return what to make of what a CLI printed and how it ended.

    `exit_code` is the shell's: 128 + n after signal n.
    """
    asked = Asked(order.argv, order.session_id, order.session_totals)
    return judge_output(adapter, Remains(stdout, stderr, exit_code), asked, now)


def parse_recording(
    adapter: Adapter, stdout: Path, exit_code: int, now: datetime, argv: Sequence[str] = ()
) -> Verdict:
    """
    Return the verdict for a recorded output.

    What stands beside it under the same name with the ending `.stderr` is read
    too. `exit_code` may be Python's: negative after a signal.
    """
    beside = stdout.with_suffix(".stderr")
    stderr = beside.read_bytes() if beside != stdout and beside.is_file() else b""
    shell_code = exit_code if exit_code >= 0 else 128 - exit_code
    return judge_output(adapter, Remains(stdout.read_bytes(), stderr, shell_code), Asked(tuple(argv)), now)


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


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left of a run."""

    stdout: bytes
    stderr: bytes
    exit_code: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What the run was to do, as far as its output must answer for it."""

    argv: tuple[str, ...] = ()
    session: str | None = None
    """Session to resume."""
    totals: Usage = Usage()  # noqa: RUF009 - a frozen value
    """The CLI's totals of that session before the run."""


def judge_output(adapter: Adapter, remains: Remains, asked: Asked, now: datetime) -> Verdict:
    """Return the verdict for what is left of a run, given what it was to do."""
    if adapter.output.format == "text":
        return verdict(_text_facts(adapter.output, remains, asked), now)
    return verdict(_event_facts(adapter.output, remains, asked), now)


def _text_facts(rules: Output, remains: Remains, asked: Asked) -> Facts:
    """
    Return what the lines of a text tell.

    Without rules there is nothing but the exit code to go by: the words may be
    about anything. Of an error and a success, the later one counts.
    """
    code = remains.exit_code
    printed, complained = _end(remains.stdout), _end(remains.stderr)
    lines = (*lines_of(printed), *lines_of(complained))
    failed_at, error = _find(rules.error, lines)
    succeeded_at, _ = _find(rules.success, lines)
    has_failed = failed_at > succeeded_at or (rules.success is not None and succeeded_at < 0)
    own_class = _meaning(rules.exit_codes.get(str(code)))
    totals = _usage(rules, partial(_value, lines=lines))
    session = _session(_value(rules.session_id, lines))
    return Facts(
        exit_code=code,
        complete=_find(rules.terminal, lines)[0] >= 0 if rules.terminal else code not in SIGNALS,
        succeeded=code == 0 and not has_failed,
        error=" ".join((error, *_rest(lines, failed_at))) if failed_at > succeeded_at else "",
        error_class=own_class or (None if failed_at >= 0 else EXIT_CODES.get(code, FailureClass.AGENT)),
        error_status=_status(_value(rules.error_status, lines)),
        text=_value(rules.text, lines) or "" if rules.text else printed,
        needs_text=rules.text is not None,
        stderr=complained or printed,
        words=rules.words,
        session_id=session,
        wanted_session=asked.session,
        totals=totals,
        usage=spent(asked.totals if session == asked.session else Usage(), totals, rules.cumulative),
    )


def _find(pattern: str | None, lines: Sequence[str]) -> tuple[int, str]:
    """Return the number of the last line that fits, and what it says; -1 if none does."""
    return max(matches(pattern, lines), default=(-1, ""), key=itemgetter(0)) if pattern else (-1, "")


def _value(pattern: str | None, lines: Sequence[str]) -> str | None:
    at, value = _find(pattern, lines)
    return value if at >= 0 else None


def _rest(lines: Sequence[str], at: int) -> Iterator[str]:
    """Yield what goes on of an error on the lines below it, up to an empty one."""
    return takewhile(bool, lines[at + 1 : at + 4])


def refusal(rules: Output, stdout: bytes, stderr: bytes, now: datetime) -> dict[str, Any]:
    """Return, as fields of a verdict, why a run was ended that waited to call its model again (`give_up`)."""
    lines = (*lines_of(_end(stdout)), *lines_of(_end(stderr)))
    words = _value(rules.give_up, lines) or "its model refuses"
    kind = class_of(words, rules.words) or FailureClass.QUOTA
    return {
        "outcome": "failed",
        "kind": kind,
        "message": one_line(f"stopped, as it only waited to call its model again: {words}"),
        "retry_at": retry_time(words, now) if kind is FailureClass.QUOTA else None,
    }


def _event_facts(rules: Output, remains: Remains, asked: Asked) -> Facts:
    transcript = read_events(remains.stdout, remains.stderr)
    events = READERS[rules.reader](transcript) if rules.reader else list(transcript.events)
    ask = partial(_ask, events=events)
    session = _session(ask(rules.session_id))
    before = asked.totals if session == asked.session else Usage()
    totals = _usage(rules, ask)
    stderr = _end(remains.stderr) or ("" if events else _end(remains.stdout))
    is_structure_asked = rules.schema_flag in asked.argv
    return Facts(
        exit_code=remains.exit_code,
        complete=bool(ask(rules.terminal)) if rules.terminal else _is_whole(transcript),
        succeeded=bool(ask(rules.success)) if rules.success else remains.exit_code == 0,
        text=_text(ask(rules.text)) or "",
        error=_text(ask(rules.error)) or "",
        error_class=_meaning(_text(ask(rules.error_class)) or rules.exit_codes.get(str(remains.exit_code))),
        error_status=_status(ask(rules.error_status)),
        stderr=stderr,
        complaints=tuple(chosen(rules.error_lines, lines_of(stderr))) if rules.error_lines else None,
        words=rules.words,
        session_id=session,
        wanted_session=asked.session,
        denials=_texts(ask(rules.denials)),
        lacks_structure=is_structure_asked and not ask(rules.structured),
        started=bool(events),
        was_cut=transcript.was_cut,
        totals=totals if totals != Usage() else before,
        usage=spent(before, totals, rules.cumulative),
        notes=(*_texts(ask(rules.notes)), *transcript.notes),
    )


def _is_whole(transcript: "Transcript") -> bool:
    return bool(transcript.events) and not transcript.was_cut


def _meaning(told: str | None) -> FailureClass | None:
    return FailureClass(told) if told in set(FailureClass) else None


def _usage(rules: Output, ask: Callable[[str | None], Any]) -> Usage:
    return Usage(
        input_tokens=int(_number(ask(rules.input_tokens))),
        output_tokens=int(_number(ask(rules.output_tokens))),
        cached_tokens=int(_number(ask(rules.cached_tokens))),
        cost_usd=round(_number(ask(rules.cost_usd)), 6),
        turns=int(_number(ask(rules.turns))),
    )


# --- Rules -----------------------------------------------------------------


def _ask(expression: str | None, events: list[Event]) -> Any:
    """Return what a JMESPath expression finds; None also if the events are not of the kind it expects."""
    if expression is None:
        return None
    try:
        return _compiled(expression).search(events)
    except (JMESPathError, TypeError, ValueError, ArithmeticError, RecursionError):
        return None


@lru_cache(maxsize=512)
def _compiled(expression: str) -> ParsedResult:
    return jmespath.compile(expression)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")
"""What a session may be called: it will stand on a command line, and no option may hide in it."""


def _session(value: object) -> str | None:
    return value if isinstance(value, str) and _SESSION.fullmatch(value) else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _status(value: object) -> int | None:
    """Return an HTTP status, be it a number or the digits of one."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"[1-5][0-9][0-9]", value) else None
    return value if isinstance(value, int) else None


LARGEST = 1e15
"""A number above this is nonsense."""

_WRITTEN = re.compile(r"(\d[\d,]{0,20}(?:\.\d{1,20})?)\s?([kKmM]?)", re.ASCII)
_UNITS = {"": 1, "k": 1e3, "m": 1e6}


def _number(value: object) -> float:
    """Return a number, or what a text such as `1.0k` or `12,345` writes; 0 for anything else."""
    written = _WRITTEN.fullmatch(value) if isinstance(value, str) else None
    if written:
        value = float(written[1].replace(",", "")) * _UNITS[written[2].lower()]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if 0 <= value <= LARGEST else 0.0  # NaN is not; infinity is more


# --- Bytes to events -------------------------------------------------------

TAIL = 64 * 1024
"""How much of a text's end is looked at, in bytes."""

ATTEMPTS = 8
"""How many places are tried as the beginning of the object at a text's end."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a CLI printed, taken apart."""

    events: tuple[Event, ...]
    stderr: bytes
    was_cut: bool
    """The last line begins like JSON but is none."""
    notes: tuple[str, ...] = ()


def read_events(stdout: bytes, stderr: bytes = b"") -> Transcript:
    r"""
    Return the JSON objects in an output, in order.

    They may stand on a line each, in an array, or be one value over many lines.
    Lines end with `\n` only (U+2028 may stand in a string). Everything else is
    noise, which is counted and left out.
    """
    events, noise = list[Event](), 0
    for line in stdout.split(b"\n"):
        found = _objects(_loads(line))
        events += found
        noise += not found and not line.isspace() and line != b""
    if not events:
        whole = _objects(_loads(stdout)) or _last_object(stdout)
        return Transcript(tuple(whole), stderr, was_cut=not whole and _begins_json(_last_line(stdout)))
    last = _last_line(stdout)
    was_cut = _begins_json(last) and _loads(last) is None
    stray = noise - was_cut
    notes = (f"lines of output that are no events: {stray}",) if stray else ()
    return Transcript(tuple(events), stderr, was_cut, notes)


def _last_object(text: bytes) -> list[Event]:
    """Return the JSON object that a text ends with, of one line or many; none if there is none."""
    end = b"\n" + text[-TAIL:].rstrip()
    start = len(end)
    for _ in range(ATTEMPTS):
        start = end.rfind(b"\n{", 0, start)
        found = _objects(_loads(end[start:])) if start >= 0 else []
        if found:
            return found
    return []


def _last_line(text: bytes) -> bytes:
    return text.rstrip().rpartition(b"\n")[2]


def _begins_json(text: bytes) -> bool:
    """Tell whether a text begins like an object or an array, behind what a terminal would swallow."""
    return harmless(text[:1024].decode("utf-8", "replace")).lstrip().startswith(("{", "["))


def _loads(text: bytes) -> Any:
    """Return the JSON object or array of a text, terminal codes taken out if need be; None if it is none."""
    if not _begins_json(text):
        return None
    for attempt in (bytes.strip, _plain):
        try:
            return json.loads(attempt(text))
        except (ValueError, RecursionError):
            continue
    return None


def _plain(text: bytes) -> str:
    return harmless(text.decode("utf-8", "replace"))


def _objects(value: Any) -> list[Event]:
    """Return the objects of a value: itself, or those in an array."""
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, dict)]


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
    events = [_renamed(event) for event in transcript.events]
    if any("msg" in event for event in events):
        events = list(_modern(events))
    starts = [index for index, event in enumerate(events) if event.get("type") == "turn.started"]
    threads = [event for event in events if event.get("type") == "thread.started"]
    turn = events[starts[-1] :] if starts else [event for event in events if event not in threads]
    return [*threads, *map(_uncached, turn)]


def _renamed(event: Event) -> Event:
    """Call an item by today's name; for a while its type stood under `item_type`."""
    item = event.get("item")
    if not isinstance(item, dict) or "item_type" not in item:
        return event
    kind = "agent_message" if item["item_type"] == "assistant_message" else item["item_type"]
    return {**event, "item": {**item, "type": kind}}


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
    messages = [event["msg"] for event in events if isinstance(event.get("msg"), dict)]
    usage = Event()
    for message in messages:
        match message:
            case {"type": "task_started"}:
                yield {"type": "turn.started"}
            case {"type": "agent_message", "message": text}:
                yield {"type": "item.completed", "item": {"type": "agent_message", "text": text}}
            case {"type": "error", "message": text}:
                yield {"type": "turn.failed", "error": {"message": text}}
            case {"type": "token_count", "info": {"total_token_usage": dict() as totals}}:
                usage = totals
    kinds = [message.get("type") for message in messages]
    if [kind for kind in kinds if kind != "turn_diff"][-2:] == ["agent_message", "token_count"]:
        yield {"type": "turn.completed", "usage": usage, "notes": ["old format: its end is a guess"]}


def _stderr_json(transcript: Transcript) -> list[Event]:
    """Take the JSON object at the end of stderr, where some CLIs put their error, as the last event."""
    return [*transcript.events, *_last_object(transcript.stderr)]


def _qwen(transcript: Transcript) -> list[Event]:
    """Read a stream like Claude's, and the error that may stand on stderr instead of its end."""
    return [*_claude(transcript), *_last_object(transcript.stderr)]


def _gemini(transcript: Transcript) -> list[Event]:
    """
    Put words that came piece by piece together, name the tools of results, and count thoughts as output.

    A message is over when something else happens; the last one is the answer.
    """
    events, tools = list[Event](), dict[object, object]()
    for event in _stderr_json(transcript):
        before = events[-1] if events else {}
        if _is_piece(before) and _is_piece(event):
            events[-1] = {**before, "content": before["content"] + event["content"]}
            continue
        if event.get("type") == "tool_use" and isinstance(event.get("tool_id"), str):
            tools[event["tool_id"]] = event.get("tool_name")
        if event.get("type") == "tool_result" and isinstance(event.get("tool_id"), str):
            event = {**event, "tool_name": tools.get(event["tool_id"])}  # noqa: PLW2901 - the same, with its name
        events.append(_with_thoughts(event))
    return events


def _is_piece(event: Event) -> bool:
    """Tell whether an event is a piece of what the agent says."""
    is_said = (event.get("type"), event.get("role")) == ("message", "assistant")
    return is_said and isinstance(event.get("content"), str)


def _with_thoughts(event: Event) -> Event:
    """Count what the model generated: all that was not its input."""
    stats = event.get("stats")
    if not isinstance(stats, dict) or "output_tokens" not in stats:
        return event
    generated = _number(stats.get("total_tokens")) - _number(stats.get("input_tokens"))
    return {**event, "stats": {**stats, "generated_tokens": max(generated, _number(stats["output_tokens"]))}}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else []


READERS: dict[str, Callable[[Transcript], list[Event]]] = {
    "claude": _claude,
    "codex": _codex,
    "gemini": _gemini,
    "qwen": _qwen,
    "stderr_json": _stderr_json,
}
