"""
OpenClaw and Hermes as outside agents: real programs with a model on loopback, a real fleet, real git.

They are looked for in the folder that RECONCILER_TEST_PULL_AGENTS names: `npm install openclaw node@24`
there, and a virtual environment `venv` with `hermes-agent[mcp]`; docs/pull-agents.md says what each is given.
"""

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import processes
from tests.agents.models import Model, Reply, serving
from tests.e2e.served import eventually

INSTALLED = Path(os.environ.get("RECONCILER_TEST_PULL_AGENTS", Path(__file__).parents[1] / "agents" / "pull"))
LONGEST = 400.0
"""Seconds for one turn of an agent: they ask addresses first that nothing answers here."""

pytestmark = [pytest.mark.real_agent, pytest.mark.timeout(3 * LONGEST)]

WORK = """\
git clone -q {code} {folder} && cd {folder} && git checkout -q -b task/web/greet &&
echo greeted >greeting && git add greeting &&
git -c user.name=Agent -c user.email=agent@example.org commit -qm 'Greet the world' &&
git push -qf origin task/web/greet
"""
BY_HAND = """\
set -e
ask() {{ curl --silent --show-error --fail-with-body --header @{auth} "$@"; }}
ask {url}/api/v1/dequeue --json '{{"request_key": "by-hand", "wait": 25}}' >lease.json
EPOCH=$(jq .epoch lease.json)
ask {url}/api/v1/tasks/web/greet/start --json "{{\\"epoch\\": $EPOCH}}"
( {work} )
jq '{{epoch, status: "completed", result: "Greeted."}}' lease.json >report.json
ask {url}/api/v1/tasks/web/greet/status --json @report.json
"""


@dataclass(frozen=True)
class PullAgent:
    """An outside agent: its program, the settings in its home, and the call of one turn."""

    program: Path
    settings: Callable[[Path, str, Mapping[str, object]], tuple[str, str]]
    """Return the path below its home and the text, by its home, the model's address and the MCP server."""
    turn: tuple[str, ...]
    """Arguments before its prompt; `{turn}` is another word in each, for who goes on with a session else."""


def _openclaw(home: Path, model: str, server: Mapping[str, object]) -> tuple[str, str]:
    provider = {
        "baseUrl": f"{model}/v1",
        "apiKey": "sk-test",
        "api": "openai-completions",
        "models": [{"id": "fake-model", "name": "fake", "contextWindow": 128000, "maxTokens": 4096}],
    }
    agents = {
        "model": {"primary": "loopback/fake-model"},
        "workspace": str(home / "work"),
        "skipBootstrap": True,
    }
    settings = {
        "models": {"mode": "replace", "providers": {"loopback": provider}},
        "agents": {"defaults": agents},
        "tools": {"toolSearch": False},
        "mcp": {"servers": {"reconciler": server}},
    }
    return ".openclaw/openclaw.json", json.dumps(settings)


def _hermes(home: Path, model: str, server: Mapping[str, object]) -> tuple[str, str]:
    settings = {
        "model": {
            "default": "fake-model",
            "provider": "custom",
            "base_url": f"{model}/v1",
            "api_key": "sk-test",
        },
        "mcp_servers": {"reconciler": server},
        "mcp_discovery_timeout": 120,  # it waits 1.5 s otherwise, and goes on without the tools
    }
    return ".hermes/config.yaml", json.dumps(settings)  # JSON is YAML


AGENTS = {
    "openclaw": PullAgent(
        INSTALLED / "node_modules/.bin/openclaw",
        _openclaw,
        ("agent", "--local", "--session-id", "{turn}", "--json", "--message"),
    ),
    "hermes": PullAgent(INSTALLED / "venv/bin/hermes", _hermes, ("chat", "--yolo", "--quiet", "--query")),
}


