import asyncio
from datetime import timedelta
from itertools import pairwise

import pytest

from reconciler.controller.ports import subject
from reconciler.core.errors import Conflict, SpecError, Unavailable
from reconciler.core.events import Assigned, RunEnded, RunSeen, VariantChosen
from reconciler.core.lifecycle import Transition
from reconciler.core.model.runs import Declaration, FailureClass, Report, Verdict
from reconciler.core.model.specs import Host, Repo, Variant
from reconciler.core.model.status import Phase, Reason
from reconciler.core.variants import variants_of
from tests.fakes import FAILURE, RED, SUCCESS, FakeDispatch, FakeState, make_desired, make_task


async def test_a_task_goes_its_whole_way(stage):
    stage.specs.push(make_desired(make_task("web/fix-login")))

    await stage.run()

    assert stage.state.phases("web/fix-login") == ["created", "assigned", "running", "completed"]
    assert stage.state.statuses["web/fix-login"].head_commit == SUCCESS.head_commit


async def test_new_specs_are_told_once_they_count(stage):
    seen = []
    stage.specs.push(make_desired(make_task("a")))
    loop = stage.loop()
    loop.listeners.specs.append(lambda: seen.append(set(loop.cache.desired.tasks)))

    await loop.run("idle")

    assert seen == [{"a"}]


async def test_specs_that_change_while_steps_go_on_record_count_in_the_next_round(stage):
    rounds = []

    class Edited(FakeState):
        async def commit(self, steps):
            await super().commit(steps)
            rounds.append({subject(step) for step in steps})
            if len(rounds) == 1:
                stage.specs.push(make_desired(make_task("a"), make_task("b")))
                loop.inbox.notify()

    stage.state = Edited()
    stage.specs.push(make_desired(make_task("a")))
    loop = stage.loop()

    await loop.run("idle")

    assert rounds[:2] == [{"a"}, {"b"}]


async def test_nothing_starts_that_is_not_on_record(stage):
    seen = []

    class Watching(FakeDispatch):
        def follow(self, order, emit):
            seen.append(stage.state.statuses[order.task])
            super().follow(order, emit)

    stage.dispatch = Watching()
    stage.specs.push(make_desired(make_task("a"), make_task("b")))

    await stage.run()

    assert [status.phase for status in seen] == [Phase.ASSIGNED, Phase.ASSIGNED]


async def test_a_validation_that_fails_is_handed_back_within_the_same_run(stage):
    stage.dispatch.reports["a"] = [RED, SUCCESS]
    stage.specs.push(make_desired(make_task("a", validation="make test")))

    await stage.run()

    status = stage.state.statuses["a"]
    assert (status.phase, status.attempt, status.run.round) == (Phase.COMPLETED, 1, 2)
    assert [order.round for order in stage.dispatch.started.values()] == [1, 2]


ASKS = Report(verdict=Verdict(outcome="success"), declared=Declaration(kind="question", text="Which one?"))


async def test_a_question_is_answered_by_default_after_its_time_and_the_run_goes_on(stage):
    stage.dispatch.reports["a"] = [ASKS, SUCCESS]
    stage.specs.push(make_desired(make_task("a", ask={"default": "Any.", "after": "1m"})))

    await stage.run()
    assert stage.state.statuses["a"].question
    stage.clock.time += timedelta(minutes=1)
    await stage.run()

    status = stage.state.statuses["a"]
    assert (status.phase, status.attempt, status.run.round) == (Phase.COMPLETED, 1, 2)
    assert status.questions[0].answered_by == "ask.default"
    assert status.questions[0].answered_at - status.questions[0].asked_at >= timedelta(minutes=1)
    [first, second] = stage.dispatch.started.values()
    assert (first.run, first.env, second.env) == (second.run, {}, {"RECONCILER_ANSWER": "Any."})


async def test_a_question_that_waits_for_a_person_is_rest_for_the_fleet(stage):
    stage.dispatch.reports["a"] = [ASKS]
    stage.specs.push(make_desired(make_task("a")))

    await stage.run()
    commits = len(stage.state.log)
    await stage.run()

    assert len(stage.state.log) == commits
    assert stage.state.statuses["a"].question.text == "Which one?"
    assert len(stage.dispatch.started) == 1


