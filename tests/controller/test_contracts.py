"""What the loop relies on, of the fakes and of the real ones alike."""

import asyncio
import subprocess
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.core.adapter import Usage
from reconciler.core.errors import Unavailable
from reconciler.core.events import (
    Archived,
    Assigned,
    Completed,
    Created,
    Origin,
    Removed,
    Renamed,
    Restored,
    SpecRemoved,
    Started,
)
from reconciler.core.hosts import HostChange
from reconciler.core.lifecycle import fold
from reconciler.core.model.runs import Assignment, Claim, FailureClass, run_key
from reconciler.core.model.specs import Host
from reconciler.core.model.status import AccountStatus, HostStatus, OnHost
from reconciler.core.runs.accounts import AccountChange
from reconciler.git.repository import Repository
from reconciler.store.state import StateBranch
from tests.dispatch.world import World, git
from tests.fakes import FakeDispatch, FakeState, make_task

NOW = datetime(2030, 1, 31, 9, tzinfo=UTC)
TASK = make_task("web/fix")
RUN = run_key("web/fix", TASK.generation, 1)
HEAD = {"task": "web/fix", "origin": Origin(NOW, "it happened")}
LIFE = (
    Created(**HEAD, spec=TASK),
    Assigned(**HEAD, spec=TASK, run=RUN, holder=OnHost(host="local")),
    Started(**HEAD, run=RUN),
)


# --- State -----------------------------------------------------------------


@pytest.fixture(params=["fake", "git"])
def states(request, tmp_path):
    """Return a way to become the writer of one record, again and again."""
    if request.param == "fake":
        fake = FakeState()

        @asynccontextmanager
        async def open_state():
            yield fake
    else:
        place = tmp_path / "fleet.git"
        subprocess.run(["git", "init", "-q", "--bare", place], check=True)

        @asynccontextmanager
        async def open_state():
            async with await Repository.open(str(place), tmp_path) as repository:
                state = await StateBranch.open(
                    repository,
                    "fleet-state",
                    token=lambda: "0" * 12,
                    clock=lambda: NOW,
                    revision=lambda: "e" * 40,
                )
                await state.load()
                yield state
                await state.close()

    return open_state


async def test_what_was_committed_is_there_for_the_next_writer(states):
    statuses, steps = fold({}, LIFE)
    host = HostStatus(reachable=True, since=NOW, os="Linux", git="2.39.5")

    async with states() as state:
        await state.commit([*steps, HostChange("local", None, host, NOW, "answers")])
        moved = state.has_moved()
    async with states() as state:
        loaded, hosts = await state.load()

    assert moved is False
    assert dict(loaded) == dict(statuses)
    assert hosts == {"local": host}


async def test_the_limit_of_an_account_is_there_for_the_next_writer_until_it_is_over(states):
    limit = AccountStatus(until=NOW, since=NOW, reason="usage limit", run="a.g0.a1", spec="5e")
    met = AccountChange("one", None, limit, NOW, "run a.g0.a1 met its limit", "a.g0.a1")

    async with states() as state:
        await state.commit([met])
    async with states() as state:
        await state.load()
        known = dict(state.accounts)
        await state.commit([AccountChange("one", limit, None, NOW, "run a.g0.a2 was served")])
    async with states() as state:
        await state.load()
        after = dict(state.accounts)

    assert known == {"one": limit}
    assert after == {}


async def test_a_renamed_task_stands_under_its_new_name_only(states):
    before, steps = fold({}, LIFE)
    after, moves = fold(
        before,
        [Renamed(task="web/mend", old="web/fix", origin=Origin(NOW, "the spec moved"))],
    )

    async with states() as state:
        await state.commit(steps)
        await state.commit(moves)
        loaded, _ = await state.load()

    assert set(loaded) == {"web/mend"}
    assert dict(loaded) == dict(after)


async def test_a_removed_task_is_gone_but_its_attempts_are_remembered(states):
    _, steps = fold({}, [*LIFE, SpecRemoved(**HEAD), Removed(**HEAD)])

    async with states() as state:
        await state.commit(steps)
    async with states() as state:
        loaded, _ = await state.load()
        past = await state.past_attempts(["web/fix", "web/other"])

    assert dict(loaded) == {}
    assert dict(past) == {"web/fix": 1}


async def test_a_task_in_the_archive_is_no_more_loaded_and_there_when_its_spec_comes_back(states):
    ended = [*LIFE, Completed(**HEAD)]
    before, steps = fold({}, ended)
    left, archiving = fold(before, [Archived(**HEAD)])

    async with states() as state:
        await state.commit([*steps, *archiving])
    async with states() as state:
        loaded, _ = await state.load()
        archived = await state.archived(["web/fix", "web/other"])
        back, restoring = fold(archived.statuses, [Restored(**HEAD)])
        await state.commit(restoring)
    async with states() as state:
        again, _ = await state.load()
        still = await state.archived(["web/fix"])

    assert dict(loaded) == dict(left) == {}
    assert archived.statuses == {"web/fix": archiving[0].after}
    assert dict(again) == dict(back) == dict(before)
    assert not still.statuses


