"""
TLS trust: the public authorities, and those that the environment or a setting names.

Proxies and netrc of the environment are not for us; these are files that a
person put there for this purpose.
"""

import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.core.errors import UsageError

if TYPE_CHECKING:  # it is heavy, and most fleets begin without a forge
    import httpx2

CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that each name a file with authorities; SSL_CERT_DIR names a folder."""


class Authorities:
    """Trusted authorities; `ca` is a file with more of them, in PEM."""

    def __init__(self, ca: str | None = None) -> None:
        """Raise UsageError if a file that is named cannot be used."""
        named = [os.environ.get(name) for name in CA_VARIABLES]
        self._folder = os.environ.get("SSL_CERT_DIR")
        self._files = [Path(file).expanduser() for file in (*named, ca) if file]
        self._as_of: list[object] = []
        self.context = self._read()

    def renewed(self) -> bool:
        """Reload replaced files; return whether there were any. An unreadable one is retried later."""
        with suppress(UsageError, OSError):
            if self._as_of != self._times():
                self.context = self._read()
                return True
        return False

    def _read(self) -> ssl.SSLContext:
        """Return a context from the current files: a removed authority is no longer trusted."""
        as_of = self._times()  # before the files are read: what changes meanwhile is read again
        context = _context(self._folder, tuple(self._files), tuple(as_of))
        self._as_of = as_of
        return context

    def _times(self) -> list[object]:
        return [(stat.st_mtime_ns, stat.st_ino) for stat in map(_stat, self._files)]


@lru_cache(maxsize=16)
def _context(folder: str | None, files: tuple[Path, ...], _as_of: tuple[object, ...]) -> ssl.SSLContext:
    """Return a context that trusts these files as of that time; clients share it, for it is slow to make."""
    import httpx2  # noqa: PLC0415 - see above

    context = httpx2.create_ssl_context(trust_env=False)
    if folder:
        context.load_verify_locations(capath=folder)
    for file in files:
        try:
            context.load_verify_locations(cafile=file)
        except OSError as error:  # ssl.SSLError is one
            raise _unusable(file, error) from error
    return context


def _stat(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        raise _unusable(file, error) from error


def _unusable(file: Path, error: OSError) -> UsageError:
    return UsageError(
        f"the certificates of authorities in {file} cannot be used: {error.strerror or error}; "
        f"it must be a readable PEM file (see {', '.join(CA_VARIABLES)}, or the setting `ca`)"
    )


@dataclass(slots=True)
class _Used:
    client: "httpx2.AsyncClient"
    users: int = 0


class RenewedClient:
    """An HTTP client that is recreated with `make` when the trusted authorities have changed."""

    def __init__(
        self, authorities: Authorities, make: "Callable[[ssl.SSLContext], httpx2.AsyncClient]"
    ) -> None:
        self._authorities = authorities
        self._make = make
        self._now = _Used(make(authorities.context))

    @asynccontextmanager
    async def open(self) -> "AsyncIterator[httpx2.AsyncClient]":
        """Yield the client; a replaced one is closed by its last user."""
        if self._authorities.renewed():
            before, self._now = self._now, _Used(self._make(self._authorities.context))
            await self._end_if_unused(before)
        used = self._now
        used.users += 1
        try:
            yield used.client
        finally:
            used.users -= 1
            await self._end_if_unused(used)

    async def close(self) -> None:
        """Close the client."""
        await self._now.client.aclose()

    async def _end_if_unused(self, used: _Used) -> None:
        if used is not self._now and not used.users:
            await used.client.aclose()
