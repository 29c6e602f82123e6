"""
The forges of the fleet: Forgejo, and forges with a compatible API.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

from reconciler.controller.ports import Clock
from reconciler.core.adapter import Secret
from reconciler.core.errors import Unavailable
from reconciler.core.model.forge import (
    Comment,
    CommitStatus,
    ForgeView,
    Issue,
    ManagedComment,
    PullRequestSnapshot,
)
from reconciler.core.model.specs import Forge
from reconciler.forge.answers import BranchAnswer, CommentAnswer, DeliveryAnswer, HookAnswer, IssueAnswer
from reconciler.forge.app import AppSignature, AppToken
from reconciler.forge.client import ForgeClient, Rest
from reconciler.forge.dialect import Dialect
from reconciler.forge.dialects import DIALECTS
from reconciler.forge.forge_clock import ForgeClock
from reconciler.forge.issues import IssueReader, by_our_clock
from reconciler.forge.pull_requests import PullRequestReader
from reconciler.forge.tokens import SecretToken, TokenSource
from reconciler.forge.writer import ForgeWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledWebhook:
    """A webhook of a repository."""

    id: int
    url: str
    is_active: bool
    events: tuple[str, ...]
    content_type: str = "json"
    branches: str = ""
    """Pattern of the branches that it tells of; empty or `*` for all."""


@dataclass(frozen=True, slots=True)
class _RepositoryClients:
    """Client, reader and writer of one repository on a forge."""

    client: ForgeClient
    dialect: Dialect
    pulls: PullRequestReader
    writer: ForgeWriter
    issues: IssueReader
    calls: asyncio.Semaphore
    """Limits the calls at a time; each is about one thing, and nobody has two about the same."""


class ForgeRegistry:
    """
    Implements `controller.ports.Forges`.

    Each repository has connections and a memory of its own; the memory saves
    requests and nothing else: without it everything is read again.
    """

    def __init__(
        self,
        secret: Callable[[Secret], Awaitable[str]],
        clock: Clock,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._secret = secret
        self._clock = clock
        self._pause = pause
        self._clients_by_place: dict[Forge, _RepositoryClients] = {}
        self._rests: dict[tuple[str, Secret | None], Rest] = {}

    async def close(self) -> None:
        """Close all connections."""
        opened, self._clients_by_place = self._clients_by_place, {}
        for clients in opened.values():
            await clients.client.close()

    def offset(self, forge: Forge) -> timedelta:
        """Return how far the clock of a forge is ahead of ours, as far as it was asked."""
        clients = self._clients_by_place.get(forge)
        return clients.client.forge_clock.offset if clients else timedelta()

    def denials(self, forge: Forge) -> Sequence[str]:
        """Return what the token is refused there now, as far as it was tried."""
        clients = self._clients_by_place.get(forge)
        return clients.client.denials if clients else ()

    async def pulls(
        self, forge: Forge, branches: Collection[str], fresh: Collection[int], *, refreshes: bool = True
    ) -> Mapping[str, PullRequestSnapshot | Unavailable]:
        """Return the newest pull request of each head branch that has one, an open one first; or why not."""
        async with self._at(forge) as clients:
            return await clients.pulls.of(branches, fresh, refreshes=refreshes)

    async def show(self, forge: Forge, want: ForgeView) -> PullRequestSnapshot | None:
        """Make the forge show the view of a task; return its pull request, if it has one."""
        async with self._at(forge) as clients:
            return await clients.writer.show(want)

    async def issues(self, forge: Forge, label: str) -> Sequence[Issue] | None:
        """Return every open issue that has the label now, oldest first; None if issues are switched off."""
        async with self._at(forge) as clients:
            return await clients.issues.open(label)

    async def has_label(self, forge: Forge, label: str) -> bool:
        """Return whether the repository, or its owner, may have a label of that name."""
        async with self._at(forge) as clients:
            return await clients.issues.has_label(label)

    async def issue(self, forge: Forge, number: int) -> Issue | None:
        """Return an issue as it is now, open or closed; None if it was deleted or transferred."""
        async with self._at(forge) as clients:
            answer = await clients.client.find(f"issues/{number}", IssueAnswer)
            return by_our_clock(answer.issue, clients.client.forge_clock) if answer else None

    async def comments(self, forge: Forge, since: datetime) -> Sequence[Comment]:
        """Return the comments written or edited at or after a time, oldest first."""
        async with self._at(forge) as clients:
            me, clock = await clients.writer.whoami(), clients.client.forge_clock
            assumed = clock.offset
            answers = await _comments(clients.client, since)
            if clock.offset != assumed:  # the first answer tells how far the clock of the forge is off
                answers = await _comments(clients.client, since)
            comments = [_by_our_clock(answer.comment(me), clock) for answer in answers if answer.number]
        return sorted(comments, key=lambda comment: (comment.created_at, comment.id))

    async def branch_head(self, forge: Forge, branch: str) -> str | None:
        """Return the commit of a branch; None if there is no such branch."""
        async with self._at(forge) as clients:
            answer = await clients.client.find(f"branches/{quote(branch)}", BranchAnswer)
            return answer.commit.id if answer else None

    async def upsert_comment(self, forge: Forge, number: int, note: ManagedComment, *, on_pull: bool) -> bool:
        """Create or update our comment with that key; return whether it is new."""
        async with self._at(forge) as clients:
            return await clients.writer.upsert_comment(number, note, on_pull=on_pull)

    async def open_pulls(self, forge: Forge, base: str) -> Sequence[PullRequestSnapshot]:
        """Return the open pull requests against a base branch, those from forks too, without details."""
        async with self._at(forge) as clients:
            return await clients.pulls.open(base)

    async def commit_status(self, forge: Forge, commit_status: CommitStatus) -> None:
        """Set a commit status, unless it is so already."""
        async with self._at(forge) as clients:
            await clients.writer.commit_status(commit_status)

    async def whoami(self, forge: Forge) -> str:
        """Return the name of the account that the token is of."""
        async with self._at(forge) as clients:
            return await clients.writer.whoami()

    async def hooks(self, forge: Forge) -> Sequence[InstalledWebhook]:
        """Return the webhooks of the repository; the token's account must administer it."""
        async with self._at(forge) as clients:
            return [_hook(answer) async for answer in clients.client.pages("hooks", HookAnswer)]

    async def install_hook(self, forge: Forge, url: str, secret: str) -> InstalledWebhook:
        """
        Let there be one webhook to that address, signed with that secret.

        A new one comes before the old ones go: forges keep the secret of a
        webhook that is edited, whatever they answer. Raises Unavailable if it
        is not there afterwards as it was asked for.
        """
        async with self._at(forge) as clients:
            config = {"url": url, "content_type": "json", "secret": secret}
            events = list(clients.dialect.hook_events)
            new = await _write_hook(clients, {"active": True, "events": events, "config": config})
            hooks = [
                hook
                async for hook in clients.client.pages("hooks", HookAnswer)
                if canonical_url(hook.config.url) == canonical_url(url)
            ]
            kept = next((hook for hook in hooks if hook.id == new.id), None)
            if kept is None or not kept.active:
                raise Unavailable(
                    f"the forge answered well, but webhook {new.id} of {forge.repo} is not there, "
                    "or not active; look at the page of webhooks in the settings of the repository"
                )
            for old in hooks:
                if old.id != new.id:
                    await clients.client.send("DELETE", f"hooks/{old.id}")
            return _hook(kept)

    async def test_hook(self, forge: Forge, hook: InstalledWebhook) -> None:
        """Have the forge send a webhook: a push that moved nothing."""
        async with self._at(forge) as clients:
            await clients.client.send("POST", f"hooks/{hook.id}/tests")

    async def last_response(self, forge: Forge, hook: InstalledWebhook) -> str:
        """Return what a forge says its last delivery was answered; empty if it does not list deliveries."""
        async with self._at(forge) as clients:
            if not clients.dialect.lists_deliveries:
                return ""
            pages = clients.client.pages(f"hooks/{hook.id}/deliveries", DeliveryAnswer, most=1, size=1)
            async for delivery in pages:
                return " ".join(filter(None, (str(delivery.status_code or ""), delivery.status)))
            return ""

    @asynccontextmanager
    async def _at(self, forge: Forge) -> AsyncIterator[_RepositoryClients]:
        if forge not in self._clients_by_place:
            self._clients_by_place[forge] = self._clients(forge)
        clients = self._clients_by_place[forge]
        async with clients.calls:
            yield clients

    def _clients(self, forge: Forge) -> _RepositoryClients:
        dialect = DIALECTS[forge.kind]
        clock, rest = ForgeClock(), self._rest_of(forge)
        tokens = self._tokens(forge, dialect, clock)
        client = ForgeClient(forge, tokens, self._pause, dialect, rest, clock=self._clock, forge_clock=clock)
        pulls = PullRequestReader(client, dialect, self._clock)
        issues = IssueReader(client, dialect, forge.repo.partition("/")[0], self._clock)
        writer, calls = ForgeWriter(client, dialect, pulls), asyncio.Semaphore(dialect.at_once)
        return _RepositoryClients(client, dialect, pulls, writer, issues, calls)

    def _rest_of(self, forge: Forge) -> Rest:
        """Return what is shared by all repositories that one token is used for."""
        return self._rests.setdefault((forge.api, forge.credential), Rest())

    def _tokens(self, forge: Forge, dialect: Dialect, clock: ForgeClock) -> TokenSource:
        """Return where the tokens for a repository are from."""
        if forge.app:
            by_forge = partial(_time_there, self._clock, clock)
            signature = AppSignature(forge.app, self._secret, by_forge)
            app_client = ForgeClient(
                forge, signature, self._pause, dialect, clock=self._clock, forge_clock=clock
            )
            return AppToken(forge, app_client, by_forge)
        place = forge.token
        if place is None:
            raise Unavailable(f"forge {forge.repo}: neither `token` nor `app` is given")
        return SecretToken(lambda: self._secret(place))


