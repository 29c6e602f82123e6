"""
Tokens of outside agents: which agent one belongs to, its scopes, its last use.

A token is `rct_<agent>.<secret>`. The specs hold only the SHA-256 of the whole
of it; the name in it tells where to look.
"""

import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from reconciler.api.problems import Unauthenticated
from reconciler.core.errors import Refused
from reconciler.core.fields import Time
from reconciler.core.model.specs import Agent
from reconciler.core.times import format_time
from reconciler.files import replace_atomically

log = logging.getLogger(__name__)

Scope = Literal["agent", "read", "admin"]

PREFIX = "rct_"
SECRET_BYTES = 32


def new_token(agent: str, draw: Callable[[int], str]) -> tuple[str, str]:
    """Return a new token of an agent and its hash; `draw(size)` gives that many random bytes as text."""
    token = f"{PREFIX}{agent}.{draw(SECRET_BYTES)}"
    return token, hash_of(token)


def hash_of(token: str) -> str:
    """Return what the specs hold of a token: its SHA-256 in hex."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated caller of a request."""

    agent: str
    scopes: frozenset[str]
    token_hash: str = field(repr=False)

    def may(self, *scopes: Scope) -> bool:
        """Return whether the token has one of these scopes; `admin` includes all."""
        return bool(self.scopes & {*scopes, "admin"})

    def require(self, *scopes: Scope) -> None:
        """Raise Refused unless the token has one of these scopes."""
        if not self.may(*scopes):
            raise Refused(
                f"this needs a token with scope {' or '.join(scopes)}, and that of agent {self.agent} has "
                f"{', '.join(sorted(self.scopes)) or 'none'}; scopes stand in specs/agents/{self.agent}.yaml"
            )


def authenticate(header: str | None, agents: Mapping[str, Agent], now: datetime) -> Caller:
    """
    Return the caller whose token is in an Authorization header.

    Raises Unauthenticated, with the same message for an unknown agent
    and for a wrong secret.
    """
    scheme, _, token = (header or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("send the agent's token as `Authorization: Bearer …`")
    name = token.removeprefix(PREFIX).rpartition(".")[0]
    agent, digest = agents.get(name), hash_of(token)
    if agent is None or not _has(agent, digest):
        raise Unauthenticated(
            "this token is not known here: it was revoked, or is another fleet's; "
            "`reconciler token new` makes one"
        )
    if agent.expires is not None and agent.expires <= now:
        raise Unauthenticated(
            f"the token of agent {name} expired at {format_time(agent.expires)}; "
            "`reconciler token new --rotate` makes another"
        )
    return Caller(name, frozenset(agent.scopes), digest)


def is_still_good(caller: Caller, agents: Mapping[str, Agent], now: datetime) -> bool:
    """Return whether a caller admitted earlier would still be admitted."""
    agent = agents.get(caller.agent)
    if agent is None or (agent.expires is not None and agent.expires <= now):
        return False
    return _has(agent, caller.token_hash) and frozenset(agent.scopes) == caller.scopes


def _has(agent: Agent, digest: str) -> bool:
    return any(hmac.compare_digest(digest, expected.lower()) for expected in agent.token_hash)


# --- Last use --------------------------------------------------------------

_TIMES = TypeAdapter(dict[str, Time])


class LastUse:
    """When the token of each agent was last used; kept in a small file across restarts."""

    INTERVAL = timedelta(minutes=1)
    """How often the file is written for one agent, at most."""

    def __init__(self, file: Path, clock: Callable[[], datetime]) -> None:
        self._file = file
        self._clock = clock
        self._times = self._load()
        self._kept = dict(self._times)

    def note(self, agent: str) -> None:
        """Note that an agent's token is used now."""
        now = self._clock()
        self._times[agent] = now
        if agent not in self._kept or now - self._kept[agent] >= self.INTERVAL:
            self._kept[agent] = now
            self._save()

    def get(self, agent: str) -> datetime | None:
        """Return when an agent's token was last used, if that is known."""
        return self._times.get(agent)

    def _load(self) -> dict[str, datetime]:
        try:
            return _TIMES.validate_json(self._file.read_bytes())
        except (OSError, ValidationError):
            return {}

    def _save(self) -> None:
        """Write the whole file; errors are ignored, so that no request fails."""
        times = {name: at.isoformat() for name, at in self._times.items()}
        try:
            replace_atomically(self._file, json.dumps(times).encode())
        except OSError as error:
            log.warning("%s cannot be written: %s; after a restart it is out of date", self._file, error)
