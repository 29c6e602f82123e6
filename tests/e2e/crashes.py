"""
What comes of a reconciler that is ended at each failpoint and started again, as a table.

`python -m tests.e2e.crashes [local] [ssh]` prints it.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from tests.dispatch.sshd import yard
from tests.e2e.conftest import Playground, make_playground
from tests.e2e.failpoints import DIED, POINTS, Failpoint, Forks, When

NOT_LOCAL = {"fetch", "push"}
"""Only where the record is behind a URL."""
NEED_FORGE = {"open pull request", "merge"}
NEED_AGENT = {"acknowledge"}
WHEN: Sequence[When] = ("before", "after")
GOOD = "completed, 1 start"


@dataclass(frozen=True, slots=True)
class Row:
    """One crash, and what there was after the next start."""

    point: str
    when: When
    outcome: str
    """`GOOD`, or what is wrong."""

    def __str__(self) -> str:
        return f"{self.when:6}  {self.point:20}  {self.outcome}"


@dataclass(frozen=True, slots=True)
class CrashFleet:
    """A fleet whose one agent counts its own starts, and the commands on it."""

    playground: Playground
    forks: Forks
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
        status = self._git("show", f"fleet-state:fleet-state/tasks/{name}.yaml")
        if "\nphase: completed\n" not in f"\n{status}\n":
            yield f"it is not completed: {status}"
        counted = self.starts.read_text() if self.starts.exists() else ""
        runs = [line for line in counted.splitlines() if line.startswith(f"{name} ")]
        if len(runs) != 1:
            yield f"{len(runs)} starts: {runs}"
        if self._git("ls-tree", "--name-only", f"task/{name}", name, at=self.playground.code) != name:
            yield "its work is not there"

    def head(self) -> str:
        """Return the newest commit of the record; empty before the first."""
        return self._git("for-each-ref", "--format=%(objectname)", "refs/heads/fleet-state")

    def faults_of_record(self, before: str) -> Iterator[str]:
        """Yield what is wrong with the record, which had this commit as its newest before."""
        if self._git("rev-list", "--min-parents=2", "fleet-state"):
            yield "the record has a merge"
        if before and self._git("merge-base", before, "fleet-state") != before:
            yield "the record was rewritten"
        if said := self._git("fsck", "--full", "--strict", "--no-dangling"):
            yield f"git fsck: {said}"
        if code := self.run("verify"):
            yield f"verify ended with {code}"

    def run(self, *args: str, point: Failpoint | None = None, when: When = "before") -> int:
        """Run a command on the fleet; return its exit code."""
        return self.forks.run(*self.options, *args, point=point, when=when)

    def _git(self, *args: str, at: Path | None = None) -> str:
        done = subprocess.run(
            ["git", "-C", at or self.record, *args],
            capture_output=True,
            text=True,
            env=self.playground.env,
            check=False,
        )
        return (done.stdout + done.stderr).strip()


@contextmanager
def local_fleet(root: Path) -> Iterator[CrashFleet]:
    """Yield a fleet that is named by its path, whose runs are on this machine."""
    playground = make_playground(root)
    playground.commit()
    with Forks(playground.fleet, playground.env, root / "told") as forks:
        yield CrashFleet(playground, forks, playground.fleet)


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
        before, name = fleet.head(), f"t{number}"
        missed = fleet.crash(name, point, when)
        code = fleet.run("run", "--until-idle")
        told = [missed, f"the next start ended with {code}" if code else ""]
        yield _row(point, when, [*told, *fleet.faults(name), *fleet.faults_of_record(before)])


def crash_chain(fleet: CrashFleet, points: Sequence[Failpoint], when: Sequence[When] = WHEN) -> Sequence[Row]:
    """Return what comes of crashes at the failpoints if each start but the last crashes too."""
    fleet.run("run", "--until-idle")
    before, crashes = fleet.head(), list(product(points, when))
    missed = [fleet.crash(f"t{number}", *crash) for number, crash in enumerate(crashes)]
    code = fleet.run("run", "--until-idle")
    last = [f"the last start ended with {code}" if code else "", *fleet.faults_of_record(before)]
    rows = [
        _row(*crash, [missed[number], *fleet.faults(f"t{number}")]) for number, crash in enumerate(crashes)
    ]
    return [*rows, Row("the record", "after", "; ".join(filter(None, last)) or GOOD)]


def _row(point: Failpoint, when: When, faults: Sequence[str]) -> Row:
    return Row(point.name, when, "; ".join(filter(None, faults)) or GOOD)


def points_of(kind: str) -> Sequence[Failpoint]:
    """Return the failpoints that a fleet of a kind comes to."""
    left_out = NEED_FORGE | NEED_AGENT | (NOT_LOCAL if kind == "local" else set())
    return [point for point in POINTS if point.name not in left_out]


def main() -> int:
    """Print the tables; return 1 if any crash did harm."""
    is_good = True
    for kind in sys.argv[1:] or FLEETS:
        sys.stdout.write(f"\n{kind}\n")
        with tempfile.TemporaryDirectory() as folder, FLEETS[kind](Path(folder)) as fleet:
            for row in crash_table(fleet, points_of(kind)):
                is_good = is_good and row.outcome == GOOD
                sys.stdout.write(f"{row}\n")
                sys.stdout.flush()
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
