"""
Issues of a forge as tasks.

An issue becomes a file that people may edit like any other. Its first line says
which fields came from the issue and what they were then, so that only a change
of the issue changes them, and whatever people write beside them stays.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

from reconciler.core.edits import FieldChanges
from reconciler.core.forge.markdown import blocks, visible_text
from reconciler.core.model.forge import Issue
from reconciler.core.names import SEGMENT_LENGTH
from reconciler.core.text import one_line

if TYPE_CHECKING:
    from markdown_it.token import Token

FieldEdit = Callable[[str, FieldChanges], str]
"""Return the text of a YAML file with some fields set, all else left alone. Raises SpecError."""

# --- Names -----------------------------------------------------------------

_NAMES = "issues/"
_FOLDER = "specs/tasks/"
_ENDING = ".yaml"
ISSUE_TASKS = f"{_FOLDER}{_NAMES}"
"""Folder of the specs made from issues."""

_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_LONGEST = SEGMENT_LENGTH - len("-0123456789")


def issue_task_name(repo: str, number: int) -> str:
    """Return the name of the task that an issue of a repo becomes."""
    return f"{_name_prefix(repo)}{number}"


def number_in(repo: str, task: str) -> int | None:
    """Return the number of the issue of that repo that became the task; None if none did."""
    number = task.removeprefix(_name_prefix(repo))
    return int(number) if number != task and _NUMBER.fullmatch(number) else None


def task_path(task: str) -> str:
    """Return where a task's file is."""
    return f"{_FOLDER}{task}{_ENDING}"


def task_at(path: str) -> str:
    """Return the name of the task whose file is there."""
    return path.removeprefix(_FOLDER).removesuffix(_ENDING)


def _name_prefix(repo: str) -> str:
    """Return the prefix of the names of a repo's issue tasks; a long one is cut, and stays unique."""
    folder, slash, last = repo.rpartition("/")
    if len(last) > _LONGEST:
        last = f"{last[: _LONGEST - 9]}-{_digest(repo)[:8]}"
    return f"{_NAMES}{folder}{slash}{last}-"


# --- The file --------------------------------------------------------------

ISSUE_FIELDS = ("title", "goal", "constraints", "validation", "context")
"""Spec fields that an issue may set."""

