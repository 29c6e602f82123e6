"""
GitHub Apps: an App signs for itself with its key, and is given tokens that expire within the hour.

A token is for the one repository that it is used for. It is renewed before it
expires; one that is refused earlier (the installation was suspended, its rights
changed) is dropped, and another asked for.
"""

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from reconciler.controller.ports import Clock
from reconciler.core.adapter import Secret
from reconciler.core.errors import Unavailable
from reconciler.core.fields import Id
from reconciler.core.model.specs import Forge, ForgeApp
from reconciler.forge.answers import ForgeAnswer, ForgeTime, JsonLine
from reconciler.forge.client import TokenRefused

if TYPE_CHECKING:
    from reconciler.forge.client import ForgeClient

_BEFORE = timedelta(minutes=5)
"""A token is renewed so long before it expires."""
_LONGEST = timedelta(minutes=55)
"""It is renewed after so long in any case: their clock may not be ours."""
_BEHIND, _AHEAD = timedelta(seconds=60), timedelta(minutes=9)
"""
From when and until when an App's own signature is good.

GitHub refuses one from the future, and one for more than ten minutes.
"""


class _Installation(ForgeAnswer):
    id: Id


class _Granted(ForgeAnswer):
    token: str
    expires_at: ForgeTime


class _App(ForgeAnswer):
    slug: JsonLine


class AppSignature:
    """A `TokenSource`: what an App shows to speak for itself (a JWT), made anew each time."""

    place = "`forge.app.key`"

    def __init__(self, app: ForgeApp, secret: Callable[[Secret], Awaitable[str]], clock: Clock) -> None:
        self._app = app
        self._secret = secret
        self._clock = clock

    async def get(self) -> str:
        """Return a signature that is good for some minutes."""
        now, key = self._clock(), await self._secret(self._app.key)
        claims = {"iat": _seconds(now - _BEHIND), "exp": _seconds(now + _AHEAD), "iss": str(self._app.id)}
        return _sign({"alg": "RS256", "typ": "JWT"}, claims, key)

    def drop(self) -> None:
        """Do nothing: each is used once."""

    async def account(self) -> str | None:
        """Return None: an App is no account by itself."""
        return None

    async def close(self) -> None:
        """Nothing to close."""


class AppToken:
    """A `TokenSource`: the token of an App for one repository."""

    place = "`forge.app`"

    def __init__(self, forge: Forge, app_client: "ForgeClient", clock: Clock) -> None:
        self._forge = forge
        self._client = app_client
        """Speaks for the App itself."""
        self._clock = clock
        self._token = ""
        self._good_until = clock()
        self._account = ""

    async def get(self) -> str:
        """Return the token, or a new one if it expires soon."""
        if not self._token or self._clock() >= self._good_until:
            granted = await self._ask()
            self._token = granted.token
            self._good_until = min(granted.expires_at - _BEFORE, self._clock() + _LONGEST)
        return self._token

    def drop(self) -> None:
        """Ask for another one the next time."""
        self._token = ""

    async def account(self) -> str | None:
        """Return the name of the App's account, which what it writes is from."""
        if not self._account:
            self._account = f"{(await self._client.get('/app', _App)).slug}[bot]"
        return self._account

    async def close(self) -> None:
        """Close the connections by which it speaks for the App."""
        await self._client.close()

    async def _ask(self) -> _Granted:
        """Return a new token; asked for again if the clock of the forge was known only by its refusal."""
        assumed = self._client.forge_clock.offset
        try:
            return await self._grant()
        except TokenRefused:
            if self._client.forge_clock.offset == assumed:
                raise
            return await self._grant()

    async def _grant(self) -> _Granted:
        app = self._forge.app
        installation = app.installation if app else None
        if installation is None:
            installation = (await self._client.get("installation", _Installation)).id
        path = f"/app/installations/{installation}/access_tokens"
        body = {"repositories": [self._forge.repo.partition("/")[2]]}
        return await self._client.write("POST", path, _Granted, body)


def _seconds(time: datetime) -> int:
    return int(time.timestamp())


def _sign(head: Mapping[str, Any], claims: Mapping[str, Any], key: str) -> str:
    """Return a JSON Web Token, signed by RS256 (RFC 7515); raises Unavailable for what is no RSA key."""
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 - it is heavy
    from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415 - it is heavy

    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, rsa.RSAPrivateKey):
        raise Unavailable(
            "what `forge.app.key` points to is no RSA private key in PEM, without a passphrase: "
            "use the file that GitHub gave out for the App"
        )
    signed = ".".join(_encoded(json.dumps(part).encode()) for part in (head, claims))
    signature = private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signed}.{_encoded(signature)}"


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
