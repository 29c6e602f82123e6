"""The double is a forge: what is pushed to it is told, and what it merges is merged in git."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.forge.double import ForgejoDouble
from tests.forge.state import Hook

REPO = "acme/widgets"


@pytest.fixture
def forge(tmp_path):
    with ForgejoDouble(tmp_path / "forge") as double:
        double.add_repo(REPO)
        yield double


@pytest.fixture
def receiver():
    """Return the address of a server that keeps (event, delivery) of what it is sent, and that list."""
    kept: list[tuple[str, str]] = []

    class Keep(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            kept.append((self.headers["X-Forgejo-Event"], self.headers["X-Forgejo-Delivery"]))
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep the output clean."""

    server = HTTPServer(("127.0.0.1", 0), Keep)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", kept
    server.shutdown()
    thread.join()
    server.server_close()


def subscribe(forge, url) -> None:
    forge.repos[REPO].hooks[1] = Hook(1, url, "s3cret", True, ["push", "pull_request", "issues", "create"])


def test_what_is_pushed_is_told_and_moves_the_pull_request(forge, receiver):
    url, kept = receiver
    forge.push_as_person(REPO, "task/a", {"a.txt": "1\n"})
    number = forge.open_pull(REPO, "task/a", "Do a")
    subscribe(forge, url)

    head = forge.push_as_person(REPO, "task/a", {"a.txt": "2\n"})
    forge.settle()

    assert [event for event, _ in kept] == ["push", "pull_request"]
    assert forge.repos[REPO].pull(number).head == head


def test_a_shuffled_webhook_comes_three_times_under_two_names(forge, receiver):
    url, kept = receiver
    subscribe(forge, url)
    forge.webhooks = "shuffled"

    forge.open_issue(REPO, "Mend it")
    forge.settle()

    assert [event for event, _ in kept] == ["issues"] * 3
    assert len({delivery for _, delivery in kept}) == 2


def test_a_merge_moves_the_base_branch_and_a_deleted_branch_closes_its_pull_request(forge):
    for branch in ("task/a", "task/b"):
        forge.push_as_person(REPO, branch, {f"{branch}.txt": "1\n"})
    first, second = (forge.open_pull(REPO, branch, branch) for branch in ("task/a", "task/b"))

    merged = forge.merge_pull(REPO, first)
    forge.delete_branch(REPO, "task/b")

    repo = forge.repos[REPO]
    assert repo.branches()["main"] == merged
    assert repo.git("show", "main:task/a.txt") == "1"
    assert (repo.pull(first).merged, repo.pull(first).state) == (True, "closed")
    assert (repo.pull(second).merged, repo.pull(second).state) == (False, "closed")
