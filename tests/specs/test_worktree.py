"""A work tree is read as git would see it."""

import os
import subprocess

from reconciler.specs.build import build
from reconciler.specs.worktree import read_worktree
from reconciler.specs.yaml import MAX_BYTES


def test_blob_ids_and_modes_are_those_of_git(tmp_path):
    tasks = tmp_path / "specs" / "tasks" / "web"
    tasks.mkdir(parents=True)
    (tasks / "a.yaml").write_bytes(b"goal: \xc3\xa9\r\nscript: x\n")
    (tasks / "b.yaml").write_bytes(b"#" * (MAX_BYTES + 10))
    (tasks / "b.yaml").chmod(0o755)
    (tasks / "c.yaml").symlink_to("a.yaml")
    (tmp_path / "specs" / "tasks" / "folder").symlink_to(tasks)
    git = ["git", "-C", str(tmp_path), "-c", "core.autocrlf=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    nested = ["git", "-C", str(tmp_path / "specs/tasks/nested"), "-c", "user.name=A", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", nested[2]], check=True)
    (tmp_path / "specs/tasks/nested/a.yaml").write_text("goal: x\n")
    subprocess.run([*nested, "add", "."], check=True)
    subprocess.run([*nested, "commit", "-q", "-m", "x"], check=True)
    subprocess.run([*git, "add", "specs"], check=True)
    listed = subprocess.run([*git, "ls-files", "-s", "-z"], check=True, capture_output=True, text=True).stdout

    files = read_worktree(tmp_path)

    assert {path: (file.mode, file.blob) for path, file in files.items()} == {
        path: (text.split()[0], "" if text.startswith("160000") else text.split()[1])
        for text, path in (line.split("\t") for line in listed.split("\0") if line)
    }
    assert len(files["specs/tasks/web/b.yaml"].data) == MAX_BYTES + 1


def test_what_a_push_would_bring_is_judged_before_it_is_pushed(tmp_path):
    tasks = tmp_path / "specs" / "tasks"
    tasks.mkdir(parents=True)
    (tasks / "good.yaml").write_text("goal: x\nscript: make\n")
    (tasks / "link.yaml").symlink_to("/etc/passwd")
    os.mkfifo(tasks / "pipe.yaml")
    (tasks / "sub/.git").mkdir(parents=True)
    (tasks / "sub/task.yaml").write_text("goal: x\nscript: make\n")

    desired = build(read_worktree(tmp_path))

    assert set(desired.tasks) == {"good"}
    assert set(desired.broken) == {"link", "pipe"}
    assert (
        "specs/tasks/sub:1:1: error: another repository is not looked into; put its files themselves here"
        in map(str, desired.problems)
    )


def test_a_folder_without_specs_has_none(tmp_path):
    assert read_worktree(tmp_path) == {}


def test_a_link_in_place_of_the_specs_is_not_followed(tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "specs").symlink_to("else")

    assert [file.mode for file in read_worktree(tmp_path).values()] == ["120000"]
