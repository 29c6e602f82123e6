"""
Problem details: one table from errors to HTTP answers (RFC 9457).
"""

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from sanic.exceptions import MethodNotAllowed, SanicException
from sanic.request import Request
from sanic.response import HTTPResponse

from reconciler.core.errors import (
    Conflict,
    LeaseLost,
    LogGap,
    NotFound,
    NotNow,
    Refused,
    SpecError,
    Unavailable,
    UsageError,
)
from reconciler.core.text import harmless, one_line
from reconciler.wire import FieldProblem, ProblemDetails

log = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
LONGEST_PATH = 4000
"""Most characters of a detail."""
PAUSE = 2.0
"""Default Retry-After, in seconds."""


class Unauthenticated(Refused):
    """The token is missing or invalid (401)."""


class TooMany(Unavailable):
    """More requests, or streams, than are allowed (429)."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds."""


STATUS_BY_ERROR: Mapping[type[Exception], tuple[int, str]] = {
    Unauthenticated: (401, "A valid token is needed"),
    LeaseLost: (410, "The lease is lost"),
    NotNow: (409, "Not now"),
    Refused: (403, "Not allowed"),
    NotFound: (404, "Not found"),
    UsageError: (400, "Bad request"),
    SpecError: (422, "A spec has mistakes"),
    ValidationError: (422, "Fields with mistakes"),
    TooMany: (429, "Too many requests"),
    Conflict: (503, "Somebody wrote first"),
    Unavailable: (503, "Not available now"),
}
"""HTTP status by error class; a subclass without an entry takes that of its nearest base."""

HTTP: Mapping[int, str] = {
    400: "This is not a valid HTTP request.",
    404: "Nothing is at this address; /api/v1/openapi.json lists what there is.",
    405: "This address does not take that method; the Allow header lists those it takes.",
    408: "The request took too long to arrive; send it again, quicker.",
    413: "The request is too large; send less at once.",
    417: "The Expect header asks for something that is not offered; leave it out.",
    503: "The reconciler is stopping or overloaded; ask again.",
}
"""Messages for errors raised by the server itself, by status."""


def answer_error(request: Request, error: Exception) -> HTTPResponse:  # noqa: ARG001 - Sanic calls it so
    """Return the answer to a request that ended in an error; an unexpected error is logged."""
    details = problem_body(error)
    if details.status == 500:  # noqa: PLR2004 - the one that is our own mistake
        log.error("a request ended in an unexpected error", exc_info=error)
    body = details.model_dump_json(exclude_defaults=True)
    return HTTPResponse(body, details.status, dict(_headers(error, details.status)), PROBLEM_TYPE)


def problem_body(error: Exception) -> ProblemDetails:
    """Return the error as a body: what happened, and what to do now."""
    if isinstance(error, SanicException):
        status = error.status_code
        title = "Request not served"
        return _details(status, title, HTTP.get(status, "The server cannot serve this request."))
    for kind in type(error).__mro__:
        if kind in STATUS_BY_ERROR:
            return _foreseen(error, *STATUS_BY_ERROR[kind])
    return _details(500, "A bug of the reconciler", "Its log tells more; tell whoever runs it.")


def _foreseen(error: Exception, status: int, title: str) -> ProblemDetails:
    match error:
        case ValidationError():
            return _invalid(error, title)
        case SpecError():
            fields = tuple(
                _field(problem.field or problem.path, problem.message) for problem in error.problems
            )
            return _details(status, title, str(error) or "the spec of the task is lost", errors=fields)
        case LogGap():
            return _details(status, title, str(error), acknowledged_offset=error.kept)
    return _details(status, title, str(error))


_SEE = "see `errors` for what is wrong with which field; /api/v1/openapi.json says how they should be"


def _invalid(error: ValidationError, title: str) -> ProblemDetails:
    """Describe each invalid field without its value, which may be a secret."""
    errors = error.errors(include_url=False, include_context=False)
    if any(one["type"] == "json_invalid" for one in errors):
        return _details(400, "Bad request", f"the body is not JSON: {errors[0]['msg']}")
    fields = tuple(_field(".".join(map(str, one["loc"])), _message(one)) for one in errors[:20])
    return _details(422, title, _SEE, errors=fields)


def _message(details: ErrorDetails) -> str:
    message, given = details["msg"].removeprefix("Value error, "), details["input"]
    return message.replace(repr(given), "…") if isinstance(given, str) else message


def _field(name: str, message: str) -> FieldProblem:
    return FieldProblem(field=one_line(name, 100), message=one_line(message))


def _details(status: int, title: str, detail: str, **more: Any) -> ProblemDetails:
    return ProblemDetails(title=title, status=status, detail=harmless(detail)[:LONGEST_PATH], **more)


def _headers(error: Exception, status: int) -> Iterator[tuple[str, str]]:
    yield "Cache-Control", "no-store"
    if isinstance(error, MethodNotAllowed):
        yield "Allow", str(error.headers["Allow"])
    if isinstance(error, Unauthenticated):
        yield "WWW-Authenticate", 'Bearer realm="reconciler"'
    if isinstance(error, TooMany):
        yield "Retry-After", str(math.ceil(error.retry_after))
    elif status == 503:  # noqa: PLR2004 - it says that there will be a later
        yield "Retry-After", str(math.ceil(PAUSE))
