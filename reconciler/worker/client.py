"""
API client: the agent's side of the worker protocol.

Every request may be repeated: a dequeue by its request key, a piece of log by
its offset, a report by its epoch. So whatever is not answered is sent again.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from types import TracebackType
from typing import NamedTuple, Self, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import TypeAdapter, ValidationError

from reconciler import __version__, clock
from reconciler.core.errors import (
    LeaseLost,
    NotFound,
    NotNow,
    ReconcilerError,
    Refused,
    Unavailable,
    UsageError,
)
from reconciler.core.fields import Frozen
from reconciler.core.names import check_name
from reconciler.core.text import one_line
from reconciler.tls import Authorities, RenewedClient
from reconciler.wire import (
    MOST_WAIT,
    DequeueRequest,
    Heartbeat,
    HeartbeatRequest,
    Lease,
    LogAck,
    ProblemDetails,
    Progress,
    Proposal,
    ProposalRequest,
    StartRequest,
    StatusRequest,
    TaskBody,
)

log = logging.getLogger(__name__)

Body = TypeVar("Body")

BACKOFF, BACKOFF_CAP = 0.5, 15.0
"""Seconds before the first retry, and at most; half of it is random."""
LONGEST_PAUSE = 300.0
"""Seconds; a longer Retry-After is cut to this."""
LOG_CHUNK = 512 * 1024
"""Most bytes of log in one request."""

_TIMEOUT = httpx2.Timeout(20.0, read=MOST_WAIT + 20.0)
_TOKEN = re.compile(r"[\x21-\x7e]+\Z")
_AGAIN = frozenset({429, 500, 502, 503, 504})
_ERRORS: Mapping[int, type[ReconcilerError]] = {
    401: Refused,
    403: Refused,
    404: NotFound,
    409: NotNow,
    410: LeaseLost,
}
_LEASE, _PROGRESS = TypeAdapter(Lease), TypeAdapter(Progress)
_HEARTBEAT, _LOG_ACK = TypeAdapter(Heartbeat), TypeAdapter(LogAck)
_TASK, _TASKS, _PROPOSAL = TypeAdapter(TaskBody), TypeAdapter(tuple[TaskBody, ...]), TypeAdapter(Proposal)


class ApiClient:
    """
    Client of a reconciler's API.

    `token`: None for one that only makes others (`speaking_for`); if it is called
    for, it is for each request anew. `authorities`: whom TLS trusts. `tries`: how
    often a request is sent before Unavailable is raised; None: for as long as
    it takes. Every method raises Unavailable, Refused (the token is
    not good for it), UsageError (the request makes no sense to the server) and
    what its own docstring says.
    """

    def __init__(
        self,
        url: str,
        token: "str | Callable[[], str] | None",
        *,
        authorities: Authorities | None = None,
        tries: int | None = 5,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = clock.jitter,
    ) -> None:
        """Raise UsageError if the address or the token is malformed."""
        self._token = token
        self._authorization()
        self.url = url.rstrip("/")
        base = _base(self.url)
        self._http = RenewedClient(
            authorities or Authorities(),
            lambda trusted: httpx2.AsyncClient(
                base_url=base,
                headers={"User-Agent": f"reconciler/{__version__}"},
                timeout=_TIMEOUT,
                trust_env=False,  # no proxy of the environment sees the token
                verify=trusted,
                limits=httpx2.Limits(max_connections=None),
            ),
        )
        self._tries = tries
        self._pause = pause
        self._jitter = jitter

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    def speaking_for(self, token: str) -> "ApiClient":
        """Return a client of the same connections with another token."""
        other = copy(self)
        other._token = token  # noqa: SLF001 - one of our own kind, made here
        other._authorization()  # noqa: SLF001 - as above
        return other

    async def dequeue(self, request: DequeueRequest) -> Lease | None:
        """Return the task that the agent holds now, None if there is none; the same for the same key."""
        response = await self._send("POST", "/dequeue", request)
        return None if response.status_code == httpx2.codes.NO_CONTENT else self._read(_LEASE, response)

    async def start(self, task: str, epoch: int) -> Progress:
        """Report that the work has started. Raises NotFound, NotNow, LeaseLost."""
        return self._read(_PROGRESS, await self._send("POST", _of(task, "start"), StartRequest(epoch=epoch)))

    async def heartbeat(self, task: str, epoch: int) -> Heartbeat:
        """Send a heartbeat; return whether to go on. Raises NotFound, NotNow."""
        request = HeartbeatRequest(epoch=epoch)
        return self._read(_HEARTBEAT, await self._send("POST", _of(task, "heartbeat"), request))

    async def log(self, task: str, epoch: int, offset: int, data: bytes) -> int:
        """
        Send a piece of the log; return how many bytes of it are kept, where the next piece begins.

        What was sent before is passed over. If something is missing before
        this piece, nothing of it is kept. Raises NotFound, NotNow, LeaseLost.
        """
        place = f"{_of(task, 'log')}?offset={offset}&epoch={epoch}"
        response = await self._send("PUT", place, data)
        if response.status_code == httpx2.codes.CONFLICT:
            return _problem(response).acknowledged_offset or 0
        return self._read(_LOG_ACK, response).offset

    async def status(self, task: str, request: StatusRequest) -> Progress:
        """Report the result of the work. Raises NotFound, NotNow, LeaseLost."""
        return self._read(_PROGRESS, await self._send("POST", _of(task, "status"), request))

    async def tasks(self, *, phase: str | None = None, limit: int = 100) -> Sequence[TaskBody]:
        """Return tasks as they stand, those of one phase if one is named."""
        query = f"?limit={limit}" + (f"&phase={quote(phase, safe='')}" if phase else "")
        return self._read(_TASKS, await self._send("GET", f"/tasks{query}"))

    async def task(self, name: str) -> TaskBody:
        """Return a task as it stands. Raises NotFound."""
        return self._read(_TASK, await self._send("GET", _of(name)))

    async def propose(self, request: ProposalRequest) -> Proposal:
        """Propose a task; return the branch on which it waits for a person. Raises NotNow."""
        return self._read(_PROPOSAL, await self._send("POST", "/proposals", request))

    # --- Sending -----------------------------------------------------------

    def _authorization(self) -> Mapping[str, str]:
        """Return the header with the current token: a token file may have changed."""
        token = self._token() if callable(self._token) else self._token
        return _authorization(token) if token is not None else {}

    async def _send(self, method: str, place: str, body: Frozen | bytes = b"") -> httpx2.Response:
        """Send a request, with retries; return the successful answer. Raises the error of any other."""
        tried = 1
        while isinstance(answer := await self._attempt(method, place, body), _RetryableFailure):
            if tried == self._tries:
                raise Unavailable(f"{self.url} {answer.reason}; tried {tried} times, try again later")
            if tried == 1:
                log.warning("%s %s; trying again", self.url, answer.reason)
            await self._pause(self._backoff(tried) if answer.wait is None else answer.wait)
            tried += 1
        return answer

    async def _attempt(
        self, method: str, place: str, body: Frozen | bytes
    ) -> "httpx2.Response | _RetryableFailure":
        """Send a request once; return the failure if it is worth a retry."""
        content = body if isinstance(body, bytes) else body.model_dump_json().encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        headers = {**self._authorization(), "Content-Type": kind}
        try:
            async with self._http.open() as http:
                response = await http.request(method, place, content=content, headers=headers)
        except httpx2.RequestError as error:
            return _RetryableFailure(one_line(f"cannot be reached: {error or type(error).__name__}", 200))
        if response.is_success or _is_gap(response):
            return response
        if response.status_code in _AGAIN:
            reason = one_line(f"answered {response.status_code}: {_problem(response).detail}", 200)
            return _RetryableFailure(reason, _asked_wait(response))
        raise self._refusal(response)

    def _backoff(self, tried: int) -> float:
        """Return how many seconds to wait after the given number of tries."""
        longest = min(BACKOFF * 2.0 ** min(tried - 1, 10), BACKOFF_CAP)
        return longest * (1 + self._jitter()) / 2

    def _refusal(self, response: httpx2.Response) -> ReconcilerError:
        """Return the error for an answer that a retry would not change."""
        problem = _problem(response)
        kind = _ERRORS.get(response.status_code, UsageError)
        if not problem.detail:
            return kind(f"{self.url} answered {response.status_code}; is it a reconciler?")
        wrong = "".join(f"; {error.field}: {error.message}" for error in problem.errors)
        return kind(one_line(f"{problem.detail}{wrong}", 1000))

    def _read(self, kind: TypeAdapter[Body], response: httpx2.Response) -> Body:
        """Parse an answer; unknown fields, as of a newer server, are ignored."""
        try:
            return kind.validate_json(response.content, extra="ignore")
        except ValidationError:
            raise UsageError(
                f"{self.url} gave an answer that cannot be read: is it a reconciler, and of this version?"
            ) from None


class _RetryableFailure(NamedTuple):
    """Why a request was not answered, or not now."""

    reason: str
    wait: float | None = None
    """Seconds, if the server says how long."""


def _asked_wait(response: httpx2.Response) -> float | None:
    header = response.headers.get("Retry-After", "")
    return min(float(header), LONGEST_PAUSE) if header.isdecimal() else None


def _problem(response: httpx2.Response) -> ProblemDetails:
    """Return the problem details of an answer; also of one from a proxy, in whatever format."""
    try:
        return ProblemDetails.model_validate_json(response.content, extra="ignore")
    except ValidationError:
        return ProblemDetails(title=response.reason_phrase, status=response.status_code, detail="")


def _is_gap(response: httpx2.Response) -> bool:
    is_conflict = response.status_code == httpx2.codes.CONFLICT
    return is_conflict and _problem(response).acknowledged_offset is not None


def _authorization(token: str) -> Mapping[str, str]:
    if not _TOKEN.match(token):
        raise UsageError("the token is empty, or not the one line of signs that `token new` printed")
    return {"Authorization": f"Bearer {token}"}


def _base(url: str) -> httpx2.URL:
    try:
        base = httpx2.URL(url)
    except httpx2.InvalidURL:
        base = httpx2.URL("")
    if base.scheme not in {"http", "https"} or not base.host or base.userinfo or base.query:
        raise UsageError(
            f"{one_line(url, 100)!r} is no address of a reconciler, such as http://127.0.0.1:8420"
        )
    return base.copy_with(path=f"{base.path.rstrip('/')}/api/v1")


def _of(task: str, verb: str = "") -> str:
    """Return the path of a task. Raises UsageError for a malformed name."""
    try:
        check_name(task)
    except ValueError as error:
        raise NotFound(str(error)) from None
    return f"/tasks/{task}/{verb}" if verb else f"/tasks/{task}"
