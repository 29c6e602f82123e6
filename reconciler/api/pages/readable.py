"""
Events that agent CLIs print as JSON, as a person reads them: what was said, which tools were used.

One rule for all CLIs: an event is a mapping with a `type`, and what people want to read of it
stands in one of a few places. What is no such event is left as it is.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

Kind = Literal["say", "tool", "answer", "meta", "bad"]

LONGEST = 2_000
"""Characters of one piece."""
_LARGEST = 1024 * 1024
"""Characters of a line that is still read as JSON."""


class Piece(NamedTuple):
    """A part of an event for people."""

    kind: Kind
    text: str


def readable(line: str) -> tuple[Piece, ...] | None:
    """Return what an event says; None for a line that is none."""
    text = line.strip()
    if not (text.startswith("{") and text.endswith("}")) or len(text) > _LARGEST:
        return None
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        return None
    pieces = tuple(Piece(kind, _cut(text)) for kind, text in _pieces(event) if text.strip())
    return pieces or (Piece("meta", _meta(event)),)


def _pieces(event: Mapping[str, Any]) -> Iterator[tuple[Kind, str]]:
    name, message, item = event["type"], event.get("message"), event.get("item", event.get("part"))
    if isinstance(message, dict):
        yield from _content(message.get("content"), _is_of_user(message))
    elif isinstance(message, str):
        yield ("bad" if "error" in name else "meta"), message
    if isinstance(item, dict):
        is_told = name == "item.completed" and item.get("type") == "command_execution"  # when it was started
        yield from (piece for piece in _block(item) if not (is_told and piece[0] == "tool"))
    elif name in {"message", "tool_use", "tool_result"}:
        yield from _content(event.get("content"), _is_of_user(event)) if name == "message" else _block(event)
    if isinstance(error := event.get("error"), dict):
        yield "bad", str(error.get("message", error))
    elif isinstance(error, str):
        yield "bad", error
    if name == "result" and isinstance(event.get("result"), str):
        yield ("bad" if event.get("is_error") else "say"), event["result"]


def _is_of_user(message: Mapping[str, Any]) -> bool:
    return message.get("role") == "user"


def _content(content: object, is_of_user: bool) -> Iterator[tuple[Kind, str]]:
    if isinstance(content, str):
        yield ("meta" if is_of_user else "say"), content
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict):
            yield from _block(block)


def _block(block: Mapping[str, Any]) -> Iterator[tuple[Kind, str]]:
    match block.get("type"):
        case "text" | "agent_message":
            yield "say", str(block.get("text", ""))
        case "thinking" | "reasoning":
            yield "meta", str(block.get("thinking", block.get("text", "")))
        case "command_execution":
            yield "tool", f"$ {block.get('command', '')}"
            yield ("bad" if block.get("exit_code") else "answer"), str(block.get("aggregated_output") or "")
        case "file_change":
            yield from _changes(block.get("changes"))
        case "tool_result":
            kind: Kind = "bad" if block.get("is_error") else "answer"
            yield from ((kind, part) for _, part in _content(_answer(block), is_of_user=False))
        case "tool_use" | "tool_call" | "tool" | "mcp_tool_call":
            name = block.get("name") or block.get("tool_name") or block.get("tool") or "tool"
            yield "tool", f"{name} {_arguments(block)}"
        case "error":
            yield "bad", str(block.get("message", block))


def _changes(changes: object) -> Iterator[tuple[Kind, str]]:
    for change in changes if isinstance(changes, list) else ():
        if isinstance(change, dict):
            yield "tool", f"{change.get('kind', 'change')} {change.get('path', '')}"


def _answer(block: Mapping[str, Any]) -> object:
    return block.get("content", block.get("output"))


def _arguments(block: Mapping[str, Any]) -> str:
    """Return the one argument that says most, else all of them."""
    state = block.get("state")
    given = block.get("input") or block.get("parameters") or block.get("arguments")
    if given is None and isinstance(state, dict):
        given = state.get("input")
    if isinstance(given, dict):
        for key in ("command", "file_path", "path", "pattern", "query", "url", "prompt"):
            if isinstance(given.get(key), str):
                return str(given[key])
    return json.dumps(given, ensure_ascii=False) if given else ""


def _meta(event: Mapping[str, Any]) -> str:
    """Return what kind of event it is, with a few facts that are short."""
    facts = [
        f"{key} {value}"
        for key in ("subtype", "model", "status", "attempt", "duration_ms", "total_cost_usd", "num_turns")
        if isinstance(value := event.get(key), str | int | float) and not isinstance(value, bool)
    ]
    return ", ".join([event["type"], *facts])


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… [{len(text) - LONGEST} characters more]"
