"""
Following a fleet: `wait`, `get -w`, `events -f`, by the refs that move and not by the clock.
"""

import json
import subprocess
from contextlib import aclosing, contextmanager

import pytest

from reconciler.cli import follow
from reconciler.cli.exits import ExitCode
from reconciler.core.errors import Unavailable
from reconciler.git.repository import Repository
from tests.forking import Process


@contextmanager
def started(fleet, *words):
    """Start a command that goes on, and end it."""
    with Process(
        [*fleet.command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def steps(monkeypatch):
    """Let a fleet that is followed in this process move by steps that a test gives, and then stand still."""
    given = []

    async def moves(repository, refs, beside=None):
        yield
        for step in given:
            step()
            yield
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "moves", moves)
    return given


def remove(fleet, name):
    fleet.git("rm", "-q", f"specs/tasks/{name}.yaml")
    fleet.git("commit", "-qm", "gone")


# --- wait ------------------------------------------------------------------


def test_wait_ends_when_the_task_is_completed(fleet):
    with started(fleet, "wait", "hello") as process:
        seen = process.stderr.readline()
        fleet.reconcile()
        out, err = process.communicate(timeout=60)

    assert "hello: new, not yet seen by the reconciler" in seen
    assert (process.returncode, out) == (ExitCode.OK, "hello completed\n")
    assert err.splitlines()[-1] == "hello: completed"


@pytest.mark.parametrize(
    ("aim", "code"), [("completed", ExitCode.ENDED_BADLY), ("review", ExitCode.ENDED_BADLY), ("settled", 0)]
)
def test_wait_ends_as_soon_as_it_cannot_come_true_and_says_why(fleet, aim, code):
    fleet.write("specs/tasks/failed.yaml", "goal: x\nretries: 0\nscript: echo no >&2; exit 3\n")
    fleet.write("specs/tasks/later.yaml", "goal: x\nscript: 'true'\ndesired: suspended\n")
    fleet.commit()
    fleet.run("run", "--until-idle")

    done = fleet.run("wait", "failed", *(["later"] if code else []), "--for", aim)

    assert done.exit_code == code
    assert done.stdout == ("" if code else "failed failed\n")
    assert not code or "exited with 3" in done.stderr


def test_wait_knows_that_what_is_on_record_answers_another_question(fleet, steps):
    fleet.run("run", "--until-idle")
    fleet.run("retry", "hello")
    steps.append(fleet.reconcile)

    done = fleet.run("wait", "hello")

    assert (done.exit_code, done.stdout) == (0, "hello completed\n")


def test_wait_gives_up_in_time_and_says_what_it_waited_for(fleet):
    fleet.write("specs/tasks/hello.yaml", "goal: x\nscript: 'true'\nrequires: [gpu]\n")
    fleet.commit()

    done = fleet.run("wait", "hello", "--timeout", "1s")

    assert done.exit_code == ExitCode.TIMED_OUT
    assert "after 1s still waiting for hello; `reconciler describe hello` says more" in done.stderr


def test_wait_for_what_is_not_there_or_goes_away_ends(fleet, steps):
    steps.append(lambda: remove(fleet, "hello"))

    assert fleet.run("wait", "helo").exit_code == ExitCode.NOT_FOUND
    assert fleet.run("wait", "hello").exit_code == ExitCode.ENDED_BADLY


# --- get -w ----------------------------------------------------------------


def change(fleet, name="next"):
    fleet.write(f"specs/tasks/{name}.yaml", "goal: x\nscript: 'true'\n")
    fleet.commit()


@pytest.mark.parametrize(("option", "names"), [("-w", "hello next hello"), ("--watch-only", "next hello")])
def test_what_changed_is_printed_again(fleet, steps, option, names):
    steps += [lambda: change(fleet), lambda: None, lambda: change(fleet, "hello")]

    done = fleet.run("get", option, "-o", "name")

    assert done.stdout.split() == names.split()
    assert done.exit_code == ExitCode.INTERRUPTED


def test_what_changed_is_a_row_or_a_line_of_json(fleet, steps):
    steps += [lambda: change(fleet)]

    rows = fleet.run("get", "-w").stdout.splitlines()
    steps[:] = [lambda: change(fleet, "third")]
    lines = fleet.run("get", "--watch-only", "-o", "json").stdout.splitlines()

    assert [row.split()[0] for row in rows] == ["NAME", "hello", "next"]
    assert [json.loads(line)["name"] for line in lines] == ["third"]


def test_what_goes_is_told(fleet, steps):
    change(fleet)
    steps += [lambda: remove(fleet, "next")]

    assert "task next is gone\n" in fleet.run("get", "-w").stderr


def test_a_watch_sees_what_is_committed_meanwhile(fleet):
    with started(fleet, "get", "tasks", "-w", "-o", "name") as process:
        first = process.stdout.readline()
        change(fleet)
        second = process.stdout.readline()

    assert (first, second) == ("hello\n", "next\n")


# --- events ----------------------------------------------------------------


def test_events_are_told_in_their_order_and_go_on(fleet):
    with started(fleet, "events", "-f", "-o", "jsonpath={.after}") as process:
        fleet.reconcile()
        seen = [process.stdout.readline().strip() for _ in range(5)]

    assert [each for each in seen if each != "up"] == ["created", "assigned", "running", "completed"]


def test_what_comes_while_the_past_is_read_is_told_once(fleet, monkeypatch):
    fleet.reconcile()
    newest = fleet.git("rev-parse", "fleet-state")

    def moving(repository, ref):
        head = repository.read_ref(ref)
        fleet.git("update-ref", "refs/heads/fleet-state", newest)
        return head

    async def once(*_):
        yield

    monkeypatch.setattr("reconciler.cli.events._head", moving)
    monkeypatch.setattr("reconciler.cli.follow.moves", once)
    fleet.git("update-ref", "refs/heads/fleet-state", "fleet-state~2")

    told = fleet.run("events", "-f", "-o", "jsonpath={.after}").stdout.split()

    assert [each for each in told if each != "up"] == ["created", "assigned", "running", "completed"]


def test_events_go_on_after_a_commit_without_a_gap(fleet):
    fleet.run("run", "--until-idle")
    everything = json.loads(fleet.run("events", "hello", "-o", "json").stdout)
    middle = everything[1]["commit"]

    after = json.loads(fleet.run("events", "hello", "--after", middle, "-o", "json").stdout)

    assert [each["after"] for each in everything] == ["created", "assigned", "running", "completed"]
    assert after == everything[2:]
    assert fleet.run("events", "-n", "1", "--no-headers").stdout.split()[3:6:2] == ["→", "local"]
    assert fleet.run("events", "helo").exit_code == ExitCode.NOT_FOUND
    assert fleet.run("events", "--after", "0" * 40).exit_code == ExitCode.NOT_FOUND
    assert fleet.run("events", "-f", "--sort-by", "at").exit_code == ExitCode.USAGE


@pytest.mark.parametrize("args", ["get -w", "events -f", "get -w -o json"])
def test_who_reads_what_goes_on_may_leave_and_ends_it_in_silence(fleet, args):
    fleet.reconcile()
    with started(fleet, *args.split()) as process:
        assert process.stdout.readline()
        process.stdout.close()
        code, err = process.wait(timeout=60), process.stderr.read()

    assert code == ExitCode.UNREAD
    assert "Traceback" not in err


# --- moves -----------------------------------------------------------------


@pytest.mark.parametrize("is_remote", [False, True])
async def test_a_ref_that_moves_is_seen_on_this_machine_and_on_a_remote(
    fleet, tmp_path, monkeypatch, is_remote
):
    monkeypatch.setattr(follow, "BEAT", 0.01 if is_remote else 60)
    place = f"file://{fleet.folder}" if is_remote else str(fleet.folder)
    seen = []
    async with await Repository.open(place, tmp_path / "clones") as repository:
        ref = repository.ref("main")
        async for _ in follow.moves(repository, [ref]):
            seen.append(repository.read_ref(ref))
            if len(seen) == 3:
                break
            change(fleet, f"t{len(seen)}")

    assert len(set(seen)) == 3
    assert seen[-1] == fleet.git("rev-parse", "main")


async def test_a_remote_that_is_away_for_a_while_is_asked_again(fleet, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(follow, "BEAT", 0.01)
    async with await Repository.open(f"file://{fleet.folder}", tmp_path / "clones") as repository:
        fetch, answers = repository.fetch, iter([Unavailable("away"), None])

        async def fetch_if_there():
            if error := next(answers, None):
                raise error
            await fetch()

        monkeypatch.setattr(repository, "fetch", fetch_if_there)
        changes = follow.moves(repository, [repository.ref("main")])
        await anext(changes)
        change(fleet)
        await anext(changes)
        await changes.aclose()

    assert capsys.readouterr().err == "away; trying again\n"


async def test_what_is_beside_the_refs_is_followed_too(fleet, monkeypatch):
    monkeypatch.setattr(follow, "BEAT", 0.01)
    answers = iter([{}, {}, {"web": "no answer"}])
    repository = await Repository.open(str(fleet.folder), fleet.data)

    async def outages():
        return next(answers)

    async with repository, aclosing(follow.moves(repository, [repository.ref("main")], outages)) as changes:
        await anext(changes)
        await anext(changes)

    assert next(answers, "no more") == "no more"
