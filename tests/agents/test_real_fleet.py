"""A whole fleet on this machine whose agent is a real one."""

import pytest
from ruamel.yaml import YAML

from tests.agents.conftest import INSTALLED
from tests.agents.models import Reply
from tests.e2e.conftest import playground  # noqa: F401 - a fixture

pytestmark = [pytest.mark.real_agent, pytest.mark.timeout(180)]

WRITE = "if grep -q world hello.txt; then echo mended > hello.txt; else echo world > hello.txt; fi"
TOKENS = {"claude-code": 40, "codex": 50}
"""Output tokens of a call, as the model tells them."""


def test_a_failed_validation_is_handed_back_to_the_session_and_mended_there(agent, playground):  # noqa: F811
    name = agent.adapter.name
    agent.model.reply = Reply("I will write it.", command=WRITE)
    env = "".join(f"  {key}: {value!r}\n" for key, value in agent.env.items())
    playground.write(f"specs/adapters/{name}.yaml", f"env:\n{env}")
    playground.write("specs/hosts/local.yaml", f"adapters:\n  {name}:\n    path: {INSTALLED}\n")
    playground.task(
        "greet",
        f"goal: Greet the world.\nadapter: {name}\nrepo: code\nvalidation: grep -q mended hello.txt\n",
    )
    playground.commit()

    playground.reconciler("run", "--until-idle")

    status = YAML(typ="safe").load(playground.sh("git show fleet-state:fleet-state/tasks/greet.yaml"))
    assert (status["phase"], status["attempt"], status["round"]) == ("completed", 1, 2)
    assert playground.sh("git show task/greet:hello.txt", cwd=playground.code) == "mended\n"
    assert status["usage"]["output_tokens"] == 4 * TOKENS[name]
    assert status["session_id"]
    conversation = str(agent.model.asked[-1])
    assert "What failed" in conversation
    assert conversation.count("# Goal") == 2, "the second round goes on with the session of the first"
