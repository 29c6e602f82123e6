"""
`reconciler validate`: mistakes, where they are.
"""

import json
import re
import subprocess

import pytest
from click.testing import CliRunner

from reconciler.cli.check import annotation
from reconciler.cli.main import cli
from reconciler.core.errors import Problem


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with one good task and two bad ones; no repository."""
    tasks = tmp_path / "fleet" / "specs" / "tasks"
    (tasks / "web").mkdir(parents=True)
    (tasks / "good.yaml").write_text("goal: x\nscript: 'true'\n")
    (tasks / "web" / "typo.yaml").write_text("goal: x\nscript: 'true'\nretry: 3\n")
    (tasks / "web" / "wish.yaml").write_text("goal: x\nscript: 'true'\ndesired: maybe\n")
    monkeypatch.chdir(tmp_path / "fleet")
    return tmp_path / "fleet"


def validate(*args):
    return CliRunner().invoke(cli, ["validate", *map(str, args)], catch_exceptions=False)


def test_every_mistake_is_a_line_of_data_and_the_count_is_talk(folder):
    done = validate()

    assert done.exit_code == 1
    first, second = done.stdout.splitlines()
    assert first.startswith("specs/tasks/web/typo.yaml:3:1: error: retry: unknown field")
    assert second.startswith("specs/tasks/web/wish.yaml:3:10: error: desired: expected")
    assert done.stderr == "2 mistakes in 2 of 3 files\n"


def test_without_mistakes_there_is_no_data(folder):
    (folder / "specs/tasks/web/typo.yaml").unlink()
    (folder / "specs/tasks/web/wish.yaml").unlink()

    done = validate()

    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "1 file, no mistakes\n")


def test_only_what_is_below_the_paths_is_shown(folder):
    assert len(validate("specs/tasks/web/wish.yaml").stdout.splitlines()) == 1
    assert len(validate("specs").stdout.splitlines()) == 2
    assert validate("specs/tasks/good.yaml").exit_code == 0


def test_paths_are_told_so_that_they_can_be_opened_from_here(folder, monkeypatch):
    monkeypatch.chdir(folder / "specs" / "tasks")
    assert validate().stdout.startswith("web/typo.yaml:3:1:")

    monkeypatch.chdir("/")
    assert validate(folder).stdout.startswith(f"{folder}/specs/tasks/web/typo.yaml:3:1:".lstrip("/"))


def test_json_has_a_fixed_shape(folder):
    first, _ = json.loads(validate("-o", "json").stdout)

    assert first == {
        "format": 3,
        "path": "specs/tasks/web/typo.yaml",
        "line": 3,
        "column": 1,
        "field": "retry",
        "message": "unknown field",
        "hint": "retries",
        "severity": "error",
    }


def test_annotations_name_file_line_and_column(folder):
    first, _ = validate("-o", "github").stdout.splitlines()

    assert first.startswith("::error file=specs/tasks/web/typo.yaml,line=3,col=1::retry: unknown field")


def test_an_annotation_cannot_be_broken_out_of():
    problem = Problem("specs/a,b:c.yaml", 1, 2, "100%\n::error::forged")

    assert annotation(problem) == ("::error file=specs/a%2Cb%3Ac.yaml,line=1,col=2::100%25%0A::error::forged")


def test_where_there_are_no_specs_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    done = validate()

    assert done.exit_code == 64
    assert "reconciler init" in done.stderr


def test_a_path_that_is_not_there_is_a_usage_error(folder):
    assert validate("nowhere").exit_code == 64


def test_the_specs_may_hold_text_that_a_terminal_would_obey(folder):
    (folder / "specs/tasks/good.yaml").write_text('goal: x\n"\\e[31mred": 1\n')

    assert "\x1b" not in validate().stdout


def test_schemas_are_printed_for_editors():
    one = CliRunner().invoke(cli, ["schema", "task"])
    every = CliRunner().invoke(cli, ["schema"])

    assert json.loads(one.stdout)["properties"]["goal"]["description"]
    assert json.loads(every.stdout)["task"] == json.loads(one.stdout)
    assert CliRunner().invoke(cli, ["schema", "tsak"]).exit_code == 64


def test_warnings_are_shown_and_are_no_mistakes(folder):
    for name in ("typo", "wish"):
        (folder / f"specs/tasks/web/{name}.yaml").unlink()
    (folder / "specs/tasks/good.yaml").write_text("goal: x\nscript: 'true'\nrequires: gpu\n")

    done = validate()

    assert done.exit_code == 0
    assert done.stdout.startswith(
        "specs/tasks/good.yaml:3:11: warning: requires: no host has the label 'gpu'"
    )
    assert done.stderr == "1 file, no mistakes; 1 warning\n"
    assert validate("-o", "github").stdout.startswith("::warning file=specs/tasks/good.yaml,line=3,col=11::")


def test_a_repository_that_is_not_on_this_machine_is_warned_of(folder):
    (folder / "specs" / "repos").mkdir()
    for made in (["init", "-q", "work"], ["init", "-q", "--bare", "bare.git"]):
        subprocess.run(["git", *made], cwd=folder.parent, check=True)
    (folder.parent / "empty").mkdir()
    urls = {name: f"../{name}" for name in ("gone", "empty", "work", "bare", "bare.git")}
    for name, url in {**urls, "away": "git@example.org:a/b.git"}.items():
        (folder / "specs" / "repos" / f"{name}.yaml").write_text(f"url: {url}\n")

    done = validate("specs/repos")

    assert done.stdout.splitlines() == [
        f"specs/repos/{name}.yaml:1:6: warning: url: there is no repository at {folder.parent / name} "
        "on this machine"
        for name in ("empty", "gone")
    ]
    assert done.exit_code == 0


def test_a_repository_that_no_folder_could_be_ends_nothing(folder):
    (folder / "specs" / "repos").mkdir()
    for name, url in {"long": "x" * 5000, "deep": "d/" * 5000, "file": "fleet.yaml/x"}.items():
        (folder / "specs" / "repos" / f"{name}.yaml").write_text(f"url: ./{url}\n")

    done = validate("specs/repos")

    assert done.exit_code == 0
    assert done.stdout.count("warning: url: there is no repository at") == 3
    assert max(map(len, done.stdout.splitlines())) < 400


@pytest.mark.parametrize("place", ["file://{}", "{}"])
def test_of_a_repository_without_a_work_tree_the_branch_is_validated(fleet, tmp_path, place):
    fleet.write("specs/tasks/bad.yaml", "goal: x\nretry: 3\n")
    fleet.commit("Misspell")
    bare = tmp_path / "bare.git"
    fleet.git("clone", "--quiet", "--bare", str(fleet.folder), str(bare))

    done = CliRunner().invoke(
        cli,
        ["--repo", place.format(bare), "--data-dir", str(tmp_path / "d"), "validate"],
        catch_exceptions=False,
    )

    assert done.exit_code == 1
    assert done.stdout.startswith("specs/tasks/bad.yaml:2:1: error: retry")


def test_a_url_that_does_not_answer_is_told_as_that(tmp_path):
    done = CliRunner().invoke(
        cli, ["--repo", f"file://{tmp_path}/none.git", "--data-dir", str(tmp_path), "validate"]
    )

    assert done.exit_code == 4
    assert "none.git" in done.stderr


def test_a_command_that_no_shell_can_read_is_warned_of(folder):
    for name in ("typo", "wish"):
        (folder / f"specs/tasks/web/{name}.yaml").unlink()
    (folder / "specs/tasks/good.yaml").write_text(
        "goal: x\nscript: |\n  if true; then\n    echo\nvalidation:\n"
        "  - npm test &&\n  - echo 'x\n  - cat <(echo) && [[ a == a* ]] # it's bash\n"
    )
    (folder / "specs/repos").mkdir()
    (folder / "specs/repos/shop.yaml").write_text("url: https://example.org/shop\nvalidation: ['(make']\n")
    (folder / "specs/campaigns").mkdir()
    (folder / "specs/campaigns/many.yaml").write_text(
        "matrix: {part: [a, b]}\ntask: {goal: x, adapter: script, script: 'if {{part}}; then',\n"
        "  validation: 'grep -q {{part}} x'}\n"
        "tasks:\n  b:\n    validation: ['(']\n"
    )

    done = validate()

    assert done.exit_code == 0
    places = [line.partition(": no shell can read it (line ")[0] for line in done.stdout.splitlines()]
    assert places == [
        "specs/campaigns/many.yaml:2:42: warning: task.script",
        "specs/campaigns/many.yaml:6:18: warning: tasks.b.validation.0",
        "specs/repos/shop.yaml:2:14: warning: validation.0",
        "specs/tasks/good.yaml:2:9: warning: script",
        "specs/tasks/good.yaml:6:5: warning: validation.0",
        "specs/tasks/good.yaml:7:5: warning: validation.1",
    ]


def test_among_many_commands_none_is_closed_by_the_next(folder):
    for path in folder.glob("specs/tasks/**/*.yaml"):
        path.unlink()
    halves = [
        "echo 'a",
        "b'",
        'echo "a',
        'b"',
        "if x; then y",
        "y; fi",
        "(x",
        "x)",
        "{ x",
        "x; }",
        "x &&",
        "$((1",
    ]
    fine = [f"test -f '{at}' && echo \"it's\" # {{" for at in range(200)]
    commands = [command for pair in zip(halves, fine, strict=False) for command in pair]
    commands += [*fine, *reversed(halves), *halves]
    (folder / "specs/tasks/many.yaml").write_text(json.dumps({"goal": "x", "validation": commands}))

    done = validate()

    found = [int(at) for at in re.findall(r"validation\.(\d+): no shell can read it", done.stdout)]
    assert found == [at for at, command in enumerate(commands) if command in halves]
