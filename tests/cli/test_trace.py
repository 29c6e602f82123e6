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


def test_what_leads_nowhere_is_told(worked):
    done = worked.run("trace", "nowhere")

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
