"""
Branches that hosts push themselves: what they say is looked at, and what they push was checked before.
"""

import contextlib
import getpass
import os
import subprocess
from pathlib import Path

import asyncssh
import pytest

from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Host, Repo
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.repos import CodeRepository
from tests.dispatch.sshd import needs_sshd, quick, yard
from tests.dispatch.world import LOCAL, World, git

FAR = Host(name="far", address="127.0.0.1", workdir="far")
REPO = Repo(name="code", url="code.git", push="host")


@pytest.fixture
def world(tmp_path) -> World:
    """A host with a home of its own, and a code repository that notes who pushes to it."""
    world = World(tmp_path / "a world")
    world.repo = REPO
    (world.folder / "home").mkdir()
    world.transport = LocalTransport(
        world.folder, {"PATH": os.environ["PATH"], "HOME": str(world.folder / "home"), "XDG_HOST": "far"}
    )
    refuse_unless(world, world.note("pushed by the ${XDG_HOST:-reconciler}"))
    return world


def refuse_unless(world: World, script: str) -> None:
    hook = world.code / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{script}\n")
    hook.chmod(0o755)


def branch(world: World) -> str:
    return git(world.code, "for-each-ref", "--format=%(objectname)", "refs/heads/task/web/fix")


@pytest.mark.parametrize("host", [FAR, LOCAL])
async def test_the_host_pushes_what_passed(world, host):
    order = world.order("echo x >x", host=host, validation=("test -f x",))

    report = await world.carry_out(order)
    again = await world.carry_out(order)

    assert (report.verdict.outcome, report.commits, again) == ("success", 1, report)
    assert branch(world) == report.head_commit
    assert [line.replace("'", "") for line in world.noted] == ["pushed by the far"]


async def test_the_reconciler_pushes_unless_told_otherwise(world):
    await world.carry_out(world.order("echo x >x", host=FAR, repo=Repo(name="code", url="code.git")))

    assert world.noted == ["pushed by the reconciler"]


@pytest.mark.parametrize(
    ("script", "fields"),
    [
        ("echo x >x; exit 1", {}),
        ("echo x >x", {"validation": ("false",)}),
        ("echo x >x", {"repo": REPO.model_copy(update={"paths": ("src/",)})}),
        ("git checkout -q --orphan new; echo x >x", {}),
        ("echo x >x", {"branch": "main"}),
    ],
)
async def test_what_is_not_good_enough_is_not_pushed(world, script, fields):
    before = git(world.code, "for-each-ref")

    await world.carry_out(world.order(script, host=FAR, **fields))

    assert world.noted == []
    assert git(world.code, "for-each-ref") == before


async def test_a_branch_that_moved_meanwhile_is_left_alone(world):
    first = await world.carry_out(world.order("echo x >x", host=FAR))
    order = world.order("", host=FAR)
    host_session = (dispatcher := world.dispatcher())._host_session(FAR)
    repository = CodeRepository(REPO, mirrors=world.data / "repos", fleet=world.folder)
    main = git(world.code, "rev-parse", "main")

    for expected in (main, None):
        said = await host_session.workspaces.push(
            order, repository, main, "refs/heads/task/web/fix", expected
        )

        assert "host far: workspace push: " in said
        assert "stale info" in said
    await dispatcher.close()

    assert branch(world) == first.head_commit


async def test_a_host_that_pushes_somewhere_else_is_found_out(world):
    other = world.folder / "other.git"
    git(world.folder, "clone", "-q", "--bare", str(world.code), str(other))
    settings = f'[url "{other}"]\n\tpushInsteadOf = {world.code}\n'
    (world.folder / "home/.gitconfig").write_text(settings)

    report = await world.carry_out(world.order("echo x >x", host=FAR))

    assert report.verdict.kind == FailureClass.HOST
    assert "the host says that it pushed" in report.verdict.message
    assert (branch(world), report.head_commit) == ("", None)


async def test_a_host_without_access_is_told_who_needs_it(world):
    refuse_unless(world, "echo permission denied for everybody >&2; exit 1")

    report = await world.carry_out(world.order("echo x >x", host=FAR))

    assert report.verdict.kind == FailureClass.AUTH
    for message in (
        "repo code",
        "host far: workspace push",
        "permission denied",
        "give the host's user access",
    ):
        assert message in report.verdict.message


