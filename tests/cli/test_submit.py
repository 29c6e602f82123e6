"""
Specs from the command line: `submit` and `edit`, validated before they are committed; and `open`.
"""

import os
import re
from pathlib import Path

import pytest

from reconciler.cli.exits import ExitCode
from tests.cli.test_serve import serving

GOOD = ["submit", "-g", "Fix the Typos, in README!", "--script", "true"]


def test_a_task_is_made_of_options_and_named_after_its_goal(fleet):
    done = fleet.run(*GOOD, "--label", "team=web", "--set", "retries=0", "--reason", "They ask for it.")
    again = fleet.run(*GOOD)

    assert (done.exit_code, done.stdout) == (0, "fix-the-typos-in-readme\n")
    assert again.stdout == "fix-the-typos-in-readme-2\n"
    assert "retries: 0" in fleet.read("specs/tasks/fix-the-typos-in-readme.yaml")
    assert fleet.git("log", "-1", "--skip=1", "--format=%B").startswith(
        "Submit fix-the-typos-in-readme\n\nThey ask"
    )
    assert fleet.git("status", "--porcelain") == ""
    assert "fix-the-typos-in-readme" in fleet.run("get", "-l", "team=web", "-o", "name").stdout


def test_options_go_over_what_is_read_from_stdin(fleet):
    spec = "# Why it is here\ngoal: From stdin.\nscript: 'true'\npriority: 1\n"

    fleet.run("submit", "s/in", "-f", "-", "--priority", "5", stdin=spec)

    assert fleet.read("specs/tasks/s/in.yaml") == spec.replace("1", "5")


def test_what_would_be_written_can_be_looked_at_first(fleet):
    done = fleet.run(*GOOD, "--dry-run")

    assert done.stdout.startswith("goal: ")
    assert fleet.git("log", "--format=%s") == "Say hello"


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["-g", "x", "--script", "true", "--repo", "nope"], ExitCode.FAILURE, "no repo 'nope'"),
        (["-g", "x", "--script", "true", "--set", "foo=1"], ExitCode.FAILURE, "foo: unknown field"),
        (["-g", "x", "--script", "true", "--set", "retries"], ExitCode.USAGE, "write FIELD=VALUE"),
        (["-g", "x", "--script", "true", "--set", "retries=["], ExitCode.USAGE, "retries=["),
        (["-g", "x", "--script", "true", "--timeout", "1h"], ExitCode.USAGE, "add --wait"),
        (["hello", "-g", "x", "--script", "true"], ExitCode.USAGE, "`reconciler edit hello` changes it"),
        (["host/x y", "-g", "x", "--script", "true"], ExitCode.FAILURE, "host/x y"),
        ([], ExitCode.USAGE, "give --goal"),
    ],
)
def test_a_mistake_commits_nothing_and_says_what_to_do(fleet, args, code, text):
    done = fleet.run("submit", *args)

    assert (done.exit_code, done.stdout) == (code, "")
    assert text in done.stderr
    assert fleet.git("log", "--format=%s") == "Say hello"
    assert fleet.git("status", "--porcelain") == ""


def test_what_is_submitted_can_be_waited_for(fleet):
    with serving(fleet):
        done = fleet.run(*GOOD, "--wait")
        failed = fleet.run("submit", "bad", "-g", "x", "--script", "exit 3", "--set", "retries=0", "--wait")

    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "fix-the-typos-in-readme completed")
    assert (failed.exit_code, "exited with 3" in failed.stderr) == (ExitCode.ENDED_BADLY, True)


def test_a_spec_is_edited_and_committed(fleet, monkeypatch):
    monkeypatch.setenv("EDITOR", "sed -i s/hello/goodbye/")

    done = fleet.run("edit", "task/hello", "--reason", "It is late.")

    assert done.exit_code == 0
    assert "script: echo goodbye" in fleet.read("specs/tasks/hello.yaml")
    assert fleet.git("log", "-1", "--format=%B") == "Edit hello\n\nIt is late."


def test_a_spec_that_is_left_as_it_was_is_not_committed(fleet, monkeypatch):
    monkeypatch.setenv("EDITOR", "true")

    assert "nothing was changed" in fleet.run("edit", "hello").stderr
    assert fleet.run("edit", "helo").exit_code == ExitCode.NOT_FOUND


def test_what_was_edited_with_a_mistake_is_kept_aside(fleet, monkeypatch):
    monkeypatch.setenv("EDITOR", "sed -i s/goal/gaol/")

    done = fleet.run("edit", "hello")

    kept = re.search(r"what was written is in (\S+)", done.stderr)[1]
    assert done.exit_code == ExitCode.FAILURE
    assert "did you mean" in done.stderr or "gaol" in done.stderr
    assert "gaol: Say hello." in Path(kept).read_text()
    assert fleet.git("log", "--format=%s") == "Say hello"


