"""
A real agent CLI at work, as a round of a run calls it.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from reconciler.core.adapter import Adapter
from reconciler.core.model.runs import RunRequest, Verdict
from reconciler.core.model.specs import Desired, Host, Task
from reconciler.core.model.status import Phase
from reconciler.core.runs.command import build_run_request, localize
from reconciler.dispatch.output import read_output
from reconciler.specs.layers import resolve_adapter as built_in
from tests.agents.clis import CLIS, INSTALLED, MORE, NODE
from tests.agents.models import Model, serving
from tests.statuses import make_status

LONGEST = 100.0
"""Seconds for a run."""
NOW = datetime(2030, 1, 1, 9, 0, tzinfo=UTC)


@dataclass
class Agent:
    """A real agent CLI with a home and a workspace of its own, and a model on loopback."""

    adapter: Adapter
    model: Model
    env: dict[str, str]
    home: Path
    workspace: Path
    address: str
    """The model's."""
    exit_code: int = 0
    """Of the last run."""

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
            model=CLIS[name].model or None,
        )
        start = {"phase": Phase.RUNNING, "since": NOW, "created_at": NOW, "generation": "a" * 40, "work": "w"}
        run = {
            "run": "fix.gaaaaaaaa.a1",
            "round": 1,
            "assigned_host": "local",
            "model": CLIS[name].model or None,
        }
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
                    work.argv,
                    workdir=str(self.workspace),
                    prompt_file=str(prompt),
                    declared=str(declared),
                    files=str(self.home / "files"),
                ),
                cwd=self.workspace,
                env={
                    "PATH": f"{NODE}:{INSTALLED}:{MORE}:{os.environ['PATH']}",
                    **self.adapter.env,
                    **self.env,
                },
                stdin=stdin,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Stop it as a run is stopped: a signal to all of it, and KILL after its grace."""
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=self.adapter.stop.grace.total_seconds())
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def waited(self, process: subprocess.Popen[bytes]) -> int:
        """Return its exit code; it is stopped if it takes too long, and what it leaves behind is ended."""
        try:
            process.wait(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            self.stop(process)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()

    def finish(self, work: RunRequest, process: subprocess.Popen[bytes]) -> Verdict:
        self.exit_code = self.waited(process)
        code = self.exit_code
        return read_output(
            self.adapter,
            stdout=(self.home / "out").read_bytes(),
            stderr=(self.home / "err").read_bytes(),
            exit_code=code if code >= 0 else 128 - code,
            order=work,
            now=NOW,
        )


@contextmanager
def at_work(name: str, folder: Path) -> Iterator[Agent]:
    """Yield an agent with a home, a workspace and a model of its own."""
    home, workspace, temporary = folder / "home", folder / "work", folder / "tmp"
    for each in (home, workspace, temporary):
        each.mkdir()
    model = Model()
    with serving(model) as address:
        # Codex makes no helpers below /tmp, which it needs where there is a bubblewrap.
        env = {"HOME": str(home), "TMPDIR": str(temporary), **CLIS[name].reach(address, home)}
        yield Agent(built_in(name, None), model, env, home, workspace, address)