async def test_a_failed_attempt_is_tried_again_after_a_wait(stage):
    stage.dispatch.reports["a"] = [FAILURE, SUCCESS]
    stage.specs.push(make_desired(make_task("a", retries=1)))

    await stage.run()

    waited = [step.after.waiting.reason for step in stage.state.log if step.after.waiting]
    assert stage.state.statuses["a"].phase is Phase.COMPLETED
    assert stage.state.statuses["a"].attempt == 2
    assert Reason.BACKOFF in waited


async def test_a_task_that_keeps_failing_ends_failed_with_the_class_of_its_failure(stage):
    stage.dispatch.reports["a"] = [FAILURE, FAILURE, SUCCESS]
    stage.specs.push(make_desired(make_task("a", retries=1)))

    await stage.run()

    assert stage.state.statuses["a"].phase is Phase.FAILED
    assert stage.state.statuses["a"].failure.kind is FailureClass.AGENT


async def test_a_dependent_task_waits_and_says_for_what(stage):
    stage.specs.push(make_desired(make_task("a", depends_on=("b",)), make_task("b")))

    await stage.run()

    first = next(step for step in stage.state.log if step.task == "a")
    order = [order.task for order in stage.dispatch.started.values()]
    assert first.after.waiting.reason is Reason.DEPENDENCY
    assert order == ["b", "a"]


async def test_somebody_who_wrote_first_makes_it_think_again_and_start_once(stage):
    stage.state.refuse = [Conflict("moved"), Conflict("moved")]
    stage.specs.push(make_desired(make_task("a")))

    await stage.run()

    assert stage.state.phases("a") == ["created", "assigned", "running", "completed"]
    assert len(stage.dispatch.started) == 1


async def test_an_end_that_could_not_be_recorded_is_recorded_later(stage):
    stage.specs.push(make_desired(make_task("a")))
    stage.dispatch.hold = True
    await stage.run("started")
    stage.dispatch.hold = False
    stage.state.refuse = [Unavailable("no remote"), Unavailable("no remote")]

    await stage.run()

    assert stage.state.statuses["a"].phase is Phase.COMPLETED
    assert len(stage.dispatch.started) == 1


async def test_a_record_that_cannot_be_written_is_not_taken_for_idleness(stage):
    stage.state.refuse = [Unavailable("no remote")] * 4
    stage.specs.push(make_desired(make_task("a")))

    await stage.run()

    assert stage.state.statuses["a"].phase is Phase.COMPLETED


async def test_hints_do_not_take_later_what_cannot_be_reached(stage):
    asked = []

    async def read(statuses):
        asked.append(stage.clock.time)
        raise Unavailable("no repository")

    async def pause(news, longest):
        loop.inbox.notify()
        stage.clock.time += timedelta(milliseconds=100)
        if len(asked) == 4:
            loop.stop()

    stage.specs.read = read
    loop = stage.loop(pause=pause)
    await loop.run()

    waits = [(after - before).total_seconds() for before, after in pairwise(asked)]
    assert [round(wait) for wait in waits] == [1, 2, 4]


async def test_a_clock_that_is_set_back_does_not_make_an_outage_longer(stage):
    tried = []

    async def read(statuses):
        tried.append(stage.clock.time)
        if len(tried) == 1:
            stage.clock.time += timedelta(days=1)
            raise Unavailable("no repository")
        loop.stop()
        return stage.specs.desired

    async def pause(news, longest):
        stage.clock.time -= timedelta(days=1)

    stage.specs.read = read
    loop = stage.loop(pause=pause)
    await asyncio.wait_for(loop.run(), 60)

    assert len(tried) == 2


async def test_what_a_host_says_twice_is_no_news(stage):
    stage.dispatch.hold = True
    stage.specs.push(make_desired(make_task("a")))
    await stage.run("started")
    commits, run = len(stage.state.log), stage.state.statuses["a"].run_key
    loop = stage.loop()
    loop.inbox.emit(RunSeen(task="a", run=run, round=1, at=stage.clock()))

    await loop.run("started")

    assert len(stage.state.log) == commits


async def test_a_run_that_ends_when_nobody_asks_for_it_any_more_is_swept_after(stage):
    stage.specs.push(make_desired(make_task("a")))
    loop = await stage.run()
    await loop.run("idle")
    before, run = len(stage.dispatch.swept), stage.state.statuses["a"].run_key
    loop.inbox.emit(RunEnded(task="a", run=run, round=1, at=stage.clock(), report=SUCCESS))

    await loop.run("idle")

    assert len(stage.dispatch.swept) == before + 1


