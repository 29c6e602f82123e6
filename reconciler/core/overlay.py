"""
Overlay: a mapping with changes on top of another one, which stays as it is.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import TypeVar

Value = TypeVar("Value")

_FEW = 64
_SHARE = 64
"""Changes are kept apart up to one in so many entries; with more, they are put together with the rest."""


class Overlay(MutableMapping[str, Value]):
    """
    Copy on write: changes of a mapping that others go on reading as it was.

    An overlay on an overlay begins with a copy of its changes, so that looking something
    up never takes more than two steps. To make one costs what changed lately, not the size.
    """

    def __init__(self, below: Mapping[str, Value]) -> None:
        """Lie over a mapping that nobody changes any more."""
        self._below: Mapping[str, Value] = below
        self._changes: dict[str, Value | None] = {}
        self._length = len(below)
        if isinstance(below, Overlay):
            self._below, self._changes = below._below, dict(below._changes)  # noqa: SLF001 - its own kind
            if len(self._changes) > _FEW + len(self._below) // _SHARE:
                self._below, self._changes = dict(below), {}

    def __getitem__(self, key: str) -> Value:
        if key not in self._changes:
            return self._below[key]
        value = self._changes[key]
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Value) -> None:
        self._length += key not in self
        self._changes[key] = value

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._length -= 1
        self._changes[key] = None

    def __contains__(self, key: object) -> bool:
        if key in self._changes:
            return self._changes[str(key)] is not None
        return key in self._below

    def __iter__(self) -> Iterator[str]:
        yield from (key for key in self._below if key not in self._changes)
        yield from (key for key, value in self._changes.items() if value is not None)

    def __len__(self) -> int:
        return self._length
