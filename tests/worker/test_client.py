"""
The agent's side of the protocol: what is repeated, and what is raised.
"""

import logging

import pytest

from reconciler.core.errors import LeaseLost, NotFound, NotNow, Refused, Unavailable, UsageError
from reconciler.wire import DequeueRequest, ProposalRequest, RepoBody, StatusRequest
from reconciler.worker.client import BACKOFF_CAP, LONGEST_PAUSE, ApiClient
from tests.worker.standin import TOKEN, StandIn, lease

ASKED = DequeueRequest(request_key="k1")


@pytest.fixture
async def server():
    async with StandIn().listening() as server:
        yield server


@pytest.fixture
def pauses():
    return []


@pytest.fixture
async def client(server, pauses):
    async def pause(seconds):
        pauses.append(seconds)

    async with ApiClient(server.url, TOKEN, tries=4, pause=pause, jitter=lambda: 1.0) as client:
        yield client


async def test_a_task_is_taken_worked_on_and_reported(server, client):
    server.leases = [lease("web/hello")]

    held = await client.dequeue(ASKED)
    started = await client.start(held.task, held.epoch)
    beat = await client.heartbeat(held.task, held.epoch)
    kept = await client.log(held.task, held.epoch, 0, b"one\n")
    done = await client.status(held.task, StatusRequest(epoch=held.epoch, status="completed"))

    assert (held.task, started.phase, beat.desired, kept) == ("web/hello", "running", "run", 4)
    assert done.is_checking is False
    assert [name for name, _ in server.reports] == ["web/hello"]


@pytest.mark.parametrize(
    "evil",
    [
        {"branch": "--upload-pack=touch x"},
        {"start_from": "--upload-pack=touch x"},
        {"repo": RepoBody.model_construct(name="a", url="https://code.example.org/a", base="-x")},
    ],
)
async def test_no_option_of_git_comes_in_by_a_lease(server, client, evil):
    server.leases = [lease("hello").model_copy(update=evil)]

    with pytest.raises(UsageError, match="cannot be read"):
        await client.dequeue(ASKED)


async def test_no_task_is_no_error(client):
    assert await client.dequeue(ASKED) is None


async def test_a_lost_answer_loses_no_task(server, client):
    server.leases, server.drops = [lease("one"), lease("two")], 1

    held = await client.dequeue(ASKED)

    assert held.task == "one"
    assert [left.task for left in server.leases] == ["two"]


async def test_a_log_goes_on_where_the_reconciler_says(server, client):
    server.logs["hello"] = b"0123456789"

    gap = await client.log("hello", 1, 20, b"later")
    overlap = await client.log("hello", 1, 5, b"56789ab")

    assert (gap, overlap) == (10, 12)
    assert server.logs["hello"] == b"0123456789ab"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, UsageError),
        (401, Refused),
        (403, Refused),
        (404, NotFound),
        (409, NotNow),
        (410, LeaseLost),
        (422, UsageError),
    ],
)
async def test_an_answer_that_will_not_change_is_raised_at_once(server, client, pauses, status, error):
    server.answers = [(status, {})]

    with pytest.raises(error, match="not now"):
        await client.start("hello", 1)

    assert pauses == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_an_answer_that_may_change_is_asked_for_again(server, client, pauses, status):
    server.answers = [(status, {}), (status, {})]

    progress = await client.start("hello", 1)

    assert progress.task == "hello"
    assert pauses == [0.5, 1.0]


async def test_the_server_says_how_long_to_wait(server, client, pauses):
    server.answers = [(429, {"Retry_After": "7"}), (503, {"Retry_After": "86400"}), (503, {})]

    await client.start("hello", 1)

    assert pauses == [7.0, LONGEST_PAUSE, 2.0]


async def test_one_that_stays_away_is_unavailable(server, client, pauses, caplog):
    server.answers = [(503, {})] * 4

    with caplog.at_level(logging.WARNING), pytest.raises(Unavailable, match="tried 4 times"):
        await client.start("hello", 1)

    assert pauses == [0.5, 1.0, 2.0]
    assert len(caplog.records) == 1


async def test_the_pauses_do_not_grow_for_ever(server):
    pauses = []

    async def pause(seconds):
        pauses.append(seconds)

    server.answers = [(503, {})] * 1200
    async with ApiClient(server.url, TOKEN, tries=None, pause=pause, jitter=lambda: 1.0) as client:
        await client.start("hello", 1)

    assert max(pauses) == BACKOFF_CAP


async def test_nobody_there_is_unavailable_and_the_token_is_not_told(server, caplog):
    async with StandIn().listening() as gone:
        pass

    async with ApiClient(gone.url, TOKEN, tries=1) as client:
        with pytest.raises(Unavailable, match="cannot be reached") as error:
            await client.dequeue(ASKED)

    assert "secret" not in str(error.value) + caplog.text


@pytest.mark.parametrize("token", ["", "two words", "rct_x.secret\n", "rct_ü.secret"])
def test_a_token_that_cannot_be_one_is_told_without_it(token):
    with pytest.raises(UsageError) as error:
        ApiClient("http://127.0.0.1:1", token)

    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8420", "ftp://127.0.0.1", "http://", "http://a:b", "http://me:pw@127.0.0.1"]
)
def test_an_address_that_cannot_be_one_is_told(url):
    with pytest.raises(UsageError, match="no address of a reconciler"):
        ApiClient(url, TOKEN)


async def test_a_name_that_cannot_be_a_task_is_not_sent(server, client):
    with pytest.raises(NotFound, match="unsafe name"):
        await client.task("../../etc?x=1")

    assert server.requests == []


async def test_something_that_is_no_reconciler_is_told_so(server, client, monkeypatch):
    monkeypatch.setattr(server, "_answer", lambda *_: (200, {}, {"hello": "world"}))

    with pytest.raises(UsageError, match="is it a reconciler"):
        await client.task("hello")


async def test_what_a_newer_server_adds_is_passed_over(server, client, monkeypatch):
    answer = {"offset": 5, "colour": "green"}
    monkeypatch.setattr(server, "_answer", lambda *_: (200, {}, answer))

    assert await client.log("hello", 1, 0, b"hello") == 5


async def test_tasks_are_read_and_proposed(server, client):
    tasks = await client.tasks(phase="created")
    task = await client.task("hello")
    proposal = await client.propose(ProposalRequest(name="web/new", goal="More."))

    assert [found.name for found in tasks] == [task.name] == ["hello"]
    assert proposal.branch == "proposals/web/new"
    assert server.proposals[0]["goal"] == "More."
