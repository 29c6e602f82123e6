"""
The planner that looks at what changed only does what a look at everything would do.
"""

from dataclasses import replace
from datetime import timedelta

from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reconciler.core.errors import Problem
from reconciler.core.events import ChangesRequested, Completed, Origin, Started
from reconciler.core.lifecycle import fold
from reconciler.core.model.specs import Agent, Answer, Ask, Campaign, Desired, ReviewBy, StopAfter
from reconciler.core.model.status import LeaseRequest, Phase
from reconciler.core.planning.incremental import Planner
from reconciler.core.planning.plan import plan
from tests.strategies import (
    HOSTS,
    LIMITS_MET,
    LOADS,
    NAMES,
    PROBES,
    REPOS,
    SPENT,
    STOPPED,
    World,
    blob,
    desireds,
    observeds,
    reports,
    some,
    tasks,
)

MORE = tuple(f"{name}{number}" for name in NAMES for number in "12")
AGENTS = {name: Agent(name=name, slots=2, capabilities=("gpu",)) for name in ("hermes", "jeeves")}
EVERYBODY = tuple(LeaseRequest(agent=name, request_key="more") for name in sorted(AGENTS))
REVIEWERS = [
    None,
    ReviewBy(adapter="codex"),
    ReviewBy(adapter="script"),
    ReviewBy(adapter="codex", account="one"),
]
CHANGES = st.one_of(
    st.fixed_dictionaries({"deadline": st.sampled_from([None, timedelta(minutes=5), timedelta(hours=1)])}),
    st.fixed_dictionaries({"held": st.booleans()}),
    st.fixed_dictionaries({"review_by": st.sampled_from(REVIEWERS)}),
    st.fixed_dictionaries({"ask": st.sampled_from([None, Ask(default="Any.", after=timedelta(minutes=5))])}),
)
SIMPLE = {"schedule": None, "window": (), "not_before": None, "budget": None}
"""Many tasks that wait for a slot only, so that there are lanes."""


