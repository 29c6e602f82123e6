"""
Webhook check: whether the events of a repository come in, how late, and why not.

It looks at the webhook as the forge has it, sends a signed ping to its address
from here, has the forge send a test delivery, and reads in the log of
deliveries what came of it.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from reconciler.controller.ports import Clock
from reconciler.core.errors import Unavailable
from reconciler.core.model.specs import Forge
from reconciler.core.text import one_line
from reconciler.core.times import format_time
from reconciler.forge.client import Forbidden, post_once
from reconciler.forge.dialects import DIALECTS
from reconciler.forge.forgejo import ForgeRegistry, InstalledWebhook, canonical_url
from reconciler.forge.journal import Delivery, Journal, Rejection
from reconciler.forge.webhook import ping

T = TypeVar("T")

PATH = "/hooks/forgejo"
"""Path at which `serve` receives webhooks."""
PATIENCE = 10.0
"""Seconds to wait for a test delivery; forges give up after 5."""
SETTLES = 5.0
"""Seconds that it may take more until it was acted upon."""
RENEWAL = 6.0
"""Seconds after which a reconciler that runs has read a secret that was renewed."""
_LOOK = 0.1
_STUCK = timedelta(minutes=10)
"""A delivery that was not acted upon for so long waits for something."""
_TAKEN, _UNKNOWN_SECRET, _BUSY = 202, 401, 503

Result = Literal["ok", "warning", "failed"]


class WebhookFinding(NamedTuple):
    """What was found of the webhooks of one repository."""

    result: Result
    message: str
    fix: str = ""
    """Command that puts it right; empty if none can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookCheck:
    """The check of one repository."""

    name: str
    """By which the fleet knows it."""
    forge: Forge
    forges: ForgeRegistry
    journal: Callable[[], Journal]
    """Opens the delivery log as it is now: it is written by the process that serves."""
    secrets: Sequence[str]
    """What is found where `webhook_secret` points, the newest first."""
    url: str
    """Of the `serve` that runs here; empty if that is not known."""
    clock: Clock

    async def findings(self, *, sends: bool) -> Sequence[WebhookFinding]:
        """Return what is found; with `sends` the forge is made to send a test delivery."""
        try:
            hooks = await self.forges.hooks(self.forge)
        except Forbidden:
            message = "its webhooks are seen only by a token whose account administers the repository"
            return [WebhookFinding("warning", message), *self._past()]
        ours = [hook.url for hook in hooks if is_ours(hook)]
        install = self._install(ours[0] if ours else "")
        problems = list(hook_problems(hooks, self.forge, install))
        sound = [hook for hook in hooks if is_ours(hook) and not list(_faults(hook, self.forge))]
        if not sound:
            return problems
        rest = [_beside(each) for each in problems]
        return [*rest, *(await self._try_all(sound) if sends else self._past())]

    async def is_sound(self, url: str) -> bool:
        """Return whether the one webhook to that address is as it has to be, but for the secret."""
        hooks = [hook for hook in await self.forges.hooks(self.forge) if is_ours(hook)]
        urls = [canonical_url(hook.url) for hook in hooks]
        return urls == [canonical_url(url)] and not list(_faults(hooks[0], self.forge))

    # --- What came so far ----------------------------------------------------

    def _past(self) -> Iterator[WebhookFinding]:
        journal, now = self.journal(), self.clock()
        last = next((each for each in journal.recent() if self.name in each.hint.repos), None)
        if refused := self._rejection(journal, last.at if last else None):
            yield self._refused(refused, "")
        elif last is None:
            yield WebhookFinding(
                "warning", "no event has come in so far", f"reconciler webhook test {self._word}"
            )
        else:
            late = lateness(last, self.forges.offset(self.forge))
            yield WebhookFinding("ok", f"the last event came in at {format_time(last.at)}{late}")
        waiting = (each for each in journal.pending() if self.name in each.hint.repos)
        if stuck := [each for each in waiting if each.at + _STUCK < now]:
            since = format_time(stuck[0].at)
            yield WebhookFinding(
                "warning", f"{len(stuck)} were not acted upon since {since}; does `reconciler serve` run?"
            )

    def _rejection(self, journal: Journal, after: datetime | None) -> Rejection | None:
        """Return the last delivery of the repository that was not accepted after a time."""
        place = self.forge.repo.lower()
        ours = (each for each in journal.rejections() if each.place.lower() in {place, ""})
        return next((each for each in ours if after is None or each.at >= after), None)

    def _refused(self, rejection: Rejection, url: str) -> WebhookFinding:
        fix = self._install(url) if rejection.status == _UNKNOWN_SECRET else ""
        message = f"a delivery ({rejection.event}) at {format_time(rejection.at)} was answered"
        return WebhookFinding("failed", f"{message} {rejection.status}: {one_line(rejection.why)}", fix)

    # --- A test delivery -----------------------------------------------------

    async def _try_all(self, hooks: Sequence[InstalledWebhook]) -> Sequence[WebhookFinding]:
        """Try one after the other; where one works, others that do not are only a warning."""
        results = [await self._try(hook) for hook in hooks]
        if len(hooks) == 1 or all(each.result == "failed" for each in results):
            return results
        return [
            each._replace(
                result="ok" if each.result == "ok" else "warning",
                message=f"webhook {hook.id} to {one_line(hook.url)}: {each.message}",
            )
            for hook, each in zip(hooks, results, strict=True)
        ]

    async def _try(self, hook: InstalledWebhook) -> WebhookFinding:
        """Have the forge send a test delivery; return what came of it."""
        here = await ping_from_here(hook.url, self.secrets, self.forge.ca)
        before, since = {each.hint.delivery for each in self.journal().recent()}, self.clock()
        await self.forges.test_hook(self.forge, hook)
        outcome: Delivery | Rejection | None = await _wait(lambda: self._outcome(before, since), PATIENCE)
        if outcome is None:
            return WebhookFinding("failed", await self._why_not(hook, here), "")
        if isinstance(outcome, Rejection):
            return self._refused(outcome, hook.url)
        delivery = outcome
        is_done = await _wait(lambda: self._is_done(delivery), SETTLES)
        seconds = max((delivery.at - since).total_seconds(), 0.0)
        end = ", and was acted upon" if is_done else ", and is not acted upon yet"
        return WebhookFinding("ok", f"a test delivery came in after {seconds:.1f} s{end}")

    def _outcome(self, before: set[str], since: datetime) -> Delivery | Rejection | None:
        journal = self.journal()
        news = (each for each in journal.recent() if each.hint.delivery not in before)
        come = next((each for each in news if self.name in each.hint.repos), None)
        return come or self._rejection(journal, since)

    def _is_done(self, delivery: Delivery) -> bool | None:
        """Return True once it was acted upon: a duplicate was before; None if not yet."""
        pending = {each.hint.delivery for each in self.journal().pending()}
        return True if delivery.hint.delivery not in pending else None

    async def _why_not(self, hook: InstalledWebhook, here: str) -> str:
        """Return why a test delivery did not come in, as far as can be told from here."""
        message, dialect = f"no test delivery came in within {PATIENCE:g} s", DIALECTS[self.forge.kind]
        if answer := await self.forges.last_response(self.forge, hook):
            return f"{message}: the forge says of its last one: {answer}"
        if here:
            message += f"; from here, too, {here}"
        elif await asyncio.to_thread(_is_private, hook.url):
            message += f"; {dialect.private_addresses}"
        page = self.forge.api.partition("/api/")[0]
        at = f"{page}/{self.forge.repo}/{dialect.hook_page.format(id=hook.id)}"
        return f"{message}; what the forge was answered is on {at} (a repository without commits sends none)"

    # --- Words ---------------------------------------------------------------

    @property
    def _word(self) -> str:
        return self.name.removeprefix(".")

    def _install(self, url: str) -> str:
        """Return the command that makes the webhook anew, at that address if that is the one it has."""
        if url:
            return f"reconciler webhook install {self._word} --url {url}"
        given = "" if self.url else " --url https://reconciler.example.org"
        return f"reconciler webhook install {self._word}{given}"


