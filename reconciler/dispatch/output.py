"""
Output reader: bytes that an agent printed in, a verdict out.

The bytes become events (`framing`), the rules of the adapter are asked of
those that matter to them, and `core.outcome` judges what they answered. Nothing
here trusts its input: any bytes give a verdict, and hundreds of MiB of them
take no more memory than a few.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache, partial
from itertools import takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.parser import ParsedResult

from reconciler.core.adapter import RULES, Adapter, Output, Usage
from reconciler.core.masking import Mask
from reconciler.core.model.runs import FailureClass, RunRequest, Verdict
from reconciler.core.patterns import chosen, lines_of, matches
from reconciler.core.rule_functions import RULE_OPTIONS
from reconciler.core.runs.outcome import (
    ADDED_UP,
    EXIT_CODES,
    SIGNALS,
    OutputFacts,
    classify,
    retry_time,
    run_usage,
    verdict,
)
from reconciler.core.runs.provider_errors import class_of
from reconciler.core.text import one_line
from reconciler.dispatch.conditions import any_literals, may_hold
from reconciler.dispatch.event_buffer import EventBuffer, EventFilter, event_filters
from reconciler.dispatch.framing import (
    Framer,
    Give,
    OutputEvent,
    Printed,
    end_of,
    in_utf8,
    last_object,
    stream_of,
)
from reconciler.dispatch.logs import end_of_text, read_end

_NOTHING_HIDDEN = Mask()


def read_output(
    adapter: Adapter,
    *,
    stdout: Printed,
    stderr: Printed,
    exit_code: int,
    order: RunRequest,
    now: datetime,
    mask: Mask = _NOTHING_HIDDEN,
) -> Verdict:
    """
    Return the verdict on a CLI's output and exit code.

    `exit_code` is the shell's: 128 + n after signal n. No secret of `mask` is
    in what is returned.
    """
    request = OutputRequest(order.argv, order.session_id, order.session_totals, order.chosen_session)
    return judge_output(adapter, RoundOutput(stdout, stderr, exit_code), request, now, mask)


def parse_recording(
    adapter: Adapter, stdout: Path, exit_code: int, now: datetime, argv: Sequence[str] = ()
) -> Verdict:
    """
    Return the verdict for a recorded output.

    A file beside it of the same name with the ending `.stderr` is read
    too. `exit_code` may be Python's: negative after a signal.
    """
    beside = stdout.with_suffix(".stderr")
    stderr = beside.read_bytes() if beside != stdout and beside.is_file() else b""
    shell_code = exit_code if exit_code >= 0 else 128 - exit_code
    return judge_output(
        adapter, RoundOutput(stdout.read_bytes(), stderr, shell_code), OutputRequest(tuple(argv)), now
    )


def verdict_as_json(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict in the form that `adapter parse -o json` prints."""
    tokens = verdict.usage.model_dump(include={"input_tokens", "output_tokens", "cached_tokens"})
    return {
        "outcome": verdict.outcome,
        "class": verdict.kind,
        "message": verdict.message,
        "session_id": verdict.session_id,
        "text": verdict.text,
        "usage": tokens,
        "cost_usd": verdict.usage.cost_usd,
        "model": verdict.model,
        "turns": verdict.usage.turns,
        "retry_at": verdict.model_dump(mode="json", include={"retry_at"})["retry_at"],
        "notes": list(verdict.notes),
    }


# --- Events ------------------------------------------------------------------

