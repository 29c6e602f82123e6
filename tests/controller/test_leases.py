import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from reconciler.controller import leases as agents
from reconciler.controller.ports import NoMeter
from reconciler.core.errors import LeaseLost, NotFound, NotNow, Problem, Refused, Unavailable
from reconciler.core.events import Started, WorkerReport
from reconciler.core.model.runs import Claim, FailureClass
from reconciler.core.model.specs import Agent, DesiredState, ExecutionMode, Repo
from reconciler.core.model.status import LeaseRequest, Phase, Reason
from tests.fakes import RED, SUCCESS, make_desired, make_task
from tests.statuses import changed

NO_TIME = timedelta(0)
LONG = timedelta(seconds=5)
DONE = Claim(outcome="completed", result="it is done")
REPO = Repo(name="web", url="web.git")


class Office:
    """A fleet whose loop runs, and the agents that speak to it."""

    def __init__(self, stage, loop):
        self.stage, self.loop = stage, loop

    async def push(self, *tasks, agents=("jeeves",), **desired):
        specs = {name: Agent(name=name) for name in agents} if isinstance(agents, tuple) else agents
        self.stage.specs.push(make_desired(*tasks, agents=specs, **desired))
        await self.look()

    async def look(self):
        self.loop.inbox.notify()
        for _ in range(50):
            await asyncio.sleep(0)

    async def pass_time(self, duration):
        self.stage.clock.time += duration
        await self.look()

    async def acquire(self, agent="jeeves", key="1", wait=NO_TIME, capabilities=()):
        return await self.loop.controllers.leases.acquire(
            LeaseRequest(agent=agent, request_key=key, capabilities=capabilities), wait
        )

    async def say(self, task, claim=None, *, agent="jeeves", epoch=1):
        return await self.loop.controllers.leases.submit(
            WorkerReport(task=task, agent=agent, epoch=epoch, at=self.stage.clock(), claim=claim)
        )

    def phases(self, task):
        return self.stage.state.phases(task)


class Looks(NoMeter):
    """Counts the looks of the loop."""

    count = 0

    def look(self, seconds, outcome):
        self.count += 1


@asynccontextmanager
async def at_work(stage, **others):
    """Serve the fleet while time stands still."""
    loop = stage.loop(pause=lambda news, _longest: news.wait(), **others)
    serving = asyncio.create_task(loop.run())
    try:
        yield Office(stage, loop)
    finally:
        loop.stop()
        await serving


@pytest.fixture
async def office(stage):
    async with at_work(stage) as office:
        yield office


def pulled(name, **fields):
    return make_task(name, execution_mode=ExecutionMode.HTTP_PULL, **fields)


# --- Getting a task --------------------------------------------------------


async def test_an_agent_gets_a_task_and_it_is_on_record_then(office):
    await office.push(pulled("a"))

    task = await office.acquire()

    status = office.stage.state.statuses["a"]
    assert task == "a"
    assert (status.phase, status.assigned_agent, status.assigned_host) == (Phase.ASSIGNED, "jeeves", None)
    assert office.stage.dispatch.follows == []


async def test_a_task_that_waits_for_an_agent_says_so(office):
    await office.push(pulled("a"), pulled("b", requires=("gpu",)))

    waiting = {name: status.waiting for name, status in office.stage.state.statuses.items()}
    assert waiting["a"].reason is Reason.AGENT
    assert waiting["a"].message == "waits for an agent to take it over HTTP"
    assert waiting["b"].message == "no agent fits: none has gpu"


async def test_a_bid_is_answered_in_time_though_a_commit_takes_long_and_nothing_is_lost(office, monkeypatch):
    monkeypatch.setattr(agents, "LOOK_LIMIT", 0.05)
    await office.push(pulled("a"))
    commit, done = office.stage.state.commit, asyncio.Event()

    async def slow(steps):
        await done.wait()
        await commit(steps)

    office.stage.state.commit = slow
    with pytest.raises(Unavailable, match="send the same request again, with the same request_key"):
        await office.acquire()
    done.set()
    monkeypatch.undo()

    assert await office.acquire() == "a"
    assert office.stage.state.statuses["a"].attempt == 1


