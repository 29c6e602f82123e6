"""
The pages of an app: routes, headers, errors, logins, and the stream that says that something changed.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from sanic import Sanic
from sanic.exceptions import NotFound as SanicNotFound
from sanic.exceptions import SanicException
from sanic.request import Request
from sanic.response import HTTPResponse

from reconciler.api.auth import ANONYMOUS
from reconciler.api.operation import read_body
from reconciler.api.pages.access import LIFETIME, LoginNeeded, Misdirected, PageAccess, local_path
from reconciler.api.pages.fleet import Fleet
from reconciler.api.pages.rendering import FILES, RenderCache, Rendered, View, rendered, templates
from reconciler.api.problems import TooMany, Unauthenticated, problem_body
from reconciler.api.server import Closing
from reconciler.api.stream import EVENT_STREAM_TYPE, PING_SECONDS, RETRY_MILLISECONDS
from reconciler.api.tokens import Caller
from reconciler.core.errors import NotFound, ReconcilerError, Unavailable
from reconciler.core.names import check_task_name

log = logging.getLogger(__name__)

HTML = "text/html; charset=utf-8"
FORM_LIMIT = 256 * 1024
"""Most bytes of a form."""
MOST_VIEWERS = 1000
"""Open streams of pages: each holds a connection."""
LOOKS = ("GET", "HEAD")
AT_ONCE = 8
"""Pages that are made at once: some ask git, and whoever asks for many different ones must not starve it."""
PAUSE = 1.0
"""Seconds between two signs of change to one page."""

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
"""What every answer has: nothing that is not ours is run, framed or asked for."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A request for a page, let in."""

    fleet: Fleet
    caller: Caller
    path: str
    """With its query."""
    name: str = ""
    """What the path names."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Of parameters that are given twice, the last; those that are empty are left out."""
    form: Mapping[str, str] = field(default_factory=dict)
    """Of an action."""
    version: str = ""
    """What was on record when it came: a page shows that, or what came since."""

    @property
    def is_admin(self) -> bool:
        """Whether who looks may act."""
        return self.caller.may("admin")

    def url(self, **changes: object) -> str:
        """Return the address of this page with other parameters; None takes one out."""
        path = self.path.partition("?")[0]
        query = {key: value for key, value in {**self.query, **changes}.items() if value not in {None, ""}}
        return f"{path}?{urlencode(query)}" if query else path

    def number(self, name: str, *, least: int = 0, otherwise: int = 0) -> int:
        """Return a parameter that is a number; what is none, or too small, is `otherwise`."""
        text = self.query.get(name, "")
        number = int(text) if text.isdecimal() and len(text) <= 15 else otherwise  # noqa: PLR2004 - plenty
        return number if number >= least else otherwise


class ListPage(NamedTuple):
    """A part of a list that is too long for one page."""

    rows: Sequence[Any]
    number: int
    """1 is the first."""
    last: int
    """Number of the last."""
    first: int
    """Place of its first row in the list, from 0."""
    total: int


