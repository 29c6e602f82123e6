"""Every CLI in every scenario that takes it seconds; `python -m tests.agents.record` has the others too."""

import pytest

from tests.agents.agent import at_work
from tests.agents.clis import CLIS
from tests.agents.scenarios import CLASSES, SCENARIOS

pytestmark = [pytest.mark.real_agent]

RETRIES = {"err429", "err500"}
"""Scenarios in which most CLIs call their model again and again, for a minute and more."""
ELSEWHERE = frozenset({"claude-code", "codex"})
"""CLIs that `test_real_agents` has in all of them, and more."""
SLOW_TO_BEGIN = frozenset({"opencode", "qwen"})
"""CLIs that compute for seconds before they ask their model."""
MANY_ROUNDS = frozenset({"success", "plan"})
"""Scenarios that such a CLI is not put through: `edit` and `resume` are successes too, a plan takes three."""


def is_quick(name: str, scenario: str) -> bool:
    return scenario not in RETRIES and not (name in SLOW_TO_BEGIN and scenario in MANY_ROUNDS)


CELLS = [
    (name, scenario)
    for name, cli in CLIS.items()
    for scenario in SCENARIOS
    if name not in ELSEWHERE and cli.has(scenario) and is_quick(name, scenario)
]


@pytest.mark.parametrize(("name", "scenario"), CELLS)
def test_what_happens_to_an_agent_is_read_the_same_of_every_cli(name, scenario, tmp_path):
    cli = CLIS[name]
    if cli.path is None:
        pytest.skip(f"{cli.program} is not installed: see tests/agents/more and tests/agents/all")

    with at_work(name, tmp_path) as agent:
        verdict = SCENARIOS[scenario](agent)

    assert verdict.kind in cli.otherwise.get(scenario, CLASSES[scenario]), verdict.message
    assert (verdict.outcome == "success") is (verdict.kind is None)
