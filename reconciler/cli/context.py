"""
Context: the global options, and the places they point to.
"""

import hashlib
import os
import pwd
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.core.errors import UsageError
from reconciler.core.names import DEFAULT_SHARD

if TYPE_CHECKING:
    from reconciler.settings import Settings

SPECS = "specs"
"""The folder of a fleet's repository that people write in."""

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The fleet that a command works on."""

    repo: str | None = None
    """Path or URL of the fleet's repository, as given."""
    branch: str | None = None
    """Branch with the specs, as given."""
    data: Path | None = None
    """Data folder, as given."""
    has_pager: bool = True
    """Whether long output may go to a pager."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether the fleet's repository is named by a URL."""
        from reconciler.git.repository import is_url

        return self.repo is not None and is_url(self.repo) and not Path(self.repo).exists()

    @property
    def place(self) -> str:
        """
        Where the fleet's repository is: a URL as given, or the absolute path of its root.

        Raises UsageError if there is none.
        """
        if self.repo is not None and self.is_elsewhere:
            return self.repo
        start = Path(self.repo or ".").resolve()
        for folder in (start, *start.parents):
            if is_repository(folder):
                return str(require_text(folder))
        raise UsageError(
            f"no git repository at or around {start}: "
            "name one with --repo, or make one with `reconciler init`"
        )

    def work_tree(self, paths: Sequence[Path] = ()) -> Path:
        """
        Return the folder that has `specs/` in it: around the paths, else where the fleet is.

        Raises UsageError if there is none.
        """
        if self.is_elsewhere and not paths:
            raise UsageError(f"{self.repo} has no work tree: work in a clone of it")
        start = (paths[0] if paths else Path(self.repo or ".")).resolve()
        for folder in (start, *start.parents):
            if (folder / SPECS).is_dir():
                return folder
        raise UsageError(
            f"no folder {SPECS}/ at or around {start}: "
            "go where the fleet is, or make one with `reconciler init`"
        )

    @property
    def data_dir(self) -> Path:
        """Folder of caches, logs and local runs of this fleet, however it is named."""
        return require_text(self.data.resolve() if self.data else default_data_dir(self.place))

    def data_of(self, shard: str) -> Path:
        """Return the data folder of a shard's reconciler: two of them share nothing but the remote."""
        return self.data_dir if shard == DEFAULT_SHARD else self.data_dir / "shards" / shard

    @property
    def clones(self) -> Path:
        """Where repositories named by a URL are cloned to."""
        return self.data_dir / "clones"

    @property
    def settings(self) -> "Settings":
        """Return the settings of a process that serves this fleet."""
        from reconciler.settings import Settings

        return Settings(
            repo=self.place, branch=self.branch, data_dir=self.data_dir, machine_dir=machine_dir()
        )


def require_text(path: Path) -> Path:
    """Return a path. Raises UsageError if it is not UTF-8: nothing of ours could name it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{path}: this path is not UTF-8; rename what is not in it, or go elsewhere"
        ) from None
    return path


def is_repository(folder: Path) -> bool:
    """Return whether a folder is the root of a repository, or a bare one."""
    is_bare = (folder / "HEAD").is_file() and (folder / "objects").is_dir() and (folder / "refs").is_dir()
    return is_bare or (folder / ".git").exists()


def default_data_dir(place: str) -> Path:
    """Return a folder named after a place, readable and yet its own for each place."""
    name = (
        _UNSAFE.sub("-", re.split(r"[/:]", place.rstrip("/"))[-1].removesuffix(".git")).strip("-.") or "fleet"
    )
    digest = hashlib.sha256(place.encode()).hexdigest()[:8]
    return _state_home() / f"{name}-{digest}"


def machine_dir() -> Path:
    """Return the folder of what this machine remembers of all fleets that are reconciled on it."""
    return _state_home() / "marks"


def _state_home() -> Path:
    """Return the folder of state; a variable that is empty or relative counts as unset, as XDG has it."""
    named = os.environ.get("XDG_STATE_HOME", "")
    return (Path(named) if named.startswith("/") else _home() / ".local" / "state") / "reconciler"


def _home() -> Path:
    named = os.environ.get("HOME", "")
    if named.startswith("/"):
        return Path(named)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # as in containers that give each a user number of its own
        raise UsageError(
            "no home folder is known: set HOME or XDG_STATE_HOME to a folder that this user may write in"
        ) from None
