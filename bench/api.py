"""
The HTTP API of `reconciler serve`, on a real fleet with real git.

Heartbeats and empty dequeues go with a token each, one after the other on one
connection, beside a bare Sanic handler in a process of its own. Reports are
acknowledged once they are durable in git; agents take a task, begin and finish
it, again and again, from the same cores.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.rows import Row, row
from reconciler.api.tokens import new_token

HOLDERS = 60
"""Agents between which requests go round: one token is good for 400 at once, and 100 a second."""
BARE = """
import asyncio, sys
from sanic import Sanic, json
app = Sanic("bare", configure_logging=False)
@app.post("/")
async def bare(request):
    return json({"desired": "run"})
if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), single_process=True, access_log=False, motd=False)
"""
AIMS = {"heartbeat": "≤ 1.3", "dequeue, 204": "≤ 2"}
RATES = {1: "≥ 200", 10: "≥ 800", 100: "≥ 1500"}
BEHIND = {
    "heartbeat": "Sanic takes half; token, a strict look at the head, body, lease, answer and metric take "
    "a twelfth each.",
    "dequeue, 204": "As for a heartbeat; the loop is not woken while nothing is on offer.",
}
SLOW = (
    "Each waits for a commit with six syncs, a millisecond each for a new file or name; beside them it takes "
    "us two milliseconds of CPU and git one, and the agents share the cores."
)
WHO = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Bench"), ("EMAIL", "bench@example.org"))
}


def rows(quick: bool) -> Iterator[Row]:
    times = asyncio.run(beside_a_bare_handler(60 if quick else 1500))
    bare_times = times.pop("bare handler")
    for name, taken in times.items():
        more = {"beside": "of a bare handler", "aim": AIMS[name], "behind": BEHIND[name]}
        yield row(name, "µs", taken, bare_times, scale=1e6, **more)
    for agents, each in ((1, 5), (10, 2)) if quick else ((1, 60), (10, 20), (100, 10)):
        rate, delays = asyncio.run(updates(agents, each))
        yield row(
            f"reports acknowledged, {agents} agent{'s' * (agents > 1)}",
            "/s",
            [rate],
            aim=RATES[agents],
            behind=SLOW,
        )
        yield row(
            f"time of each of these reports, {agents} agent{'s' * (agents > 1)}", "ms", delays, scale=1000
        )
    count = 20 if quick else 100
    yield row(f"request → {count} listeners have heard", "ms", asyncio.run(listeners(count)), scale=1000)


async def beside_a_bare_handler(requests: int) -> dict[str, list[float]]:
    """Return the seconds of each kind of request, taken in turn."""
    with tempfile.TemporaryDirectory() as folder, fleet(Path(folder), HOLDERS, HOLDERS) as (port, tokens):
        own = await Connection.open(port)
        holds = [await take(own, token, str(number)) for number, token in enumerate(tokens)]
        ways = [(f"/api/v1/tasks/{task}/heartbeat", {"epoch": 1}) for task in holds]
        with bare(Path(folder)) as bare_port:
            other = await Connection.open(bare_port)
            times: dict[str, list[float]] = {"bare handler": [], "heartbeat": [], "dequeue, 204": []}
            for turn in range(requests):
                at = turn % HOLDERS
                token, (way, beat) = tokens[at], ways[at]
                times["bare handler"] += [await timed(other, "/", token, beat, 200)]
                times["heartbeat"] += [await timed(own, way, token, beat, 200)]
                asked = {"request_key": f"n{turn}"}
                times["dequeue, 204"] += [await timed(own, "/api/v1/dequeue", token, asked, 204)]
    return times


async def updates(agents: int, each: int) -> tuple[float, list[float]]:
    """Return how many reports were acknowledged a second, and how many seconds each took."""
    delays: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet(Path(folder), agents, agents * each) as (port, tokens),
    ):
        began = time.perf_counter()
        await asyncio.gather(*(work(port, token, each, delays) for token in tokens))
        seconds = time.perf_counter() - began
    return len(delays) / seconds, delays


async def listeners(count: int) -> list[float]:
    """Return the seconds from a request to the moment at which the last of many listeners has heard of it."""
    with tempfile.TemporaryDirectory() as folder, fleet(Path(folder), 40, 40) as (port, tokens):
        open_ones = [await Connection.open(port) for _ in range(count)]
        for number, connection in enumerate(open_ones):
            await connection.listen(tokens[number % len(tokens)])
        delays, own = [], await Connection.open(port)
        for token in tokens:
            began = time.perf_counter()
            await take(own, token, "one")
            await asyncio.gather(*(connection.read_events() for connection in open_ones))
            delays.append(time.perf_counter() - began)
    return delays


async def work(port: int, token: str, each: int, delays: list[float]) -> None:
    """Take tasks, begin and finish them; note how long each of the three took to be acknowledged."""
    connection = await Connection.open(port)
    for number in range(each):
        began = time.perf_counter()
        task = await take(connection, token, f"{number}")
        delays.append(time.perf_counter() - began)
        for verb, body in (("start", {}), ("status", {"status": "completed"})):
            way = f"/api/v1/tasks/{task}/{verb}"
            delays.append(await timed(connection, way, token, {"epoch": 1, **body}, 200))


async def take(connection: "Connection", token: str, key: str) -> str:
    status, body = await connection.post("/api/v1/dequeue", token, {"request_key": key, "wait": 20})
    assert status == 200, (status, body)
    return str(json.loads(body)["task"])


async def timed(connection: "Connection", way: str, token: str, body: object, expected: int) -> float:
    began = time.perf_counter()
    status, answer = await connection.post(way, token, body)
    taken = time.perf_counter() - began
    assert status == expected, (status, answer)
    return taken


class Connection:
    """As little of HTTP as there can be, so that the client does not count."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def post(self, way: str, token: str, body: object) -> tuple[int, bytes]:
        content = json.dumps(body)
        self._writer.write(
            f"POST {way} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode()
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = head.partition("content-length: ")[2].partition("\r\n")[0]
        return int(head.split()[1]), await self._reader.readexactly(int(length or 0))

    async def listen(self, token: str) -> None:
        way = "GET /api/v1/events HTTP/1.1"
        self._writer.write(f"{way}\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        await self._reader.readuntil(b"retry: ")

    async def read_events(self) -> None:
        await self._reader.readuntil(b"event: transition")


@contextmanager
def fleet(folder: Path, agents: int, tasks: int) -> Iterator[tuple[int, list[str]]]:
    """Serve a fleet with so many agents and tasks; yield the port and the tokens."""
    specs = folder / "fleet" / "specs"
    for kind in ("agents", "tasks"):
        (specs / kind).mkdir(parents=True)
    tokens = []
    for number in range(agents):
        token, digest = new_token(f"agent{number}", lambda size: os.urandom(size).hex())
        (specs / "agents" / f"agent{number}.yaml").write_text(
            f"token_hash: {digest}\nscopes: [agent, read]\n"
        )
        tokens.append(token)
    for number in range(tasks):
        (specs / "tasks" / f"t{number}.yaml").write_text("goal: Be counted.\n")
    (specs / "fleet.yaml").write_text("execution_mode: http_pull\nlease: 1h\n")
    env = {**os.environ, **WHO, "RECONCILER_DATA_DIR": f"{folder}/data"}
    for args in (("init", "-qb", "main"), ("add", "-A"), ("commit", "-qm", "Begin")):
        subprocess.run(["git", *args], cwd=folder / "fleet", env=env, check=True)
    command = [sys.executable, "-m", "reconciler", "serve", "--listen", "127.0.0.1:0"]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=folder / "fleet", env=env, stdout=said)
    try:
        while sum("· → created" in line for line in (folder / "said").read_text().splitlines()) < tasks:
            time.sleep(0.05)
        address = (folder / "said").read_text().splitlines()[0]
        yield int(address.rpartition(":")[2]), tokens
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def bare(folder: Path) -> Iterator[int]:
    """Serve a bare handler; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "bare.py").write_text(BARE)
    process = subprocess.Popen([sys.executable, folder / "bare.py", str(port)])
    try:
        while not answers(port):
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
