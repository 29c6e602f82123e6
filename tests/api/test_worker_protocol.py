"""
The protocol of outside agents, over a real connection.
"""

import asyncio

import pytest

from reconciler.core.model.specs import Agent, Repo
from tests.api.world import AGENTS, HASHES, FakeWorld, LoopWorld, pulled
from tests.fakes import make_task

API = "/api/v1"


@pytest.fixture(params=[FakeWorld, LoopWorld], ids=["stand-in", "loop"])
async def world(request):
    """What is behind the API: both must behave alike."""
    world = request.param()
    await world.ask()
    yield world
    await world.close()


async def take(client, key="k1", **asked):
    return (await client.post(f"{API}/dequeue", json={"request_key": key, **asked})).json()


async def test_a_task_goes_from_dequeue_to_completed(world, jeeves):
    await world.ask(pulled("web/hello", goal="Say hello.", validation="make test"))

    lease = (await jeeves.post(f"{API}/dequeue", json={"request_key": "k1"})).json()
    epoch = {"epoch": lease["epoch"]}
    started = await jeeves.post(f"{API}/tasks/web/hello/start", json=epoch)
    logged = await jeeves.put(f"{API}/tasks/web/hello/log?offset=0&epoch={lease['epoch']}", content=b"hi\n")
    beat = await jeeves.post(f"{API}/tasks/web/hello/heartbeat", json=epoch)
    told = {**epoch, "status": "completed", "result": "said it"}
    done = await jeeves.post(f"{API}/tasks/web/hello/status", json=told)

    assert (lease["task"], lease["title"], lease["validation"]) == ("web/hello", "Say hello.", ["make test"])
    assert "Say hello." in lease["prompt"]
    assert (lease["lease_seconds"], lease["heartbeat_seconds"]) == (60.0, 20.0)
    assert started.json()["phase"] == "running"
    assert logged.json() == {"offset": 3}
    assert beat.json()["desired"] == "run"
    assert (done.json()["phase"], done.json()["is_checking"]) == ("completed", False)
    assert world.logs.kept == {lease["lease"]: b"hi\n"}
    assert [entry.after for entry in world.record.entries if entry.task == "web/hello"][-1] == "completed"


async def test_an_agent_is_told_where_the_code_is_wherever_it_runs(world, jeeves):
    await world.ask(pulled("a", repo="code"), repos={"code": Repo(name="code", url="../code")})

    assert (await take(jeeves))["repo"]["url"] == "/fleet/../code"


async def test_without_a_task_there_is_nothing_to_say(jeeves):
    answer = await jeeves.post(f"{API}/dequeue", json={"request_key": "k1"})

    assert (answer.status_code, answer.content) == (204, b"")


async def test_who_waits_gets_the_task_that_comes(world, jeeves):
    waiting = asyncio.create_task(take(jeeves, wait=20))
    await world.waits()

    await world.ask(pulled("late"))

    assert (await waiting)["task"] == "late"


async def test_the_same_key_gets_the_same_task_again(world, jeeves):
    await world.ask(pulled("a"), pulled("b"))

    first, again, other = [await take(jeeves, key) for key in ("k1", "k1", "k2")]

    assert first == again
    assert (first["task"], other["task"]) == ("a", "b")


async def test_a_task_that_is_lost_before_it_is_told_of_is_not_told_of(world, jeeves, monkeypatch):
    await world.ask(pulled("a"))
    assignment = world.leases.assignment

    async def slow(task):
        await world.lose(task)
        return await assignment(task)

    with monkeypatch.context() as patched:
        patched.setattr(world.leases, "assignment", slow)
        answer = await jeeves.post(f"{API}/dequeue", json={"request_key": "k1"})

    assert answer.status_code == 204
    assert world.controller.statuses["a"].phase == "created"


async def test_an_answer_that_a_client_did_not_wait_for_is_not_lost(world, jeeves):
    asking = asyncio.create_task(take(jeeves, "k1", wait=20))
    await world.waits()
    asking.cancel()
    await asyncio.wait([asking])

    await world.ask(pulled("a"), pulled("b"))

    assert (await take(jeeves, "k1"))["task"] == "a"


async def test_every_report_may_be_sent_twice(world, jeeves):
    await world.ask(pulled("a"))
    epoch = {"epoch": (await take(jeeves))["epoch"]}

    for verb, body in (("start", epoch), ("status", {**epoch, "status": "failed", "result": "no"})):
        first = await jeeves.post(f"{API}/tasks/a/{verb}", json=body)
        seen = len(world.record.entries)
        again = await jeeves.post(f"{API}/tasks/a/{verb}", json=body)

        assert (first.status_code, first.json()) == (again.status_code, again.json()) == (200, first.json())
        assert len(world.record.entries) == seen