async def test_a_task_that_is_settled_has_its_own_host_swept_and_no_other(stage):
    swept = []

    class Noting(FakeDispatch):
        async def sweep(self, host, needs):
            swept.append(host.name)

    stage.dispatch = Noting()
    hosts = {name: Host(name=name) for name in ("one", "other")}
    stage.specs.push(make_desired(make_task("a"), hosts=hosts))
    loop = await stage.run()
    await loop.run("idle")
    first = set(swept)
    swept.clear()
    stage.specs.push(make_desired(make_task("a"), make_task("b"), hosts=hosts))
    loop.inbox.notify()

    await loop.run("idle")

    assert first == {"one", "other"}
    assert set(swept) == {stage.state.statuses["b"].assigned_host}


async def test_a_mistake_at_one_host_is_told_and_stalls_nothing(stage, caplog):
    class Clumsy(FakeDispatch):
        async def sweep(self, host, needs):
            raise ZeroDivisionError(host.name)

    stage.dispatch = Clumsy()
    stage.specs.push(make_desired(make_task("a")))

    await stage.run()

    assert stage.state.statuses["a"].phase is Phase.COMPLETED
    assert "local: is not swept now, with an unexpected error" in caplog.text
    assert "ZeroDivisionError: local" in caplog.text


async def test_a_new_controller_takes_up_what_the_old_one_left_running(stage):
    stage.dispatch.hold = True
    stage.specs.push(make_desired(make_task("a"), make_task("b")))
    await stage.run("started")
    assert stage.state.phases("a") == ["created", "assigned", "running"]

    stage.dispatch.hold = False
    await stage.run()

    assert stage.state.phases("a")[-1] == "completed"
    assert len(stage.dispatch.started) == 2
    assert len(stage.dispatch.follows) == 4


async def test_specs_that_cannot_be_read_stop_nothing(stage):
    stage.dispatch.hold = True
    stage.specs.push(make_desired(make_task("a"), make_task("b")))
    await stage.run("started")
    before = dict(stage.state.statuses)

    stage.specs.broken = True
    loop = stage.loop()
    task = asyncio.create_task(loop.run())
    for _ in range(50):
        await asyncio.sleep(0)
    loop.stop()
    await task

    assert stage.dispatch.stopped == []
    assert stage.state.statuses == before
    assert {status.phase for status in before.values()} == {Phase.RUNNING}


async def test_a_quiet_fleet_writes_nothing(stage):
    stage.specs.push(make_desired(make_task("a"), make_task("b", depends_on=("nobody",))))
    loop = await stage.run()
    commits = len(stage.state.log)

    for _ in range(3):
        loop.inbox.notify()
        await loop.run("idle")
    await stage.run()

    assert commits > 0
    assert len(stage.state.log) == commits


async def test_a_cancelled_task_is_stopped_and_stays_cancelled(stage):
    task = make_task("a")
    stage.dispatch.hold = True
    stage.specs.push(make_desired(task))
    await stage.run("started")

    stage.specs.push(make_desired(make_task("a", desired="cancelled"), revision="2" * 40))
    await stage.run()

    assert stage.state.phases("a") == ["created", "assigned", "running", "cancelled"]
    assert [run for run, _ in stage.dispatch.stopped] == [f"a.g{task.generation[:8]}.a1"]


async def test_a_run_whose_end_has_arrived_is_not_stopped_which_would_deliver_it_once_more(stage):
    class Late(FakeState):
        async def commit(self, steps):
            await super().commit(steps)
            if any(isinstance(step, Transition) and isinstance(step.event, VariantChosen) for step in steps):
                stage.dispatch.finish(second, SUCCESS)

    stage.state = Late()
    stage.dispatch.hold = True
    task = make_task("a", repo="shop", variants=(Variant(), Variant()))
    shop = {"shop": Repo(name="shop", url="/srv/shop.git")}
    stage.specs.push(make_desired(task, *variants_of(task), repos=shop))
    loop = stage.loop()
    await loop.run("started")
    first, second = (order for order in stage.dispatch.started.values())

    stage.dispatch.finish(first, SUCCESS)
    await loop.run("idle")

    assert stage.state.statuses["a@1"].phase is Phase.COMPLETED
    assert stage.state.statuses["a@2"].phase is Phase.CANCELLED
    assert stage.dispatch.stopped == []


