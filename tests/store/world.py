"""
What the tests of this room share: git as a person uses it, and transitions made by hand.
"""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

from reconciler.core.events import Created, Origin, Started
from reconciler.core.lifecycle import Transition
from reconciler.core.model.specs import Task
from reconciler.core.model.status import Phase, Status
from reconciler.git.repository import Repository
from reconciler.store.state import PastAttempts, StateBranch
from tests.statuses import make_status

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BRANCH = "fleet-state"
REVISION = "e" * 40


def git(place: Path, *args: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        ["git", "-C", str(place), *args], input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(place: Path, path: str, text: str | None, message: str = "edit") -> str:
    """Commit one file in a work tree, as a person does."""
    if text is None:
        git(place, "rm", "-q", path)
    else:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
        git(place, "add", path)
    git(place, "commit", "-q", "-m", message)
    return git(place, "rev-parse", "HEAD")


async def start(
    repository: Repository,
    branch: str = BRANCH,
    token: str = "0123456789ab",
    elsewhere: PastAttempts | None = None,
    kept: Path | None = None,
) -> StateBranch:
    return await StateBranch.open(
        repository,
        branch,
        token=lambda: token,
        clock=lambda: NOW,
        revision=lambda: REVISION,
        elsewhere=elsewhere,
        kept=kept,
    )


def status(phase: Phase = Phase.CREATED, **fields: object) -> Status:
    known = {"since": NOW, "created_at": NOW, "generation": "a1" * 20, "work": "b2" * 6}
    return make_status(phase, **{**known, **fields})


def spec(name: str) -> Task:
    return Task(name=name, goal="g", generation="a1" * 20, work="b2" * 6)


def created(name: str, reason: str = "the spec is new") -> Transition:
    event = Created(task=name, origin=Origin(NOW, reason), spec=spec(name))
    return Transition(name, None, status(), event)


def started(name: str, attempt: int = 1) -> Transition:
    run = f"{name}.ga1a1a1a1.a{attempt}"
    before = status(Phase.ASSIGNED, attempt=attempt, run=run, assigned_host="local")
    after = status(Phase.RUNNING, attempt=attempt, run=run, assigned_host="local")
    return Transition(
        name, before, after, Started(task=name, origin=Origin(NOW, "seen alive", cause="host"), run=run)
    )
