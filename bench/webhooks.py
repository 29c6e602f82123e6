"""
From a webhook to the plan that follows: what a forge that sends 200 a second waits for.

A real `reconciler serve` follows pull requests on a double of Forgejo, which runs in a process of its own.
Signed bodies of event `pull_request` go over four connections, each at its time, whether the one before was
answered or not. Planned is a delivery once the delivery log says so: the forge was read, a round
of the loop has planned with what it said, and what followed is on record. Deliveries that come during
one reading share the next.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from bench.latency import WHO
from bench.rows import Row, row
from reconciler import clock
from tests.forge.double import ForgejoDouble
from tests.forge.samples import signed

REPO = "acme/code"
RATE = 200
"""Webhooks a second."""
CONNECTIONS = 4
"""As many as one address may use at once."""
PULLS = 10
"""Open pull requests, which the webhooks name in turn."""
BEHIND = "Each reads the forge anew, a few requests for each pull request that was named since the last time."
SCRIPT = "echo done > work.txt && git add -A && git commit -qm Work"


def rows(quick: bool) -> Iterator[Row]:
    answered, planned = measured(RATE if quick else 8 * RATE)  # the log keeps no more of them
    more = f"{RATE} a second"
    yield row(f"webhook → answered, {more}", "ms", answered, scale=1000)
    yield row(f"webhook → planned, {more}", "ms", planned, scale=1000)
    slowest = sorted(planned)[int(len(planned) * 0.99) - 1]
    name = f"webhook → planned, {more}, 99th percentile"
    yield row(name, "ms", [slowest], scale=1000, aim="≤ 250", behind=BEHIND)


def measured(count: int) -> tuple[list[float], list[float]]:
    """Return the seconds until each of so many webhooks was answered, and until it was planned."""
    with (
        tempfile.TemporaryDirectory() as folder,
        forge(Path(folder)) as (api, token, url),
        fleet(Path(folder), api, token, url) as port,
    ):
        due, answered = asyncio.run(send(port, count))
        done = finished(Path(folder, "data"), due)
    return [answered[each] - due[each] for each in due], [done[each] - due[each] for each in due]


# --- The forge -----------------------------------------------------------------


@contextmanager
def forge(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Run the double; yield its API, a token, and where the code is."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.webhooks", folder / "forge"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        api, token, url = process.stdout.readline().split()
        yield api, token, url
    finally:
        process.terminate()
        process.wait(30)


def serve_double(folder: Path) -> None:
    """Be the forge, until terminated."""
    with ForgejoDouble(folder) as double:
        url = double.add_repo(REPO)
        print(double.api, double.token, url, flush=True)
        signal.sigwait({signal.SIGTERM})


# --- The fleet -----------------------------------------------------------------


@contextmanager
def fleet(folder: Path, api: str, token: str, url: str) -> Iterator[int]:
    """Serve a fleet whose tasks are all in review; yield the port."""
    home = folder / "fleet"
    files = {
        "fleet.yaml": f"max_running: {PULLS}\nforge_interval: 1h\n",
        "hosts/local.yaml": f"slots: {PULLS}\n",
        "repos/code.yaml": (
            f"url: {url}\nforge:\n  api: {api}\n  repo: {REPO}\n"
            "  token: {env: BENCH_TOKEN}\n  webhook_secret: {env: BENCH_HOOK}\n"
        ),
    }
    for number in range(PULLS):
        files[f"tasks/t{number}.yaml"] = f"goal: Work.\nrepo: code\nscript: {SCRIPT}\nreview: pull_request\n"
    for name, text in files.items():
        path = home / "specs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    secrets = {"BENCH_TOKEN": token, "BENCH_HOOK": "s3cret", "RECONCILER_DATA_DIR": f"{folder}/data"}
    env = {**os.environ, **WHO, **secrets}
    for args in (("init", "-qb", "main"), ("add", "-A"), ("commit", "-qm", "Begin")):
        subprocess.run(["git", *args], cwd=home, env=env, check=True)
    said = folder / "said"
    with said.open("wb") as out:
        command = [sys.executable, "-m", "reconciler", "serve", "--listen", "127.0.0.1:0"]
        process = subprocess.Popen(command, cwd=home, env=env, stdout=out)
    try:
        while said.read_text().count("was opened") < PULLS:
            if process.poll() is not None:
                raise SystemExit(f"serve ended:\n{said.read_text()}")
            time.sleep(0.1)
        yield int(said.read_text().splitlines()[0].rpartition(":")[2])
    finally:
        process.terminate()
        process.wait(30)


# --- The webhooks --------------------------------------------------------------


async def send(port: int, count: int) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Send so many; return by delivery when each was due, and when it was answered."""
    due, answered = dict[str, float](), dict[str, float]()
    began = clock.now().timestamp() + 0.5

    async def one_connection(first: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(first, count, CONNECTIONS):
            name, at = f"d-{number}", began + number / RATE
            request = delivery(name, number)
            await asyncio.sleep(at - clock.now().timestamp())
            due[name] = at
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            assert head.split()[1] == "202", head
            length = head.partition("content-length: ")[2].partition("\r\n")[0]
            await reader.readexactly(int(length or 0))
            answered[name] = clock.now().timestamp()
        writer.close()

    await asyncio.gather(*(one_connection(first) for first in range(CONNECTIONS)))
    return due, answered


def delivery(name: str, number: int) -> bytes:
    """Return the request of a webhook, signed."""
    pull = number % PULLS + 1
    body = {
        "action": "edited",
        "number": pull,
        "pull_request": {"number": pull, "title": f"Work {number}", "body": "So it is. " * 300},
        "repository": {"full_name": REPO},
        "sender": {"login": "ann"},
    }
    raw = json.dumps(body).encode()
    headers = signed("pull_request", raw, delivery=name)
    lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    head = f"POST /hooks/forgejo HTTP/1.1\r\nHost: bench\r\n{lines}Content-Type: application/json\r\n"
    return f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


def finished(data: Path, names: Mapping[str, float]) -> Mapping[str, float]:
    """Return when each delivery was acted upon, from the delivery log. Waits until all were."""
    (log,) = data.rglob("deliveries.jsonl")
    for _ in range(600):
        entries = [json.loads(line) for line in log.read_bytes().splitlines() if line]
        done = {each["done"]: datetime.fromisoformat(each["at"]) for each in entries if "done" in each}
        if names.keys() <= done.keys():
            return {name: at.timestamp() for name, at in done.items()}
        time.sleep(0.1)
    raise SystemExit(f"{len(names.keys() - done.keys())} deliveries were not acted upon within a minute")


if __name__ == "__main__":
    serve_double(Path(sys.argv[1]))
