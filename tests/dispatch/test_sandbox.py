"""Sandboxes: what a run in one can read, write and reach, and that all of it ends with the run."""

import asyncio
import socket
from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.core.adapter import Sandbox, StopSignal
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Host, RunHooks
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.probe import probe
from tests.dispatch.bubblewrap import needs_bwrap, without
from tests.dispatch.world import World, ended, git, until


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id").write_text("a private key")
    monkeypatch.setenv("HOME", str(home))
    return World(tmp_path / "a world")


def in_sandbox(**fields) -> Host:
    return Host(name="local", sandbox=Sandbox(**fields))


@needs_bwrap
async def test_a_run_in_a_sandbox_works_and_gets_at_nothing_else(world, tmp_path, monkeypatch):
    monkeypatch.setenv("CLOUD_KEY", "of the user")
    other = world.data / "host" / "f1" / "work" / "of another"
    other.mkdir(parents=True)
    (tmp_path / "home" / ".cache").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"""
        try() {{ if eval "$2" >/dev/null 2>&1; then echo "$1" >>got; fi; }}
        try key 'cat "$HOME/.ssh/id"'
        try data 'ls {world.data}/proofs'
        try others 'ls "$PWD/../of another"'
        try variable '[ -n "$CLOUD_KEY" ]'
        try shadow '[ -s /etc/shadow ]'
        echo it >{tmp_path}/planted # into a folder of its own, if at all
        try system 'echo it >/usr/planted'
        try port '{{ exec 3<>/dev/tcp/127.0.0.1/{port}; }}'
        try processes '[ "$(ls -d /proc/[0-9]* | wc -l)" -gt 20 ]'
        try cache 'echo kept >"$HOME/.cache/it"'
        try temporary 'echo it >"$TMPDIR/it"'
        try declared 'touch "$RECONCILER_OUTPUT_DIR"/it'
        try history 'git log -1'
        """
        host = in_sandbox(network=False, writable=("~/.cache",))
        order = world.order("", host=host, validation=("cat got; ! cat ~/.ssh/id",))
        order = order.model_copy(update={"argv": ("bash", "-c", script)})

        report = await world.carry_out(order)

    assert report.failed_check is None, report
    assert report.verdict.outcome == "success", report
    got = git(world.code, "show", "task/web/fix:got").split()
    assert got == ["cache", "temporary", "declared", "history"]
    assert (tmp_path / "home" / ".cache" / "it").read_text() == "kept\n"
    assert not (tmp_path / "planted").exists()
    assert not list((world.data / "host" / "f1" / "runs").glob("*/tmp"))


@needs_bwrap
@pytest.mark.parametrize("spelling", ["home", "home/", "home/.", "."])
async def test_a_path_that_names_the_home_folder_shows_nothing_of_it(world, tmp_path, spelling):
    path = f"{tmp_path}/{spelling}:/usr/bin:/bin"
    host = in_sandbox().model_copy(update={"env": {"PATH": path}})

    report = await world.carry_out(world.order("! cat ~/.ssh/id", host=host))

    assert report.verdict.outcome == "success", report


@needs_bwrap
async def test_hooks_of_the_host_are_outside_of_the_sandbox_and_those_of_the_repo_inside(world):
    look = "test -e ~/.ssh/id && echo {} >>hooks || echo none >>hooks"
    theirs = RunHooks(before_run=(look.format("host"),))
    host = in_sandbox().model_copy(update={"hooks": theirs})
    hooks = theirs.followed_by(RunHooks(before_run=(look.format("repo"),)))

    await world.carry_out(world.order(":", host=host, hooks=hooks))

    assert git(world.code, "show", "task/web/fix:hooks") == "host\nnone"


@needs_bwrap
async def test_programs_of_the_workspace_are_not_run_outside_of_the_sandbox(world, tmp_path):
    host = in_sandbox().model_copy(update={"env": {"PATH": "./bin:/usr/bin:/bin"}})
    plant = f"""mkdir bin
    for name in mv cat chmod rm; do
      printf '#!/bin/sh\\n[ ! -e ~/.ssh/id ] || echo "$0" >>{tmp_path}/escaped\\n' >bin/$name
      echo 'exec /bin/'$name' "$@"' >>bin/$name
      chmod +x bin/$name
    done"""

    report = await world.carry_out(
        world.order("echo 1 >it", host=host, hooks=RunHooks(before_run=(plant,)), validation=("cat it",))
    )

    assert report.verdict.outcome == "success", report
    assert not (tmp_path / "escaped").exists()


