"""
Notify: a webhook's hint makes the pollers that it concerns poll now.
"""

from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any

from reconciler.controller.branches import BranchController
from reconciler.controller.inbox import Inbox
from reconciler.controller.poller import Latch, Poller
from reconciler.controller.ports import Clock
from reconciler.controller.pull_requests import PullRequestController
from reconciler.core.model.forge import Hint
from reconciler.core.model.specs import FLEET_FORGE


def notify(
    hint: Hint,
    done: Callable[[], None],
    *,
    pulls: PullRequestController,
    branches: BranchController,
    pollers: Iterable[Poller[Any]],
    state_branch: str,
) -> None:
    """
    Let those look now whom a hint may concern; what it says is not believed.

    Its repos are the keys, `FLEET_FORGE` among them: each poller knows its own.
    `done` is called once all of them have looked, and what they saw is on record.
    Nobody looks because we pushed to `state_branch`: each transition does.
    """
    is_ours = hint.sender in pulls.accounts
    if is_ours and hint.branch == state_branch and FLEET_FORGE in hint.repos:
        done()
        return
    latch = Latch(done)
    pulls.notify(hint, latch)
    branches.notify(hint, latch)
    for poller in pollers:
        if hint.branch is not None or not poller.only_pushes:
            poller.notify(hint.repos, latch=latch)
    latch.release()


def specs_poller(
    fetch: Callable[[], Awaitable[None]], inbox: Inbox, interval: Callable[[], timedelta], clock: Clock
) -> Poller[None]:
    """Return the poller of the fleet's own repository: what a remote has is fetched, then the loop reads."""

    async def poll(_: None) -> None:
        await fetch()
        inbox.notify()

    return Poller(
        poll=poll,
        subjects=lambda: {FLEET_FORGE: None},
        interval=interval,
        clock=clock,
        failure="is not fetched now",
        only_pushes=True,  # or each of our own comments and statuses would be a fetch
        due={FLEET_FORGE: clock() + interval()},  # it was fetched when it was opened
    )
