"""
HTTP server: a Sanic app inside our own event loop.

Sanic's own runner owns the loop and the signals, and since Python 3.12 waits
for idle connections when it stops. So the server is started and stopped here,
and its protocol is given the limits that it lacks: of time for the header and
the body, and of connections.
"""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from typing import Any

from sanic import Sanic
from sanic.application.state import ApplicationServerInfo
from sanic.exceptions import BadRequest, RequestTimeout, ServiceUnavailable
from sanic.http import Http, Stage
from sanic.http.constants import HTTP
from sanic.request import Request
from sanic.server.protocols.http_protocol import HttpProtocol

from reconciler.api.listen import Listen
from reconciler.core.errors import UsageError

logging.getLogger("sanic.root").setLevel(logging.WARNING)  # it logs every client that disconnects

HEADER_SECONDS = 10.0
"""Longest time for the header of a request; Sanic's own limit begins anew with every byte."""
BODY_SECONDS = 60.0
"""Longest time for its body after that."""
SILENCE_SECONDS = 60.0
"""Longest time without a byte of the answer; more than a long poll and the ping interval of a stream."""
IDLE_SECONDS = 75
"""How long a connection without a request is kept."""
MOST_CONNECTIONS = 2000
DROP_SECONDS, DROP_LIMIT = 5.0, 16 * 1024 * 1024
"""
How long, and how much, of a body is still read after its answer was sent:
a client that is cut off while sending never reads the answer.
"""
LINGER_SECONDS, LINGER_LIMIT = 2.0, 4 * 1024 * 1024
"""
Lingering close: how long, and how many bytes, are still taken and dropped after
the last answer. A connection closed with bytes unread is reset, and the answer
that is on its way is lost with it.
"""
BODY_LIMIT = 1024 * 1024
"""Most bytes of a body, but for logs and webhooks."""
STOP_SECONDS = 0.5
"""How long requests may go on when the server stops: with the loop's own end, under two seconds in all."""
_BACKLOG = 1024


def bare_app() -> Sanic[Any, Any]:
    """Return an app without routes; a process may have several."""
    app: Sanic[Any, Any] = Sanic("reconciler", configure_logging=False, env_prefix="")
    Sanic.unregister_app(app)  # names are global there, and only Sanic's own runner needs them
    app.config.update(
        ACCESS_LOG=False,
        AUTO_EXTEND=False,
        KEEP_ALIVE_TIMEOUT=IDLE_SECONDS,
        REQUEST_MAX_SIZE=BODY_LIMIT,
        REQUEST_TIMEOUT=HEADER_SECONDS,
        RESPONSE_TIMEOUT=SILENCE_SECONDS,
    )
    return app


@asynccontextmanager
async def serve_app(
    app: Sanic[Any, Any], listen: Listen, *, most: int = MOST_CONNECTIONS
) -> AsyncIterator[str]:
    """
    Serve the app; yield its address, such as `http://127.0.0.1:8420`.

    At the end no connection is accepted any more, the app's listeners
    `before_server_stop` end what would last long, and what still hangs after
    STOP_SECONDS is cut off. Raises UsageError if the address cannot be had.
    """
    app.config.MOST_CONNECTIONS = most
    app.config.PROXIES_COUNT = 1 if listen.behind_proxy else None
    # Sanic patches its classes at the first start; it cannot do so twice.
    app.config.TOUCHUP = not getattr(Http, "__touched__", False)
    # Where it does not know what is spoken, it sends an empty Alt-Svc header with every answer.
    app.state.server_info[:] = [ApplicationServerInfo({"version": HTTP.VERSION_1})]
    handshake = {"ssl_handshake_timeout": HEADER_SECONDS} if listen.tls else {}
    with _bound(listen) as bound:
        server: Any = await app.create_server(
            sock=bound,
            ssl=listen.tls,
            protocol=Guarded,
            backlog=_BACKLOG,
            access_log=False,
            asyncio_server_kwargs={"start_serving": False, **handshake},
        )
        await server.startup()
        await server.before_start()
        await server.start_serving()
        await server.after_start()
        try:
            yield listen.url(bound.getsockname()[1])
        finally:
            server.server.close()  # and never wait_closed(): it waits for every connection
            await server.before_stop()
            await _drain(server.connections)
            await server.after_stop()