async def test_a_report_is_answered_in_time_though_a_commit_takes_long_and_counts_once(office, monkeypatch):
    monkeypatch.setattr(agents, "REPORT_LIMIT", 0.05)
    await office.push(pulled("a"))
    await office.acquire()
    commit, done = office.stage.state.commit, asyncio.Event()

    async def slow(steps):
        await done.wait()
        await commit(steps)

    office.stage.state.commit = slow
    with pytest.raises(Unavailable, match="send the same report again"):
        await office.say("a")
    done.set()
    monkeypatch.undo()

    assert (await office.say("a")).phase is Phase.RUNNING
    started = [step for step in office.stage.state.log if isinstance(step.event, Started)]
    assert len(started) == 1


async def test_a_task_of_hosts_is_not_handed_out(office):
    await office.push(make_task("a"))

    assert await office.acquire() is None


async def test_a_lost_answer_is_had_again_with_the_same_key_even_after_a_restart(stage):
    async with at_work(stage) as office:
        await office.push(pulled("a"), pulled("b"))
        first = await office.acquire(key="once")

    async with at_work(stage) as office:
        await office.look()
        again = await office.acquire(key="once")
        other = await office.acquire(key="twice", agent="jeeves")

    assert again == first
    assert other is None
    assert stage.state.phases(first) == ["created", "assigned"]


async def test_one_agent_holds_as_many_as_it_has_slots(office):
    await office.push(*[pulled(name) for name in "abc"], agents={"jeeves": Agent(name="jeeves", slots=2)})

    got = [await office.acquire(key=key) for key in "123"]

    assert got == ["a", "b", None]


async def test_a_long_poll_ends_with_the_task_that_comes(office):
    await office.push()
    asked = asyncio.create_task(office.acquire(wait=LONG))
    await office.look()

    await office.push(pulled("a"))

    assert await asked == "a"


async def test_who_asks_while_there_is_nothing_costs_no_look(stage):
    looks = Looks()
    async with at_work(stage, meter=looks) as office:
        await office.push(make_task("on-a-host"), pulled("a"))
        await office.acquire(key="a")
        await office.look()
        before = looks.count

        answers = [await office.acquire(key=key) for key in "123"]

        assert answers == [None] * 3
        assert looks.count == before


async def test_who_waits_while_there_is_nothing_costs_no_look_and_gets_what_comes(stage):
    looks = Looks()
    async with at_work(stage, meter=looks) as office:
        await office.push()
        before = looks.count

        asked = asyncio.create_task(office.acquire(wait=LONG))
        for _ in range(50):
            await asyncio.sleep(0)

        assert looks.count == before
        await office.push(pulled("a"))
        assert await asked == "a"


async def test_a_task_whose_time_came_is_had_though_nobody_said_so(office):
    await office.push(pulled("a", not_before=office.stage.clock.time + timedelta(hours=1)))
    assert await office.acquire(key="early") is None

    office.stage.clock.time += timedelta(hours=1)

    assert await office.acquire(key="late") == "a"


async def test_a_task_that_is_news_already_is_had(office):
    await office.push()
    office.stage.specs.push(make_desired(pulled("a"), agents={"jeeves": Agent(name="jeeves")}))

    office.loop.inbox.notify()

    assert await office.acquire() == "a"


async def test_two_that_ask_with_one_key_get_one_task(office):
    await office.push()
    both = [asyncio.create_task(office.acquire(key="k", wait=LONG)) for _ in range(2)]
    await office.look()

    await office.push(pulled("a"), pulled("b"))

    assert await asyncio.gather(*both) == ["a", "a"]
    assert office.stage.state.statuses["b"].phase is Phase.CREATED