MOST_TEXT = 256 * 1024
"""Characters of the final message, and of an error, that are read; fewer are kept."""
TAIL = 64 * 1024
"""How much of a text's end is looked at, in bytes."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """The parsed output of a CLI."""

    events: tuple[OutputEvent, ...]
    stderr: bytes
    """Its end."""
    was_cut: bool
    """The last line begins like JSON but is none."""
    has_begun: bool = False
    """Whether there was any event, even one that was not kept."""
    notes: tuple[str, ...] = ()
    spliced: frozenset[int] = frozenset()
    """Indexes of the events with something else before them on their line."""

    def only(self, is_spliced_wanted: Callable[[OutputEvent], bool]) -> "Transcript":
        """Return the transcript with only the wanted ones of its spliced events."""
        wanted = [
            (event, number in self.spliced)
            for number, event in enumerate(self.events)
            if number not in self.spliced or is_spliced_wanted(event)
        ]
        spliced = frozenset(number for number, (_, is_spliced) in enumerate(wanted) if is_spliced)
        return replace(self, events=tuple(event for event, _ in wanted), spliced=spliced)


_ALL = (EventFilter(lambda _: True, "all"),)


def _identity(event: OutputEvent) -> OutputEvent:
    return event


def _none(_: OutputEvent) -> bool:
    return False


class Joining(Protocol):
    """Joins events that are printed in pieces."""

    def add(
        self, events: Sequence[OutputEvent], lines: Sequence[str] | None = None, *, is_spliced: bool = False
    ) -> None:
        """Add events, and pass on those that are complete."""

    def end(self) -> None:
        """Pass on the rest."""


def read_events(
    stdout: Printed,
    stderr: bytes = b"",
    filters: Sequence[EventFilter] = _ALL,
    slim: Callable[[OutputEvent], OutputEvent] = _identity,
    join: Callable[[Give], Joining] | None = None,
) -> Transcript:
    r"""
    Return the JSON objects in an output that meet a condition, in order.

    They may stand on a line each, in an array, or be one value over many lines.
    Lines end with `\n` only (U+2028 may stand in a string). Everything else is
    noise, which is counted and left out. `slim` takes out of an event what
    nobody asks for; `join` makes one of many before it.
    """
    retention = EventBuffer(filters, slim)
    joining = join(retention.add) if join else None
    is_wanted = partial(may_hold, any_literals(each.literals for each in filters))
    framer = Framer(joining.add) if joining else Framer(retention.add, is_wanted)
    framer.read(stdout)
    if joining:
        joining.end()
    kept = retention.kept()
    spliced = frozenset(number for number, each in enumerate(kept) if each.is_spliced)
    notes = tuple(_anomalies(framer, retention))
    events = tuple(each.event for each in kept)
    return Transcript(events, stderr, framer.was_cut, framer.events > 0, notes, spliced)


def _anomalies(framer: Framer, retention: EventBuffer) -> Iterator[str]:
    stray = framer.noise - framer.was_cut
    if framer.events and stray > 0:
        or_more = " or more" if framer.is_mostly_noise else ""
        yield f"lines of output that are not events: {stray}{or_more}"
    if retention.left_out:
        yield f"events in the middle of the output that were not read: {retention.left_out}"


def _end(printed: Printed) -> str:
    return read_end(stream_of(printed), TAIL)


# --- Facts -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RoundOutput:
    """Output of a round: both streams and the exit code."""

    stdout: Printed
    stderr: Printed
    exit_code: int


@dataclass(frozen=True, slots=True)
class OutputRequest:
    """What was requested of the run, as far as the verdict depends on it."""

    argv: tuple[str, ...] = ()
    session: str | None = None
    """Session to resume."""
    totals: Usage = Usage()  # noqa: RUF009 - a frozen value
    """The CLI's totals of that session before the run."""
    chosen: str | None = None
    """Id that was made for a new session."""


def judge_output(
    adapter: Adapter,
    round_output: RoundOutput,
    request: OutputRequest,
    now: datetime,
    mask: Mask = _NOTHING_HIDDEN,
) -> Verdict:
    """Return the verdict on a round's output, given what was requested."""
    facts = _text_facts if adapter.output.format == "text" else _event_facts
    with in_utf8(round_output.stdout) as stdout, in_utf8(round_output.stderr) as stderr:
        readable = RoundOutput(stdout, stderr, round_output.exit_code)
        return verdict(_masked(facts(adapter.output, readable, request, mask), mask), now)


def _masked(facts: OutputFacts, mask: Mask) -> OutputFacts:
    """Return the facts with secrets masked, before any text is cut: half a secret would not be found."""
    hide, session = mask.hide, facts.session_id
    return replace(
        facts,
        text=hide(end_of_text(facts.text, MOST_TEXT)),
        error=hide(facts.error[:MOST_TEXT]),
        session_id=session if session and hide(session) == session else None,
        denials=tuple(map(hide, facts.denials)),
        model=hide(facts.model) if facts.model else None,
        notes=tuple(map(hide, facts.notes)),
    )


