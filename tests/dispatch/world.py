"""
A small world for runs: a code repository, a local host, a dispatcher that can be killed and started anew.
"""

import asyncio
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from reconciler.core.adapter import Adapter, RoundLimits, StopSignal
from reconciler.core.events import RunEnded, RunSeen
from reconciler.core.model.runs import FailureClass, Report, RunRequest, Verdict
from reconciler.core.model.specs import FleetSpec, Host, Repo, RunHooks
from reconciler.core.model.status import Phase
from reconciler.core.runs.retention import Retention
from reconciler.dispatch.dispatcher import Dispatcher
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.proofs import Proofs
from reconciler.dispatch.protocol import RunState, agent_job
from reconciler.dispatch.runs import Bounds, Pace, RunEnding, Runs
from reconciler.dispatch.scripts import Scripts
from reconciler.dispatch.transport import Transport
from tests.prepared import prepare
from tests.statuses import make_status, retention_of

NOW = datetime(2030, 1, 31, 9, tzinfo=UTC)
RUN = "web/fix.g12345678.a1"
QUICK = RunEnding(grace=1)
BRISK = Pace(events=0.02, copy=0.1, liveness=0.5)
LOCAL = Host(name="local")
SCRIPT = Adapter(name="script", stop=StopSignal(grace=timedelta(seconds=1)))


def read_output(adapter, *, stdout, stderr, exit_code, order, now, mask) -> Verdict:
    """Believe the exit code."""
    if exit_code == 0:
        return Verdict(outcome="success", text=mask.hide(stdout.read().decode(errors="replace")))
    return Verdict(outcome="failed", kind=FailureClass.AGENT, message=f"exit {exit_code}")


def git(folder: Path, *args: str) -> str:
    """Run git as a person with an identity and no other settings would; return what it printed."""
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    env = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *identity, *args], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def make_runs(
    folder: Path, transport: Transport | None = None, *, shell: str = "sh", logs: LogFolder | None = None
) -> Runs:
    """Return runs on this machine, everything of them below one folder."""
    transport = transport or LocalTransport(folder / "host")
    scripts = Scripts(transport, host="local", shell=shell, workdir=".")
    return Runs(
        scripts,
        transport,
        root="./fleet/runs",
        logs=logs or LogFolder(folder / "logs"),
        pace=BRISK,
        proofs=Proofs(folder / "proofs"),
    )


async def start(runs: Runs, run_id: str, script: str, stdin: bytes = b"", *, timeout: float = 60, **env: str):
    """Start a shell script as an agent."""
    job = agent_job(["sh", "-c", script], env=env, folder="/")
    return await runs.start(run_id, job, stdin, timeout=timeout, ending=QUICK)


async def finish(
    runs: Runs, run_id: str, state: RunState, *, silence: float | None = None, most: int = 2**30
):
    """Follow a run to its end."""
    return await runs.follow(run_id, state, Bounds(silence=silence, output=most), QUICK)


async def run(runs: Runs, run_id: str, script: str, stdin: bytes = b"", **env: str) -> RunState:
    """Start a run and follow it to its end."""
    return await finish(runs, run_id, await start(runs, run_id, script, stdin, **env))


async def until(is_true, *, every: float = 0.02) -> None:
    """Look until something is so; the test's own time limit is the end of patience."""
    while not is_true():  # noqa: ASYNC110  other processes set no events
        await asyncio.sleep(every)


def begin(folder: Path) -> None:
    """Make a code repository, `code.git`, and a clone to push from, `seed`."""
    seed = folder / "seed"
    (seed / "src").mkdir(parents=True)
    git(seed, "init", "-q", "-b", "main")
    (seed / "README").write_text("hello\n")
    (seed / "src" / "main.py").write_text("print('hello')\n")
    git(seed, "add", ".")
    git(seed, "commit", "-q", "-m", "Begin")
    git(folder, "clone", "-q", "--bare", "seed", "code.git")
    git(folder / "code.git", "remote", "remove", "origin")


class World:
    """A code repository `code` with one commit on `main`, and a data folder that outlives dispatchers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code = folder / "code.git"
        self.data = folder / "data"
        self.journal = folder / "journal"
        prepare(begin, folder)
        self.transport = LocalTransport(self.data / "host")
        self.repo = Repo(name="code", url="code.git")

    def dispatcher(self, **options) -> Dispatcher:
        """Return a new dispatcher over the same data, as after a restart."""
        options = {
            "patience": 0.5,
            "read_output": read_output,
            "pace": lambda _: BRISK,
            "keep_logs": timedelta(days=30),
            "keep_logs_mb": 100,
        } | options
        return Dispatcher(
            lambda _: self.transport,
            data=self.data,
            base=self.folder,
            fleet="f1",
            clock=lambda: NOW,
            **options,
        )

    def order(self, script: str, *, run: str = RUN, number: int = 1, **fields) -> RunRequest:
        """Return an order for a script in the code repository."""
        output_mb = fields.pop("output_mb", 64)
        adapter = SCRIPT.model_copy(
            update={"limits": RoundLimits(output_mb=output_mb), **fields.pop("adapter", {})}
        )
        values = {
            "repo": self.repo,
            "host": LOCAL,
            "prompt": "Do it.\n",
            "env": {},
            "branch": "task/web/fix",
            "timeout": timedelta(minutes=1),
            "stall_timeout": timedelta(minutes=1),
            "commit_message": "Mend it\n\nTask: web/fix\n",
            "argv": ("sh", "-c", script),
        } | fields
        return RunRequest(run=run, round=number, task="web/fix", adapter=adapter, **values)

    async def carry_out(self, order: RunRequest, **options) -> Report:
        """Carry out one order with a dispatcher of its own."""
        dispatcher, facts = self.dispatcher(**options), asyncio.Queue()
        dispatcher.follow(order, facts.put_nowait)
        report = await ended(facts)
        await dispatcher.close()
        return report

    def note(self, word: str) -> str:
        """Return shell text that writes a line into the journal outside of every workspace."""
        return f"echo {word} >>'{self.journal}'"

    @property
    def noted(self) -> list[str]:
        """The lines of the journal."""
        return self.journal.read_text().splitlines() if self.journal.exists() else []


async def ended(facts: asyncio.Queue) -> Report:
    """Wait for the end of a round, past its signs of life."""
    while True:
        fact = await facts.get()
        if isinstance(fact, RunEnded):
            return fact.report


async def seen(facts: asyncio.Queue) -> RunSeen:
    """Wait for the first fact, which must be a sign of life."""
    fact = await facts.get()
    assert isinstance(fact, RunSeen)
    return fact


def needs_of(
    *runs: str, phase: Phase = Phase.RUNNING, mb: int = 100, hooks: RunHooks | None = None
) -> Retention:
    """Return the needs of a fleet whose tasks have these last runs, the newest first, in one phase."""
    statuses = {
        key.rpartition(".g")[0]: make_status(
            phase=phase,
            since=NOW - timedelta(seconds=age),
            created_at=NOW,
            generation="1" * 40,
            work="w",
            attempt=int(key.rpartition(".a")[2]),
            run=key,
            repo="code",
        )
        for age, key in enumerate(runs)
    }
    repos = {"code": Repo(name="code", url="code.git", hooks=hooks or RunHooks())}
    return retention_of(statuses, NOW, FleetSpec(keep_failed_mb=mb), repos=repos)


async def sweep(world: World, found: Retention, **options) -> None:
    """Sweep the local host with a dispatcher that was just started."""
    dispatcher = world.dispatcher(**options)
    await dispatcher.sweep(LOCAL, lambda: found)
    await dispatcher.close()