async def test_who_stops_waiting_is_forgotten(office):
    await office.push()
    asked = asyncio.create_task(office.acquire(wait=LONG))
    await office.look()
    asked.cancel()
    await office.look()

    await office.push(pulled("a"))

    assert office.stage.state.statuses["a"].phase is Phase.CREATED


async def test_an_agent_that_is_suspended_or_unknown_is_refused(office):
    suspended = Agent(name="jeeves", desired="suspended")
    await office.push(pulled("a"), agents={"jeeves": suspended})

    with pytest.raises(Refused, match="suspended in its spec"):
        await office.acquire()
    with pytest.raises(Refused, match="not in specs/agents"):
        await office.acquire(agent="nobody")


async def test_labels_decide_who_gets_what(office):
    agents = {
        "plain": Agent(name="plain"),
        "strong": Agent(name="strong", capabilities=("gpu", "big"), slots=3),
    }
    await office.push(pulled("a", requires=("gpu",)), agents=agents)

    assert await office.acquire("plain") is None
    assert await office.acquire("strong", capabilities=("big",)) is None
    assert await office.acquire("strong", key="2", capabilities=("gpu",)) == "a"


# --- Reporting -------------------------------------------------------------


async def test_a_task_goes_its_whole_way_in_the_hands_of_an_agent(office):
    await office.push(pulled("a"))
    await office.acquire()

    began = await office.say("a")
    ended = await office.say("a", DONE)

    assert began.phase is Phase.RUNNING
    assert ended.phase is Phase.COMPLETED
    assert office.phases("a") == ["created", "assigned", "running", "completed"]


async def test_saying_it_again_changes_nothing(office):
    await office.push(pulled("a"))
    await office.acquire()
    await office.say("a")
    await office.say("a")
    await office.say("a", DONE)
    commits = len(office.stage.state.log)

    again = await office.say("a", DONE)

    assert again.phase is Phase.COMPLETED
    assert len(office.stage.state.log) == commits


async def test_what_an_agent_says_is_finished_is_checked(office):
    office.stage.dispatch.reports["a"] = [SUCCESS]
    await office.push(pulled("a", repo="web"), repos={"web": REPO})
    await office.acquire()

    said = await office.say("a", DONE)
    await office.look()

    assert (said.phase, said.claim) == (Phase.RUNNING, DONE)
    assert office.stage.state.statuses["a"].phase is Phase.COMPLETED
    assert office.stage.state.statuses["a"].head_commit == SUCCESS.head_commit


async def test_a_claim_that_does_not_hold_is_tried_again_by_another_attempt(office):
    office.stage.dispatch.reports["a"] = [RED]
    await office.push(pulled("a", repo="web"), repos={"web": REPO})
    await office.acquire()

    await office.say("a", DONE)
    await office.look()

    status = office.stage.state.statuses["a"]
    assert (status.phase, status.failure.kind) == (Phase.CREATED, FailureClass.VALIDATION)
    assert status.waiting.reason is Reason.BACKOFF


async def test_an_agent_that_waits_for_its_check_may_take_the_next_task(office):
    office.stage.dispatch.hold = True
    await office.push(pulled("a", repo="web"), pulled("b"), repos={"web": REPO})
    await office.acquire()
    await office.say("a", DONE)

    assert await office.acquire(key="2") == "b"


async def test_a_task_that_is_given_back_goes_to_others_after_a_while(office):
    await office.push(pulled("a"))
    await office.acquire()

    await office.say("a", Claim(outcome="released", result="not my language"))

    status = office.stage.state.statuses["a"]
    assert (status.phase, status.failures) == (Phase.CREATED, 0)
    assert await office.acquire(key="2") is None
    await office.pass_time(timedelta(minutes=1))
    assert await office.acquire(key="3") == "a"


