"""Which branches were at a commit: what landed is what was looked at, and not only contained."""

import pytest

from reconciler.git.process import Git
from reconciler.git.provenance import first_parent_refs
from tests.dispatch.world import git


@pytest.fixture
def code(tmp_path):
    """Return a repository in which `main` merged `task`."""
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "Begin")
    git(tmp_path, "checkout", "-q", "-b", "task")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "Work")
    git(tmp_path, "checkout", "-q", "main")
    git(tmp_path, "merge", "-q", "--no-ff", "-m", "Merge", "task")
    return tmp_path


async def test_a_branch_was_at_its_own_line_and_not_at_what_it_merged(code):
    repository = Git.local(code / ".git")
    begin, work, merge = (git(code, "rev-parse", name) for name in ("main^", "task", "main"))
    git(code, "commit", "-q", "--allow-empty", "-m", "More")

    assert await first_parent_refs(repository, merge) == ["main"]
    assert await first_parent_refs(repository, work) == ["task"]
    assert await first_parent_refs(repository, begin) == ["main", "task"]


async def test_no_branch_was_at_a_commit_that_was_rewritten(code):
    merge = git(code, "rev-parse", "main")
    git(code, "reset", "-q", "--hard", "main^")

    assert await first_parent_refs(Git.local(code / ".git"), merge) == []
