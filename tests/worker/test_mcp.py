"""
The tools of the MCP server, by the SDK's own client: over stdin and stdout, and over HTTP.
"""

import asyncio
import sys
from contextlib import asynccontextmanager

import httpx2
import pytest

pytest.importorskip("mcp", reason="the extra `mcp` is not installed")

from mcp import Client as McpClient
from mcp import StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from reconciler.worker.client import ApiClient
from reconciler.worker.lease_renewer import LeaseRenewer
from reconciler.worker.mcp import Tools, make_server, serve_http
from tests.worker.standin import TOKEN, StandIn, lease

TOOLS = {
    "append_log",
    "ask_person",
    "dequeue_task",
    "get_task",
    "heartbeat",
    "list_tasks",
    "propose_task",
    "update_task",
}


@pytest.fixture
async def server():
    async with StandIn().listening() as server:
        yield server


@asynccontextmanager
async def in_process(server, token=TOKEN, quiet=None):
    """Return the SDK's client of a server in this process."""
    async with (
        ApiClient(server.url, token, tries=1) as client,
        LeaseRenewer(quiet) as renewer,
        McpClient(make_server(Tools(client, renewer, lambda: "key-1"))) as agent,
    ):
        yield agent


@asynccontextmanager
async def over_stdio(server):
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "reconciler", "mcp", "--url", server.url],
        env={"RECONCILER_TOKEN": TOKEN},
    )
    async with McpClient(stdio_client(command)) as agent:
        yield agent


