"""
Runs that wait in the queue of their host: said with its reason, on record once for each, over restarts.
"""

from reconciler.core.model.status import Phase, Reason
from tests.fakes import make_desired, make_task


async def test_a_run_in_a_queue_is_assigned_and_says_what_it_waits_for(stage):
    stage.specs.push(make_desired(make_task("a")))
    stage.dispatch.queued = {"a": "it is next"}

    await stage.run("started")

    status = stage.state.statuses["a"]
    assert (status.phase, status.waiting.reason, status.waiting.message) == (
        Phase.ASSIGNED,
        Reason.QUEUE,
        "it is next",
    )


async def test_each_reason_is_on_record_once_whoever_asks_again(stage):
    stage.specs.push(make_desired(make_task("a")))
    stage.dispatch.queued = {"a": "others are before it"}
    await stage.run("started")
    commits, since = len(stage.state.log), stage.state.statuses["a"].waiting.since

    for _ in range(3):
        stage.dispatch.followed = frozenset()  # as after a restart
        await stage.run("started")
    unchanged = len(stage.state.log)
    stage.dispatch.queued = {"a": "it is next"}
    stage.dispatch.followed = frozenset()
    await stage.run("started")

    assert unchanged == commits
    assert len(stage.state.log) == commits + 1
    assert stage.state.statuses["a"].waiting.message == "it is next"
    assert stage.state.statuses["a"].waiting.since == since


async def test_a_run_that_begins_waits_for_nothing_and_ends_as_any_other(stage):
    stage.specs.push(make_desired(make_task("a")))
    stage.dispatch.queued = {"a": "it is next"}
    await stage.run("started")

    stage.dispatch.queued, stage.dispatch.followed = {}, frozenset()
    await stage.run()

    assert stage.state.statuses["a"].phase is Phase.COMPLETED
    assert stage.state.statuses["a"].waiting is None


async def test_a_run_in_a_queue_holds_its_slot_and_can_be_cancelled(stage):
    stage.specs.push(make_desired(make_task("a")))
    stage.dispatch.queued = {"a": "it is next"}
    await stage.run("started")

    stage.specs.push(make_desired(make_task("a", desired="cancelled", generation="2" * 40)))
    await stage.run()

    assert stage.dispatch.stopped
    assert stage.state.statuses["a"].phase is Phase.CANCELLED