async def test_who_speaks_of_a_task_that_is_not_theirs_is_told_what_to_do(office):
    await office.push(
        pulled("a"), pulled("b"), make_task("c", desired=DesiredState.SUSPENDED), agents=("jeeves", "x")
    )
    await office.acquire()

    for task, agent, epoch, error in [
        ("nothing", "jeeves", 1, NotFound),
        ("a", "x", 1, LeaseLost),
        ("a", "jeeves", 2, LeaseLost),
        ("b", "jeeves", 1, LeaseLost),
        ("c", "jeeves", 1, NotNow),
    ]:
        with pytest.raises(error):
            await office.say(task, DONE, agent=agent, epoch=epoch)
        with pytest.raises(error):
            office.loop.controllers.leases.heartbeat(task, agent, epoch)
    assert office.phases("a") == ["created", "assigned"]


@pytest.mark.parametrize(
    ("claim", "phase"), [(DONE, Phase.COMPLETED), (Claim(outcome="failed"), Phase.CREATED)]
)
async def test_a_report_that_was_recorded_by_half_is_taken_up_after_a_restart(stage, claim, phase):
    async with at_work(stage) as office:
        await office.push(pulled("a", retries=1))
        await office.acquire()
        await office.say("a")
        held = stage.state.statuses["a"]
        stage.state.statuses["a"] = changed(held, claim=claim)

    async with at_work(stage) as office:
        await office.look()
        again = await office.say("a", claim) if claim is DONE else None

    assert stage.state.statuses["a"].phase is phase
    assert again is None or again.phase is phase


async def test_another_claim_after_the_first_is_refused(office):
    await office.push(pulled("a"))
    await office.acquire()
    await office.say("a", DONE)

    with pytest.raises(NotNow, match="you reported completed"):
        await office.say("a", Claim(outcome="failed"))


async def test_an_agent_may_go_on_by_the_name_that_its_task_had(office):
    await office.push(pulled("a"))
    await office.acquire()
    generation = office.stage.specs.desired.tasks["a"].generation
    await office.push(pulled("b/moved", goal="Do a.", generation=generation))

    ended = await office.say("a", DONE)

    assert ended.phase is Phase.COMPLETED
    assert "b/moved" in office.stage.state.statuses


async def test_an_agent_may_report_at_the_moment_at_which_its_task_moves(office):
    await office.push(pulled("a"))
    await office.acquire()
    generation = office.stage.specs.desired.tasks["a"].generation
    told = asyncio.create_task(office.say("a", DONE))
    await asyncio.sleep(0)  # it is said, and nobody has heard it yet

    await office.push(pulled("b/moved", goal="Do a.", generation=generation))

    assert (await told).phase is Phase.COMPLETED
    assert office.stage.state.statuses.keys() == {"b/moved"}


async def test_an_agent_may_report_on_a_task_that_is_gone_with_its_report(office):
    await office.push(pulled("a"), pulled("b"))
    await office.acquire()
    await office.push(pulled("b"))

    ended = await office.say("a", DONE)

    assert ended.phase is Phase.CANCELLED
    assert office.stage.state.statuses.keys() == {"b"}


async def test_an_agent_goes_on_by_an_old_name_that_another_task_has_by_now(office):
    task = pulled("a")
    await office.push(task)
    await office.acquire()
    moved = pulled("b", goal="Do a.", generation=task.generation)
    await office.push(moved)
    await office.push(pulled("a", goal="Do something else."), moved)

    assert office.loop.controllers.leases.heartbeat("a", "jeeves", 1) is None
    assert (await office.say("a", DONE)).phase is Phase.COMPLETED
    assert office.phases("b")[-1] == "completed"


async def test_what_waits_to_be_checked_says_so_then_why_it_takes_long_and_is_silent_after_that(office):
    office.stage.dispatch.hold = True
    await office.push(pulled("a", repo="web"), repos={"web": REPO})
    await office.acquire()
    said = await office.say("a", DONE)
    commits = len(office.stage.state.log)

    await office.pass_time(timedelta(hours=1))
    await office.pass_time(timedelta(hours=1))

    waiting = office.stage.state.statuses["a"].waiting
    assert said.waiting.reason is waiting.reason is Reason.CHECK
    assert waiting.message == "its agent's finished work cannot be checked: nothing can be checked now"
    assert len(office.stage.state.log) == commits + 1


