"""
A stand-in for a reconciler: the protocol as agents see it, with answers that get lost on request.

It keeps to what `reconciler.wire` says, and decides nothing: tests say
which tasks there are and what heartbeats are answered.
"""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from reconciler.core.adapter import Usage
from reconciler.wire import Heartbeat, Lease, LogAck, Progress, Proposal, TaskBody

TOKEN = "rct_jeeves.secret"


def lease(task="hello", **changes):
    return Lease(
        **{
            "task": task,
            "title": "Say hello",
            "lease": f"{task}.gaaaaaaaa.a1",
            "epoch": 1,
            "lease_seconds": 60.0,
            "heartbeat_seconds": 20.0,
            "timeout_seconds": 60.0,
            "prompt": "Say hello.\n",
            "repo": None,
            "branch": f"task/{task}",
            "start_from": None,
            "validation": (),
            "review": "none",
            **changes,
        }
    )


def view(name="hello", **changes):
    empty = dict.fromkeys(TaskBody.model_fields)
    known = {"name": name, "title": name, "goal": "x", "execution_mode": "http_pull", "priority": 0}
    known |= {"phase": "created", "attempt": 0, "epoch": 0, "review_count": 0, "usage": Usage()}
    return TaskBody(**{**empty, **known, **changes})


@dataclass
class StandIn:
    """What it hands out and what it was told."""

    token: str = TOKEN
    """The one that is good now."""
    leases: list = field(default_factory=list)
    """Handed out one after the other."""
    held: dict = field(default_factory=dict)
    """Lease by request key: the same key gets the same answer."""
    desired: str = "run"
    """What heartbeats are answered."""
    lost: bool = False
    """Whether every lease is."""
    answers: list = field(default_factory=list)
    """(status, headers) that come before any other answer."""
    log_limit: int = 1_000_000
    """Bytes; of a longer log the rest is refused."""
    drops: int = 0
    """How many answers get lost on their way, the work done."""
    url: str = ""
    logs: dict = field(default_factory=dict)
    reports: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    proposals: list = field(default_factory=list)
    beats: asyncio.Event = field(default_factory=asyncio.Event)
    logged: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def listening(self):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    async def _serve(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *fields = head.decode().split("\r\n")
                method, target, _ = line.split()
                headers = {k.lower(): v for k, _, v in (f.partition(": ") for f in fields)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status, extra, answer = self._answer(method, target, headers, body)
                if self.drops and status < 300:
                    self.drops -= 1
                    break
                self._write(writer, status, extra, answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _write(self, writer, status, extra, answer):
        body = b"" if answer is None else json.dumps(answer).encode()
        head = {"Content-Length": str(len(body)), "Content-Type": "application/json", **extra}
        lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in head.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def _answer(self, method, target, headers, body):
        parts = urlsplit(target)
        place, query = unquote(parts.path).removeprefix("/api/v1/"), parse_qs(parts.query)
        self.requests.append((method, place))
        if self.answers:
            status, extra = self.answers.pop(0)
            return problem(status, "not now", **extra)
        if headers.get("authorization") != f"Bearer {self.token}":
            return problem(401, "this token is not known here")
        if place == "dequeue":
            return self._dequeue(json.loads(body))
        if place == "proposals":
            self.proposals.append(json.loads(body))
            name = self.proposals[-1]["name"]
            return said(Proposal(task=name, branch=f"proposals/{name}", commit="c" * 40), 201)
        name, _, verb = place.removeprefix("tasks/").rpartition("/")
        return self._read(place) if method == "GET" else self._of(name, verb, body, query)

    def _dequeue(self, asked):
        key = asked["request_key"]
        if key not in self.held:
            if not self.leases:
                return 204, {}, None
            self.held[key] = self.leases.pop(0)
        return said(self.held[key])

    def _read(self, place):
        if place == "tasks":
            return 200, {}, [json.loads(view().model_dump_json())]
        name = place.removeprefix("tasks/")
        return said(view(name)) if name == "hello" else problem(404, f"no task {name!r}")

    def _of(self, name, verb, body, query):
        if verb == "heartbeat":
            self.beats.set()
            desired = "lost" if self.lost else self.desired
            every = next((lease.heartbeat_seconds for lease in self.held.values()), 20.0)
            return said(
                Heartbeat(desired=desired, message="because", lease_seconds=60.0, heartbeat_seconds=every)
            )
        if self.lost:
            return problem(410, "the lease is lost; stop working on it, and dequeue another")
        if verb == "log":
            return self._log(name, int(query["offset"][0]), body)
        if verb == "status":
            self.reports.append((name, json.loads(body)))
        return said(Progress(task=name, phase="running", is_checking=False))

    def _log(self, name, offset, data):
        kept = self.logs.setdefault(name, b"")
        if offset + len(data) > self.log_limit:
            return problem(403, "the log is too long")
        if offset > len(kept):
            return problem(409, "there is a gap", acknowledged_offset=len(kept))
        self.logs[name] = kept[:offset] + data if offset + len(data) > len(kept) else kept
        self.logged.set()
        return said(LogAck(offset=len(self.logs[name])))


def said(model, status=200):
    return status, {}, json.loads(model.model_dump_json())


def problem(status, detail, *, acknowledged_offset=None, **headers):
    body = {"title": "no", "status": status, "detail": detail, "acknowledged_offset": acknowledged_offset}
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, body
