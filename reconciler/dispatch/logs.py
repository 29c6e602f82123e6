"""
Logs of agents on this machine: `<logs>/<run>.r<round>/out` and `err`, and `…v` for its validation.

Hooks have theirs beside it: `…b` and `…e`, before and after the agent, `…d` before the workspace is removed.
What an outside agent finished is validated apart from it: `<logs>/<run>.c<commit>.r1v`.

A file's size is how far it was copied, so that copying goes on after a restart
where it stopped: nothing lost, nothing twice.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

from reconciler.core.figures import LiveFigures
from reconciler.core.times import time_at
from reconciler.dispatch.protocol import RUN_ID, agent_id, folder_name, opinion_key, run_of
from reconciler.files import make_folder, parse_json, replace_atomically, sync_file, sync_folder

StreamName = Literal["out", "err"]
_PROOF = "secrets"
_FIGURES = "figures"
_EXIT_CODE = "exit_code"
_COUNTS = ("turns", "input_tokens", "output_tokens", "cached_tokens")
_PARTS: Mapping[str, str] = {
    "b": "hooks before",
    "": "agent",
    "e": "hooks after",
    "v": "validation",
    "o": "second opinion",
    "d": "hooks before removal",
}
"""Parts of a round, in their order."""
_ACCOUNTED = frozenset({"b", "d", "e", "v"})
"""Those whose stderr is an account of ours."""
_LONGEST_SECRET = 8 * 1024
"""Bytes; of one line."""


class LogFolder:
    """The folder of logs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def size(self, run_id: str, stream: StreamName) -> int:
        """Return how much is there."""
        try:
            return self._path(run_id, stream).stat().st_size
        except FileNotFoundError:
            return 0

    def append(self, run_id: str, stream: StreamName, data: bytes) -> None:
        """Add bytes at the end."""
        path = self._path(run_id, stream)
        make_folder(self._folder)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)

    def sync(self, run_id: str, stream: StreamName) -> None:
        """Sync the file and its folder to disk."""
        path = self._path(run_id, stream)
        sync_file(path)
        for folder in (path.parent, self._folder):
            sync_folder(folder)

    def figures(self, run: str, number: int) -> LiveFigures | None:
        """Return how far a round is, from the output of the agent or its validation; None if none came."""
        agent = agent_id(run, number)
        written = [
            _written_at(self._path(run_id, stream))
            for run_id in (agent, f"{agent}v", *(agent_id(opinion_key(run, number), each) for each in (1, 2)))
            for stream in ("out", "err")
        ]
        at = max(filter(None, written), default=None)
        return LiveFigures(last_output_at=at, **self._counts(agent)) if at else None

    def _counts(self, run_id: str) -> Mapping[str, int]:
        """Return what was counted of a run so far; nothing if that cannot be read."""
        try:
            counts = parse_json((self._folder / run_id / _FIGURES).read_bytes())
            return {name: counts[name] for name in _COUNTS if type(counts.get(name)) is int}
        except (OSError, ValueError, AttributeError):
            return {}

    def write_figures(self, run_id: str, figures: LiveFigures) -> None:
        """Write what was counted of a run so far, for who looks: not synced. Raises OSError."""
        counts = {name: getattr(figures, name) for name in _COUNTS}
        replace_atomically(self._folder / run_id / _FIGURES, json.dumps(counts).encode(), mode=0o600)

    def write_exit_code(self, run_id: str, exit_code: int) -> None:
        """Write how an agent ended, for who records it: not synced. Raises OSError."""
        replace_atomically(self._folder / run_id / _EXIT_CODE, f"{exit_code}\n".encode(), mode=0o600)

    def exit_code(self, run_id: str) -> int | None:
        """Return how an agent ended; None if that is not known."""
        try:
            return int((self._folder / run_id / _EXIT_CODE).read_text("ascii"))
        except (OSError, ValueError):
            return None

    def read(self, run_id: str, stream: StreamName) -> bytes:
        """Return all of it; empty if there is none."""
        try:
            return self._path(run_id, stream).read_bytes()
        except FileNotFoundError:
            return b""

    def open(self, run_id: str, stream: StreamName) -> BinaryIO:
        """Open it for reading; an empty file if there is none."""
        try:
            return self._path(run_id, stream).open("rb")
        except FileNotFoundError:
            return BytesIO()

    def append_proof(self, run_id: str, line: str) -> None:
        """Add a line to the proofs of which secrets a run was given."""
        path = self._folder / run_id / _PROOF
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("a", encoding="ascii") as file:
            file.write(f"{line}\n")

    def proofs(self, run_id: str) -> list[str]:
        """Return the proofs of which secrets a run was given."""
        try:
            return (self._folder / run_id / _PROOF).read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return []

    def paths(self, run: str) -> list[tuple[str, Path]]:
        """Return every log of a run that is there, with a label for people, in the order of the rounds."""
        paths = []
        for folder in self._folder.glob(f"{folder_name(run)}.*"):
            match = RUN_ID.match(folder.name)
            if match and match["run"] == folder_name(run):
                number, part = (
                    match["reviewed"] or match["round"],
                    "o" if match["reviewed"] else match["part"],
                )
                paths.append((match["commit"] or "", int(number), part, folder))
        return [
            (f"{_label(commit, number, part)}{label}", folder / stream)
            for commit, number, part, folder in sorted(paths, key=_in_order)
            for stream, label in (("out", ""), ("err", " (stderr)"))
            if (folder / stream).exists() and not (part in _ACCOUNTED and stream == "err")
        ]

    def prune(self, is_needed: Callable[[str], bool], *, before: datetime, most: int) -> None:
        """
        Remove logs that are not needed, by the keys of their runs, the oldest first.

        Those go that nothing was written to since `before`, and more until no
        more than `most` bytes are left.
        """
        weighed = sorted(filter(None, map(_stat, self._folder.glob("*"))))
        total = sum(size for _, size, _ in weighed)
        for written, size, folder in weighed:
            if written >= before.timestamp() and total <= most:
                return
            if not is_needed(run_of(folder.name)):
                shutil.rmtree(folder, ignore_errors=True)
                total -= size

    def _path(self, run_id: str, stream: StreamName) -> Path:
        return self._folder / run_id / stream