class Twins(RuleBasedStateMachine):
    """A fleet in use, and two planners that look at it."""

    @initialize(data=st.data(), desired=desireds())
    def begin(self, data, desired):
        desired = replace(desired, agents=AGENTS)
        observed = data.draw(observeds(desired))
        self.world = World(desired, statuses=observed.statuses, hosts=observed.hosts, probed=observed.probed)
        self.extra = {"load": observed.load, "spent": observed.spent, "half_open": observed.half_open}
        self.followed = observed.followed
        self.planner = Planner()
        self.known = Desired(), {}

    # --- What people do ---

    @rule(names=some(MORE), needed=st.none() | st.sampled_from(NAMES), data=st.data(), change=CHANGES)
    def push_tasks_of_a_kind(self, names, needed, data, change):
        first = data.draw(tasks("like", **SIMPLE)).model_copy(update=change)
        own = {
            name: {
                "name": name,
                "generation": blob(name, needed),
                "work": blob("of", name)[:12],
                "depends_on": (needed,) if needed and needed < name else (),
            }
            for name in names
        }
        self.push({**self.specs, **{name: first.model_copy(update=update) for name, update in own.items()}})

    @rule(name=st.sampled_from(NAMES + MORE), data=st.data(), change=CHANGES)
    def push_a_task(self, name, data, change):
        self.push({**self.specs, name: data.draw(tasks(name)).model_copy(update=change)})

    @rule(names=some(MORE), change=CHANGES)
    def change_what_few_tasks_have(self, names, change):
        edit = {name: {**change, "generation": blob(name, *change.items())} for name in names}
        self.push({n: spec.model_copy(update=edit.get(n, {})) for n, spec in self.specs.items()})

    @rule(
        names=some(MORE),
        pilot=st.integers(0, 2),
        width=st.sampled_from([None, 1, 2]),
        stop_after=st.sampled_from([None, StopAfter(failures=1), StopAfter(failures=2)]),
    )
    def push_a_campaign(self, names, pilot, width, stop_after):
        members = [name for name in names if name in self.specs]
        place = {name: {"campaign": "wave", "is_pilot": members.index(name) < pilot} for name in members}
        none = {"campaign": None, "is_pilot": False}
        specs = {n: spec.model_copy(update=place.get(n, none)) for n, spec in self.specs.items()}
        wave = Campaign(name="wave", tasks=tuple(members), pilot=pilot, width=width, stop_after=stop_after)
        self.world.push(replace(self.world.desired, tasks=specs, campaigns={"wave": wave}))

    @rule(name=st.sampled_from(NAMES + MORE), other=st.sampled_from(NAMES + MORE))
    def begin_one_on_another(self, name, other):
        if name in self.specs and other < name:
            change = {"start_from": other, "generation": blob(name, other), "repo": "shop"}
            self.push({**self.specs, name: self.specs[name].model_copy(update=change)})

    @rule(name=st.sampled_from(NAMES + MORE))
    def answer(self, name):
        status = self.world.statuses.get(name)
        if name in self.specs and status and status.questions:
            to = status.questions[-1].id
            change = {"answer": Answer(to=to, text="That one."), "generation": blob(name, to)}
            self.push({**self.specs, name: self.specs[name].model_copy(update=change)})

    @rule(names=st.sets(st.sampled_from(NAMES + MORE), min_size=1, max_size=3))
    def remove_specs(self, names):
        self.push({name: spec for name, spec in self.specs.items() if name not in names})

    @rule(name=st.sampled_from(NAMES + MORE))
    def move_a_spec(self, name):
        moved = f"moved/{name}"
        if name in self.specs and moved not in self.specs:
            others = {n: spec for n, spec in self.specs.items() if n != name}
            self.push({**others, moved: self.specs[name].model_copy(update={"name": moved})})

    @rule(names=st.sets(st.sampled_from(NAMES + MORE), max_size=2))
    def break_specs(self, names):
        broken = {name: (Problem(f"specs/tasks/{name}.yaml", 3, 1, "unknown field"),) for name in names}
        self.world.push(replace(self.world.desired, broken=broken))

    @rule(other=desireds())
    def change_all_but_the_tasks(self, other):
        kept = {part: getattr(self.world.desired, part) for part in ("tasks", "broken", "campaigns")}
        self.world.push(replace(other, **kept, agents=AGENTS))

    @rule(agents=st.sampled_from([{}, AGENTS]))
    def change_the_agents(self, agents):
        self.world.push(replace(self.world.desired, agents=agents))

    # --- What happens ---

    @rule()
    def look(self):
        self.record(self.plan().events)

    @rule()
    def look_twice(self):
        self.record(self.plan().events)
        self.record(self.plan().events)
        self.followed = frozenset(s.run.round_key for s in self.world.statuses.values() if s.phase.is_live)

    @rule(data=st.data(), report=reports() | st.just(STOPPED))
    def a_round_ends(self, data, report):
        live = sorted(name for name, status in self.world.statuses.items() if status.phase.is_live)
        assume(live)
        self.world.end(data.draw(st.sampled_from(live)), report)

    @rule()
    def agents_are_seen_and_followed(self):
        for name, status in dict(self.world.statuses).items():
            if status.phase is Phase.ASSIGNED:
                origin = Origin(self.world.now, "seen alive", cause="host")
                self.world.take(Started(task=name, origin=origin, run=status.last_run.key))
        self.followed = frozenset(s.run.round_key for s in self.world.statuses.values() if s.phase.is_live)

    @rule(data=st.data())
    def some_runs_are_not_followed_any_more(self, data):
        lost = data.draw(st.sets(st.sampled_from(sorted(self.followed)))) if self.followed else set()
        self.followed -= lost

    @rule(data=st.data(), why=st.sampled_from(["its push is refused", "its forge does not answer"]))
    def steps_of_runs_are_tried_again(self, data, why):
        runs = sorted(status.run.key for status in self.world.statuses.values() if status.run)
        tried = data.draw(st.sets(st.sampled_from(runs))) if runs else set()
        self.extra = {**self.extra, "retry_reasons": dict.fromkeys(tried, why)}

    @rule(machine=st.sampled_from([None, "here", "elsewhere"]), takes_over=st.booleans())
    def the_reconciler_moves(self, machine, takes_over):
        self.extra = {**self.extra, "machine": machine, "takes_over": takes_over}

    @rule(is_merged=st.booleans())
    def reviewers_answer(self, is_merged):
        answer = Completed if is_merged else ChangesRequested
        for name, status in dict(self.world.statuses).items():
            if status.phase is Phase.REVIEW_PENDING:
                self.world.take(answer(task=name, origin=Origin(self.world.now, "an answer")))

    @rule(minutes=st.sampled_from([0, 1, 7, 30, 600, -3, -60]))
    def time_passes(self, minutes):
        self.world.now += timedelta(minutes=minutes)

    @rule(hosts=st.dictionaries(st.sampled_from(HOSTS), PROBES), probed=some(HOSTS))
    def hosts_answer(self, hosts, probed):
        self.world.hosts, self.world.probed = hosts, frozenset(probed)

    @rule(
        load=st.dictionaries(st.sampled_from(HOSTS), LOADS),
        spent=st.none() | SPENT,
        half_open=some(HOSTS),
        unready=st.dictionaries(st.sampled_from(REPOS), st.sampled_from(["", "cannot be reached"])),
    )
    def other_news(self, load, spent, half_open, unready):
        self.extra |= {"load": load, "spent": spent, "half_open": frozenset(half_open), "unready": unready}

    @rule(week=st.none() | SPENT, limits=LIMITS_MET)
    def accounts_meet_limits(self, week, limits):
        self.extra |= {"spent_in_week": week}
        self.world.accounts = limits

    @rule(asking=st.lists(st.sampled_from(sorted(AGENTS)), max_size=3))
    def agents_ask(self, asking):
        requests = [LeaseRequest(agent=name, request_key=str(key)) for key, name in enumerate(asking)]
        self.extra = {**self.extra, "lease_requests": tuple(requests)}

    @rule(data=st.data(), minutes=st.sampled_from([1, 10, 60]))
    def agents_are_heard(self, data, minutes):
        held = sorted(s.run.key for s in self.world.statuses.values() if s.phase.is_live and s.assigned_agent)
        heard = data.draw(st.sets(st.sampled_from(held))) if held else set()
        until = self.world.now + timedelta(minutes=minutes)
        self.extra = {**self.extra, "leases": {**self.extra.get("leases", {}), **dict.fromkeys(heard, until)}}

    @rule(names=st.sets(st.sampled_from(NAMES + MORE), max_size=2))
    def thinking_fails(self, names):
        self.extra = {**self.extra, "faults": dict.fromkeys(names, "a bug")}

    @rule()
    def the_process_dies_and_comes_back(self):
        self.planner, self.known, self.followed = Planner(), (Desired(), {}), frozenset()

    # --- What must hold ---

    @invariant()
    def both_plan_the_same(self):
        self.plan()

    # --- Words ---

    @property
    def specs(self):
        return self.world.desired.tasks

    def push(self, specs):
        self.world.push(replace(self.world.desired, tasks=specs))

    def record(self, events):
        self.world.statuses, steps = fold(self.world.statuses, events)
        self.world.history += steps

    def plan(self):
        """Return the plan, which both planners must make."""
        desired, now = self.world.desired, self.world.now
        observed = replace(self.world.observed, followed=self.followed, **self.extra)
        self.notice(desired, observed.statuses)
        whole, part = plan(desired, observed, now), self.planner.plan(desired, observed, now)
        assert part.actions == whole.actions
        assert part.due == whole.due
        assert part.faults == whole.faults
        assert part.waiting.items() <= whole.waiting.items()
        for name in whole.waiting.keys() - part.waiting.keys():
            assert observed.statuses[name].waiting == whole.waiting[name]
        if not self.planner.has_offers:
            assert plan(desired, replace(observed, lease_requests=EVERYBODY), now).actions == whole.actions
        return part

    def notice(self, desired, statuses):
        """Tell the planner what has changed since it was told last."""
        old_desired, old_statuses = self.known
        names = {*desired.tasks, *old_desired.tasks, *statuses, *old_statuses}
        changed = {
            name
            for name in names
            if desired.tasks.get(name) is not old_desired.tasks.get(name)
            or statuses.get(name) is not old_statuses.get(name)
        }
        self.planner.notice(changed | desired.broken.keys() | old_desired.broken.keys())
        self.known = desired, statuses


Twins.TestCase.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=25)
test_both_planners_plan_the_same = Twins.TestCase
