"""
Every command takes names in the same ways.
"""

import pytest

WAYS = ("web/a", "task/web/a", "tasks/web/a", "t/web/a", "task web/a", "tasks web/a", "t web/a")


@pytest.fixture
def two(fleet):
    fleet.write("specs/tasks/web/a.yaml", "goal: x\nscript: echo hello\n")
    fleet.write("specs/tasks/b.yaml", "goal: x\nscript: echo\ndesired: suspended\n")
    fleet.commit()
    return fleet


@pytest.fixture
def done(two):
    two.reconcile()
    return two


def test_a_task_is_named_in_the_same_ways_wherever_it_is_looked_at(done):
    for way in (*WAYS, "specs/tasks/web/a.yaml"):
        args = way.split()

        logs, prompt = done.run("logs", *args), done.run("prompt", *args)
        described, explained = done.run("describe", *args), done.run("explain", *args)
        got, history = done.run("get", *args, "-o", "name"), done.run("history", *args)

        codes = [each.exit_code for each in (logs, prompt, described, explained, got, history)]
        assert codes == [0] * 6, way
        assert "hello" in logs.stdout, way
        assert got.stdout == "web/a\n", way
        assert "web/a" in described.stdout, way
        assert "completed" in history.stdout, way


@pytest.mark.parametrize("way", WAYS)
def test_a_task_is_named_in_the_same_ways_wherever_it_is_changed(two, way):
    for command in ("suspend", "resume", "cancel", "retry"):
        assert two.run(command, *way.split()).exit_code in {0, 1}, command
        assert two.git("log", "-1", "--format=%s").split()[1] == "web/a"


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("", "b\nhello\nweb/a\n"),
        ("task", "b\nhello\nweb/a\n"),
        ("tasks", "b\nhello\nweb/a\n"),
        ("t", "b\nhello\nweb/a\n"),
        ("b web/a", "b\nweb/a\n"),
        ("tasks b t/web/a", "b\nweb/a\n"),
        ("host", "local\n"),
        ("h", "local\n"),
        ("host/local", "local\n"),
        ("hosts local", "local\n"),
        ("adapter codex", "codex\n"),
        ("ad/codex", "codex\n"),
        ("agents", ""),
        ("r", ""),
    ],
)
def test_get_takes_a_kind_in_the_singular_in_the_plural_short_or_none(two, line, names):
    done = two.run("get", *line.split(), "-o", "name")

    assert (done.exit_code, done.stdout) == (0, names)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("get host/local web/a", 64, "one kind at a time"),
        ("get repo web", 3, "make specs/repos/web.yaml with, say, `url: https://"),
        ("get host gpu1", 3, "reconciler host add gpu1 ADDRESS"),
        ("describe agent/jeeves", 3, "reconciler token new jeeves"),
        ("describe b web/a", 64, "one thing at a time"),
        ("describe adapter agnt", 3, "take claude-code, cline, codex,"),
        ("logs b web/a", 64, "one task at a time"),
        ("logs other/thing", 3, "make specs/tasks/other/thing.yaml with, say, `goal: "),
        ("prompt host x", 64, "is no task"),
        ("cancel host local", 64, "is no task"),
        ("cancel nobody", 3, "make specs/tasks/nobody.yaml"),
        ("history nobody", 3, "make specs/tasks/nobody.yaml"),
        ("explain nobody", 3, "make specs/tasks/nobody.yaml"),
        ("host cordon task/b", 64, "is no host"),
        ("host trust gpu1", 3, "reconciler host add gpu1 ADDRESS"),
        ("host check gpu1", 3, "make specs/hosts/gpu1.yaml"),
        ("webhook test web", 3, "make specs/repos/web.yaml"),
        ("adapter test nobody", 3, "make specs/adapters/nobody.yaml"),
        ("token revoke jeeves", 3, "reconciler token new jeeves"),
    ],
)
def test_a_name_that_leads_nowhere_is_told_with_what_to_do(two, line, code, said):
    done = two.run(*line.split())

    assert (done.exit_code, done.stdout) == (code, "")
    assert said in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "host cordon host/local",
        "host cordon h/local",
        "host check hosts/local",
        "adapter test adapter/script --no-prompt --host host/local",
        "token new agent/jeeves",
        "schema tasks",
        "schema h",
    ],
)
def test_other_kinds_are_named_with_their_kind_too(two, line):
    assert two.run(*line.split()).exit_code == 0
