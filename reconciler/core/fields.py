"""
Field types of the models: durations, times, names, branches, lists that may be written as one string.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic_core import CoreSchema

from reconciler.core.names import check_branch, check_env_name, check_name
from reconciler.core.times import format_time, parse_time

# For plugins pydantic reads the metadata of every package that is installed, in each command. It
# shall find none: what is installed beside this program has no say in what its models take.
_PLUGINS = "pydantic.plugin._loader"
vars(sys.modules.setdefault(_PLUGINS, ModuleType(_PLUGINS)))["get_plugins"] = tuple

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?\Z", re.ASCII)

# The types below bound their values so that sums, differences and time zone conversions
# stay within what Python can represent; no code further in has to check again.
LONGEST = timedelta(days=36500)
MOST = 10**18
"""Largest value of a count; sums are capped at it."""
LARGEST_ID = 2**63 - 1
"""Largest number that another system gives to a thing, such as an issue number."""
LONGEST_TEXT = 2**24
"""Characters. Wherever there is a limit, halves of characters are refused too, which nothing could write."""


def parse_duration(value: object) -> timedelta:
    """
    Return the duration that a text such as `90s`, `30m`, `1h30m` or `7d` means.

    Raises ValueError for anything else: numbers without a unit, more than `LONGEST`.
    """
    duration = value if isinstance(value, timedelta) else _read_duration(value)
    if duration is None or not timedelta() <= duration <= LONGEST:
        message = f"{value!r} is longer than any run: at most {LONGEST.days}d"
        raise ValueError(message)
    return duration


def _read_duration(value: object) -> timedelta | None:
    """Return the duration; None if it is more than can be represented. Raises ValueError."""
    match = _DURATION.match(value) if isinstance(value, str) and value else None
    if match is None:
        message = f'expected a duration such as "90s", "30m" or "1h30m", got {value!r}'
        raise ValueError(message)
    parts = match.groups("0")
    if max(map(len, parts)) > len(str(MOST)):
        return None
    days, hours, minutes, seconds = map(int, parts)
    try:
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        return None


def _longer_than_none(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("must be longer than 0s")
    return value


def format_duration(value: timedelta) -> str:
    """Return the shortest text that `parse_duration` reads as this value, in whole seconds."""
    left = int(value.total_seconds())
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _one_or_many(value: object) -> object:
    """Accept a single string in place of a list."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


DURATION_PATTERN = r"^(?=.)(\d+d)?(\d+h)?(\d+m)?(\d+s)?$"
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["90s", "1h30m"]}),
]
Period = Annotated[Duration, AfterValidator(_longer_than_none)]
"""A duration greater than 0."""
Time = Annotated[
    datetime,
    BeforeValidator(parse_time),
    PlainSerializer(format_time, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Strings = Annotated[
    tuple[str, ...],
    BeforeValidator(_one_or_many),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Name = Annotated[str, AfterValidator(check_name)]
Names = Annotated[
    tuple[Name, ...],
    BeforeValidator(_one_or_many),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Branch = Annotated[str, AfterValidator(check_branch)]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(check_env_name)]
Env = dict[EnvName, str]
Text = Annotated[str, Field(min_length=1)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_./+=:,@%-]+$")]
"""Text that needs no quoting on the command line of any shell."""
Count = Annotated[int, Field(ge=0, le=1000)]
Total = Annotated[int, Field(ge=0, le=10**9)]
"""A count, or an upper limit."""
Id = Annotated[int, Field(ge=0, le=LARGEST_ID)]
"""Number that somebody else gave to a thing."""


class Frozen(BaseModel):
    """Immutable value, compared by value, strict about its fields."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        str_max_length=LONGEST_TEXT,
        hide_input_in_errors=True,
        defer_build=True,  # every command imports all models, and needs a few of them
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """
        Describe each field in the schema by the docstring below it.

        pydantic can do so itself (`use_attribute_docstrings`), but then for every
        model on import, by reading its source: a quarter of the import time.
        """
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, docstring in _docstrings(cls).items():
            if name in properties:
                properties[name].setdefault("description", docstring)
        return schema


@cache
def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring under each field of a model, its own and those it inherits."""
    docstrings: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, Frozen) and base is not Frozen:
            [definition] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            docstrings |= dict(_described(definition.body)) if isinstance(definition, ast.ClassDef) else {}
    return docstrings


def _described(body: Sequence[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, docstring in pairwise(body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(docstring, ast.Expr) and isinstance(docstring.value, ast.Constant):
            yield field.target.id, inspect.cleandoc(str(docstring.value.value))
