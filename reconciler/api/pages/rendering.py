"""
Rendering: templates that escape everything, and a cache that renders each change once for all who look.
"""

import asyncio
import gzip
import hashlib
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reconciler.api.pages.safe_text import link, show_hidden
from reconciler.api.pages.static_files import StaticFiles
from reconciler.core.fields import format_duration
from reconciler.core.times import ago, format_time

TEMPLATES = Path(__file__).with_name("templates")
SHORT = 10
"""Digits of a commit that people see."""


FILES = StaticFiles()


@cache
def templates() -> Environment:
    """Return the templates: whatever they are given is text, and shows what is hidden in it."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
        auto_reload=False,
    )
    made.globals |= {"static": FILES.url}
    made.filters |= {
        "ago": ago,
        "short": lambda commit: commit[:SHORT],
        "iso": format_time,
        "link": link,
        "cut": lambda text, most: (
            text if len(text) <= most else f"{text[:most]}… [{len(text) - most:,} more]"
        ),
        "digest": lambda text: hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12],
        "usd": lambda amount: f"{amount:,.2f}",
        "count": lambda number: f"{number:,}",
        "duration": lambda seconds: format_duration(timedelta(seconds=round(seconds))),
    }
    return made


def _finalized(value: object) -> object:
    return show_hidden(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@dataclass(frozen=True, slots=True)
class View:
    """What a page shows: a template and what it is given."""

    template: str
    title: str
    values: Mapping[str, Any]
    status: int = 200


@dataclass(frozen=True, slots=True)
class Rendered:
    """A page as it is sent."""

    status: int
    content: bytes
    packed: bytes
    """The same, by gzip."""
    etag: str


def rendered(status: int, text: str) -> Rendered:
    """Return a text as it is sent."""
    content = text.encode("utf-8", "replace")
    digest = hashlib.sha256(content).hexdigest()[:32]
    return Rendered(status, content, gzip.compress(content, 5, mtime=0), f'"{digest}"')


@dataclass(slots=True)
class _Entry:
    version: str
    at: float
    page: "asyncio.Future[Rendered]"


class RenderCache:
    """Single flight: one rendering of a page for all who ask for it until it changes, or gets old."""

    FRESH = 5.0
    """Seconds: ages and last lines of logs change without a commit."""
    MOST = 128
    """Pages that are kept."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._entries: dict[Hashable, _Entry] = {}
        """The one that was asked for last is last."""

    async def get(self, key: Hashable, version: str, make: Callable[[], Awaitable[Rendered]]) -> Rendered:
        """Return a page, made now unless that was done a moment ago. Raises what `make` does."""
        entry = self._entries.pop(key, None)
        is_new = entry is None or entry.version != version or self._monotonic() - entry.at > self.FRESH
        if entry is None or is_new:
            entry = _Entry(version, self._monotonic(), asyncio.ensure_future(make()))
        self._entries[key] = entry
        while len(self._entries) > self.MOST:
            del self._entries[next(iter(self._entries))]
        try:
            return await asyncio.shield(entry.page)
        except BaseException:
            if entry.page.done() and self._entries.get(key) is entry:
                del self._entries[key]
            raise