async def test_a_task_that_is_removed_while_it_waits_to_be_checked_goes_in_the_end(office):
    office.stage.dispatch.hold = True
    await office.push(pulled("a", repo="web"), pulled("b"), repos={"web": REPO})
    await office.acquire()
    await office.say("a", DONE)
    await office.push(pulled("b"), repos={"web": REPO})
    assert office.stage.state.statuses["a"].removed

    office.stage.dispatch.hold = False
    await office.pass_time(timedelta(minutes=1))

    assert "a" not in office.stage.state.statuses


async def test_work_is_not_taken_for_checked_while_nobody_knows_its_repo(office):
    task = pulled("a", repo="web")
    await office.push(task, repos={"web": REPO})
    await office.acquire()
    problem = Problem("specs/tasks/a.yaml", 2, 7, "there is no repo web", "repo")
    await office.push(task, broken={"a": (problem,)})
    said = await office.say("a", DONE)
    await office.pass_time(timedelta(minutes=5))
    meanwhile = office.stage.state.statuses["a"]

    await office.push(task, repos={"web": REPO})
    await office.pass_time(timedelta(minutes=1))

    assert said.waiting.reason is Reason.CHECK
    assert meanwhile == said
    assert office.stage.state.statuses["a"].phase is Phase.COMPLETED


# --- Leases ----------------------------------------------------------------


async def test_a_silent_agent_loses_its_task_and_another_gets_it_with_a_higher_epoch(office):
    await office.push(pulled("a"), agents=("jeeves", "other"))
    await office.acquire()

    await office.pass_time(timedelta(seconds=61))
    await office.pass_time(timedelta(minutes=1))
    got = await office.acquire("other", key="2")

    status = office.stage.state.statuses["a"]
    assert (got, status.attempt, status.assigned_agent, status.failures) == ("a", 2, "other", 0)
    with pytest.raises(LeaseLost):
        await office.say("a", DONE)


async def test_a_heartbeat_keeps_the_task(office):
    await office.push(pulled("a"))
    await office.acquire()

    for _ in range(5):
        await office.pass_time(timedelta(seconds=50))
        assert office.loop.controllers.leases.heartbeat("a", "jeeves", 1) is None

    assert office.stage.state.statuses["a"].phase is Phase.ASSIGNED


async def test_heartbeats_make_no_commits(office):
    await office.push(pulled("a"))
    await office.acquire()
    commits = len(office.stage.state.log)

    office.loop.controllers.leases.heartbeat("a", "jeeves", 1)
    await office.look()

    assert len(office.stage.state.log) == commits


@pytest.mark.parametrize(
    ("disconnect", "phase", "failures"),
    [("wait", Phase.CREATED, 0), ("retry", Phase.CREATED, 1), ("fail", Phase.FAILED, 1)],
)
async def test_what_silence_costs_is_the_policy_of_the_task(office, disconnect, phase, failures):
    await office.push(pulled("a", disconnect=disconnect, retries=1))
    await office.acquire()

    await office.pass_time(timedelta(seconds=61))

    status = office.stage.state.statuses["a"]
    assert (status.phase, status.failures) == (phase, failures)
    assert "gave no sign of life for 1m" in status.failure.message


async def test_a_run_that_takes_too_long_ends_however_alive_its_agent_is(office):
    await office.push(pulled("a", timeout=timedelta(seconds=90), retries=0))
    await office.acquire()
    await office.pass_time(timedelta(seconds=50))
    office.loop.controllers.leases.heartbeat("a", "jeeves", 1)

    await office.pass_time(timedelta(seconds=45))

    status = office.stage.state.statuses["a"]
    assert (status.phase, status.failure.kind) == (Phase.FAILED, FailureClass.TIMEOUT)


