import os
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.core.adapter import Adapter
from reconciler.core.model.runs import RunRequest, Verdict
from reconciler.core.model.specs import Desired, Host, Task
from reconciler.core.model.status import Phase
from reconciler.core.runs.command import build_run_request, localize
from reconciler.dispatch.output import read_output
from reconciler.specs.layers import resolve_adapter as built_in
from tests.agents.models import Model, serving
from tests.statuses import make_status

NOW = datetime(2030, 1, 1, 9, 0, tzinfo=UTC)
HERE = Path(__file__).parent
INSTALLED = Path(os.environ.get("RECONCILER_TEST_AGENTS", HERE)) / "node_modules" / ".bin"
PROGRAMS = {"claude-code": "claude", "codex": "codex"}
MODELS = {"claude-code": "sonnet", "codex": "gpt-5.4"}


@dataclass
class Agent:
    """A real agent CLI with a home and a workspace of its own, and a model on loopback."""

    adapter: Adapter
    model: Model
    env: dict[str, str]
    home: Path
    workspace: Path

    def run(self, **status) -> Verdict:
        """Carry out a round from its order to its verdict."""
        work = self.order(**status)
        return self.finish(work, self.start(work))

    def order(self, **status) -> RunRequest:
        name = self.adapter.name
        task = Task(
            name="fix",
            generation="a" * 40,
            work="w",
            goal="Write hello.txt.",
            adapter=name,
            model=MODELS[name],
        )
        start = {"phase": Phase.RUNNING, "since": NOW, "created_at": NOW, "generation": "a" * 40, "work": "w"}
        run = {"run": "fix.gaaaaaaaa.a1", "round": 1, "assigned_host": "local"}
        fleet = Desired(hosts={"local": Host(name="local")}, adapters={name: self.adapter})
        return build_run_request(task, make_status(**{**start, **run, **status}), fleet)

    def start(self, work: RunRequest) -> subprocess.Popen[bytes]:
        prompt, declared = self.home / "prompt", self.home / "declared"
        prompt.write_text(work.prompt)
        declared.mkdir(exist_ok=True)  # as a run does: a sandbox refuses to begin without it
        with (
            prompt.open() as stdin,
            (self.home / "out").open("wb") as out,
            (self.home / "err").open("wb") as err,
        ):
            return subprocess.Popen(
                localize(
                    work.argv, workdir=str(self.workspace), prompt_file=str(prompt), declared=str(declared)
                ),
                cwd=self.workspace,
                env={"PATH": f"{INSTALLED}:{os.environ['PATH']}", **self.adapter.env, **self.env},
                stdin=stdin,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def finish(self, work: RunRequest, process: subprocess.Popen[bytes]) -> Verdict:
        code = process.wait(timeout=100)
        return read_output(
            self.adapter,
            stdout=(self.home / "out").read_bytes(),
            stderr=(self.home / "err").read_bytes(),
            exit_code=code if code >= 0 else 128 - code,
            order=work,
            now=NOW,
        )


@pytest.fixture(params=sorted(PROGRAMS))
def agent(request, tmp_path):
    """Return each real agent in turn; skip those that are not installed."""
    name = request.param
    if not (INSTALLED / PROGRAMS[name]).exists():
        pytest.skip(f"{PROGRAMS[name]} is not installed: npm install --prefix tests/agents")
    home, workspace = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    workspace.mkdir()
    model = Model()
    with serving(model) as address:
        yield Agent(
            built_in(name, None), model, {"HOME": str(home), **reach(name, address, home)}, home, workspace
        )


def reach(name: str, address: str, home: Path) -> dict[str, str]:
    """Return the environment in which an agent finds the model, and nothing else of the world."""
    if name == "claude-code":
        # The tests run as root only where nothing else is: in a sandbox.
        return {
            "ANTHROPIC_BASE_URL": address,
            "ANTHROPIC_API_KEY": "sk-test",
            "CLAUDE_CODE_MAX_RETRIES": "1",
            "IS_SANDBOX": "1",
        }
    config = home / ".codex" / "config.toml"
    config.parent.mkdir()
    config.write_text(f"""
        model_provider = "loopback"
        [model_providers.loopback]
        name = "loopback"
        base_url = "{address}/v1"
        env_key = "LOOPBACK_KEY"
        wire_api = "responses"
        request_max_retries = 1
        stream_max_retries = 1
    """)
    return {"LOOPBACK_KEY": "sk-test"}
