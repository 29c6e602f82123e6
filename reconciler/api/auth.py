"""
Authentication: tokens, scopes and rate limits at the door of the API.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sanic.request import Request

from reconciler.api.exposure import Exposure
from reconciler.api.limits import Buckets
from reconciler.api.operation import Operation
from reconciler.api.problems import Unauthenticated
from reconciler.api.tokens import Caller, LastUse, authenticate, is_still_good
from reconciler.controller.ports import FleetView
from reconciler.core.errors import Unavailable

ANONYMOUS = Caller("", frozenset(), "")
"""Who asks where no token is asked for."""


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Every request passes here before its body is read."""

    view: FleetView
    clock: Callable[[], datetime]
    last_use: LastUse
    tokens: Buckets
    peers: Buckets
    exposure: Exposure

    def admit(self, request: Request, operation: Operation) -> Caller:
        """Return who asks. Raises Unauthenticated, Refused, TooMany, Unavailable."""
        if operation.is_unlimited:
            return ANONYMOUS
        if operation.is_open_here and self._is_open(request):
            self.peers.take(f"{request.client_ip} {operation.name}")
            return ANONYMOUS
        if not operation.scopes:
            self.peers.take(request.client_ip)
            return ANONYMOUS
        if not self.view.desired.revision:
            raise Unavailable("the specs were not read yet, so no token is known")
        try:
            caller = authenticate(
                request.headers.get("authorization"), self.view.desired.agents, self.clock()
            )
        except Unauthenticated:
            self.peers.take(request.client_ip)
            raise
        self.tokens.take(caller.agent)
        caller.require(*operation.scopes)
        self.last_use.note(caller.agent)
        return caller

    def _is_open(self, request: Request) -> bool:
        return self.exposure.is_open and self.exposure.has_name(request.headers.get("host", ""))

    def is_still_good(self, caller: Caller) -> bool:
        """Return whether who was let in before would still be."""
        return is_still_good(caller, self.view.desired.agents, self.clock())
