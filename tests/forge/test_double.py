"""The double is a forge: what is pushed to it is told, and what it merges is merged in git."""

import os
import random

from tests.forge.conftest import REPO
from tests.forge.state import Hook


def subscribe(double, url) -> None:
    double.repos[REPO].hooks[1] = Hook(1, url, "s3cret", True, ["push", "pull_request", "issues", "create"])


def test_what_is_pushed_is_told_and_moves_the_pull_request(double, receiver):
    url, kept = receiver
    double.push_as_person(REPO, "task/a", {"a.txt": "1\n"})
    number = double.open_pull(REPO, "task/a", "Do a")
    subscribe(double, url)

    head = double.push_as_person(REPO, "task/a", {"a.txt": "2\n"})
    double.settle()

    assert [headers["x-forgejo-event"] for headers, _ in kept] == ["push", "pull_request"]
    assert double.repos[REPO].pull(number).head == head


def test_a_shuffled_webhook_comes_three_times_under_two_names(double, receiver):
    url, kept = receiver
    subscribe(double, url)
    double.webhooks = "shuffled"

    double.open_issue(REPO, "Mend it")
    double.settle()

    assert [headers["x-forgejo-event"] for headers, _ in kept] == ["issues"] * 3
    assert len({headers["x-forgejo-delivery"] for headers, _ in kept}) == 2


def test_a_merge_moves_the_base_branch_and_a_deleted_branch_closes_its_pull_request(double):
    for branch in ("task/a", "task/b"):
        double.push_as_person(REPO, branch, {f"{branch}.txt": "1\n"})
    first, second = (double.open_pull(REPO, branch, branch) for branch in ("task/a", "task/b"))

    merged = double.merge_pull(REPO, first)
    double.delete_branch(REPO, "task/b")

    repo = double.repos[REPO]
    assert repo.branches()["main"] == merged
    assert repo.git("show", "main:task/a.txt") == "1"
    assert (repo.pull(first).merged, repo.pull(first).state) == (True, "closed")
    assert (repo.pull(second).merged, repo.pull(second).state) == (False, "closed")


def test_branches_are_never_old_however_fast_they_are_written(double):
    repo = double.repos[REPO]
    commits = [repo.git("rev-parse", "main"), double.push_as_person(REPO, "main", {"a.txt": "1\n"})]
    chance = random.Random(1)

    for _ in range(150):
        branch, now = chance.choice(["a", "b/c", "b/d/e", "main"]), chance.random()
        if now < 0.7:
            repo.git("update-ref", f"refs/heads/{branch}", chance.choice(commits))
        elif now < 0.9 and branch != "main":
            repo.git("update-ref", "-d", f"refs/heads/{branch}")
        else:
            repo.git("pack-refs", "--all", "--prune")
        listed = repo.git("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads")
        assert dict(repo.branches()) == dict(line.split() for line in listed.splitlines())


def test_branches_that_nobody_writes_are_not_read_again(double):
    repo = double.repos[REPO]
    long_ago = 1_000_000_000
    for folder, _, _ in os.walk(repo.folder):
        os.utime(folder, (long_ago, long_ago))

    assert repo.branches() is repo.branches()
