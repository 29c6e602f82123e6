"""Real agents, run by the built-in adapters against a model on loopback."""

import os
import signal

import pytest

from reconciler.core.adapter import RoundLimits
from reconciler.core.model.runs import FailureClass
from tests.agents.clis import CLIS
from tests.agents.models import Reply
from tests.agents.scenarios import SCENARIOS

pytestmark = [pytest.mark.real_agent]

WRITE = Reply("I will write the file.", command="echo hello > hello.txt")


def test_an_agent_that_does_its_work_succeeds(agent):
    agent.model.reply = WRITE

    found = agent.run()

    assert (found.outcome, found.text) == ("success", "Done: the task is finished.")
    assert (agent.workspace / "hello.txt").read_text() == "hello\n"
    assert found.session_id
    assert found.usage.output_tokens > 0
    assert agent.model.saw("Write hello.txt.")


def test_a_later_round_goes_on_with_the_session_and_pays_for_itself_only(agent):
    first = agent.run()

    second = agent.run(round=2, session_id=first.session_id, session_totals=first.session_totals)

    assert (first.outcome, second.outcome) == ("success", "success")
    assert second.session_id == first.session_id
    assert not second.notes
    assert second.usage.output_tokens == first.usage.output_tokens
    assert second.usage.cost_usd == pytest.approx(first.usage.cost_usd, abs=0.001)
    assert second.session_totals.cost_usd >= first.session_totals.cost_usd


def test_a_session_that_is_not_there_is_not_taken_for_a_success(agent):
    found = agent.run(session_id="019a0000-0000-7000-8000-000000000000")

    assert (found.outcome, found.kind, found.session_id) == ("failed", FailureClass.AGENT, None)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, FailureClass.AUTH),
        (429, FailureClass.QUOTA),
        (529, FailureClass.QUOTA),
    ],
)
def test_what_the_models_server_refuses_is_told_apart(agent, status, kind):
    agent.model.reply = Reply(status=status)

    found = agent.run()

    assert (found.outcome, found.kind) == ("failed", kind), found.message


@pytest.mark.parametrize("agent", ["codex"], indirect=True)  # claude asks again without a stream, and gets on
def test_a_stream_that_always_breaks_off_is_no_success(agent):
    agent.model.reply = Reply(cut=True)

    found = agent.run()

    assert (found.outcome, found.kind) == ("failed", FailureClass.HOST), found.message


def test_an_agent_that_is_ended_while_it_waits_has_not_succeeded_and_can_be_resumed(agent):
    agent.model.reply = Reply(hang=True)
    work = agent.order()
    process = agent.start(work)
    assert agent.model.was_asked.wait(timeout=60)

    os.killpg(process.pid, signal.SIGTERM)
    found = agent.finish(work, process)
    agent.model.reply = Reply()
    again = agent.run(round=2, session_id=found.session_id)

    assert (found.outcome, found.kind) == ("failed", FailureClass.HOST)
    assert again.outcome == "success"
    assert again.session_id == found.session_id


@pytest.mark.parametrize("agent", ["claude-code"], indirect=True)  # codex does not say it: its commits do
def test_an_agent_that_may_not_use_its_tools_is_no_success(agent):
    agent.model.reply = WRITE
    agent.adapter = CLIS[agent.adapter.name].without_tools(agent.adapter)

    found = agent.run()

    assert not (agent.workspace / "hello.txt").exists()
    assert (found.outcome, found.kind) == ("failed", FailureClass.CONFIG)
    assert "denied" in found.message


def test_an_agent_that_makes_a_plan_changes_nothing_until_it_carries_it_out(agent):
    assert SCENARIOS["plan"](agent).outcome == "success"


@pytest.mark.parametrize("agent", ["claude-code"], indirect=True)
def test_an_agent_that_goes_round_in_circles_is_stopped_by_its_limit(agent):
    agent.model.reply = agent.model.then = Reply(command="echo again")
    agent.adapter = agent.adapter.model_copy(update={"limits": RoundLimits(turns=3)})

    found = agent.run()

    assert (found.outcome, found.kind) == ("failed", FailureClass.BUDGET)
    assert "turns" in found.message


def test_a_flag_that_the_agent_does_not_know_is_a_mistake_of_the_configuration(agent):
    command = (*agent.adapter.command[:2], "--no-such-flag", *agent.adapter.command[2:])
    agent.adapter = agent.adapter.model_copy(update={"command": command})

    found = agent.run()

    assert (found.outcome, found.kind) == ("failed", FailureClass.CONFIG)
    assert "--no-such-flag" in found.message
