"""
`reconciler init`: the first five minutes.
"""

import json
import subprocess

import pytest
from click.testing import CliRunner

from reconciler.cli.main import cli


def init(*words):
    return CliRunner().invoke(cli, ["init", *map(str, words)], prog_name="reconciler", catch_exceptions=False)


def git(folder, *words):
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout


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