def _text_facts(rules: Output, round_output: RoundOutput, request: OutputRequest, mask: Mask) -> OutputFacts:
    """
    Return the facts in a text output.

    Without rules there is nothing but the exit code to go by, for the words may
    be about anything; but where they say, as errors do, that the provider's
    limit is reached, they are believed. Of an error and a success, the later one
    counts. Secrets are masked before lines are cut.
    """
    code = round_output.exit_code
    printed, complained = (mask.hide(_end(stream)) for stream in (round_output.stdout, round_output.stderr))
    lines = (*lines_of(printed), *lines_of(complained))
    failed_at, error = _find(rules.error, lines)
    succeeded_at, _ = _find(rules.success, lines)
    has_failed = failed_at > succeeded_at or (rules.success is not None and succeeded_at < 0)
    own_class = _meaning(rules.exit_codes.get(str(code)))
    totals = _usage(rules, partial(_value, lines=lines)).model_copy(
        update=_added_up(rules, round_output.stdout, round_output.stderr)
    )
    session = _session(_value(rules.session_id, lines))
    facts = OutputFacts(
        exit_code=code,
        complete=_find(rules.terminal, lines)[0] >= 0 if rules.terminal else code not in SIGNALS,
        succeeded=code == 0 and not has_failed,
        error=" ".join((error, *_rest(lines, failed_at))) if failed_at > succeeded_at else "",
        error_class=own_class or (None if failed_at >= 0 else EXIT_CODES.get(code, FailureClass.AGENT)),
        error_status=_status(_value(rules.error_status, lines)),
        text=_value(rules.text, lines) or "" if rules.text else printed,
        needs_text=rules.text is not None,
        stderr=complained or printed,
        error_patterns=rules.error_patterns,
        session_id=session,
        wanted_session=request.session,
        chosen_session=request.chosen,
        totals=totals,
        model=_value(rules.model, lines),
        usage=run_usage(request.totals if session == request.session else Usage(), totals, rules.cumulative),
    )
    by_text = replace(facts, error_class=own_class)
    is_quota = code != 0 and classify(by_text) is FailureClass.QUOTA
    return by_text if is_quota else facts


def _find(pattern: str | None, lines: Sequence[str]) -> tuple[int, str]:
    """Return the number of the last matching line, and the match; -1 if there is none."""
    return max(matches(pattern, lines), default=(-1, ""), key=itemgetter(0)) if pattern else (-1, "")


def _added_up(rules: Output, *streams: Printed) -> dict[str, float]:
    """Return the totals of what a CLI tells of each message, by all of its output, not its end alone."""
    names = {name for group in rules.added_up for name in ADDED_UP[group]}
    sums = {name: 0.0 for name in names if getattr(rules, name)}
    if not sums:
        return sums
    for line in (line for stream in streams for line in _whole(stream)):
        for name in sums:
            sums[name] += sum(read_number(value) for _, value in matches(getattr(rules, name), (line,)))
    return {name: round(value, 6) if name == "cost_usd" else int(value) for name, value in sums.items()}


def _whole(printed: Printed) -> Iterator[str]:
    """Yield every line of an output."""
    for line in stream_of(printed):
        yield from lines_of(line.decode("utf-8", "replace").rstrip("\r\n"))


def _value(pattern: str | None, lines: Sequence[str]) -> str | None:
    at, value = _find(pattern, lines)
    return value if at >= 0 else None


def _rest(lines: Sequence[str], at: int) -> Iterator[str]:
    """Yield the continuation of an error on the lines below it, up to an empty one."""
    return takewhile(bool, lines[at + 1 : at + 4])


def give_up_verdict(
    rules: Output, stdout: Printed, stderr: Printed, now: datetime, mask: Mask = _NOTHING_HIDDEN
) -> dict[str, Any]:
    """Return, as fields of a verdict, why a run was ended that waited to call its model again (`give_up`)."""
    lines = [line for stream in (stdout, stderr) for line in lines_of(mask.hide(_end(stream)))]
    reason = _value(rules.give_up, lines) or "its model refuses"
    kind = class_of(reason, rules.error_patterns) or FailureClass.QUOTA
    return {
        "outcome": "failed",
        "kind": kind,
        "message": one_line(f"stopped, as it only waited to call its model again: {reason}"),
        "retry_at": retry_time(reason, now) if kind is FailureClass.QUOTA else None,
    }


