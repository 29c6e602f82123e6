"""
The clients and the real API: what is written on both sides fits.
"""

import asyncio
import re
import shutil
import sys
from pathlib import Path

import pytest

from reconciler.core.errors import LeaseLost, NotFound, NotNow, Refused
from reconciler.wire import DequeueRequest, ProposalRequest, StatusRequest
from reconciler.worker import job
from reconciler.worker.client import ApiClient
from reconciler.worker.job import JobConfig
from reconciler.worker.worker import Worker
from tests.api.world import TOKENS, pulled
from tests.fakes import make_task

PAGE = Path(__file__).parents[2] / "docs/pull-agents.md"


@pytest.fixture
async def client(address):
    async with ApiClient(address, TOKENS["jeeves"], tries=2) as client:
        yield client


async def test_the_whole_protocol(world, client):
    await world.ask(pulled("web/hello", goal="Say hello."))

    held = await client.dequeue(DequeueRequest(request_key="k1", wait=5))
    again = await client.dequeue(DequeueRequest(request_key="k1"))
    started = await client.start(held.task, held.epoch)
    empty = await client.log(held.task, held.epoch, 0, b"")
    kept = await client.log(held.task, held.epoch, empty, b"one\n")
    gap = await client.log(held.task, held.epoch, 400, b"later")
    beat = await client.heartbeat(held.task, held.epoch)
    shown = await client.task(held.task)
    (listed,) = await client.tasks(phase="running", limit=5)
    done = await client.status(held.task, StatusRequest(epoch=held.epoch, status="completed"))

    assert again == held
    assert started.phase == "running"
    assert (empty, kept, gap) == (0, 4, 4)
    assert beat.desired == "run"
    assert shown == listed
    assert done.phase == "completed"


async def test_what_is_wrong_is_the_same_error_on_both_sides(world, client, address):
    await world.ask(pulled("hello"), make_task("ours"))
    held = await client.dequeue(DequeueRequest(request_key="k1"))

    with pytest.raises(NotFound):
        await client.start("nothing", 1)
    with pytest.raises(NotNow):
        await client.start("ours", 1)
    with pytest.raises(LeaseLost):
        await client.start("hello", held.epoch + 1)
    with pytest.raises(LeaseLost):
        await client.log("hello", held.epoch + 1, 0, b"x")
    with pytest.raises(Refused, match="token"):
        await client.speaking_for("rct_jeeves.wrong").start("hello", held.epoch)
    with pytest.raises(Refused, match="scope"):
        await client.speaking_for(TOKENS["watcher"]).start("hello", held.epoch)

    assert (await client.heartbeat("hello", held.epoch + 1)).desired == "lost"
    assert (await client.propose(ProposalRequest(name="new", goal="More."))).task == "new"


async def test_a_command_works_off_every_task(world, client, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "_TICK", 0.01)
    monkeypatch.setattr("reconciler.worker.worker.SHORT_WAIT", 2.0)
    names = [f"t{number}" for number in range(6)]
    await world.ask(*(pulled(name, goal="Say hello.") for name in names))
    drawn = iter(range(1000))

    is_good = await Worker(
        client=client,
        means=JobConfig(command='cat; [ "$RECONCILER_TASK" != t3 ]', clones=True, say=lambda _: None),
        state=tmp_path / "state",
        workdir=tmp_path / "runs",
        slots=3,
        until="idle",
        draw=lambda: f"key-{next(drawn)}",
    ).run()

    ends = {entry.task: entry.after for entry in world.record.entries}
    assert not is_good
    assert [name for name in names if ends[name] == "completed"] == [name for name in names if name != "t3"]
    assert all(b"Say hello." in text for text in world.logs.kept.values())
    assert len(world.logs.kept) >= len(names)


async def test_an_mcp_client_takes_and_finishes_a_task(world, address):
    mcp = pytest.importorskip("mcp", reason="the extra `mcp` is not installed")
    from mcp.client.stdio import stdio_client

    await world.ask(pulled("web/hello", goal="Say hello."))
    command = mcp.StdioServerParameters(
        command=sys.executable,
        args=["-m", "reconciler", "mcp", "--url", address],
        env={"RECONCILER_TOKEN": TOKENS["jeeves"]},
    )

    async with mcp.Client(stdio_client(command)) as agent:
        taken = (await agent.call_tool("dequeue_task", {"wait": 5})).structured_content["lease"]
        held = {"task": taken["task"], "epoch": taken["epoch"]}
        await agent.call_tool("append_log", {**held, "text": "hello"})
        done = await agent.call_tool("update_task", {**held, "status": "completed", "result": "Said."})

    assert done.structured_content["phase"] == "completed"
    assert list(world.logs.kept.values()) == [b"hello\n"]


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="curl or jq is missing")
async def test_the_page_says_what_is_true_with_curl_alone(world, address, tmp_path):
    await world.ask(pulled("web/hello", goal="Say hello."))
    steps = "".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text().partition("## By hand")[2], re.DOTALL))

    process = await asyncio.create_subprocess_exec(
        *("sh", "-euc", steps),
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "URL": address, "TOKEN": TOKENS["jeeves"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, stderr = await process.communicate()

    assert process.returncode == 0, said.decode() + stderr.decode()
    assert [entry.after for entry in world.record.entries][-1] == "completed"
    assert list(world.logs.kept.values()) == [b"looking around\ndone\n"]
    assert world.proposed[0][0].name == "web/say-goodbye"


def test_every_json_block_of_the_page_is_json():
    import json

    blocks = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)

    assert [bool(json.loads(block)) for block in blocks] == [True, True]
