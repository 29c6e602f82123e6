"""
Forge client: HTTP to one repository with one account, answers as values.

What may be repeated is repeated a few times; a POST never is: whoever posts
looks first whether it is there already. The token stands in a header and in
nothing else: no error and no log has it.
"""

import asyncio
import json
import logging
import os
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from reconciler.core.errors import Unavailable, UsageError
from reconciler.core.model.specs import Forge
from reconciler.core.text import one_line
from reconciler.forge.conditional import AnswerCache
from reconciler.forge.dialect import FORGEJO, Dialect
from reconciler.forge.forge_clock import ForgeClock
from reconciler.forge.operations import ForgeReply, ForgeRequest
from reconciler.forge.tokens import TokenSource
from reconciler.tls import Authorities, RenewedClient

if TYPE_CHECKING:  # it is heavy, and most fleets begin without a forge
    import httpx2

T = TypeVar("T", bound=BaseModel)

GONE_CODES = frozenset({404, 410})
PAGE = 50
"""Items in a page: what Forgejo gives at most."""
_MOST_PAGES = 200
_WAITS = (0.5, 2.0)
"""Seconds before the second and the third try."""
_LONGEST_WAIT = 10.0
"""Seconds; a forge that asks for a longer wait counts as unavailable."""
_LONGEST_REST = 3600.0
_CONNECT_TIMEOUT = 5.0
_READ_TIMEOUT = 20.0
_TIMEOUT = 60.0
"""Seconds for one whole exchange."""
_MOST_BYTES = 16 * 2**20
_SMALLER_PAGES = (5, 1)
"""Items in a page in place of one that was too large; each size divides the one before."""
_COUNT = re.compile(r"[0-9]{1,15}")
_UNCHANGED = 304
_PASSING = frozenset({429, 502, 503, 504})
_DENIAL_REST = 30.0
"""Seconds for which what a token was refused is not tried again with the same token."""
_LOOKUP_REST = 5.0
"""Least seconds between two looks at where the token is, once it was refused: a command may print it."""


class Declined(Unavailable):
    """
    The forge rejected the request (404, 405, 409, 422 …).

    The caller may handle it as a result; uncaught, it counts as `Unavailable`,
    to be retried later.
    """

    def __init__(self, where: str, status: int, message: str) -> None:
        self.status = status
        self.message = message
        """What the forge says; empty if it says nothing."""
        hint = "; is it there, and may the account of the token see it?" if status == 404 else ""  # noqa: PLR2004 - not found
        super().__init__(f"{where}: {status} {message}".rstrip() + hint)


log = logging.getLogger(__name__)


class UnexpectedAnswer(Unavailable):
    """An answer of an unexpected shape: a retry will hardly change it."""


class TooLarge(UnexpectedAnswer):
    """An answer larger than is read: a part of it may be small enough."""


class Forbidden(Unavailable):
    """The token, or its account, lacks a right (403)."""


class Moved(Unavailable):
    """The forge says that what was asked for is elsewhere (3xx)."""


class TokenRefused(Unavailable):
    """The token is not good any more, or never was (401)."""


class RightMissing(Forbidden):
    """The token lacks a right that it would need for anything of the kind."""


@dataclass(frozen=True, slots=True)
class _Denial:
    """What a token was refused, so that it is not asked for again and again."""

    token: str
    error: TokenRefused | RightMissing
    until: float
    """Monotonic time from which on it is tried again."""


class Broken(Unavailable):
    """The forge failed at this very request (500): others may go well."""


ABOUT_ONE = (Declined, UnexpectedAnswer, Broken)
"""Errors about the one thing that was asked for, and not about the whole forge."""


