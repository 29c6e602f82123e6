"""
Routes of the doubles: what answers a request of a forge.
"""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

Answer = tuple[int, Any, dict[str, str]]
"""Status, JSON and headers."""
Handler = Callable[..., Answer]


class Routes:
    """What answers each request of a forge, by method and pattern of the path, such as `/users/{name}`."""

    def __init__(self) -> None:
        self._table: list[tuple[str, re.Pattern[str], Handler]] = []

    def on(self, method: str, path: str) -> Callable[[Handler], Handler]:
        """Return a decorator for what answers a request."""
        pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path) + r"\Z")

        def keep(handler: Handler) -> Handler:
            self._table.append((method, pattern, handler))
            return handler

        return keep

    def find(self, method: str, path: str) -> tuple[Handler, dict[str, str]] | None:
        """Return what answers a request, and the names in its path; None if nothing does."""
        for verb, pattern, handler in self._table:
            if verb == method and (match := pattern.match(path)):
                return handler, {name: unquote(value) for name, value in match.groupdict().items()}
        return None
