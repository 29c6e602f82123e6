"""
Static files: held in memory, named by their content, so that browsers keep them for good.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import NotFound

FOLDER = Path(__file__).with_name("static")
TYPES: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Media types; what has another ending is not served."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it is sent."""

    content: bytes
    media_type: str
    digest: str
    """SHA-256 of its content, in hex."""


class StaticFiles:
    """All of them, by their path in the folder."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {
            path.relative_to(folder).as_posix(): _read(path)
            for path in sorted(folder.rglob("*"))
            if path.suffix in TYPES
        }

    def url(self, name: str) -> str:
        """Return where a file is; another content has another address."""
        return f"/static/{name}?v={self._files[name].digest[:12]}"

    def get(self, name: str) -> StaticFile:
        """Return a file. Raises NotFound."""
        if name not in self._files:
            raise NotFound(f"no file {name[:100]}")
        return self._files[name]


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    return StaticFile(content, TYPES[path.suffix], hashlib.sha256(content).hexdigest())
