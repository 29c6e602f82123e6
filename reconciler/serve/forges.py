"""
Forges of a served fleet: which of them cannot be worked with, by everything that asks them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.controller.loop import Loop
from reconciler.controller.poller import Poller
from reconciler.controller.ports import Clock
from reconciler.core.outages import ForgeOutage
from reconciler.forge.forgejo import ForgeRegistry


class ForgeOutages:
    """Which forges cannot be worked with now, and since when, by repo; the fleet's own is `.fleet`."""

    def __init__(
        self, loop: Loop, forges: ForgeRegistry, pollers: Sequence[Poller[Any]], clock: Clock
    ) -> None:
        self._loop = loop
        self._forges = forges
        self._pollers = (loop.controllers.pulls.poller, *pollers)
        self._clock = clock
        self._outages: Mapping[str, ForgeOutage] = {}

    def __call__(self) -> Mapping[str, ForgeOutage]:
        """Return the outages; one goes on, whatever its message says, until the forge was worked with."""
        now, before = self._clock(), self._outages
        self._outages = {
            repo: ForgeOutage(why, before[repo].since if repo in before else now)
            for repo, why in self._problems().items()
        }
        return self._outages

    def _problems(self) -> Mapping[str, str]:
        places = self._loop.cache.desired.forges
        failing: dict[str, str] = {}
        for poller in self._pollers:
            failing |= poller.failing()
        denied = {
            repo: "; ".join(denials) for repo in places if (denials := self._forges.denials(places[repo]))
        }
        return {repo: why for repo, why in failing.items() if repo in places} | denied


def unasked_forges(loop: Loop, pollers: Sequence[Poller[Any]]) -> frozenset[str]:
    """Return the repos whose forge is to be asked and was not yet; the fleet's own as `.fleet`."""
    polls = (loop.controllers.pulls.poller, *pollers)
    unasked = {key for poller in polls for key in poller.subjects() if key not in poller.polled}
    return frozenset(unasked & loop.cache.desired.forges.keys())
