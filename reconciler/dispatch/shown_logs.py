"""
Logs as others may see them: masked, or withheld where it is not known what to mask.
"""

from collections.abc import Callable
from io import SEEK_END
from pathlib import Path
from typing import NamedTuple

from reconciler.core.errors import NotFound, Refused
from reconciler.core.masking import Mask
from reconciler.core.model.runs import read_run_key
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.protocol import agent_id

_LAST = 16 * 1024
"""Bytes in which a last line is looked for."""
WITHHELD = (
    "this log may hold secrets that the run was given and that are not known to this process any more: "
    "`reconciler logs` on the reconciler's machine prints it as it is"
)


class LogLine(NamedTuple):
    """A line of a log."""

    begin: int
    """Byte at which it begins."""
    end: int
    """Byte after it."""
    text: str
    """Masked; with its line end, if it has one yet."""


class LogSize(NamedTuple):
    """One log of a run."""

    label: str
    """For people."""
    size: int
    """Bytes."""


class ShownLogs:
    """
    The logs of runs with their secrets masked.

    `mask` returns the mask for a task's run, by the task and the id of what ran;
    its `withheld` is set where the run was given secrets that are forgotten.
    """

    def __init__(self, logs: LogFolder, mask: Callable[[str, str], Mask]) -> None:
        self._logs = logs
        self._mask = mask

    def parts(self, run: str) -> list[LogSize]:
        """Return the logs of a run, in the order of its rounds."""
        return [LogSize(label, _size(path)) for label, path in self._logs.paths(run)]

    def read(self, run: str, label: str, begin: int, end: int) -> list[LogLine]:
        """Return the lines between two bytes of a log, masked. Raises NotFound, Refused if it is withheld."""
        path = next((path for name, path in self._logs.paths(run) if name == label), None)
        if path is None:
            raise NotFound(f"no log {label!r} of {run} is here any more")
        mask = self._mask_of(run, path.parent.name)
        if mask.withheld:
            raise Refused(WITHHELD)
        try:
            with path.open("rb") as file:
                file.seek(begin)
                data = file.read(max(0, end - begin))
        except OSError:
            raise NotFound(f"no log {label!r} of {run} is here any more") from None
        return split_lines(data, begin, mask)

    def last_line(self, run: str, number: int) -> str:
        """Return the last line of a round that holds anything; empty if there is none to be shown."""
        run_id = agent_id(run, number)
        mask = self._mask_of(run, run_id)
        if mask.withheld:
            return ""
        with self._logs.open(run_id, "out") as file:
            size = file.seek(0, SEEK_END)
            file.seek(max(0, size - _LAST))
            lines = file.read().decode("utf-8", "replace").splitlines()
        return mask.hide(next((line.strip() for line in reversed(lines) if line.strip()), ""))

    def _mask_of(self, run: str, run_id: str) -> Mask:
        named = read_run_key(run)
        return self._mask(named[0], run_id) if named else Mask()


def split_lines(data: bytes, begin: int, mask: Mask) -> list[LogLine]:
    """Return data line by line, masked as a whole: a secret may be broken over lines."""
    pieces = data.split(b"\n")
    texts = [piece.decode("utf-8", "replace") for piece in pieces]
    if mask.values:
        hidden = mask.hide("\n".join(texts)).split("\n")
        # Where line ends were masked too there are fewer; the rest is empty then.
        texts = [*hidden, *[""] * len(texts)][: len(texts)]
    lines = list[LogLine]()
    for number, (piece, text) in enumerate(zip(pieces, texts, strict=True), 1):
        ends = "\n" if number < len(pieces) else ""
        if piece or ends:
            lines.append(LogLine(begin, begin + len(piece) + len(ends), text + ends))
        begin += len(piece) + len(ends)
    return lines


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
