"""
A whole controller in virtual time, under edits, crashes, partitions, duplicates and facts out of order.

Core, controller and store are real, the record a branch in a git repository; hosts, workers, people and
the forge are those of `bench.simulate`. Whatever happens: every step on record is legal and on one line,
no attempt begins twice, and no task has two live runs. Once it is quiet, every task is settled or says
what it waits for, and nothing more is written.
"""

import asyncio
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from bench.simulate import START, Forges, Hosts, People, Scenario, Workers, _Like, _template
from bench.virtual import VirtualTime
from reconciler.controller.build import build_loop
from reconciler.controller.cache import FleetCache
from reconciler.controller.ports import ControllerSettings, Emit, Fact, Ports, Step
from reconciler.core.errors import Conflict, Unavailable
from reconciler.core.events import RunSeen
from reconciler.core.lifecycle import Transition, transition
from reconciler.core.model.forge import ForgeView, Hint, PullRequestSnapshot
from reconciler.core.model.runs import RunRequest
from reconciler.core.model.specs import DesiredState, FleetSpec, Forge
from reconciler.core.model.status import Phase, Status
from reconciler.git.repository import Repository
from reconciler.store.state import StateBranch

NAMES = ("a", "b", "c", "d")
KINDS = {
    "plain": _Like("r0", is_pulled=False, is_reviewed=False, needs_gpu=False, priority=0, slots=1),
    "gpu": _Like("r0", is_pulled=False, is_reviewed=False, needs_gpu=True, priority=5, slots=1),
    "reviewed": _Like("r1", is_pulled=False, is_reviewed=True, needs_gpu=False, priority=0, slots=1),
    "pulled": _Like("r0", is_pulled=True, is_reviewed=False, needs_gpu=False, priority=0, slots=1),
}
SCENARIO = Scenario(hosts=3, tasks=4000, workers=2, repos=2, away=0.7, failing=0.2)
QUIET = timedelta(hours=3)
SETTINGS = ControllerSettings(probe_interval=timedelta(minutes=10))


class Died(BaseException):
    """The process has ended here."""


class Record:
    """The state branch, whose commits may be refused, or be the last thing that a process does."""

    def __init__(self, state: StateBranch, log: list[Transition], fates: list[str]) -> None:
        self._state, self._log, self._fates = state, log, fates

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    async def commit(self, steps: Sequence[Step]) -> None:
        fate = self._fates.pop(0) if self._fates else ""
        if fate == "unavailable":
            raise Unavailable("the remote is away")
        if fate == "conflict":
            raise Conflict("somebody else wrote first")
        if fate == "died before":
            raise Died
        await self._state.commit(steps)
        self._log += [step for step in steps if isinstance(step, Transition)]
        if fate == "died after":
            raise Died


class Survivors(Hosts):
    """Hosts on which runs go on while there is no controller, and which may say everything twice."""

    def __init__(self, scenario: Scenario, world: VirtualTime) -> None:
        super().__init__(scenario, world)
        self.begun: dict[tuple[str, int], str] = {}
        """Host of each round that was started."""
        self.reports: dict[tuple[str, int], Any] = {}
        self.stutters = False

    def follow(self, order: RunRequest, emit: Emit) -> None:
        emit = self._stuttering(emit)
        if order.key in self.begun:
            assert self.begun[order.key] == order.host.name
            self._following[order.key] = emit
            self.world.after(1, lambda: self._again(order))
        else:
            self.begun[order.key] = order.host.name
            super().follow(order, emit)

    def stop(self, order: RunRequest, why: str, emit: Emit) -> None:
        self.begun.setdefault(order.key, order.host.name)
        super().stop(order, why, self._stuttering(emit))

    def _again(self, order: RunRequest) -> None:
        report = self.reports.get(order.key)
        self._seen(order) if report is None else self._end(order, report)

    def _end(self, order: RunRequest, report: Any) -> None:
        super()._end(order, self.reports.setdefault(order.key, report))

    def _stuttering(self, emit: Emit) -> Emit:
        def say(fact: Fact) -> None:
            emit(fact)
            if self.stutters:  # twice, and the first sign of life after the end
                self.world.after(5 if isinstance(fact, RunSeen) else 2, lambda: emit(fact))

        return say


class AwayForges(Forges):
    """A forge that may not answer."""

    is_away = False

    async def pulls(
        self, forge: Forge, branches: Collection[str], fresh: Collection[int], *, refreshes: bool = True
    ) -> Mapping[str, PullRequestSnapshot]:
        self._require()
        return await super().pulls(forge, branches, fresh, refreshes=refreshes)

    async def show(self, forge: Forge, want: ForgeView) -> PullRequestSnapshot | None:
        self._require()
        return await super().show(forge, want)

    def _require(self) -> None:
        if self.is_away:
            raise Unavailable("the forge does not answer")


