"""Egress lists: what a run reaches through its proxy, and that nothing else leads out of its sandbox."""

import asyncio
import contextlib
import io
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reconciler.core.adapter import Sandbox
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Host
from reconciler.dispatch.egress_proxy import (
    DENIED,
    MOST_DENIED,
    DeniedError,
    Rules,
    origin_head,
    parsed_target,
)
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.probe import needed_sandboxes, probe
from reconciler.dispatch.sandbox import denied_egress
from tests.dispatch.bubblewrap import needs_bwrap, without
from tests.dispatch.world import World, ended, git, until

ATTEMPTS = """\
import os, socket, sys, urllib.request
listed, other = map(int, sys.argv[1:])
proxy = int(os.environ["http_proxy"].rpartition(":")[2])

def by_proxy(host, port):
    with socket.create_connection(("127.0.0.1", proxy)) as link:
        link.sendall(f"CONNECT {host}:{port} HTTP/1.1\\r\\n\\r\\n".encode())
        if b" 200 " not in link.recv(4096):
            raise OSError
        link.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        assert b"served" in link.makefile("rb").read()

def get(url):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": os.environ["http_proxy"]}))
    assert opener.open(url).read() == b"served"

attempts = {
    "forwarded": lambda: urllib.request.urlopen(f"http://127.0.0.1:{listed}").read(),
    "connected": lambda: by_proxy("localhost", listed),
    "requested": lambda: get(f"http://localhost:{listed}/path"),
    "unlisted port": lambda: by_proxy("localhost", other),
    "unlisted address": lambda: by_proxy("127.0.0.2", listed),
    "unlisted name": lambda: by_proxy("example.org", 443),
    "metadata": lambda: get("http://169.254.169.254/"),
    "loopback of the host": lambda: socket.create_connection(("127.0.0.1", other)),
    "loopback by IPv6": lambda: socket.create_connection(("::1", other)),
    "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "address": lambda: socket.create_connection(("192.0.2.1", 443), timeout=60),
    "IPv6": lambda: socket.create_connection(("2001:db8::1", 443), timeout=60),
    "UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"?", ("192.0.2.1", 53)),
    "DNS": lambda: socket.getaddrinfo("example.org", 443),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except OSError:
        continue
    print(name)
"""


class Served(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"served")

    def log_message(self, *_):
        pass


