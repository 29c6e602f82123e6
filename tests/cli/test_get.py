"""
Looking at a fleet: get, describe, explain, plan, history, logs; against real repositories.
"""

import json
import os
import pty
import re
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from reconciler.core.model.status import Phase
from reconciler.core.outages import ForgeOutage
from reconciler.core.views import forge_waits
from tests.forking import Process, run

SCRIPT = 'goal: Talk.\nscript: |\n  printf "plain \\033[31mred\\033[0m \\033]0;title\\007end\\n"\n'


@pytest.fixture
def ran(fleet):
    """Return a fleet whose task was carried out."""
    fleet.reconcile()
    return fleet


# --- get -------------------------------------------------------------------


def test_get_shows_what_is_committed_and_not_the_work_tree(fleet):
    fleet.write("specs/tasks/draft.yaml", "goal: Later.\nscript: 'true'\n")

    assert fleet.run("get", "tasks", "-o", "name").stdout == "hello\n"


def test_get_is_a_plain_table_where_it_is_piped(ran):
    head, line = ran.run("get", "tasks").stdout.splitlines()

    assert head.split() == ["NAME", "PHASE", "SINCE", "ATTEMPT", "HOST", "REASON"]
    assert line.split()[:2] == ["hello", "completed"]


def test_json_and_yaml_say_the_same(ran):
    from ruamel.yaml import YAML

    document = json.loads(ran.run("get", "tasks", "-o", "json").stdout)

    assert document == YAML(typ="safe").load(ran.run("get", "tasks", "-o", "yaml").stdout)
    assert [(task["name"], task["phase"]) for task in document] == [("hello", "completed")]


@pytest.mark.parametrize("kind", ["tasks", "hosts", "agents", "adapters", "repos"])
def test_every_kind_can_be_listed(fleet, kind):
    done = fleet.run("get", kind)

    assert done.exit_code == 0
    assert bool(done.stdout) != bool(done.stderr)


def test_an_unknown_name_exits_3_with_a_suggestion(fleet):
    done = fleet.run("get", "tasks", "helo")

    assert (done.exit_code, done.stdout) == (3, "")
    assert "did you mean 'hello'?" in done.stderr


def test_a_bare_repository_and_a_url_can_be_looked_at(fleet, tmp_path):
    bare = tmp_path / "fleet.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(fleet.folder), str(bare)], check=True)

    for place in (bare, f"file://{bare}"):
        fleet.folder = place
        assert fleet.run("get", "tasks", "-o", "name").stdout == "hello\n"
        assert "start" in fleet.run("plan").stdout