# --- The webhook as the forge has it -------------------------------------------


def is_ours(hook: InstalledWebhook) -> bool:
    """Return whether a webhook is for a reconciler, by the path of its address."""
    return urlsplit(hook.url).path.rstrip("/").endswith(PATH)


def hook_problems(hooks: Sequence[InstalledWebhook], forge: Forge, install: str) -> Iterator[WebhookFinding]:
    """Yield what is wrong with the webhooks of a repository; `install` is the command that repairs them."""
    ours = [hook for hook in hooks if is_ours(hook)]
    if not ours:
        yield WebhookFinding("failed", f"{forge.repo} has no webhook to …{PATH}", install)
    for hook in ours:
        for fault in _faults(hook, forge):
            yield WebhookFinding("failed", f"webhook {hook.id} to {one_line(hook.url)} {fault}", install)
    addresses = [canonical_url(hook.url) for hook in ours]
    for url in dict.fromkeys(url for url in addresses if addresses.count(url) > 1):
        count = addresses.count(url)
        yield WebhookFinding(
            "warning", f"{count} webhooks go to {one_line(url)}: all comes {count} times", install
        )


def _beside(finding: WebhookFinding) -> WebhookFinding:
    """Return what is found of a webhook beside one that works: nothing is lost by it."""
    if finding.result != "failed":
        return finding
    return WebhookFinding("warning", f"{finding.message}; another one works: delete this one there")