@dataclass
class AtWork:
    """An outside agent of a served fleet."""

    agent: PullAgent
    model: Model
    home: Path

    async def start(self) -> asyncio.subprocess.Process:
        """Start a turn of it: a process that leads a group of its own."""
        path = f"{INSTALLED}/node_modules/node/bin:{os.environ['PATH']}"
        with (self.home / "printed").open("ab") as printed:
            return await asyncio.create_subprocess_exec(
                self.agent.program,
                *(word.format(turn=f"turn-{secrets.token_hex(4)}") for word in self.agent.turn),
                "Take a task of the fleet, do it, and report.",
                cwd=self.home / "work",
                env={"HOME": str(self.home), "PATH": path},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=printed,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )

    def was_answered(self, desired: str) -> bool:
        """Tell whether a tool told it what to do, in whatever form it passes that on to its model."""
        messages = [message for request in self.model.asked for message in request["messages"]]
        results = json.dumps([message["content"] for message in messages if message["role"] == "tool"])
        return re.search(rf"desired\W+{desired}\b", results) is not None

    def kill(self) -> None:
        """End all of it as a loss of power would: some begin anew in a session of their own."""
        for pid in processes.with_variable("HOME", str(self.home)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def take_turn(self) -> None:
        """Have it take a turn to its end."""
        process = await self.start()
        async with asyncio.timeout(LONGEST):
            await process.wait()
        assert process.returncode == 0, (self.home / "printed").read_text()


@pytest.fixture(params=AGENTS)
async def world(request, playground, tmp_path_factory):
    """Return a served fleet with one task, and each agent in turn; skip those that are not installed."""
    agent = AGENTS[request.param]
    if not agent.program.exists():
        pytest.skip(f"{request.param} is not in {INSTALLED}")
    playground.write("specs/fleet.yaml", "backoff: 1s\nlease: 20s\n")
    playground.task(
        "web/greet",
        "goal: Greet the world.\nexecution_mode: http_pull\nrepo: code\n"
        "validation: grep -q greeted greeting\nvalidate_on: local\n",
    )
    playground.commit()
    token = playground.reconciler("token", "new", "jeeves").strip()
    home = tmp_path_factory.mktemp("home")
    (home / "work").mkdir()
    (home / "token").write_text(token)
    (home / "auth").write_text(f"Authorization: Bearer {token}")
    served, model = playground.served(), Model()
    await served.start()
    server = {
        "command": sys.executable,
        "args": ["-m", "reconciler", "mcp", "--url", served.url, "--token-file", str(home / "token")],
    }
    with serving(model) as address:
        path, text = agent.settings(home, address, server)
        (home / path).parent.mkdir(parents=True)
        (home / path).write_text(text)
        at_work = AtWork(agent, model, home)
        yield playground, served, at_work, address
        at_work.kill()
    served.end()


def work_of(playground, agent, number=1):
    return WORK.format(code=playground.code, folder=agent.home / "work" / f"clone{number}")


async def test_it_takes_a_task_by_mcp_loses_its_lease_and_comes_back_to_finish_it(world):
    playground, served, agent, address = world
    wait = Reply("I will look around.", command=f"curl -s {address}/wait")
    agent.model.steps = [Reply("I take a task.", tool="dequeue_task"), wait]
    process = await agent.start()
    await asyncio.to_thread(agent.model.tool_is_running.wait, LONGEST)
    assert served.subjects("web/greet")[-1] == "assigned → running"

    agent.kill()
    await process.wait()
    agent.model.is_over.set()
    await eventually(lambda: "running → created" in served.subjects("web/greet"))
    report = {"task": "web/greet", "epoch": 2, "status": "completed", "result": "I greeted the world."}
    agent.model.steps = [
        Reply("I take a task.", tool="dequeue_task"),
        Reply("I do it.", command=work_of(playground, agent)),
        Reply("I was there before.", tool="heartbeat", arguments={"task": "web/greet", "epoch": 1}),
        Reply("I report.", tool="update_task", arguments=report),
    ]
    await agent.take_turn()

    await eventually(lambda: "running → completed" in served.subjects("web/greet"))
    assert playground.sh("git show task/web/greet:greeting", cwd=playground.code) == "greeted\n"
    assert agent.was_answered("lost"), "its old lease is refused"
    assert "agent jeeves reports completed: I greeted the world." in playground.reconciler(
        "history", "web/greet"
    )


async def test_a_task_that_it_works_on_is_cancelled_and_it_gives_it_back(world):
    playground, served, agent, address = world
    release = {"task": "web/greet", "epoch": 1, "status": "released", "result": "It was cancelled."}
    agent.model.steps = [
        Reply("I take a task.", tool="dequeue_task"),
        Reply("I will look around.", command=f"curl -s {address}/wait"),
        Reply("Is it still wanted?", tool="heartbeat", arguments={"task": "web/greet", "epoch": 1}),
        Reply("I give it back.", tool="update_task", arguments=release),
    ]
    turn = asyncio.create_task(agent.take_turn())
    await asyncio.to_thread(agent.model.tool_is_running.wait, LONGEST)

    playground.reconciler("cancel", "web/greet")
    await served.catches_up()
    agent.model.is_over.set()
    await turn

    await eventually(lambda: any(each.endswith("→ cancelled") for each in served.subjects("web/greet")))
    assert agent.was_answered("cancel")
    assert "jeeves" in playground.reconciler("history", "web/greet")


async def test_it_takes_a_task_by_http_and_reports_it_with_curl(world):
    playground, served, agent, _ = world
    playground.write("specs/fleet.yaml", "lease: 30m\n")  # it sends no heartbeats
    playground.commit()
    await served.catches_up()
    script = BY_HAND.format(auth=agent.home / "auth", url=served.url, work=work_of(playground, agent))
    agent.model.steps = [Reply("I follow the page.", command=script)]

    await agent.take_turn()

    await eventually(lambda: "running → completed" in served.subjects("web/greet"))
    assert playground.sh("git show task/web/greet:greeting", cwd=playground.code) == "greeted\n"
