"""
Looks at a repository into which others write, made again and again until something is there.

Git is asked once for each state of the branches: a process for each look took a third of a core.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Stamp = frozenset[tuple[str, int, int, int]]


@dataclass(frozen=True)
class Looks:
    """What was seen in a repository, given its folder with `refs`; `ask` asks git."""

    folder: Path
    ask: Callable[..., str]
    _seen: dict[tuple[str, ...], tuple[Stamp, str]] = field(default_factory=dict)

    def __call__(self, *args: str) -> str:
        """Return what a command of git says that reads branches alone."""
        stamp = self._stamp()
        if args not in self._seen or self._seen[args][0] != stamp:
            self._seen[args] = stamp, self.ask(*args)
        return self._seen[args][1]

    def _stamp(self) -> Stamp:
        """Return what tells a state of the branches from others: git replaces files of refs."""
        files = [self.folder / "packed-refs", *(self.folder / "refs").rglob("*")]
        stamps = set()
        for file in files:
            try:
                stat = file.stat()
            except FileNotFoundError:
                continue
            stamps.add((str(file), stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return frozenset(stamps)