@needs_bwrap
async def test_a_validation_command_is_inside_though_a_hook_of_the_host_has_the_same_text(world):
    command = "! test -e ~/.ssh/id"
    hooks = RunHooks(after_run=(command,))
    host = in_sandbox().model_copy(update={"hooks": hooks})

    report = await world.carry_out(world.order("echo 1 >it", host=host, validation=(command,)))

    assert report.failed_check is None, report


@needs_bwrap
async def test_a_hook_of_a_repo_is_inside_though_one_of_the_host_has_the_same_text(world):
    hooks = RunHooks(before_run=("if test -e ~/.ssh/id; then echo out; else echo in; fi >>seen",))
    host = in_sandbox().model_copy(update={"hooks": hooks})

    both, validation = hooks.followed_by(hooks), ('test "$(xargs <seen)" = "out in"',)
    report = await world.carry_out(world.order("echo 1 >it", host=host, hooks=both, validation=validation))

    assert report.failed_check is None, report


@needs_bwrap
async def test_what_a_run_left_behind_in_its_sandbox_ends_with_it(world, tmp_path):
    held = tmp_path / "held"
    held.mkdir()
    script = (
        f"(exec setsid env -i sh -c 'echo $$ >{held}/begun; exec sleep 600') </dev/null >/dev/null 2>&1 & "
    )
    script += f"until [ -s {held}/begun ]; do sleep 0.05; done"

    report = await world.carry_out(world.order(script, host=in_sandbox(writable=(str(held),))))

    assert report.verdict.outcome == "success", report
    assert not sleepers(held)


@needs_bwrap
async def test_a_run_that_is_stopped_in_its_sandbox_can_put_its_things_away(world, tmp_path):
    held = tmp_path / "held"
    held.mkdir()
    script = f"trap 'echo away >{held}/put; exit' TERM; echo >{held}/begun; while :; do sleep 0.05; done"
    dispatcher, facts = world.dispatcher(), asyncio.Queue()
    # As long a grace as the machine may take to run a shell: the run is over as soon as it has.
    order = world.order(
        script,
        host=in_sandbox(writable=(str(held),)),
        adapter={"stop": StopSignal(grace=timedelta(seconds=60))},
    )

    dispatcher.follow(order, facts.put_nowait)
    await until((held / "begun").exists)
    dispatcher.stop(order, "task cancelled", facts.put_nowait)
    await ended(facts)
    await dispatcher.close()

    assert (held / "put").read_text() == "away\n"


async def test_a_host_without_bubblewrap_starts_nothing_and_says_so(world, tmp_path):
    host = in_sandbox()
    order = world.order(world.note("agent"), host=host)
    bare = without("bwrap", tmp_path / "bin")
    world.transport = LocalTransport(world.data / "host", {"PATH": str(bare), "HOME": str(tmp_path)})

    report = await world.carry_out(order)
    facts = await probe(world.transport, host, workdir=str(tmp_path), sandboxes=(Sandbox(),))

    assert (report.verdict.kind, report.started, world.noted) == (FailureClass.HOST, False, [])
    assert "its sandbox cannot be made" in report.verdict.message
    assert facts.sandbox == "bubblewrap is not there; install it (package `bubblewrap`)"


@needs_bwrap
async def test_the_probe_tries_a_sandbox_where_one_is_needed(tmp_path):
    tried = await probe(
        LocalTransport(tmp_path), Host(name="h"), workdir=str(tmp_path), sandboxes=(Sandbox(),)
    )
    others = await probe(LocalTransport(tmp_path), Host(name="h"), workdir=str(tmp_path))

    assert (tried.sandbox, others.sandbox) == ("", None)


def sleepers(folder: Path) -> list[str]:
    """Return the command lines of processes that are at work for a run which wrote to a folder."""
    lines = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line, mounts = each.read_bytes(), each.with_name("mountinfo").read_bytes()
        except OSError:
            continue
        if b"sleep\x00600" in line and str(folder).encode() in mounts:
            lines.append(line.decode())
    return lines
