"""
Webhook receiver: checks deliveries, logs them, and passes them on as hints.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace

from reconciler.controller.ports import FleetView
from reconciler.core.adapter import Secret
from reconciler.core.errors import Refused, Unavailable, UsageError
from reconciler.core.model.forge import Hint
from reconciler.core.model.specs import Forge
from reconciler.forge.journal import Journal
from reconciler.forge.webhook import digest, event_of, has_valid_signature, read_hint

_FRESH = 60.0
"""Seconds for which a secret that was looked up is used: strangers may send many bodies."""


class WebhookReceiver:
    """
    Implements `controller.ports.Hooks`.

    The forges are those of the fleet as the controller knows it. A secret may
    have several lines during a rotation: each is good. `notify` is called once
    for each delivery that is new.
    """

    def __init__(
        self,
        view: FleetView,
        secret: Callable[[Secret], Awaitable[str]],
        journal: Journal,
        notify: Callable[[Hint], None],
    ) -> None:
        self._view = view
        self._secret = secret
        self._journal = journal
        self._notify = notify
        self._secrets: dict[Secret, tuple[float, Sequence[str] | Unavailable]] = {}

    async def receive(self, headers: Mapping[str, str], body: bytes) -> None:
        """
        Accept a delivery; it is on disk when this returns. Header names are in lower case.

        Raises Refused if its signature is missing or wrong, UsageError if it
        is no webhook, Unavailable if it cannot be kept.
        """
        event = event_of(headers)
        try:
            forges = await self._signers(headers, body)
            hint = read_hint(headers, body)
        except (Refused, UsageError):
            self._journal.count(event, "refused")
            raise
        names = _names(hint, forges) if hint else ()
        if hint is None or not names:
            self._journal.count(event, "ignored")
            return
        hint = replace(hint, repos=names)
        outcome = await asyncio.to_thread(self._journal.add, hint, digest(body))
        self._journal.count(event, outcome)
        if outcome == "taken":
            self._notify(hint)

    async def _signers(self, headers: Mapping[str, str], body: bytes) -> Mapping[str, Forge]:
        """
        Return the forges whose secret the body is signed with.

        Strangers may send many large bodies: each is digested once for each
        secret, however many repos share it, and not on the event loop.
        """
        forges = {name: forge for name, forge in self._view.desired.forges.items() if forge.webhook_secret}
        secrets, problem = await self._all_values({forge.webhook_secret for forge in forges.values()})
        good = await asyncio.to_thread(
            has_valid_signature, body, headers, {value for values in secrets.values() for value in values}
        )
        signers = {
            name: forge
            for name, forge in forges.items()
            if not good.isdisjoint(secrets.get(forge.webhook_secret, ()))
        }
        if signers:
            return signers
        if problem is not None:
            raise problem
        if not self._view.desired.revision:
            raise Unavailable("the specs, which name the webhook secrets, were not read yet; send it again")
        raise Refused(
            "no webhook secret of this fleet made its signature (HMAC-SHA256 of the body); "
            "`reconciler webhook install` sets it up"
        )

    async def _all_values(
        self, secrets: Collection[Secret | None]
    ) -> tuple[Mapping[Secret | None, Sequence[str]], Unavailable | None]:
        """Return the values of each available secret, and the error of one that is not."""
        self._secrets = {secret: value for secret, value in self._secrets.items() if secret in secrets}
        values, problem = dict[Secret | None, Sequence[str]](), None
        for secret in filter(None, secrets):
            try:
                values[secret] = await self._values(secret)
            except Unavailable as error:
                problem = error
        return values, problem

    async def _values(self, secret: Secret) -> Sequence[str]:
        now = time.monotonic()
        until, values = self._secrets.get(secret, (now, ()))
        if until <= now:
            try:
                values = (await self._secret(secret)).split()
            except Unavailable as error:
                values = error
            self._secrets[secret] = now + _FRESH, values
        if isinstance(values, Unavailable):
            raise values
        return values


def _names(hint: Hint, forges: Mapping[str, Forge]) -> tuple[str, ...]:
    """Return the names of the repository it is from, among those whose secret it knows."""
    place = hint.place.lower()
    return tuple(name for name, forge in forges.items() if forge.repo.lower() == place)
