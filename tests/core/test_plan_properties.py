from collections import Counter
from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.events import Created, Renamed, SpecRemoved
from reconciler.core.lifecycle import fold
from reconciler.core.model.runs import read_run_key
from reconciler.core.model.specs import Desired, DesiredState, ExecutionMode, FleetSpec, Host
from reconciler.core.model.status import Observed, Phase, Reason
from reconciler.core.planning.incremental import Planner
from reconciler.core.planning.limits import budget_scopes, live_groups, spent_today
from reconciler.core.planning.placement import slots_in_use
from reconciler.core.planning.plan import (
    FollowRun,
    RecordEvent,
    StartRun,
    StopRun,
    needs_attention,
    prune_digest,
)
from reconciler.core.planning.schedule import next_opening
from tests.statuses import changed
from tests.strategies import (
    NAMES,
    NOW,
    SUCCESS,
    World,
    blob,
    desireds,
    fleets,
    plan,
    reports,
    statuses,
    tasks,
)

# --- Never -----------------------------------------------------------------


@given(fleets())
def test_new_runs_fit_in_the_free_slots(fleet):
    desired, observed = fleet

    new = starts(plan(desired, observed, NOW))

    used = slots_in_use(after(desired, observed), observed)
    assert all(used[start.event.holder.host] <= desired.hosts[start.event.holder.host].slots for start in new)


@given(fleets())
def test_a_host_on_trial_starts_one_run_at_a_time(fleet):
    desired, observed = fleet

    new = Counter(start.event.holder.host for start in starts(plan(desired, observed, NOW)))

    starting = {s.assigned_host for s in observed.statuses.values() if s.phase is Phase.ASSIGNED}
    half_open = {host for host in observed.half_open if (probe := observed.hosts.get(host)) and probe.fault}
    assert all(new[host] <= (host not in starting) for host in half_open)


@given(fleets())
def test_the_fleet_never_runs_more_than_it_may(fleet):
    desired, observed = fleet

    new = starts(plan(desired, observed, NOW))

    most = desired.fleet.max_running
    live = sum(status.phase.is_live for status in after(desired, observed).values())
    assert not new or most is None or live <= most


@given(fleets())
def test_no_repo_adapter_or_label_has_more_runs_than_it_may(fleet):
    desired, observed = fleet
    planned = plan(desired, observed, NOW)
    running = Counter(
        group
        for name, status in after(desired, observed).items()
        if status.phase.is_live
        for group in live_groups(status.run, desired.tasks.get(name))
    )

    for start in starts(planned):
        spec = desired.tasks[start.task]
        repo, adapter = desired.repos.get(spec.repo), desired.adapters[spec.adapter]
        for holder, group in ((repo, ("repo", spec.repo)), (adapter, ("adapter", spec.adapter))):
            assert not holder or holder.max_running is None or running[group] <= holder.max_running
        for label in spec.requires:
            assert running["label", label] <= desired.fleet.limits.get(label, 100)


@given(fleets())
def test_nothing_starts_on_money_that_is_spent(fleet):
    desired, observed = fleet

    for start in starts(plan(desired, observed, NOW)):
        spec = desired.tasks[start.task]
        paying = budget_scopes(spec.adapter, spec.repo, start.event.holder.host)
        assert spent_today(desired, observed.spent, *paying) is None


@given(fleets())
def test_what_starts_is_wanted_and_free_to_run(fleet):
    desired, observed = fleet
    planned = plan(desired, observed, NOW)
    recorded, _ = fold(observed.statuses, [a.event for a in planned.actions if isinstance(a, RecordEvent)])

    for start in starts(planned):
        spec, status = desired.tasks[start.task], recorded[start.task]
        assert status.phase is Phase.CREATED
        assert start.task not in desired.broken
        assert start.task not in planned.waiting
        assert spec.desired is DesiredState.ACTIVE
        assert all(recorded[name].phase is Phase.COMPLETED for name in spec.depends_on)
        assert all(time is None or time <= NOW for time in (spec.not_before, status.not_before))
        assert spec.schedule is None or status.due_at <= NOW
        assert not spec.window or next_opening(spec.window, spec.timezone, NOW) is None


@given(fleets())
def test_a_run_starts_only_on_a_host_that_fits(fleet):
    desired, observed = fleet

    for start in starts(plan(desired, observed, NOW)):
        host, spec = desired.hosts[start.event.holder.host], desired.tasks[start.task]
        assert not host.cordon
        assert not host.drain
        assert set(spec.requires) <= {*host.labels, host.name}
        assert host.adapters is None or spec.adapter in host.adapters
        assert host.repos is None or spec.repo in {None, *host.repos}
        probe = observed.hosts.get(host.name)
        assert probe.reachable if probe else host.is_local
        assert probe is None or not probe.fault or host.name in observed.half_open
        if probe and desired.adapters[spec.adapter].version:
            assert host.is_local or spec.adapter in probe.adapters
            assert spec.adapter not in probe.adapters or probe.adapters[spec.adapter].ok