def list_page(visit: Visit, rows: Sequence[Any], size: int) -> ListPage:
    """Return the part of a list that the address names; of a number that is too high, the last."""
    last = max(1, -(-len(rows) // size))
    number = min(visit.number("page", least=1, otherwise=1), last)
    first = (number - 1) * size
    return ListPage(rows[first : first + size], number, last, first, len(rows))


def name_argument(name: str) -> str:
    """Return a name of a task or a host. Raises NotFound for what cannot be one."""
    try:
        return check_task_name(name)
    except ValueError as error:
        raise NotFound(str(error)) from None


Show = Callable[[Visit], Awaitable[View]]
Act = Callable[[Visit], Awaitable[str | View]]
"""Do what a form asks for; return where to go then, or what to show in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageDefinition:
    """One page."""

    path: str
    """As Sanic writes it, such as `/tasks/<name:path>`."""
    name: str
    show: Show
    tab: str = ""
    """Which entry of the navigation it belongs to."""
    check: Callable[[str], str] = name_argument
    """Return what the path names. Raises NotFound."""


Events = Callable[[Visit, str], AsyncGenerator[str, None]]
"""Yield server-sent events after the one with an id; an empty text where there is none for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageStream:
    """Events that a page listens to."""

    path: str
    name: str
    events: Events


@dataclass(frozen=True, slots=True, kw_only=True)
class PageAction:
    """What a form does: it needs scope `admin`."""

    path: str
    name: str
    act: Act
    tab: str = ""


class Pages:
    """Everything that browsers are served."""

    def __init__(
        self,
        fleet: Fleet,
        access: PageAccess,
        closing: Closing,
        *,
        tabs: Sequence[tuple[str, str]],
        pages: Sequence[PageDefinition],
        streams: Sequence[PageStream] = (),
        actions: Sequence[PageAction] = (),
    ) -> None:
        self._fleet = fleet
        self._access = access
        self._closing = closing
        self._pages = pages
        self._streams = streams
        self._actions = actions
        self._tabs = tabs
        self._cache = RenderCache(time.monotonic)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._viewers = 0
        """Open streams."""

    @property
    def paths(self) -> frozenset[str]:
        """What is served here and is no operation of the API."""
        own = ("/static/<name:path>", "/live", "/login", "/logout")
        return frozenset(
            [
                *own,
                *(page.path for page in self._pages),
                *(stream.path for stream in self._streams),
                *(action.path for action in self._actions),
            ]
        )

    def add_to(self, app: Sanic[Any, Any]) -> None:
        """Let the app serve them."""
        for page in self._pages:
            app.add_route(
                self._guarded(self._shown(page)), page.path, methods=LOOKS, name=f"page_{page.name}"
            )
        for stream in self._streams:
            app.add_route(self._guarded(self._streamed(stream)), stream.path, name=f"stream_{stream.name}")
        for action in self._actions:
            app.add_route(
                self._guarded(self._acted(action)),
                action.path,
                methods=["POST"],
                name=f"act_{action.name}",
                stream=True,
            )
        app.add_route(self._guarded(self._static), "/static/<name:path>", name="static_file")
        app.add_route(self._guarded(self._live), "/live", name="live")
        app.add_route(self._guarded(self._login_form), "/login", name="login_form")
        app.add_route(self._guarded(self._log_in), "/login", methods=["POST"], name="log_in", stream=True)
        app.add_route(self._guarded(self._log_out), "/logout", methods=["POST"], name="log_out", stream=True)

    # --- Pages -------------------------------------------------------------

    def _shown(self, page: PageDefinition) -> "_Handler":
        async def show(request: Request, name: str) -> HTTPResponse:
            caller = self._access.admit(request)
            visit = self._visit(request, caller, page.check(unquote(name)) if name else "")
            self._require_read()
            is_part = "hx-request" in request.headers
            # Of a part nobody's name is shown, so that it is the same for all who may do the same.
            whose = visit.is_admin if is_part else (visit.is_admin, caller.agent)

            async def make() -> Rendered:
                async with self._turns:
                    return self._render(await page.show(visit), visit, page.tab, is_part=is_part)

            key = (page.name, visit.path, is_part, whose)
            rendering = await self._cache.get(key, visit.version, make)
            return _answer(request, rendering)

        return show

    def _require_read(self) -> None:
        """Raise Unavailable as long as specs and record were not read: what is shown then is of no fleet."""
        if not self._fleet.view.desired.revision:
            raise Unavailable(
                "it has just been started and reads the specs and the record; this takes a moment"
            )

    def _visit(self, request: Request, caller: Caller, name: str, body: bytes = b"") -> Visit:
        return Visit(
            self._fleet,
            caller,
            _address(request),
            name,
            _pairs(request.query_string),
            _pairs(body.decode("utf-8", "replace")),
            self._fleet.version(),
        )

    def _render(self, view: View, visit: Visit, tab: str, *, is_part: bool) -> Rendered:
        template = templates().get_template(view.template)
        text = template.render(
            layout="part.html" if is_part else "page.html",
            title=view.title,
            tab=tab,
            tabs=self._tabs,
            visit=visit,
            fleet=self._fleet.services.fleet,
            count_of_needs=self._fleet.snapshot().count_of_needs,
            now=self._fleet.clock(),
            committed=_commit(visit.query.get("committed", "")),
            **view.values,
        )
        return rendered(view.status, text)

    # --- Actions -----------------------------------------------------------

    def _acted(self, action: PageAction) -> "_Handler":
        async def act(request: Request, name: str) -> HTTPResponse:
            caller = self._access.admit_action(request)
            named = name_argument(unquote(name)) if name else ""
            visit = self._visit(request, caller, named, await read_body(request, FORM_LIMIT))
            result = await action.act(visit)
            if isinstance(result, str):
                return _redirect(result)
            return _answer(request, self._render(result, visit, action.tab, is_part=False))

        return act

    # --- Logins ------------------------------------------------------------

    async def _login_form(self, request: Request, _: str) -> HTTPResponse:
        visit = self._visit(request, self._access.admit(request, is_public=True), "")
        return _answer(request, self._login_page(visit, ""))

    def _login_page(self, visit: Visit, mistake: str) -> Rendered:
        values = {"mistake": mistake, "next": local_path(visit.query.get("next", "/"))}
        view = View("login.html", "Log in", values, 200 if not mistake else 401)
        return self._render(view, visit, "", is_part=False)

    async def _log_in(self, request: Request, _: str) -> HTTPResponse:
        self._access.admit(request, is_public=True)
        form = _pairs((await read_body(request, FORM_LIMIT)).decode("utf-8", "replace"))
        there = local_path(form.get("next", "/"))
        try:
            cookie = self._access.log_in(request, form.get("token", ""))
        except Unauthenticated as error:
            visit = Visit(self._fleet, ANONYMOUS, "/login", query={"next": there})
            return _answer(request, self._login_page(visit, str(error)))
        answer = _redirect(there)
        answer.headers.add("Set-Cookie", self._cookie(cookie, int(LIFETIME.total_seconds())))
        return answer

    async def _log_out(self, request: Request, _: str) -> HTTPResponse:
        self._access.admit(request, is_public=True)
        self._access.require_own_page(request)
        await read_body(request, FORM_LIMIT)
        answer = _redirect("/")
        answer.headers.add("Set-Cookie", self._cookie("", 0))
        return answer

    def _cookie(self, value: str, seconds: int) -> str:
        exposure = self._access.exposure
        secure = "; Secure" if exposure.is_secure else ""
        return f"{exposure.cookie}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"

    # --- Files and the stream ----------------------------------------------

    async def _static(self, request: Request, name: str) -> HTTPResponse:
        self._access.admit(request, is_public=True)
        file = FILES.get(unquote(name))
        headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
        return HTTPResponse(file.content, 200, headers, file.media_type)

    async def _live(self, request: Request, _: str) -> None:
        """Say `changed` when something went on record, at most once a second, and nothing but that."""
        visit = self._visit(request, self._access.admit(request), "")
        last = request.headers.get("last-event-id") or visit.query.get("from", "")
        await self._send(request, visit.caller, self._changes(last))

    async def _changes(self, last: str) -> AsyncGenerator[str, None]:
        version = self._fleet.version()
        yield f"id: {version}\nevent: hello\ndata: {version}\n\n"
        if last and last != version:
            yield _changed(version)
        while True:
            if (now := self._fleet.version()) != version:
                version = now
                yield _changed(version)
            yield ""

    def _streamed(self, stream: PageStream) -> "_Handler":
        async def send(request: Request, name: str) -> None:
            self._require_read()
            visit = self._visit(request, self._access.admit(request), name_argument(unquote(name)))
            await self._send(
                request, visit.caller, stream.events(visit, request.headers.get("last-event-id", ""))
            )

        return send

    async def _send(self, request: Request, caller: Caller, events: AsyncGenerator[str, None]) -> None:
        """Send events until there are no more, the server stops, or who listens may not any more."""
        if self._viewers >= MOST_VIEWERS:
            raise TooMany("too many pages are open; this one does not follow by itself", PING_SECONDS)
        self._viewers += 1
        try:
            headers = {**HEADERS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            response = await request.respond(content_type=EVENT_STREAM_TYPE, headers=headers)
            async with aclosing(events):
                with suppress(ReconcilerError):  # the answer has begun: who listens comes back and hears why
                    await self._send_each(response, caller, events)
        finally:
            self._viewers -= 1

    async def _send_each(self, response: Any, caller: Caller, events: AsyncIterator[str]) -> None:
        silent = 0.0
        await response.send(f"retry: {RETRY_MILLISECONDS}\n\n")  # the header goes with it
        async for event in events:
            silent = 0.0 if event else silent + PAUSE
            if event or silent >= PING_SECONDS:
                await response.send(event or ": still here\n\n")
                silent = 0.0
            if self._closing.is_set or not self._access.is_still_good(caller):
                return
            if not event:
                await self._pause()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with self._closing.limit(PAUSE):
                await asyncio.Event().wait()

    # --- Errors ------------------------------------------------------------

    def _guarded(self, handle: "_Handler") -> Callable[..., Coroutine[Any, Any, HTTPResponse | None]]:
        async def guarded(request: Request, name: str = "") -> HTTPResponse | None:
            try:
                return await handle(request, name)
            except LoginNeeded as error:
                if request.method == "GET" and "hx-request" not in request.headers:
                    return _redirect(f"/login?{urlencode({'next': _address(request)})}")
                return self._error(request, error)
            except ReconcilerError as error:
                return self._error(request, error)
            except SanicException:
                raise
            except Exception as error:
                log.exception("the page %s ended in an error that nobody foresaw", request.path)
                return self._error(request, error)

        return guarded

    def not_found(self, request: Request, error: Exception) -> HTTPResponse | None:
        """Return a page for a browser that asked for what is not there; None for any other client."""
        is_page = isinstance(error, SanicNotFound) and not request.path.startswith(("/api/", "/hooks/"))
        if not is_page or "text/html" not in request.headers.get("accept", ""):
            return None
        return self._error(request, NotFound(f"nothing is at {request.path[:200]}"))

    def _error(self, request: Request, error: Exception) -> HTTPResponse:
        """Return a page that says what went wrong, and what to do."""
        body = problem_body(error)
        status = 421 if isinstance(error, Misdirected) else body.status
        is_passing = isinstance(error, Unavailable) and request.method in LOOKS
        values = {
            "status": status,
            "heading": body.title,
            "message": body.detail,
            "live": "changed from:body, every 3s" if is_passing else None,
        }
        visit = Visit(self._fleet, ANONYMOUS, _address(request))
        view = View("error.html", body.title, values, status)
        is_part = "hx-request" in request.headers
        page = self._render(view, visit, "", is_part=is_part)
        return HTTPResponse(page.content, status, {**HEADERS, "Cache-Control": "no-store"}, HTML)


_Handler = Callable[[Request, str], Awaitable[HTTPResponse | None]]


def _address(request: Request) -> str:
    return f"{request.path}?{request.query_string}" if request.query_string else request.path


def _commit(text: str) -> str:
    """Return the id of a commit that an action has made; empty for any other text."""
    return text if re.fullmatch(r"[0-9a-f]{40,64}", text) else ""


def _changed(version: str) -> str:
    return f"event: changed\nid: {version}\ndata: {version}\n\n"


def _pairs(text: str) -> dict[str, str]:
    pairs = parse_qsl(text, keep_blank_values=False, encoding="utf-8", errors="replace", max_num_fields=200)
    values = ((key, value.replace("\0", "").strip()) for key, value in pairs)
    return {key: value for key, value in values if value}


def _answer(request: Request, page: Rendered) -> HTTPResponse:
    headers = {**HEADERS, "Cache-Control": "private, no-cache", "ETag": page.etag}
    headers["Vary"] = "Accept-Encoding, Authorization, Cookie, HX-Request"
    if page.status == 200 and page.etag in request.headers.get("if-none-match", ""):  # noqa: PLR2004 - OK
        return HTTPResponse(status=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return HTTPResponse(page.packed, page.status, headers, HTML)
    return HTTPResponse(page.content, page.status, headers, HTML)


def _redirect(path: str) -> HTTPResponse:
    headers = {**HEADERS, "Cache-Control": "no-store", "Location": quote(path, safe="/?&=%#+,:;@!~*'()")}
    return HTTPResponse(status=303, headers=headers)
