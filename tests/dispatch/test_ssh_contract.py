"""
A transport is a transport: over SSH, through a jump host, without SFTP, with the shells people have.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from reconciler.core.model.specs import Host
from tests.dispatch.contract_transport import *  # noqa: F403  the contract is collected here
from tests.dispatch.sshd import Yard, needs_sshd, quick, yard


def behind_a_jump(servers: Yard) -> tuple[Host, dict[str, Host]]:
    jump, target = servers.sshd("jump"), servers.sshd("target")
    return target.host(jump="jump"), {"jump": jump.host(slots=0)}


def with_shell(servers: Yard, shell: str) -> Host:
    """Return a host whose commands and tools are those of this shell, as far as it has any."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    if shell != "busybox":
        return servers.sshd(ForceCommand=f'exec {program} -c "$SSH_ORIGINAL_COMMAND"').host()
    tools = servers.folder / "tools"
    tools.mkdir(parents=True)
    subprocess.run([program, "--install", "-s", tools], check=True)
    forced = f'exec {program} sh -c "$SSH_ORIGINAL_COMMAND"'
    return servers.sshd(env={"PATH": str(tools)}, ForceCommand=forced).host()


@pytest.fixture(
    scope="module",
    params=[
        "local",
        *(pytest.param(way, marks=needs_sshd) for way in ("ssh", "jump", "no-sftp", "dash", "busybox")),
    ],
)
def way(request, tmp_path_factory: pytest.TempPathFactory):
    """Have a host, and the hosts it may name as its jump."""
    with yard(tmp_path_factory.mktemp(request.param) / "servers") as servers:
        match request.param:
            case "local":
                yield Host(name="local"), {}
            case "ssh":
                yield servers.sshd().host(), {}
            case "jump":
                yield behind_a_jump(servers)
            case "no-sftp":
                yield servers.sshd(Subsystem="").host(), {}
            case shell:
                yield with_shell(servers, shell), {}


@pytest.fixture
async def transport(way: tuple[Host, dict[str, Host]], tmp_path: Path):
    host, hosts = way
    transports = quick(hosts, local=tmp_path)
    yield transports(host)
    await transports.close()
