"""
Which fleet a command is about.
"""

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from reconciler.cli.context import Context
from reconciler.core.errors import UsageError


def git_init(folder, *options):
    subprocess.run(["git", "init", "-q", *options, str(folder)], check=True)
    return folder


def test_the_repository_is_the_one_around_the_current_folder(tmp_path, monkeypatch):
    root = git_init(tmp_path / "fleet")
    inside = root / "specs" / "tasks"
    inside.mkdir(parents=True)

    monkeypatch.chdir(inside)

    assert Context().place == str(root)


def test_a_bare_repository_is_one_too(tmp_path):
    bare = git_init(tmp_path / "fleet.git", "--bare")

    assert Context(repo=str(bare)).place == str(bare)


def test_where_there_is_none_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UsageError, match=r"--repo.*reconciler init"):
        _ = Context().place


@pytest.mark.parametrize(
    "url",
    ["https://forge.example/team/fleet.git", "ssh://git@h/fleet", "git@h.example:fleet.git", "file:///f"],
)
def test_a_url_is_taken_as_it_is(url):
    assert Context(repo=url).place == url


def test_each_place_has_a_data_folder_of_its_own_that_people_recognise(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    one, other = git_init(tmp_path / "a" / "fleet"), git_init(tmp_path / "b" / "fleet")

    folders = [Context(repo=str(one)).data_dir, Context(repo=str(other)).data_dir]

    assert folders[0] != folders[1]
    assert all(folder.parent == tmp_path / "state" / "reconciler" for folder in folders)
    assert all(folder.name.startswith("fleet-") for folder in folders)
    assert Context(repo="git@h.example:team/fleet.git").data_dir.name.startswith("fleet-")


def test_without_a_state_folder_of_the_session_it_is_below_home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)

    folder = Context(repo="https://h.example/fleet").data_dir

    assert folder.parent == Path.home() / ".local" / "state" / "reconciler"


@pytest.mark.parametrize("value", ["", "relative/to/what"])
@pytest.mark.parametrize("name", ["HOME", "XDG_STATE_HOME"])
def test_a_folder_that_is_named_by_no_absolute_path_counts_as_none(monkeypatch, tmp_path, name, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, value)
    if name == "HOME":
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)

    home = Path(pwd.getpwuid(os.getuid()).pw_dir) if name == "HOME" else tmp_path

    assert Context(repo="https://h.example/fleet").data_dir.is_relative_to(home / ".local/state/reconciler")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)

    with pytest.raises(UsageError, match="set HOME or XDG_STATE_HOME"):
        _ = Context(repo="https://h.example/fleet").data_dir


def test_a_path_that_is_no_text_is_refused_before_anything_is_done_there(tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))

    for context in (Context(repo=str(git_init(odd))), Context(repo=str(tmp_path), data=odd)):
        with pytest.raises(UsageError, match="this path is not UTF-8"):
            _ = context.data_dir


def test_the_settings_carry_what_was_given(tmp_path):
    root = git_init(tmp_path / "fleet")

    settings = Context(repo=str(root), branch="specs", data=tmp_path / "data").settings

    assert (settings.repo, settings.branch, settings.data_dir) == (str(root), "specs", tmp_path / "data")
