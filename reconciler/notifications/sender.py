"""
Sender: one message to one target, by Apprise, in a thread that nobody waits for longer than a time.

The URL of a target is a secret, and Apprise writes parts of it into what it
logs. So nothing that it logs leaves here, and what is told of a failure is put
together from what cannot be part of a URL.
"""

import asyncio
import logging
import re
import threading
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from reconciler.core.adapter import Secret
from reconciler.core.errors import Unavailable
from reconciler.core.notifications.messages import Message

LIMIT = 30.0
"""Seconds for one message."""

Lookup = Callable[[Secret], Awaitable[str]]
"""Finds a secret. Raises Unavailable."""
Deliver = Callable[[str, Message], None]
"""Sends a message to a URL, in a thread of its own. Raises Unavailable."""


class AppriseSender:
    """Implements `controller.ports.NotificationSender`."""

    def __init__(self, lookup: Lookup, *, deliver: Deliver | None = None, limit: float = LIMIT) -> None:
        self._lookup, self._deliver, self._limit = lookup, deliver or deliver_by_apprise, limit
        self._stuck: dict[str, threading.Thread] = {}
        """Threads that were given up, by target."""

    async def send(self, target: str, secret: Secret, message: Message) -> None:
        """Send a message to a target, whose URL is looked up now. Raises Unavailable."""
        if (stuck := self._stuck.get(target)) and stuck.is_alive():
            raise Unavailable("an earlier message still waits for an answer")
        url = (await self._lookup(secret)).strip()
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A daemon, and none of a pool: nothing waits for it at the end of the process.
        thread = threading.Thread(
            target=_work, args=(self._deliver, url, message, answer), name=f"notify-{target}", daemon=True
        )
        thread.start()
        try:
            async with asyncio.timeout(self._limit):
                await answer
        except TimeoutError:
            self._stuck = {name: each for name, each in self._stuck.items() if each.is_alive()}
            self._stuck[target] = thread
            raise Unavailable(f"there was no answer within {self._limit:g} s") from None


def _work(deliver: Deliver, url: str, message: Message, answer: asyncio.Future[None]) -> None:
    """Deliver in this thread, and tell the event loop how it ended; it may be closed by then."""
    error: Exception | None = None
    try:
        deliver(url, message)
    except Unavailable as why:
        error = why
    except Exception as fault:  # noqa: BLE001 - what a plugin raises may hold the URL; its kind does not
        error = Unavailable(f"the service's plugin failed ({type(fault).__name__})")

    def settle() -> None:
        if answer.done():
            return
        if error:
            answer.set_exception(error)
        else:
            answer.set_result(None)

    try:
        answer.get_loop().call_soon_threadsafe(settle)
    except RuntimeError:
        return  # the loop is closed: the process ends


def deliver_by_apprise(url: str, message: Message) -> None:
    """Send a message to a URL as Apprise writes them. Raises Unavailable, without anything of the URL."""
    _silence()
    try:
        import apprise  # noqa: PLC0415 - an extra, and 0.3 s
    except ImportError:
        raise Unavailable("the package apprise is not installed beside the reconciler") from None
    asset = apprise.AppriseAsset(
        app_id="reconciler",
        app_desc="reconciler",
        app_url="",
        image_url_mask="",  # a picture that phones would fetch from elsewhere
        image_url_logo="",
        async_mode=False,
        storage_mode=apprise.PersistentStoreMode.MEMORY,
    )
    target = apprise.Apprise(asset=asset)
    if not url or not target.add(url) or len(target) != 1:
        raise Unavailable("its secret is not one URL that Apprise can read, such as ntfys://ntfy.sh/TOPIC")
    result = target.notify(title=message.title, body=message.body, body_format=apprise.NotifyFormat.TEXT)
    if not result:
        raise Unavailable(_why(result))


def _silence() -> None:
    """Keep what these libraries log out of every log: URLs stand in it."""
    for name in ("apprise", "urllib3", "requests"):
        logger = logging.getLogger(name)
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


_STATUS = re.compile(r"\berror=(\d{3})\b")


def _why(result: object) -> str:
    """Return why a target did not take a message, as far as that can be told without its URL."""
    logs = getattr(result, "logs", None)  # older versions tell nothing
    lines = [str(getattr(entry, "message", entry)) for entry in logs()] if callable(logs) else []
    text = "\n".join(lines)
    if status := _STATUS.search(text):
        return f"it answered with HTTP {status[1]}{_phrase(int(status[1]))}"
    if "onnection error" in text or "ocket" in text:
        return "it cannot be reached"
    return "it did not take the message"


def _phrase(code: int) -> str:
    try:
        return f" ({HTTPStatus(code).phrase})"
    except ValueError:
        return ""