# --- Dispatch --------------------------------------------------------------


@pytest.fixture(params=["fake", "local"])
def hosts(request, tmp_path):
    """Return an order, and a way to a dispatcher over hosts that outlive it."""
    world = World(tmp_path / "world")
    order = world.order("echo hello", repo=None)
    if request.param == "local":
        return order, world.dispatcher
    started: dict = {}
    ended: dict = {}
    return order, lambda: FakeDispatch(started=started, ended=ended)


async def ended(dispatch, act) -> list:
    """Return the facts up to the end of what was asked for."""
    facts: list = []
    done = asyncio.Event()

    def emit(fact) -> None:
        facts.append(fact)
        if type(fact).__name__ == "RunEnded":
            done.set()

    act(emit)
    await asyncio.wait_for(done.wait(), 60)
    return facts


async def test_an_order_is_seen_and_ends_and_is_followed_no_more(hosts):
    order, opened = hosts
    dispatch = opened()

    facts = await ended(dispatch, lambda emit: dispatch.follow(order, emit))
    followed = dispatch.followed
    await dispatch.close()

    assert facts[-1].report.verdict.outcome == "success"
    assert {(fact.run, fact.round) for fact in facts} == {order.key}
    assert followed == frozenset()


async def test_an_order_that_is_given_again_after_a_restart_ends_as_it_did(hosts):
    order, opened = hosts
    first, second = opened(), opened()

    before = await ended(first, lambda emit: first.follow(order, emit))
    await first.close()
    after = await ended(second, lambda emit: second.follow(order, emit))
    await second.close()

    assert after[-1].report == before[-1].report


async def test_what_is_stopped_before_it_began_never_begins(hosts):
    order, opened = hosts
    dispatch = opened()

    stopped = await ended(dispatch, lambda emit: dispatch.stop(order, "not wanted", emit))
    again = await ended(dispatch, lambda emit: dispatch.follow(order, emit))
    await dispatch.close()

    kinds = {facts[-1].report.verdict.kind for facts in (stopped, again)}
    assert kinds == {FailureClass.CANCELLED}


# --- What outside agents finished -------------------------------------------


@pytest.fixture(params=["fake", "local"])
def finished(request, tmp_path):
    """Return what an agent was asked for and did, a way to a dispatcher, and one to one that cannot tell."""
    world = World(tmp_path / "world")
    asked = Assignment(
        run=RUN,
        epoch=1,
        task="web/fix",
        title="Mend it",
        prompt="Do it.",
        repo=world.repo,
        branch="task/web/fix",
        validation=(world.note("ran"),),
        validate_on=Host(name="local"),
        review="none",
        timeout=timedelta(minutes=1),
    )
    seed = world.folder / "seed"
    (seed / "mended").touch()
    git(seed, "add", ".")
    git(seed, "commit", "-q", "-m", "Mend it")
    git(seed, "push", "-q", str(world.code), "HEAD:refs/heads/task/web/fix")
    if request.param == "local":
        broken = {"repo": world.repo.model_copy(update={"url": "http://127.0.0.1:9/code.git"})}
        return asked, world.dispatcher, lambda: (world.dispatcher(), asked.model_copy(update=broken))
    ended: dict = {}
    return asked, lambda: FakeDispatch(ended=ended), lambda: (FakeDispatch(hold=True), asked)


CLAIM = Claim(outcome="completed", result="All done.", usage=Usage(input_tokens=7))


async def test_a_report_on_finished_work_has_what_its_agent_said_and_spent(finished):
    asked, opened, _ = finished
    dispatch = opened()

    report = await dispatch.verify(asked, CLAIM)
    await dispatch.close()

    assert report.verdict.outcome == "success"
    assert (report.verdict.text, report.verdict.usage) == (CLAIM.result, CLAIM.usage)
    assert report.commits == 1
    assert report.head_commit


async def test_finished_work_is_found_the_same_again_after_a_restart(finished):
    asked, opened, _ = finished
    first, second = opened(), opened()

    before = await first.verify(asked, CLAIM)
    await first.close()
    after = await second.verify(asked, CLAIM)
    await second.close()

    assert after == before


async def test_what_cannot_be_told_of_finished_work_now_is_no_report(finished):
    _, _, lost = finished
    dispatch, asked = lost()

    with pytest.raises(Unavailable):
        await dispatch.verify(asked, CLAIM)
    await dispatch.close()
