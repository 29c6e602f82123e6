"""
A fleet whose code, specs and record are on a forge: the double, a real `reconciler serve`, and an agent
that does as it is told.
"""

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ruamel.yaml import YAML

from reconciler.forge.dialects import DIALECTS
from tests.e2e.conftest import IDENTITY
from tests.forge.double import BOT, ForgejoDouble
from tests.forge.state import Hook, PullTicket
from tests.forking import Process, run
from tests.looks import Looks

T = TypeVar("T")

CODE, FLEET = "acme/code", "acme/fleet"
PATIENCE = 120.0
"""Seconds after which something that should happen is missed."""
SECRET = "s3cret-of-the-hooks"
APPRENTICE = Path(__file__).with_name("apprentice.py")


@dataclass
class World:
    """See the top of the file."""

    root: Path
    forge: ForgejoDouble
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    extra: dict[str, str] = field(default_factory=dict)
    """More environment of it."""
    credential: str = "token: {env: FORGE_TOKEN}"
    """How it is let in at the forge."""
    bot: str = BOT
    """Account that it has there."""

    _kills: list[float] = field(default_factory=list)
    """When it is killed, and started again."""
    _looks: dict[str, Looks] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.forge.add_user("ann")
        self.forge.add_repo(CODE, {"hello.txt": "hello\n"})
        self.forge.add_repo(FLEET, {"README.md": "A fleet.\n"})
        (self.root / "secret").write_text(SECRET)
        self.settings()

    # --- Its specs ---------------------------------------------------------

    def settings(self, *, code: str = "", **files: str) -> None:
        """Push the specs: those of the repo with more lines, and more files (`tasks__greet`)."""
        secrets = f"{self.credential}, webhook_secret: {{file: {self.root / 'secret'}}}"
        secrets = f"kind: {self.forge.kind}, {secrets}"
        self.push(
            {
                "specs/fleet.yaml": (
                    "backoff: 1s\nforge_interval: 1s\npoll_interval: 1s\nadapter: apprentice\n"
                    "issues: {label: agent, authors: [ann]}\n"
                    f"forge: {{api: '{self.forge.api}', repo: {FLEET}, {secrets}}}\n"
                ),
                "specs/repos/code.yaml": (
                    f"url: {self.folder(CODE)}\nreview: pull_request\n"
                    f"forge: {{api: '{self.forge.api}', repo: {CODE}, {secrets}}}\n{code}"
                ),
                "specs/adapters/apprentice.yaml": (
                    f"command: [{sys.executable}, {APPRENTICE}, {self.root / 'diary'}, '{{session}}']\n"
                    "fresh: ['{session_id}']\nresume: [--resume, '{session_id}']\n"
                    "output: {format: json, session_id: '[0].session', text: '[0].words',"
                    " terminal: '[0].words != null', success: '[0].words != null'}\n"
                ),
                **{f"specs/{name.replace('__', '/')}.yaml": text for name, text in files.items()},
            }
        )

    def push(self, files: Mapping[str, str]) -> str:
        """Push to the fleet's repository as a person does."""
        return self.forge.push_as_person(FLEET, "main", files, message="Change the specs")

    def folder(self, repo: str) -> Path:
        return self.forge.repos[repo].folder

    # --- The reconciler ----------------------------------------------------

    @property
    def env(self) -> dict[str, str]:
        data = str(self.root / "data")
        own = {"RECONCILER_DATA_DIR": data, "RECONCILER_REPO": str(self.folder(FLEET)), "NO_COLOR": "1"}
        return {**os.environ, **IDENTITY, **own, "FORGE_TOKEN": self.forge.token, **self.extra}

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Have a reconciler serve the fleet as long as the block lasts; its webhooks are set up."""
        try:
            self.start()
            for repo in (CODE, FLEET):
                events = list(DIALECTS[self.forge.kind].hook_events)
                self.forge.repos[repo].hooks = {1: Hook(1, self.hook_url, SECRET, True, events)}
            yield
        finally:
            self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def hook_url(self) -> str:
        return f"{self.url}/hooks/forgejo"

    def start(self) -> None:
        """Start a reconciler and wait until it listens."""
        self._launch()
        self.eventually(lambda: "listening on" in self.told)
        self.port = int(re.findall(r"listening on http://127\.0\.0\.1:(\d+)", self.told)[-1])

    def _launch(self) -> None:
        """Start a reconciler, at the address that it had before."""
        with (self.root / "told").open("ab") as told, (self.root / "talk").open("ab") as talk:
            args = ("serve", "-v", "--listen", f"127.0.0.1:{self.port}")
            command = [sys.executable, "-m", "reconciler", *args]
            self.process = Process(command, env=self.env, stdout=told, stderr=talk)

    def kill(self) -> None:
        """End the reconciler by SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def kill_at(self, seconds: Iterable[float]) -> None:
        """Kill it at these times from now, and start it anew at once; it may be killed while it starts."""
        self._kills = [time.monotonic() + second for second in seconds]

    def _kill_in_time(self) -> None:
        if self._kills and self._kills[0] <= time.monotonic():
            self._kills.pop(0)
            self.kill()
            self._launch()

    @property
    def told(self) -> str:
        """What those reconcilers said on stdout."""
        path = self.root / "told"
        return path.read_text() if path.exists() else ""

    @property
    def talk(self) -> str:
        """What they said on stderr."""
        return (self.root / "talk").read_text()

    def reconciler(self, *args: str) -> str:
        """Run a command; return what it says on stdout, and then on stderr."""
        command = [sys.executable, "-m", "reconciler", *args]
        done = run(command, env=self.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def deliver(self, body: bytes | Iterable[bytes], headers: Mapping[str, str]) -> int:
        """Send a webhook, in pieces if it is not bytes; return the status of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent
                known = {"Content-Type": "application/json", **headers}
                connection.request("POST", "/hooks/forgejo", body, known)
            return connection.getresponse().status
        finally:
            connection.close()

    def memory(self) -> int:
        """Return how many bytes of memory it had at the most."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    # --- What happened -----------------------------------------------------

    def eventually(self, look: Callable[[], T]) -> T:
        """Look until there is something to see, and return it."""
        until = time.monotonic() + PATIENCE
        while not (seen := look()):
            self._kill_in_time()
            is_up = self.process is None or self.process.poll() is None
            assert is_up, f"it ended; {self}"
            assert time.monotonic() < until, f"missed; {self}"
            time.sleep(0.05)
        return seen

    def __str__(self) -> str:
        """Tell everything that helps to see what went wrong."""
        log = self.git(FLEET, "log", "--reverse", "--format=%s%n    %b", "fleet-state")
        return f"the record:\n{log}\nit said:\n{self.talk[-6000:]}"

    def git(self, repo: str, *args: str) -> str:
        """Return what git says of the branches of a repository."""
        if repo not in self._looks:
            git = partial(self.forge.repos[repo].git, ok=(0, 128))
            self._looks[repo] = Looks(self.folder(repo), git)
        return self._looks[repo](*args)

    def status(self, task: str) -> Mapping[str, Any]:
        """Return what is on record of a task; nothing if it is not there."""
        text = self.git(FLEET, "show", f"fleet-state:fleet-state/tasks/{task}.yaml")
        return YAML(typ="safe").load(text) or {}

    def phase(self, task: str) -> str | None:
        return self.status(task).get("phase")

    def story(self, task: str) -> Sequence[str]:
        """Return the steps of a task, oldest first, as the record's log tells them."""
        lines = self.git(FLEET, "log", "--reverse", "--format=%s", "fleet-state").splitlines()
        return [line.removeprefix(f"task {task}: ") for line in lines if line.startswith(f"task {task}: ")]

    def commits(self) -> int:
        """Return how many commits the record has."""
        return int(self.git(FLEET, "rev-list", "--count", "fleet-state"))

    def is_swept(self) -> bool:
        """Tell whether no workspace is left."""
        return not list(self.root.glob("data/hosts/local/*/work/*"))

    def reaches(self, task: str, phase: str, times: int = 1) -> None:
        """Wait until a task came to a phase so many times."""
        self.eventually(lambda: sum(step.endswith(f"→ {phase}") for step in self.story(task)) >= times)
        self.forge.notice()

    def diary(self) -> Sequence[Mapping[str, Any]]:
        """Return what the agent noted, call by call."""
        path = self.root / "diary"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    # --- The forge ---------------------------------------------------------

    def open_issue(self, title: str, body: str, **more: Any) -> int:
        return self.forge.open_issue(CODE, title, body, labels=("agent",), **more)

    def pull_of(self, task: str, *, times: int = 1) -> PullTicket:
        """Wait until a task came to review so many times, and its pull request is on record; return that."""
        self.reaches(task, "review_pending", times)
        number = self.eventually(lambda: (self.status(task).get("pull_request") or {}).get("number"))
        return self.forge.repos[CODE].pull(number)

    def said(self, number: int, repo: str = CODE) -> Sequence[str]:
        """Return the comments of the bot."""
        comments = self.forge.repos[repo].tickets[number].comments
        return [comment.body for comment in comments if comment.author == self.bot]

    def labels(self, number: int) -> set[str]:
        return {label.name for label in self.forge.repos[CODE].tickets[number].labels}

    def commit_status(self, commit: str, context: str = "reconciler/task", repo: str = CODE) -> str | None:
        """Return the state of a commit status."""
        found = [one for one in self.forge.repos[repo].statuses if one["sha"] == commit]
        return next((one["status"] for one in reversed(found) if one["context"] == context), None)

    def has(self, path: str, commit: str = "main") -> str:
        """Return what a file of the code repository has."""
        return self.git(CODE, "show", f"{commit}:{path}")
