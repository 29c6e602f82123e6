"""
Who may look at the pages, and who may act there.

Reading is open where only this machine can reach the server. Elsewhere, and for
every action, a token is shown once and a cookie stands for it: it says whose
token it was, and is good as long as that one is.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from sanic.request import Request

from reconciler.api.auth import ANONYMOUS
from reconciler.api.exposure import Exposure
from reconciler.api.limits import Buckets
from reconciler.api.problems import Unauthenticated
from reconciler.api.tokens import Caller, authenticate
from reconciler.controller.ports import Clock, FleetView
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.model.specs import Agent
from reconciler.core.times import time_at

LIFETIME = timedelta(days=7)
"""How long a cookie is good after the login."""


class Misdirected(Refused):
    """The request was meant for another server, by its Host (421)."""


class LoginNeeded(Unauthenticated):
    """A page is for those alone who have shown a token."""


@dataclass(frozen=True, slots=True)
class PageAccess:
    """Admission of those who look: the name they call us by, their token or cookie, their limits."""

    exposure: Exposure
    view: FleetView
    clock: Clock
    peers: Buckets
    """By address: logins and strangers."""
    visitors: Buckets
    """By address: pages."""

    def admit(self, request: Request, *, is_public: bool = False) -> Caller:
        """Return who reads. Raises Misdirected, LoginNeeded, TooMany."""
        self._require_host(request)
        self.visitors.take(request.client_ip)
        caller = self._caller(request)
        if is_public or self.exposure.is_open or caller.may("read"):
            return caller
        self.peers.take(request.client_ip)
        if caller is not ANONYMOUS:
            caller.require("read")
        raise LoginNeeded("log in with a token of scope `read` or `admin`; `reconciler token new` makes one")

    def admit_action(self, request: Request) -> Caller:
        """Return who acts. Raises Misdirected, LoginNeeded, Refused, TooMany."""
        self._require_host(request)
        self.peers.take(request.client_ip)
        self.require_own_page(request)
        caller = self._caller(request)
        if caller is ANONYMOUS:
            raise LoginNeeded("actions need a token of scope `admin`: log in with one")
        caller.require("admin")
        return caller

    def require_own_page(self, request: Request) -> None:
        """Raise Refused for a form that stood on somebody else's page."""
        fetch_site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if fetch_site is not None:
            is_ours = fetch_site == "same-origin"
        elif origin is not None:
            is_ours = urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
        else:
            is_ours = "authorization" in request.headers  # no browser sends that by itself
        if not is_ours:
            raise Refused("this came from another site's page; act from the pages of the reconciler itself")

    def log_in(self, request: Request, token: str) -> str:
        """Return the cookie that stands for a token. Raises Unauthenticated, TooMany."""
        self._require_host(request)
        self.peers.take(request.client_ip)
        self.require_own_page(request)
        agents, now = self.view.desired.agents, self.clock()
        if not self.view.desired.revision:
            raise Unavailable("the specs were not read yet, so no token is known")
        caller = authenticate(f"Bearer {token.strip()}", agents, now)
        caller.require("read")
        return self._signed(caller.agent, caller.token_hash, int((now + LIFETIME).timestamp()))

    def is_still_good(self, caller: Caller) -> bool:
        """Return whether who was let in before would still be."""
        if self.exposure.is_open:
            return True
        agent = self.view.desired.agents.get(caller.agent)
        return agent is not None and _is_valid(agent, self.clock()) and caller.token_hash in _hashes(agent)

    def _require_host(self, request: Request) -> None:
        host = request.headers.get("host", "")
        if not self.exposure.has_name(host):
            raise Misdirected(
                f"this server is not called {host[:100] or 'nothing'!r}; use one of the addresses that "
                "`reconciler serve` names, or tell it this one with --public-url"
            )

    def _caller(self, request: Request) -> Caller:
        agents, now = self.view.desired.agents, self.clock()
        if header := request.headers.get("authorization"):
            return authenticate(header, agents, now)
        return self._from_cookie(request.cookies.get(self.exposure.cookie) or "", agents, now)

    def _from_cookie(self, cookie: str, agents: Mapping[str, Agent], now: datetime) -> Caller:
        """Return whose cookie it is; ANONYMOUS for one that is not good, or not any more."""
        rest, _, _ = cookie.rpartition(".")
        name, _, until = rest.rpartition(".")
        agent = agents.get(name)
        if agent is None or not until.isdecimal() or time_at(int(until[:12])) <= now:
            return ANONYMOUS
        if not _is_valid(agent, now):
            return ANONYMOUS
        for digest in _hashes(agent):
            if hmac.compare_digest(cookie.encode(), self._signed(name, digest, int(until)).encode()):
                return Caller(name, frozenset(agent.scopes), digest)
        return ANONYMOUS

    def _signed(self, agent: str, token_hash: str, until: int) -> str:
        message = f"{agent}\n{until}\n{token_hash}".encode()
        return f"{agent}.{until}.{hmac.new(self.exposure.key, message, 'sha256').hexdigest()}"


def _is_valid(agent: Agent, now: datetime) -> bool:
    return agent.expires is None or agent.expires > now


def _hashes(agent: Agent) -> list[str]:
    return [each.lower() for each in agent.token_hash]


def local_path(path: str) -> str:
    """Return where to go after the login: a path of ours, whatever was asked for."""
    is_ours = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_ours else "/"