class Outage(Unavailable):
    """An outage that may be over soon."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        self.after = after
        """Seconds that the forge asks to wait."""
        super().__init__(message)


@dataclass
class Rest:
    """How long a forge wants to be left in peace; shared by all that use the same token there."""

    until: float = 0.0
    """In seconds of the monotonic clock."""


@dataclass(slots=True)
class _Cursor:
    """Where a list is read on."""

    size: int
    """Items in a page."""
    number: int = 1
    """Of the next page."""
    seen: int = 0

    def advance(self, items: int) -> None:
        """Go on to the page after so many items."""
        self.seen += items
        self.number += 1

    def shrink(self) -> bool:
        """Go on in smaller pages; return whether there are any."""
        smaller = next((n for n in _SMALLER_PAGES if n < self.size and self.seen % n == 0), None)
        if smaller is None:
            return False
        self.size, self.number = smaller, self.seen // smaller + 1
        return True


class ForgeClient:
    """A repository on a forge, over HTTP; paths are relative to it, but for those that begin with `/`."""

    def __init__(
        self,
        forge: Forge,
        tokens: TokenSource,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        dialect: Dialect = FORGEJO,
        rest: Rest | None = None,
        *,
        clock: Callable[[], datetime] | None = None,
        forge_clock: ForgeClock | None = None,
    ) -> None:
        self.forge = forge
        self.is_read_only = False
        """Whether the forge said last that the account may not write to the repository."""
        self._dialect = dialect
        self._tokens = tokens
        self._token = ""
        """The last that was used; nobody learns it."""
        self.token_count = 0
        """How many tokens were used so far, one after another."""
        self._looked_up_at = 0.0
        """Monotonic time at which a token that was refused was looked up last."""
        self._denials: dict[str, _Denial] = {}
        """By the kind of request; `` for all of them."""
        self._forbidden: dict[str, str] = {}
        """What was forbidden the last time, by the kind of request: others of the kind may go well."""
        self._pause = pause
        self._rest = rest or Rest()
        self._clock = clock
        self.forge_clock = forge_clock or ForgeClock()
        self._cache = AnswerCache[ForgeReply]()
        import httpx2  # noqa: PLC0415 - see above

        try:
            authorities = Authorities(forge.ca)
        except UsageError as error:
            raise Unavailable(f"{self._where}: {error}") from error
        # No proxies from the environment, and no redirects.
        self._http = RenewedClient(
            authorities,
            lambda trusted: httpx2.AsyncClient(
                timeout=httpx2.Timeout(_READ_TIMEOUT, connect=_CONNECT_TIMEOUT),
                trust_env=False,
                follow_redirects=False,
                verify=trusted,
                headers={"User-Agent": "reconciler", **dialect.headers},
            ),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._tokens.close()
        await self._http.close()

    async def get(self, path: str, shape: type[T], params: Mapping[str, str] | None = None) -> T:
        """Return one thing."""
        return self.read(shape, path, (await self._ask("GET", path, params)).value)

    async def find(self, path: str, shape: type[T]) -> T | None:
        """Return one thing; None if it was deleted, or moved to another repository as issues can be."""
        try:
            return await self.get(path, shape)
        except Declined as declined:
            if declined.status not in GONE_CODES:
                raise
        except Moved:
            await self.send("GET", f"/repos/{self.forge.repo}")  # raises if all of it has moved
        return None

    async def pages(
        self,
        path: str,
        shape: type[T],
        params: Mapping[str, str] | None = None,
        *,
        most: int = _MOST_PAGES,
        size: int = PAGE,
        strict: bool = False,
        is_counted: bool = True,
    ) -> AsyncIterator[T]:
        """
        Yield the items of a list, page after page, of `most` pages at most.

        An item that is not as expected, or too large, is left out with a warning: it
        costs itself and nothing else. With `strict` it raises UnexpectedAnswer, for
        lists in which nothing may be missing; `null` is no item there either.
        `is_counted=False` is for lists that do not tell how long they are: they
        are read to an empty page.
        """
        cursor, before = _Cursor(size), None
        for _ in range(most):
            reply = await self._page(path, params or {}, cursor, strict=strict)
            items = reply.value or []
            if not isinstance(items, list):
                raise self._unexpected(path, "a list was expected")
            if items == before:  # a forge that does not know pages gives the first one again
                return
            for item in filter(None, items):
                try:
                    entry = self.read(shape, path, item)
                except UnexpectedAnswer as error:
                    if strict:
                        raise
                    log.warning("%s; it is passed over", error)
                else:
                    yield entry
            before = items
            cursor.advance(len(items))
            if not items or not (
                _has_more(reply.headers, cursor.seen, is_full=len(items) >= cursor.size)
                or _is_untold(reply.headers, is_counted)
            ):
                return

    async def _page(
        self, path: str, params: Mapping[str, str], cursor: "_Cursor", *, strict: bool
    ) -> ForgeReply:
        """Return the next page of a list; one that is too large in smaller ones, without an item that is."""
        is_over = strict
        while True:
            page = page_of(cursor.number, cursor.size, self._dialect.size_parameter)
            try:
                return await self._ask("GET", path, {**params, **page})
            except TooLarge as error:
                if cursor.shrink():
                    continue
                if is_over:  # a second one: it is the list that is so, however little is asked for
                    raise
                log.warning("%s; it is passed over", error)
                is_over = True
                cursor.advance(1)

    async def write(self, method: str, path: str, shape: type[T], body: Mapping[str, Any]) -> T:
        """Create or change something; before a POST, and after a failed one, check whether it exists."""
        return self.read(shape, path, (await self._ask(method, path, body=body)).value)

    async def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> None:
        """Do the same as `write` without reading the answer."""
        await self._ask(method, path, body=body)

    async def account(self) -> str | None:
        """Return the account of the token, where that is known without asking by it."""
        return await self._tokens.account()

    async def pause(self, seconds: float) -> None:
        """Give the forge time."""
        await self._pause(seconds)

    # --- One question ------------------------------------------------------

    async def _ask(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> ForgeReply:
        """Do what the rooms ask for: as they say it, or as the dialect says it with requests of its own."""
        if self._dialect.operations is None:
            return await self.request(method, path, params, body)
        operation, names = self._dialect.operations.find(method, path)
        return await operation(ForgeRequest(client=self, names=names, params=params or {}, body=body or {}))

    async def request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> ForgeReply:
        """
        Make one request of this forge, as it is, and return the answer; for operations of its dialect.

        Raises Declined and the like for an answer that is no success.
        """
        waits = iter(() if method == "POST" else _WAITS)
        while True:
            try:
                return await self._once(method, path, params, body)
            except Outage as again:
                wait = next(waits, None)
                if again.after > _LONGEST_WAIT:
                    self._rest.until = time.monotonic() + min(again.after, _LONGEST_REST)
                if wait is None or again.after > _LONGEST_WAIT:
                    raise
                await self._pause(max(wait, again.after))

    async def _once(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Mapping[str, Any] | None
    ) -> ForgeReply:
        if (rest := self._rest.until - time.monotonic()) > 0:
            raise Unavailable(f"{self._where}: it asks to wait for {rest:.0f} s more")
        import httpx2  # noqa: PLC0415 - see above

        request = (path, *sorted((params or {}).items())) if method == "GET" else None
        kind = _kind_of(method, path)
        headers = await self._authorization(kind)
        if kept := self._cache.find(request):
            headers["If-None-Match"] = kept[0]
        sent = self._clock and self._clock()
        try:
            async with (
                asyncio.timeout(_TIMEOUT),
                self._http.open() as http,
                http.stream(method, self._url(path), params=params, json=body, headers=headers) as reply,
            ):
                self._note_time(reply, sent)
                raw = await self._body(f"{method} {path}", reply)
        except TimeoutError:
            raise Outage(f"{self._where}: no whole answer within {_TIMEOUT:g} s") from None
        except httpx2.TransportError as error:
            raise Outage(f"{self._where}: {self._harmless(str(error)) or type(error).__name__}") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Unavailable(f"{self._where}: {self._harmless(str(error))}") from None
        if kept and reply.status_code == _UNCHANGED:
            self._cache.keep(request, *kept)
            return kept[1]
        answer = self._judged(method, path, reply, raw)
        if request and (tag := reply.headers.get("etag", "")):
            self._cache.keep(request, tag, answer)
        return answer

    def _judged(self, method: str, path: str, reply: "httpx2.Response", raw: bytes) -> ForgeReply:
        """Return a successful answer; remember what the token is refused, and that it is so no more."""
        kind, status = _kind_of(method, path), self._dialect.status(method, path, reply.status_code)
        try:
            answer = self._checked(f"{method} {path}", status, reply.headers, raw)
        except (TokenRefused, RightMissing) as error:
            key = kind if isinstance(error, RightMissing) else ""
            self._denials[key] = _Denial(self._token, error, time.monotonic() + _DENIAL_REST)
            self._looked_up_at = 0.0  # it may have been exchanged: the next request looks at once
            raise
        except Forbidden as error:
            if method != "GET":  # what may not be read is a question that has its answer
                self._forbidden[kind] = str(error)
            raise
        for key in ("", kind):
            self._denials.pop(key, None)
        self._forbidden.pop(kind, None)
        return answer

    def _note_time(self, reply: "httpx2.Response", sent: datetime | None) -> None:
        if self._clock and sent:
            self.forge_clock.note(reply.headers, sent, self._clock())

    @property
    def denials(self) -> Sequence[str]:
        """What the token is refused, as far as it was tried; the reasons."""
        whole = [str(denial.error) for denial in self._denials.values()]
        if self.is_read_only:
            whole.append(f"{self._where}: the account of the token may only read: give it write access there")
        return [*whole, *(why for why in self._forbidden.values() if why not in whole)]

    def excuse(self, path: str) -> None:
        """Tell nobody that this may not be read: it is done without."""
        self._denials.pop(_kind_of("GET", path), None)

    async def _authorization(self, kind: str) -> dict[str, str]:
        """
        Return the header with the token.

        One that was refused is looked up anew: it may have been exchanged. The
        same one is not tried again at once; raises the error of the last time.
        """
        now, denial = time.monotonic(), self._denials.get("") or self._denials.get(kind)
        if denial and now >= self._looked_up_at + _LOOKUP_REST:
            self._tokens.drop()
            self._looked_up_at = now
        token = await self._tokens.get()
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            self._tokens.drop()
            message = f"empty or has characters that no token has; fix what {self._tokens.place} points to"
            raise Unavailable(f"{self._where}: the token is {message}")
        if token != self._token:
            self.token_count += 1
            self._denials = {key: each for key, each in self._denials.items() if each.token == token}
        self._token = token
        if denial and denial.token == token and now < denial.until:
            raise type(denial.error)(str(denial.error))
        return {"Authorization": f"{self._dialect.scheme} {token}"}

    async def _body(self, request: str, reply: "httpx2.Response") -> bytes:
        raw = bytearray()
        async for chunk in reply.aiter_bytes():
            raw += chunk
            if len(raw) > _MOST_BYTES:
                raise TooLarge(f"{self._where}: {request}: its answer is larger than {_MOST_BYTES} bytes")
        return bytes(raw)

    def _checked(self, request: str, status: int, headers: Mapping[str, str], raw: bytes) -> ForgeReply:
        """Return a successful answer; raise the error that fits any other."""
        where, message = f"{self._where}: {request}", self._harmless(_message(raw))
        if 200 <= status < 300:  # noqa: PLR2004 - success
            return ForgeReply(status, self._value(request, raw), headers)
        if (after := self._dialect.limit(status, headers, message)) is not None:
            raise Outage(f"{where}: {status} {message}; it asks to wait for {after:.0f} s", after)
        if status in _PASSING:
            raise Outage(f"{where}: {status} {message}", _seconds(headers.get("retry-after", "")))
        if status == 401:  # noqa: PLR2004 - unauthorized
            raise TokenRefused(
                f"{where}: the token is refused ({message}); renew what {self._tokens.place} points to"
            )
        if status == 403:  # noqa: PLR2004 - forbidden
            if right := self._harmless(self._dialect.missing_right(message, headers)):
                renew = f"a token that has it, where {self._tokens.place} points to, is taken up by itself"
                raise RightMissing(f"{where}: the token may not do this ({message}): {right}; {renew}")
            raise Forbidden(f"{where}: the token may not do this ({message}); {self._dialect.rights}")
        if 300 <= status < 400:  # noqa: PLR2004 - redirection
            raise Moved(f"{where}: it has moved ({status}); correct `forge.api` and `forge.repo`")
        if status >= 500:  # noqa: PLR2004 - errors of the server
            raise Broken(f"{where}: {status} {message or 'an error of the server, without a message'}")
        raise Declined(where, status, message)

    def _value(self, request: str, raw: bytes) -> Any:
        try:
            return json.loads(raw) if raw.strip() else None
        except (ValueError, RecursionError):
            raise self._unexpected(
                request, "it is not JSON; is `forge.api` the address of the API?"
            ) from None

    def read(self, shape: type[T], path: str, value: Any) -> T:
        """Return a value as that shape; raises UnexpectedAnswer."""
        try:
            return shape.model_validate(_without_nulls(value))
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, each["loc"])) for each in error.errors()[:3])
            raise self._unexpected(path, f"not as expected: {fields or 'the whole'}") from None

    def _unexpected(self, request: str, why: str) -> UnexpectedAnswer:
        return UnexpectedAnswer(f"{self._where}: {request}: unexpected answer, {why}")

    @property
    def _where(self) -> str:
        return f"forge {self.forge.repo} at {self.forge.api}"

    def _url(self, path: str) -> str:
        if "://" in path:
            return path
        root = self.forge.api.rstrip("/")
        if path.startswith("/"):
            return f"{root}{path}"
        return f"{root}/{self._dialect.place(self.forge.repo)}/{path}".rstrip("/")

    def _harmless(self, text: str) -> str:
        hidden = text.replace(self._token, "***") if self._token else text
        return one_line(hidden, 300)


async def post_once(
    url: str, headers: Mapping[str, str], body: bytes, ca: str | None = None
) -> tuple[int, str]:
    """
    Post to any address, without a token; return the status and what the answer says, in one line.

    Raises Unavailable, with the reason alone, if there is no answer.
    """
    import httpx2  # noqa: PLC0415 - see above

    timeout = httpx2.Timeout(_READ_TIMEOUT / 2, connect=_CONNECT_TIMEOUT)
    try:
        trusted = Authorities(ca).context
        async with (
            httpx2.AsyncClient(timeout=timeout, trust_env=False, verify=trusted) as http,
            asyncio.timeout(_READ_TIMEOUT),
            http.stream("POST", url, headers=dict(headers), content=body) as reply,
        ):
            raw = bytearray()
            async for chunk in reply.aiter_bytes():
                raw += chunk
                if len(raw) > 10_000:  # noqa: PLR2004 - more than any answer of ours
                    break
    except TimeoutError:
        raise Unavailable("no answer in time") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, UsageError) as error:
        raise Unavailable(_reason(error)) from None
    return reply.status_code, one_line(_message(bytes(raw)), 200)


_NAMES = re.compile(r"(?<=/)(?:\d+|[0-9a-f]{40,64})(?=/|$)")


def _kind_of(method: str, path: str) -> str:
    """Return the kind of request, such that one right is needed for all of a kind: it names no thing."""
    return f"{'read' if method == 'GET' else 'write'} {_NAMES.sub('_', path)}"


def _reason(error: BaseException) -> str:
    """Return why there was no answer: what the system says of it, where it is the cause."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            number = 0 if isinstance(cause, ssl.SSLError) else cause.errno or 0
            return one_line(os.strerror(number) if number > 0 else cause.strerror, 200)
        if isinstance(cause, BaseExceptionGroup):
            return _reason(cause.exceptions[0])
        cause = cause.__cause__ or cause.__context__
    return one_line(str(error), 200) or type(error).__name__


