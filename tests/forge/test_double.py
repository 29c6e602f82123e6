"""The double is a forge: what is pushed to it is told, and what it merges is merged in git."""

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
