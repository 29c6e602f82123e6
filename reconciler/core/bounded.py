"""
Bounded mappings, for caches whose keys come from outside.
"""

from collections import UserDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedDict(UserDict[K, V]):
    """A mapping that keeps its last entries: of more than `most`, those go that were set longest ago."""

    def __init__(self, most: int) -> None:
        """Begin without entries. `most` is at least 1."""
        super().__init__()
        self._most = most

    def __setitem__(self, key: K, value: V) -> None:
        self.data.pop(key, None)
        self.data[key] = value
        while len(self.data) > self._most:
            del self.data[next(iter(self.data))]
