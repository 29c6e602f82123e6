"""
The forges of the fleet: Forgejo, and what speaks like it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from reconciler.controller.ports import Clock
from reconciler.core.adapter import Secret
from reconciler.core.model.forge import (
    Comment,
    CommitStatus,
    ForgeView,
    Issue,
    ManagedComment,
    PullRequestSnapshot,
)
from reconciler.core.model.specs import Forge
from reconciler.forge.answers import CommentAnswer, HookAnswer, IssueAnswer
from reconciler.forge.client import GONE_CODES, Declined, ForgeClient
from reconciler.forge.dialect import DIALECTS, Dialect
from reconciler.forge.pull_requests import PullRequestReader
from reconciler.forge.writer import ForgeWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledWebhook:
    """A webhook of a repository."""

    id: int
    url: str
    is_active: bool
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _RepositoryClients:
    """What belongs to one repository on a forge."""

    client: ForgeClient
    dialect: Dialect
    pulls: PullRequestReader
    writer: ForgeWriter
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One thing at a time: look and write are one, and forges like it."""


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

    async def close(self) -> None:
        """Hang up."""
        opened, self._clients_by_place = self._clients_by_place, {}
        for clients in opened.values():
            await clients.client.close()

    async def pulls(
        self, forge: Forge, branches: Collection[str], fresh: Collection[int]
    ) -> Mapping[str, PullRequestSnapshot]:
        """Return the newest pull request of each head branch that has one, an open one first."""
        async with self._at(forge) as clients:
            return await clients.pulls.of(branches, fresh)

    async def show(self, forge: Forge, want: ForgeView) -> PullRequestSnapshot | None:
        """Let the forge show what is wanted of a task; return its pull request, if it has one."""
        async with self._at(forge) as clients:
            return await clients.writer.show(want)

    async def issues(self, forge: Forge, label: str) -> Sequence[Issue]:
        """Return every open issue that has the label now, oldest first."""
        query = {"type": "issues", "state": "open", "labels": label, "sort": "oldest"}
        async with self._at(forge) as clients:
            answers = [
                answer
                async for answer in clients.client.pages("issues", IssueAnswer, query, passes_over=True)
            ]
        issues = [answer.issue for answer in answers if answer.pull_request is None]
        # A filter by a label that does not exist is none.
        return sorted((issue for issue in issues if label in issue.labels), key=lambda issue: issue.number)

    async def issue(self, forge: Forge, number: int) -> Issue | None:
        """Return an issue as it is now, open or closed; None if it was deleted."""
        async with self._at(forge) as clients:
            try:
                return (await clients.client.get(f"issues/{number}", IssueAnswer)).issue
            except Declined as declined:
                if declined.status in GONE_CODES:
                    return None
                raise

    async def comments(self, forge: Forge, since: datetime) -> Sequence[Comment]:
        """Return the comments written or edited at or after a time, oldest first."""
        time = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")  # to the second, as forges count
        async with self._at(forge) as clients:
            answers = clients.client.pages(
                "issues/comments", CommentAnswer, {"since": time}, passes_over=True
            )
            me = await clients.writer.whoami()
            comments = [answer.comment(me) async for answer in answers if answer.number]
        return sorted(comments, key=lambda comment: (comment.created_at, comment.id))

    async def upsert_comment(self, forge: Forge, number: int, note: ManagedComment) -> bool:
        """Let there be a comment of ours with that key and text; return whether it is new."""
        async with self._at(forge) as clients:
            return await clients.writer.upsert_comment(number, note)

    async def open_pulls(self, forge: Forge, base: str) -> Sequence[PullRequestSnapshot]:
        """Return the open pull requests against a base branch, without details; none from forks."""
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
        """Let there be a webhook to that address, signed with that secret: a new one, or the one there is."""
        async with self._at(forge) as clients:
            config = {"url": url, "content_type": "json", "secret": secret}
            body = {"active": True, "events": list(clients.dialect.hook_events), "config": config}
            async for answer in clients.client.pages("hooks", HookAnswer):
                if answer.config.url == url:
                    return _hook(await clients.client.write("PATCH", f"hooks/{answer.id}", HookAnswer, body))
            whole = {**clients.dialect.hook_type, **body}
            return _hook(await clients.client.write("POST", "hooks", HookAnswer, whole))

    async def test_hook(self, forge: Forge, hook: InstalledWebhook) -> None:
        """Have the forge send a webhook: a push that moved nothing."""
        async with self._at(forge) as clients:
            await clients.client.send("POST", f"hooks/{hook.id}/tests")

    @asynccontextmanager
    async def _at(self, forge: Forge) -> AsyncIterator[_RepositoryClients]:
        if forge not in self._clients_by_place:
            self._clients_by_place[forge] = self._clients(forge)
        clients = self._clients_by_place[forge]
        async with clients.lock:
            yield clients

    def _clients(self, forge: Forge) -> _RepositoryClients:
        client = ForgeClient(forge, lambda: self._secret(forge.token), self._pause)
        dialect = DIALECTS[forge.kind]
        pulls = PullRequestReader(client, dialect, self._clock)
        return _RepositoryClients(client, dialect, pulls, ForgeWriter(client, dialect, pulls))


def _hook(answer: HookAnswer) -> InstalledWebhook:
    return InstalledWebhook(
        id=answer.id, url=answer.config.url, is_active=answer.active, events=answer.events
    )
