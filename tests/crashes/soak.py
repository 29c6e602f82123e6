"""
A fleet in use, with faults at random: hosts over SSH, a forge, outside agents, a person who reviews.

`python -m tests.crashes.soak [TASKS] [MINUTES] [SEED]` prints what was done, what came of it, and what it
took; it returns 1 if anything was lost, done twice, or is not on record as it should be.
"""

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.api.tokens import new_token
from reconciler.worker.client import ApiClient
from reconciler.worker.job import JobConfig
from reconciler.worker.worker import Worker
from tests.crashes.forge import CrashWorld
from tests.crashes.network import Network, are_allowed
from tests.crashes.table import faults_of_record, output_of
from tests.dispatch.sshd import Sshd, Yard, yard
from tests.e2e.forge_world import CODE, FLEET
from tests.e2e.lossy_proxy import Proxy
from tests.forge.double import ForgejoDouble

HOSTS = ("h1", "h2", "h3", "h4")
SLOTS = 3
AGENTS = 4
LOST_ANSWERS = 5.0
"""Percent of the answers to agents."""
EVERY = {"issue": 10, "pull": 4, "changes": 5}
"""One task of so many comes from an issue, is for outside agents, has changes asked for."""
REST = 45.0
"""Seconds between two faults of the reconciler, on average, so that it gets somewhere; elsewhere a sixth."""
PATIENCE = 600.0
"""Seconds without any task that settles, after which what has not come will not come."""


@dataclass(frozen=True, slots=True)
class Size:
    """What the reconciler takes at a moment."""

    memory: int
    """Of it resident, in KiB."""
    files: int
    """Open in it."""
    disk: int
    """Of its data folder and its repository, in KiB."""

    def __str__(self) -> str:
        return f"{self.memory // 1024} MiB, {self.files} open files, {self.disk // 1024} MiB on disk"


