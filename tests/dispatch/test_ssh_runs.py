"""
Runs over SSH: the run protocol of this machine, unchanged, over connections that come and go.
"""

import asyncio
import contextlib
import os
import random
from pathlib import Path

import pytest

from reconciler.core.adapter import FileTemplate, Sandbox, Secret
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Host
from reconciler.core.model.status import Phase
from reconciler.dispatch.dispatcher import Dispatcher
from reconciler.dispatch.pool import TransportPool
from tests import processes
from tests.dispatch.bubblewrap import needs_bwrap
from tests.dispatch.sshd import Sshd, Yard, needs_sshd, quick, yard
from tests.dispatch.world import RUN, World, ended, git, needs_of, seen, until

pytestmark = needs_sshd
EDIT = "echo more >>README; echo new >new; rm src/main.py"


@pytest.fixture
def servers(tmp_path: Path):
    with yard(tmp_path / "servers") as made:
        yield made


class Remote(World):
    """The small world, its host reached over SSH."""

    def __init__(self, folder: Path, host: Host, transports: TransportPool) -> None:
        super().__init__(folder)
        self.host = host
        self.transport = transports(host)

    def order(self, script: str, **fields):
        return super().order(script, **{"host": self.host} | fields)

    def dispatcher(self, **options):
        return super().dispatcher(**{"patience": 30} | options)


@contextlib.asynccontextmanager
async def world_on(folder: Path, host: Host, hosts: dict[str, Host] | None = None):
    transports = quick(hosts)
    try:
        yield Remote(folder / "a world", host, transports)
    finally:
        await transports.close()


def logged(dispatcher: Dispatcher, run: str) -> int:
    """Return how much of the agent's output has come back so far."""
    return sum(path.stat().st_size for _, path in dispatcher.logs.paths(run) if path.name == "out")


@pytest.fixture
def server(servers: Yard) -> Sshd:
    return servers.sshd()


@pytest.fixture
async def world(server: Sshd, tmp_path: Path):
    async with world_on(tmp_path, server.host()) as made:
        yield made


@needs_bwrap
async def test_a_run_on_such_a_host_is_in_the_sandbox_that_it_needs(tmp_path: Path, server: Sshd):
    host = server.host().model_copy(update={"sandbox": Sandbox()})
    key = tmp_path / "a key"
    key.write_text("private")

    async with world_on(tmp_path, host) as world:
        report = await world.carry_out(world.order(f"cat '{key}' >got || git log --format=%s >got"))

        assert report.verdict.outcome == "success", report
        assert git(world.code, "show", "task/web/fix:got") == "Begin"


async def test_an_order_is_carried_out_on_a_host_that_has_no_way_to_the_code_repository(
    world: Remote, server: Sshd
):
    base = git(world.code, "rev-parse", "main")

    report = await world.carry_out(world.order(EDIT, validation=("test -e new", "grep -q more README")))

    assert (report.verdict.outcome, report.commits, report.base_commit) == ("success", 1, base)
    assert [check.exit_code for check in report.checks] == [0, 0]
    assert git(world.code, "rev-parse", "task/web/fix") == report.head_commit
    changed = git(world.code, "diff", "--name-status", "main", "task/web/fix").split()
    assert changed == ["M", "README", "A", "new", "D", "src/main.py"]
    mirrors = await asyncio.to_thread(list, (server.home / ".local/state/reconciler").rglob("*.git"))
    assert mirrors
    assert all(str(world.folder) not in (mirror / "config").read_text() for mirror in mirrors)


