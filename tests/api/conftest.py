"""
A real server on a free port of the loopback, in front of a fleet in memory.
"""

import subprocess

import httpx2
import pytest

from reconciler.api.app import make_app
from reconciler.api.exposure import exposure_of
from reconciler.api.limits import RateLimits
from reconciler.api.listen import read_listen
from reconciler.api.server import serve_app
from tests.api.world import TOKENS, FakeWorld


@pytest.fixture
async def world():
    world = FakeWorld()
    yield world
    await world.close()


@pytest.fixture
def limits():
    return RateLimits()


@pytest.fixture
def exposure():
    """What the pages are told of the server's address: that of one which this machine alone reaches."""
    return exposure_of(read_listen("127.0.0.1:0"), "", b"key")


@pytest.fixture
def app(world, limits, exposure, tmp_path):
    return make_app(
        world.controller,
        world.leases,
        world.services,
        clock=world.clock,
        last_use=tmp_path / "last_use",
        exposure=exposure,
        limits=limits,
    )


@pytest.fixture
async def address(app):
    async with serve_app(app, read_listen("127.0.0.1:0")) as address:
        yield address


@pytest.fixture
async def clients(address):
    """Clients by the name of the agent whose token they have; `nobody` has none."""
    made = {}
    for name in (*TOKENS, "nobody"):
        headers = {"Authorization": f"Bearer {TOKENS[name]}"} if name in TOKENS else {}
        made[name] = httpx2.AsyncClient(
            base_url=address, headers=headers, trust_env=False, timeout=httpx2.Timeout(60)
        )
    yield made
    for client in made.values():
        await client.aclose()


@pytest.fixture
def jeeves(clients):
    return clients["jeeves"]


@pytest.fixture
def watcher(clients):
    return clients["watcher"]


@pytest.fixture
def nobody(clients):
    return clients["nobody"]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate for the loopback that nobody else trusts, and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def other_certificate(tmp_path_factory):
    """Another one."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


def make_certificate(folder):
    cert, key = folder / "cert.pem", folder / "key.pem"
    line = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command = ["openssl", *line.split(), *names, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key