def _event_facts(rules: Output, round_output: RoundOutput, request: OutputRequest, mask: Mask) -> OutputFacts:
    transcript = _transcript(rules, round_output)
    events = _prepared(rules, transcript)
    ask = partial(ask_rule, events=events)
    has_begun = transcript.has_begun or bool(events)
    session = _session(ask(rules.session_id))
    before = request.totals if session == request.session else Usage()
    totals = _usage(rules, ask)
    stderr = mask.hide(_end(round_output.stderr) or ("" if has_begun else _end(round_output.stdout)))
    is_structure_asked = rules.schema_flag in request.argv
    succeeded = bool(ask(rules.success)) if rules.success else round_output.exit_code == 0
    return OutputFacts(
        exit_code=round_output.exit_code,
        complete=_is_complete(rules, transcript),
        succeeded=succeeded,
        text=_text(ask(rules.text)) or "",
        error="" if succeeded else _text(ask(rules.error)) or "",
        error_class=_meaning(
            _text(ask(rules.error_class)) or rules.exit_codes.get(str(round_output.exit_code))
        ),
        error_status=_status(ask(rules.error_status)),
        stderr=stderr,
        complaints=tuple(chosen(rules.error_lines, lines_of(stderr))) if rules.error_lines else None,
        error_patterns=rules.error_patterns,
        session_id=session,
        wanted_session=request.session,
        chosen_session=request.chosen,
        denials=_texts(ask(rules.denials)),
        lacks_structure=is_structure_asked and not ask(rules.structured),
        started=has_begun,
        was_cut=transcript.was_cut,
        totals=totals if totals != Usage() else before,
        model=_text(ask(rules.model)),
        usage=run_usage(before, totals, rules.cumulative),
        notes=(*_texts(ask(rules.notes)), *transcript.notes),
    )


def _transcript(rules: Output, round_output: RoundOutput) -> Transcript:
    """
    Return the events of a run, from the places where a CLI writes them.

    Only where these do not add up to a whole output are those taken that
    something else was printed before, of the same session, and then those on
    stderr.
    """
    transcript = _read(rules, round_output.stdout, round_output.stderr)
    strict = transcript.only(_none)
    if _is_complete(rules, strict):
        return strict
    session = ask_rule(rules.session_id, list(strict.events))
    more = transcript.only(
        lambda event: not session or ask_rule(rules.session_id, [event]) in {None, session}
    )
    if len(more.events) > len(strict.events) and _is_complete(rules, more):
        return more
    if not transcript.has_begun:
        beside = _read(rules, round_output.stderr, b"").only(_none)
        if _is_complete(rules, beside):
            return beside
    return strict


def _read(rules: Output, stdout: Printed, stderr: Printed) -> Transcript:
    reader = rules.reader or ""
    filters = (*event_filters(_expressions(rules)), *READ.get(reader, ()))
    slim = SLIM.get(reader, _identity)
    return read_events(stdout, end_of(stderr, TAIL), filters, slim, JOIN.get(reader))


def _is_complete(rules: Output, transcript: Transcript) -> bool:
    if rules.terminal:
        return bool(ask_rule(rules.terminal, _prepared(rules, transcript)))
    return transcript.has_begun and not transcript.was_cut


def _prepared(rules: Output, transcript: Transcript) -> list[OutputEvent]:
    return READERS[rules.reader](transcript) if rules.reader else list(transcript.events)


def _expressions(rules: Output) -> Iterator[str]:
    """Yield the rules that are expressions."""
    yield from (rule for name in RULES if (rule := getattr(rules, name)) is not None)


def _meaning(code: str | None) -> FailureClass | None:
    return FailureClass(code) if code in set(FailureClass) else None


def _usage(rules: Output, ask: Callable[[str | None], Any]) -> Usage:
    return Usage(
        input_tokens=int(read_number(ask(rules.input_tokens))),
        output_tokens=int(read_number(ask(rules.output_tokens))),
        cached_tokens=int(read_number(ask(rules.cached_tokens))),
        cost_usd=round(read_number(ask(rules.cost_usd)), 6),
        turns=int(read_number(ask(rules.turns))),
    )


# --- Rules -----------------------------------------------------------------


def ask_rule(expression: str | None, events: list[OutputEvent] | OutputEvent) -> Any:
    """Evaluate a JMESPath expression; None also if the events have an unexpected shape."""
    if expression is None:
        return None
    try:
        return _compiled(expression).search(events, RULE_OPTIONS)
    except (JMESPathError, TypeError, ValueError, ArithmeticError, RecursionError):
        return None


@lru_cache(maxsize=512)
def _compiled(expression: str) -> ParsedResult:
    return jmespath.compile(expression)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")
"""Pattern of a session id: it is passed on a command line and must not look like an option."""


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


def read_number(value: object) -> float:
    """Return a number, also from a text such as `1.0k` or `12,345`; 0 for anything else."""
    written = _WRITTEN.fullmatch(value) if isinstance(value, str) else None
    if written:
        value = float(written[1].replace(",", "")) * _UNITS[written[2].lower()]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if 0 <= value <= LARGEST else 0.0  # NaN is not; infinity is more


