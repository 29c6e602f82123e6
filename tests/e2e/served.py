"""
`reconciler serve` as a process of its own: started, killed, and started again at the same address.
"""

import asyncio
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx2

from tests.forking import Process
from tests.looks import Looks

API = "/api/v1"
PATIENCE = 120.0
"""Seconds after which what has not come will not come."""


class Served:
    """The API of a fleet, served by a process that may come and go."""

    def __init__(
        self, command: Callable[..., list[str]], fleet: Path, env: dict[str, str], talk: Path
    ) -> None:
        self._command, self._fleet, self._env, self._talk = command, fleet, env, talk
        self._process: subprocess.Popen[bytes] | None = None
        self._looks = Looks(fleet / ".git", self._git)
        self.url = ""

    async def start(self) -> None:
        """Start it, at the address it had before if it had one; wait until it serves the newest specs."""
        listen = self.url.removeprefix("http://") or "127.0.0.1:0"
        said = self._talk.stat().st_size if self._talk.exists() else 0
        with self._talk.open("ab") as talk:
            self._process = Process(
                self._command("serve", "--listen", listen),
                cwd=self._fleet,
                env=self._env,
                stdout=talk,
                stderr=subprocess.STDOUT,
            )

        def address() -> re.Match[bytes] | None:
            assert self._process.poll() is None, self.talk[said:].decode()
            return re.search(rb"^listening on (\S+)$", self.talk[said:], re.MULTILINE)

        self.url = (await eventually(address)).group(1).decode()
        await self.catches_up()

    @property
    def talk(self) -> bytes:
        """What it said so far, in all its lives."""
        return self._talk.read_bytes()

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End it as a loss of power would."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """End whatever life is left."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    async def crash(self) -> None:
        """Kill it and start it anew."""
        self.kill()
        await self.start()

    async def stop(self) -> tuple[int, float]:
        """Ask it to end; return its exit code and after how many seconds."""
        asked = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self._process.wait)
        return code, time.monotonic() - asked

    async def catches_up(self) -> None:
        """Wait until it serves the newest commit of the specs."""
        newest = self._looks("rev-parse", "main")
        async with self.client() as nobody:

            async def is_newest() -> bool:
                with suppress(httpx2.RequestError):
                    answer = await nobody.get("/readyz")
                    return answer.is_success and answer.json()["revision"] == newest
                return False

            await eventually(is_newest)

    def client(self, token: str | None = None) -> httpx2.AsyncClient:
        """Return a client that asks with a token."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx2.AsyncClient(
            base_url=self.url, headers=headers, trust_env=False, timeout=httpx2.Timeout(PATIENCE)
        )

    def subjects(self, task: str | None = None) -> list[str]:
        """Return what is on record, oldest first; of one task if it is named."""
        lines = self._looks("log", "--reverse", "--format=%s", "fleet-state").splitlines()
        head = f"task {task}: "
        return lines if task is None else [line.removeprefix(head) for line in lines if line.startswith(head)]

    def _git(self, *args: str) -> str:
        return subprocess.run(
            ["git", *args], cwd=self._fleet, env=self._env, capture_output=True, text=True, check=True
        ).stdout.strip()


async def eventually(look):
    """Look again and again until there is something to see; return it."""
    async with asyncio.timeout(PATIENCE):
        while not (seen := await look() if asyncio.iscoroutinefunction(look) else look()):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.02)
    return seen
