import os
import threading
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from reconciler import clock
from reconciler.core.adapter import Secret
from reconciler.core.model.specs import Forge
from reconciler.forge.forgejo import ForgeRegistry
from tests.fakes import FakeForges
from tests.forge.double import ForgejoDouble
from tests.forge.github import GitHubDouble
from tests.forge.gitlab import GitLabDouble
from tests.forge.hands import ApiHand, FakeHand, GitHubHand, GitLabHand

REPO = "acme/widgets"
NESTED = "acme/tools/widgets"
"""A repository in a group within a group."""
TOKEN = Secret(env="FORGE_TOKEN")


@pytest.fixture
def double(tmp_path):
    with ForgejoDouble(tmp_path / "forge") as forge:
        forge.add_repo(REPO)
        yield forge


@pytest.fixture
def receiver():
    """Return the address of a server, and what it is sent: headers, their names in lower case, and body."""
    kept: list[tuple[dict[str, str], bytes]] = []

    class Keep(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.append(({name.lower(): value for name, value in self.headers.items()}, body))
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


@pytest.fixture
def spec(double):
    return double.spec(REPO, TOKEN)


@pytest.fixture
async def connect():
    """Return a function that makes Forges with a token; closed at the end."""
    made = []

    def connected(token: str, now=clock.now) -> ForgeRegistry:
        async def secret(_: Secret) -> str:
            return token

        async def pause(_: float) -> None:
            """Lose no time."""

        made.append(ForgeRegistry(secret, now, pause))
        return made[-1]

    yield connected
    for forges in made:
        await forges.close()


@pytest.fixture
async def forges(double, connect):
    return connect(double.token)


@pytest.fixture
def github(tmp_path):
    """Return a GitHub; all that it is asked and answers is held to GitHub's description, if that is here."""
    with GitHubDouble(tmp_path / "github") as forge:
        forge.add_repo(REPO)
        yield forge
    assert forge.mismatches == []


@pytest.fixture
def gitlab(tmp_path):
    """Return a GitLab; all that it is asked and answers is held to what GitLab's description says."""
    with GitLabDouble(tmp_path / "gitlab") as forge:
        forge.add_repo(NESTED)
        yield forge
    assert forge.mismatches == []


@pytest.fixture(params=["fake", "double", "github", "gitlab", "real"])
def hand(request, connect):
    """Return what acts at a forge, and the forges that see it: in memory, the doubles, a real Forgejo."""
    if request.param == "fake":
        yield FakeHand(FakeForges(), Forge(api="http://127.0.0.1", repo=REPO, token=TOKEN))
        return
    if request.param == "github":
        github = request.getfixturevalue("github")
        hand = GitHubHand(connect(github.token), github, REPO, TOKEN)
        yield hand
        hand.close_connection()
        return
    if request.param == "gitlab":
        gitlab = request.getfixturevalue("gitlab")
        hand = GitLabHand(connect(gitlab.token), gitlab, NESTED, TOKEN)
        yield hand
        hand.close_connection()
        return
    if request.param == "double":
        double = request.getfixturevalue("double")
        at, token = double.spec(REPO, TOKEN), double.token
    else:
        at, token = _real()
    hand = ApiHand(connect(token), at, token)
    hand.restarted = lambda: connect(token)
    yield hand
    hand.close_connection()


def _real() -> tuple[Forge, str]:
    """Make a repository of its own on a real Forgejo."""
    import httpx2

    root, token = os.environ.get("FORGEJO_URL"), os.environ.get("FORGEJO_TOKEN")
    if not root or not token:
        pytest.skip("set FORGEJO_URL and FORGEJO_TOKEN to hold a real Forgejo to the contract")
    api = f"{root.rstrip('/')}/api/v1"
    body = {"name": f"contract-{uuid.uuid1().hex}", "auto_init": True, "default_branch": "main"}
    headers = {"Authorization": f"token {token}"}
    reply = httpx2.post(f"{api}/user/repos", json=body, headers=headers, trust_env=False, timeout=60)
    return Forge(api=api, repo=reply.raise_for_status().json()["full_name"], token=TOKEN), token
