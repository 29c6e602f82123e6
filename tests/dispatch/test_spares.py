"""
Work trees that are used again: as good as new, whatever was done to them and whenever it was cut off.
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from reconciler.core.model.status import Phase
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.protocol import agent_id, folder_name
from reconciler.dispatch.scripts import script
from tests.dispatch.world import World, ended, git, needs_of, sweep

FIRST, SECOND = "web/a.g12345678.a1", "web/b.g12345678.a1"
LOOK = (
    "git status --porcelain --ignored; git stash list; git branch -a; cat .git/config; cat README; "
    "find . -path ./.git -prune -o -printf '%m %y %p %l\\n' | sort"
)
MESS = {
    "nothing": "true",
    "changes": "echo more >>README; rm src/main.py; echo new >new; echo x >src/x",
    "commits": "echo more >>README; git commit -qam Mine; git checkout -qb other; git stash -q; git tag mine",
    "ignored files": "echo '*.o' >.gitignore; echo x >x.o; echo x >.git/info/exclude; mkdir -p node/x",
    "a hidden change": "git update-index --assume-unchanged README; sed -i s/hello/jello/ README",
    "a change in no time": "touch -r README t; sed -i s/hello/jello/ README; touch -r t README; rm t",
    "an index of its own that hides a change": "old=$(git rev-parse HEAD:README); echo poison >README; "
    "touch -d '1 hour ago' README; git add README; new=$(git rev-parse :README); python3 -c '"
    "import hashlib, sys; old, new = map(bytes.fromhex, sys.argv[1:]); "
    'data = open(".git/index", "rb").read()[:-20].replace(new, old); '
    'open(".git/index.made", "wb").write(data + hashlib.sha1(data).digest())\' $old $new; '
    "cp .git/index.made .git/index",
    "settings": "git config core.hooksPath .husky; git config core.autocrlf true; git config x.y z",
    "a filter": "echo '* filter=f' >.git/info/attributes; git config filter.f.smudge 'tr a-z A-Z'",
    "a sparse checkout": "git sparse-checkout set src",
    "a repository within": "git init -q inner; touch inner/x; git init -q src/inner",
    "a folder nobody may enter": "mkdir -m 0 closed; mkdir ro; touch ro/x; chmod 500 ro",
    "modes": "chmod 600 README; chmod 777 src/main.py; chmod 500 src; chmod 770 .",
    "a link in place of a folder": "rm -r src; mkdir -p ../../other; ln -s ../../other src; touch src/x",
    "a damaged index": "echo oops >.git/index",
    "no repository": "rm -rf .git",
    "nothing at all": "find . -mindepth 1 -delete",
}


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path / "a world")


def pool(world: World) -> Path:
    return world.data / "host/f1/spare/code.git"


def spares(world: World) -> list[str]:
    return names_in(pool(world)) if pool(world).exists() else []


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def work(world: World, run: str) -> Path:
    return world.data / "host/f1/work" / folder_name(run)


async def leave(world: World, script: str, run: str = FIRST) -> int:
    """Let an agent do this to a workspace that nobody needs afterwards; return the number of its folder."""
    await world.carry_out(world.order(script, run=run, branch=f"task/{folder_name(run)}"))
    number = work(world, run).stat().st_ino
    await sweep(world, needs_of())
    return number


@pytest.mark.parametrize("mess", MESS)
async def test_a_used_work_tree_is_as_good_as_a_new_one(world, mess):
    await leave(world, MESS[mess])

    was_kept = spares(world) != []
    second = await world.carry_out(world.order(LOOK, run=SECOND, branch="task/b"))
    await sweep(world, needs_of())
    shutil.rmtree(pool(world))
    fresh = await world.carry_out(world.order(LOOK, run=SECOND.replace("a1", "a2"), branch="task/b"))

    assert was_kept == (mess not in {"no repository", "nothing at all"})
    assert second.verdict.text == fresh.verdict.text
    assert second.verdict.outcome == "success"


async def test_a_swept_work_tree_is_clean_while_it_waits_and_then_taken(world):
    number = await leave(world, "echo more >>README; echo '*.o' >.gitignore; echo x >x.o; echo secret >.env")
    waiting = names_in(pool(world) / folder_name(FIRST))

    await world.carry_out(world.order("true", run=SECOND, branch="task/b"))

    assert waiting == [".git", "README", "src"]
    assert work(world, SECOND).stat().st_ino == number
    assert spares(world) == []


async def test_a_used_work_tree_starts_from_the_newest_commit(world):
    number = await leave(world, "true")
    seed = world.folder / "seed"
    (seed / "README").write_text("hello again\n")
    git(seed, "commit", "-qam", "Go on")
    git(seed, "push", "-q", str(world.code), "main")

    report = await world.carry_out(
        world.order("cat README; git log --format=%s", run=SECOND, branch="task/b")
    )

    assert report.verdict.text == "hello again\nGo on\nBegin\n"
    assert work(world, SECOND).stat().st_ino == number


@pytest.fixture
def tools(tmp_path) -> Path:
    """Return a folder with the tools of BusyBox, and git."""
    busybox, folder = shutil.which("busybox"), tmp_path / "tools"
    if busybox is None:
        pytest.skip("busybox is not installed")
    folder.mkdir()
    subprocess.run([busybox, "--install", "-s", folder], check=True)
    (folder / "git").symlink_to(shutil.which("git") or "")
    return folder


async def test_busybox_is_enough(world, tools):
    world.transport = LocalTransport(world.data / "host", {"PATH": str(tools)})
    number = await leave(world, MESS["modes"])
    await world.carry_out(world.order("echo x >x; exit 1", run=FIRST.replace("a1", "a2")))
    await sweep(world, needs_of(FIRST.replace("a1", "a2"), phase=Phase.FAILED, mb=0))

    report = await world.carry_out(world.order("git status --porcelain", run=SECOND, branch="task/b"))

    assert (report.verdict.outcome, report.verdict.text) == ("success", "")
    assert work(world, SECOND).stat().st_ino == number
    assert work(world, SECOND).stat().st_mode == tools.stat().st_mode
    assert names_in(world.data / "host/f1/work") == [folder_name(SECOND)]


async def test_no_more_than_two_wait_for_each_repo(world):
    runs = [f"t{number}.g12345678.a1" for number in range(4)]
    for run in runs:
        await world.carry_out(world.order("true", run=run, branch=f"task/{run}"))

    await sweep(world, needs_of())

    assert len(spares(world)) == 2
    assert names_in(world.data / "host/f1/work") == []


async def test_a_spare_that_nobody_took_for_a_week_goes(world):
    await leave(world, "true")
    old = (pool(world) / folder_name(FIRST)).stat().st_mtime - 9 * 86400
    os.utime(pool(world) / folder_name(FIRST), (old, old))

    await sweep(world, needs_of())

    assert spares(world) == []


async def test_many_that_start_at_once_do_not_take_the_same_one(world):
    for number in range(2):
        await leave(world, "true", f"old{number}.g12345678.a1")
    orders = [
        world.order(f"echo {n} >{n}; ls", run=f"t{n}.g12345678.a1", branch=f"task/t{n}") for n in range(6)
    ]
    dispatcher, facts = world.dispatcher(), asyncio.Queue()

    for order in orders:
        dispatcher.follow(order, facts.put_nowait)
    reports = [await ended(facts) for _ in orders]
    await dispatcher.close()

    assert sorted(report.verdict.text for report in reports) == [f"{n}\nREADME\nsrc\n" for n in range(6)]
    assert {report.commits for report in reports} == {1}
    assert spares(world) == []


async def test_a_repo_with_submodules_gets_new_work_trees(world):
    """What `git clean` leaves in them would be there for the next run."""
    await leave(world, "touch .gitmodules; git add .gitmodules")

    assert spares(world) == []


async def test_what_a_workspace_was_replaced_with_is_not_touched(world):
    precious = world.folder / "precious"
    precious.mkdir()
    git(precious, "init", "-q")
    (precious / "file").write_text("mine\n")
    await world.carry_out(world.order("true", run=FIRST))
    shutil.copy(work(world, FIRST) / ".git/index", precious / ".git/index.made")
    shutil.copytree(
        work(world, FIRST) / ".git/objects/info", precious / ".git/objects/info", dirs_exist_ok=True
    )
    shutil.rmtree(work(world, FIRST))
    work(world, FIRST).symlink_to(precious)

    await sweep(world, needs_of())

    assert (precious / "file").read_text() == "mine\n"
    assert names_in(world.data / "host/f1/work") == []


async def test_no_kill_at_any_moment_leaves_a_work_tree_that_is_not_as_committed(world):
    moments = random.Random(7)
    seed = world.folder / "seed"
    for number in range(300):
        (seed / f"file{number}").write_text(f"{number}\n")
    git(seed, "add", ".")
    git(seed, "commit", "-q", "-m", "Grow")
    git(seed, "push", "-q", str(world.code), "main")
    commit = git(seed, "rev-parse", "HEAD")
    await leave(world, "true")
    place = world.data / "host"
    shell = str(place / "bin" / f"workspace-{script('workspace').digest}")

    def call(*args: str, stdin: str = "", kill_after: float | None = None) -> None:
        process = subprocess.Popen(
            ["sh", shell, *args],
            cwd=place,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            said, _ = process.communicate(stdin.encode(), timeout=kill_after)
            assert said.startswith(b"S"), said
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    taken = 0
    for number in range(25):
        run = f"t{number}.g12345678.a1"
        asked = f"script\n{world.data}/repos/code.git\ntask/{run}\n{commit}\nmain\n{commit}\n\n\n"
        names = ("prepare", "f1", folder_name(run), agent_id(run, 1))
        waiting = spares(world)
        call(*names, stdin=asked, kill_after=moments.uniform(0, 0.12))
        call(*names, stdin=asked)
        taken += waiting != spares(world)

        assert git(work(world, run), "status", "--porcelain", "--ignored") == ""
        assert git(work(world, run), "rev-parse", "HEAD") == commit
        assert (work(world, run) / "file299").read_text() == "299\n"

        (work(world, run) / "file7").write_text("another\n")
        (work(world, run) / "junk").write_text("junk\n")
        call("rm", "f1", folder_name(run), kill_after=moments.uniform(0, 0.12))
        call("rm", "f1", *names_in(place / "f1/work"))

    assert taken > 5
    assert names_in(place / "f1/work") == []
