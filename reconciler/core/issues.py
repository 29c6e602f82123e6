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
from typing import Literal, NamedTuple

from reconciler.core.fields import SEGMENT_LENGTH
from reconciler.core.forge import Issue
from reconciler.core.markdown import seen
from reconciler.core.text import one_line
from reconciler.core.wishes import Changes

Edit = Callable[[str, Changes], str]
"""Return the text of a YAML file with some fields set, all else left alone. Raises SpecError."""

# --- Names -----------------------------------------------------------------

_NAMES = "issues/"
_FOLDER = "specs/tasks/"
_ENDING = ".yaml"
FOLDER = f"{_FOLDER}{_NAMES}"
"""Where the files are of tasks that were issues."""

_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_LONGEST = SEGMENT_LENGTH - len("-0123456789")


def task_name(repo: str, number: int) -> str:
    """Return the name of the task that an issue of a repo becomes."""
    return f"{_stem(repo)}{number}"


def number_in(repo: str, task: str) -> int | None:
    """Return the number of the issue of that repo that became the task; None if none did."""
    number = task.removeprefix(_stem(repo))
    return int(number) if number != task and _NUMBER.fullmatch(number) else None


def task_path(task: str) -> str:
    """Return where a task's file is."""
    return f"{_FOLDER}{task}{_ENDING}"


def task_at(path: str) -> str:
    """Return the name of the task whose file is there."""
    return path.removeprefix(_FOLDER).removesuffix(_ENDING)


def _stem(repo: str) -> str:
    """Return what the names of a repo's issues begin with; a long name is cut, and stays its own."""
    folder, slash, last = repo.rpartition("/")
    if len(last) > _LONGEST:
        last = f"{last[: _LONGEST - 9]}-{_digest(repo)[:8]}"
    return f"{_NAMES}{folder}{slash}{last}-"


# --- The file --------------------------------------------------------------

FIELDS = ("title", "goal", "constraints", "validation", "context")
"""What may come from an issue."""

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
    """The line that says where a file came from."""

    url: str
    fields: tuple[str, ...]
    """Those that the issue had."""
    digest: str
    """Of what they were."""
    is_open: bool = True
    """Whether the issue was open, with its label, as far as the file is concerned."""

    def __str__(self) -> str:
        state = "open" if self.is_open else "gone"
        return f"# From {self.url}: {', '.join(self.fields)}; {self.digest}, {state}"


def mark_in(text: str) -> Mark | None:
    """Return the mark in a file; None if a person keeps it."""
    found = _MARK.search(text)
    if found is None:
        return None
    fields = tuple(field for field in found["fields"].split(", ") if field in FIELDS)
    return Mark(found["url"], fields, found["digest"], found["state"] == "open")


def taken_up(text: str | None, repo: str, issue: Issue, edit: Edit) -> str | None:
    """
    Return what the file of an open issue's task should be; `text` is what it is, None: not there.

    Nothing changes if the issue did not, or a person keeps the file. A task
    that was cancelled because its issue was gone becomes active again.
    """
    fields = read(issue)
    mark = Mark(_address(issue), tuple(fields), _digest(json.dumps(fields))[:12])
    if text is None:
        return edit(f"{mark}\n{_HINT}", {**fields, "repo": repo, "issue": mark.url})
    before = mark_in(text)
    if before is None or before == mark:
        return text
    changes: dict[str, object] = {} if before.is_open else {"desired": None}
    if before.digest != mark.digest:
        changes |= {**dict.fromkeys(before.fields), **fields}
    return _marked(edit(text, changes), mark)


def given_up(text: str, edit: Edit) -> str:
    """Return what the file should be once its issue is gone: closed, deleted, or without its label."""
    mark = mark_in(text)
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


def read(issue: Issue) -> Mapping[str, str | Sequence[str]]:
    """
    Return the fields of a task that an issue asks for.

    What stands under a known heading goes to its field, all else is the goal.
    Under Validation, code is commands (lines of a block, items that are code
    and nothing else), or else the items; what is left are rules. Under
    Acceptance criteria, items that are code are commands and the others rules.
    So they are in a checklist, where there are no such headings.
    """
    body, rest = _visible(issue.body)
    sections = list(_sections(body))
    title = one_line(issue.title, _TITLE) or f"Issue {issue.number}"
    goal = _BLANKS.sub(
        "\n\n", "\n".join(line for each in sections if each.kind == "goal" for line in each.lines)
    )
    if not any(each.kind in _SORTS for each in sections):
        sections.append(_checklist(body))
    rules, commands = _demands(sections)
    context = [item.text for each in sections if each.kind == "context" for item in _items(each.lines)]
    fields = {
        "title": title,
        "goal": "\n\n".join(filter(None, (goal.strip() or title, rest))),
        "constraints": [one_line(rule, _RULE) for rule in rules],
        "validation": commands,
        "context": [one_line(place.strip("`<>"), _RULE) for place in context],
    }
    return {key: value for key, value in fields.items() if value}


