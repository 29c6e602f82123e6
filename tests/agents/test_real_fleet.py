"""A whole fleet whose agent is a real one, on this machine and on a host behind SSH."""

import json

import pytest
from ruamel.yaml import YAML

from tests.agents.clis import INSTALLED
from tests.agents.models import Reply
from tests.dispatch.bubblewrap import needs_bwrap
from tests.dispatch.sshd import needs_sshd, yard
from tests.e2e.conftest import playground  # noqa: F401 - a fixture

pytestmark = [pytest.mark.real_agent]

WRITE = "if grep -q world hello.txt; then echo mended > hello.txt; else echo world > hello.txt; fi"
TOKENS = {"claude-code": 40, "codex": 50}
"""Output tokens of a call, as the model tells them."""


WITHOUT_ITS_OWN = {"codex": "work: [--dangerously-bypass-approvals-and-sandbox]\n"}
"""What makes a CLI do without a sandbox of its own, which it cannot have in another as root."""


def ask_for_a_greeting(fleet, agent, host: str, adapter: str = ""):
    """Commit a task whose first round fails its validation and whose second one mends it."""
    agent.model.reply = Reply("I will write it.", command=WRITE)
    name = agent.adapter.name
    env = "".join(f"  {key}: {value!r}\n" for key, value in agent.env.items())
    fleet.write(f"specs/adapters/{name}.yaml", f"{adapter}env:\n{env}")
    fleet.write("specs/hosts/home.yaml", f"{host}adapters:\n  {name}:\n    path: {INSTALLED}\n")
    fleet.task(
        "greet",
        f"goal: Greet the world.\nadapter: {name}\nrepo: code\nrequires: home\n"
        "validation: grep -q mended hello.txt\n",
    )
    fleet.commit()


def assert_mended_in_one_session(fleet, agent):
    status = YAML(typ="safe").load(fleet.sh("git show fleet-state:fleet-state/tasks/greet.yaml"))
    assert (status["phase"], status["attempt"], status["round"]) == ("completed", 1, 2)
    assert fleet.sh("git show task/greet:hello.txt", cwd=fleet.code) == "mended\n"
    assert status["usage"]["output_tokens"] == 4 * TOKENS[agent.adapter.name]
    assert status["session_id"]
    conversation = str(agent.model.asked[-1])
    assert "What failed" in conversation
    assert conversation.count("# Goal") == 2, "the second round goes on with the session of the first"


def test_an_adapter_is_tried_with_all_it_has(agent, playground):  # noqa: F811
    ask_for_a_greeting(playground, agent, host="")
    agent.model.reply = Reply("ready")
    name = agent.adapter.name
    is_healthy = name != "codex"  # its health command does not see a key in the environment

    printed = playground.reconciler(
        "adapter", "test", name, "--host", "home", "-o", "json", code=0 if is_healthy else 5
    )

    checks = {check["check"]: check for check in json.loads(printed)["checks"]}
    works = {"host": True, "version": True, "health": is_healthy, "prompt": True}
    assert {check: found["ok"] for check, found in checks.items()} == works
    assert checks["prompt"]["verdict"]["text"] == "ready"
    assert agent.model.saw("Reply with the one word: ready.")


@needs_bwrap
def test_a_failed_validation_is_mended_in_its_session_where_the_model_alone_is_reached(agent, playground):  # noqa: F811
    model = agent.address.removeprefix("http://")
    seen = f"{INSTALLED.parent}, {agent.home}/.codex/config.toml"
    ask_for_a_greeting(
        playground,
        agent,
        host=f"sandbox:\n  network: ['{model}']\n  readable: [{seen}]\n",
        adapter=WITHOUT_ITS_OWN.get(agent.adapter.name, ""),
    )

    playground.reconciler("run", "--until-idle")

    assert_mended_in_one_session(playground, agent)


@needs_sshd[0]
@needs_sshd[1]
def test_the_same_holds_behind_ssh(agent, playground, tmp_path):  # noqa: F811
    with yard(tmp_path / "hosts") as hosts:
        server = hosts.sshd("home")
        ask_for_a_greeting(
            playground,
            agent,
            host=f"address: 127.0.0.1\nport: {server.port}\nhost_key: {server.host_key.strip()}\n"
            f"identity: {server.identity}\n",
        )

        playground.reconciler("run", "--until-idle")

    assert_mended_in_one_session(playground, agent)


ASK = """\
if [ "$RECONCILER_ANSWER" ]; then echo "$RECONCILER_ANSWER" > colour.txt
else echo 'Red or blue?' > "$RECONCILER_QUESTION_FILE"; fi
"""


def test_a_question_is_answered_and_the_session_goes_on(agent, playground):  # noqa: F811
    ask_for_a_greeting(playground, agent, host="")
    agent.model.reply = Reply("I will see.", command=ASK)
    playground.task(
        "greet", f"goal: Choose a colour.\nadapter: {agent.adapter.name}\nrepo: code\nrequires: home\n"
    )
    playground.commit()

    playground.reconciler("run", "--until-idle")
    assert "asks (q1-1): Red or blue?" in playground.reconciler("get")
    playground.reconciler("answer", "greet", "blue, as the sky is")
    playground.reconciler("run", "--until-idle")

    status = YAML(typ="safe").load(playground.sh("git show fleet-state:fleet-state/tasks/greet.yaml"))
    assert (status["phase"], status["attempt"], status["round"]) == ("completed", 1, 2)
    assert playground.sh("git show task/greet:colour.txt", cwd=playground.code) == "blue, as the sky is\n"
    conversation = str(agent.model.asked[-1])
    assert "The answer, which you follow:" in conversation
    assert conversation.count("# Goal") == 2, "the second round goes on with the session of the first"
