"""
What people ask for in words: the YAML is edited, committed and pushed; its comments stay.
"""

import json
import os
import pty
import subprocess

import pytest

from reconciler.cli.task_commands import cancelling, resuming, retrying, suspending
from reconciler.core.errors import UsageError
from reconciler.core.model.specs import TaskSpec
from reconciler.core.model.status import Phase
from tests.cli.conftest import TASK
from tests.fakes import START
from tests.forking import run
from tests.statuses import make_status


def spec(**fields):
    return TaskSpec.model_validate({"goal": "x", **fields})


def status(phase):
    return make_status(phase=phase, since=START, created_at=START, generation="a" * 40, work="b" * 12)


# --- Deciding --------------------------------------------------------------


@pytest.mark.parametrize(
    ("decide", "desired", "changes"),
    [
        (suspending, "active", {"desired": "suspended"}),
        (suspending, "suspended", "x is suspended already"),
        (suspending, "cancelled", "x is cancelled already"),
        (resuming, "active", "x is active already"),
        (resuming, "suspended", {"desired": "active"}),
        (cancelling, "active", {"desired": "cancelled"}),
        (cancelling, "suspended", {"desired": "cancelled"}),
        (cancelling, "cancelled", "x is cancelled already"),
        (retrying, "cancelled", {"desired": "active", "rerun": 3}),
    ],
)
def test_what_is_so_already_is_not_changed(decide, desired, changes):
    assert decide("x", spec(desired=desired, rerun=2), None) == changes


def test_a_cancelled_task_is_not_resumed_by_accident():
    with pytest.raises(UsageError, match="reconciler retry x"):
        resuming("x", spec(desired="cancelled"), None)


@pytest.mark.parametrize("phase", Phase)
def test_only_a_settled_task_is_retried(phase):
    decided = retrying("x", spec(), status(phase))

    assert decided == {"rerun": 1} if phase.is_settled else f"x is {phase}" in decided


# --- Doing -----------------------------------------------------------------


def test_suspend_changes_one_word_and_keeps_every_comment(fleet):
    done = fleet.run("suspend", "hello", "--reason", "budget is spent")

    assert done.exit_code == 0
    assert fleet.read("specs/tasks/hello.yaml") == TASK.replace("desired: active ", "desired: suspended ")
    assert fleet.git("log", "-1", "--format=%an|%s|%b").strip() == "Test|Suspend hello|budget is spent"
    assert fleet.git("status", "--porcelain") == ""


def test_doing_it_again_commits_nothing(fleet):
    fleet.run("suspend", "hello")
    before = fleet.git("rev-parse", "HEAD")

    again = fleet.run("suspend", "hello")

    assert (again.exit_code, again.stdout) == (0, "")
    assert again.stderr == "hello is suspended already\n"
    assert fleet.git("rev-parse", "HEAD") == before


def test_resume_and_cancel_and_retry_say_what_is_so_now(fleet):
    fleet.run("suspend", "hello")

    assert fleet.run("resume", "hello").stdout == "hello: desired is active now\n"
    assert fleet.run("cancel", "hello").stdout == "hello: desired is cancelled now\n"
    assert fleet.run("resume", "hello").exit_code == 64
    assert fleet.run("retry", "hello").stdout == "hello: desired is active now, rerun is 1 now\n"
    assert "goal: Say hello.   # short" in fleet.read("specs/tasks/hello.yaml")


def test_a_retried_task_runs_once_more(fleet):
    fleet.reconcile()
    assert fleet.run("retry", "hello").exit_code == 0

    steps = fleet.reconcile()

    assert steps.count("→ completed") == 1
    assert fleet.run("retry", "hello").stdout == "hello: rerun is 2 now\n"


def test_one_unknown_name_among_many_changes_nothing(fleet):
    before = fleet.git("rev-parse", "HEAD")

    done = fleet.run("suspend", "hello", "helo")

    assert done.exit_code == 3
    assert "did you mean 'hello'?" in done.stderr
    assert fleet.git("rev-parse", "HEAD") == before


