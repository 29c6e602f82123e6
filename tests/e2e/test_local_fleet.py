import os
import signal
import subprocess
import time

import pytest


def test_a_task_becomes_a_branch_with_its_work_and_a_record(playground):
    playground.task(
        "greet",
        "goal: Greet the world.\nrepo: code\nvalidation: grep -q world hello.txt\n"
        "script: echo world >> hello.txt; echo done\n",
    )
    playground.commit()
    before = playground.sh(
        "git status --porcelain; git rev-parse HEAD; git symbolic-ref HEAD; git ls-files -s"
    )

    out = playground.reconciler("run", "--until-idle")

    assert "running → completed" in out
    assert playground.sh("git show task/greet:hello.txt", cwd=playground.code) == "hello\nworld\n"
    assert playground.sh("git status --porcelain", cwd=playground.code) == ""
    after = playground.sh(
        "git status --porcelain; git rev-parse HEAD; git symbolic-ref HEAD; git ls-files -s"
    )
    assert after == before
    subjects = playground.sh("git log --reverse --format=%s fleet-state").splitlines()
    assert [line.removeprefix("task greet: ") for line in subjects if line.startswith("task greet: ")][
        -1
    ] == ("running → completed")
    history = playground.reconciler("history", "greet")
    assert "completed" in history
    assert "done" in playground.reconciler("logs", "greet")


def test_a_quiet_fleet_makes_no_further_commits(playground):
    playground.task("a", "goal: Nothing much.\nscript: echo hi\n")
    playground.task("b", "goal: Waits.\nscript: echo hi\nrequires: gpu\n")
    playground.commit()
    playground.reconciler("run", "--until-idle")
    head = playground.sh("git rev-parse fleet-state")

    playground.reconciler("run", "--until-idle")

    assert playground.sh("git rev-parse fleet-state") == head
    assert playground.phases() == {"a": "completed", "b": "created"}


def test_a_failed_task_says_so_with_the_exit_code(playground):
    playground.task("bad", "goal: Fail.\nscript: echo no >&2; exit 3\nretries: 0\n")
    playground.commit()

    playground.reconciler("run", "--until-idle", code=5)

    assert playground.phases() == {"bad": "failed"}
    assert "no" in playground.reconciler("logs", "bad")
    assert "3" in playground.reconciler("describe", "bad")


def test_bad_files_stall_only_themselves(playground):
    playground.task("good", "goal: Work.\nscript: echo hi\n")
    playground.task("bad", "goal: Work.\nscrpt: echo hi\n")
    playground.commit()

    playground.reconciler("run", "--until-idle", code=1)

    assert playground.phases()["good"] == "completed"
    assert "did you mean 'script'" in playground.reconciler("describe", "bad")


def test_a_commit_on_the_specs_branch_is_noticed_by_a_running_reconciler(playground):
    playground.task("first", "goal: Work.\nscript: echo hi\n")
    playground.commit()
    process = subprocess.Popen(
        playground.command("run"), cwd=playground.fleet, env=playground.env, stdout=subprocess.PIPE, text=True
    )
    try:
        seen = iter(process.stdout.readline, "")
        assert any("first" in line and "completed" in line for line in seen)

        playground.task("second", "goal: Work.\nscript: echo hi\n")
        playground.commit()

        assert any("second" in line and "completed" in line for line in seen)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_sigterm_leaves_runs_running_and_the_next_start_takes_them_up(playground):
    gate = playground.root / "gate"
    playground.task("slow", f"goal: Work.\nscript: until [ -e {gate} ]; do sleep 0.1; done; echo went on\n")
    playground.commit()
    process = subprocess.Popen(
        playground.command("run"), cwd=playground.fleet, env=playground.env, stdout=subprocess.PIPE, text=True
    )
    assert any("→ running" in line for line in iter(process.stdout.readline, ""))

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    gate.touch()
    playground.reconciler("run", "--until-idle")

    assert process.returncode == 0
    assert playground.phases() == {"slow": "completed"}
    assert playground.reconciler("logs", "slow").count("went on") == 1
    assert playground.sh("git log --format=%s fleet-state").count("created → assigned") == 1