# --- Readers: what expressions cannot carry --------------------------------


def _claude(transcript: Transcript) -> list[OutputEvent]:
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


def _tool_results(events: list[OutputEvent]) -> list[object]:
    """Return the ids of the tools whose results the agent was given, in order."""
    messages = [event.get("message") for event in events if event.get("type") == "user"]
    contents = [_list(message.get("content")) for message in messages if isinstance(message, dict)]
    return [
        part.get("tool_use_id")
        for content in contents
        for part in content
        if isinstance(part, dict) and part.get("type") == "tool_result"
    ]


def _codex(transcript: Transcript) -> list[OutputEvent]:
    """
    Keep the last turn, count cached tokens separately, and convert the old format to the new one.

    Input tokens include cached ones here; elsewhere they do not.
    """
    events = [_renamed(event) for event in transcript.events]
    if any(_is_old(event) for event in events):
        events = list(_modern(events))
    starts = [index for index, event in enumerate(events) if event.get("type") == "turn.started"]
    threads = [event for event in events if event.get("type") == "thread.started"]
    turn = events[starts[-1] :] if starts else [event for event in events if event not in threads]
    return [*threads, *map(_uncached, turn)]


def _is_old(event: OutputEvent) -> bool:
    """Tell whether an event is of the format up to 0.43; a line of a log may have a `msg` of words."""
    return isinstance(event.get("msg"), dict)


def _renamed(event: OutputEvent) -> OutputEvent:
    """Rename an item to the current format; for a while its type was under `item_type`."""
    item = event.get("item")
    if not isinstance(item, dict) or "item_type" not in item:
        return event
    kind = "agent_message" if item["item_type"] == "assistant_message" else item["item_type"]
    return {**event, "item": {**item, "type": kind}}


def _uncached(event: OutputEvent) -> OutputEvent:
    usage = event.get("usage")
    if not isinstance(usage, dict):
        return event
    fresh = read_number(usage.get("input_tokens")) - read_number(usage.get("cached_input_tokens"))
    return {**event, "usage": {**usage, "uncached_input_tokens": max(fresh, 0)}}


def _modern(events: list[OutputEvent]) -> Iterator[OutputEvent]:
    """
    Convert the events of Codex up to 0.43, `{"id", "msg"}`, to the current format.

    It knows no last event: its turn is over if the agent's message was followed
    by the count of its tokens and nothing else.
    """
    messages = [event["msg"] for event in events if _is_old(event)]
    usage = OutputEvent()
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


def _stderr_json(transcript: Transcript) -> list[OutputEvent]:
    """Take the JSON object at the end of stderr, where some CLIs put their error, as the last event."""
    return [*transcript.events, *last_object(transcript.stderr)]


def _qwen(transcript: Transcript) -> list[OutputEvent]:
    """Read a stream like Claude's, and the error that may stand on stderr instead of its end."""
    return [*_claude(transcript), *last_object(transcript.stderr)]


def _gemini(transcript: Transcript) -> list[OutputEvent]:
    """Count thoughts as output, and take the error from stderr."""
    return [_with_thoughts(event) for event in _stderr_json(transcript)]


def _with_thoughts(event: OutputEvent) -> OutputEvent:
    """Count all generated tokens as output."""
    stats = event.get("stats")
    if not isinstance(stats, dict) or "output_tokens" not in stats:
        return event
    generated = read_number(stats.get("total_tokens")) - read_number(stats.get("input_tokens"))
    return {
        **event,
        "stats": {**stats, "generated_tokens": max(generated, read_number(stats["output_tokens"]))},
    }


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else []


READERS: dict[str, Callable[[Transcript], list[OutputEvent]]] = {
    "claude": _claude,
    "codex": _codex,
    "gemini": _gemini,
    "qwen": _qwen,
    "stderr_json": _stderr_json,
}


def _slim_claude(event: OutputEvent) -> OutputEvent:
    """Strip tool results to their ids."""
    used = _tool_results([event])
    if event.get("type") != "user" or not used:
        return event
    parts = [{"type": "tool_result", "tool_use_id": used[-1]}]
    return {"type": "user", "session_id": event.get("session_id"), "message": {"content": parts}}


def _slim_codex(event: OutputEvent) -> OutputEvent:
    """Strip events of the old format to what is converted."""
    message = event.get("msg")
    if not isinstance(message, dict):
        return _renamed(event)
    return {"msg": {name: message[name] for name in ("type", "message", "info") if name in message}}