def test_several_names_are_a_commit_each(fleet):
    fleet.write("specs/tasks/web/other.yaml", TASK)
    fleet.commit()

    fleet.run("suspend", "hello", "web/other", "hello")

    assert fleet.git("log", "-2", "--format=%s").splitlines() == ["Suspend web/other", "Suspend hello"]


def test_a_file_that_is_being_edited_is_not_touched(fleet):
    fleet.write("specs/tasks/hello.yaml", TASK + "priority: 5\n")

    done = fleet.run("suspend", "hello")

    assert done.exit_code == 64
    assert "commit or undo" in done.stderr
    assert fleet.read("specs/tasks/hello.yaml") == TASK + "priority: 5\n"


def test_a_broken_file_is_to_be_mended_first(fleet):
    fleet.write("specs/tasks/hello.yaml", "gaol: x\n")
    fleet.commit()

    done = fleet.run("suspend", "hello")

    assert done.exit_code == 1
    assert "specs/tasks/hello.yaml:1:1: error: gaol: unknown field" in done.stderr


def test_what_is_committed_is_pushed_where_there_is_a_remote(fleet, tmp_path):
    remote = tmp_path / "remote.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(fleet.folder), str(remote)], check=True)
    fleet.git("remote", "add", "origin", str(remote))
    fleet.git("fetch", "-q")
    fleet.git("branch", "-q", "--set-upstream-to=origin/main")

    assert fleet.run("suspend", "hello").exit_code == 0

    assert fleet.git("--git-dir", str(remote), "rev-parse", "main") == fleet.git("rev-parse", "main")


def test_a_fleet_named_by_its_url_is_changed_there(fleet, tmp_path):
    remote = tmp_path / "remote.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(fleet.folder), str(remote)], check=True)
    checkout, fleet.folder = fleet.folder, f"file://{remote}"

    assert fleet.run("suspend", "hello").exit_code == 0

    fleet.folder = checkout
    assert fleet.git("--git-dir", str(remote), "log", "-1", "--format=%s", "main") == "Suspend hello"
    assert fleet.read("specs/tasks/hello.yaml") == TASK


def test_who_pushed_first_is_not_overwritten(fleet, tmp_path):
    remote = tmp_path / "remote.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(fleet.folder), str(remote)], check=True)
    fleet.git("remote", "add", "origin", str(remote))
    fleet.git("fetch", "-q")
    fleet.git("branch", "-q", "--set-upstream-to=origin/main")
    fleet.git("commit", "-q", "--allow-empty", "-m", "Theirs")
    fleet.git("push", "-q")
    theirs = fleet.git("rev-parse", "HEAD")
    fleet.git("reset", "-q", "--hard", "HEAD~1")

    done = fleet.run("suspend", "hello")

    assert done.exit_code == 6
    assert "git pull --rebase" in done.stderr
    assert fleet.git("--git-dir", str(remote), "rev-parse", "main") == theirs


# --- approve-prune ---------------------------------------------------------


@pytest.fixture
def pruned(fleet):
    """Return a fleet of eight waiting tasks whose specs are all gone."""
    names = [f"specs/tasks/many/t{number}.yaml" for number in range(8)]
    for name in names:
        fleet.write(name, TASK.replace("desired: active", "desired: suspended"))
    fleet.commit("Add many")
    fleet.reconcile("--once")
    fleet.git("rm", "-q", *names)
    fleet.commit("Remove them all")
    return fleet


def names_on_record(fleet):
    return fleet.run("get", "tasks", "-o", "name").stdout.split()


def test_a_large_removal_waits_until_it_is_allowed(pruned):
    pruned.reconcile("--once")
    assert len([name for name in names_on_record(pruned) if name.startswith("many/")]) == 8

    allowed = pruned.run("approve-prune", "--yes", "--reason", "they are done elsewhere")
    assert allowed.exit_code == 0
    assert allowed.stdout.split() == [f"many/t{number}" for number in range(8)]
    assert "prune_approved:" in pruned.git("show", "HEAD:specs/fleet.yaml")

    pruned.reconcile()
    assert names_on_record(pruned) == ["hello"]


