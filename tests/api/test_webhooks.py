"""
Webhooks: taken as they come, within bounds.
"""

import asyncio
from urllib.parse import urlsplit

import httpx2
import pytest

from reconciler.api import webhooks as hooks

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


@pytest.mark.parametrize("limit", ["AT_ONCE", "FROM_ONE"])
async def test_there_is_room_for_so_many_at_once(world, nobody, monkeypatch, limit):
    monkeypatch.setattr(hooks, "AT_ONCE", 6)
    monkeypatch.setattr(hooks, "FROM_ONE", 6)
    monkeypatch.setattr(hooks, limit, 3)
    begun, on = asyncio.Event(), asyncio.Event()

    async def receive(headers, body):
        world.hooks.taken.append((headers, body))
        if len(world.hooks.taken) == 3:
            begun.set()
        await on.wait()

    monkeypatch.setattr(world.hooks, "receive", receive)
    first = [asyncio.create_task(nobody.post(PLACE, content=b"{}", headers=SIGNED)) for _ in range(3)]
    await begun.wait()

    one_more = await nobody.post(PLACE, content=b"{}", headers=SIGNED)
    on.set()
    answers = await asyncio.gather(*first)

    assert (one_more.status_code, one_more.headers["retry-after"]) == (503, "2")
    assert {answer.status_code for answer in answers} == {202}
    assert (await nobody.post(PLACE, content=b"{}", headers=SIGNED)).status_code == 202


async def test_one_that_drips_gives_its_room_back(world, nobody, address, monkeypatch):
    monkeypatch.setattr(hooks, "SECONDS", 0.1)
    monkeypatch.setattr(hooks, "FROM_ONE", 1)
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"POST {PLACE} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode())

    answer = await reader.readline()
    writer.close()
    monkeypatch.setattr(hooks, "SECONDS", 60)

    assert answer.startswith(b"HTTP/1.1 408")
    assert (await nobody.post(PLACE, content=b"{}", headers=SIGNED)).status_code == 202


async def test_one_of_several_megabytes_is_taken(world, nobody):
    body = b"{" + b" " * 3_000_000

    assert (await nobody.post(PLACE, content=body, headers=SIGNED)).status_code == 202
    assert [len(body) for _, body in world.hooks.taken] == [3_000_001]
