"""
Edit: change a few fields of a spec file and keep every other byte.
"""

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from reconciler.core.errors import Problem, SpecError, UsageError
from reconciler.core.model.specs import Variant
from reconciler.core.names import variant_of
from reconciler.specs import yaml
from reconciler.specs.parse import ROOT
from reconciler.specs.yaml import KeySpan


def edit(text: str, changes: Mapping[str, Any], *, path: str = "") -> str:
    """
    Return the text of a YAML file with some top-level keys set; None: removed.

    Comments, order, quotes and line ends of everything else stay as they are.
    `path` names the file in errors. Raises SpecError if the text is not a
    mapping that can be read, if a value is not Unicode, or if there is no such edit.
    """
    if text.startswith(_MARK):
        return _MARK + edit(text.removeprefix(_MARK), changes, path=path)
    before = _load(text, path)
    needed = {key: value for key, value in changes.items() if not _is_set(before, key, value)}
    if not needed:
        return text
    _require_unicode(needed, path)
    wanted = {
        key: value for key, value in {**before, **needed}.items() if value is not None or key not in needed
    }
    for candidate in _candidates(text, needed):
        with suppress(SpecError):
            if _is_same(_load(candidate, path), wanted):
                return candidate
    message = f"cannot set {', '.join(needed)} without touching other fields; edit the file by hand"
    raise SpecError([Problem(path, 1, 1, message)])


def edit_spec(text: str, name: str, changes: Mapping[str, Any], *, path: str) -> str:
    """
    Return the text of the file of an object with some of its fields set, as `edit` does.

    Of a task of a campaign they are set in `tasks` of that, of a variant in `variants`, for this one alone.
    """
    if variant := variant_of(name):
        return edit(text, {"variants": _variants(_load(text, path), variant, changes)}, path=path)
    if not path.startswith(f"{ROOT}/campaigns/"):
        return edit(text, changes, path=path)
    cell = name.partition("/")[2]
    tasks = dict(_load(text, path).get("tasks") or {})
    own = {**tasks.get(cell, {}), **changes}
    tasks[cell] = {key: value for key, value in own.items() if value is not None}
    return edit(text, {"tasks": json.loads(json.dumps(tasks, default=str))}, path=path)


def _variants(value: Mapping[str, Any], variant: tuple[str, int], changes: Mapping[str, Any]) -> list[Any]:
    """Return the variants of a task's file as a list, with fields of one of them set."""
    task, number = variant
    if unknown := sorted(changes.keys() - Variant.model_fields.keys()):
        raise UsageError(
            f"a variant has no `{unknown[0]}` of its own: call it for {task}, which begins all again"
        )
    given = value.get("variants") or ()
    every = [{} for _ in range(given)] if isinstance(given, int) else list(given)
    own = every[number - 1]
    merged = {**({"adapter": own} if isinstance(own, str) else own), **changes}
    every[number - 1] = {key: each for key, each in merged.items() if each is not None}
    return list(json.loads(json.dumps(every, default=str)))


_MARK = "\ufeff"
"""Byte order mark; some editors of other systems begin a file with it."""


def _load(text: str, path: str) -> dict[str, Any]:
    value, problems = yaml.load_yaml(yaml.to_bytes(text), path)
    if problems:
        raise SpecError(problems)
    if not isinstance(value, dict | None):
        raise SpecError([Problem(path, 1, 1, "expected 'key: value' lines")])
    return value or {}


def _require_unicode(values: Mapping[str, Any], path: str) -> None:
    """Raise SpecError if a value holds bytes that are not UTF-8, as arguments of commands may."""
    for key, value in values.items():
        if _SURROGATE.search(json.dumps(value, ensure_ascii=False, default=str)):
            raise SpecError([Problem(path, 1, 1, f"{key}: not UTF-8; write it in that encoding: {value!r}")])


_SURROGATE = re.compile(r"[\ud800-\udfff]")


def _is_set(values: Mapping[str, Any], key: str, value: Any) -> bool:
    if value is None:
        return key not in values
    return key in values and yaml.flow_scalar(values[key]) == yaml.flow_scalar(value)


def _is_same(values: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return values.keys() == wanted.keys() and all(
        yaml.flow_scalar(values[key]) == yaml.flow_scalar(wanted[key]) for key in wanted
    )


def _candidates(text: str, changes: Mapping[str, Any]) -> Iterator[str]:
    """Yield candidate edits, the least invasive first; the caller parses each to check it."""
    entries = yaml.key_spans(text)
    if entries is not None:
        # At the end, as a person would write it, unless a block scalar runs to the end of the file.
        for write in (yaml.block_scalar, _on_one_line):
            yield _spliced(text, entries, changes, write, at_end=True)
            yield _spliced(text, entries, changes, write, at_end=False)
    with suppress(YAMLError):
        yield _round_trip(text, changes)


def _on_one_line(value: Any, *_: str) -> str:
    return f" {yaml.flow_scalar(value)}"


class _Splice(NamedTuple):
    start: int
    end: int
    text: str


def _spliced(
    text: str,
    entries: Mapping[str, KeySpan],
    changes: Mapping[str, Any],
    write: Callable[[Any, str, str], str],
    *,
    at_end: bool,
) -> str:
    eol = "\r\n" if "\r\n" in text else "\n"
    first = min((entry.start for entry in entries.values()), default=len(text))
    indent = " " * (first - _line_start(text, first))
    new = [key for key, value in changes.items() if key not in entries and value is not None]
    written = {key: write(value, indent + "  ", eol) for key, value in changes.items() if value is not None}
    lines = "".join(f"{indent}{yaml.flow_scalar(key)}:{written[key]}{eol}" for key in new)
    place = _line_start(text, first)
    if at_end:
        place = len(text)
        lines = lines if text.endswith("\n") or not text else eol + lines
    splices = [_Splice(place, place, lines)] if new else []
    splices += [_replacement(text, entries[key], written.get(key), eol) for key in changes if key in entries]
    for splice in sorted(splices, reverse=True):
        text = text[: splice.start] + splice.text + text[splice.end :]
    return text


def _replacement(text: str, entry: KeySpan, written: str | None, eol: str) -> _Splice:
    """Return the splice that replaces an entry's value, or removes its lines."""
    ends_line = text[entry.end - 1] == "\n"
    if written is None:
        end = entry.end if ends_line else _line_end(text, entry.end)
        return _Splice(_line_start(text, entry.start), end, "")
    colon = text.index(":", entry.key_end) + 1
    new = f"{written}{eol if ends_line else ''}"
    if text[colon : entry.value].strip():  # a comment stands there
        return _Splice(entry.value, entry.end, new.lstrip(" "))
    return _Splice(colon, entry.end, new)


def _line_start(text: str, index: int) -> int:
    return text.rfind("\n", 0, index) + 1


def _line_end(text: str, index: int) -> int:
    end = text.find("\n", index)
    return len(text) if end < 0 else end + 1


def _round_trip(text: str, changes: Mapping[str, Any]) -> str:
    """Edit a file that is not written with one key per line, by a full round trip."""
    parser = YAML()
    parser.preserve_quotes = True
    parser.width = len(text) + _WIDE
    document = parser.load(text)
    for key, value in changes.items():
        if value is None:
            del document[key]
        else:
            document[key] = value
    out = io.StringIO()
    parser.dump(document, out)
    return out.getvalue()


_WIDE = 1000
"""A line is never so much longer than the whole text was, so that none is broken."""