async def test_what_an_agent_sets_in_its_workspace_does_not_count(world):
    other = world.folder / "other.git"
    script = (
        f"git config 'url.{other}.pushInsteadOf' '{world.code}'; git config push.followTags true; "
        f"git tag mine; git config core.hooksPath .; echo '{world.note('hook')}' >pre-push; "
        "chmod +x pre-push; echo x >x"
    )

    report = await world.carry_out(world.order(script, host=FAR))

    assert (report.verdict.outcome, branch(world)) == ("success", report.head_commit)
    assert len(world.noted) == 1
    assert git(world.code, "tag") == ""


async def test_no_program_that_an_agent_set_in_the_mirror_of_its_host_runs_at_the_push(world):
    """The mirror belongs to the same user; what the agent sets there outlives its run."""
    other = world.folder / "other.git"
    noting = world.folder / "noting"
    noting.write_text(f"#!/bin/sh\n{world.note('planted')}\n")
    noting.chmod(0o755)
    names = (
        "core.sshCommand",
        "core.fsmonitor",
        "core.alternateRefsCommand",
        "credential.helper",
        "gpg.program",
    )
    script = (
        'mirror=$(dirname "$(cat .git/objects/info/alternates)"); '
        + "".join(f"git config -f \"$mirror/config\" {name} '{noting}'; " for name in names)
        + f"git config -f \"$mirror/config\" 'url.{other}.pushInsteadOf' '{world.code}'; "
        + f'mkdir -p "$mirror/hooks"; cp \'{noting}\' "$mirror/hooks/pre-push"; '
        + f"cp '{noting}' \"$mirror/hooks/reference-transaction\"; echo x >x"
    )

    report = await world.carry_out(world.order(script, host=FAR))

    assert (report.verdict.message, branch(world)) == ("", report.head_commit)
    assert [line.replace("'", "") for line in world.noted] == ["pushed by the far"]


async def test_an_address_with_a_password_is_not_told_when_a_push_fails(world):
    await world.carry_out(world.order("echo x >x", host=FAR))
    repo = REPO.model_copy(update={"url": "http://me:hush@127.0.0.1:9/code.git"})
    repository = CodeRepository(repo, mirrors=world.data / "repos", fleet=world.folder)
    host_session = (dispatcher := world.dispatcher())._host_session(FAR)

    said = await host_session.workspaces.push(
        world.order("", host=FAR), repository, branch(world), "refs/heads/x", None
    )
    await dispatcher.close()

    assert "127.0.0.1" in said
    assert "hush" not in said


@contextlib.contextmanager
def ssh_agent(socket: Path, key: asyncssh.SSHKey):
    """Run an SSH agent that holds one key."""
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()  # it says so when it listens
        yield
    finally:
        process.terminate()
        process.communicate()


@needs_sshd[0]
@needs_sshd[1]
async def test_a_host_pushes_over_ssh_with_the_forwarded_agent(tmp_path_factory, tmp_path, monkeypatch):
    """The forge is an sshd that takes the agent's key only; the host has none of its own."""
    short = tmp_path_factory.mktemp("p")
    socket = short / "agent"
    with yard(short / "s") as servers:
        forge, server = servers.sshd("forge"), servers.sshd("h1")
        (ssh := short / "ssh").write_text(
            "#!/bin/sh\nexec ssh -F none -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no "
            '-o LogLevel=ERROR -o IdentityFile=none "$@"\n'
        )
        ssh.chmod(0o755)
        (server.home / ".gitconfig").write_text(f"[core]\n\tsshCommand = {ssh}\n")
        monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        with ssh_agent(socket, servers._client_key):
            async with await asyncssh.connect_agent(str(socket)) as client:
                await client.add_keys([str(server.identity)])
            host = server.host(agent_forwarding=True)
            transports = quick(agent_path=str(socket))
            world = World(tmp_path / "world")
            url = f"ssh://{getpass.getuser()}@127.0.0.1:{forge.port}{world.code}"
            world.transport = transports(host)

            report = await world.carry_out(
                world.order("echo x >x", host=host, repo=Repo(name="code", url=url, push="host")), patience=30
            )
            await transports.close()

    assert report.verdict.message == ""
    assert branch(world) == report.head_commit