async def test_files_of_a_run_are_written_there_and_gone_after_it(world: Remote, server: Sshd):
    secret = Secret(command=("printf", "tok-0123456789abcdef"))
    file = FileTemplate(template="key = {{ secrets.KEY | tojson }}", secrets={"KEY": secret})
    order = world.order(
        "cp .cli/config seen && stat -c %a .cli/config >mode", files={".cli/config": file, "{files}/x": file}
    )

    report = await world.carry_out(order)

    assert report.verdict.message.startswith("repo code: secret gate: "), "what it copied is not delivered"
    work = next(server.home.glob(".local/state/reconciler/f1/work/*"))
    assert (work / "seen").read_text() == 'key = "tok-0123456789abcdef"\n'
    assert (work / "mode").read_text() == "600\n"
    assert not (work / ".cli/config").exists()
    assert [*server.home.glob(".local/state/reconciler/f1/runs/*/files")] == []


STRAY_GIT = {"GIT_AUTHOR_DATE": "nonsense", "GIT_NAMESPACE": "other", "GIT_CEILING_DIRECTORIES": "/"}
STRAY_GIT |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.bare", "GIT_CONFIG_VALUE_0": "true"}


@pytest.mark.parametrize(
    ("home", "env"),
    [
        ("a 'home' of \u00e9", {}),
        ("$HOME `id` (x) & more", {}),
        ("home", {"CDPATH": "/:{folder}", "ENV": "/nowhere", "TERM": "dumb"}),
        ("home", STRAY_GIT),
    ],
    ids=["spaces", "signs", "folders for cd", "settings for git"],
)
async def test_whatever_home_and_environment_people_have_there_an_order_is_carried_out(
    servers: Yard, tmp_path: Path, home: str, env: dict[str, str]
):
    folder = tmp_path / "there"
    (folder / home).mkdir(parents=True)
    (folder / "work").mkdir()  # what `cd work` must not find
    stray = {name: value.format(folder=folder) for name, value in env.items()}
    server = servers.sshd(env=stray | {"HOME": f'"{folder / home}"'})
    async with world_on(tmp_path, server.host()) as world:
        dispatcher = world.dispatcher()
        report = await world.carry_out(world.order(EDIT, validation=("test -e new",)))
        await dispatcher.sweep(world.host, lambda: needs_of(RUN, phase=Phase.FAILED))
        await dispatcher.close()

    assert (report.verdict.outcome, report.commits) == ("success", 1), report.verdict.message


async def test_an_order_is_carried_out_behind_a_jump_host_without_sftp(servers: Yard, tmp_path: Path):
    jump, target = servers.sshd("jump"), servers.sshd("target", Subsystem="")
    async with world_on(tmp_path, target.host(jump="jump"), {"jump": jump.host()}) as world:
        report = await world.carry_out(world.order(EDIT))

    assert report.verdict.outcome == "success"
    assert git(world.code, "rev-parse", "task/web/fix") == report.head_commit


async def test_output_is_byte_identical_across_killed_connections(world: Remote, server: Sshd):
    written = world.folder / "written"
    steps = [world.folder / f"step{number}" for number in range(12)]
    for step in steps:
        os.mkfifo(step)
    script = "".join(
        f"head -c 150001 /dev/urandom | tee -a '{written}'; read go <'{step}'\n" for step in steps
    )
    order = world.order(script, repo=None)
    dispatcher, facts = world.dispatcher(), asyncio.Queue()
    dispatcher.follow(order, facts.put_nowait)
    await seen(facts)

    for number, step in enumerate(steps):
        await until(lambda so_far=number * 150_001: logged(dispatcher, order.run) > so_far)
        server.kill_connections()
        await asyncio.to_thread(step.write_text, "go\n")
    report = await ended(facts)
    await dispatcher.close()

    assert report.verdict.outcome == "success"
    (log,) = (path for label, path in dispatcher.logs.paths(order.run) if path.name == "out")
    assert log.read_bytes() == written.read_bytes()
    assert log.stat().st_size == 12 * 150_001
    assert server.logins() > len(steps)


