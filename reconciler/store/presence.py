"""
Presence: a small file that tells commands which process reconciles a fleet from this data folder.

Nothing depends on it but what is shown: it is written without waiting for the
disk, and who cannot read it says less.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from reconciler.core.outages import ForgeOutage
from reconciler.core.text import one_line
from reconciler.core.times import format_time, time_at
from reconciler.files import parse_json, replace_atomically
from reconciler.git.repository import Repository
from reconciler.store.locks import lock_file, lock_holder

BEAT = 2.0
"""Seconds between two updates of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """The running reconciler, or the last one."""

    mode: str
    """`run` or `serve`."""
    pid: int
    host: str
    since: str
    """When it began."""
    address: str = ""
    """Of its HTTP API; empty if it has none."""
    specs: str = ""
    """Commit of the specs that it acts on."""
    state: str = ""
    """Commit of the state branch that it put on record last."""
    error: str = ""
    """Why it cannot go on now."""
    forges: Mapping[str, ForgeOutage] = field(default_factory=dict)
    """Why forges cannot be worked with now, by repo; that of the fleet's own is `.fleet`."""
    unsent: str = ""
    """Which notifications could not be sent, and why; empty if all were."""
    ended: str = ""
    """When it ended; empty if it has not, or was killed."""


class PresenceFile:
    """The presence file in the data folder, for its writer and its readers."""

    def __init__(self, repository: Repository, branch: str, data: Path, git_dir: Path | None = None) -> None:
        """Read or write it in a data folder; `git_dir` is where its reconciler writes, if not here."""
        self._path = fleet_file(repository, branch, data / "reconcilers")
        self._lock = lock_file(git_dir or repository.git_dir, branch)
        self._written: Presence | None = None

    def tell(self, presence: Presence) -> None:
        """Write the presence if it changed; errors of a full disk are ignored."""
        with suppress(OSError):
            if presence == self._written:
                os.utime(self._path)  # a sign of life
                return
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_atomically(self._path, json.dumps(asdict(presence), default=format_time).encode())
            self._written = presence

    def end(self, now: datetime) -> None:
        """Record that it ended."""
        if self._written is not None:
            self.tell(replace(self._written, ended=format_time(now)))

    def read(self) -> Presence | None:
        """Return the running or last reconciler; None if nothing is known."""
        try:
            return _presence(parse_json(self._path.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def holder(self) -> int | None:
        """Return the process that has the record open for writing now; None if nobody has."""
        return lock_holder(self._lock)

    def last_sign(self) -> datetime | None:
        """Return when the last one ended, or its last sign of life if it was killed."""
        presence = self.read()
        with suppress(OSError, ValueError):
            if presence is not None and presence.ended:
                return datetime.fromisoformat(presence.ended)
            return time_at(self._path.stat().st_mtime)
        return None


def fleet_file(repository: Repository, branch: str, folder: Path, ending: str = "json") -> Path:
    """Return the file of one fleet in a folder of the data folder, which may be that of several."""
    place = repository.address or str(repository.git_dir)
    digest = repository.blob_id(f"{place} {branch}".encode())[:16]
    return folder / f"{digest}.{ending}"


def _presence(document: Mapping[str, Any]) -> Presence:
    texts = {
        name: one_line(str(document.get(name, ""))) for name in Presence.__slots__ if name not in _OTHERS
    }
    forges = {str(repo): _outage(each) for repo, each in document.get("forges", {}).items()}
    return Presence(pid=int(document.get("pid", 0)), forges=forges, **texts)


def _outage(document: Mapping[str, Any]) -> ForgeOutage:
    return ForgeOutage(one_line(str(document["why"])), datetime.fromisoformat(document["since"]))


_OTHERS = {"pid", "forges"}
"""Fields that are no text."""
