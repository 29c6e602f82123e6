"""
Log fields: what a log record is about, carried by the context of the code that logs.

Whatever an asyncio task binds holds until it ends, in the tasks and threads that it
starts too, and in no other.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

_FIELDS: ContextVar[Mapping[str, str]] = ContextVar("log_fields", default=MappingProxyType({}))


def bind(**fields: str | None) -> None:
    """Add fields to all that is logged from here on in this context; None takes one away."""
    merged = {**_FIELDS.get(), **{name: value for name, value in fields.items() if value}}
    _FIELDS.set({name: value for name, value in merged.items() if fields.get(name, value)})


def bound() -> Mapping[str, str]:
    """Return the fields of this context."""
    return _FIELDS.get()