def _faults(hook: InstalledWebhook, forge: Forge) -> Iterator[str]:
    """Yield what keeps events of a webhook from coming in or being read."""
    if not hook.is_active:
        yield "is switched off"
    missing = set(DIALECTS[forge.kind].listed_events) - set(hook.events)
    if missing and "*" not in hook.events:
        yield f"does not tell of {', '.join(sorted(missing))}"
    if hook.content_type not in {"", "json"}:
        yield f"sends {one_line(hook.content_type, 50)}, not application/json"
    if hook.branches not in {"", "*"}:
        yield f"tells of the branches {one_line(hook.branches, 100)} alone"


def _is_private(url: str) -> bool:
    """Return whether an address is of this machine or of a private network."""
    try:
        results = socket.getaddrinfo(urlsplit(url).hostname or "", None)
    except OSError:
        return False
    return any(not ipaddress.ip_address(each[4][0]).is_global for each in results)


# --- From here -------------------------------------------------------------------


async def ping_from_here(url: str, secrets: Sequence[str], ca: str | None) -> str:
    """
    Send a signed ping to the address of a webhook; return why it was not accepted, empty if it was.

    A secret that was renewed just now is known to a reconciler within `RENEWAL`: so long it is tried again.
    """
    headers, body = ping(secrets[0] if secrets else "")
    try:
        status, message = await post_once(url, headers, body, ca)
        for _ in range(round(RENEWAL)):
            if status not in {_UNKNOWN_SECRET, _BUSY}:
                break
            await asyncio.sleep(1.0)
            status, message = await post_once(url, headers, body, ca)
    except Unavailable as error:
        return f"{one_line(url)} is not reached: {error}"
    if status == _TAKEN:
        return ""
    if status in {_UNKNOWN_SECRET, _BUSY}:
        return f"{one_line(url)} answers {status}: {message}"
    return f"{one_line(url)} answers {status}: is that the address of `reconciler serve`?"


def lateness(delivery: Delivery, offset: timedelta = timedelta()) -> str:
    """Return in words how late a delivery came, given how far the forge is ahead; and if it is done."""
    delay = delivery.delay_by(offset)
    late = "" if delay is None else f", {delay.total_seconds():.0f} s after it happened"
    is_open = delivery.outcome == "taken" and delivery.done_at is None
    return f"{late}{', and is not acted upon yet' if is_open else ''}"


async def _wait(look: Callable[[], T | None], seconds: float) -> T | None:
    """Look until there is something to see, or the time is over."""
    for _ in range(round(seconds / _LOOK)):
        if (seen := look()) is not None:
            return seen
        await asyncio.sleep(_LOOK)
    return look()
