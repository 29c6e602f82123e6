"""A fleet with a repo on a forge that counts what it is asked."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

from reconciler.controller.ports import UNREAD_METER, Meter
from reconciler.core.adapter import Secret
from reconciler.core.model.forge import ForgeView, Hint, PullRequestSnapshot
from reconciler.core.model.runs import Report, Verdict
from reconciler.core.model.specs import Forge, Repo
from tests.fakes import (
    FakeClock,
    FakeDispatch,
    FakeForges,
    FakeSpecs,
    FakeState,
    make_desired,
    make_loop,
    make_task,
)

FORGE = Forge(api="https://forge.example.org/api/v1", repo="ops/web", token=Secret(env="TOKEN"))
REPO = Repo(name="web", url="web.git", forge=FORGE)


class Counting(FakeForges):
    """Forges that count what they are asked, and keep what they were asked to read."""

    def __init__(self, clock):
        super().__init__(clock=clock)
        self.asked = Counter()
        self.fresh = []
        self.refuses_merges = False
        self.refusal = None
        """What a refused merge is answered."""
        self.merge_time = timedelta(0)
        """How long a merge takes."""
        self.show_time = timedelta(0)
        """How long it takes to show a task."""
        self.meanwhile: dict[str, Callable[[], None]] = {}
        """What happens while a task is shown, by its name; once."""
        self.refreshes = []
        """Whether what gave no sign was to be read too, each time."""
        self.lag = 0
        self.odd = ""
        """A task that cannot be shown."""

    async def whoami(self, forge):
        self.asked["whoami"] += 1
        return await super().whoami(forge)

    async def pulls(self, forge, branches, fresh, *, refreshes=True):
        self.asked["pulls"] += 1
        self.refreshes.append(refreshes)
        self.fresh.append(set(fresh))
        found = await super().pulls(forge, branches, fresh)
        await turns(self.lag)  # what was read is old when it arrives
        return found

    async def show(self, forge, want: ForgeView) -> PullRequestSnapshot | None:
        self.asked["show"] += 1
        self.meanwhile.pop(want.task, lambda: None)()
        if want.task == self.odd:
            raise ZeroDivisionError(want.task)
        if self.refuses_merges:
            self.at(forge).heads.setdefault(want.branch, "0" * 40)
            pull = self.at(forge).newest(want.branch)
            if want.merges and pull:
                return replace(self.at(forge).seen(pull), refusal=self.refusal)
        self.clock.time += self.merge_time if want.merges else self.show_time
        return await super().show(forge, want)


@dataclass
class Pushing(FakeDispatch):
    """Hosts whose finished work is on its branch on the forge."""

    push: Callable[[str], str] = lambda _: ""

    def finish(self, order, report=None):
        if order.key not in self.ended and report is None and order.repo:
            verdict = Verdict(outcome="success", text="done")
            report = Report(verdict=verdict, head_commit=self.push(order.branch), commits=1)
        super().finish(order, report)


@dataclass
class Scene:
    """A fleet with a repo on a forge; time passes when a test says so."""

    clock: FakeClock = field(default_factory=FakeClock)
    specs: FakeSpecs = field(default_factory=FakeSpecs)
    state: FakeState = field(default_factory=FakeState)
    meter: Meter = UNREAD_METER

    def __post_init__(self):
        self.forges = Counting(self.clock)
        self.site = self.forges.at(FORGE)
        self.dispatch = Pushing(push=lambda branch: self.site.push(branch, pusher="bot"))
        self.serving = None

    def push(self, *tasks, repo=REPO, **fields):
        self.specs.push(make_desired(*tasks, repos={"web": repo}, **fields))

    async def start(self):
        forges = self.forges
        self.loop = make_loop(
            self.specs,
            self.state,
            self.dispatch,
            self.clock,
            forges=forges,
            pause=self.pause,
            meter=self.meter,
        )
        self.serving = asyncio.create_task(self.loop.run())
        await turns()

    @staticmethod
    async def pause(news, _):
        await news.wait()

    async def stop(self):
        if self.serving is not None:
            self.loop.stop()
            await self.serving

    async def restart(self):
        await self.stop()
        await self.start()

    async def pass_time(self, duration, step=timedelta(seconds=1)):
        """Let time pass in steps."""
        until = self.clock.time + duration
        while self.clock.time < until:
            self.clock.time += step
            self.loop.inbox.notify()
            await turns(20)

    def webhooks(self, *numbers, delivery="d-1"):
        """Let webhooks come that speak of these pull requests; of none if there are none."""
        for number in numbers or [None]:
            hint = Hint(delivery=delivery, event="push", place=FORGE.repo, repos=("web",), pull=number)
            self.loop.controllers.pulls.notify(hint)

    def status(self, task):
        return self.state.statuses[task]


async def turns(count=100):
    """Let everybody have some turns."""
    for _ in range(count):
        await asyncio.sleep(0)


def reviewed(name, **fields):
    """Return a task whose work is reviewed in a pull request."""
    return make_task(name, review="pull_request", repo="web", **fields)
