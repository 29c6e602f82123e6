"""
Crashes of `serve` on the way of an issue to its merge, at a forge that keeps its own accounts.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

from reconciler.forge.dialects import DIALECTS
from reconciler.forge.journal import Journal
from tests.crashes.failpoints import DIED, FORGE_POINTS, Failpoint, When, armed_command
from tests.crashes.table import WHEN, Row, faults_of_record, head_of_record, row
from tests.e2e.forge_world import CODE, FLEET, SECRET, World
from tests.forge.double import ForgejoDouble
from tests.forge.state import Hook, PullTicket, Ticket
from tests.forking import Process, run

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE = 300.0
"""Seconds after which what has not come will not come; a start alone may take thirty on a busy machine."""


@dataclass
class CrashWorld(World):
    """A fleet on a forge whose reconciler may be ended at a failpoint, and a person who reviews its work."""

    def launch(self, point: Failpoint | None = None, when: When = "before") -> None:
        """Start the reconciler, at the address that it had before; it may end before it listens."""
        command = armed_command("forge", point, when, "serve", "-v", "--listen", f"127.0.0.1:{self.port}")
        with (self.root / "told").open("ab") as told, (self.root / "talk").open("ab") as talk:
            self.process = Process(command, env=self.env, stdout=told, stderr=talk)

    def hook(self) -> None:
        """Let the forge send its webhooks to it."""
        for repo in (CODE, FLEET):
            events = list(DIALECTS[self.forge.kind].hook_events)
            self.forge.repos[repo].hooks = {1: Hook(1, self.hook_url, SECRET, True, events)}

    def meanwhile(self, is_over: Callable[[], bool]) -> bool:
        """Let the person review until something is so; return whether it ever was."""
        until = time.monotonic() + PATIENCE
        while not (was_over := is_over()) and time.monotonic() < until:
            self._review()
            time.sleep(0.05)
        return was_over

    def _review(self) -> None:
        """Ask once for a change of each pull request, and approve it when that was made."""
        self.forge.notice()
        for pull in self.forge.repos[CODE].pulls:
            last = pull.reviews[-1] if pull.reviews else None
            if pull.state != "open":
                continue
            if last is None:
                name = pull.branch.rpartition("-")[2]
                self.forge.review(CODE, pull.number, "rejected", f"More.\nwrite {name}.txt: more")
            elif last.state == "REQUEST_CHANGES" and last.commit != pull.head:
                self.forge.review(CODE, pull.number, "approved", "Good.")

    def deeds(self, issue: Ticket) -> Iterator[str]:
        """Yield what was not done, or was done twice, on the way of an issue to its merge."""
        task = f"issues/code-{issue.number}"
        pulls = [pull for pull in self.forge.repos[CODE].pulls if pull.branch == f"task/{task}"]
        if issue.state != "closed" or [pull.merged for pull in pulls] != [True]:
            yield f"the issue is {issue.state}, its pull requests {pulls}"
        if self.has(f"{issue.number}.txt") != "more":
            yield "its work is not merged"
        runs = [note["run"] for note in self.diary() if note["run"].startswith(f"{task}.")]
        if len(runs) != 2 or len(set(runs)) != 2:
            yield f"its agent was started as {runs}"
        for ticket in (issue, *pulls):
            yield from self._doubled(ticket)
        for subject, times in Counter(self.story(task)).items():
            if subject.endswith(("completed", "opened")) and times != 1:
                yield f"{times} times: {subject}"
        files = self.git(FLEET, "log", "--format=%s", "main", "--", f"specs/tasks/{task}.yaml").splitlines()
        if len(files) != 1:
            yield f"its spec was written as {files}"

    def _doubled(self, ticket: Ticket) -> Iterator[str]:
        marks = Counter(message.splitlines()[0] for message in self.said(ticket.number))
        labels = sorted(label.name for label in ticket.labels)
        wanted = ["agent/completed"] if isinstance(ticket, PullTicket) else ["agent", "agent/completed"]
        if labels != wanted:
            yield f"#{ticket.number} has the labels {labels}"
        if doubled := [mark for mark, times in marks.items() if times > 1]:
            yield f"#{ticket.number} has comments twice: {doubled}"

    def undone(self) -> Sequence[str]:
        """Return the webhooks that were kept and that nobody acted upon."""
        journal = Journal(self.root / "data/hooks", lambda: LONG_AGO)
        return [each.hint.delivery for each in journal.pending()]

    def verify(self) -> int:
        """Return the exit code of `verify`."""
        command = armed_command("forge", None, "before", "verify")
        return run(command, env=self.env, capture_output=True).returncode


@contextlib.contextmanager
def forge_fleet(root: Path) -> Iterator[CrashWorld]:
    """Yield a fleet on a forge that merges what was approved."""
    with ForgejoDouble(root / "forge") as forge:
        world = CrashWorld(root, forge)
        world.settings(code="merge: when_approved\n")
        world.start()
        world.hook()
        world.kill()
        try:
            yield world
        finally:
            (root / "over").touch()
            world.kill()


def forge_table(
    root: Path, points: Sequence[Failpoint] = FORGE_POINTS, whens: Sequence[When] = WHEN
) -> Iterator[Row]:
    """Yield what comes of a crash before and after each failpoint."""
    with forge_fleet(root) as world:
        for point, when in product(points, whens):
            yield row(point, when, _faults(world, point, when))


def _faults(world: CrashWorld, point: Failpoint, when: When) -> Iterator[str]:
    before = head_of_record(world.folder(FLEET))
    starts = world.told.count("listening on")
    world.launch(point, when)
    world.meanwhile(lambda: world.told.count("listening on") > starts or world.process.poll() is not None)
    number = max(world.forge.repos[CODE].tickets, default=0) + 1
    world.open_issue("Greet", f"Greet them.\n\nwrite {number}.txt: once\n")
    if not world.meanwhile(lambda: world.process.poll() is not None):
        yield "its failpoint was not reached"
    elif world.process.returncode != DIED:
        yield f"it ended with {world.process.returncode}"
    world.kill()
    world.launch()
    issue = world.forge.repos[CODE].tickets[number]
    if not world.meanwhile(lambda: issue.state == "closed" and world.is_swept() and not world.undone()):
        yield f"webhooks nobody acted upon: {world.undone()}"
    world.kill()
    yield from world.deeds(issue)
    yield from faults_of_record(world.folder(FLEET), before, world.verify)