def read_end(file: BinaryIO, limit: int, *, begin: int = 0, end: int | None = None) -> str:
    """Return the last `limit` bytes between two places of a file as text; see `end_of_text`."""
    last = file.seek(0, SEEK_END) if end is None else end
    first = max(begin, last - limit)
    file.seek(first)
    text = file.read(max(0, last - first)).decode(errors="replace")
    return text if first == begin else _from_next_line(text)


def end_of_text(text: str, limit: int) -> str:
    """
    Return the end of a text, of at most `limit` characters.

    Where that would begin in the middle of something, it begins with the next
    line: a mask does not find half a secret.
    """
    return text if len(text) <= limit else _from_next_line(text[-limit:])


def _from_next_line(text: str) -> str:
    return text.partition("\n")[2] or text[_LONGEST_SECRET:]


def _in_order(path: tuple[str, int, str, Path]) -> tuple[str, int, int]:
    commit, number, part, _ = path
    return commit, number, list(_PARTS).index(part)


def _label(commit: str, number: int, part: str) -> str:
    if commit:
        return f"validation of {commit}"
    return f"round {number} {_PARTS[part]}"


def _written_at(path: Path) -> datetime | None:
    """Return when a log that holds anything was written to last."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return time_at(stat.st_mtime) if stat.st_size else None


def _stat(folder: Path) -> tuple[float, int, Path] | None:
    """Return when a log was last written to, and its size; None for what cannot be looked at."""
    try:
        stats = [file.stat() for file in (folder, *folder.glob("*"))]
    except OSError:
        return None
    return max(stat.st_mtime for stat in stats), sum(stat.st_size for stat in stats), folder