class FleetMachine(RuleBasedStateMachine):
    """See the top of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.aio = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.git_dir = Path(self.folder.name) / "fleet.git"
        subprocess.run(["git", "init", "-q", "--bare", "--template=", self.git_dir], check=True)
        self.world = VirtualTime(START, timedelta(seconds=SCENARIO.tick))
        self.people = People(SCENARIO, self.world)
        fleet = FleetSpec(lease=timedelta(minutes=5))
        self.people.desired = replace(self.people.desired, fleet=fleet)
        self.hosts, self.forges = Survivors(SCENARIO, self.world), AwayForges(SCENARIO, self.world)
        self.log: list[Transition] = []
        self.head = ""
        self.numbers = 0

    # --- What people do ------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), kind=st.sampled_from(list(KINDS)))
    def push(self, name: str, kind: str) -> None:
        self.numbers += 1
        generation = f"{self.numbers:040x}"
        made = _template(KINDS[kind])
        self._edit(
            name, made.model_copy(update={"name": name, "generation": generation, "work": generation[-12:]})
        )

    @rule(name=st.sampled_from(NAMES), desired=st.sampled_from(list(DesiredState)))
    def steer(self, name: str, desired: DesiredState) -> None:
        if task := self.people.desired.tasks.get(name):
            self.numbers += 1
            self._edit(
                name, task.model_copy(update={"desired": desired, "generation": f"{self.numbers:040x}"})
            )

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        self._edit(name, None)

    def _edit(self, name: str, task: Any) -> None:
        tasks = {**self.people.desired.tasks, name: task}
        self.people.pushes += 1
        self.people.desired = replace(
            self.people.desired,
            revision=f"{self.people.pushes:040x}",
            tasks={name: task for name, task in tasks.items() if task},
        )

    # --- What goes wrong -----------------------------------------------------

    @rule(is_away=st.booleans())
    def cut_off_hosts(self, is_away: bool) -> None:
        self.hosts.is_away = is_away

    @rule(is_away=st.booleans())
    def cut_off_forge(self, is_away: bool) -> None:
        self.forges.is_away = is_away

    @rule(stutters=st.booleans())
    def say_twice(self, stutters: bool) -> None:
        self.hosts.stutters = stutters

    # --- What time brings ----------------------------------------------------

    @rule(
        seconds=st.sampled_from([5, 60, 600, 7200]),
        fates=st.lists(
            st.sampled_from(["", "", "unavailable", "conflict", "died before", "died after"]), max_size=6
        ),
    )
    def live(self, seconds: int, fates: list[str]) -> None:
        """Let a process live for a time, or die on its way."""
        self.aio.run_until_complete(self._live(timedelta(seconds=seconds), list(fates)))
        self._check()

    @rule()
    def be_quiet(self) -> None:
        """Let everything work again: all settles or says why not, and then nothing more is written."""
        self.hosts.is_away = self.forges.is_away = self.hosts.stutters = False
        self.aio.run_until_complete(self._live(QUIET, []))
        self._check()
        before = self.head
        for name, status in self._statuses().items():
            is_said = status.phase.is_settled or status.waiting is not None
            assert is_said or name not in self.people.desired.tasks, f"{name}: {status}"
            assert not status.phase.is_live, f"{name}: {status}"
        self.aio.run_until_complete(self._live(timedelta(hours=1), []))
        assert self.head == before, self._git("log", "--format=%s%n%b", f"{before}..{self.head}")

    async def _live(self, time: timedelta, fates: list[str]) -> None:
        cache, world = FleetCache(), self.world
        repository = await Repository.open(str(self.git_dir), self.git_dir)
        state = await StateBranch.open(
            repository,
            "fleet-state",
            token=lambda: "0" * 12,
            clock=world,
            revision=lambda: cache.desired.revision,
        )
        try:
            loaded, _ = await state.load()
            kept, acknowledged = (
                {name: _essence(status) for name, status in each.items()}
                for each in (loaded, self._statuses())
            )
            assert kept == acknowledged, "what was acknowledged is on record"
            turn = world.join()
            ports = Ports(
                specs=self.people,
                state=Record(state, self.log, fates),
                dispatch=self.hosts,
                prober=self.hosts,
                forges=self.forges,
                clock=world,
                monotonic=world.seconds,
                pause=turn.pause,
            )
            loop = build_loop(cache, ports, SETTINGS)
            self.people.readers = [loop.inbox.notify]
            self.forges.hooks = [self._twice(loop.controllers.pulls.notify)]
            world.at_end, world.end = [loop.stop], world.now + time
            workers = Workers(SCENARIO, world, loop)
            run = asyncio.create_task(turn.run(loop.run))
            await world.hand_on()
            tasks = [asyncio.create_task(workers.work(name)) for name in self.people.desired.agents]
            with suppress(Died):
                await run
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await state.close()
            await repository.close()

    @staticmethod
    def _twice(notify: Any) -> Any:
        def hint(hint: Hint) -> None:
            notify(hint)
            notify(hint)

        return hint

    def _statuses(self) -> Mapping[str, Any]:
        last = {step.task: step.after for step in self.log}
        return {name: status for name, status in last.items() if status is not None}

    # --- What must always be so ----------------------------------------------

    def _check(self) -> None:
        last: dict[str, Any] = {}
        for step in self.log:
            assert _essence(step.before) == _essence(last.get(step.task)), f"{step} begins elsewhere"
            assert transition(step.before, step.event) == step.after
            last[step.task] = step.after
        attempts = Counter(step.after.run_key for step in self.log if step.after and _is_new_attempt(step))
        assert not [run for run, times in attempts.items() if times > 1], "an attempt begins twice"
        before, self.head = self.head, self._git("rev-parse", "fleet-state")
        assert not before or self._git("merge-base", before, self.head) == before
        assert self._git("rev-list", "--min-parents=2", self.head) == ""

    def _git(self, *args: str) -> str:
        done = subprocess.run(["git", "-C", self.git_dir, *args], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def teardown(self) -> None:
        self.be_quiet()
        self.aio.close()
        self.folder.cleanup()


def _essence(status: Status | None) -> object:
    """Return where a task stands; its times are on record to the millisecond."""
    return status and (status.phase, status.attempt, status.run_key, status.generation, status.removed)


def _is_new_attempt(step: Transition) -> bool:
    return step.after.phase is Phase.ASSIGNED and (step.before is None or step.before.phase is Phase.CREATED)


TestFleetMachine = FleetMachine.TestCase
TestFleetMachine.settings = settings(max_examples=3, stateful_step_count=10)
