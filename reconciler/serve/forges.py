"""
Forges of a served fleet: which of them cannot be worked with, by everything that asks them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.controller.loop import Loop
from reconciler.controller.poller import Poller
from reconciler.forge.forgejo import ForgeRegistry


def forge_problems(loop: Loop, forges: ForgeRegistry, pollers: Sequence[Poller[Any]]) -> Mapping[str, str]:
    """Return why forges cannot be worked with now, by repo; that of the fleet's own is `.fleet`."""
    places = loop.cache.desired.forges
    failing: dict[str, str] = {}
    for poller in (loop.controllers.pulls.poller, *pollers):
        failing |= poller.failing()
    denied = {repo: "; ".join(denials) for repo in places if (denials := forges.denials(places[repo]))}
    return {repo: why for repo, why in failing.items() if repo in places} | denied


def unasked_forges(loop: Loop, pollers: Sequence[Poller[Any]]) -> frozenset[str]:
    """Return the repos whose forge is to be asked and was not yet; the fleet's own as `.fleet`."""
    polls = (loop.controllers.pulls.poller, *pollers)
    unasked = {key for poller in polls for key in poller.subjects() if key not in poller.polled}
    return frozenset(unasked & loop.cache.desired.forges.keys())