@given(fleets())
def test_a_task_has_at_most_one_live_run(fleet):
    desired, observed = fleet

    planned = plan(desired, observed, NOW)

    started = [start.task for start in starts(planned)]
    touched = [action.task for action in planned.actions if isinstance(action, FollowRun | StopRun)]
    assert len(set(started)) == len(started)
    assert not {*started} & {*touched}
    assert len(set(touched)) == len(touched)


@given(fleets())
def test_a_run_key_never_comes_twice(fleet):
    desired, observed = fleet

    for start in starts(plan(desired, observed, NOW)):
        before = observed.statuses.get(start.task)
        assert before is None or start.event.run != before.run_key
        _, attempt = read_run_key(start.event.run)
        assert before is not None or attempt > observed.past.get(start.task, 0)


@given(fleets())
def test_a_broken_spec_stalls_its_own_task_and_stops_nothing(fleet):
    desired, observed = fleet

    planned = plan(desired, observed, NOW)

    leaving = {host.name for host in desired.hosts.values() if host.drain and host.drain_until}
    broken = {
        name
        for name in desired.broken.keys() & observed.statuses.keys()
        if not observed.statuses[name].removed and observed.statuses[name].assigned_host not in leaving
    }
    ended = {a.task for a in planned.actions if isinstance(a, StopRun | RecordEvent) and is_an_end(a)}
    assert not broken & ended


@given(fleets())
def test_nothing_is_done_before_the_specs_were_read(fleet):
    _, observed = fleet

    planned = plan(Desired(), observed, NOW)

    assert not planned.actions


@given(fleets())
def test_more_than_the_guard_allows_is_never_removed_at_once(fleet):
    desired, observed = fleet

    planned = plan(desired, observed, NOW)

    live = {n for n, s in observed.statuses.items() if not s.phase.is_settled and not s.removed}
    removed = {e.task for e in planned.events if isinstance(e, SpecRemoved)} & live
    assert len(removed) <= max(5, len(live) / 5)
    assert len(removed) <= 2 or removed < live


@given(fleets(), st.permutations(NAMES))
def test_files_that_moved_are_renamed_and_not_removed(fleet, order):
    desired, observed = fleet
    kept = {n: s for n, s in observed.statuses.items() if n in desired.tasks and not s.removed}
    kept = {n: s.model_copy(update={"work": n, "generation": blob(n)}) for n, s in kept.items()}
    moved = {f"moved/{new}": old for new, old in zip(order, kept, strict=False)}
    specs = {
        new: desired.tasks[old].model_copy(
            update={"name": new, "work": old, "generation": blob(old), "depends_on": ()}
        )
        for new, old in moved.items()
    }

    planned = plan(replace(desired, tasks=specs, broken={}), replace(observed, statuses=kept), NOW)

    renamed = {event.task: event.old for event in planned.events if isinstance(event, Renamed)}
    assert renamed == moved
    assert not any(isinstance(event, SpecRemoved | Created) for event in planned.events)


# --- Always ----------------------------------------------------------------


@given(fleets())
def test_whatever_is_open_runs_starts_or_says_what_it_waits_for(fleet):
    desired, observed = fleet

    planned = plan(desired, observed, NOW)

    for name, status in after(desired, observed).items():
        if status.phase is Phase.CREATED:
            assert status.waiting is not None, name
            assert planned.waiting[name] == status.waiting
        if status.phase.is_live and status.assigned_host in desired.hosts:
            assert is_looked_after(name, status, planned, observed), name


@given(fleets())
def test_a_plan_on_record_leaves_nothing_more_to_record(fleet):
    desired, observed = fleet
    recorded = after(desired, observed)

    again = plan(desired, replace(observed, statuses=recorded), NOW)

    assert again.events == ()


@given(fleets())
def test_the_order_of_files_does_not_matter(fleet):
    desired, observed = fleet
    upside_down = replace(
        desired,
        tasks=dict(reversed(desired.tasks.items())),
        hosts=dict(reversed(desired.hosts.items())),
    )
    turned = replace(observed, statuses=dict(reversed(observed.statuses.items())))

    assert plan(desired, observed, NOW).actions == plan(upside_down, turned, NOW).actions


@given(fleets())
def test_it_is_enough_to_look_at_what_needs_attention(fleet):
    desired, observed = fleet
    planner = Planner()
    planner.notice({*desired.tasks, *observed.statuses})

    first, second = (planner.plan(desired, observed, NOW) for _ in range(2))

    assert first == plan(desired, observed, NOW)
    assert (second.actions, second.due) == (first.actions, first.due)


@given(st.data())
def test_what_is_settled_and_at_rest_costs_nothing(data):
    spec = data.draw(tasks("a", schedule=None))
    phase = data.draw(st.sampled_from([phase for phase in Phase if phase.is_settled]))
    status = data.draw(statuses(spec, phase))
    at_rest = {"generation": spec.generation, "work": spec.work, "removed": False, "waiting": None}

    assert not needs_attention(spec, status.model_copy(update=at_rest))


# --- Eventually ------------------------------------------------------------

