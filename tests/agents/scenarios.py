"""
What happens to agents, each of them on a real CLI: the rows of the matrix.
"""

from collections.abc import Callable, Mapping

from reconciler.core.model.runs import FailureClass, Verdict
from tests.agents.agent import Agent
from tests.agents.clis import CLIS
from tests.agents.models import Reply

WRITE = Reply("I will write the file.", command="echo hello > hello.txt")
LONGEST = 100.0
"""Seconds until the model, or a tool, is called."""


def _answers(agent: Agent) -> Verdict:
    return agent.run()


def _edits(agent: Agent) -> Verdict:
    agent.model.reply = WRITE
    verdict = agent.run()
    assert (agent.workspace / "hello.txt").read_text() == "hello\n"
    return verdict


def _refused_with(status: int) -> Callable[[Agent], Verdict]:
    def refused(agent: Agent) -> Verdict:
        agent.model.reply = Reply(status=status)
        return agent.run()

    return refused


def _hangs(agent: Agent) -> Verdict:
    """End it while its model does not answer."""
    agent.model.reply = Reply(hang=True)
    work = agent.order()
    process = agent.start(work)
    assert agent.model.was_asked.wait(LONGEST)
    agent.stop(process)
    return agent.finish(work, process)


def _is_cancelled(agent: Agent) -> Verdict:
    """End it while a tool runs."""
    agent.model.reply = Reply("I will wait.", command=f"curl -s {agent.address}/wait")
    work = agent.order()
    process = agent.start(work)
    assert agent.model.tool_is_running.wait(LONGEST)
    agent.stop(process)
    return agent.finish(work, process)


def _is_denied(agent: Agent) -> Verdict:
    agent.model.reply = WRITE
    agent.adapter = CLIS[agent.adapter.name].without_tools(agent.adapter)
    verdict = agent.run()
    assert not (agent.workspace / "hello.txt").exists()
    return verdict


def _plans(agent: Agent) -> Verdict:
    """Let it make a plan, in which nothing can be written, and carry it out."""
    agent.model.reply = WRITE
    agent.run(mode="plan")
    assert not (agent.workspace / "hello.txt").exists()
    agent.model.reply = Reply()
    plan = agent.run(mode="plan", round=2)
    assert (plan.outcome, bool(plan.text)) == ("success", True), plan.message
    agent.model.reply = WRITE
    session = {"session_id": plan.session_id, "session_totals": plan.session_totals}
    verdict = agent.run(round=3, **(session if plan.session_id else {}))
    assert (agent.workspace / "hello.txt").exists()
    return verdict


def _resumes(agent: Agent) -> Verdict:
    first = agent.run()
    assert first.session_id
    second = agent.run(round=2, session_id=first.session_id, session_totals=first.session_totals)
    assert second.session_id == first.session_id
    assert str(agent.model.asked[-1]).count("# Goal") == 2, "the second round goes on with the session"
    assert second.usage.output_tokens == first.usage.output_tokens
    return second


SCENARIOS: Mapping[str, Callable[[Agent], Verdict]] = {
    "success": _answers,
    "edit": _edits,
    "err401": _refused_with(401),
    "err429": _refused_with(429),
    "err500": _refused_with(500),
    "hang": _hangs,
    "denial": _is_denied,
    "cancel": _is_cancelled,
    "resume": _resumes,
    "plan": _plans,
}

Kinds = frozenset[FailureClass | None]

STOPPED: Kinds = frozenset({FailureClass.HOST, FailureClass.CANCELLED})
"""A run that a signal ended: a CLI may have the time to say so itself, or not."""
CLASSES: Mapping[str, Kinds] = {
    "success": frozenset({None}),
    "edit": frozenset({None}),
    "err401": frozenset({FailureClass.AUTH}),
    "err429": frozenset({FailureClass.QUOTA}),
    "err500": frozenset({FailureClass.QUOTA}),
    "hang": STOPPED,
    "denial": frozenset({FailureClass.CONFIG}),
    "cancel": STOPPED,
    "resume": frozenset({None}),
    "plan": frozenset({None}),
}
"""What each of them may be to any CLI: the class of a failure, None for a success."""
