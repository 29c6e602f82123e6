"""
Status files: canonical YAML, so that the same state is the same blob and no commit.

Keys stand in the order of the model and defaults are left out. Words stand
plain, every other text in double quotes as in JSON. What this module writes it
reads back line by line; a file that somebody edited goes through a real
parser instead. Both give the same value.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from reconciler.core.errors import Problem, SpecError
from reconciler.core.fields import Frozen
from reconciler.core.text import one_line
from reconciler.files import parse_json

Model = TypeVar("Model", bound=Frozen)

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*\Z")
_TAKEN = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
"""Plain scalars that some YAML parsers do not read as text."""
_UNQUOTABLE = re.compile(r"[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff]")
"""Characters that JSON leaves unescaped and YAML does not allow."""
_CONSTANTS = frozenset({"true", "false", "null"})
_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
"""One for all: `json.dumps` makes an encoder for each text."""
_LINE = re.compile(r"( *)(- )?([a-z][a-z0-9_]*):(?: (.+))?\Z")


def dump_status(model: Frozen) -> bytes:
    """Return the canonical YAML of a status."""
    return "".join(_mapping(model.model_dump(mode="json", exclude_defaults=True), "")).encode()


def load_status(kind: type[Model], content: bytes, path: str) -> Model:
    """
    Return the status that a file holds; `path` is named in errors.

    Fields that are not known are left out: a newer version, from which somebody
    went back, wrote them. Raises SpecError if it holds anything else.
    """
    try:
        values = parse_status(content.decode())
        return kind.model_validate(values, strict=False, extra="ignore")  # YAML has no tuples
    except UnicodeDecodeError:
        raise _damaged(path, 1, "", "not UTF-8") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _damaged(path, 1, ".".join(map(str, first["loc"])), first["msg"]) from None
    except UnreadableError as error:
        raise _damaged(path, error.line, "", str(error)) from None
    except Exception as error:  # noqa: BLE001 - a YAML parser has many ways to give up, and this file is all it is about
        raise _damaged(path, 1, "", one_line(f"not readable as YAML: {error}", 200)) from None


def _damaged(path: str, line: int, field: str, message: str) -> SpecError:
    hint = "the state branch is damaged there; `git revert` the commit that did it"
    return SpecError([Problem(path, line, 1, f"{message} ({hint})", field)])


# --- Writing ---------------------------------------------------------------


def _mapping(values: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:\n"
            yield from _mapping(value, indent + "  ")
        elif _is_table(value):
            yield f"{indent}{key}:\n"
            for row in value:
                yield from _row(row, indent + "  ")
        else:
            yield f"{indent}{key}: {_scalar(value)}\n"


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) and row for row in value)


def _row(row: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Yield one mapping of a list; its first line carries the dash."""
    lines = _mapping(row, indent + "  ")
    yield f"{indent}- {next(lines).lstrip(' ')}"
    yield from lines


def _scalar(value: object) -> str:
    if isinstance(value, str) and _is_word(value):
        return value
    return _UNQUOTABLE.sub(lambda odd: f"\\u{ord(odd[0]):04x}", _ENCODE(value))


def _is_word(text: str) -> bool:
    return bool(_WORD.match(text)) and text.lower() not in _TAKEN


# --- Reading ---------------------------------------------------------------


def parse_status(text: str) -> Any:
    """
    Return the value of a document: read line by line if it is canonical, else by a YAML parser.

    Raises UnreadableError for what is no YAML.
    """
    try:
        return _canonical(text)
    except ValueError:
        return _any_yaml(text)


class UnreadableError(Exception):
    """A document is no YAML: why, and in which line."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def _any_yaml(text: str) -> Any:
    """Return the value of a document edited by hand; imports the YAML parser, which is slow to load."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or "not readable as YAML"
        raise UnreadableError(message, mark.line + 1 if mark else 1) from None


def _canonical(text: str) -> dict[str, Any]:
    """Return the value of a canonical document. Raises ValueError if it may not be canonical."""
    *lines, last = text.split("\n")
    lines.reverse()
    values = _read_mapping(lines, 0)
    if last or not values:
        raise ValueError("not canonical")
    return values


def _read_mapping(lines: list[str], indent: int) -> dict[str, Any]:
    """Take the lines of one mapping off the end of the list."""
    values: dict[str, Any] = {}
    while lines:
        match = _LINE.match(lines[-1])
        if match is None:
            raise ValueError("not canonical")
        spaces, dash, key, value = match.groups()
        if len(spaces) < indent:
            break
        if dash or len(spaces) > indent or key in values:
            raise ValueError("not canonical")
        lines.pop()
        values[key] = _read_nested(lines, indent + 2) if value is None else _read_scalar(value)
    return values


def _read_nested(lines: list[str], indent: int) -> Any:
    dash = f"{' ' * indent}- "
    rows = []
    while lines and lines[-1].startswith(dash):
        lines[-1] = f"{' ' * (indent + 2)}{lines[-1][len(dash) :]}"
        rows.append(_read_mapping(lines, indent + 2))
    nested = rows or _read_mapping(lines, indent)
    if not nested:
        raise ValueError("not canonical")
    return nested


def _read_scalar(text: str) -> Any:
    if _is_word(text):
        return text
    if text[-1].isalpha() and text not in _CONSTANTS:
        raise ValueError("not canonical")  # -Infinity is a number to Python's JSON alone
    return parse_json(text)