def _time_there(clock: Clock, forge_clock: ForgeClock) -> datetime:
    """Return the time now by the clock of a forge."""
    return forge_clock.theirs(clock())


async def _comments(client: ForgeClient, since: datetime) -> Sequence[CommentAnswer]:
    """Return the comments since a time of our clock."""
    time = client.forge_clock.theirs(since).astimezone(UTC)
    query = {"since": time.strftime("%Y-%m-%dT%H:%M:%SZ")}  # forges count in seconds
    return [answer async for answer in client.pages("issues/comments", CommentAnswer, query)]


def _by_our_clock(comment: Comment, clock: ForgeClock) -> Comment:
    changed = comment.updated_at and clock.ours(comment.updated_at)
    return replace(comment, created_at=clock.ours(comment.created_at), updated_at=changed)


async def _write_hook(clients: _RepositoryClients, body: Mapping[str, Any]) -> HookAnswer:
    """Make a webhook; or edit the one with that address, where that renews its secret."""
    if clients.dialect.renews_hook_secret:  # a second one with that address is declined there
        async for hook in clients.client.pages("hooks", HookAnswer):
            if hook.config.url == body["config"]["url"]:
                return await clients.client.write("PATCH", f"hooks/{hook.id}", HookAnswer, body)
    whole = {**clients.dialect.hook_type, **body}
    return await clients.client.write("POST", "hooks", HookAnswer, whole)


def canonical_url(url: str) -> str:
    """Return an address so that two that are the same compare equal."""
    parts = urlsplit(url)
    return parts._replace(scheme=parts.scheme.lower(), netloc=parts.netloc.lower()).geturl().rstrip("/")


def _hook(answer: HookAnswer) -> InstalledWebhook:
    return InstalledWebhook(
        id=answer.id,
        url=answer.config.url,
        is_active=answer.active,
        events=answer.events,
        content_type=answer.config.content_type,
        branches=answer.branch_filter,
    )
