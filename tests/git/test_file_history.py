"""
Which commits changed a file: one walk for many files says what `git log` says of each.
"""

import asyncio
import random
import subprocess

import pytest

from reconciler.git.file_history import read_file_history
from reconciler.git.process import Git

FILES = ("specs/tasks/a.yaml", "specs/tasks/b c/ö.yaml", "specs/tasks/*.yaml")


class History:
    """A repository, with commits drawn by a seed: edits, branches, merges that keep one side or none."""

    def __init__(self, folder, seed):
        self.folder, self.draw, self.commits = folder, random.Random(seed), []
        self.git("init", "-qb", "main")
        for _ in range(20):
            self.draw.choice((self.edit, self.edit, self.edit, self.branch, self.merge))()

    def git(self, *args):
        day = f"2030-01-01T00:{len(self.commits):02}:00Z"
        env = {"GIT_COMMITTER_DATE": day, "GIT_AUTHOR_DATE": day, "PATH": "/usr/bin:/bin", "HOME": "/"}
        me = ("-c", "user.name=A\1\2B", "-c", "user.email=a@example.org")
        done = subprocess.run(
            ["git", "--literal-pathspecs", *me, "-C", self.folder, *args],
            env=env,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def commit(self):
        for file in self.draw.sample((*FILES, "other"), self.draw.randint(0, 2)):
            path = self.folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{self.draw.randint(0, 3)}\n")
        self.git("add", "-A")
        self.git("commit", "-qm", "specs/tasks/a.yaml\n\nx", "--allow-empty")
        self.commits.append(self.git("rev-parse", "HEAD"))

    edit = commit

    def branch(self):
        if self.commits:
            self.git("checkout", "-q", self.draw.choice(self.commits))
            self.commit()

    def merge(self):
        if self.commits:
            kept = self.draw.choice(("--strategy=ours", "--strategy-option=theirs"))
            self.git(
                "merge",
                "-q",
                "--no-commit",
                kept,
                "--allow-unrelated-histories",
                self.draw.choice(self.commits),
            )
            if self.draw.random() < 0.5:
                self.git("commit", "-q", "--allow-empty", "-m", "merge")
                self.commits.append(self.git("rev-parse", "HEAD"))
            else:
                self.commit()


@pytest.mark.parametrize("seed", [1, 6, 7])
def test_the_commits_that_changed_a_file_are_those_that_git_log_names(tmp_path, seed):
    history = History(tmp_path, seed)
    ours = asyncio.run(read_file_history(Git.local(tmp_path / ".git"), history.commits, "specs/tasks/"))

    for _ in range(25):
        files = history.draw.sample(FILES, history.draw.randint(1, 2))
        tip, since = history.draw.choice(history.commits), history.draw.choice(["", *history.commits])
        before = history.git("rev-list", since).split() if since else []
        listed = history.git("log", "--format=%H", tip, "--", *files).split()
        expected = [commit for commit in listed if commit not in before]

        assert [each.commit for each in ours.changes(files, [tip], since)] == expected, (files, tip, since)


def test_what_is_gone_is_passed_over_and_subjects_are_as_they_are(tmp_path):
    history = History(tmp_path, 1)
    git = Git.local(tmp_path / ".git")
    tips = ["0" * 39 + "1", history.commits[-1]]

    ours = asyncio.run(read_file_history(git, tips, "specs/tasks/"))

    assert ours.changes(FILES, tips)[-1].subject == "A\1\2B: specs/tasks/a.yaml"
    assert asyncio.run(read_file_history(git, tips[:1], "specs/tasks/")).changes(FILES, tips[:1]) == []
