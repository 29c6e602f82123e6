"""
Webhooks of forges: taken, kept and answered at once; what they hint at is looked at later.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from sanic.response import HTTPResponse

from reconciler.api.operation import JSON, Answer, Call, Operation, read_body
from reconciler.api.problems import Unauthenticated
from reconciler.controller.ports import Hooks
from reconciler.core.errors import Refused, Unavailable

HOOK_LIMIT = 5 * 1024 * 1024
"""Most bytes of a webhook's body."""
AT_ONCE = 16
"""Most deliveries that are read at once: whether one is signed is known only when it is in memory."""


@dataclass(frozen=True, slots=True)
class HookDoor:
    """Where forges knock."""

    hooks: Hooks
    _room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def forgejo(self, call: Call) -> HTTPResponse:
        """Take a delivery; it is on disk when this answers."""
        if self._room.locked():
            raise Unavailable("too many deliveries at once; what this one tells of is found by looking, too")
        async with self._room:
            body = await read_body(call.request, HOOK_LIMIT)
            try:
                await self.hooks.receive(dict(call.request.headers), body)
            except Refused as error:
                raise Unauthenticated(str(error)) from error
        return HTTPResponse(status=202)

    @property
    def operations(self) -> Sequence[Operation]:
        """Return it as an operation."""
        forgejo = Operation(
            method="POST",
            path="/hooks/forgejo",
            name="forgejo_hook",
            summary="Take a signed webhook of Forgejo, Gitea or GitHub",
            handler=self.forgejo,
            raw_body=JSON,
            answers={202: Answer("It is kept; what it hints at is looked at soon")},
            problems={400: "It is no webhook", 401: "Its signature is missing or wrong"},
        )
        return (forgejo,)