@pytest.fixture
def served():
    """Yield the ports of two servers on loopback."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Served) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield [server.server_port for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


def listing(*destinations: str) -> Host:
    return Host(name="local", sandbox=Sandbox(network=destinations))


@needs_bwrap
async def test_a_run_reaches_what_is_listed_and_nothing_else_and_what_was_denied_is_on_record(
    tmp_path, served
):
    world = World(tmp_path / "a world")
    listed, other = served
    script = f"cat >attempts.py <<'END'\n{ATTEMPTS}END\n/usr/bin/python3 attempts.py {listed} {other} >got"
    validation = (f"/usr/bin/python3 attempts.py {listed} {other} | cmp - got",)

    report = await world.carry_out(
        world.order(script, host=listing(f"localhost:{listed}"), validation=validation)
    )

    assert (report.verdict.outcome, report.failed_check) == ("success", None), report
    got = git(world.code, "show", "task/web/fix:got").splitlines()
    assert got == ["forwarded", "connected", "requested"]
    denied = (f"localhost:{other}", f"127.0.0.2:{listed}", "example.org:443", "169.254.169.254:80")
    assert report.verdict.denied == denied


@needs_bwrap
async def test_the_proxy_of_a_run_ends_when_what_watches_over_the_run_is_killed(tmp_path, served):
    world = World(tmp_path / "a world")
    script = "echo >begun; while :; do sleep 0.1; done"
    dispatcher, facts = world.dispatcher(), asyncio.Queue()
    order = world.order(script, host=listing(f"localhost:{served[0]}"))

    dispatcher.follow(order, facts.put_nowait)
    await until(lambda: list(world.data.rglob("begun")))
    (claim,) = world.data.rglob("claim")
    proxies = proxies_of(world)
    os.kill(int(claim.read_text().split()[0]), signal.SIGKILL)
    await until(lambda: not proxies_of(world))
    await ended(facts)
    await dispatcher.close()

    assert len(proxies) == 1


async def test_a_host_without_python_starts_nothing_with_an_egress_list_and_says_so(tmp_path):
    world, host = World(tmp_path / "a world"), listing("api.example.org")
    bare = without("python3", tmp_path / "bin")
    world.transport = LocalTransport(world.data / "host", {"PATH": str(bare), "HOME": str(tmp_path)})
    trials = needed_sandboxes(host, {})

    report = await world.carry_out(world.order(world.note("agent"), host=host))
    facts = await probe(world.transport, host, workdir=str(tmp_path), sandboxes=trials)

    assert (report.verdict.kind, report.started, world.noted) == (FailureClass.HOST, False, [])
    assert facts.sandbox == ""
    assert facts.egress.startswith("an egress list needs a python3")


@needs_bwrap
async def test_the_probe_tries_an_egress_list_where_one_is_needed(tmp_path):
    host = listing("api.example.org")

    tried = await probe(
        LocalTransport(tmp_path), host, workdir=str(tmp_path), sandboxes=needed_sandboxes(host, {})
    )

    assert (tried.sandbox, tried.egress) == ("", "")


def proxies_of(world: World) -> list[str]:
    """Return the command lines of proxies at work for a world."""
    lines = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(each.read_text(errors="replace"))
    return [
        line
        for line in lines
        if f"{world.data}/" in line and "egress_proxy.py\0" in line and "--" not in line
    ]


RULES = Rules(
    ["api.example.org:443", "*.cdn.example.org:443", "10.1.0.0/16:443", "localhost:8080", "[fd00::/8]:443"]
)
PUBLIC, PRIVATE = "93.184.216.34", "10.2.0.1"


@pytest.mark.parametrize(
    ("name", "port", "resolved", "allowed"),
    [
        ("api.example.org", 443, [PUBLIC], [PUBLIC]),
        ("api.example.org", 443, [PRIVATE, PUBLIC], [PUBLIC]),
        ("a.b.cdn.example.org", 443, ["2606:2800:220::1"], ["2606:2800:220::1"]),
        ("api.example.org", 443, ["10.1.2.3"], ["10.1.2.3"]),
        ("10.1.2.3", 443, ["10.1.2.3"], ["10.1.2.3"]),
        ("::ffff:10.1.2.3", 443, ["::ffff:10.1.2.3"], ["10.1.2.3"]),
        ("fd12::1", 443, ["fd12::1"], ["fd12::1"]),
        ("localhost", 8080, ["127.0.0.1", "::1"], ["127.0.0.1", "::1"]),
    ],
)
def test_what_is_listed_is_reached_at_the_addresses_that_are_public_or_listed(name, port, resolved, allowed):
    assert RULES.addresses(name, port, resolved) == allowed


@pytest.mark.parametrize(
    ("name", "port", "resolved"),
    [
        ("api.example.org", 80, PUBLIC),
        ("cdn.example.org", 443, PUBLIC),
        ("evilcdn.example.org", 443, PUBLIC),
        ("example.org", 443, PUBLIC),
        (PUBLIC, 443, PUBLIC),
        ("localhost", 443, "127.0.0.1"),
        *(
            ("api.example.org", 443, address)
            for address in (
                *(
                    "127.0.0.1",
                    "0.0.0.0",
                    PRIVATE,
                    "172.16.0.1",
                    "192.168.1.1",
                    "169.254.169.254",
                    "100.64.0.1",
                ),
                *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1"),
                *("64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::", "ff02::1"),
            )
        ),
    ],
)
def test_no_name_leads_to_what_is_neither_public_nor_listed(name, port, resolved):
    with pytest.raises(DeniedError):
        RULES.addresses(name, port, [resolved])


@pytest.mark.parametrize(
    ("method", "target", "parsed"),
    [
        ("CONNECT", "API.example.org.:443", ("api.example.org", 443, "/")),
        ("CONNECT", "[::1]:443", ("::1", 443, "/")),
        ("GET", "http://a.example.org/b/c?d", ("a.example.org", 80, "/b/c?d")),
        ("GET", "http://u:p@a.example.org:8080", ("a.example.org", 8080, "/")),
        ("GET", "http://[::1]/", ("::1", 80, "/")),
    ],
)
def test_a_request_to_a_proxy_is_read(method, target, parsed):
    assert parsed_target(method, target) == parsed


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/path"),
        ("GET", "ftp://a/"),
        ("CONNECT", ":443"),
        ("CONNECT", "a:0"),
        ("CONNECT", "a:x"),
        ("CONNECT", "a\tb:1"),
    ],
)
def test_what_is_no_request_to_a_proxy_is_refused(method, target):
    with pytest.raises(ValueError, match="no destination"):
        parsed_target(method, target)


def test_a_server_gets_one_request_and_nothing_that_is_the_proxys():
    fields = ["Host: a", "Proxy-Authorization: x", "Connection: keep-alive"]

    assert (
        origin_head("GET", "/b", "HTTP/1.1", fields)
        == b"GET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )


def test_what_was_denied_is_told_once_each_and_not_without_bound():
    lines = [f"{DENIED}h{number % 50}:443 is not listed" for number in range(100)]

    told = denied_egress(io.BytesIO("\n".join(["other", *lines]).encode()))

    assert told == tuple(f"h{number}:443" for number in range(MOST_DENIED))