_DONE = re.compile(r"^([ \t]*(?:[-*+]|\d{1,3}[.)])[ \t]+)\[[xX]\]", re.MULTILINE)
_BLANKS = re.compile(r"\n\s*\n\s*\n")


def _visible(body: str) -> tuple[str, str]:
    """Return what a reader sees of a body, boxes unticked, and a word on what is too much of it."""
    text = _DONE.sub(r"\1[ ]", seen(body))
    if len(text) <= _BODY:
        return text, ""
    return text[: text.rfind("\n", 0, _BODY) + 1], "[The issue goes on; the rest is left out here.]"


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
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def _sections(body: str) -> Iterator[_Section]:
    """Yield the parts of a body in order; a deeper heading belongs to the part that it is in."""
    kind: _Kind = "goal"
    depth, lines = 0, list[str]()
    for line, is_code in _lines(body.split("\n")):
        heading = None if is_code else _HEADING.fullmatch(line)
        known = _KINDS.get(heading[2].strip(" :*_").casefold()) if heading else None
        if heading is None or (known is None and (kind == "goal" or len(heading[1]) > depth)):
            lines.append(line)
            continue
        yield _Section(kind, lines)
        kind, depth, lines = known or "goal", len(heading[1]), [] if known else [line]
    yield _Section(kind, lines)


def _lines(lines: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Yield each line, and whether it belongs to a block of code."""
    fence = ""
    for line in lines:
        found = _FENCE.match(line)
        if fence:
            yield line, True
            is_end = found and found[1].startswith(fence) and not line.strip().strip(fence[0])
            fence = "" if is_end else fence
        else:
            yield line, found is not None
            fence = found[1] if found else ""


def _demands(sections: Iterable[_Section]) -> tuple[Sequence[str], Sequence[str]]:
    """Return the rules and the commands of all sections."""
    rules, commands = list[str](), list[str]()
    for kind, lines in sections:
        if sort := _SORTS.get(kind):
            found = sort(list(_items(lines)))
            rules += found[0]
            commands += found[1]
    return rules, commands


def _checklist(body: str) -> _Section:
    """Return the lines of a body that have a box, wherever they are."""
    items = ((line, _LIST_ITEM.fullmatch(line)) for line, is_code in _lines(body.split("\n")) if not is_code)
    return _Section("criteria", [line for line, item in items if item and item[1]])


# --- Their items -----------------------------------------------------------


class _Item(NamedTuple):
    text: str
    kind: Literal["words", "code", "block"] = "words"
    """What it is made of: words, nothing but a code span, or a line of a block."""


_LIST_ITEM = re.compile(r"[ \t]*(?:[-*+]|\d{1,3}[.)])[ \t]+(\[ \][ \t]+)?(.+)")
_GOES_ON = re.compile(r"[ \t]*\\\n[ \t]*")
_SPAN = re.compile(r"(`+) ?(.+?) ?\1")


def _items(lines: Sequence[str]) -> Iterator[_Item]:
    """Yield items of lists and paragraphs, each on one line, and the lines of blocks of code."""
    words = list[str]()
    for line, is_code in _lines(_GOES_ON.sub(" ", "\n".join(lines)).split("\n")):
        item = _LIST_ITEM.fullmatch(line)
        if words and (is_code or item or not line.strip()):
            yield from _item(words)
            words = []
        if is_code and line.strip() and not _FENCE.match(line):
            yield _Item(line.strip().removeprefix("$ "), "block")
        elif not is_code and line.strip():
            words.append(item[2] if item else line)
    yield from _item(words)


def _item(words: Sequence[str]) -> Iterator[_Item]:
    """Yield what the lines of an item make together; nothing, if they only introduce others."""
    text = " ".join(word.strip() for word in words)
    span = _SPAN.fullmatch(text)
    if span and "`" not in span[2]:
        yield _Item(span[2], "code")
    elif text and not text.endswith(":"):
        yield _Item(text)


_Sorted = tuple[Sequence[str], Sequence[str]]
"""Rules and commands."""


def _constraints(items: Sequence[_Item]) -> _Sorted:
    return [item.text for item in items], []


def _validation(items: Sequence[_Item]) -> _Sorted:
    commands = [item for item in items if item.kind != "words" and not item.text.startswith("#")]
    commands = commands or [item for item in items if "`" not in item.text]
    rules = [item.text for item in items if item.kind == "words" and item not in commands]
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
