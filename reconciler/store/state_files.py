"""
State files: which files are on record, and where the next one goes.
"""

from collections import ChainMap, Counter
from collections.abc import Mapping, Sequence
from typing import Self

from reconciler.store.layout import FOLDER_SIZE


class StateFiles:
    """The files under `fleet-state/`: the blob id of each, and how many each folder has."""

    def __init__(self, blobs: ChainMap[str, str | None], sizes: ChainMap[str, int]) -> None:
        self._blobs = blobs
        self._sizes = sizes

    @classmethod
    def of(cls, blobs: Mapping[str, str]) -> Self:
        """Return the files of a commit, given their blob ids by path."""
        return cls(ChainMap(dict(blobs)), ChainMap(dict(Counter(map(_folder, blobs)))))

    def draft(self) -> Self:
        """Return a copy for one batch, at the cost of what the batch changes; see `apply`."""
        return type(self)(self._blobs.new_child(), self._sizes.new_child())

    def apply(self, draft: Self) -> None:
        """Take over what was put into a draft of this."""
        self._blobs.maps[0].update(draft._blobs.maps[0])
        self._sizes.maps[0].update(draft._sizes.maps[0])

    def blob(self, path: str) -> str | None:
        """Return the blob id of a file; None if it is not there."""
        for blobs in self._blobs.maps:  # ChainMap.get looks each of them up twice
            if path in blobs:
                return blobs[path]
        return None

    def put(self, path: str, blob: str | None) -> None:
        """Note the blob id that a file has now; None: it went."""
        folder, was_there = _folder(path), self.blob(path) is not None
        self._sizes[folder] = self._sizes.get(folder, 0) + (blob is not None) - was_there
        self._blobs[path] = blob

    def place(self, paths: Sequence[str]) -> str:
        """Return where a file is, else the first of these paths whose folder has room for it."""
        there = (path for path in paths if self.blob(path))
        room = (path for path in paths if self._sizes.get(_folder(path), 0) < FOLDER_SIZE)
        return next(there, None) or next(room, paths[-1])

    def places(self, paths: Sequence[str]) -> Sequence[str]:
        """Return those of these paths at which there is a file: one, unless somebody merged by hand."""
        return [path for path in paths if self.blob(path)]


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