def _bound(listen: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    try:
        return socket.create_server((listen.host, listen.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {listen.host}:{listen.port}: {error.strerror or error}; "
            "see what else listens there, or choose another address with --listen"
        ) from error


async def _drain(connections: Collection["Guarded"]) -> None:
    """Wait a while for running requests, then cut them off."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + STOP_SECONDS
    while connections and loop.time() < deadline:
        for connection in tuple(connections):
            connection.close_if_idle()
        await asyncio.sleep(0.01)
    rest = tuple(connections)
    tasks = [task for connection in rest if (task := connection.give_up())]
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_SECONDS / 4)
    for connection in rest:
        connection.abort()  # type: ignore[no-untyped-call] # Sanic's


_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SLOPPY = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n"  # a line feed alone ends a field for some proxies
    rb"|^(?i:content-length|transfer-encoding):.*[\x80-\xff]",  # blanks and digits, for Python
    re.MULTILINE,
)
"""What no header may have."""
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
_CHUNK = re.compile(rb"\r\n[0-9A-Fa-f]{1,16}[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
"""The line between chunks, with the end of the one before it; an extension says nothing to us."""
_MOST_OF_CHUNK_LINE = 256
_DIGITS = {10: re.compile(r"[0-9]+"), 16: re.compile(r"[0-9A-Fa-f]+")}
_LINE_END = b"\r\n"


class _Http(Http):
    """Requests whose header and body arrive in time, and whose header is as strict as RFC 9112."""

    __slots__ = ("_body_deadline",)

    async def http1_request_header(self) -> None:
        loop = asyncio.get_running_loop()
        self._body_deadline = loop.time() + HEADER_SECONDS + BODY_SECONDS
        try:
            async with asyncio.timeout(HEADER_SECONDS):
                await super().http1_request_header()  # type: ignore[no-untyped-call] # Sanic's
        except TimeoutError:
            raise RequestTimeout("the header took too long") from None
        self._require_strict(self.request)

    @staticmethod
    def _require_strict(request: Request) -> None:
        """Raise BadRequest for a header that a proxy might read differently (request smuggling)."""
        if not all(_FIELD_NAME.fullmatch(name) for name in request.headers):
            raise BadRequest("a field name of the header has blanks in it")  # `Name : x` is ambiguous
        if _SLOPPY.search(request.head) or not _METHOD.fullmatch(request.method):
            raise BadRequest("the header has invalid characters")
        hosts = request.headers.getall("host", [])
        if len(hosts) > 1 or (not hosts and request.version == "1.1"):
            raise BadRequest("the header has to name one Host, once")
        if not all(_HOST.fullmatch(host.strip(" \t")) for host in hosts):
            raise BadRequest("the Host header is invalid")
        if request.version == "1.0" and "transfer-encoding" in request.headers:
            raise BadRequest("chunks came with HTTP/1.1")

    def create_empty_request(self) -> None:
        """Make an empty request, to answer one that could not be parsed."""
        try:
            super().create_empty_request()
        except BadRequest:
            self.url = "/"
            super().create_empty_request()

    @staticmethod
    def _safe_int(value: str, base: int = 10) -> int:
        """Return the length of a body or a chunk; `0x5`, ` 5` and digits of other scripts are none."""
        if not _DIGITS[base].fullmatch(value.rstrip(" \t")):
            raise ValueError
        return int(value, base)

    async def read(self) -> bytes | None:
        framing: object = self.request_body  # Sanic's type hint is incomplete
        if framing is True and len(self.recv_buffer) >= (self.request_bytes_left or 0):
            return await super().read()  # all of it is here: no time to keep
        is_answered = self.stage is Stage.IDLE
        if is_answered:
            self.request_max_size = DROP_LIMIT
            soon = asyncio.get_running_loop().time() + DROP_SECONDS
            self._body_deadline = min(self._body_deadline, soon)
        try:
            async with asyncio.timeout_at(self._body_deadline):
                await self._chunk_line()
                return await super().read()
        except TimeoutError:
            # After the answer, Sanic expects of all errors this one.
            kind = BadRequest if is_answered else RequestTimeout
            raise kind("the body took too long") from None

    async def _chunk_line(self) -> None:
        """Check that a chunk ends where it says, and that the next chunk line is unambiguous."""
        framing: object = self.request_body  # Sanic's type hint is incomplete
        if framing != "chunked" or self.request_bytes_left:
            return
        buffer = self.recv_buffer
        while (end := buffer.find(b"\n", len(_LINE_END))) < 0 and len(buffer) < _MOST_OF_CHUNK_LINE:
            if not buffer.startswith(_LINE_END[: len(buffer)]):
                break
            await self._receive_more()
        if not 0 <= end < _MOST_OF_CHUNK_LINE or not _CHUNK.fullmatch(buffer[: end + 1]):
            self.keep_alive = False
            raise BadRequest("a chunk is longer than it says, or the line before it is none")


class Guarded(HttpProtocol):
    """A connection with a limit on their number; closes so that the last answer arrives."""

    HTTP_CLASS = _Http
    __slots__ = ("_dropped", "_lingering", "is_refused")

    def connection_made(self, transport: Any) -> None:
        """Accept the connection, or refuse it with an answer."""
        self._lingering: asyncio.TimerHandle | None = None
        self._dropped = 0
        self.is_refused = len(self.connections) >= self.app.config.MOST_CONNECTIONS
        if self.is_refused:
            self.transport = transport
            transport.write(
                b"HTTP/1.1 503 Service Unavailable\r\n"
                b"Retry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            self.close()
        else:
            super().connection_made(transport)  # type: ignore[no-untyped-call] # Sanic's

    def data_received(self, data: bytes) -> None:
        """Handle received data; data after the last answer is dropped."""
        if self._lingering is None and not self.is_refused:
            super().data_received(data)
            return
        self._dropped += len(data)
        if self._dropped > LINGER_LIMIT:
            self._end()

    def close(self, timeout: float | None = None) -> None:
        """Lingering close: half-close, and drain the other side for a while."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self._lingering is not None or not transport.can_write_eof():  # TLS has its own close_notify
            self._end(timeout)
            return
        checks: Any = self._callback_check_timeouts
        if checks:
            checks.cancel()
        self._lingering = self.loop.call_later(LINGER_SECONDS, self._end)
        with suppress(RuntimeError, OSError):  # it ends this moment
            transport.write_eof()
            transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection."""
        if self._lingering is not None:
            self._lingering.cancel()
        if not self.is_refused:
            super().connection_lost(exc)  # type: ignore[no-untyped-call] # Sanic's

    def _end(self, timeout: float | None = None) -> None:
        if not self.is_refused:
            super().close(timeout)
        elif self.transport is not None:
            self.transport.close()

    def give_up(self) -> asyncio.Task[None] | None:
        """End the request that is being answered; return the task that does it."""
        task: asyncio.Task[None] | None = self._task
        with suppress(AttributeError):  # it may be over by now
            self._http.exception = ServiceUnavailable("the reconciler is stopping")
        if task is not None:
            task.cancel()
        return task


class Closing:
    """Ends long waits when the server stops."""

    def __init__(self) -> None:
        self.is_set = False
        self._waits: set[asyncio.Timeout] = set()

    def set(self) -> None:
        """End all waits, also later ones."""
        self.is_set = True
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            with suppress(RuntimeError):  # it ends this moment
                wait.reschedule(now)

    @asynccontextmanager
    async def limit(self, seconds: float | None = None) -> AsyncIterator[None]:
        """Raise TimeoutError in the body after that time, or when the server stops."""
        async with asyncio.timeout(0 if self.is_set else seconds) as wait:
            self._waits.add(wait)
            try:
                yield
            finally:
                self._waits.discard(wait)