def test_a_mistake_goes_back_to_the_editor_until_there_is_none(fleet, monkeypatch):
    drafts = iter(["gaol: x\n", "#! what is wrong\ngoal: x\nscript: 'true'\n"])
    given = []
    monkeypatch.setattr("reconciler.cli.submit._in_editor", lambda text: given.append(text) or next(drafts))
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)

    done = fleet.run("submit", "x")

    assert done.exit_code == 0, done.stderr
    assert given[1].startswith("#! specs/tasks/x.yaml:1:1")
    assert fleet.read("specs/tasks/x.yaml") == "goal: x\nscript: 'true'\n"


def test_a_task_leads_to_its_page_where_one_is_served(fleet):
    nowhere = fleet.run("open", "hello")
    with serving(fleet) as (process, url):
        next(line for line in process.stdout if "completed" in line)
        done = fleet.run("open", "hello")

    assert nowhere.exit_code == ExitCode.NOT_FOUND
    assert "`reconciler describe hello`" in nowhere.stderr
    assert done.stdout == f"{url}/tasks/hello\n"
    assert fleet.run("open", "helo").exit_code == ExitCode.NOT_FOUND


def test_a_field_is_set_without_an_editor_and_comments_stay(fleet, monkeypatch):
    monkeypatch.setenv("EDITOR", "false")

    done = fleet.run("edit", "hello", "--set", "retries=3", "--set", "labels=[a, b]")
    again = fleet.run("edit", "hello", "--set", "retries=3")
    bad = fleet.run("edit", "hello", "--set", "retrys=3")

    assert (done.exit_code, again.exit_code, bad.exit_code) == (0, 0, 1)
    spec = fleet.git("show", "main:specs/tasks/hello.yaml")
    assert "retries: 3" in spec
    assert "labels: [a, b]" in spec or "labels:" in spec
    assert "# Why this task is here" in spec
    assert "nothing was changed" in again.stderr
    assert "did you mean 'retries'?" in bad.stderr


LATIN = b"goal: caf\xe9\nscript: 'true'\n"
"""A spec from an editor, or a terminal, of another encoding."""


def test_a_text_that_is_not_utf_8_is_refused_with_its_place_whichever_way_it_comes(fleet, monkeypatch):
    argument = os.fsdecode(b"caf\xe9")
    (fleet.folder / "latin.yaml").write_bytes(LATIN)
    (fleet.folder / "specs/tasks/latin.yaml").write_bytes(LATIN)
    fleet.commit("Say it in another encoding")
    monkeypatch.setenv("EDITOR", "sed -i s/true/false/")

    tried = [
        fleet.run("submit", "-f", str(fleet.folder / "latin.yaml")),
        fleet.run("submit", "-f", "-", stdin=LATIN),
        fleet.run("submit", "-g", argument, "--script", "true"),
        fleet.run("submit", "a", "-g", "b", "--set", f"script={argument}"),
        fleet.run("edit", "hello", "--set", f"title={argument}"),
        fleet.run("edit", "latin", "--set", "title=Coffee"),
        fleet.run("edit", "latin"),
        fleet.run("host", "add", "h", f"{argument}@192.0.2.1"),
    ]

    assert [done.exit_code in {ExitCode.FAILURE, ExitCode.USAGE} for done in tried] == [True] * len(tried)
    assert [done.stderr for done in tried if "not UTF-8" not in done.stderr] == []


def test_what_an_editor_saved_in_another_encoding_is_kept_aside_and_can_be_put_right(fleet, monkeypatch):
    monkeypatch.setenv("EDITOR", r"sed -i s/Say/Caf\\xe9/")

    done = fleet.run("edit", "hello")

    kept = re.search(r"what was written is in (\S+)", done.stderr)[1]
    assert "specs/tasks/hello.yaml:2:10: error: not UTF-8" in done.stderr
    assert b"Caf\xe9 hello." in Path(kept).read_bytes()


def test_an_editor_leaves_line_ends_as_they_are(fleet, monkeypatch):
    file = fleet.folder / "specs/tasks/dos.yaml"
    file.write_bytes(b"goal: Say it.\r\nscript: 'true'\r\n")
    fleet.commit("Say it on another system")
    monkeypatch.setenv("EDITOR", "sed -i s/Say/Tell/")

    fleet.run("edit", "dos")

    assert file.read_bytes() == b"goal: Tell it.\r\nscript: 'true'\r\n"
