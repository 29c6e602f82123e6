"""
Crashes of `run`: fleets whose runs are on this machine, or on a host over SSH.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from subprocess import DEVNULL

from tests.crashes.failpoints import DIED, RUN_POINTS, Failpoint, When, armed_command
from tests.crashes.table import GOOD, WHEN, Row, faults_of_record, head_of_record, output_of, row
from tests.dispatch.sshd import yard
from tests.e2e.conftest import Playground, make_playground
from tests.forking import run

NOT_LOCAL = {"fetch", "push"}
"""Only where the record is behind a URL."""


@dataclass(frozen=True, slots=True)
class CrashFleet:
    """A fleet whose one agent counts its own starts, and the commands on it."""

    playground: Playground
    record: Path
    """Git directory of the record."""
    options: Sequence[str] = ()

    @property
    def starts(self) -> Path:
        return self.playground.root / "starts"

    def crash(self, name: str, point: Failpoint, when: When) -> str:
        """Add a task and end the reconciler on its way; return what went wrong with that."""
        self.playground.task(
            name,
            f"goal: Count.\nrepo: code\nvalidation: test -e {name}\n"
            f"script: echo $RECONCILER_TASK $RECONCILER_RUN >>{self.starts}; touch {name}\n",
        )
        self.playground.commit(f"Ask for {name}")
        if self.options:
            self.playground.sh("git push -q origin main")
        code = self.run("run", "--until-idle", point=point, when=when)
        return "" if code == DIED else f"its failpoint was not reached (exit code {code})"

    def faults(self, name: str) -> Iterator[str]:
        """Yield what is wrong with a task that should be done."""
        status = output_of(self.record, "show", f"fleet-state:fleet-state/tasks/{name}.yaml")
        if "\nphase: completed\n" not in f"\n{status}\n":
            yield f"it is not completed: {status}"
        counted = self.starts.read_text() if self.starts.exists() else ""
        runs = [line for line in counted.splitlines() if line.startswith(f"{name} ")]
        if len(runs) != 1:
            yield f"{len(runs)} starts: {runs}"
        if output_of(self.playground.code, "ls-tree", "--name-only", f"task/{name}", name) != name:
            yield "its work is not there"

    def run(self, *args: str, point: Failpoint | None = None, when: When = "before") -> int:
        """Run a command on the fleet; return its exit code."""
        command = armed_command("run", point, when, *self.options, *args)
        with (self.playground.root / "told").open("ab") as told:
            place = {"cwd": self.playground.fleet, "env": self.playground.env}
            return run(command, **place, stdin=DEVNULL, stdout=told, stderr=told).returncode

    def faults_of_record(self, before: str) -> Iterator[str]:
        """Yield what is wrong with the record, which had this commit as its newest before."""
        return faults_of_record(self.record, before, lambda: self.run("verify"))


@contextmanager
def local_fleet(root: Path) -> Iterator[CrashFleet]:
    """Yield a fleet that is named by its path, whose runs are on this machine."""
    playground = make_playground(root)
    playground.commit()
    yield CrashFleet(playground, playground.fleet)


@contextmanager
def ssh_fleet(root: Path) -> Iterator[CrashFleet]:
    """Yield a fleet behind a URL, whose runs are on a host over SSH."""
    with yard(root / "servers") as servers, local_fleet(root) as fleet:
        playground = fleet.playground
        server = servers.sshd("h1")
        playground.write("specs/hosts/local.yaml", "slots: 0\n")
        playground.write("specs/repos/code.yaml", f"url: {playground.code}\n")
        spec = server.host().model_dump(mode="json", exclude={"name"}, exclude_unset=True)
        playground.write(
            "specs/hosts/h1.yaml", "".join(f"{key}: {json.dumps(value)}\n" for key, value in spec.items())
        )
        playground.commit()
        remote = root / "remote.git"
        playground.sh(f"git init -q --bare -b main {remote} && git remote add origin file://{remote}")
        playground.sh("git push -q origin main")
        yield replace(fleet, record=remote, options=("--repo", f"file://{remote}"))


FLEETS = {"local": local_fleet, "ssh": ssh_fleet}


def crash_table(fleet: CrashFleet, points: Sequence[Failpoint]) -> Iterator[Row]:
    """Yield what comes of a crash before and after each failpoint; the start that follows is left alone."""
    fleet.run("run", "--until-idle")
    for number, (point, when) in enumerate(product(points, WHEN)):
        before, name = head_of_record(fleet.record), f"t{number}"
        missed = fleet.crash(name, point, when)
        code = fleet.run("run", "--until-idle")
        told = [missed, f"the next start ended with {code}" if code else ""]
        yield row(point, when, [*told, *fleet.faults(name), *fleet.faults_of_record(before)])


def crash_chain(fleet: CrashFleet, points: Sequence[Failpoint], when: Sequence[When] = WHEN) -> Sequence[Row]:
    """Return what comes of crashes at the failpoints if each start but the last crashes too."""
    fleet.run("run", "--until-idle")
    before, crashes = head_of_record(fleet.record), list(product(points, when))
    missed = [fleet.crash(f"t{number}", *crash) for number, crash in enumerate(crashes)]
    code = fleet.run("run", "--until-idle")
    last = [f"the last start ended with {code}" if code else "", *fleet.faults_of_record(before)]
    rows = [
        row(*crash, [missed[number], *fleet.faults(f"t{number}")]) for number, crash in enumerate(crashes)
    ]
    return [*rows, Row("the record", "after", "; ".join(filter(None, last)) or GOOD)]


def points_of(kind: str) -> Sequence[Failpoint]:
    """Return the failpoints that a fleet of a kind comes to."""
    return [point for point in RUN_POINTS if kind == "ssh" or point.name not in NOT_LOCAL]


def run_table(kind: str, root: Path) -> Iterator[Row]:
    """Yield the whole table of a kind of fleet."""
    with FLEETS[kind](root) as fleet:
        yield from crash_table(fleet, points_of(kind))
