"""
Event buffer: keeps the events that the rules of an adapter can depend on.

An output may be hundreds of MiB long, and its rules look at a few events: the
last of a kind, or all of a kind. Which those are is read from the rules.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple

import jmespath
from jmespath.exceptions import JMESPathError

from reconciler.dispatch.conditions import (
    Literals,
    Node,
    gives,
    is_met,
    may_hold,
    path_literals,
    required_literals,
)
from reconciler.dispatch.framing import OutputEvent

Which = Literal["last", "all"]

MOST_FIRST, MOST_LAST = 1_000, 9_000
"""Events kept from the beginning and from the end, where a rule depends on all."""
MOST_BYTES_FIRST, MOST_BYTES_LAST = 2**20, 7 * 2**20
"""The same, in characters of their texts."""


class EventFilter(NamedTuple):
    """Events that a rule looks at."""

    holds: Callable[[OutputEvent], bool]
    which: Which
    literals: Literals = None
    """What a line must have to hold such an event."""


class Kept(NamedTuple):
    """A kept event and its position."""

    place: int
    event: OutputEvent
    is_spliced: bool


@dataclass
class EventBuffer:
    """Keeps the events that match a filter, within bounds."""

    conditions: Sequence[EventFilter]
    slim: Callable[[OutputEvent], OutputEvent] = lambda event: event
    """Takes out of an event what no rule asks for."""
    _first: list[Kept] = field(default_factory=list)
    _last: deque[tuple[Kept, int]] = field(default_factory=deque)
    _latest: dict[tuple[int, bool], Kept] = field(default_factory=dict)
    """The last one for each condition that asks for no more."""
    _bytes_first: int = 0
    _bytes_last: int = 0
    _place: int = 0
    left_out: int = 0

    def add(
        self, events: Sequence[OutputEvent], lines: Sequence[str] | None = None, *, is_spliced: bool = False
    ) -> None:
        """Keep the events that match; `lines` are their texts, one each, as far as these are known."""
        text = "\n".join(lines or ())
        slim = cache(lambda at: self.slim(events[at]))
        matched = set[int]()
        for number, each in enumerate(self.conditions):
            if lines is not None and not may_hold(each.literals, text):
                continue
            matching = _matching(each, len(events), slim, lines)
            if each.which == "all":
                matched.update(matching)
            elif (last := next(matching, None)) is not None:
                self._latest[number, is_spliced] = Kept(self._place + last, slim(last), is_spliced)
        for at in sorted(matched):
            self._add(Kept(self._place + at, slim(at), is_spliced))
        self._place += len(events)

    def _add(self, kept: Kept) -> None:
        size = _size(kept.event)
        if len(self._first) < MOST_FIRST and self._bytes_first + size <= MOST_BYTES_FIRST and not self._last:
            self._first.append(kept)
            self._bytes_first += size
            return
        self._last.append((kept, size))
        self._bytes_last += size
        while len(self._last) > 1 and (len(self._last) > MOST_LAST or self._bytes_last > MOST_BYTES_LAST):
            self._bytes_last -= self._last.popleft()[1]
            self.left_out += 1

    def kept(self) -> list[Kept]:
        """Return what is kept, in order."""
        events = {kept.place: kept for kept in (*self._first, *(kept for kept, _ in self._last))}
        events |= {kept.place: kept for kept in self._latest.values()}
        return [events[place] for place in sorted(events)]


def _matching(
    condition: EventFilter, count: int, event: Callable[[int], OutputEvent], lines: Sequence[str] | None
) -> Iterator[int]:
    """Yield the indexes of the events that match, from the last one on."""
    for at in reversed(range(count)):
        has = lines is None or count == 1 or may_hold(condition.literals, lines[at])
        if has and condition.holds(event(at)):
            yield at


def _size(value: Any) -> int:
    """Return how many characters the texts of a value have, and a little for each value."""
    size, left = 0, [value]
    while left:
        item = left.pop()
        size += 50
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, dict):
            left += [*item, *item.values()]
        elif isinstance(item, list):
            left += item
    return size


# --- What rules look at ------------------------------------------------------


def event_filters(rules: Iterable[str]) -> tuple[EventFilter, ...]:
    """Return filters for the events that JMESPath rules over the list of all events can depend on."""
    return tuple(dict(pair for rule in rules for pair in _looked_at(_parsed(rule))).values())


def _parsed(rule: str) -> Node:
    try:
        parsed: Node = jmespath.compile(rule).parsed
    except JMESPathError:
        return {"type": "literal", "children": []}
    return parsed


def _looked_at(node: Node) -> Iterator[tuple[str, EventFilter]]:
    """Yield what a rule reads of the list; the right side of a pipe sees only the result of the left."""
    kind, children = node["type"], node["children"]
    if kind in {"identity", "current"}:
        yield "all", EventFilter(lambda _: True, "all")
    elif kind == "filter_projection" and _is_list(children[0]):
        yield _filter(children[2], "all")
    elif kind == "projection" and _is_list(children[0]) and not _is_list(children[1]):
        yield f"each {children[1]}", EventFilter(gives(children[1]), "all", path_literals(children[1]))
    elif kind == "pipe" and _is_filter(children[0]) and _takes_last(children[1]):
        yield _filter(children[0]["children"][2], "last")
    elif kind in {"pipe", "subexpression", "index_expression", "projection", "filter_projection"}:
        yield from _looked_at(children[0])
    elif kind not in {"field", "literal"}:
        for child in children:
            yield from _looked_at(child)


def _is_list(node: Node) -> bool:
    """Tell whether a node is the list of events itself."""
    if node["type"] == "flatten":
        return _is_list(node["children"][0])
    return node["type"] in {"identity", "current"}


def _is_filter(node: Node) -> bool:
    """Tell whether a node gives those events that meet a condition, as they are."""
    if node["type"] != "filter_projection":
        return False
    source, each, _ = node["children"]
    return _is_list(source) and each["type"] == "identity"


def _takes_last(node: Node) -> bool:
    """Tell whether a node begins with the last of a list."""
    if node["type"] in {"subexpression", "projection", "pipe"}:
        return _takes_last(node["children"][0])
    if node["type"] != "index_expression":
        return False
    source, index = node["children"]
    if source["type"] != "identity":
        return _takes_last(source)
    return bool(index.get("value") == -1 or index["children"] == [-1, None, None])


def _filter(node: Node, which: Which) -> tuple[str, EventFilter]:
    return f"{which} {node}", EventFilter(is_met(node), which, required_literals(node))
