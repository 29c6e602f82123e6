"""
From a commit to its runs, from a run to what came of it: `trace` and `diff`.
"""

import json
import shutil
import subprocess

import pytest

from reconciler.cli.exits import ExitCode


@pytest.fixture
def worked(fleet, tmp_path):
    """Return a fleet whose task changed a code repository and was delivered, and another that did nothing."""
    web = tmp_path / "web"
    for args in (["init", "-qb", "main", web], ["-C", web, "commit", "-qm", "a", "--allow-empty"]):
        subprocess.run(["git", *args], check=True)
    fleet.write("specs/repos/web.yaml", "url: ../web\n")
    fleet.commit()
    spec = "goal: x\nrepo: web\nscript: echo b >> README\nvalidation: [grep b README]\nbranch_name: work/it\n"
    fleet.run("submit", "it", "-f", "-", stdin=spec)
    fleet.run("run", "--until-idle")
    return fleet


def test_every_end_leads_to_the_whole_way(worked):
    asked = worked.git("rev-parse", "HEAD")
    (way,) = json.loads(worked.run("trace", "HEAD", "-o", "json").stdout)

    assert (way["spec_commit"], way["subject"], way["phase"]) == (asked, "Test: Submit it", "completed")
    assert (way["task"], way["branch"], way["host"]) == ("it", "work/it", "local")
    for end in (asked[:7], way["run"], way["branch"], way["head"][:10], "it", "main"):
        assert way in json.loads(worked.run("trace", end, "-o", "json").stdout), end
    assert worked.run("trace", way["run"]).stdout.startswith(f"asked by: {asked[:10]} Test: Submit it\n")


def test_a_task_of_a_campaign_leads_to_the_campaigns_file_and_one_with_its_own_to_that(fleet):
    fleet.write("specs/campaigns/up.yaml", "matrix: {n: [a]}\ntask: {goal: 'Do {{n}}.', script: 'true'}\n")
    fleet.commit("Begin a campaign")
    asked = fleet.git("rev-parse", "HEAD")
    fleet.write("specs/tasks/up/own.yaml", "goal: x\nscript: 'true'\n")
    fleet.commit("Add a task in a folder of its name")
    own = fleet.git("rev-parse", "HEAD")
    fleet.run("run", "--until-idle")

    for task, commit, path in [
        ("up/a", asked, "specs/campaigns/up.yaml"),
        ("up/own", own, "specs/tasks/up/own.yaml"),
    ]:
        (way,) = json.loads(fleet.run("trace", task, "-o", "json").stdout)
        assert (way["spec_commit"], way["task"]) == (commit, task)
        assert [each["task"] for each in json.loads(fleet.run("trace", commit, "-o", "json").stdout)] == [
            task
        ]
        proof = fleet.run("verify", task).stdout
        assert f"ok: {path} (" in proof
        assert f"asked by:  ok: {commit[:10]}" in proof


ASKS = """goal: x
script: if [ -z "$RECONCILER_ANSWER" ]; then echo Which? >"$RECONCILER_QUESTION_FILE"; else echo so; fi
"""


def test_whatever_people_commit_for_a_task_leads_to_the_run_that_it_changed(fleet):
    commits = {}
    fleet.write("specs/tasks/asks.yaml", ASKS)
    fleet.commit("Ask")

    def traced(name, *args):
        if args:
            fleet.run(*args)
        commits[name] = fleet.git("rev-parse", "HEAD")
        fleet.run("run", "--until-idle")
        return [way["run"] for way in json.loads(fleet.run("trace", commits[name], "-o", "json").stdout)]

    (first,) = traced("asked")
    assert traced("answered", "answer", "asks", "blue") == [first]
    (second,) = traced("again", "retry", "asks")
    assert traced("cancelled", "cancel", "asks") == [second]
    assert (first.endswith(".a1"), second.endswith(".a2")) == (True, True)

    newest, oldest = json.loads(fleet.run("trace", "asks", "-o", "json").stdout)
    assert (oldest["run"], oldest["spec_commit"], oldest["phase"]) == (first, commits["asked"], "completed")
    assert oldest["changes"] == [{"commit": commits["answered"], "subject": "Test: Answer asks"}]
    assert (newest["spec_commit"], newest["phase"]) == (commits["again"], "cancelled")
    assert f"changed by: {commits['cancelled'][:10]} Test: Cancel asks" in fleet.run("trace", second).stdout


def test_a_commit_of_the_record_and_of_a_spec_before_its_task_was_renamed_lead_to_the_run(fleet):
    fleet.write("specs/tasks/hello.yaml", "goal: x\nscript: exit 1\nretries: 0\n")
    fleet.commit("Fail")
    asked = fleet.git("rev-parse", "HEAD")
    fleet.run("run", "--until-idle")
    fleet.git("mv", "specs/tasks/hello.yaml", "specs/tasks/hi.yaml")
    fleet.commit("Rename it")
    fleet.run("run", "--until-idle")
    recorded = fleet.git("log", "--format=%H", "--grep=running → failed", "fleet-state")

    ways = [json.loads(fleet.run("trace", end, "-o", "json").stdout) for end in (asked, recorded, "hi")]

    assert ways[0] == ways[1] == ways[2]
    assert [way["task"] for way in ways[0]] == ["hi"]


def test_what_leads_nowhere_is_told(fleet):
    done = fleet.run("trace", "nowhere")

    assert (done.exit_code, done.stdout) == (ExitCode.NOT_FOUND, "")
    assert "`reconciler history -o wide` lists runs" in done.stderr


@pytest.mark.parametrize("is_mirrored", [True, False])
def test_a_diff_is_of_the_branch_against_where_it_began(worked, is_mirrored):
    if not is_mirrored:
        shutil.rmtree(worked.data / "repos")

    assert worked.run("diff", "it").stdout.splitlines()[-1] == "+b"
    assert "README | 1 +" in worked.run("diff", "task/it", "--stat").stdout


def test_a_task_that_delivered_nothing_has_no_diff(worked):
    done = worked.run("diff", "hello")

    assert done.exit_code == ExitCode.NOT_FOUND
    assert "`reconciler describe hello`" in done.stderr
    assert worked.run("diff", "helo").exit_code == ExitCode.NOT_FOUND
