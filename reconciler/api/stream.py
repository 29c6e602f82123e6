"""
Event stream: transitions as server-sent events, resumable by the commit of the last one.

Nothing is queued for anybody. The end of the history is kept once for all who
listen; who is slower than that is served from the history itself.
"""

import asyncio
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sanic.response import BaseHTTPResponse

from reconciler.api.operation import Call, Operation, Reply
from reconciler.api.problems import TooMany
from reconciler.api.server import Closing
from reconciler.api.services import HistorySource
from reconciler.api.tokens import Caller
from reconciler.api.views import history_body
from reconciler.core.errors import NotFound, Unavailable, UsageError
from reconciler.core.transitions import TransitionRecord

EVENT_STREAM_TYPE = "text/event-stream"
PING_SECONDS = 15.0
"""After this silence a comment is sent, so that proxies keep the connection."""
RETRY_MILLISECONDS = 2000
"""How long a client waits before it connects anew."""
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


class Tail:
    """The last records of the history, read once for all clients."""

    KEPT = 1000
    """Records kept in memory, and most that are read at once."""

    def __init__(self, record: HistorySource) -> None:
        self._record = record
        self._entries: deque[TransitionRecord] = deque()
        self._start: str | None = None
        """Commit after which the entries begin; None: nothing was read yet."""
        self._seen: str | None = None
        """Head up to which the entries were read."""
        self._reading = asyncio.Lock()
        self.news = asyncio.Event()
        """Set by the next `notify`; the one after that sets another."""

    def notify(self) -> None:
        """Wake the clients: the history may have grown."""
        self.news.set()
        self.news = asyncio.Event()

    async def after(self, commit: str) -> Sequence[TransitionRecord]:
        """Return what happened after a commit, oldest first. Raises NotFound, Unavailable."""
        if commit == self._record.head():
            return ()
        async with self._reading:
            await self._catch_up()
        kept = self._kept_after(commit)
        return await self._record.since(commit, self.KEPT) if kept is None else kept

    async def _catch_up(self) -> None:
        head = self._record.head()
        if self._start is None:
            self._start = self._seen = head
        if head == self._seen:
            return
        last = self._entries[-1].commit if self._entries else self._start
        try:
            entries = await self._record.since(last, self.KEPT)
        except NotFound:  # the history was replaced
            self._entries.clear()
            self._start = self._seen = head
            return
        for entry in entries:
            self._entries.append(entry)
            if len(self._entries) > self.KEPT:
                self._start = self._entries.popleft().commit
        if len(entries) < self.KEPT:
            self._seen = head

    def _kept_after(self, commit: str) -> Sequence[TransitionRecord] | None:
        """Return the kept entries after a commit; None if the commit is not among them."""
        entries: list[TransitionRecord] = []
        for entry in reversed(self._entries):
            if entry.commit == commit:
                return entries[::-1]
            entries.append(entry)
        return entries[::-1] if commit == self._start else None


@dataclass(frozen=True, slots=True)
class EventStream:
    """Server-sent events: transitions, to every client that is connected."""

    tail: Tail
    record: HistorySource
    closing: Closing
    is_still_good: Callable[[Caller], bool]
    most: int
    """Open streams with one token."""
    _open: Counter[str] = field(default_factory=Counter)

    async def events(self, call: Call) -> None:
        """Send the events since the client's last one, then new ones, until either side closes."""
        last = call.request.headers.get("last-event-id") or self.record.head()
        if last and not _COMMIT.fullmatch(last):
            raise UsageError("Last-Event-ID is no commit of the state branch; leave it out to begin now")
        with self._counted(call.caller.agent):
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            response = await call.request.respond(content_type=EVENT_STREAM_TYPE, headers=headers)
            await response.send(f"retry: {RETRY_MILLISECONDS}\nid: {last}\n\n")
            while not self.closing.is_set and self.is_still_good(call.caller):
                news = self.tail.news
                last = await self._tell(response, last)
                try:
                    async with self.closing.limit(PING_SECONDS):
                        await news.wait()
                except TimeoutError:
                    await response.send(": still here\n\n")

    async def _tell(self, response: BaseHTTPResponse, last: str) -> str:
        """Send what happened after a commit; return the last one that was sent."""
        try:
            while entries := await self.tail.after(last):
                await response.send("".join(map(_event, entries)))
                last = entries[-1].commit
        except NotFound:
            last = self.record.head()
            await response.send(f"event: reset\nid: {last}\ndata: {{}}\n\n")
        except Unavailable:
            return last  # the next `notify` or ping tries again
        return last

    @contextmanager
    def _counted(self, agent: str) -> Iterator[None]:
        if self._open[agent] >= self.most:
            raise TooMany(f"agent {agent} has {self.most} streams open already; close one", PING_SECONDS)
        self._open[agent] += 1
        try:
            yield
        finally:
            self._open[agent] -= 1

    @property
    def operations(self) -> Sequence[Operation]:
        """Return the operation."""
        events = Operation(
            method="GET",
            path="/api/v1/events",
            name="events",
            summary="Listen to what happens (server-sent events)",
            handler=self.events,
            scopes=("read",),
            answers={
                200: Reply(
                    "`transition`: its data is an entry as in `/api/v1/history`, its id the commit; with it "
                    "as `Last-Event-ID` the stream goes on from there. `reset`: there is no such commit in "
                    "the history; read everything anew",
                    media_type=EVENT_STREAM_TYPE,
                )
            },
        )
        return (events,)


def _event(entry: TransitionRecord) -> str:
    return f"event: transition\nid: {entry.commit}\ndata: {history_body(entry).model_dump_json()}\n\n"
