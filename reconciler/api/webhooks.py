"""
Webhook route: deliveries are stored and answered at once; their hints are handled later.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sanic.exceptions import RequestTimeout
from sanic.response import HTTPResponse

from reconciler.api.limits import Buckets
from reconciler.api.operation import JSON, Call, Operation, Reply, read_body
from reconciler.api.problems import Unauthenticated
from reconciler.controller.ports import Hooks
from reconciler.core.errors import Refused, Unavailable

HOOK_LIMIT = 5 * 1024 * 1024
"""Most bytes of a webhook's body."""
AT_ONCE = 16
"""Most deliveries that are read at once: whether one is signed is known only when it is in memory."""
FROM_ONE = 4
"""Most of them from one address: strangers who send slowly must not keep the forge out."""
SECONDS = 10.0
"""Longest time for a body; forges wait for half of it."""


@dataclass(frozen=True, slots=True)
class WebhookRoute:
    """Route on which forges deliver webhooks."""

    hooks: Hooks
    strangers: Buckets
    """Of those whose deliveries are not taken: a forge sends as many as it has events."""
    _peers: Counter[str] = field(default_factory=Counter)
    """How many deliveries are read now, by address."""

    async def forgejo(self, call: Call) -> HTTPResponse:
        """Accept a delivery; it is on disk when this answers."""
        peer = call.request.client_ip
        self.strangers.check(peer)
        try:
            await self._receive(call, peer)
        except Unavailable:
            raise
        except Exception:
            self.strangers.take(peer)
            raise
        return HTTPResponse(status=202)

    async def _receive(self, call: Call, peer: str) -> None:
        with self._room(peer):
            try:
                async with asyncio.timeout(SECONDS):
                    body = await read_body(call.request, HOOK_LIMIT)
            except TimeoutError:
                raise RequestTimeout from None
            try:
                await self.hooks.receive(dict(call.request.headers), body)
            except Refused as error:
                raise Unauthenticated(str(error)) from error

    @contextmanager
    def _room(self, peer: str) -> Iterator[None]:
        if self._peers.total() >= AT_ONCE or self._peers[peer] >= FROM_ONE:
            raise Unavailable("too many deliveries at once; polling finds what this one is about, too")
        self._peers[peer] += 1
        try:
            yield
        finally:
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]

    @property
    def operations(self) -> Sequence[Operation]:
        """Return the operation."""
        forgejo = Operation(
            method="POST",
            path="/hooks/forgejo",
            name="forgejo_hook",
            summary="Take a signed webhook of Forgejo, Gitea, GitHub or GitLab",
            handler=self.forgejo,
            raw_body=JSON,
            is_unlimited=True,
            answers={202: Reply("It is stored; what it hints at is polled soon")},
            problems={400: "It is no webhook", 401: "Its signature is missing or wrong"},
        )
        return (forgejo,)
