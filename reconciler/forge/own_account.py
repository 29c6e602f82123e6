"""
Own account: what our account on a forge is called.
"""

import time

from reconciler.core.errors import Unavailable
from reconciler.forge.answers import ForgeUser
from reconciler.forge.client import Forbidden, ForgeClient

_LASTS = 600.0
"""For so many seconds a name is believed: accounts are renamed."""


class OwnAccount:
    """Reads and caches the name of the account that the token is of; another token may be of another one."""

    def __init__(self, client: ForgeClient) -> None:
        self._client = client
        self._name = ""
        self._token_count = 0
        self._until = 0.0

    async def name(self) -> str:
        """Return the name of the account."""
        is_old = self._token_count != self._client.token_count or time.monotonic() >= self._until
        if not self._name or is_old:
            self._name = self._client.forge.account or await self._ask()
            self._token_count, self._until = self._client.token_count, time.monotonic() + _LASTS
        return self._name

    def forget(self) -> None:
        """Ask anew the next time."""
        self._name = ""

    async def _ask(self) -> str:
        try:
            return await self._client.account() or (await self._client.get("/user", ForgeUser)).login
        except Forbidden as error:
            raise Unavailable(f"{error}; or name the account of the token as `forge.account`") from None