WIDE_OPEN = {"local": Host(name="local", slots=2, labels=("gpu", "arm64", "beta"))}
ACTIVE = {
    "desired": DesiredState.ACTIVE,
    "budget": None,
    "execution_mode": ExecutionMode.SSH_CLI,
    "schedule": None,
}


def runnable():
    """Return revisions in which nothing but the work itself can go wrong."""
    specs = {name: tasks(name, **ACTIVE, depends_on=()) for name in NAMES}
    return st.fixed_dictionaries({}, optional=specs).map(
        lambda specs: Desired(revision="r", tasks=specs, hosts=WIDE_OPEN)
    )


@given(runnable())
def test_every_task_is_completed_where_agents_always_succeed(desired):
    world = World(desired)

    world.run()

    assert {status.phase for status in world.statuses.values()} <= {Phase.COMPLETED}
    assert world.statuses.keys() == desired.tasks.keys()


@given(st.data())
def test_dependencies_are_completed_before_what_needs_them_starts(data):
    specs = {name: data.draw(tasks(name, **ACTIVE)) for name in NAMES}
    world = World(Desired(revision="r", tasks=specs, hosts=WIDE_OPEN))

    world.run()

    line = [(step.task, step.after.phase) for step in world.history]
    for name, spec in specs.items():
        for needed in spec.depends_on:
            assert line.index((needed, Phase.COMPLETED)) < line.index((name, Phase.ASSIGNED))


@given(runnable(), st.data())
def test_every_task_settles_however_its_rounds_end(desired, data):
    bad = iter(data.draw(st.lists(reports(), max_size=30)))
    world = World(desired, ends=lambda *_: next(bad, SUCCESS))

    world.run()

    assert all(status.phase.is_settled or status.question for status in world.statuses.values())
    for name, status in world.statuses.items():
        assert status.failures <= desired.tasks[name].retries + 1


@given(desireds(), st.lists(desireds(), max_size=3), st.data())
def test_a_fleet_comes_to_rest_after_any_pushes(first, pushes, data):
    bad = iter(data.draw(st.lists(reports(), max_size=30)))
    world = World(first, ends=lambda *_: next(bad, SUCCESS))

    for desired in [first, *pushes]:
        world.push(desired)
        planned = world.look()
        world.work(planned)
    planned = world.run()

    assert planned.events == ()
    for name, status in world.statuses.items():
        is_explained = name in planned.waiting or status.phase.is_settled
        assert is_explained or status.phase.is_live, name
    runs = Counter(step.event.run for step in world.history if type(step.event).__name__ == "Assigned")
    assert all(count == 1 for count in runs.values())


@given(fleets())
def test_a_quiet_fleet_writes_nothing_as_time_goes_by(fleet):
    desired, observed = fleet
    planned = plan(desired, observed, NOW)
    recorded = replace(observed, statuses=after(desired, observed))
    later = (planned.due or NOW + timedelta(days=400)) - timedelta(seconds=1)

    again = plan(desired, recorded, max(later, NOW))

    assert again.events == ()


# --- Approval --------------------------------------------------------------


@given(st.integers(6, 30), st.integers(0, 30), st.data())
def test_too_many_removals_wait_for_a_person_and_go_once_allowed(gone, kept, data):
    phase = st.sampled_from([phase for phase in Phase if not phase.is_settled])
    spec = data.draw(tasks("a", **ACTIVE))
    specs = {f"kept{i}": spec.model_copy(update={"name": f"kept{i}"}) for i in range(kept)}
    names = [*specs, *(f"gone{i}" for i in range(gone))]
    one = data.draw(statuses(spec, data.draw(phase))).model_copy(update={"removed": False})
    observed = Observed({name: changed(one, run=name, work=name, generation=name) for name in names})
    desired = Desired(revision="r", tasks=specs, hosts=WIDE_OPEN)

    planned = plan(desired, observed, NOW)
    removed = {event.task for event in planned.events if isinstance(event, SpecRemoved)}
    held = {name for name, waiting in planned.waiting.items() if waiting.reason is Reason.APPROVAL}
    digest = prune_digest(f"gone{i}" for i in range(gone))
    allowed = plan(replace(desired, fleet=FleetSpec(prune_approved=digest)), observed, NOW)

    assert not removed or gone <= (gone + kept) / 5
    assert removed | held == {f"gone{i}" for i in range(gone)}
    assert all(digest in planned.waiting[name].message for name in held)
    assert {e.task for e in allowed.events if isinstance(e, SpecRemoved)} == removed | held


# --- Words -----------------------------------------------------------------


def starts(planned):
    return [action for action in planned.actions if isinstance(action, StartRun)]


def after(desired, observed):
    """Return the statuses once the plan is on record."""
    return fold(observed.statuses, plan(desired, observed, NOW).events)[0]


def is_an_end(action):
    ends = {"SpecRemoved", "Cancelled", "Removed", "Retried", "Failed"}
    return isinstance(action, StopRun) or type(action.event).__name__ in ends


def is_looked_after(name, status, planned, observed):
    key = status.run.round_key
    sent = {(a.run, a.round) for a in planned.actions if isinstance(a, FollowRun | StopRun)}
    return key in observed.followed | sent or any(start.task == name for start in starts(planned))
