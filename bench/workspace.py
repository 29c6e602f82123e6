"""
The time until an agent has files to work on: a new workspace and a reused one, beside a fresh clone.

The repository has 5,000 files of 5 KB and 300 commits; all is on this machine. The ways take turns. A
workspace is made as a run makes it, the look for new commits apart, which a clone does not have to take.
"""

import asyncio
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path

from bench.rows import Row, row
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.repos import CodeRepository
from reconciler.dispatch.scripts import Scripts
from reconciler.dispatch.workspace import Workspaces
from tests.dispatch.world import World

COMMITS = 300
AIMS = {"new workspace": "≤ 0.7", "reused work tree": "≤ 0.15"}


def rows(quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="bench-workspace-") as folder:
        world = World(Path(folder, "world"))
        fill(world.code, 200 if quick else 5000)
        times = asyncio.run(measure(world, 2 if quick else 7))
    clone = times.pop("fresh clone")
    yield row("fresh clone", "ms", clone, scale=1000)
    for name, taken in times.items():
        yield row(name, "ms", taken, clone, scale=1000, beside="of a fresh clone", aim=AIMS[name])


def fill(code: Path, files: int) -> None:
    """Give the repository its files, and a history of which each commit changes one of them."""
    stream = [b"reset refs/heads/main\n"]
    texts = random.Random(1)
    for number in range(COMMITS):
        stream.append(b"commit refs/heads/main\ncommitter Bench <bench@example.org> %d +0000\n" % number)
        stream.append(b"data 2\nGo\n")
        for file in range(files) if number == 0 else [number % files]:
            text = texts.randbytes(2500).hex().encode()
            stream.append(b"M 644 inline src/%d/%d.txt\ndata %d\n%s\n" % (file % 50, file, len(text), text))
    subprocess.run(["git", "fast-import", "--quiet", "--force"], cwd=code, input=b"".join(stream), check=True)


async def measure(world: World, repeat: int) -> dict[str, list[float]]:
    scripts = Scripts(LocalTransport(world.data / "host"), host="local", shell="sh", workdir=".")
    workspaces = Workspaces(scripts, fleet="./f1", shares_mirrors=True)
    repository = CodeRepository(world.repo, mirrors=world.data / "repos", fleet=world.folder)
    base = await repository.starting_point(None)
    numbers = iter(range(10**6))

    async def prepare(name: str) -> None:
        order = world.order("true", run=f"{name}{next(numbers)}.g12345678.a1", start_from=base)
        await workspaces.prepare(order, repository)

    async def clone() -> None:
        await run("git", "clone", "-q", f"file://{world.code}", str(world.folder / f"clone{next(numbers)}"))

    times: dict[str, list[float]] = {"fresh clone": [], "new workspace": [], "reused work tree": []}
    for _ in range(repeat + 1):
        times["fresh clone"].append(await seconds(clone()))
        times["new workspace"].append(await seconds(prepare("new")))
        for name in await workspaces.list():
            use(world.data / "host" / "f1" / "work" / name)
            await workspaces.remove([name])
        times["reused work tree"].append(await seconds(prepare("reused")))
        await asyncio.to_thread(tidy, world)
    return {name: spent[1:] for name, spent in times.items()}


def use(work: Path) -> None:
    """Leave what agents leave: a few changed files, and what was built."""
    for number in range(20):
        (work / "src" / str(number) / f"{number}.txt").write_text("changed\n")
    (work / "build").mkdir()
    for number in range(200):
        (work / "build" / str(number)).write_text("built\n")


def tidy(world: World) -> None:
    """Let every turn begin alike, without a spare and with the disk at rest."""
    places = [
        *world.folder.glob("clone*"),
        world.data / "host" / "f1" / "work",
        world.data / "host" / "f1" / "spare",
    ]
    subprocess.run(["rm", "-rf", *map(str, places)], check=True)
    os.sync()


async def run(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec(*argv)
    assert await process.wait() == 0, argv


async def seconds(deed: Awaitable[None]) -> float:
    before = time.perf_counter()
    await deed
    return time.perf_counter() - before