async def test_a_run_outlives_a_restart_of_sshd_and_of_the_reconciler(world: Remote, server: Sshd):
    step = world.folder / "step"
    os.mkfifo(step)
    order = world.order(f"{world.note('start')}; {EDIT}; read go <'{step}'; {world.note('end')}")
    first, facts = world.dispatcher(), asyncio.Queue()
    first.follow(order, facts.put_nowait)
    await seen(facts)

    await first.close()
    server.restart()
    second = world.dispatcher()
    second.follow(order, facts.put_nowait)
    await seen(facts)
    await asyncio.to_thread(step.write_text, "go\n")
    report = await ended(facts)
    await second.close()

    assert (report.verdict.outcome, report.commits) == ("success", 1)
    assert world.noted == ["start", "end"]


async def test_nothing_is_lost_or_run_twice_while_connections_are_killed_at_random(
    world: Remote, server: Sshd
):
    moments = random.Random(3)
    scripts = {f"t{n}": f"{world.note(f't{n}')}; echo {n} >{n}; sleep 0.{n}; echo done {n}" for n in range(8)}
    dispatcher, facts = world.dispatcher(), asyncio.Queue()
    for name, script in scripts.items():
        order = world.order(script, run=f"{name}.g12345678.a1", branch=f"task/{name}")
        dispatcher.follow(order, facts.put_nowait)

    kills = 0
    for _ in range(12):
        await asyncio.sleep(moments.uniform(0, 0.5))
        kills += server.kill_connections()
    reports = [await ended(facts) for _ in scripts]
    await dispatcher.close()

    assert kills > 5
    assert {report.verdict.outcome for report in reports} == {"success"}, reports
    assert sorted(world.noted) == sorted(scripts)
    heads = git(world.code, "for-each-ref", "--format=%(refname:short)", "refs/heads/task").split()
    assert sorted(heads) == sorted(f"task/{name}" for name in scripts)


async def test_stopping_a_run_ends_its_whole_tree_on_the_host(world: Remote):
    mark = f"tree-of-{world.folder.parent.name}"
    script = f"setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' {mark} & exec sleep 600"
    order = world.order(script, repo=None)
    dispatcher, facts = world.dispatcher(), asyncio.Queue()
    dispatcher.follow(order, facts.put_nowait)
    await seen(facts)
    await until(lambda: processes.with_word(mark))

    dispatcher.stop(order, "task removed", facts.put_nowait)
    report = await ended(facts)
    await dispatcher.close()

    assert report.verdict.kind is FailureClass.CANCELLED
    assert not processes.with_word(mark)


async def test_a_secret_that_is_looked_up_on_the_host_is_injected_and_masked(world: Remote, tmp_path: Path):
    (tmp_path / "key").write_text("tok-a1B2c3D4e5F6\n")
    secret = Secret(file=str(tmp_path / "key"), on="host")

    report = await world.carry_out(
        world.order('echo "I was given $KEY"', adapter={"secrets": {"KEY": secret}}, repo=None)
    )

    assert report.verdict.text == f"I was given {'*' * 16}\n"


async def test_a_helper_that_hangs_on_the_host_is_ended_there(world: Remote, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("reconciler.dispatch.secrets._COMMAND_TIMEOUT", 0.5)
    secret = Secret(command=("sh", "-c", f"sleep 60; : {tmp_path.name}-hanging"), on="host")

    report = await world.carry_out(world.order("true", adapter={"secrets": {"KEY": secret}}, repo=None))

    assert report.verdict.kind is FailureClass.AUTH
    assert processes.left_with_word(f"{tmp_path.name}-hanging") == []


async def test_a_working_folder_that_cannot_be_made_fails_with_the_remedy(servers: Yard, tmp_path: Path):
    host = servers.sshd().host(workdir="/dev/null/work")
    async with world_on(tmp_path, host) as world:
        report = await world.carry_out(world.order("true", repo=None))

    assert report.verdict.outcome == "failed"
    assert "host h1" in report.verdict.message
    assert "workdir" in report.verdict.message
