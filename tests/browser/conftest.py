"""
A fleet at work, its pages, and one Chromium for all tests of this folder.

Both last for the module and not for the session: while Playwright is on, no other loop can run in
this thread.
"""

import hashlib
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Playground
from tests.forking import Process

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = shutil.which("chromium")
TOKEN = "rct_boss.a-token-for-this-test"
HOSTILE = (
    "<script>window.hurt=1</script>",
    "</script><img src=x onerror=window.hurt=1>",
    'javascript:window.hurt=1 http://example.invalid/"onclick=window.hurt=1',
    "\\033[31mred\\033[0m \\033]0;title\\007after \\033[2Jcleared",
    "\\342\\200\\256turned",
)
"""What an agent prints to hurt who looks at it, as printf takes it."""
GATED = """\
goal: "Wait for it. </script><script>window.hurt=1</script> [x](javascript:window.hurt=1)"
adapter: script
script: |
  echo it began
  for each in $(seq 1200); do [ -e {gate} ] && break; sleep 0.1; done
  echo the gate is open
  for each in $(seq 1200); do [ -e {gate}.end ] && break; sleep 0.1; done
"""
COUNTS = """\
goal: Count, and go on when the gate is open.
adapter: script
script: |
  for each in 1 2 3; do echo "count $each"; done
  for each in $(seq 1200); do [ -e {gate} ] && break; sleep 0.1; done
  for each in 4 5; do echo "count $each"; done; printf 'count 6'
"""
GATES = ("row", "log", "typed", "opened")
"""Tasks that wait for their gates, below `web/`."""


@dataclass
class Fleet:
    """A served fleet."""

    playground: Playground
    url: str = "http://127.0.0.1:0"
    process: "subprocess.Popen[str] | None" = None

    def start(self) -> None:
        """Serve it, at the address that it had before."""
        listen = self.url.removeprefix("http://")
        with (self.playground.root / "talk").open("ab") as talk:
            self.process = Process(
                self.playground.command("serve", "--listen", listen),
                cwd=self.playground.fleet,
                env=self.playground.env,
                stdout=subprocess.PIPE,
                stderr=talk,
                text=True,
            )
        said = ""
        for line in iter(self.process.stdout.readline, ""):
            said += line
            if found := re.match(r"listening on (\S+)$", line):
                self.url = found[1]
                break
        else:
            pytest.fail(f"it does not serve: {said}{self.playground.talk}")
        while not self._has_read():
            time.sleep(0.05)

    def _has_read(self) -> bool:
        """Return whether specs and record were read: until then pages say that they are not there yet."""
        try:
            with urllib.request.urlopen(self.url) as answer:
                return answer.status == HTTPStatus.OK
        except urllib.error.HTTPError:
            return False

    def stop(self) -> None:
        """End the server; what it had begun goes on."""
        self.process.terminate()
        self.process.communicate()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Have no server as long as the block lasts."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def gate(self, name: str) -> Path:
        """Return the file for which a task waits; it ends when `.end` is there too."""
        return self.playground.root / name

    def subject(self) -> str:
        """Return author and subject of the newest commit of the specs."""
        return self.playground.sh("git log -1 --format='%an: %s' main").strip()


@dataclass
class Visits:
    """Pages in one browser, and what went wrong on any of them: the policy, a script, a request elsewhere."""

    browser: Any
    fleet: Fleet
    faults: list[str] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)

    def __call__(self, path: str, *, is_boss: bool = False, **options: Any) -> Any:
        """Open a page; `options` are those of a context of the browser."""
        context = self.browser.new_context(base_url=self.fleet.url, **options)
        self.contexts.append(context)
        context.set_default_timeout(30_000)
        page = context.new_page()
        page.on("console", lambda message: self.faults.append(f"{page.url}: {message.text}"))
        page.on("pageerror", lambda error: self.faults.append(f"{page.url}: {error}"))
        page.on("request", self._look_at)
        if is_boss:
            page.goto("/login")
            page.get_by_label("Token").fill(TOKEN)
            page.locator("main").get_by_role("button", name="Log in").click()
            page.wait_for_url(self.fleet.url + "/")
        page.goto(path)
        return page

    def forgive(self, *words: str) -> None:
        """Take back what was written on the console of a fault that a test makes itself."""
        self.faults = [fault for fault in self.faults if not any(word in fault for word in words)]

    def _look_at(self, request: Any) -> None:
        if not request.url.startswith((self.fleet.url + "/", "data:")):
            self.faults.append(f"a request to {request.url}")

    def end(self) -> None:
        for context in self.contexts:
            context.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def fleet(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    playground = _make(tmp_path_factory.mktemp("pages"))
    fleet = Fleet(playground)
    fleet.start()
    try:
        yield fleet
    finally:
        for name in GATES:
            for end in ("", ".end"):
                fleet.gate(f"{name}{end}").touch()
        fleet.stop()


def _make(root: Path) -> Playground:
    playground = Playground(root)
    playground.code.mkdir()
    playground.fleet.mkdir()
    (playground.code / "hello.py").write_text("print('hello')\n")
    playground.sh("git init -qb main && git add -A && git commit -qm 'Say hello'", cwd=playground.code)
    playground.sh("git init -qb main")
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    playground.write("specs/agents/boss.yaml", f"scopes: [admin]\ntoken_hash: {digest}\n")
    playground.write("specs/repos/code.yaml", "url: ../code\n")
    playground.write("specs/fleet.yaml", "backoff: 1s\n")
    playground.write("specs/hosts/local.yaml", "slots: 12\n")
    for name in GATES:
        playground.task(f"web/{name}", GATED.format(gate=root / name))
    playground.task("web/counts", COUNTS.format(gate=root / "counts"))
    playground.task("ops/waits", "goal: Wait.\nadapter: script\nscript: 'true'\nschedule: '0 0 1 1 *'\n")
    printed = "\n".join(f"  printf '{line}\\n'" for line in HOSTILE)
    fix = (
        f"goal: Mend it.\nadapter: script\nrepo: code\nscript: |\n{printed}\n  echo 'print(1)' >> hello.py\n"
    )
    playground.task("web/hostile", fix)
    playground.task("web/bad", "goal: Fail.\nadapter: script\nscript: exit 3\nretries: 0\n")
    playground.task("web/wrong", "gaol: A mistake.\n")
    for name in ("later", "dull", "plain"):
        playground.task(f"ops/{name}", "goal: Wait.\nadapter: script\nscript: 'true'\ndesired: suspended\n")
    playground.task("ops/gpu", "goal: Train.\nadapter: script\nscript: 'true'\nrequires: [gpu]\n")
    playground.commit()
    return playground


@pytest.fixture
def visit(browser: Any, fleet: Fleet) -> Iterator[Callable[..., Any]]:
    visits = Visits(browser, fleet)
    yield visits
    visits.end()
    assert visits.faults == []
