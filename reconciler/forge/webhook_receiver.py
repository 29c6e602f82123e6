"""
Webhook receiver: checks deliveries, logs them, and passes them on as hints.
"""

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from reconciler.controller.ports import FleetView
from reconciler.core.adapter import Secret
from reconciler.core.errors import ReconcilerError, Refused, Unavailable, UsageError
from reconciler.core.model.forge import Hint
from reconciler.core.model.specs import Forge
from reconciler.forge.journal import Journal
from reconciler.forge.webhook import digest, event_of, has_valid_signature, read_hint

_FRESH = 60.0
"""Seconds for which a secret that was looked up is used."""
_RENEWED = 5.0
"""
The same for a body that it does not fit, for it may have been renewed just now.

Not less: strangers may send many bodies.
"""


_STATUSES: Mapping[type[ReconcilerError], int] = {Refused: 401, UsageError: 400, Unavailable: 503}
"""What a forge is answered."""
_FULL_NAME = re.compile(rb'"(?:full_name|path_with_namespace)"\s*:\s*"([^"\\]{1,200})"')


class WebhookReceiver:
    """
    Implements `controller.ports.Hooks`.

    The forges are those of the fleet as the controller knows it. A secret may
    have several lines during a rotation: each is good. `notify` is called once
    for each delivery that is new, and calls back once it was acted upon.
    """

    def __init__(
        self,
        view: FleetView,
        secret: Callable[[Secret], Awaitable[str]],
        journal: Journal,
        notify: Callable[[Hint, Callable[[], None]], None],
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view = view
        self._secret = secret
        self._journal = journal
        self._notify = notify
        self._seconds = seconds
        self._secrets: dict[Secret, tuple[float, Sequence[str] | Unavailable]] = {}
        """When a secret was looked up, in seconds, and what was found."""

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
        except (Refused, UsageError, Unavailable) as error:
            await self._reject(event, body, error)
            raise
        names = _names(hint, forges) if hint else ()
        if hint is None or not names:
            self._journal.count(event, "ignored")
            return
        hint = replace(hint, repos=names)
        outcome = await asyncio.to_thread(self._journal.add, hint, digest(body))
        self._journal.count(event, outcome)
        if outcome == "taken":
            self._pass_on(hint)

    def resume(self) -> None:
        """Pass on what came before a crash and was not acted upon; call it once the specs are read."""
        for delivery in self._journal.pending():
            self._pass_on(delivery.hint)

    def _pass_on(self, hint: Hint) -> None:
        self._notify(hint, partial(self._journal.complete, hint.delivery))

    async def _reject(self, event: str, body: bytes, error: ReconcilerError) -> None:
        """Note a delivery that is not accepted, for those who look for it."""
        if not isinstance(error, Unavailable):
            self._journal.count(event, "refused")
        places = {forge.repo for forge in self._view.desired.forges.values()}
        place = await asyncio.to_thread(_claimed_place, body, places)
        await asyncio.to_thread(self._journal.reject, event, place, _STATUSES[type(error)], str(error))

    async def _signers(self, headers: Mapping[str, str], body: bytes) -> Mapping[str, Forge]:
        """
        Return the forges whose secret the body is signed with.

        Strangers may send many large bodies: each is digested once for each
        secret, however many repos share it, and not on the event loop.
        """
        forges = {name: forge for name, forge in self._view.desired.forges.items() if forge.webhook_secret}
        places = {forge.webhook_secret for forge in forges.values() if forge.webhook_secret}
        values_by_place = await self._look_up(places, _FRESH)
        good = await _signed_with(values_by_place, headers, body)
        if not good and (renewed := await self._look_up(places, _RENEWED)) != values_by_place:
            values_by_place, good = renewed, await _signed_with(renewed, headers, body)
        if good:
            return {name: forge for name, forge in forges.items() if forge.webhook_secret in good}
        if problem := next(
            (each for each in values_by_place.values() if isinstance(each, Unavailable)), None
        ):
            raise problem
        if not self._view.desired.revision:
            raise Unavailable("the specs, which name the webhook secrets, were not read yet; send it again")
        raise Refused(
            "no webhook secret of this fleet made its signature, or is its token; "
            "`reconciler webhook install` sets it up"
        )

    async def _look_up(
        self, places: Collection[Secret], most_seconds: float
    ) -> Mapping[Secret, Sequence[str] | Unavailable]:
        """Return the values at each place, or why there are none; look up what is older than that."""
        self._secrets = {place: cached for place, cached in self._secrets.items() if place in places}
        for place in places:
            at, _ = self._secrets.get(place, (-math.inf, ()))
            if (now := self._seconds()) >= at + most_seconds:
                self._secrets[place] = now, await self._values(place)
        return {place: values for place, (_, values) in self._secrets.items()}

    async def _values(self, place: Secret) -> Sequence[str] | Unavailable:
        try:
            return (await self._secret(place)).split()
        except Unavailable as error:
            return error


async def _signed_with(
    values_by_place: Mapping[Secret, Sequence[str] | Unavailable], headers: Mapping[str, str], body: bytes
) -> Collection[Secret]:
    """Return the places of the secrets that a body is signed with."""
    readable = {
        place: values for place, values in values_by_place.items() if not isinstance(values, Unavailable)
    }
    secrets = {value for values in readable.values() for value in values}
    good = await asyncio.to_thread(has_valid_signature, body, headers, secrets)
    return {place for place, values in readable.items() if not good.isdisjoint(values)}


def _claimed_place(body: bytes, places: Collection[str]) -> str:
    """Return the repository of the fleet that a body claims to be from; empty if it names none."""
    by_name = {place.lower(): place for place in places}
    names = (match[1].decode("utf-8", "replace").lower() for match in _FULL_NAME.finditer(body))
    return next((by_name[name] for name in names if name in by_name), "")


def _names(hint: Hint, forges: Mapping[str, Forge]) -> tuple[str, ...]:
    """Return the names of the repository it is from, among those whose secret it knows."""
    place = hint.place.lower()
    return tuple(name for name, forge in forges.items() if forge.repo.lower() == place)