@dataclass
class SoakWorld(CrashWorld):
    """A fleet on a forge whose work runs on hosts over SSH and at outside agents."""

    servers: Sequence[Sshd] = ()
    networks: Sequence[Network] = ()
    """Of the servers, if they have some of their own."""
    faults: Counter[str] = field(default_factory=Counter)
    busy: threading.RLock = field(default_factory=threading.RLock)
    """Held by whoever ends or starts the reconciler."""

    def enlist(self, servers: Sequence[Sshd], agents: Mapping[str, str]) -> None:
        """Write the specs of hosts and agents (name → hash of its token)."""
        self.servers = servers
        self.settings(code="merge: when_approved\n")
        settings = self.has_spec("fleet.yaml")
        hosts = {f"specs/hosts/{server.name}.yaml": spec_of(server) for server in servers}
        pulling = {f"specs/agents/{name}.yaml": f"token_hash: {digest}\n" for name, digest in agents.items()}
        local = {"specs/hosts/local.yaml": "slots: 0\n"}
        settings = settings.replace("forge_interval: 1s", "forge_interval: 5s")
        self.push({"specs/fleet.yaml": f"{settings}\nlease: 10m\n", **hosts, **pulling, **local})

    def has_spec(self, name: str) -> str:
        return self.git(FLEET, "show", f"main:specs/{name}")

    def ask(self, first: int, last: int) -> None:
        """Ask for the tasks of these numbers, by one push and by issues."""
        files = {}
        for number in range(first, last):
            if number % EVERY["issue"] == 0:
                self.open_issue(f"Task {number}", f"Work.\n\nwrite {number}.txt: once\n")
            elif number % EVERY["pull"] == 0:
                files[f"specs/tasks/pull/t{number}.yaml"] = "goal: Work.\nexecution_mode: http_pull\n"
            else:
                goal = f"goal: |\n  Work.\n\n  write {number}.txt: once\n"
                files[f"specs/tasks/ssh/t{number}.yaml"] = f"{goal}repo: code\n"
        self.push(files)

    def review(self) -> None:
        """Approve what is open; ask for changes of some of it first."""
        self.forge.notice()
        for pull in [pull for pull in self.forge.repos[CODE].pulls if pull.state == "open"]:
            last = pull.reviews[-1] if pull.reviews else None
            if last is None and pull.number % EVERY["changes"] == 0:
                self.forge.review(CODE, pull.number, "rejected", f"More.\nwrite more/{pull.number}.txt: more")
            elif last is None or (last.state == "REQUEST_CHANGES" and last.commit != pull.head):
                self.forge.review(CODE, pull.number, "approved", "Good.")

    def phases(self) -> Counter[str]:
        """Return how many tasks are on record in which phase."""
        lines = output_of(
            self.folder(FLEET), "grep", "-h", "^phase: ", "fleet-state", "--", "fleet-state/tasks"
        )
        return Counter(line.removeprefix("phase: ") for line in lines.splitlines() if ": " in line)

    def size(self) -> Size:
        """Return what it takes now."""
        with self.busy:
            proc = Path(f"/proc/{self.process.pid}")
            status = (proc / "status").read_text()
            files = len(list((proc / "fd").iterdir()))
        memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        used = [
            subprocess.run(["du", "-sk", at], capture_output=True, text=True, check=False).stdout
            for at in (self.root / "data", self.folder(FLEET))
        ]
        return Size(memory, files, sum(int(line.split()[0]) for line in used if line))

    # --- Faults ----------------------------------------------------------------

    def restart(self, signum: int, pause: float) -> None:
        """End the reconciler and start it again after a while."""
        with self.busy:
            self.process.send_signal(signum)
            self.process.wait()
            time.sleep(pause)
            self.launch()

    def freeze(self, pause: float) -> None:
        """Stop the reconciler for a while."""
        with self.busy:
            self.process.send_signal(signal.SIGSTOP)
            time.sleep(pause)
            self.process.send_signal(signal.SIGCONT)

    def stall(self, server: Sshd, pause: float) -> None:
        """Have all connections to a host fall silent for a while, and then break."""
        stalled = server.stall_connections()
        time.sleep(pause)
        for pid in stalled:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def shut(self, server: Sshd, pause: float) -> None:
        """Have a host be away for a while."""
        server.stop()
        time.sleep(pause)
        server.start()

    def part(self, network: Network, pause: float) -> None:
        """Have nothing come through to a host for a while, and be lost without a word."""
        network.cut()
        time.sleep(pause)
        network.mend()

    def outage(self, how: str, pause: float) -> None:
        """Have the forge be away for a while."""
        self.forge.go_down(how)
        time.sleep(pause)
        self.forge.come_back()

    def deliver_badly(self, how: str, pause: float) -> None:
        """Have webhooks be lost, or come several times in any order."""
        self.forge.webhooks = how
        time.sleep(pause)
        self.forge.webhooks = "normal"

    def of_reconciler(self, chance: random.Random) -> Mapping[str, Callable[[], None]]:
        return {
            "kill -9": lambda: self.restart(signal.SIGKILL, 0),
            "SIGTERM, away": lambda: self.restart(signal.SIGTERM, chance.uniform(0, 5)),
            "SIGSTOP": lambda: self.freeze(chance.uniform(1, 10)),
        }

    def of_world(self, chance: random.Random) -> Mapping[str, Callable[[], None]]:
        server = chance.choice(self.servers)
        partitions = {
            "partition": lambda: self.part(chance.choice(self.networks), chance.uniform(1, 60)),
        }
        return {
            **(partitions if self.networks else {}),
            "connections cut": lambda: server.kill_connections() and None,
            "connections silent": lambda: self.stall(server, chance.uniform(1, 15)),
            "host away": lambda: self.shut(server, chance.uniform(1, 15)),
            "forge away": lambda: self.outage(chance.choice(["refused", "502"]), chance.uniform(1, 10)),
            "webhooks lost or shuffled": lambda: self.deliver_badly(
                chance.choice(["dropped", "shuffled"]), chance.uniform(1, 10)
            ),
        }

    def disturb(
        self,
        faults: Callable[[random.Random], Mapping[str, Callable[[], None]]],
        chance: random.Random,
        rest: float,
        over: threading.Event,
    ) -> None:
        """Do one fault after another, with a rest between (seconds, on average), until it is over."""
        while not over.wait(chance.uniform(0, 2 * rest)):
            name, fault = chance.choice(list(faults(chance).items()))
            fault()
            self.faults[name] += 1

    # --- What came of it -------------------------------------------------------

    def harm(self, tasks: int, effects: Path) -> Iterator[str]:
        """Yield what was lost, was done twice, or is not on record as it should be."""
        if (phases := self.phases()) != {"completed": tasks}:
            yield f"phases: {dict(phases)}"
        starts = Counter(note["run"] for note in self.diary())
        yield from (f"started {times} times: {run}" for run, times in starts.items() if times > 1)
        pulls = self.forge.repos[CODE].pulls
        yield from (f"#{pull.number} is {pull.state}" for pull in pulls if not pull.merged)
        twice = Counter(pull.branch for pull in pulls)
        yield from (f"{times} pull requests of {branch}" for branch, times in twice.items() if times > 1)
        done = Counter(run.partition(".")[0] for run in starts)
        wanted = {pull.branch.removeprefix("task/"): 1 + (len(pull.reviews) > 1) for pull in pulls}
        yield from (
            f"{name}: {done[name]} runs, not {want}" for name, want in wanted.items() if done[name] != want
        )
        pulled = [
            number for number in range(tasks) if number % EVERY["pull"] == 0 and number % EVERY["issue"]
        ]
        for number in pulled:
            file = effects / f"t{number}"
            if (lines := file.read_text().split() if file.exists() else []) != lines[:1] or not lines:
                yield f"pull/t{number}: done as {lines}"
        if len(pulled) + len(pulls) != tasks:
            yield f"{len(pulled)} tasks for agents and {len(pulls)} pull requests"
        if undone := self.undone():
            yield f"webhooks nobody acted upon: {undone}"
        if "Traceback" in self.talk:
            yield "a traceback"
        yield from faults_of_record(self.folder(FLEET), "", self.verify)


