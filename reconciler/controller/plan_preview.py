"""
Plan preview: shows on each pull request against the specs what merging it would do.

Its specs, be they of a fork, are only compared with those in force: no command
in them is run and no secret is looked up.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from reconciler.controller.poller import Poller
from reconciler.controller.ports import Clock, FleetView, Forges
from reconciler.core.errors import Conflict, NotFound, ReconcilerError
from reconciler.core.faults import bug_message
from reconciler.core.model.forge import CommitStatus, ManagedComment, PullRequestSnapshot
from reconciler.core.model.specs import FLEET_FORGE, Desired, Forge
from reconciler.core.model.status import Observed
from reconciler.core.planning.preview import (
    Forecast,
    comment,
    difference,
    forecast,
    no_plan_comment,
    summary,
)

log = logging.getLogger(__name__)

KEY = "plan"
CONTEXT = "reconciler/plan"

REFRESHED = 8
"""Most plans that are made anew at each look though neither pull request nor base has moved."""

AT_ONCE = 4
"""Plans that are made and shown at a time: one is read while others wait for the forge."""

ReadPull = Callable[[PullRequestSnapshot, str], Awaitable[Desired]]
"""
Return what the specs would ask for with a pull request merged into a commit.

Raises Conflict if it cannot be merged without a person, Unavailable.
"""

FetchPulls = Callable[[Sequence[PullRequestSnapshot]], Awaitable[None]]
"""Fetch the commits of pull requests at once, as far as they can be had: reading them is quick then."""


@dataclass
class PlanPreview:
    """Keeps one comment and one commit status up to date on every pull request against the specs."""

    forges: Forges
    read: ReadPull
    fetch: FetchPulls
    view: FleetView
    branch: str
    """The one with the specs."""
    clock: Clock

    poller: Poller[str] = field(init=False)
    open: Sequence[PullRequestSnapshot] = field(default=(), init=False)
    """The open pull requests, as of the last poll."""
    _read: "dict[int, _Specs]" = field(default_factory=dict, init=False)
    """What was read last, by number."""
    _shown: dict[int, Hashable] = field(default_factory=dict, init=False)
    """What is shown, by number."""

    def __post_init__(self) -> None:
        self.poller = Poller(
            poll=self.poll,
            subjects=self._revision,
            interval=lambda: self.view.desired.fleet.forge_interval,
            clock=self.clock,
            failure="plans on pull requests wait for the next look",
        )

    def _revision(self) -> Mapping[str, str]:
        """Return the revision to compare with, if there is a forge; a new one makes new plans."""
        desired = self.view.desired
        return {FLEET_FORGE: desired.revision} if desired.fleet.forge and desired.revision else {}

    async def poll(self, _: str) -> None:
        """Show on each open pull request what it would do; what fails is retried at the next poll."""
        forge = self.view.desired.fleet.forge
        if forge is None:
            return
        self.open = pulls = await self.forges.open_pulls(forge, self.branch)
        numbers = {pull.number for pull in pulls}
        self._read = {number: specs for number, specs in self._read.items() if number in numbers}
        self._shown = {number: shown for number, shown in self._shown.items() if number in numbers}
        if due := self._due(pulls):
            await self.fetch(due)
            base = asyncio.ensure_future(self._forecast(self.view.desired))  # once for all of them
            gate = asyncio.Semaphore(AT_ONCE)
            await asyncio.gather(*(self._try_to_show(forge, pull, base, gate) for pull in due))

    async def _try_to_show(
        self, forge: Forge, pull: PullRequestSnapshot, base: Awaitable[Forecast], gate: asyncio.Semaphore
    ) -> None:
        """Show the plan on a pull request; one that fails says why, and holds up no other."""
        async with gate:
            try:
                await self._show(forge, pull, await base)
            except ReconcilerError as error:
                log.warning("the plan on pull request %d waits for the next look: %s", pull.number, error)
            except Exception as error:
                log.exception("there is no plan on pull request %d; the others have theirs", pull.number)
                await self._try_to_say_none(forge, pull, bug_message(error))

    async def specs_of(self, number: int) -> Desired:
        """
        Return what the specs would ask for with an open pull request merged.

        Raises NotFound if none of that number was open at the last poll, Conflict
        if it cannot be merged without a person, Unavailable.
        """
        pull = next((each for each in self.open if each.number == number), None)
        if pull is None:
            raise NotFound(f"no pull request #{number} against the specs is open")
        return await self._specs(pull, self.view.desired.revision)

    def _due(self, pulls: Sequence[PullRequestSnapshot]) -> Sequence[PullRequestSnapshot]:
        """Return those that moved, or whose base did, and a few of the others, in turn."""
        revision = self.view.desired.revision
        still = [pull for pull in pulls if self._is_read(pull, revision)]
        order = {number: turn for turn, number in enumerate(self._shown)}
        still.sort(key=lambda pull: order.get(pull.number, -1))
        return [*(pull for pull in pulls if not self._is_read(pull, revision)), *still[:REFRESHED]]

    def _is_read(self, pull: PullRequestSnapshot, revision: str) -> bool:
        cached = self._read.get(pull.number)
        return cached is not None and cached.of == (pull.head, revision)

    async def _forecast(self, desired: Desired) -> Forecast:
        """Return the forecast for specs; not on the event loop: many tasks take their time."""
        observed = Observed(dict(self.view.statuses), dict(self.view.hosts), damaged=dict(self.view.damaged))
        return await asyncio.to_thread(forecast, desired, observed, self.clock())

    async def _show(self, forge: Forge, pull: PullRequestSnapshot, base: Forecast) -> None:
        """Show the plan, unless the same one is shown already."""
        try:
            head = await self._specs(pull, self.view.desired.revision)
        except Conflict as conflict:
            await self._say_none(forge, pull, "no plan: conflicts", str(conflict))
            return
        change = difference(base, await self._forecast(head))
        state, description = summary(change)
        commit_status = CommitStatus(commit=pull.head, state=state, description=description, context=CONTEXT)
        await self._say(forge, pull, commit_status, comment(change, pull.head), change.gist)

    async def _say_none(self, forge: Forge, pull: PullRequestSnapshot, description: str, why: str) -> None:
        """Show that there is no plan, and why."""
        commit_status = CommitStatus(
            commit=pull.head, state="failure", description=description, context=CONTEXT
        )
        await self._say(forge, pull, commit_status, no_plan_comment(why, pull.head), why)

    async def _try_to_say_none(self, forge: Forge, pull: PullRequestSnapshot, why: str) -> None:
        try:
            await self._say_none(forge, pull, "no plan: a bug of the reconciler", why)
        except Exception:
            log.exception("pull request %d does not show that it has no plan", pull.number)

    async def _say(
        self, forge: Forge, pull: PullRequestSnapshot, commit_status: CommitStatus, text: str, gist: Hashable
    ) -> None:
        before = self._shown.pop(pull.number, None)
        if before == (pull.head, gist):
            self._shown[pull.number] = before  # the last in turn
            return
        note = ManagedComment(key=KEY, text=text)
        await self.forges.upsert_comment(forge, pull.number, note, on_pull=True)
        await self.forges.commit_status(forge, commit_status)
        self._shown[pull.number] = pull.head, gist

    async def _specs(self, pull: PullRequestSnapshot, base: str) -> Desired:
        """Return the specs of a pull request; read once, until it or its base moves."""
        cached = self._read.get(pull.number)
        if cached is None or cached.of != (pull.head, base):
            desired = await self.read(pull, base)
            cached = self._read[pull.number] = _Specs((pull.head, base), desired)
        return cached.desired


class _Specs(NamedTuple):
    of: tuple[str, str]
    """Head and base."""
    desired: Desired