def test_without_a_terminal_it_is_allowed_with_yes_and_not_otherwise(pruned):
    before = pruned.git("rev-parse", "HEAD")

    done = pruned.run("approve-prune")

    assert done.exit_code == 64
    assert "--yes" in done.stderr
    assert pruned.git("rev-parse", "HEAD") == before


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"y\n", 0)])
def test_on_a_terminal_the_person_is_asked(pruned, answer, code):
    before = pruned.git("rev-parse", "HEAD")
    ours, theirs = pty.openpty()
    os.write(ours, answer)

    done = run(
        [*pruned.command, "approve-prune"],
        stdin=theirs,
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(ours)
    os.close(theirs)

    assert done.returncode == code
    assert "Allow the removal of these 8 tasks" in done.stderr
    assert (pruned.git("rev-parse", "HEAD") != before) == (code == 0)


def test_where_nothing_waits_there_is_nothing_to_allow(fleet):
    done = fleet.run("approve-prune")

    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "no removal waits\n")


# --- Questions -------------------------------------------------------------

ASKING = """\
goal: Choose.   # one of two
script: |
  if [ -z "$RECONCILER_ANSWER" ]; then echo 'A or B?' >"$RECONCILER_QUESTION_FILE"; exit; fi
  echo "took $RECONCILER_ANSWER"
"""


@pytest.fixture
def asking(fleet):
    """Return a fleet whose task waits for an answer."""
    fleet.write("specs/tasks/hello.yaml", ASKING)
    fleet.commit()
    fleet.reconcile()
    return fleet


def test_a_question_is_told_by_everything_that_looks(asking):
    assert "Person: asks (q1-1): A or B?" in asking.run("get").stdout
    assert "q1-1:" in asking.run("describe", "hello").stdout
    assert "the agent asks: A or B?" in asking.run("history", "hello").stdout
    status = asking.run("status")
    assert status.exit_code == 8
    assert status.stdout.splitlines()[-1].split()[:3] == ["task", "hello", "Question"]
    [task] = json.loads(asking.run("get", "-o", "json").stdout)
    assert task["status"]["questions"][0]["text"] == "A or B?"


def test_an_answer_is_a_commit_in_the_persons_name_and_the_agent_goes_on(asking):
    shown = asking.run("answer", "hello")
    done = asking.run("answer", "hello", "-", "--reason", "as agreed", stdin="B,\nas ever\n")
    again = asking.run("answer", "task/hello", "B,\nas ever")
    other = asking.run("answer", "hello", "A")

    assert (shown.exit_code, shown.stdout) == (64, "A or B?\n")
    assert "`reconciler answer hello TEXT`" in shown.stderr
    assert done.stdout == "hello: answer is now to: q1-1, text: B, as ever\n"
    assert asking.git("log", "-1", "--format=%an|%s|%b").strip() == "Test|Answer hello|as agreed"
    assert asking.read("specs/tasks/hello.yaml").startswith(ASKING.splitlines()[0])
    assert (again.exit_code, again.stderr) == (0, "q1-1 of hello is answered already: B, as ever\n")
    assert other.exit_code == 64
    assert "the first answer counts" in other.stderr

    asking.reconcile()

    assert "took B,\nas ever" in asking.run("logs", "hello").stdout
    assert "q1-1 was answered by Test: B, as ever" in asking.run("answer", "hello", "A").stderr


@pytest.mark.parametrize(
    ("args", "code", "why"),
    [
        (("hello", "--to", "q7-1", "A"), 64, "asks q1-1 by now, and not q7-1"),
        (("hello", " "), 64, "the answer is empty"),
        (("helo", "A"), 3, "did you mean 'hello'?"),
        (("host/hello", "A"), 64, "is no task"),
    ],
)
def test_what_answers_nothing_says_why(asking, args, code, why):
    before = asking.git("rev-parse", "HEAD")

    done = asking.run("answer", *args)

    assert (done.exit_code, asking.git("rev-parse", "HEAD")) == (code, before)
    assert why in done.stderr