def spec_of(server: Sshd) -> str:
    """Return the spec of the host that a server is."""
    fields = server.host(slots=SLOTS).model_dump(mode="json", exclude={"name"}, exclude_unset=True)
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in fields.items())


async def work(url: str, tokens: Sequence[str], root: Path, over: threading.Event) -> None:
    """Be the outside agents, behind a network that loses answers, until it is over."""
    command = f'echo "$RECONCILER_RUN" >>{root}/effects/"${{RECONCILER_TASK##*/}}"'
    async with Proxy(url, LOST_ANSWERS) as proxy, contextlib.AsyncExitStack() as stack:
        agents = []
        for number, token in enumerate(tokens):
            client = await stack.enter_async_context(ApiClient(proxy.url, token, tries=None))
            worker = Worker(
                client=client,
                means=JobConfig(command=command, clones=False, say=lambda _: None),
                state=root / f"agents/{number}",
                workdir=root / f"runs/{number}",
                draw=lambda: os.urandom(12).hex(),
            )
            agents.append(asyncio.create_task(worker.run()))
        await asyncio.to_thread(over.wait)
        for agent in agents:
            agent.cancel()
        await asyncio.gather(*agents, return_exceptions=True)


@contextlib.contextmanager
def networks() -> Iterator[Sequence[Network]]:
    """Yield a network for each host; none where that is not allowed."""
    made = [Network(number) for number in range(len(HOSTS))] if are_allowed() else []
    try:
        for network in made:
            network.make()
        yield made
    finally:
        for network in made:
            network.remove()