@asynccontextmanager
async def over_http(server):
    """Return a client that sends its own token to a server that has none."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reconciler", "mcp", "--url", server.url, "--http", "127.0.0.1:0"),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        address = (await process.stderr.readline()).decode().split()[-1]
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as http,
            McpClient(streamable_http_client(address, http_client=http)) as agent,
        ):
            yield agent
    finally:
        process.terminate()
        await process.wait()


async def call(agent, tool, **arguments):
    done = await agent.call_tool(tool, arguments)
    assert not done.is_error, done.content
    return done.structured_content


async def failing(agent, tool, **arguments):
    done = await agent.call_tool(tool, arguments)
    assert done.is_error
    return done.content[0].text


@pytest.mark.parametrize("way", [over_stdio, over_http])
async def test_an_agent_takes_and_finishes_a_task(server, way):
    server.leases = [lease("web/fix")]

    async with way(server) as agent:
        tools = {tool.name: tool for tool in (await agent.list_tools()).tools}
        taken = await call(agent, "dequeue_task", wait=1)
        held = {"task": taken["lease"]["task"], "epoch": taken["lease"]["epoch"]}
        first = await call(agent, "append_log", **held, text="looking")
        second = await call(agent, "append_log", **held, text="mending\n")
        await call(agent, "update_task", **held, status="completed", result="Mended.")

    assert tools.keys() == TOOLS
    assert all(tool.description and tool.output_schema for tool in tools.values())
    assert taken["lease"]["prompt"] == "Say hello.\n"
    assert (first["offset"], second["offset"], second["desired"]) == (8, 16, "run")
    assert server.logs["web/fix"] == b"looking\nmending\n"
    assert server.reports[0][1] | {"usage": None} == {
        "epoch": 1,
        "status": "completed",
        "question": "",
        "result": "Mended.",
        "branch": None,
        "pull_request": None,
        "usage": None,
    }


async def test_an_agent_asks_a_person_and_its_lease_is_renewed_no_more(server):
    server.leases = [lease("web/fix", heartbeat_seconds=0.01)]

    async with in_process(server) as agent:
        taken = await call(agent, "dequeue_task")
        held = {"task": "web/fix", "epoch": taken["lease"]["epoch"]}
        await call(agent, "ask_person", **held, question="Which one?")
        refused = await failing(agent, "ask_person", **held, question=" ")

    [(task, report)] = server.reports
    assert (task, report["status"], report["question"]) == ("web/fix", "asks", "Which one?")
    assert "question" in refused


async def test_no_task_is_said_in_words(server):
    async with in_process(server) as agent:
        found = await call(agent, "dequeue_task")

    assert found == {"lease": None, "message": "There is no task for you now; ask again later."}


async def test_a_lease_is_renewed_until_the_work_is_reported(server):
    server.leases = [lease(heartbeat_seconds=0.01)]

    async with in_process(server) as agent:
        await call(agent, "dequeue_task")
        for _ in range(3):
            server.beats.clear()
            await server.beats.wait()
        await call(agent, "update_task", task="hello", epoch=1, status="failed", result="No.")
        beaten = len(beats(server))
        await call(agent, "list_tasks")

    assert len(beats(server)) == beaten


async def test_a_lease_is_not_renewed_after_the_session(server):
    server.leases = [lease(heartbeat_seconds=0.01)]
    async with in_process(server) as agent:
        await call(agent, "dequeue_task")
        await server.beats.wait()

    others = [task for task in asyncio.all_tasks() if "LeaseRenewer" in repr(task)]

    assert others == []


async def test_an_agent_that_fell_silent_loses_its_lease(server):
    server.leases = [lease(heartbeat_seconds=0.01)]

    async with in_process(server, quiet=0.0) as agent:
        await call(agent, "dequeue_task")
        for renewal in [task for task in asyncio.all_tasks() if "LeaseRenewer" in repr(task)]:
            await renewal  # it may have ended already

    assert beats(server) == []


async def test_an_agent_hears_that_its_task_is_cancelled(server):
    server.leases, server.desired = [lease()], "cancel"

    async with in_process(server) as agent:
        await call(agent, "dequeue_task")
        beat = await call(agent, "heartbeat", task="hello", epoch=1)
        logged = await call(agent, "append_log", task="hello", epoch=1, text="still at it")

    assert (beat["desired"], beat["message"]) == ("cancel", "because")
    assert logged["desired"] == "cancel"


async def test_a_lost_lease_is_an_error_that_says_what_to_do(server):
    server.lost = True

    async with in_process(server) as agent:
        message = await failing(agent, "update_task", task="hello", epoch=1, status="completed")

    assert "stop working on it, and dequeue another" in message


async def test_a_token_that_is_refused_is_an_error_without_it(server):
    async with in_process(server, token="rct_x.secret") as agent:
        message = await failing(agent, "dequeue_task")

    assert "not known here" in message
    assert "secret" not in message


async def test_a_reconciler_that_is_away_is_an_error_to_try_again_after(server):
    server.answers = [(503, {})]

    async with in_process(server) as agent:
        message = await failing(agent, "list_tasks")

    assert "try again later" in message


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("update_task", {"task": "hello", "epoch": 1, "status": "done"}),
        ("update_task", {"task": "../x", "epoch": 1, "status": "failed"}),
        ("update_task", {"task": "hello", "epoch": 1, "status": "failed", "branch": "-x"}),
        ("append_log", {"task": "hello", "epoch": 0, "text": "x"}),
        ("dequeue_task", {"wait": 1000}),
        ("propose_task", {"name": "a b", "goal": "x"}),
        ("list_tasks", {"phase": "sleeping"}),
    ],
)
async def test_arguments_that_cannot_be_right_are_not_sent(server, tool, arguments):
    async with in_process(server) as agent:
        message = await failing(agent, tool, **arguments)

    assert "validation error" in message
    assert server.requests == []


async def test_tasks_are_read_and_proposed(server):
    async with in_process(server) as agent:
        listed = await call(agent, "list_tasks", phase="created")
        shown = await call(agent, "get_task", task="hello")
        unknown = await failing(agent, "get_task", task="helo")
        proposed = await call(agent, "propose_task", name="web/new", goal="More.", validation=["make test"])

    assert [task["name"] for task in listed["result"]] == [shown["name"]] == ["hello"]
    assert "no task 'helo'" in unknown
    assert proposed["branch"] == "proposals/web/new"
    assert server.proposals[0]["validation"] == ["make test"]


def beats(server):
    return [place for _, place in server.requests if place.endswith("heartbeat")]


async def test_sessions_over_http_are_bounded_in_number_and_end_when_nobody_uses_them(server):
    listening = asyncio.get_running_loop().create_future()
    async with ApiClient(server.url, None, tries=1) as client, LeaseRenewer(1800) as renewer:
        made = make_server(Tools(client, renewer, lambda: "key-1"))
        serving = asyncio.create_task(
            serve_http(made, "127.0.0.1", 0, listening.set_result, idle=1.0, most=3)
        )
        address = await listening
        async with httpx2.AsyncClient(trust_env=False) as http:
            opened = [(await http.post(address, json=HELLO, headers=ACCEPT)).status_code for _ in range(5)]
            while (again := await http.post(address, json=HELLO, headers=ACCEPT)).status_code == 503:  # noqa: ASYNC110  the SDK tells nobody
                await asyncio.sleep(0.05)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    assert opened == [200] * 3 + [503] * 2
    assert again.status_code == 200


ACCEPT = {"Accept": "application/json, text/event-stream"}
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
