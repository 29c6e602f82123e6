"""
Token sources: what lets a client in at a forge, and what to do when it is refused.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol


class TokenSource(Protocol):
    """Gives a client its token."""

    place: str
    """Field of the spec that says where it is from."""

    async def get(self) -> str:
        """Return the token to use now. Raises Unavailable."""

    def drop(self) -> None:
        """Forget a token that was refused: it may have been exchanged."""

    async def account(self) -> str | None:
        """Return the account of the token, where the forge need not be asked by it. Raises Unavailable."""

    async def close(self) -> None:
        """Close the connections that it has."""


class SecretToken:
    """A token that is looked up where the spec says, and again only after it was refused."""

    place = "`forge.token`"

    def __init__(self, find: Callable[[], Awaitable[str]]) -> None:
        self._find = find
        self._token = ""

    async def get(self) -> str:
        """Return it; see `TokenSource`."""
        self._token = self._token or await self._find()
        return self._token

    def drop(self) -> None:
        """Look it up the next time."""
        self._token = ""

    async def account(self) -> str | None:
        """Return None: whose it is, the forge says."""
        return None

    async def close(self) -> None:
        """Nothing to close."""
