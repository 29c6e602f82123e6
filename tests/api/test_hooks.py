"""
Webhooks: taken as they come, within bounds.
"""

import asyncio

import httpx2
import pytest

from reconciler.api.hooks import AT_ONCE

PLACE = "/hooks/forgejo"
SIGNED = {"X-Forgejo-Signature": "good"}


async def test_a_delivery_is_handed_on_as_it_came(world, nobody):
    answer = await nobody.post(PLACE, content=b'{"a":  1}', headers=SIGNED)

    assert (answer.status_code, answer.content) == (202, b"")
    [(headers, body)] = world.hooks.taken
    assert (headers["x-forgejo-signature"], body) == ("good", b'{"a":  1}')


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"{}", 401),
        ({"X-Forgejo-Signature": "bad"}, b"{}", 401),
        (SIGNED, b"[]", 400),
        (SIGNED, b"", 400),
    ],
)
async def test_a_wrong_one_is_refused(world, nobody, headers, body, status):
    answer = await nobody.post(PLACE, content=body, headers=headers)

    assert answer.status_code == status
    assert world.hooks.taken == []


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_large_one_is_refused_without_being_read(world, address, framing):
    async def chunks():
        for _ in range(60):
            yield b"x" * 100_000

    async with httpx2.AsyncClient(base_url=address, trust_env=False) as client:
        content = b"x" * 6_000_000 if framing == "length" else chunks()

        answer = await client.post(PLACE, content=content, headers=SIGNED)

    assert answer.status_code == 413
    assert world.hooks.taken == []


async def test_there_is_room_for_so_many_at_once(world, nobody, monkeypatch):
    begun, on = asyncio.Event(), asyncio.Event()

    async def receive(headers, body):
        world.hooks.taken.append((headers, body))
        if len(world.hooks.taken) == AT_ONCE:
            begun.set()
        await on.wait()

    monkeypatch.setattr(world.hooks, "receive", receive)
    first = [asyncio.create_task(nobody.post(PLACE, content=b"{}", headers=SIGNED)) for _ in range(AT_ONCE)]
    await begun.wait()

    one_more = await nobody.post(PLACE, content=b"{}", headers=SIGNED)
    on.set()
    answers = await asyncio.gather(*first)

    assert (one_more.status_code, one_more.headers["retry-after"]) == (503, "2")
    assert {answer.status_code for answer in answers} == {202}
    assert (await nobody.post(PLACE, content=b"{}", headers=SIGNED)).status_code == 202


async def test_one_of_several_megabytes_is_taken(world, nobody):
    body = b"{" + b" " * 3_000_000

    assert (await nobody.post(PLACE, content=body, headers=SIGNED)).status_code == 202
    assert [len(body) for _, body in world.hooks.taken] == [3_000_001]
