"""
`reconciler init`: the first five minutes.
"""

import json
import subprocess

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from reconciler.cli.main import cli


def init(*args):
    return CliRunner().invoke(cli, ["init", *map(str, args)], prog_name="reconciler", catch_exceptions=False)


def git(folder, *args):
    return subprocess.run(["git", *args], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_a_new_fleet_is_a_repository_with_one_commit_and_nothing_left_over(tmp_path):
    folder = tmp_path / "fleet"

    done = init(folder)

    assert done.exit_code == 0
    assert git(folder, "log", "--format=%an %s") == "Test Begin a fleet of coding agents\n"
    assert git(folder, "status", "--porcelain") == ""
    assert git(folder, "branch", "--show-current") == "main\n"


def test_it_says_what_to_do_next_and_prints_no_data(tmp_path):
    done = init(tmp_path / "fleet")

    assert done.stdout == ""
    assert f"cd {tmp_path / 'fleet'}" in done.stderr
    assert "reconciler run" in done.stderr


def test_the_new_fleet_is_valid_and_its_example_rests(tmp_path):
    folder = tmp_path / "fleet"
    init(folder)

    checked = CliRunner().invoke(cli, ["validate", str(folder)])

    assert checked.exit_code == 0, checked.stderr
    assert "desired: suspended" in (folder / "specs/tasks/example.yaml").read_text()


def test_every_file_names_a_schema_that_is_there(tmp_path):
    folder = tmp_path / "fleet"
    init(folder)

    for path in (folder / "specs").rglob("*.yaml"):
        first = path.read_text().splitlines()[0]
        schema = first.removeprefix("# yaml-language-server: $schema=")
        assert json.loads((path.parent / schema).read_text())["properties"]


def test_a_folder_that_has_a_fleet_is_left_as_it_is(tmp_path):
    folder = tmp_path / "fleet"
    init(folder)
    (folder / "specs/fleet.yaml").write_text("max_running: 1\n")

    done = init(folder)

    assert done.exit_code == 64
    assert "specs/fleet.yaml" in done.stderr
    assert (folder / "specs/fleet.yaml").read_text() == "max_running: 1\n"


def test_a_repository_that_is_there_keeps_its_files_its_branch_and_what_is_staged(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q", "-b", "trunk")
    (tmp_path / "README.md").write_text("mine\n")
    git(tmp_path, "add", "README.md")
    monkeypatch.chdir(tmp_path)

    done = init()

    assert done.exit_code == 0
    assert "cd " not in done.stderr
    assert git(tmp_path, "branch", "--show-current") == "trunk\n"
    assert "A  README.md" in git(tmp_path, "status", "--porcelain")


def test_without_a_name_for_the_commit_nothing_is_written(tmp_path, person):
    (person / ".gitconfig").write_text("")

    done = init(tmp_path / "fleet")

    assert done.exit_code == 64
    assert "git config --global user.name" in done.stderr
    assert not (tmp_path / "fleet").exists()


def refuse_commits(person):
    """Let a hook of the person's refuse whatever is committed."""
    (person / "hooks").mkdir()
    hook = person / "hooks/pre-commit"
    hook.write_text("#!/bin/sh\necho not on a Friday >&2; exit 1\n")
    hook.chmod(0o755)
    with (person / ".gitconfig").open("a") as settings:
        settings.write(f"[core]\n\thooksPath = {person / 'hooks'}\n")


def test_a_commit_that_is_refused_leaves_nothing_of_a_new_folder(tmp_path, person):
    refuse_commits(person)

    done = init(tmp_path / "new" / "fleet")

    assert done.exit_code == 1
    assert "not on a Friday" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("is_repository", [False, True])
def test_a_commit_that_is_refused_leaves_a_folder_as_it_was(tmp_path, person, is_repository):
    refuse_commits(person)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "README.md").write_text("mine\n")
    if is_repository:
        git(folder, "init", "-q")
        git(folder, "add", "README.md")

    done = init(folder)

    assert done.exit_code == 1
    assert sorted(path.name for path in folder.iterdir()) == [".git"] * is_repository + ["README.md"]
    if is_repository:
        assert git(folder, "status", "--porcelain") == "A  README.md\n"


@pytest.mark.parametrize("inside", ["specs", "new/folder", ".git/refs"])
def test_a_folder_inside_of_a_repository_is_refused(tmp_path, inside):
    init(tmp_path / "fleet")
    before = git(tmp_path / "fleet", "rev-parse", "HEAD")

    done = init(tmp_path / "fleet" / inside)

    assert done.exit_code == 64
    assert f"inside of the repository {tmp_path / 'fleet'}" in done.stderr
    assert git(tmp_path / "fleet", "status", "--porcelain") == ""
    assert git(tmp_path / "fleet", "rev-parse", "HEAD") == before
    assert not (tmp_path / "fleet/new").exists()


def test_a_repository_within_another_may_become_a_fleet(tmp_path):
    git(tmp_path, "init", "-q", "outer")
    git(tmp_path, "init", "-q", "outer/fleet")

    assert init(tmp_path / "outer/fleet").exit_code == 0


def test_a_folder_that_cannot_be_made_is_told_with_why(tmp_path):
    (tmp_path / "file").touch()

    done = init(tmp_path / "file" / "fleet")

    assert done.exit_code == 64
    assert f"{tmp_path / 'file/fleet'} cannot be made: Not a directory" in done.stderr


def test_a_folder_without_a_name_is_not_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (["init", ""], ["--data-dir", "", "init"], ["demo", "--dir", " "]):
        done = CliRunner().invoke(cli, arguments)

        assert done.exit_code == 64
        assert "the name is empty" in done.stderr
    assert not (tmp_path / "specs").exists()


def test_a_bare_repository_is_refused(tmp_path):
    git(tmp_path, "init", "-q", "--bare", ".")

    done = init(tmp_path)

    assert done.exit_code == 64
    assert "bare" in done.stderr


def test_what_git_will_not_do_is_told_in_its_words(tmp_path):
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")

    done = init(tmp_path)

    assert done.exit_code == 1
    assert done.stderr.startswith("error: git rev-parse failed")
    assert "/nowhere" in done.stderr


# --- Agents that are here, examples ------------------------------------------

VERSIONS = {"claude": "2.1.999 (Claude Code)", "codex": "codex-cli 99.0.0", "gemini": "99.0.0"}


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Put programs that tell a version on a PATH that has no other agent."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/local/bin:/usr/bin:/bin")

    def put(*names, version=None):
        for name in names:
            (folder / name).write_text(f"#!/bin/sh\necho '{version or VERSIONS[name]}'\n")
            (folder / name).chmod(0o755)

    return put


