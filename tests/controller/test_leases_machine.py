"""
Outside agents on a fleet in use: answers are lost, commits fail, the process dies.

Whatever happens, one agent at a time holds a task, what was acknowledged is on
record, and in the end every task is settled or says what it waits for.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reconciler.core.errors import Conflict, NotFound, Refused, Unavailable
from reconciler.core.events import Assigned, Reported, WorkerReport
from reconciler.core.model.runs import Claim, read_run_key
from reconciler.core.model.specs import Agent, DesiredState, ExecutionMode, Repo
from reconciler.core.model.status import LeaseRequest, Phase
from tests.fakes import (
    FAILURE,
    RED,
    START,
    SUCCESS,
    FakeClock,
    FakeDispatch,
    FakeSpecs,
    FakeState,
    make_desired,
    make_loop,
    make_task,
)

NAMES = ("a", "b", "c")
AGENTS = {"jeeves": Agent(name="jeeves", slots=2, capabilities=("gpu",)), "hermes": Agent(name="hermes")}
REPOS = {"web": Repo(name="web", url="web.git")}
LEASE = timedelta(seconds=60)
FIELDS = st.fixed_dictionaries(
    {
        "execution_mode": st.sampled_from([*[ExecutionMode.HTTP_PULL] * 4, ExecutionMode.SSH_CLI]),
        "repo": st.sampled_from([None, "web"]),
        "review": st.sampled_from(["none", "merge"]),
        "requires": st.sampled_from([(), (), ("gpu",)]),
        "disconnect": st.sampled_from(["wait", "retry", "fail"]),
        "retries": st.integers(0, 2),
        "on_delete": st.sampled_from(["cancel", "finish", "orphan"]),
        "on_change": st.sampled_from(["continue", "restart"]),
        "goal": st.sampled_from(["Do it.", "Do something else."]),
    }
)
CLAIMS = st.builds(
    Claim,
    outcome=st.sampled_from(["review_pending", "completed", "completed", "failed", "released"]),
    result=st.sampled_from(["", "it is done"]),
)


def pulled(name, **fields):
    return make_task(name, **{"execution_mode": ExecutionMode.HTTP_PULL, **fields})


class Silent(FakeState):
    """A record that may fall silent in the middle: then it is open whether it has the steps."""

    def __init__(self):
        super().__init__()
        self.silences = 0
        self.cut = None
        """After how many steps the next commit of more is cut off by the end of the process."""
        self.is_cut = False

    async def commit(self, steps):
        await asyncio.sleep(0)  # others have a turn while a commit is under way
        if self.cut is not None and len(steps) > self.cut:
            await super().commit(steps[: self.cut])
            self.cut, self.is_cut = None, True
            await asyncio.Event().wait()
        await super().commit(steps)
        if self.silences:
            self.silences -= 1
            raise Unavailable("the remote fell silent")


@dataclass(eq=False)
class Held:
    """What an agent believes that it holds."""

    task: str
    agent: str
    epoch: int
    run: str
    key: str
    heard_at: datetime = START
    claims: list[Claim] = field(default_factory=list)
    """Those that were acknowledged."""


class Office(RuleBasedStateMachine):
    """People, agents, a record that fails and a process that dies around one loop."""

    def __init__(self):
        super().__init__()
        self.events = asyncio.new_event_loop()
        self.clock, self.specs, self.state = FakeClock(), FakeSpecs(), Silent()
        self.dispatch = FakeDispatch()
        self.held: list[Held] = []
        self.keys = 0
        self.started_at = START
        self.push({"a": pulled("a"), "b": pulled("b", repo="web")})
        self.start()

    def start(self):
        self.loop = make_loop(
            self.specs, self.state, self.dispatch, self.clock, pause=lambda news, _: news.wait()
        )
        self.started_at = self.clock.time
        self.serving = self.events.create_task(self.loop.run())
        self.turn()

    def push(self, tasks):
        self.tasks = tasks
        self.keys += 1
        revision = f"{self.keys:040x}"
        self.specs.push(make_desired(*tasks.values(), agents=AGENTS, repos=REPOS, revision=revision))

    def turn(self, work=None):
        """Let everybody have some turns; return what the work came to, or None if it is not over."""
        asked = self.events.create_task(work) if work else None

        async def turns():
            for _ in range(40):
                await asyncio.sleep(0)

        self.loop.inbox.notify()
        self.events.run_until_complete(turns())
        if self.state.is_cut:
            self.state.is_cut = False
            self.nobody_loses_a_lease_that_has_not_ended()  # as long as it is known since when it lived
            self.the_process_dies_and_comes_back()
        if asked is None:
            return None
        if not asked.done():
            asked.cancel()  # the answer is lost
            self.events.run_until_complete(turns())
            return None
        return asked.result()

    # --- What people do ---

    @rule(name=st.sampled_from(NAMES), fields=FIELDS)
    def push_a_task(self, name, fields):
        self.push({**self.tasks, name: make_task(name, **fields)})
        self.turn()

    @rule(name=st.sampled_from(NAMES), preference=st.sampled_from(DesiredState))
    def ask_for(self, name, preference):
        if name in self.tasks:
            spec = self.tasks[name]
            generation = f"{spec.generation[:30]}-{preference[:3]}"
            changed = spec.model_copy(update={"desired": preference, "generation": generation})
            self.push({**self.tasks, name: changed})
            self.turn()

    @rule(name=st.sampled_from(NAMES), is_heard=st.booleans())
    def remove(self, name, is_heard):
        self.push({n: spec for n, spec in self.tasks.items() if n != name})
        if is_heard:
            self.turn()

    @rule(name=st.sampled_from(NAMES), is_heard=st.booleans())
    def move(self, name, is_heard):
        moved = f"moved/{name}"
        if name in self.tasks and moved not in self.tasks:
            others = {n: spec for n, spec in self.tasks.items() if n != name}
            self.push({**others, moved: self.tasks[name].model_copy(update={"name": moved})})
            if is_heard:
                self.turn()

    # --- What agents do ---

    @rule(agent=st.sampled_from(sorted(AGENTS)), is_lost=st.booleans())
    def acquire(self, agent, is_lost):
        self.keys += 1
        self.ask(agent, str(self.keys), is_lost=is_lost)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def bid_with_the_same_key(self, data):
        held = data.draw(st.sampled_from(self.held))
        self.ask(held.agent, held.key)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def start_work(self, data):
        self.say(data.draw(st.sampled_from(self.held)), None)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), claim=CLAIMS, times=st.integers(1, 2))
    def report(self, data, claim, times):
        held = data.draw(st.sampled_from(self.held))
        for _ in range(times):
            self.say(held, claim)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def beat(self, data):
        held = data.draw(st.sampled_from(self.held))
        commits = len(self.state.log)
        with suppress(Refused, NotFound):
            if self.loop.controllers.leases.heartbeat(held.task, held.agent, held.epoch) is None:
                held.heard_at = self.clock.time
        assert len(self.state.log) == commits

    # --- What happens ---

    @rule(seconds=st.sampled_from([1, 20, 59, 61, 600]))
    def time_passes(self, seconds):
        self.clock.time += timedelta(seconds=seconds)
        self.turn()

    @rule(error=st.sampled_from([Conflict("moved"), Unavailable("no disk")]))
    def commits_fail(self, error):
        self.state.refuse = [error]

    @rule()
    def a_commit_is_there_but_nobody_says_so(self):
        self.state.silences = 1

    @rule(steps=st.integers(1, 2))
    def the_process_dies_in_the_middle_of_a_commit(self, steps):
        self.state.cut = steps

    @rule(hold=st.booleans(), report=st.sampled_from([SUCCESS, RED, FAILURE]), name=st.sampled_from(NAMES))
    def checks_change(self, hold, report, name):
        self.dispatch.hold = hold
        self.dispatch.reports = {name: [report]}

    @rule()
    def the_process_dies_and_comes_back(self):
        self.serving.cancel()
        self.events.run_until_complete(asyncio.wait([self.serving]))
        self.start()

    # --- What must hold ---

    @invariant()
    def the_process_lives(self):
        if self.serving.done():
            self.serving.result()
        assert not self.serving.done()

    @invariant()
    def no_agent_holds_more_than_its_slots(self):
        holding = Counter(
            status.assigned_agent
            for status in self.state.statuses.values()
            if status.phase.is_live and status.assigned_agent and status.claim is None
        )
        assert all(count <= AGENTS[agent].slots for agent, count in holding.items())

    @invariant()
    def epochs_grow(self):
        epochs = {}
        for step in self.state.log:
            if isinstance(step.event, Assigned):
                task, epoch = read_run_key(step.event.run)
                assert epoch > epochs.get(task, 0)
                epochs[task] = epoch

    @invariant()
    def only_the_holder_changes_anything(self):
        for step in self.state.log:
            if isinstance(step.event, Reported):
                assert step.before.phase.is_live
                assert (step.before.run_key, step.before.assigned_agent) == (
                    step.event.run,
                    step.event.origin.actor,
                )

    @invariant()
    def what_was_acknowledged_is_on_record(self):
        on_record = {(s.event.run, s.event.claim) for s in self.state.log if isinstance(s.event, Reported)}
        assert all((held.run, claim) in on_record for held in self.held for claim in held.claims)

    @invariant()
    def nobody_loses_a_lease_that_has_not_ended(self):
        heard = {held.run: held.heard_at for held in self.held}
        for step in self.state.log[self.told :]:
            if step.event.origin.cause == "clock" and step.before and step.before.assigned_agent:
                since = max(heard.get(step.before.run_key, START), self.started_at, step.before.since)
                assert step.event.origin.at - since >= LEASE - timedelta(seconds=1)
        self.told = len(self.state.log)

    told = 0

    def teardown(self):
        """Once agents do what they should, tasks settle or say what they wait for, and it is quiet."""
        try:
            self.come_to_rest()
        finally:
            self.serving.cancel()
            self.events.run_until_complete(asyncio.wait([self.serving]))
            self.events.close()

    def come_to_rest(self):
        self.state.refuse, self.state.silences, self.state.cut = [], 0, None
        self.dispatch.hold, self.dispatch.reports = False, {}
        for order in [order for key, order in self.dispatch.started.items() if key in self.dispatch.followed]:
            self.dispatch.finish(order)
        for _ in range(8):
            self.time_passes(600)
            for agent in sorted(AGENTS) * 2:
                self.acquire(agent, is_lost=False)
            for held in self.held:
                self.say(held, Claim(outcome="completed"))
        self.time_passes(7200)
        self.time_passes(7200)
        commits = len(self.state.log)
        self.time_passes(86400)
        self.time_passes(86400)

        self.the_process_lives()
        assert len(self.state.log) == commits
        for status in self.state.statuses.values():
            assert status.phase.is_settled or status.waiting or status.phase is Phase.REVIEW_PENDING

    # --- Words ---

    def ask(self, agent, key, *, is_lost=False):
        lease_request = LeaseRequest(agent=agent, request_key=key)
        try:
            task = self.turn(self.loop.controllers.leases.acquire(lease_request, timedelta(0)))
        except (Unavailable, Refused):
            return
        if task is None or is_lost:
            return
        status = self.state.statuses[task]
        assert status.phase.is_live
        assert (status.holder.agent, status.holder.request_key) == (agent, key)
        given = [held for held in self.held if held.key == key]
        if status.run_key not in {held.run for held in given}:
            assert not any(self.is_held(held) for held in given)
            self.held.append(Held(task, agent, status.attempt, status.run_key, key, heard_at=self.clock.time))

    def is_held(self, held):
        """Return whether a task is still in the hands of the agent that got it."""
        live = [status for status in self.state.statuses.values() if status.phase.is_live]
        return any(status.run_key == held.run and status.claim is None for status in live)

    def say(self, held, claim):
        said = WorkerReport(
            task=held.task, agent=held.agent, epoch=held.epoch, at=self.clock.time, claim=claim
        )
        try:
            status = self.turn(self.loop.controllers.leases.submit(said))
        except (Unavailable, Refused, NotFound):
            return
        if status is not None:
            assert (status.run_key, status.assigned_agent) == (held.run, held.agent)
            held.heard_at = self.clock.time
            held.claims += [claim] if claim else []


Office.TestCase.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=30)
test_agents_on_a_fleet_in_use = Office.TestCase
