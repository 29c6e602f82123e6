"""
What a pull request against the specs would do, shown on it while it is open.

Its specs are read to be compared with those in force, and for nothing else.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

from reconciler.controller.periodic import PeriodicTasks
from reconciler.controller.ports import Clock, Controller, Forges, WaitForNews, wait_for_news
from reconciler.core.errors import Conflict, ReconcilerError
from reconciler.core.model.forge import CommitStatus, ManagedComment, PullRequestSnapshot
from reconciler.core.model.specs import Desired, Forge
from reconciler.core.model.status import Observed
from reconciler.core.planning.preview import comment, difference, no_plan_comment, summary

log = logging.getLogger(__name__)

KEY = "plan"
CONTEXT = "reconciler/plan"

ReadPull = Callable[[PullRequestSnapshot, str], Awaitable[Desired]]
"""
Return what the specs would ask for with a pull request merged into a commit.

Raises Conflict if it cannot be merged without a person, Unavailable.
"""


@dataclass
class PlanPreview:
    """
    Keeps one comment and one commit status up to date on every pull request against the specs.

    `run` looks from time to time, `knock` makes it look now.
    """

    forges: Forges
    read: ReadPull
    controller: Controller
    branch: str
    """The one with the specs."""
    clock: Clock
    pause: WaitForNews = wait_for_news

    _news: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _looks: PeriodicTasks[None] = field(init=False)
    _read: "dict[int, _Specs]" = field(default_factory=dict, init=False)
    """What was read last, by number."""
    _shown: dict[int, Hashable] = field(default_factory=dict, init=False)
    """What is shown, by number."""

    def __post_init__(self) -> None:
        self._looks = PeriodicTasks(lambda _: self.look(), self._news.set)

    async def run(self) -> None:
        """Look at the open pull requests again and again, until cancelled."""
        try:
            while True:
                self._news.clear()
                now, interval = self.clock(), self.controller.desired.fleet.forge_interval
                self._looks.send({"fleet": None}, now, interval)
                due = self._looks.next()
                await self.pause(self._news, due - now if due else interval)
        finally:
            await self._looks.close()

    def notify(self) -> None:
        """Say that there may be news."""
        self._looks.notify(["fleet"])
        self._news.set()

    async def look(self) -> None:
        """Show on each open pull request what it would do; what fails is done at the next look."""
        forge = self.controller.desired.fleet.forge
        if forge is None or not self.controller.desired.revision:
            return
        try:
            pulls = await self.forges.open_pulls(forge, self.branch)
        except ReconcilerError as error:
            log.warning("plans on pull requests wait for the next look: %s", error)
            return
        numbers = {pull.number for pull in pulls}
        self._read = {number: specs for number, specs in self._read.items() if number in numbers}
        self._shown = {number: shown for number, shown in self._shown.items() if number in numbers}
        for pull in pulls:
            try:
                await self._show(forge, pull)
            except ReconcilerError as error:
                log.warning("the plan on pull request %d waits for the next look: %s", pull.number, error)
            except Exception:
                log.exception("there is no plan on pull request %d; the others have theirs", pull.number)

    async def _show(self, forge: Forge, pull: PullRequestSnapshot) -> None:
        """Show the plan, if it is another than the one that is there."""
        base = self.controller.desired
        try:
            head = await self._specs(pull, base.revision)
        except Conflict as conflict:
            commit_status = CommitStatus(
                commit=pull.head, state="failure", description="no plan: conflicts", context=CONTEXT
            )
            await self._say(
                forge, pull, commit_status, no_plan_comment(str(conflict), pull.head), str(conflict)
            )
            return
        observed = Observed(self.controller.statuses, self.controller.hosts, damaged=self.controller.damaged)
        change = difference(base, head, observed, self.clock())
        state, words = summary(change)
        commit_status = CommitStatus(commit=pull.head, state=state, description=words, context=CONTEXT)
        await self._say(forge, pull, commit_status, comment(change, pull.head), change.gist)

    async def _say(
        self, forge: Forge, pull: PullRequestSnapshot, commit_status: CommitStatus, text: str, gist: Hashable
    ) -> None:
        if self._shown.get(pull.number) == (pull.head, gist):
            return
        await self.forges.say(forge, pull.number, ManagedComment(key=KEY, text=text))
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
