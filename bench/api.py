"""
Measure the HTTP API of `reconciler serve`, on a real fleet with real git.

First heartbeats and empty dequeues, with a token each, one after the other on
one connection, beside a bare Sanic handler in a process of its own: medians in
microseconds. Then how many reports are acknowledged a second, durable in git,
with 1, 10 and 100 agents that take a task, begin and finish it, again and again.
At last how long it takes until a hundred listeners have heard of a change.
"""

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from reconciler.api.tokens import new_token

ROUNDS, REQUESTS = 15, 100
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
WHO = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Bench"), ("EMAIL", "bench@example.org"))
}


async def main() -> None:
    await beside_a_bare_handler()
    for agents, each in ((1, 60), (10, 20), (100, 10)):
        await updates(agents, each)
    await listeners(100)


async def beside_a_bare_handler() -> None:
    with tempfile.TemporaryDirectory() as folder, fleet(Path(folder), HOLDERS, HOLDERS) as (port, tokens):
        own = await Connection.open(port)
        holds = [await take(own, token, str(number)) for number, token in enumerate(tokens)]
        ways = [(f"/api/v1/tasks/{task}/heartbeat", {"epoch": 1}) for task in holds]
        with bare(Path(folder)) as bare_port:
            other = await Connection.open(bare_port)
            times = {"bare handler": [], "heartbeat": [], "dequeue, 204": []}
            for turn in range(ROUNDS * REQUESTS):
                at = turn % HOLDERS
                token, (way, beat) = tokens[at], ways[at]
                times["bare handler"] += [await timed(other, "/", token, beat, 200)]
                times["heartbeat"] += [await timed(own, way, token, beat, 200)]
                asked = {"request_key": f"n{turn}"}
                times["dequeue, 204"] += [await timed(own, "/api/v1/dequeue", token, asked, 204)]
    base = statistics.median(times["bare handler"])
    print(f"one request after the other, {ROUNDS * REQUESTS} of each")
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"  {name:14} {median * 1e6:6.0f} µs  {median / base:5.2f} of the bare one")


async def updates(agents: int, each: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet(Path(folder), agents, agents * each) as (port, tokens),
    ):
        delays: list[float] = []
        before = commits(Path(folder))
        began = time.perf_counter()
        await asyncio.gather(*(work(port, token, each, delays) for token in tokens))
        seconds = time.perf_counter() - began
        made = commits(Path(folder)) - before
    median = statistics.median(delays) * 1e3
    print(
        f"{agents:4} agents, {agents * each:4} tasks: {len(delays) / seconds:6.0f} acknowledged/s, "
        f"{made / seconds:5.0f} commits/s, median {median:4.0f} ms"
    )


async def listeners(count: int) -> None:
    """Take the time from a request to the moment at which the last of many listeners has heard of it."""
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
    print(f"{count} listeners: all have heard {statistics.median(delays) * 1e3:.0f} ms after the request")


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
    return json.loads(body)["task"]


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
def fleet(folder: Path, agents: int, tasks: int):
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
def bare(folder: Path):
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


def commits(folder: Path) -> int:
    args = ["git", "rev-list", "--count", "fleet-state"]
    return int(subprocess.run(args, cwd=folder / "fleet", capture_output=True, check=True).stdout)


if __name__ == "__main__":
    asyncio.run(main())