async def test_an_agent_that_asks_holds_its_task_no_more(world, jeeves):
    await world.ask(pulled("a"))
    lease = await take(jeeves)
    question = {"epoch": lease["epoch"], "status": "asks", "question": "Which \x1b[1mone?"}

    asked = [await jeeves.post(f"{API}/tasks/a/status", json=question) for _ in range(2)]
    beat = await jeeves.post(f"{API}/tasks/a/heartbeat", json={"epoch": lease["epoch"]})

    assert [(one.status_code, one.json()["phase"]) for one in asked] == [(200, "created")] * 2
    assert asked[0].json()["message"] == "asks (q1-1): Which one?"
    assert beat.status_code == 409


@pytest.mark.parametrize("world", [LoopWorld], indirect=True)
async def test_a_task_that_asks_is_given_back_with_the_answer(world, jeeves):
    await world.ask(pulled("a"))
    question = {"epoch": (await take(jeeves))["epoch"], "status": "asks", "question": "Which one?"}
    await jeeves.post(f"{API}/tasks/a/status", json=question)

    nothing = await jeeves.post(f"{API}/dequeue", json={"request_key": "k2"})
    await world.ask(pulled("a", answer={"to": "q1-1", "text": "That one."}))
    again = await take(jeeves, "k3")

    assert nothing.status_code == 204
    assert (again["task"], again["epoch"], again["answer"]) == ("a", 2, "That one.")
    assert "Which one?" in again["prompt"]


@pytest.mark.parametrize(
    "told",
    [{"status": "asks"}, {"status": "asks", "question": " \n"}, {"status": "completed", "question": "Eh?"}],
)
async def test_a_question_and_its_status_go_together(world, jeeves, told):
    await world.ask(pulled("a"))
    lease = await take(jeeves)

    answer = await jeeves.post(f"{API}/tasks/a/status", json={"epoch": lease["epoch"], **told})

    assert answer.status_code == 422


async def test_a_name_may_have_its_slashes_written_as_codes(world, jeeves):
    await world.ask(pulled("web/start"))
    epoch = (await take(jeeves))["epoch"]

    started = await jeeves.post(f"{API}/tasks/web%2Fstart/start", json={"epoch": epoch})
    shown = await jeeves.get(f"{API}/tasks/web%2Fstart")

    assert (started.json()["task"], shown.json()["name"]) == ("web/start", "web/start")


@pytest.mark.parametrize("verb", ["start", "status", "log"])
async def test_an_agent_whose_lease_is_lost_is_told_to_stop(world, jeeves, verb):
    await world.ask(pulled("a"))
    epoch = (await take(jeeves))["epoch"]
    await world.lose("a")

    beat = await jeeves.post(f"{API}/tasks/a/heartbeat", json={"epoch": epoch})
    if verb == "log":
        answer = await jeeves.put(f"{API}/tasks/a/log?offset=0&epoch={epoch}", content=b"late")
    else:
        body = {"epoch": epoch, "status": "completed"} if verb == "status" else {"epoch": epoch}
        answer = await jeeves.post(f"{API}/tasks/a/{verb}", json=body)

    assert (beat.status_code, beat.json()["desired"]) == (200, "lost")
    assert answer.status_code == 410
    assert "stop working on it" in answer.json()["detail"]
    assert world.logs.kept == {}


async def test_nobody_reports_for_another_agent(world, clients, jeeves):
    await world.ask(pulled("a"))
    epoch = (await take(jeeves))["epoch"]

    stolen = await clients["hermes"].post(
        f"{API}/tasks/a/status", json={"epoch": epoch, "status": "completed"}
    )

    assert (stolen.status_code, world.controller.statuses["a"].phase) == (410, "assigned")


async def test_an_older_epoch_is_refused(world, jeeves):
    await world.ask(pulled("a"))
    epoch = (await take(jeeves))["epoch"]

    answer = await jeeves.post(f"{API}/tasks/a/start", json={"epoch": epoch + 1})

    assert answer.status_code == 410


async def test_a_task_that_the_reconciler_runs_is_not_handed_out(world, jeeves):
    await world.ask(make_task("ours"))

    started = await jeeves.post(f"{API}/tasks/ours/start", json={"epoch": 1})
    unknown = await jeeves.post(f"{API}/tasks/nowhere/start", json={"epoch": 1})

    assert (started.status_code, unknown.status_code) == (409, 404)
    assert "ssh_cli" in started.json()["detail"]
    assert (await jeeves.post(f"{API}/dequeue", json={"request_key": "k"})).status_code == 204


async def test_a_task_that_is_not_wanted_any_more_is_cancelled_by_the_next_heartbeat(world, jeeves):
    task = pulled("a")
    await world.ask(task)
    epoch = (await take(jeeves))["epoch"]

    await world.ask(pulled("a", desired="suspended"))
    beat = await jeeves.post(f"{API}/tasks/a/heartbeat", json={"epoch": epoch})

    assert beat.json()["desired"] == "cancel"
    assert "suspended" in beat.json()["message"]