def _is_of(*types: str) -> Callable[[OutputEvent], bool]:
    return lambda event: event.get("type") in types


_CLAUDE = (
    EventFilter(_is_of("result"), "all", frozenset({'"result"'})),
    EventFilter(
        lambda event: event.get("type") == "user" and bool(_tool_results([event])),
        "last",
        frozenset({'"tool_result"'}),
    ),
)

SLIM: dict[str, Callable[[OutputEvent], OutputEvent]] = {
    "claude": _slim_claude,
    "codex": _slim_codex,
    "qwen": _slim_claude,
}
READ: dict[str, Sequence[EventFilter]] = {
    "claude": _CLAUDE,
    "qwen": _CLAUDE,
    "codex": (
        EventFilter(_is_of("turn.started"), "last", frozenset({'"turn.started"'})),
        EventFilter(_is_old, "all", frozenset({'"msg"'})),
    ),
}
"""Events that the readers need, besides those of the rules."""


class _JoiningGemini:
    """
    Joins message chunks, and adds the names of tools to their results.

    A message is over when something else happens; the last one is the answer.
    """

    def __init__(self, give: Give) -> None:
        self._give = give
        self._messages: dict[bool, _Message] = {}
        """Unfinished messages: of plain events, and of spliced ones."""
        self._tools: dict[str, object] = {}
        """Names of tools without a result so far."""

    def add(
        self, events: Sequence[OutputEvent], lines: Sequence[str] | None = None, *, is_spliced: bool = False
    ) -> None:
        others, texts = list[OutputEvent](), list[str]()
        for event, text in zip(events, lines or [""] * len(events), strict=True):
            joined = self._joined(event, is_spliced)
            if joined != [event]:
                self._pass_on(others, texts if lines else None, is_spliced)
                self._pass_on(joined, None, is_spliced)
                others, texts = [], []
            else:
                others.append(event)
                texts.append(text)
        self._pass_on(others, texts if lines else None, is_spliced)

    def end(self) -> None:
        for is_spliced in tuple(self._messages):
            self._pass_on(self._ended(is_spliced), None, is_spliced)

    def _pass_on(self, events: list[OutputEvent], lines: list[str] | None, is_spliced: bool) -> None:
        if events:
            self._give(events, lines, is_spliced=is_spliced)

    def _joined(self, event: OutputEvent, is_spliced: bool) -> list[OutputEvent]:
        """Return what is complete with an event: none with a piece of a message, two with what ends one."""
        if _is_piece(event):
            self._messages.setdefault(is_spliced, _Message(event)).add(event["content"])
            return []
        return [*self._ended(is_spliced), self._with_tool(event)]

    def _ended(self, is_spliced: bool) -> list[OutputEvent]:
        message = self._messages.pop(is_spliced, None)
        return [message.whole()] if message else []

    def _with_tool(self, event: OutputEvent) -> OutputEvent:
        tool = event.get("tool_id")
        if not isinstance(tool, str):
            return event
        if event.get("type") == "tool_use":
            self._tools[tool] = event.get("tool_name")
            if len(self._tools) > _MOST_TOOLS:
                del self._tools[next(iter(self._tools))]
        if event.get("type") == "tool_result":
            return {**event, "tool_name": self._tools.pop(tool, None)}
        return event


_MOST_TOOLS = 1000
"""Tools that may be at work at a time."""


class _Message:
    """A message of the agent; its end is kept."""

    def __init__(self, first: OutputEvent) -> None:
        self._first = first
        self._pieces: list[str] = []
        self._size = 0

    def add(self, piece: str) -> None:
        self._pieces.append(piece)
        self._size += len(piece) + _PIECE
        if self._size > 2 * MOST_TEXT:
            self._pieces = [end_of_text("".join(self._pieces), MOST_TEXT)]
            self._size = len(self._pieces[0])

    def whole(self) -> OutputEvent:
        return {**self._first, "content": "".join(self._pieces)}


_PIECE = 8
"""Overhead of a chunk, in characters."""


def _is_piece(event: OutputEvent) -> bool:
    """Tell whether an event is a piece of what the agent says."""
    is_said = (event.get("type"), event.get("role")) == ("message", "assistant")
    return is_said and isinstance(event.get("content"), str)


JOIN: dict[str, Callable[[Give], Joining]] = {"gemini": _JoiningGemini}
"""Classes that join chunks, by reader; applied before events are filtered."""