_HINT = (
    "# The reconciler keeps these fields in step with that issue; the others are yours.\n"
    "# Remove the line above to keep this file by hand.\n"
)
_MARK = re.compile(
    r"^# From (?P<url>\S+): (?P<fields>[a-z, ]+); (?P<digest>[0-9a-f]{12}), (?P<state>open|gone)$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Mark:
    """First line of a spec made from an issue: where it came from."""

    url: str
    fields: tuple[str, ...]
    """Fields that the issue set."""
    digest: str
    """Digest of the values the issue set."""
    is_open: bool = True
    """Whether the issue was open, with its label, when the file was written."""

    def __str__(self) -> str:
        state = "open" if self.is_open else "gone"
        return f"# From {self.url}: {', '.join(self.fields)}; {self.digest}, {state}"


def read_mark(text: str) -> Mark | None:
    """Return the mark in a file; None if a person maintains the file."""
    match = _MARK.search(text)
    if match is None:
        return None
    fields = tuple(field for field in match["fields"].split(", ") if field in ISSUE_FIELDS)
    return Mark(match["url"], fields, match["digest"], match["state"] == "open")


def open_task_file(text: str | None, repo: str, issue: Issue, edit: FieldEdit) -> str | None:
    """
    Return what the spec of an open issue should be; `text` is what it is now, None if it is missing.

    Nothing changes if the issue did not, or if a person maintains the file. A task
    that was cancelled because its issue was gone becomes active again.
    """
    fields = issue_fields(issue)
    mark = Mark(_address(issue), tuple(fields), _digest(json.dumps(fields))[:12])
    if text is None:
        return edit(f"{mark}\n{_HINT}", {**fields, "repo": repo, "issue": mark.url})
    before = read_mark(text)
    if before is None or before == mark:
        return text
    changes: dict[str, object] = {} if before.is_open else {"desired": None}
    if before.digest != mark.digest:
        changes |= {**dict.fromkeys(before.fields), **fields}
    return _marked(edit(text, changes), mark)


def closed_task_file(text: str, edit: FieldEdit) -> str:
    """Return what the spec should be once its issue is closed, deleted, or has lost its label."""
    mark = read_mark(text)
    if mark is None or not mark.is_open:
        return text
    return _marked(edit(text, {"desired": "cancelled"}), replace(mark, is_open=False))


def _marked(text: str, mark: Mark) -> str:
    return _MARK.sub(lambda _: str(mark), text, count=1)


def _address(issue: Issue) -> str:
    return one_line(issue.url).replace(" ", "%20") or f"#{issue.number}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- What an issue asks for ------------------------------------------------

_TITLE = 200
_BODY = 30_000
_RULE = 500
"""Most characters of a title, of the part of a body that is read, and of a rule."""


def issue_fields(issue: Issue) -> Mapping[str, str | Sequence[str]]:
    """
    Return the fields of a task that an issue asks for.

    Text under a known heading goes to its field, all else is the goal.
    Under Validation, code is commands (lines of a block, items that are code
    and nothing else), or else the items; the rest are rules. Under
    Acceptance criteria, items that are code are commands and the others rules.
    Without such headings, a checklist is read like Acceptance criteria.
    """
    body, rest = _visible(issue.body)
    sections = list(_sections(body))
    title = one_line(issue.title, _TITLE) or f"Issue {issue.number}"
    goal = _BLANKS.sub(
        "\n\n", "\n".join(line for each in sections if each.kind == "goal" for line in each.lines)
    )
    is_sorted = any(each.kind in _SORTS for each in sections)
    boxes = [] if is_sorted else [item for item in _items(body) if item.has_box]
    rules, commands = _requirements(sections, boxes)
    places = [each.lines for each in sections if each.kind == "context"]
    context = [item.text for lines in places for item in _items("\n".join(lines))]
    fields = {
        "title": title,
        "goal": "\n\n".join(filter(None, (goal.strip() or title, rest))),
        "constraints": [one_line(rule, _RULE) for rule in rules],
        "validation": commands,
        "context": [one_line(place.strip("`<>"), _RULE) for place in context],
    }
    return {key: value for key, value in fields.items() if value}


_BLANKS = re.compile(r"\n\s*\n\s*\n")
_DONE = re.compile(r"\[[xX]\]")
_BOX = "[ ]"


def _visible(body: str) -> tuple[str, str]:
    """Return the visible text of a body, boxes unticked; if it is cut, the end says so."""
    text = _unticked(visible_text(body))
    if len(text) <= _BODY:
        return text, ""
    return text[: text.rfind("\n", 0, _BODY) + 1], "[The issue goes on; the rest is left out here.]"


def _unticked(text: str) -> str:
    if not _DONE.search(text):
        return text
    lines = text.split("\n")
    for inline, place in _texts(text):
        if place.is_item and inline.map and _DONE.match(inline.content):
            lines[inline.map[0]] = _DONE.sub(_BOX, lines[inline.map[0]], count=1)
    return "\n".join(lines)


# --- Its sections ----------------------------------------------------------

_Kind = Literal["goal", "constraints", "validation", "criteria", "context"]


class _Section(NamedTuple):
    kind: _Kind
    lines: Sequence[str]


_KINDS: Mapping[str, _Kind] = {
    "goal": "goal",
    "constraint": "constraints",
    "constraints": "constraints",
    "rule": "constraints",
    "rules": "constraints",
    "validation": "validation",
    "check": "validation",
    "checks": "validation",
    "acceptance criteria": "criteria",
    "context": "context",
}


def _sections(body: str) -> Iterator[_Section]:
    """Yield the sections of a body in order; a deeper heading belongs to the section that it is in."""
    kind: _Kind = "goal"
    lines, begin, depth = body.split("\n"), 0, 0
    for level, title, first, last in _headings(body):
        section = _KINDS.get(title.strip(" :*_").casefold())
        if section is None and (kind == "goal" or level > depth):
            continue
        yield _Section(kind, lines[begin:first])
        kind, depth, begin = section or "goal", level, last if section else first
    yield _Section(kind, lines[begin:])


def _headings(body: str) -> Iterator[tuple[int, str, int, int]]:
    """Yield level, title and lines (first, one past the last) of each top-level heading."""
    tokens = blocks(body)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map:
            first, last = token.map
            yield int(token.tag[1:]), inline.content, first, last


def _requirements(
    sections: Iterable[_Section], boxes: Sequence["_Item"]
) -> tuple[Sequence[str], Sequence[str]]:
    """Return the rules and commands of all sections, and of checkboxes anywhere."""
    sorts = [
        (_SORTS[each.kind], list(_items("\n".join(each.lines)))) for each in sections if each.kind in _SORTS
    ]
    rules, commands = list[str](), list[str]()
    for sort, items in (*sorts, (_criteria, boxes)):
        ordered = sort(items)
        rules += ordered[0]
        commands += ordered[1]
    return rules, commands


# --- Their items -----------------------------------------------------------


class _Item(NamedTuple):
    text: str
    kind: Literal["text", "code", "block", "quote"] = "text"
    """Text, a lone code span, a line of a code block, or a quotation."""
    has_box: bool = False


class _Place(NamedTuple):
    """A section of an issue's text."""

    is_item: bool
    """Whether it is the beginning of a list item."""
    is_quote: bool
    is_heading: bool


_GOES_ON = re.compile(r"[ \t]*\\\n[ \t]*")


def _texts(body: str) -> Iterator[tuple["Token", _Place]]:
    """Yield paragraphs, headings and code blocks in order, each with its place."""
    quotes, before = 0, ""
    for token in blocks(body):
        if token.type in {"inline", "fence", "code_block"}:
            yield (
                token,
                _Place(before.startswith("list_item_open paragraph"), quotes > 0, "heading" in before),
            )
        if token.type in {"blockquote_open", "blockquote_close"}:
            quotes += token.nesting
        before = f"{before.rpartition(' ')[2]} {token.type}"


def _items(body: str) -> Iterator[_Item]:
    """Yield items of lists and paragraphs, each on one line, and the lines of blocks of code."""
    for token, place in _texts(body):
        if token.type == "inline" and not place.is_heading:
            yield from _item(token, place)
        elif token.type != "inline":
            lines = _GOES_ON.sub(" ", token.content).split("\n")
            kind: Literal["block", "quote"] = "quote" if place.is_quote else "block"
            yield from (_Item(line.strip().removeprefix("$ "), kind) for line in lines if line.strip())


def _item(inline: "Token", place: _Place) -> Iterator[_Item]:
    """Yield the lines of an item as one; nothing if they only introduce nested items."""
    text = " ".join(_GOES_ON.sub(" ", inline.content).split("\n"))
    has_box = place.is_item and text.startswith(f"{_BOX} ")
    parts = [part for part in inline.children or () if part.content.strip() not in {"", _BOX}]
    text = text.removeprefix(_BOX).strip() if has_box else text.strip()
    if len(parts) == 1 and parts[0].type == "code_inline" and not place.is_quote:
        yield _Item(parts[0].content.strip(), "code", has_box)
    elif text and not text.endswith(":"):
        yield _Item(text, "quote" if place.is_quote else "text", has_box)


_Sorted = tuple[Sequence[str], Sequence[str]]
"""Rules and commands."""


def _constraints(items: Sequence[_Item]) -> _Sorted:
    return [item.text for item in items], []


def _validation(items: Sequence[_Item]) -> _Sorted:
    commands = [item for item in items if item.kind in {"code", "block"} and not item.text.startswith("#")]
    commands = commands or [item for item in items if item.kind == "text" and "`" not in item.text]
    rules = [item.text for item in items if item.kind in {"text", "quote"} and item not in commands]
    return rules, [item.text for item in commands]


def _criteria(items: Sequence[_Item]) -> _Sorted:
    rules = [item.text for item in items if item.kind != "code"]
    return rules, [item.text for item in items if item.kind == "code"]


_SORTS: Mapping[_Kind, Callable[[Sequence[_Item]], _Sorted]] = {
    "constraints": _constraints,
    "validation": _validation,
    "criteria": _criteria,
}
"""How to tell rules and commands apart, by the kind of a section that has any."""