async def test_a_restart_gives_every_agent_a_lease_anew(stage):
    async with at_work(stage) as office:
        await office.push(pulled("a"))
        await office.acquire()
    stage.clock.time += timedelta(hours=1)

    async with at_work(stage) as office:
        await office.look()
        ended = await office.say("a", DONE)

    assert ended.phase is Phase.COMPLETED


async def test_an_agent_whose_task_was_cancelled_learns_it_and_has_a_lease_left_to_stop(office):
    await office.push(pulled("a"))
    await office.acquire()
    await office.push(pulled("a", desired=DesiredState.CANCELLED))

    assert office.loop.controllers.leases.heartbeat("a", "jeeves", 1) == "cancelled in the spec"
    await office.pass_time(timedelta(seconds=40))
    assert office.loop.controllers.leases.heartbeat("a", "jeeves", 1) == "cancelled in the spec"
    await office.pass_time(timedelta(seconds=40))

    assert office.stage.state.statuses["a"].phase is Phase.CANCELLED


async def test_an_agent_that_gives_back_a_cancelled_task_ends_it(office):
    await office.push(pulled("a"))
    await office.acquire()
    await office.push(pulled("a", desired=DesiredState.CANCELLED))

    ended = await office.say("a", Claim(outcome="released"))

    assert ended.phase is Phase.CANCELLED


async def test_a_silent_agent_loses_its_task_though_the_file_of_it_is_broken(office):
    task = pulled("a")
    await office.push(task)
    await office.acquire()
    problem = Problem("specs/tasks/a.yaml", 3, 1, "unknown field")
    await office.push(task, broken={"a": (problem,)})

    await office.pass_time(timedelta(seconds=61))

    status = office.stage.state.statuses["a"]
    assert (status.phase, status.waiting.reason) == (Phase.CREATED, Reason.SPEC_ERROR)


async def test_a_removed_task_goes_once_its_agent_is_silent(office):
    await office.push(pulled("a"), pulled("b"))
    await office.acquire()
    await office.push(pulled("b"))

    await office.pass_time(timedelta(seconds=61))

    assert "a" not in office.stage.state.statuses


# --- When nothing can be recorded ------------------------------------------


async def test_nothing_is_acknowledged_that_is_not_on_record(office):
    await office.push(pulled("a"))
    office.stage.state.refuse += [Unavailable("the disk is full")]

    with pytest.raises(Unavailable, match="the disk is full"):
        await office.acquire()

    assert office.phases("a") == ["created"]
    with pytest.raises(Unavailable):
        await office.acquire()


async def test_no_report_is_acknowledged_that_is_not_on_record(office):
    await office.push(pulled("a"))
    await office.acquire()
    office.stage.state.refuse += [Unavailable("the disk is full")]

    with pytest.raises(Unavailable, match="the disk is full"):
        await office.say("a")

    assert office.phases("a") == ["created", "assigned"]


async def test_who_waits_when_the_reconciler_ends_is_told(stage):
    async with at_work(stage) as office:
        await office.push()
        asked = asyncio.create_task(office.acquire(wait=LONG))
        await office.look()

    with pytest.raises(Unavailable, match="is being stopped"):
        await asked


async def test_who_asks_after_the_end_is_told_at_once(stage):
    stage.specs.push(make_desired(pulled("a"), agents={"jeeves": Agent(name="jeeves")}))
    loop = await stage.run("idle")

    with pytest.raises(Unavailable, match="cannot record anything now"):
        await loop.controllers.leases.acquire(LeaseRequest(agent="jeeves", request_key="1"), LONG)
    with pytest.raises(Unavailable, match="cannot record anything now"):
        await loop.controllers.leases.submit(
            WorkerReport(task="a", agent="jeeves", epoch=1, at=stage.clock())
        )