async def test_a_suspended_task_is_stopped_and_resumes_as_a_new_attempt(stage):
    stage.dispatch.hold = True
    stage.specs.push(make_desired(make_task("a")))
    await stage.run("started")

    stage.specs.push(make_desired(make_task("a", desired="suspended"), revision="2" * 40))
    await stage.run()
    suspended = stage.state.statuses["a"]
    stage.dispatch.hold = False
    stage.specs.push(make_desired(make_task("a"), revision="3" * 40))
    await stage.run()

    assert (suspended.phase, suspended.waiting.reason) == (Phase.CREATED, Reason.SUSPENDED)
    assert suspended.failures == 0
    assert stage.state.statuses["a"].phase is Phase.COMPLETED
    assert stage.state.statuses["a"].attempt == 2


async def test_a_live_run_goes_on_by_the_spec_it_was_assigned_with(stage):
    stage.dispatch.hold = True
    stage.specs.push(make_desired(make_task("a", validation="make old")))
    await stage.run("started")

    stage.specs.push(make_desired(make_task("a", validation="make new"), revision="2" * 40))
    stage.dispatch.hold = False
    stage.dispatch.follows.clear()
    await stage.run()

    assert stage.dispatch.follows[0].validation == ("make old",)
    assert stage.dispatch.stopped == []


async def test_one_of_several_removed_tasks_is_stopped_and_forgotten(stage):
    stage.dispatch.hold = True
    tasks = [make_task(name) for name in ("a", "b", "c")]
    stage.specs.push(make_desired(*tasks))
    await stage.run("started")

    stage.specs.push(make_desired(*tasks[1:], revision="2" * 40))
    loop = stage.loop()
    loop.listeners.steps.append(lambda step: loop.stop() if step.after is None else None)
    await loop.run()

    assert [run.split(".")[0] for run, _ in stage.dispatch.stopped] == ["a"]
    assert set(stage.state.statuses) == {"b", "c"}


async def test_emptied_specs_wait_for_a_person(stage):
    stage.dispatch.hold = True
    stage.specs.push(make_desired(*map(make_task, "abc")))
    await stage.run("started")

    stage.specs.push(make_desired(revision="2" * 40))
    loop = stage.loop()
    running = asyncio.create_task(loop.run())
    for _ in range(50):
        await asyncio.sleep(0)
    loop.stop()
    await running

    assert stage.dispatch.stopped == []
    reasons = {status.waiting.reason for status in stage.state.statuses.values()}
    assert reasons == {Reason.APPROVAL}


async def test_an_order_that_cannot_be_made_fails_the_task_and_nothing_else(stage, monkeypatch):
    from reconciler.controller import assigned

    real = assigned.build_run_request

    def order(task, status, desired):
        if task.name == "bad":
            raise SpecError(())
        return real(task, status, desired)

    monkeypatch.setattr(assigned, "build_run_request", order)
    stage.specs.push(make_desired(make_task("bad"), make_task("good")))

    await stage.run()

    assert stage.state.statuses["bad"].phase is Phase.FAILED
    assert stage.state.statuses["bad"].failure.kind is FailureClass.CONFIG
    assert stage.state.statuses["good"].phase is Phase.COMPLETED


async def test_a_report_of_a_run_that_is_over_changes_nothing(stage):
    stage.specs.push(make_desired(make_task("a")))
    loop = await stage.run()
    order = next(iter(stage.dispatch.started.values()))
    commits = len(stage.state.log)

    stage.dispatch.finish(order, FAILURE)
    await loop.run("idle")

    assert len(stage.state.log) == commits


async def test_workspaces_of_open_tasks_and_fresh_failures_are_kept(stage):
    stage.dispatch.reports["bad"] = [FAILURE]
    stage.specs.push(make_desired(make_task("bad", retries=0), make_task("good")))

    await stage.run()
    await asyncio.sleep(0)

    needs = stage.dispatch.swept[-1]
    assert [run.split(".")[0] for run in (*needs.open, *needs.failed)] == ["bad"]


async def test_delivered_work_is_completed_once_somebody_merged_it(stage):
    task = make_task("a", repo="code", review="merge")
    stage.specs.push(make_desired(task, repos={"code": Repo(name="code", url="../code")}))
    await stage.run()
    assert stage.state.phases("a")[-1] == "review_pending"

    stage.dispatch.on_base.add(SUCCESS.head_commit)
    loop = stage.loop()
    loop.listeners.steps.append(lambda _: loop.stop())
    await loop.run()

    assert stage.state.phases("a")[-1] == "completed"
    assert stage.state.log[-1].event.origin.reason == "merged into main"


