"""
Where a failure is shown: its cause first and once, the place of its files, and what to type next.
"""

import json
from pathlib import Path

import pytest

VALIDATION = "goal: x\nscript: echo made > file\nretries: 0\nfix_attempts: 0\nvalidation: ['{command}']\n"
AGENT = "goal: x\nretries: 0\nscript: |\n  {command}\n"


@pytest.fixture
def failed(fleet):
    fleet.write("specs/tasks/checked.yaml", VALIDATION.format(command="seq 1 30; echo 3 is not 4; exit 1"))
    fleet.write(
        "specs/tasks/worked.yaml", AGENT.format(command="echo at work; echo no such thing >&2; exit 3")
    )
    fleet.commit()
    fleet.printed = fleet.run("run", "--until-idle").stdout
    return fleet


def place_of(text, task):
    """Return the folder that a text names as the workspace of a task."""
    [place] = [word for word in text.split() if word.startswith("local:/") and f"/work/{task}." in word]
    return Path(place.removeprefix("local:"))


@pytest.mark.parametrize(("task", "end"), [("checked", "3 is not 4"), ("worked", "no such thing")])
def test_a_failure_is_told_with_its_end_its_place_and_the_next_command_wherever_it_is_looked_at(
    failed, task, end
):
    described, explained, got = (failed.run(word, task) for word in ("describe", "explain", "get"))
    texts = [described.stdout, explained.stdout, got.stderr, failed.printed]

    assert got.exit_code == 0
    for text in texts:
        assert end in text
        assert f"reconciler retry {task}" in text
        assert place_of(text, task).is_dir()
    assert described.stdout.count(end) == 1 + (task == "worked") + 2 * (task == "checked")
    assert failed.run("logs", task).stderr.count(f"reconciler retry {task}") == 1


def test_the_list_of_tasks_shows_the_last_line_and_where_to_look(failed):
    done = failed.run("get")

    assert "seq 1 30" in done.stdout
    assert "no such thing" in done.stdout
    assert "`reconciler describe checked`" in done.stderr


def test_programs_get_the_same(failed):
    [document] = json.loads(failed.run("get", "worked", "-o", "json").stdout)
    described = json.loads(failed.run("describe", "worked", "-o", "json").stdout)

    assert document["cause"] == described["cause"]
    assert document["cause"]["output"] == ["no such thing"]
    assert document["cause"]["next"][-1] == "reconciler retry worked"
    assert place_of(document["cause"]["workspace"], "worked").is_dir()


def test_events_for_programs_are_not_shown_as_last_lines(fleet):
    script = 'echo plain words; echo \'{"type": "result"}\'; exit 3'
    fleet.write("specs/tasks/events.yaml", AGENT.format(command=script))
    fleet.commit()
    fleet.run("run", "--until-idle")

    text = fleet.run("describe", "events").stdout

    assert "last lines: plain words\nworkspace:" in text


def test_what_a_terminal_would_obey_is_not_in_the_last_lines(fleet):
    script = r"printf 'red \033[31mwords\033]0;title\007 end\n' >&2; exit 3"
    fleet.write("specs/tasks/loud.yaml", AGENT.format(command=script))
    fleet.commit()

    text = fleet.run("run", "--until-idle").stdout + fleet.run("describe", "loud").stdout

    assert "red words end" in text
    assert "\x1b" not in text


def test_a_task_that_did_well_says_nothing_of_failures(fleet):
    fleet.run("run", "--until-idle")

    assert "cause" not in fleet.run("describe", "hello").stdout
    assert fleet.run("get", "hello").stderr == ""
    assert "retry" not in fleet.run("logs", "hello").stderr


@pytest.mark.parametrize("args", [("get",), ("describe", "hello"), ("plan",), ("history",)])
def test_what_programs_read_says_which_version_of_the_format_it_is_in(fleet, args):
    fleet.run("run", "--until-idle")

    document = json.loads(fleet.run(*args, "-o", "json").stdout)

    assert {each["format"] for each in (document if isinstance(document, list) else [document])} == {3}


def test_what_is_wrong_with_a_spec_is_told_once(fleet):
    fleet.write("specs/tasks/bad.yaml", "goal: x\nmax_attempts: 1\nmore: 2\n")
    fleet.commit()

    shown = fleet.run("describe", "bad").stdout

    assert shown.count("max_attempts: unknown field") == 1
    assert shown.count("more: unknown field") == 1
