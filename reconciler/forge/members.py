"""
The members of a repository on a forge: who may work on it.
"""

import logging
from datetime import datetime, timedelta

from reconciler.controller.ports import Clock
from reconciler.forge.answers import ForgeUser
from reconciler.forge.client import Broken, Declined, Forbidden, ForgeClient, UnexpectedAnswer

log = logging.getLogger(__name__)

_LASTS = timedelta(minutes=10)
"""For so long a list is believed; it is read anew sooner for somebody who is not on it."""
_LASTS_WITHOUT = timedelta(minutes=1)


class MemberReader:
    """Reads and caches who the issues of a repository can be assigned to: those who may work on it."""

    def __init__(self, client: ForgeClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._members: frozenset[str] = frozenset()
        self._read_at: datetime | None = None

    async def has(self, name: str) -> bool:
        """Return whether an account is a member; nobody is where the forge does not say."""
        lasts = _LASTS if name in self._members else _LASTS_WITHOUT
        now = self._clock()
        if self._read_at is None or not self._read_at <= now < self._read_at + lasts:
            self._members, self._read_at = await self._read(), now
        return name in self._members

    async def _read(self) -> frozenset[str]:
        try:
            return frozenset([user.login async for user in self._client.pages("assignees", ForgeUser)])
        except (Declined, Forbidden, Broken, UnexpectedAnswer) as error:
            log.warning("whose comments are quoted cannot be read, so only those of reviewers are: %s", error)
            return frozenset()