def page_of(number: int, size: int, size_parameter: str) -> Mapping[str, str]:
    """Return the parameters that ask for a page."""
    return {"page": str(number), size_parameter: str(size)}


def _has_more(headers: Mapping[str, str], seen: int, *, is_full: bool) -> bool:
    """
    Return whether another page may follow: by the link, by its number, else by how many items there are.

    A number that is less than was seen is a lie; without one, a full page may have another after it.
    """
    if "link" in headers:
        return 'rel="next"' in headers["link"]
    if "x-next-page" in headers:
        return bool(headers["x-next-page"])
    total = headers.get("x-total-count", "")
    return seen != int(total) if _COUNT.fullmatch(total) else is_full


def _is_untold(headers: Mapping[str, str], is_counted: bool) -> bool:
    return not is_counted and "link" not in headers


def _without_nulls(value: Any) -> Any:
    """
    Return an object or a list without what is `null` in it.

    Forges write `null` for what they cannot load any more (a deleted comment,
    account or label), for an empty list, and for what does not apply.
    """
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value if each is not None]
    return value


def _message(raw: bytes) -> str:
    """
    Return what an error says: its message, and the reasons that may be listed in it or below it.

    One of OAuth (RFC 6750) has other fields; what `scope` it names is what would be enough.
    """
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(value, dict):
        return ""
    listed = value.get("errors")
    reasons = [_listed_reason(each) for each in listed] if isinstance(listed, list) else []
    message = _flat(value.get("message")) or str(value.get("detail") or _oauth(value))
    return ": ".join(filter(None, [message, "; ".join(filter(None, reasons))]))


def _oauth(value: Mapping[str, Any]) -> str:
    scope = f"scope: {_flat(value['scope'])}" if value.get("scope") else ""
    return ": ".join(filter(None, (_flat(value.get("error")), _flat(value.get("error_description")), scope)))


def _flat(value: Any) -> str:
    """Return a message as text: GitLab has texts, lists of them, and lists by field."""
    if isinstance(value, dict):
        parts = (f"{'' if key == 'base' else f'{key} '}{_flat(each)}" for key, each in value.items())
        return "; ".join(parts)
    return "; ".join(map(_flat, value)) if isinstance(value, list) else str(value or "")


def _listed_reason(error: object) -> str:
    """Return one of the reasons of GitHub: a text, or an object with or without a message."""
    if not isinstance(error, dict):
        return str(error)
    return str(error.get("message") or " ".join(str(error[key]) for key in ("field", "code") if key in error))


def _seconds(text: str) -> float:
    """Return the seconds of a Retry-After header; a date, which forges do not send, counts as a minute."""
    if not text:
        return 0.0
    return float(text) if text.isdecimal() and len(text) < 10 else 60.0  # noqa: PLR2004 - a number of seconds
