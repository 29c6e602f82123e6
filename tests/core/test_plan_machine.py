"""
A fleet in use: people push, rounds end, reviewers answer, time passes, the process dies.

After every step the promises of the planner must hold.
"""

from collections import Counter
from dataclasses import replace
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reconciler.core.audit import Audit
from reconciler.core.events import Assigned, ChangesRequested, Origin
from reconciler.core.model.specs import Answer, DesiredState, FleetSpec
from reconciler.core.model.status import Phase, Reason
from reconciler.core.planning.plan import needs_attention, plan, prune_digest
from tests.strategies import NAMES, STOPPED, SUCCESS, World, desireds, recorded, reports, tasks


class Fleet(RuleBasedStateMachine):
    """People, hosts and clock around a planner whose record must never be wrong."""

    @initialize(desired=desireds())
    def begin(self, desired):
        self.world = World(desired)
        self.seen = frozenset()

    # --- What people do ---

    @rule(name=st.sampled_from(NAMES), data=st.data())
    def push_a_task(self, name, data):
        self.push({**self.tasks, name: data.draw(tasks(name))})

    @rule(name=st.sampled_from(NAMES), preference=st.sampled_from(DesiredState))
    def ask_for(self, name, preference):
        if name in self.tasks:
            spec = self.tasks[name]
            generation = f"{spec.generation[:36]}-{preference[:3]}"
            change = {"desired": preference, "generation": generation}
            self.push({**self.tasks, name: spec.model_copy(update=change)})

    @rule(name=st.sampled_from(NAMES), is_late=st.booleans())
    def answer(self, name, is_late):
        status = self.world.observed.statuses.get(name)
        if name in self.tasks and status and status.questions:
            to = status.questions[0 if is_late else -1].id
            generation = f"{self.tasks[name].generation[:30]}-{to}"
            change = {"answer": Answer(to=to, text="That one."), "generation": generation}
            self.push({**self.tasks, name: self.tasks[name].model_copy(update=change)})

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def remove_specs(self, names):
        self.push({name: spec for name, spec in self.tasks.items() if name not in names})

    @rule(name=st.sampled_from(NAMES))
    def move_a_spec(self, name):
        moved = f"moved/{name}"
        if name in self.tasks and moved not in self.tasks:
            others = {n: spec for n, spec in self.tasks.items() if n != name}
            self.push({**others, moved: self.tasks[name].model_copy(update={"name": moved})})

    @rule()
    def allow_the_removal(self):
        waiting = self.plan().waiting.items()
        held = [name for name, wait in waiting if wait.reason is Reason.APPROVAL]
        fleet = FleetSpec(prune_approved=prune_digest(held))
        self.world.push(replace(self.world.desired, fleet=fleet))

    @rule(revision=desireds())
    def push_another_revision(self, revision):
        self.world.push(revision)

    # --- What happens ---

    @rule()
    def look(self):
        planned = self.world.look()
        self.seen = frozenset(planned.waiting)

        assert self.plan().events == ()

    @precondition(lambda self: self.live)
    @rule(data=st.data(), report=reports() | st.just(STOPPED))
    def a_round_ends(self, data, report):
        self.world.end(data.draw(st.sampled_from(self.live)), report)

    @rule()
    def reviewers_answer(self):
        for name, status in dict(self.world.statuses).items():
            if status.phase is Phase.REVIEW_PENDING:
                answer = ChangesRequested(task=name, origin=Origin(self.world.now, "changes requested"))
                self.world.take(answer)

    @rule(minutes=st.integers(0, 20))
    def time_passes(self, minutes):
        self.world.now += timedelta(minutes=minutes)

    @rule()
    def the_process_dies_and_comes_back(self):
        self.world.followed = frozenset()

    # --- What must hold ---

    @invariant()
    def no_run_key_ever_comes_twice(self):
        runs = Counter(step.event.run for step in self.world.history if isinstance(step.event, Assigned))
        assert all(count == 1 for count in runs.values())

    @invariant()
    def what_waits_is_looked_at(self):
        statuses = self.world.statuses
        waiting = [name for name in self.seen if name in statuses and statuses[name].waiting]
        assert all(needs_attention(self.tasks.get(name), statuses[name]) for name in waiting)

    def teardown(self):
        """Once nobody pushes any more, the fleet comes to rest and writes nothing; its record is sound."""
        if hasattr(self, "world"):
            self.world.ends = lambda *_: SUCCESS
            assert self.world.run().events == ()
            audit = Audit()
            assert [flaw for commit in recorded(self.world.history) for flaw in audit.look(commit)] == []

    # --- Words ---

    @property
    def tasks(self):
        return self.world.desired.tasks

    @property
    def live(self):
        return sorted(name for name, status in self.world.statuses.items() if status.phase.is_live)

    def push(self, specs):
        self.world.push(replace(self.world.desired, tasks=specs))

    def plan(self):
        return plan(self.world.desired, self.world.observed, self.world.now)


Fleet.TestCase.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=25)
test_a_fleet_in_use = Fleet.TestCase