def test_cancel_stops_a_live_run_and_edits_the_spec(playground):
    playground.task("endless", "# keep me\ngoal: Work.\nscript: sleep 600\n")
    playground.commit()
    process = subprocess.Popen(
        playground.command("run", "--until-idle"),
        cwd=playground.fleet, env=playground.env, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert any("→ running" in line for line in iter(process.stdout.readline, ""))

    playground.reconciler("cancel", "endless")
    process.communicate(timeout=60)

    assert playground.phases() == {"endless": "cancelled"}
    assert "# keep me" in (playground.fleet / "specs/tasks/endless.yaml").read_text()
    assert playground.sh("git status --porcelain") == ""


KILLS = int(os.environ.get("RECONCILER_TEST_KILLS", "8"))
"""How often the reconciler is killed; more by hand: RECONCILER_TEST_KILLS=50."""


@pytest.mark.slow
def test_killed_again_and_again_every_task_completes_and_nothing_runs_twice(playground):
    import random

    chance = random.Random(7)
    starts = playground.root / "starts"
    for number in range(20):
        playground.task(
            f"group{number % 3}/task{number}",
            f"goal: Count.\nrepo: code\nscript: |\n  echo $RECONCILER_RUN >> {starts}\n"
            f"  sleep 0.{chance.randrange(9)}\n  echo {number} > file{number}\n",
        )
    playground.commit()

    for _ in range(KILLS):
        process = subprocess.Popen(
            playground.command("run"), cwd=playground.fleet, env=playground.env, stdout=subprocess.DEVNULL
        )
        time.sleep(chance.uniform(0.4, 2.0))
        process.kill()
        process.wait()
    playground.reconciler("run", "--until-idle")

    assert set(playground.phases().values()) == {"completed"}
    lines = starts.read_text().split()
    assert len(lines) == len(set(lines)) == 20
    assert playground.sh("git fsck --full --strict 2>&1 | grep -v dangling || true") == ""
    merges = playground.sh("git log --merges --format=%h fleet-state")
    assert merges == ""
    for number in range(20):
        branch = f"task/group{number % 3}/task{number}"
        assert playground.sh(f"git show {branch}:file{number}", cwd=playground.code) == f"{number}\n"


def test_a_task_that_was_archived_comes_back_done_and_is_done_again_if_it_asks_for_other_work(playground):
    text = f"goal: Count.\nscript: echo again >> {playground.root / 'counted'}\n"
    playground.task("a", text)
    playground.task("b", "goal: Fail, and stay.\nscript: exit 1\nretries: 0\n")
    playground.commit()
    playground.reconciler("run", "--until-idle", code=5)

    while not (asked := playground.reconciler("archive", "--done-for", "1s", "--yes")):
        pass  # it has not been done for a second yet
    playground.reconciler("run", "--until-idle")
    gone, shown = playground.phases(), playground.reconciler("get", "a")
    refused = subprocess.run(
        playground.command("retry", "a"),
        cwd=playground.fleet,
        env=playground.env,
        capture_output=True,
        text=True,
        check=False,
    )
    found = playground.sh(refused.stderr.split("`")[1])
    playground.sh("git revert --no-edit HEAD")
    playground.reconciler("run", "--until-idle")
    back, counted = playground.phases(), (playground.root / "counted").read_text()
    playground.task("a", f"{text}rerun: 1\n")
    playground.commit("Ask for it again")
    playground.reconciler("run", "--until-idle")

    runs = playground.sh("git log --reverse --format='%(trailers:key=Run,valueonly,separator=)' fleet-state")
    attempts = dict.fromkeys(run.rpartition(".")[2] for run in runs.splitlines() if run.startswith("a."))
    assert asked == "a\n"
    assert gone == {"b": "failed"}
    assert "completed" in shown
    assert "a is archived" in refused.stderr
    assert playground.sh("git rev-parse HEAD~2") in found
    assert back == {"a": "completed", "b": "failed"}
    assert counted == "again\n"
    assert list(attempts) == ["a1", "a2"]
    assert (playground.root / "counted").read_text() == "again\nagain\n"
    playground.reconciler("verify")


PLANNING = """\
goal: Paint it.
mode: plan
repo: code
script: |
  if [ "$RECONCILER_MODE" = plan ]; then
    echo draft >draft.txt
    echo "I would use ${RECONCILER_ANSWER:-red}."
    exit
  fi
  echo painted >>colour.txt
validation: grep painted colour.txt
"""


def test_a_plan_is_changed_and_approved_before_anything_is_done(playground):
    playground.task("paint", PLANNING)
    playground.commit()
    playground.reconciler("run", "--until-idle")
    playground.reconciler("answer", "paint", "blue")
    playground.reconciler("run", "--until-idle")
    shown = playground.reconciler("describe", "paint")
    before = playground.sh("git branch --list 'task/*'", cwd=playground.code)

    playground.reconciler("approve", "paint")
    playground.reconciler("run", "--until-idle")

    assert "I would use red." in shown
    assert "has a plan and waits for a yes (q1-2): I would use blue." in shown
    assert before == ""
    assert playground.sh("git show --format= --name-only task/paint", cwd=playground.code) == "colour.txt\n"
    assert playground.phases() == {"paint": "completed"}
    assert "running → completed" in playground.reconciler("history", "paint")
    assert "each follows from the one before" in playground.reconciler("verify")


ASKING = """\
goal: Choose a colour.
repo: code
script: |
  if [ -z "$RECONCILER_ANSWER" ]; then
    echo begun >colour.txt
    echo 'Red or blue?' >"$RECONCILER_QUESTION_FILE"
    exit
  fi
  echo "$RECONCILER_ANSWER" >>colour.txt
validation: grep -q blue colour.txt
"""


def test_a_question_waits_over_a_kill_and_its_answer_goes_on_where_the_work_lies(playground):
    playground.task("paint", ASKING)
    playground.commit()
    with playground.serving() as serving:
        assert serving.tells("paint", "running → created", "the agent asks: Red or blue?")
    with playground.serving() as serving:
        playground.reconciler("answer", "paint", "blue")
        assert serving.tells("paint", "running → completed")

    assert playground.sh("git show task/paint:colour.txt", cwd=playground.code) == "begun\nblue\n"
    story = playground.sh("git log --reverse --format=%s fleet-state -- fleet-state/tasks/paint.yaml")
    assert [line.removeprefix("task paint: ") for line in story.splitlines()] == [
        "created",
        "created → assigned",
        "assigned → running",
        "running → created",
        "created, spec changed",
        "created, question answered",
        "created → assigned",
        "assigned → running",
        "running → completed",
    ]
    assert playground.sh("git log -1 --format='%an: %s'") == "Test: Answer paint\n"
