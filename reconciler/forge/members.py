"""
The members of a repository on a forge: who may work on it.
"""

import logging
from collections.abc import MutableMapping
from datetime import datetime, timedelta

from reconciler.controller.ports import Clock
from reconciler.core.bounded import BoundedDict
from reconciler.forge.answers import ForgeUser
from reconciler.forge.client import Broken, Declined, Forbidden, ForgeClient, UnexpectedAnswer
from reconciler.forge.dialect import Dialect

log = logging.getLogger(__name__)

_LASTS = timedelta(minutes=10)
"""For so long it is believed that an account is a member."""
_LASTS_WITHOUT = timedelta(minutes=1)
"""And for so long that it is none."""
_MOST_ACCOUNTS = 1000


class MemberReader:
    """
    Reads and caches who may work on a repository.

    Where the dialect reads that of an account, it is asked; elsewhere it is those
    to whom issues can be assigned.
    """

    def __init__(self, client: ForgeClient, dialect: Dialect, clock: Clock) -> None:
        self._client = client
        self._may_write = dialect.may_write
        self._clock = clock
        self._answers: MutableMapping[str, tuple[datetime, bool]] = BoundedDict(_MOST_ACCOUNTS)
        """When an account was asked for, and whether it is a member."""
        self._members: frozenset[str] = frozenset()
        self._read_at: datetime | None = None

    async def has(self, name: str) -> bool:
        """Return whether an account is a member; nobody is where the forge does not say."""
        now = self._clock()
        if self._may_write is not None:
            at, is_member = self._answers.get(name, (None, False))
            if not _is_fresh(at, now, is_member=is_member):
                is_member = await self._may_write(self._client, name)
                self._answers[name] = now, is_member
            return is_member
        if not _is_fresh(self._read_at, now, is_member=name in self._members):
            self._members, self._read_at = await self._assignees(), now
        return name in self._members

    async def _assignees(self) -> frozenset[str]:
        try:
            return frozenset([user.login async for user in self._client.pages("assignees", ForgeUser)])
        except (Declined, Forbidden, Broken, UnexpectedAnswer) as error:
            log.warning("whose comments are quoted cannot be read, so only those of reviewers are: %s", error)
            return frozenset()


def _is_fresh(at: datetime | None, now: datetime, *, is_member: bool) -> bool:
    return at is not None and at <= now < at + (_LASTS if is_member else _LASTS_WITHOUT)
