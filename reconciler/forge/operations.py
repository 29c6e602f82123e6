"""
Operations: what a forge with an API of its own does for each request that is made of it.

The rooms ask every forge in the same way: paths, bodies and answers are those
of Forgejo, which GitHub shares as far as they are used. A forge that has
others has a table of operations in its dialect: each is given such a request,
makes it with the requests of that forge, and returns the answer as Forgejo
would give it.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from reconciler.forge.client import ForgeClient


@dataclass(frozen=True, slots=True)
class ForgeReply:
    """A successful answer."""

    status: int
    value: Any
    """The JSON; None if there is none."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgeRequest:
    """A request of the rooms, and the client by which the forge's own requests are made."""

    client: "ForgeClient"
    names: Mapping[str, str]
    """Parts of the path by their name in its pattern, unquoted."""
    params: Mapping[str, str]
    body: Mapping[str, Any]


Operation = Callable[[ForgeRequest], Awaitable[ForgeReply]]


class Operations:
    """A table of operations, by method and pattern of the path, such as `pulls/{number}`."""

    def __init__(self) -> None:
        self._table: list[tuple[str, re.Pattern[str], Operation]] = []

    def on(self, method: str, path: str) -> Callable[[Operation], Operation]:
        """Return a decorator for the operation of a request; a name ending in `…` takes slashes, too."""
        escaped = re.sub(r"\{(\w+)…\}", r"(?P<\1>.+)", path)
        pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", escaped) + r"\Z")

        def keep(operation: Operation) -> Operation:
            self._table.append((method, pattern, operation))
            return operation

        return keep

    def find(self, method: str, path: str) -> tuple[Operation, Mapping[str, str]]:
        """Return the operation of a request, and the names in its path. Raises LookupError."""
        for verb, pattern, operation in self._table:
            if verb == method and (match := pattern.match(path)):
                return operation, {name: unquote(value) for name, value in match.groupdict().items()}
        raise LookupError(f"{method} {path}: the dialect of this forge has no such operation")