async def test_nothing_is_idle_before_it_is_known_whether_delivered_work_was_merged(stage, monkeypatch):
    task = make_task("a", repo="code", review="merge")
    stage.specs.push(make_desired(task, repos={"code": Repo(name="code", url="../code")}))
    await stage.run()
    stage.dispatch.on_base.add(SUCCESS.head_commit)
    merged = stage.dispatch.merged

    async def slow(repo, heads):
        for _ in range(20):  # longer than anything else that a look waits for
            await asyncio.sleep(0)
        return await merged(repo, heads)

    monkeypatch.setattr(stage.dispatch, "merged", slow)
    await stage.run("idle")

    assert stage.state.phases("a")[-1] == "completed"


@pytest.mark.parametrize("crash_at", range(1, 25))
async def test_killed_at_any_commit_it_finishes_everything_and_starts_nothing_twice(stage, crash_at):
    class Killed(BaseException):
        pass

    commits = 0
    record = stage.state.commit

    async def commit(transitions):
        nonlocal commits
        commits += 1
        if commits == crash_at:
            raise Killed
        await record(transitions)
        if commits == crash_at + 1:
            raise Killed

    stage.state.commit = commit
    stage.dispatch.reports = {"a": [RED, SUCCESS], "b": [FAILURE, SUCCESS]}
    stage.specs.push(make_desired(make_task("a", validation="t"), make_task("b"), make_task("c")))

    for _ in range(4):
        stage.dispatch.followed = frozenset()
        try:
            await stage.run()
        except Killed:
            continue

    assert {name: str(status.phase) for name, status in stage.state.statuses.items()} == dict.fromkeys(
        "abc", "completed"
    )
    assigned = [step.event.run for step in stage.state.log if isinstance(step.event, Assigned)]
    assert len(assigned) == len(set(assigned)) == 4


async def test_a_local_run_of_another_machine_is_left_to_its_own_reconciler(stage):
    stage.dispatch.hold = True
    stage.specs.push(make_desired(make_task("a")))
    there = stage.loop(machine="there")
    await there.run("started")

    stage.dispatch.follows.clear()
    stage.specs.push(make_desired(make_task("a", desired="cancelled"), make_task("b"), revision="2" * 40))
    here = stage.loop(machine="here")
    await here.run("started")

    assert stage.state.statuses["a"].holder.machine == "there"
    assert [order.task for order in stage.dispatch.follows] == ["b"]
    assert stage.dispatch.stopped == []
    assert stage.state.hosts["local"].machine == "there"


async def test_a_suspended_host_is_neither_probed_nor_given_work(stage):
    hosts = {"here": Host(name="here"), "there": Host(name="there", desired="suspended", slots=9)}
    stage.specs.push(make_desired(make_task("a"), hosts=hosts))

    await stage.run()

    assert stage.state.statuses["a"].assigned_host == "here"
    assert {name for name, _ in stage.prober.asked} == {"here"}


async def test_what_another_reconciler_recorded_is_seen_when_notified(stage):
    stage.dispatch.hold = True
    stage.specs.push(make_desired(make_task("a")))
    loop = stage.loop()
    await loop.run("started")
    other = stage.loop()
    stage.dispatch.hold = False
    await other.run("idle")

    stage.state.moved = True
    loop.inbox.notify()
    await loop.run("idle")

    assert loop.cache.statuses["a"].phase is Phase.COMPLETED
    assert len(stage.dispatch.started) == 1


async def test_a_machine_that_is_gone_for_good_is_taken_over(stage):
    stage.dispatch.hold = True
    stage.specs.push(make_desired(make_task("a")))
    there = stage.loop(machine="there")
    await there.run("started")

    stage.dispatch.hold = False
    here = stage.loop(machine="here", takes_over=True)
    await here.run("idle")

    assert stage.state.statuses["a"].phase is Phase.COMPLETED


async def test_specs_without_any_task_do_not_make_it_forget_what_was_done(stage):
    tasks = [*map(make_task, "abc")]
    stage.specs.push(make_desired(*tasks))
    await stage.run()

    stage.specs.push(make_desired(revision="2" * 40))
    await stage.run()
    held = dict(stage.state.statuses)
    stage.specs.push(make_desired(*tasks, revision="3" * 40))
    await stage.run()

    assert {status.waiting.reason for status in held.values()} == {Reason.APPROVAL}
    assert len(stage.dispatch.started) == 3
    assert all(status.waiting is None for status in stage.state.statuses.values())
