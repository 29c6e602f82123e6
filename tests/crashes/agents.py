"""
Crashes of `serve` on the way of a task through the hands of an outside agent, which asks again what was lost.
"""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import httpx2

from reconciler.api.tokens import new_token
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.worker_logs import AgentLogs
from tests.crashes.failpoints import AGENT_POINTS, DIED, Failpoint, When, armed_command
from tests.crashes.forge import PATIENCE
from tests.crashes.table import WHEN, Row, faults_of_record, head_of_record, output_of, row
from tests.e2e.conftest import Playground, make_playground
from tests.e2e.served import API
from tests.forking import Process, run
from tests.looks import Looks

WAY = ["created", "created → assigned", "assigned → running", "running, reported", "running → completed"]
LOG = b"looking\n"


@dataclass
class AgentFleet:
    """A served fleet, and one agent that does its work once and asks until it is answered."""

    playground: Playground
    token: str
    url: str = ""
    process: subprocess.Popen[bytes] | None = None
    codes: list[int] = field(default_factory=list)
    """Exit codes of the servers that ended by themselves."""

    def __post_init__(self) -> None:
        self._looks = Looks(self.playground.fleet / ".git", partial(output_of, self.playground.fleet))

    @property
    def said(self) -> str:
        path = self.playground.root / "served"
        return path.read_text() if path.exists() else ""

    def launch(self, point: Failpoint | None = None, when: When = "before") -> None:
        """Start the server, at the address that it had before; wait until it listens, or has ended."""
        listen = self.url.removeprefix("http://") or "127.0.0.1:0"
        starts = self.said.count("listening on ")
        with (self.playground.root / "served").open("ab") as said:
            self.process = Process(
                armed_command("agents", point, when, "serve", "--listen", listen),
                cwd=self.playground.fleet,
                env=self.playground.env,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        while self.said.count("listening on ") == starts and self.process.poll() is None:
            time.sleep(0.02)
        if not self.url:
            self.url = re.search(r"^listening on (\S+)$", self.said, re.MULTILINE)[1]

    def kill(self) -> None:
        """End the server."""
        self.process.kill()
        self.process.wait()

    def ask(self, method: str, path: str, **request: Any) -> httpx2.Response:
        """Ask until there is an answer; a server that has ended is started anew, without a failpoint."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with contextlib.suppress(httpx2.TransportError):
                answer = httpx2.request(
                    method,
                    f"{self.url}{API}/{path}",
                    headers={"Authorization": f"Bearer {self.token}"},
                    timeout=PATIENCE,
                    trust_env=False,
                    **request,
                )
                if answer.status_code not in {204, 503}:
                    return answer
            if (code := self.process.poll()) is not None:
                self.codes.append(code)
                self.launch()
        raise TimeoutError(f"{method} {path}: no answer")

    def work(self, name: str) -> Iterator[str]:
        """Do a task as an agent does; yield what is not as it should be."""
        lease = self.ask("POST", "dequeue", json={"request_key": name, "wait": 5}).json()
        if lease["task"] != name:
            yield f"it got {lease}"
        held = {"epoch": lease["epoch"]}
        steps: Sequence[tuple[str, str, Mapping[str, Any]]] = (
            ("POST", "start", {"json": held}),
            ("POST", "heartbeat", {"json": held}),
            ("PUT", f"log?offset=0&epoch={lease['epoch']}", {"content": LOG}),
        )
        for method, verb, request in steps:
            yield from self._step(method, name, verb, request)
        self._push(lease)
        report = {**held, "status": "completed", "result": "Done.", "branch": lease["branch"]}
        yield from self._step("POST", name, "status", {"json": report})

    def _step(self, method: str, name: str, verb: str, request: Mapping[str, Any]) -> Iterator[str]:
        answer = self.ask(method, f"tasks/{name}/{verb}", **request)
        if not answer.is_success:
            yield f"{verb} is answered with {answer.status_code}: {answer.text}"

    def _push(self, lease: Mapping[str, Any]) -> None:
        clone = self.playground.root / f"clones/{lease['task']}"
        self.playground.sh(
            f"git clone -q {self.playground.code} {clone} && cd {clone} && git checkout -qb {lease['branch']}"
            f" && echo done >{lease['task']} && git add -A && git commit -qm Work && git push -q origin HEAD"
        )

    def settled(self, name: str) -> bool:
        """Wait until the claim is checked; return whether it ever is."""
        until = time.monotonic() + PATIENCE
        while self.steps(name)[-1:] != WAY[-1:] and time.monotonic() < until:
            if self.process.poll() is not None:
                self.codes.append(self.process.returncode)
                self.launch()
            time.sleep(0.05)
        return self.steps(name)[-1:] == WAY[-1:]

    def steps(self, name: str) -> list[str]:
        """Return what is on record of a task, oldest first."""
        lines = self._looks("log", "--reverse", "--format=%s", "fleet-state").splitlines()
        return [line.removeprefix(f"task {name}: ") for line in lines if line.startswith(f"task {name}: ")]

    def deeds(self, name: str) -> Iterator[str]:
        """Yield what was not done, or was done twice."""
        if self.steps(name) != WAY:
            yield f"its steps are {self.steps(name)}"
        grep = (
            "log",
            "--format=%(trailers:key=Run,valueonly,separator=)",
            f"--grep=^task {name}:",
            "fleet-state",
        )
        runs = {run for run in output_of(self.playground.fleet, *grep).splitlines() if run}
        if len(runs) != 1:
            yield f"it was handed out as {runs}"
        logs = AgentLogs(LogFolder(self.playground.root / "data/logs"))
        if [logs.size(run) for run in runs] != [len(LOG)]:
            yield "its log is not kept once"

    def verify(self) -> int:
        """Return the exit code of `verify`."""
        command = armed_command("agents", None, "before", "verify")
        folder, env = self.playground.fleet, self.playground.env
        return run(command, cwd=folder, env=env, capture_output=True).returncode


@contextlib.contextmanager
def agent_fleet(root: Path) -> Iterator[AgentFleet]:
    """Yield a fleet with one agent, served once so that it has an address."""
    playground = make_playground(root)
    token, digest = new_token("jeeves", lambda size: os.urandom(size).hex())
    playground.write("specs/agents/jeeves.yaml", f"token_hash: {digest}\n")
    playground.write(
        "specs/fleet.yaml", "backoff: 1s\nlease: 10m\nexecution_mode: http_pull\npoll_interval: 1s\n"
    )
    playground.commit()
    fleet = AgentFleet(playground, token)
    fleet.launch()
    fleet.kill()
    try:
        yield fleet
    finally:
        fleet.kill()


def agent_table(
    root: Path, points: Sequence[Failpoint] = AGENT_POINTS, whens: Sequence[When] = WHEN
) -> Iterator[Row]:
    """Yield what comes of a crash before and after each failpoint."""
    with agent_fleet(root) as fleet:
        for number, (point, when) in enumerate(product(points, whens)):
            yield row(point, when, _faults(fleet, f"t{number}", point, when))


def _faults(fleet: AgentFleet, name: str, point: Failpoint, when: When) -> Iterator[str]:
    before = head_of_record(fleet.playground.fleet)
    fleet.playground.task(name, f"goal: Work.\nrepo: code\nvalidation: test -e {name}\n")
    fleet.playground.commit(f"Ask for {name}")
    fleet.codes.clear()
    fleet.launch(point, when)
    yield from fleet.work(name)
    if not fleet.settled(name):
        yield "it is not completed"
    if not fleet.codes:  # what it was ended after is on record a moment before its end
        with contextlib.suppress(subprocess.TimeoutExpired):
            fleet.codes.append(fleet.process.wait(PATIENCE))
    if fleet.codes != [DIED]:
        yield f"its failpoint was not reached (exit codes {fleet.codes})"
    fleet.kill()
    yield from fleet.deeds(name)
    yield from faults_of_record(fleet.playground.fleet, before, fleet.verify)