def on_a_terminal(fleet, *args, **env):
    """Return what `reconciler` prints where stdout is a terminal."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", **env}
    run([*fleet.command, *args], stdout=theirs, env=env, check=True)
    os.close(theirs)
    with os.fdopen(ours, "rb") as terminal:
        return terminal.read1(65536).decode()


def test_a_terminal_gets_colours_unless_they_are_not_wanted(fleet):
    green = "\x1b[32mup"

    assert green in on_a_terminal(fleet, "get", "hosts")
    assert green not in on_a_terminal(fleet, "get", "hosts", NO_COLOR="1")


# --- describe and explain --------------------------------------------------


def test_describe_takes_a_bare_name_for_a_task(ran):
    text = ran.run("describe", "hello").stdout

    assert text.startswith("task:")
    assert "Say hello." in text
    assert "Ready        True" in text


def test_describe_names_other_kinds_and_prints_documents(fleet):
    assert fleet.run("describe", "host/local").stdout.startswith("host:")
    assert fleet.run("describe", "host", "local").stdout.startswith("host:")
    assert fleet.run("describe", "hello", "local").exit_code == 64
    assert json.loads(fleet.run("describe", "adapter/codex", "-o", "json").stdout)["kind"] == "adapter"
    assert fleet.run("describe", "repo/web").exit_code == 3


def test_explain_tells_where_each_value_comes_from_and_where_it_would_run(fleet):
    fleet.write("specs/fleet.yaml", "retries: 3\n")

    text = fleet.run("explain", "task", "hello").stdout

    assert any(line.split() == ["retries", "3", "specs/fleet.yaml:1"] for line in text.splitlines())
    assert any(line.split()[:2] == ["local", "chosen"] for line in text.splitlines())


def test_explain_says_what_a_task_waits_for(fleet):
    fleet.write("specs/hosts/local.yaml", "slots: 0\n")
    fleet.commit()
    fleet.reconcile()

    document = json.loads(fleet.run("explain", "task", "hello", "-o", "json").stdout)

    assert document["waiting"]["reason"] == "Host"
    assert document["waiting"]["message"] in fleet.run("explain", "task", "hello").stdout


def test_explain_prints_json_and_knows_unknown_names(fleet):
    document = json.loads(fleet.run("explain", "task", "hello", "-o", "json").stdout)

    assert {"field": "goal", "value": "Say hello.", "origin": "specs/tasks/hello.yaml:2"} in document[
        "fields"
    ]
    assert document["placement"]["chosen"] == "local"
    assert fleet.run("explain", "task", "helo").exit_code == 3


# --- plan ------------------------------------------------------------------


def test_plan_previews_the_work_tree(fleet):
    fleet.write("specs/tasks/next.yaml", "goal: Then.\nscript: 'true'\ndepends_on: [hello]\n")

    lines = fleet.run("plan").stdout.splitlines()

    assert lines[1].split()[:3] == ["start", "hello", "local"]
    assert lines[2].split()[:3] == ["wait", "next", "Dependency:"]


def test_plan_looks_at_a_revision_when_told(fleet):
    fleet.write("specs/tasks/next.yaml", "goal: Then.\nscript: 'true'\n")
    fleet.commit("Add next")

    assert "next" in fleet.run("plan").stdout
    assert "next" not in fleet.run("plan", "--rev", "HEAD~1").stdout
    assert fleet.run("plan", "--rev", "nowhere").exit_code == 3
    assert fleet.run("plan", "--rev=--all").exit_code == 3


def test_plan_and_explain_go_by_the_last_good_version_of_a_broken_file(fleet):
    fleet.write("specs/hosts/local.yaml", "slots: 2\n")
    fleet.commit("Add a host")
    fleet.write("specs/hosts/local.yaml", "slots: [\n")

    uncommitted = fleet.run("plan")
    fleet.commit("Break it")
    committed = fleet.run("plan")

    for done in (uncommitted, committed):
        assert "specs/hosts/local.yaml:2:1: error" in done.stderr
        assert done.stdout.splitlines()[1].split()[:3] == ["start", "hello", "local"], done.output
    assert "local" in fleet.run("explain", "hello").stdout


def test_the_wide_plan_says_of_every_host_why_not(fleet):
    fleet.write("specs/hosts/big.yaml", "address: big.example\nlabels: [gpu]\n")
    fleet.write("specs/tasks/hello.yaml", "goal: x\nscript: 'true'\nrequires: gpu\n")

    assert "local  no" in fleet.run("plan", "-o", "wide").stdout


def test_the_exit_code_of_a_plan_tells_changes_mistakes_and_nothing_apart(fleet):
    assert fleet.run("plan").exit_code == 0
    assert fleet.run("plan", "--exit-code").exit_code == 2

    fleet.reconcile()
    assert fleet.run("plan", "--exit-code").exit_code == 0

    fleet.write("specs/tasks/bad.yaml", "gaol: x\n")
    bad = fleet.run("plan", "--exit-code")
    assert bad.exit_code == 1
    assert "specs/tasks/bad.yaml:1:1: error:" in bad.stderr


def test_a_plan_changes_nothing(fleet):
    before = fleet.git("for-each-ref"), fleet.git("status", "--porcelain")

    fleet.run("plan")

    assert (fleet.git("for-each-ref"), fleet.git("status", "--porcelain")) == before


def test_a_plan_as_json_has_the_revision_and_the_actions(fleet):
    document = json.loads(fleet.run("plan", "--rev", "main", "-o", "json").stdout)

    assert document["revision"] == fleet.git("rev-parse", "main")
    assert document["changes"]
    assert [action["action"] for action in document["actions"]] == ["start"]


# --- history and logs ------------------------------------------------------


def test_history_tells_what_git_log_tells(ran):
    entries = json.loads(ran.run("history", "-o", "json").stdout)

    logged = ran.git("log", "--format=%H", "--grep=^Cause: ", "fleet-state").splitlines()
    assert [entry["commit"] for entry in entries] == logged
    assert {entry["after"] for entry in entries if entry["task"] is None} == {"up"}
    assert [entry["after"] for entry in entries if entry["task"] == "hello"] == [
        "completed",
        "running",
        "assigned",
        "created",
    ]


def test_history_of_all_names_the_hosts(ran):
    lines = ran.run("history").stdout.splitlines()

    assert any(re.search(r"Z +host local +unknown → up +local ", line) for line in lines)


def test_history_of_one_task_is_as_long_as_asked_for(ran):
    table = ran.run("history", "hello", "-n", "2").stdout.splitlines()

    assert len(table) == 3
    assert "running → completed" in table[1]


def as_person(fleet, name, *args):
    """Call a command as somebody else than whoever runs the tests."""
    env = {"GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": "x@example.org"}
    done = fleet.run(*args, env=env)
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("suspend", "hello", "--reason", "The budget is gone."), "Suspend hello: The budget is gone."),
        (("cancel", "hello", "--reason", "Nobody wants it."), "Cancel hello: Nobody wants it."),
        (("cancel", "hello"), "Cancel hello"),
    ],
)
def test_history_names_the_person_who_asked_and_their_reason(fleet, args, said):
    as_person(fleet, "Ada Lovelace", *args)
    fleet.reconcile()

    entries = json.loads(fleet.run("history", "hello", "-o", "json").stdout)

    assert {entry["actor"] for entry in entries} == {"Ada Lovelace"}
    assert all(said in entry["reason"] for entry in entries)
    log = ("log", "-1", "--grep=^task hello", "--format=%(trailers:key=Actor,valueonly)", "fleet-state")
    assert fleet.git(*log) == "Ada Lovelace"
    assert "Ada Lovelace" in fleet.run("history").stdout


def test_history_names_who_asked_again_and_who_took_a_task_away(fleet):
    for name in "abcdef":  # so that to remove one task is nothing that a person must allow
        fleet.write(f"specs/tasks/{name}.yaml", f"goal: {name}\nscript: echo\ndesired: suspended\n")
    fleet.commit()
    fleet.reconcile()
    as_person(fleet, "Grace Hopper", "retry", "hello", "--reason", "Once more.")
    fleet.reconcile()
    fleet.git("rm", "-q", "specs/tasks/hello.yaml")
    fleet.git("commit", "-q", "--author=Alan <x@example.org>", "-m", "Say nothing")
    fleet.reconcile()

    entries = json.loads(fleet.run("history", "-o", "json").stdout)

    mine = [entry for entry in entries if entry["task"] == "hello"]
    assert any(
        entry["actor"] == "Grace Hopper" and "Retry hello: Once more." in entry["reason"] for entry in mine
    )
    assert [entry["actor"] for entry in mine if "removed" in entry["reason"]][:1] == ["Alan"]
    assert {entry["actor"] for entry in mine if entry["after"] == "running"} == {"reconciler"}


def test_history_fits_a_terminal_of_80_columns(ran):
    printed = on_a_terminal(ran, "history", "hello", COLUMNS="80", NO_COLOR="1").splitlines()

    assert max(map(len, printed)) <= 80
    assert printed[0].split()[0] == "WHEN"
    assert "REASON" in printed[0] or any(line.startswith("    ") for line in printed)


def test_history_of_a_task_that_nothing_happened_to_is_empty_and_of_none_not_found(fleet):
    assert fleet.run("history", "hello").exit_code == 0
    assert fleet.run("history", "helo").exit_code == 3


def test_logs_are_what_the_agent_printed(ran):
    done = ran.run("logs", "hello")

    assert (done.exit_code, done.stdout) == (0, "hello\n")
    assert "round 1 agent" in done.stderr


def test_logs_hold_nothing_a_terminal_obeys_unless_it_is_asked_for(fleet):
    fleet.write("specs/tasks/hello.yaml", SCRIPT)
    fleet.commit()
    fleet.reconcile()

    assert fleet.run("logs", "hello").stdout == "plain red end\n"
    assert fleet.run("logs", "hello", "--raw").stdout == "plain \x1b[31mred\x1b[0m \x1b]0;title\x07end\n"


def test_logs_of_an_earlier_attempt_are_found_through_history(ran):
    ran.write("specs/tasks/hello.yaml", "goal: Say more.\nscript: echo more\n")
    ran.commit()
    ran.reconcile()

    assert ran.run("logs", "hello").stdout == "more\n"
    assert ran.run("logs", "hello", "--attempt", "2").stdout == "more\n"
    assert ran.run("logs", "hello", "--attempt", "7").exit_code == 3


def test_logs_that_are_not_there_say_why(fleet):
    new = fleet.run("logs", "hello")
    assert (new.exit_code, new.stdout) == (3, "")
    assert "not run yet" in new.stderr

    assert fleet.run("logs", "helo").exit_code == 3


def test_logs_kept_by_another_machine_are_told_so(ran, tmp_path):
    ran.data = tmp_path / "elsewhere"

    done = ran.run("logs", "hello")

    assert done.exit_code == 3
    assert "on the machine that ran it" in done.stderr


@contextmanager
def reconciling(fleet, gate):
    """Let a reconciler work beside the test once its run is seen alive; open the gate in the end."""
    reconciler = Process([*fleet.command, "run", "--until-idle"], stdout=subprocess.PIPE, text=True)
    try:
        while "→ running" not in reconciler.stdout.readline():
            assert reconciler.poll() is None
        yield reconciler
    finally:
        gate.touch()
        reconciler.communicate()


def following(fleet):
    command = [*fleet.command, "logs", "-f", "hello"]
    return Process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_logs_can_be_followed_to_the_end(fleet, tmp_path):
    gate = tmp_path / "gate"
    script = f"echo one\n  while [ ! -e {gate} ]; do sleep 0.05; done\n  echo two\n  exit 3"
    fleet.write("specs/tasks/hello.yaml", f"goal: x\nretries: 0\nscript: |\n  {script}\n")
    fleet.commit()
    with reconciling(fleet, gate) as reconciler:
        follower = following(fleet)
        assert follower.stdout.readline() == "one\n"
        gate.touch()
        rest, _ = follower.communicate()

    assert rest == "two\n"
    assert follower.returncode == 5
    assert reconciler.returncode == 5


def test_ctrl_c_ends_the_following_and_not_the_run(fleet, tmp_path):
    gate = tmp_path / "gate"
    script = f"echo one\n  while [ ! -e {gate} ]; do sleep 0.05; done"
    fleet.write("specs/tasks/hello.yaml", f"goal: x\nscript: |\n  {script}\n")
    fleet.commit()
    with reconciling(fleet, gate) as reconciler:
        follower = following(fleet)
        assert follower.stdout.readline() == "one\n"
        follower.send_signal(signal.SIGINT)
        _, talk = follower.communicate()

    assert follower.returncode == 130
    assert talk.endswith("interrupted\n")
    assert "Traceback" not in talk
    assert reconciler.returncode == 0


def test_who_looks_at_a_task_in_review_sees_that_its_forge_is_silent_before_that_is_on_record(
    fleet, monkeypatch
):
    fleet.reconcile()
    why = "ReadTimeout, no answer within 60 s"

    async def failing(*_):
        return {"web": ForgeOutage(why, datetime(2090, 1, 1, tzinfo=UTC))}

    def in_review(desired, statuses, outages):
        waits = statuses["hello"].model_copy(update={"phase": Phase.REVIEW_PENDING})
        task = desired.tasks["hello"].model_copy(update={"repo": "web"})
        return forge_waits(replace(desired, tasks={"hello": task}), {"hello": waits}, outages)

    monkeypatch.setattr("reconciler.cli.serving.forge_outages", failing)
    monkeypatch.setattr("reconciler.core.views.forge_waits", in_review)

    for command in (["get", "tasks"], ["get", "task", "hello"], ["describe", "hello"], ["explain", "hello"]):
        assert why in fleet.run(*command).stdout, command
    assert "waits since 2090-01-01T00:00:00Z: Retrying" in fleet.run("explain", "hello").stdout