def servers_in(servers: Yard, made: Sequence[Network]) -> Sequence[Sshd]:
    """Return a server for each host, each in a network of its own if there are such."""
    if not made:
        return [servers.sshd(name) for name in HOSTS]
    return [
        servers.sshd(name, within=network.prefix, ListenAddress=network.address)
        for name, network in zip(HOSTS, made, strict=True)
    ]


def soak(
    root: Path, servers: Yard, made: Sequence[Network], *, tasks: int, seconds: float, seed: int
) -> Iterator[str]:
    """Yield the lines of the report; those of what went wrong begin with `!`."""
    chance, over, calm = random.Random(seed), threading.Event(), threading.Event()
    (root / "effects").mkdir()
    tokens = dict(
        new_token(f"agent{number}", lambda size: os.urandom(size).hex()) for number in range(AGENTS)
    )
    with ForgejoDouble(root / "forge") as forge:
        world = SoakWorld(root, forge, networks=made)
        world.enlist(
            servers_in(servers, made),
            {f"agent{number}": digest for number, digest in enumerate(tokens.values())},
        )
        world.start()
        world.hook()
        threads = [
            threading.Thread(
                target=world.disturb, args=(world.of_reconciler, random.Random(seed + 1), REST, calm)
            ),
            threading.Thread(
                target=world.disturb, args=(world.of_world, random.Random(seed + 2), REST / 6, calm)
            ),
            threading.Thread(target=lambda: asyncio.run(work(world.url, list(tokens), root, over))),
        ]
        began = time.monotonic()
        before = world.size()
        for thread in threads:
            thread.start()
        try:
            use(world, tasks, seconds, chance, calm)
            calm.set()
            for thread in threads[:2]:
                thread.join()
            settle(world, tasks)
        finally:
            calm.set()
            over.set()
            for thread in threads:
                thread.join()
        after = world.size()
        world.kill()
        yield f"{tasks} tasks in {time.monotonic() - began:.0f} s, {sum(world.faults.values())} faults:"
        yield from (f"  {times:4} {name}" for name, times in world.faults.most_common())
        if not made:
            yield "  no partitions: network namespaces cannot be made here"
        yield f"  {len(world.diary())} starts over SSH, {world.commits()} commits"
        yield f"  at the beginning: {before}"
        yield f"  in the end:       {after}"
        yield from (f"! {line}" for line in world.harm(tasks, root / "effects"))


def use(world: SoakWorld, tasks: int, seconds: float, chance: random.Random, calm: threading.Event) -> None:
    """Ask for tasks, a few at a time over so many seconds, and review what comes."""
    began, asked = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        due = min(tasks, int(tasks * passed / (seconds * 0.8)) + 1)
        if due > asked + chance.randrange(20) or due == tasks > asked:
            world.ask(asked, due)
            asked = due
        world.review()
        calm.wait(0.2)


def settle(world: SoakWorld, tasks: int) -> None:
    """Review until all is settled, or nothing moves any more."""
    last, until = None, time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if (phases := world.phases()) == {"completed": tasks} and not world.undone():
            return
        if phases != last:
            last, until = phases, time.monotonic() + PATIENCE
        world.review()
        time.sleep(1)


def main() -> int:
    """Print the report; return 1 if there was any harm."""
    logging.disable(logging.WARNING)  # of agents whose server is away
    tasks, minutes, seed = [*map(int, sys.argv[1:]), *(200, 5, 1)[len(sys.argv) - 1 :]]
    with (
        tempfile.TemporaryDirectory() as folder,
        networks() as made,
        yard(Path(folder) / "servers") as servers,
    ):
        root = Path(folder) / "world"
        root.mkdir()
        lines = list(soak(root, servers, made, tasks=tasks, seconds=minutes * 60.0, seed=seed))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 1 if any(line.startswith("!") for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