@pytest.mark.parametrize(
    "usage",
    [{"cost_usd": -1000.0}, {"input_tokens": -1}, {"cost_usd": 1.7e308}, {"output_tokens": 10**400}],
)
async def test_nothing_is_claimed_that_would_loosen_a_budget(world, jeeves, usage):
    await world.ask(pulled("a"))
    told = {"epoch": (await take(jeeves))["epoch"], "status": "completed", "usage": usage}

    answer = await jeeves.post(f"{API}/tasks/a/status", json=told)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "usage")
    assert world.controller.statuses["a"].phase == "assigned"


async def test_the_work_of_another_task_is_not_claimed(world, jeeves):
    await world.ask(pulled("a"), pulled("b"))
    told = {"epoch": (await take(jeeves))["epoch"], "status": "completed"}

    stolen = await jeeves.post(f"{API}/tasks/a/status", json={**told, "branch": "task/b"})
    own = await jeeves.post(f"{API}/tasks/a/status", json={**told, "branch": "jeeves/a"})

    assert (stolen.status_code, own.status_code) == (409, 200)
    assert "push your work to task/a" in stolen.json()["detail"]
    assert world.controller.statuses["a"].run.branch == "jeeves/a"


async def test_a_suspended_agent_gets_nothing_new_but_may_report(world, jeeves):
    await world.ask(pulled("a"), pulled("b"))
    epoch = (await take(jeeves))["epoch"]
    resting = Agent(name="jeeves", token_hash=(HASHES["jeeves"],), desired="suspended")
    await world.ask(pulled("a"), pulled("b"), agents={**AGENTS, "jeeves": resting})

    more = await jeeves.post(f"{API}/dequeue", json={"request_key": "k2"})
    done = await jeeves.post(f"{API}/tasks/a/status", json={"epoch": epoch, "status": "completed"})

    assert (more.status_code, done.status_code) == (403, 200)
    assert "suspended" in more.json()["detail"]


async def test_what_an_agent_says_is_harmless_on_record(world, jeeves):
    await world.ask(pulled("a"))
    epoch = (await take(jeeves))["epoch"]

    told = {"epoch": epoch, "status": "failed", "result": "\x1b[31mred\x1b[0m"}
    await jeeves.post(f"{API}/tasks/a/status", json=told)

    assert world.controller.statuses["a"].claim.result == "red"


# --- Logs ------------------------------------------------------------------


async def test_what_was_logged_before_is_passed_over(world, jeeves):
    await world.ask(pulled("a"))
    lease = await take(jeeves)
    place = f"{API}/tasks/a/log?epoch={lease['epoch']}"

    answers = [
        (await jeeves.put(f"{place}&offset={offset}", content=data)).json()["offset"]
        for offset, data in ((0, b"one"), (0, b"one two"), (7, b""), (3, b" two"))
    ]

    assert answers == [3, 7, 7, 7]
    assert world.logs.kept == {lease["lease"]: b"one two"}


async def test_a_gap_in_the_log_is_answered_with_what_is_missing(world, jeeves):
    await world.ask(pulled("a"))
    epoch = (await take(jeeves))["epoch"]
    await jeeves.put(f"{API}/tasks/a/log?offset=0&epoch={epoch}", content=b"one")

    gap = await jeeves.put(f"{API}/tasks/a/log?offset=9&epoch={epoch}", content=b"four")

    assert (gap.status_code, gap.json()["acknowledged_offset"]) == (409, 3)
    assert "from offset 3" in gap.json()["detail"]


async def test_a_log_may_be_larger_than_other_bodies(world, jeeves):
    await world.ask(pulled("a"))
    lease = await take(jeeves)
    log = bytes(range(256)) * 12_000

    kept = await jeeves.put(f"{API}/tasks/a/log?offset=0&epoch={lease['epoch']}", content=log)

    assert kept.json() == {"offset": len(log)}
    assert world.logs.kept[lease["lease"]] == log


async def test_a_log_that_is_too_long_for_one_request_is_refused(world, jeeves):
    await world.ask(pulled("a"))
    epoch = (await take(jeeves))["epoch"]

    answer = await jeeves.put(f"{API}/tasks/a/log?offset=0&epoch={epoch}", content=b"x" * (9 * 1024 * 1024))

    assert answer.status_code == 413
    assert world.logs.kept == {}


# --- Proposals -------------------------------------------------------------


async def test_a_proposal_says_where_it_waits(world, jeeves):
    asked = {"name": "web/idea", "goal": "Do it.", "validation": ["make test"]}

    answer = await jeeves.post(f"{API}/proposals", json=asked)

    assert (answer.status_code, answer.json()["branch"]) == (201, "propose/web/idea")
    assert [(one.name, agent) for one, agent in world.proposed] == [("web/idea", "jeeves")]
