"""`status`, and what other commands say where nobody reconciles."""

import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from reconciler import clock
from reconciler.cli.exits import ExitCode
from reconciler.cli.serving import Serving
from reconciler.core.outages import ForgeOutage
from reconciler.store.presence import Presence, PresenceFile
from tests.forking import Process, run


@contextmanager
def running(fleet, until="running", how=signal.SIGTERM):
    """Let a reconciler run until it tells of something; it ends with the block."""
    message = [*fleet.command, "run"]
    with Process(message, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            next(line for line in process.stdout if until in line)
            yield process
        finally:
            process.send_signal(how)
            process.stdout.read()


@pytest.fixture
def slow(fleet):
    """Return a fleet with a task that takes its time."""
    fleet.write("specs/tasks/hello.yaml", "goal: Wait.\nscript: echo begun; sleep 600\n")
    fleet.commit("Wait")
    yield fleet
    fleet.run("cancel", "hello")
    fleet.reconcile()


def document(fleet):
    done = fleet.run("status", "-o", "json")
    return done.exit_code, json.loads(done.stdout)


def test_a_fleet_that_was_never_run_says_so(fleet):
    code, told = document(fleet)

    assert code == ExitCode.NOT_RUNNING
    assert (told["running"], told["reconciler"], told["ended_at"]) == (False, None, None)
    assert (told["tasks"], told["state"]["commit"]) == ({"new": 1}, None)
    assert "start one with `reconciler run`" in fleet.run("status").stdout


def test_who_reconciles_is_told_with_the_commits_it_is_at(slow):
    with running(slow) as process:
        code, told = document(slow)
        shown = slow.run("status").stdout
        quiet = slow.run("get", "tasks").stderr

    assert code == ExitCode.OK
    assert told["running"] is True
    assert told["reconciler"]["pid"] == process.pid
    assert told["reconciler"]["machine"] == os.uname().nodename
    assert told["specs"]["commit"] == slow.git("rev-parse", "main")
    assert told["tasks"] == {"running": 1}
    assert f"pid {process.pid}" in shown
    assert quiet == ""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_after_it_ended_every_look_says_so_while_there_is_something_to_do(slow, how):
    with running(slow, how=how):
        pass

    looks = [
        slow.run(*args) for args in (["get", "tasks"], ["describe", "hello"], ["plan"], ["logs", "hello"])
    ]
    code, told = document(slow)

    args = "No reconciler runs for this fleet (the last one ended "
    assert [args in look.stderr for look in looks] == [True] * 4
    assert code == ExitCode.NOT_RUNNING
    assert told["ended_at"] is not None


def test_nothing_is_said_where_nothing_is_left_to_do(fleet):
    fleet.reconcile()

    assert fleet.run("get", "tasks").stderr == ""
    assert fleet.run("plan").stderr == "nothing to do\n"


def test_following_a_log_that_nobody_continues_is_not_silent(slow):
    with running(slow, how=signal.SIGKILL):
        pass

    with Process(
        [*slow.command, "logs", "-f", "hello"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        said = next(line for line in process.stderr if "No reconciler" in line)
        process.kill()

    assert "`reconciler run`" in said


def test_what_needs_a_person_is_listed(fleet):
    fleet.write("specs/tasks/bad.yaml", "gaol: x\n")
    fleet.write("specs/tasks/fails.yaml", "goal: Fail.\nscript: exit 1\nretries: 0\n")
    fleet.commit("Break")
    fleet.run("run", "--until-idle")

    _, told = document(fleet)

    whys = {need["why"]: need["what"] for need in told["needs"]}
    assert whys["Broken"].startswith("specs/tasks/bad.yaml:")
    assert whys["Failed"] == "task fails"
    fleet.git("update-ref", "refs/heads/fleet-state", "fleet-state~1")
    assert "Rewound" in {need["why"] for need in document(fleet)[1]["needs"]}
    assert "went back" not in fleet.run("status").stderr  # it is told once


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({}, ExitCode.OK),
        ({"bad.yaml": "gaol: x\n"}, ExitCode.FAILURE),
        ({"fails.yaml": "goal: Fail.\nscript: exit 1\nretries: 0\n"}, ExitCode.ENDED_BADLY),
        (
            {"bad.yaml": "gaol: x\n", "fails.yaml": "goal: Fail.\nscript: exit 1\nretries: 0\n"},
            ExitCode.ENDED_BADLY,
        ),
    ],
)
def test_run_until_idle_tells_of_broken_specs_by_its_exit_code(fleet, files, code):
    for name, text in files.items():
        fleet.write(f"specs/tasks/{name}", text)
        fleet.commit(name)

    assert fleet.run("run", "--until-idle").exit_code == code


def test_run_with_nothing_to_do_says_so(fleet):
    fleet.reconcile()

    for how in ("--once", "--until-idle"):
        done = run([*fleet.command, "run", how], check=True, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("", "nothing to do\n")


def test_the_remote_of_a_fleet_is_asked_to_sync(fleet, tmp_path):
    bare = tmp_path / "fleet.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(fleet.folder), str(bare)], check=True)
    fleet.folder = f"file://{bare}"

    before = document(fleet)[1]["advice"]
    subprocess.run(["git", "-C", str(bare), "config", "core.fsync", "committed,reference"], check=True)

    assert "core.fsync committed,reference" in before[0]
    assert document(fleet)[1]["advice"] == []


@pytest.mark.parametrize("args", [[], ["--single-branch"]])
def test_a_clone_says_where_the_record_is_and_not_that_nobody_reconciles(fleet, tmp_path, args):
    fleet.reconcile()
    url = f"file://{fleet.folder}"
    git = ["git", "clone", "-q", *args, "--branch", "main", url, str(tmp_path / "clone")]
    subprocess.run(git, check=True)
    fleet.folder = tmp_path / "clone"

    told = fleet.run("status")
    looks = [fleet.run("get").stderr, fleet.run("plan").stderr, told.stderr]

    said = "as of the fetch" if not args else "none was fetched from origin"
    assert told.exit_code == ExitCode.NOT_RUNNING
    assert f"none runs here; whether one does at origin: `reconciler --repo {url} status`" in told.stdout
    assert all(said in each and "start one" not in each for each in looks)


def test_a_notice_of_the_fetched_record_is_given_once_whatever_the_time_is_by_then(
    fleet, tmp_path, monkeypatch
):
    fleet.reconcile()
    subprocess.run(["git", "clone", "-q", str(fleet.folder), str(tmp_path / "clone")], check=True)
    fleet.folder = tmp_path / "clone"
    began, seconds = clock.now(), count()
    monkeypatch.setattr(clock, "now", lambda: began + timedelta(seconds=next(seconds)))

    looks = [fleet.run("status").stderr for _ in range(3)]  # read, noted, kept

    assert [look.count("as of the fetch") for look in looks] == [1, 1, 1]


# --- Live figures ----------------------------------------------------------


def test_a_live_run_shows_when_it_printed_last(slow):
    with (
        running(slow),
        Process(
            [*slow.command, "logs", "-f", "hello"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as followed,
    ):
        next(line for line in followed.stdout if "begun" in line)
        followed.kill()
        before = slow.git("rev-parse", "fleet-state")
        shown, (listed,) = (
            slow.run("describe", "hello").stdout,
            json.loads(slow.run("get", "tasks", "-o", "json").stdout),
        )
        table = slow.run("get", "tasks").stdout

    assert "last output:" in shown
    assert "last sign:" not in shown
    assert listed["live"]["last_output_at"] is not None
    assert "last output" in table
    assert slow.git("rev-parse", "fleet-state") == before


TURN = """{"type": "assistant", "message": {"id": "%s", "usage":
{"input_tokens": %d, "output_tokens": 1, "cache_read_input_tokens": 3000}}}""".replace("\n", " ")
AGENT = """\
command: [sh, -c, "{script}"]
output:
  format: json_lines
  text: "[-1].text"
  terminal: "[-1].type"
  streamed:
    turn: "type=='assistant' && message.id || null"
    input_tokens: message.usage.input_tokens
    cached_tokens: message.usage.cache_read_input_tokens
"""


def test_a_live_run_shows_its_turns_and_tokens_so_far(slow):
    slow.write("specs/adapters/streaming.yaml", AGENT)
    slow.write("turns", "\n".join([TURN % ("m1", 100), TURN % ("m1", 101), TURN % ("m2", 1102), ""]))
    script = f"cat {slow.folder}/turns; sleep 600"
    slow.write("specs/tasks/hello.yaml", f"goal: Wait.\nadapter: streaming\nscript: {script}\n")
    slow.commit("Tell of turns")
    with running(slow):
        before = slow.git("rev-parse", "fleet-state")
        live = eventually(lambda: json.loads(slow.run("get", "-o", "json").stdout)[0].get("live"), "turns")
        table, shown, told = slow.run("get").stdout, slow.run("describe", "hello").stdout, document(slow)[1]
        standing = slow.run("status").stdout

    counts = {"turns": 2, "input_tokens": 1203, "output_tokens": None, "cached_tokens": 6000}
    assert {name: live[name] for name in counts} == counts
    assert "2 turns, tokens 1,203 in + 6,000 cached, last output" in table
    assert "this round:" in shown
    assert "2 turns, tokens 1,203 in + 6,000 cached" in shown
    assert told["live"] == [{"task": "hello", **live}]
    assert "2 turns, tokens 1,203 in + 6,000 cached, last output" in standing
    assert slow.git("rev-parse", "fleet-state") == before


def eventually(look, name):
    """Look until what is seen has a value under a name."""
    for _ in range(600):
        if (seen := look()) and seen[name] is not None:
            return seen
        time.sleep(0.1)
    raise AssertionError(f"{name} never came")


def test_a_forge_that_refuses_the_token_needs_a_person_and_is_named_with_the_right(fleet, monkeypatch):
    why = "the token may not do this: it lacks write:issue"

    async def running(session, branch, *_):
        file = PresenceFile(session.repository, branch, fleet.data)
        outages = dict.fromkeys(("web", ".fleet"), ForgeOutage(why, datetime(2030, 1, 1, tzinfo=UTC)))
        file.tell(Presence(mode="serve", pid=1, host="here", since="", forges=outages))
        return Serving(is_running=True, presence=file.read())

    monkeypatch.setattr("reconciler.cli.serving.serving", running)

    done = fleet.run("status", "-o", "json")

    assert done.exit_code == 7
    needs = [(need["what"], need["message"]) for need in json.loads(done.stdout)["needs"]]
    assert needs[:2] == [("forge fleet", why), ("forge web", why)]