def settings(folder):
    return YAML(typ="safe", pure=True).load((folder / "specs/fleet.yaml").read_text())


@pytest.mark.parametrize(
    ("there", "args", "end"),
    [
        (["claude"], [], ("claude-code", "reconciler adapter test claude-code")),
        (["codex"], [], ("codex", "Tasks are given to codex")),
        (["gemini", "codex", "claude"], [], ("claude-code", "codex, gemini would do too")),
        (["claude", "codex"], ["--adapter", "codex"], ("codex", "claude-code would do too")),
        (["claude"], ["--adapter", "adapter/codex"], ("codex", "cannot be used here yet")),
        (["claude"], ["--adapter", "script"], ("script", "their own `script:`")),
        ([], ["--adapter", "codex"], ("codex", "cannot be used here yet")),
        ([], [], (None, "until then a task needs a `script:`")),
    ],
)
def test_the_agent_that_is_here_does_the_tasks_that_name_none(tmp_path, programs, there, args, end):
    adapter, said = end
    programs(*there)
    folder = tmp_path / "fleet"

    done = init(folder, *args)

    assert done.exit_code == 0
    assert settings(folder).get("adapter") == adapter
    assert said in done.stderr


def test_a_task_with_an_agent_that_is_here_needs_no_more_than_a_goal(tmp_path, programs):
    programs("claude")
    folder = tmp_path / "fleet"
    init(folder)
    (folder / "specs/tasks/mine.yaml").write_text("goal: Log in.\n")

    checked = CliRunner().invoke(cli, ["validate", str(folder)])

    assert (checked.exit_code, checked.stdout) == (0, "")


def test_an_agent_that_is_too_old_is_told_and_not_taken(tmp_path, programs):
    programs("claude", version="0.1.0 (Claude Code)")

    done = init(tmp_path / "fleet")

    assert "adapter" not in settings(tmp_path / "fleet")
    assert "0.1.0" in done.stderr


def test_an_adapter_that_nobody_knows_makes_nothing(tmp_path, programs):
    done = init(tmp_path / "fleet", "--adapter", "cluade-code")

    assert done.exit_code == 3
    assert "did you mean 'claude-code'?" in done.stderr
    assert not (tmp_path / "fleet").exists()


def test_its_examples_do_nothing_until_they_are_renamed_and_are_good_then(tmp_path):
    folder = tmp_path / "fleet"
    init(folder)
    examples = sorted((folder / "specs").rglob("*.example"))
    before = CliRunner().invoke(cli, ["--repo", str(folder), "get", "hosts", "-o", "name"])

    for path in examples:
        path.rename(path.with_suffix(""))
    after = CliRunner().invoke(cli, ["validate", str(folder)])

    assert {path.parent.name for path in examples} == {"hosts", "repos"}
    assert before.stdout == "local\n"
    assert (after.exit_code, after.stdout) == (0, "")
