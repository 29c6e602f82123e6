import pytest

from tests.agents.agent import at_work
from tests.agents.clis import CLIS


@pytest.fixture(params=["claude-code", "codex"])
def agent(request, tmp_path):
    """Return each real agent in turn; skip those that are not installed."""
    name = request.param
    if CLIS[name].path is None:
        pytest.skip(f"{CLIS[name].program} is not installed: npm install --prefix tests/agents")
    with at_work(name, tmp_path) as agent:
        yield agent
