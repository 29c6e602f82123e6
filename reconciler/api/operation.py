"""
An operation: what a route takes, what it answers, and what does the work.

The same table makes the routes and the OpenAPI document, so neither can say
what the other does not.
"""

import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from urllib.parse import quote, unquote, urlencode

from pydantic import TypeAdapter
from sanic import Sanic
from sanic.exceptions import PayloadTooLarge
from sanic.request import Request
from sanic.response import HTTPResponse

from reconciler.api.server import BODY_LIMIT
from reconciler.api.tokens import Caller, Scope
from reconciler.core.errors import NotFound, UsageError
from reconciler.core.fields import Frozen
from reconciler.core.names import check_task_name

JSON = "application/json"
BODY_CHUNK = 1024 * 1024
"""Bytes of a long body that are handed on at a time."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was let in, read."""

    request: Request
    caller: Caller
    name: str
    """What the path names."""
    query: Any
    """The query, parsed by the operation's `query` model."""
    body: Any
    """The body, parsed by the operation's `body` model."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, and where the next one begins."""

    items: Sequence[Frozen]
    cursor: str | None = None
    """None: this is the last page."""


Result = Frozen | Page | HTTPResponse | None
"""None: there is nothing to say (204), or the handler has answered by itself."""
Handler = Callable[[Call], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class Reply:
    """Successful answer of an operation."""

    description: str
    model: type[Frozen] | None = None
    is_list: bool = False
    media_type: str = ""
    """Of what has no model; empty: there is no body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of the API, as OpenAPI describes it."""

    method: Literal["GET", "POST", "PUT"]
    path: str
    """As OpenAPI writes it, such as `/api/v1/tasks/{name}/start`."""
    name: str
    summary: str
    handler: Handler
    answers: Mapping[int, Reply]
    problems: Mapping[int, str] = field(default_factory=dict)
    """Errors beside those common to all operations of its kind."""
    scopes: tuple[Scope, ...] = ()
    """Scopes of which the token needs one; empty: no token is required."""
    query: type[Frozen] | None = None
    body: type[Frozen] | None = None
    raw_body: str | None = None
    """Media type of a body that the handler reads itself."""
    is_versioned: bool = False
    """Whether the answer is the same as long as the state branch and the specs are."""
    is_open_here: bool = False
    """Whether no token is asked for where only programs of this machine can ask."""
    is_unlimited: bool = False
    """Whether it may be asked for as often as anybody likes, in no bucket with others."""

    @property
    def has_name(self) -> bool:
        """Whether the path names something."""
        return "{name}" in self.path


@dataclass(frozen=True, slots=True)
class Admission:
    """Admission of requests: authentication, limits, body, query."""

    admit: Callable[[Request, Operation], Caller]
    """Return the caller. Raises Unauthenticated, Refused, TooMany."""
    version: Callable[[], str]
    """Return what changes with the state branch and the specs."""


def add_routes(app: Sanic[Any, Any], operations: Sequence[Operation], admission: Admission) -> None:
    """Add the operations to the app as routes."""
    for operation in operations:
        app.add_route(
            _served(operation, admission),
            operation.path.replace("{name}", "<name:path>"),
            methods=[operation.method],
            name=operation.name,
            stream=True,  # authenticate before the body is read
        )


def _served(
    operation: Operation, admission: Admission
) -> Callable[..., Coroutine[Any, Any, HTTPResponse | None]]:
    async def serve(request: Request, name: str = "") -> HTTPResponse | None:
        caller = admission.admit(request, operation)
        version = f'"{admission.version()}"' if operation.is_versioned else None
        if version and version in _versions(request):
            return HTTPResponse(status=304, headers=_headers(version))
        call = Call(
            request,
            caller,
            _name(name) if operation.has_name else "",
            _query(operation, request),
            await _body(operation, request),
        )
        result = await operation.handler(call)
        return None if request.responded else _render(operation, call, result, version)

    return serve


# --- Reading ---------------------------------------------------------------


def _name(text: str) -> str:
    """Return the name in a path; its slashes may be written as they are, or as `%2F`."""
    name = unquote(text)
    try:
        return check_task_name(name)
    except ValueError as error:
        raise NotFound(str(error)) from None


def _query(operation: Operation, request: Request) -> Frozen | None:
    """Return the query parameters; an unknown one is an error."""
    if operation.query is None:
        return None
    given = request.get_query_args(keep_blank_values=True)
    if len(dict(given)) < len(given):
        raise UsageError("a parameter is given twice")
    return operation.query.model_validate_strings(dict(given), strict=False)


async def _body(operation: Operation, request: Request) -> Frozen | None:
    """Return the body; whatever its media type says, it is read as JSON."""
    if operation.raw_body is not None:
        return None
    content = await read_body(request, BODY_LIMIT)
    return None if operation.body is None else operation.body.model_validate_json(content)


async def read_body(request: Request, most: int) -> bytes:
    """Return the body as a whole. Raises PayloadTooLarge as soon as it is known to be."""
    return b"".join([piece async for piece in pieces(request, most)])


async def pieces(request: Request, most: int) -> AsyncIterator[bytes]:
    """Yield the body in pieces of about PIECE. Raises PayloadTooLarge as soon as it is known to be."""
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise PayloadTooLarge
    piece, size = bytearray(), 0
    async for data in cast("AsyncIterable[bytes]", request.stream):
        size += len(data)
        if size > most:
            raise PayloadTooLarge
        piece += data
        if len(piece) >= BODY_CHUNK:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


# --- Rendering -------------------------------------------------------------

_ITEMS: TypeAdapter[Sequence[Any]] = TypeAdapter(Sequence[Any])
_ENTITY_TAG = re.compile(r'"[^"]*"')


def _versions(request: Request) -> list[str]:
    return _ENTITY_TAG.findall(request.headers.get("if-none-match", ""))


def _render(operation: Operation, call: Call, result: Result, version: str | None) -> HTTPResponse:
    if isinstance(result, HTTPResponse):
        return result
    headers = _headers(version)
    if result is None:
        return HTTPResponse(status=204, headers=headers)
    if isinstance(result, Page):
        if result.cursor is not None:
            headers["Link"] = f'<{_next(operation, call, result.cursor)}>; rel="next"'
        return HTTPResponse(_ITEMS.dump_json(result.items), 200, headers, JSON)
    return HTTPResponse(result.model_dump_json(), min(operation.answers), headers, JSON)


def _headers(version: str | None) -> dict[str, str]:
    """Return headers that allow private caching with revalidation."""
    if version is None:
        return {"Cache-Control": "no-store"}
    return {"Cache-Control": "private, no-cache", "ETag": version, "Vary": "Authorization"}


def _next(operation: Operation, call: Call, cursor: str) -> str:
    given = {**dict(call.request.get_query_args()), "cursor": cursor}
    return f"{operation.path.replace('{name}', quote(call.name))}?{urlencode(given)}"
