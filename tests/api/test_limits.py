"""
How often somebody may ask.
"""

import asyncio

import httpx2
import pytest

from reconciler.api.limits import Buckets, Rate, RateLimits
from reconciler.api.problems import TooMany
from tests.api.world import TOKENS


class Watch:
    now = 100.0

    def __call__(self):
        return self.now


def take(buckets, who, times):
    """Return how many of so many requests were allowed."""
    allowed = 0
    for _ in range(times):
        try:
            buckets.take(who)
        except TooMany:
            continue
        allowed += 1
    return allowed


def test_a_burst_is_allowed_and_then_the_rate():
    watch = Watch()
    buckets = Buckets(Rate(per_second=2, burst=5), watch)

    first = take(buckets, "a", 9)
    watch.now += 1
    second = take(buckets, "a", 9)
    watch.now += 1000
    third = take(buckets, "a", 9)

    assert (first, second, third) == (5, 2, 5)


def test_everybody_has_a_bucket_of_their_own():
    buckets = Buckets(Rate(per_second=1, burst=2), Watch())

    assert (take(buckets, "a", 3), take(buckets, "b", 3)) == (2, 2)


def test_who_is_refused_learns_how_long_to_wait():
    watch = Watch()
    buckets = Buckets(Rate(per_second=0.5, burst=1), watch)
    buckets.take("a")

    with pytest.raises(TooMany) as error:
        buckets.take("a")
    watch.now += error.value.retry_after

    assert error.value.retry_after == 2.0
    assert take(buckets, "a", 2) == 1


def test_no_more_than_so_many_are_remembered(monkeypatch):
    monkeypatch.setattr(Buckets, "MOST", 3)
    buckets = Buckets(Rate(per_second=1, burst=1), Watch())

    for who in "abcabd":
        take(buckets, who, 1)

    assert list(buckets._buckets) == ["a", "b", "d"]


# --- Over HTTP -------------------------------------------------------------


@pytest.fixture
def limits():
    slow = Rate(per_second=0.001, burst=3)
    return RateLimits(token=slow, peer=slow, waits=1, streams=1)


async def statuses(client, path, times):
    return [(await client.get(path)).status_code for _ in range(times)]


async def test_a_token_has_a_limit_and_others_are_not_touched_by_it(clients):
    assert await statuses(clients["watcher"], "/api/v1/hosts", 4) == [200, 200, 200, 429]
    assert await statuses(clients["boss"], "/api/v1/hosts", 1) == [200]


async def test_who_has_no_good_token_is_limited_by_address(clients, address):
    guess = {"Authorization": f"Bearer {TOKENS['boss']}x"}
    async with httpx2.AsyncClient(base_url=address, headers=guess, trust_env=False) as guessing:
        first = await statuses(guessing, "/api/v1/hosts", 2)
    second = await statuses(clients["nobody"], "/api/v1/hosts", 2)
    known = await statuses(clients["boss"], "/api/v1/hosts", 1)

    assert (first, second, known) == ([401, 401], [401, 429], [200])


async def test_a_forge_may_send_as_many_webhooks_as_it_signs_and_strangers_may_not(world, clients):
    async def send(signature, times):
        headers = {"X-Forgejo-Signature": signature}
        answers = [
            await clients["nobody"].post("/hooks/forgejo", content=b"{}", headers=headers)
            for _ in range(times)
        ]
        return [answer.status_code for answer in answers]

    signed = await send("good", 10)
    unsigned = await send("bad", 4)

    assert (signed, unsigned) == ([202] * 10, [401, 401, 401, 429])
    assert await statuses(clients["nobody"], "/api/v1/hosts", 1) == [429]
    assert len(world.hooks.taken) == 10


async def test_the_answer_says_when_to_come_back(clients):
    await statuses(clients["watcher"], "/api/v1/hosts", 3)

    answer = await clients["watcher"].get("/api/v1/hosts")

    assert int(answer.headers["retry-after"]) == 1000
    assert answer.headers["content-type"] == "application/problem+json"


async def test_requests_that_wait_with_one_token_are_limited(world, clients):
    first = asyncio.create_task(
        clients["jeeves"].post("/api/v1/dequeue", json={"request_key": "k1", "wait": 20})
    )
    await world.waits()

    second = await clients["jeeves"].post("/api/v1/dequeue", json={"request_key": "k2"})
    other = await clients["hermes"].post("/api/v1/dequeue", json={"request_key": "k1"})
    first.cancel()

    assert (second.status_code, other.status_code) == (429, 204)
    assert "wait for an answer" in second.json()["detail"]


@pytest.mark.parametrize("limits", [RateLimits(proposals=Rate(per_second=0.001, burst=2))])
async def test_proposals_with_one_token_are_limited(world, clients):
    async def propose(name, number):
        asked = {"name": f"idea-{number}", "goal": "Do it."}
        return (await clients[name].post("/api/v1/proposals", json=asked)).status_code

    assert [await propose("jeeves", number) for number in range(4)] == [201, 201, 429, 429]
    assert await propose("hermes", 9) == 201
    assert len(world.proposed) == 3


async def test_streams_with_one_token_are_limited(clients):
    watcher = clients["watcher"]
    async with watcher.stream("GET", "/api/v1/events") as stream:
        second = await watcher.get("/api/v1/events")

    assert (stream.status_code, second.status_code) == (200, 429)
    assert "close one" in second.json()["detail"]
