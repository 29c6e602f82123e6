"""
What a person is shown before a key is trusted.
"""

import asyncio
import subprocess
from pathlib import Path

import asyncssh
import pytest

from reconciler.core.errors import Unavailable, UsageError
from reconciler.core.model.specs import Host
from reconciler.dispatch.ssh.trust import HostKeyScan, scan_host_key
from tests.dispatch.sshd import Yard, needs_sshd, public, quick, silent_server, yard

pytestmark = needs_sshd
OTHER = asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture
def servers(tmp_path: Path):
    with yard(tmp_path / "servers") as made:
        yield made


async def seen(host: Host, hosts: dict[str, Host] | None = None, **patience: float) -> HostKeyScan:
    transports = quick(hosts, **patience)
    try:
        return await scan_host_key(host, transports)
    finally:
        await transports.close()


async def test_a_new_host_shows_its_key_as_ssh_keygen_would_print_it(servers: Yard, tmp_path: Path):
    server = servers.sshd()
    file = tmp_path / "key.pub"
    await asyncio.to_thread(file.write_text, server.host_key)
    printed = await asyncio.to_thread(subprocess.check_output, ["ssh-keygen", "-lf", str(file)], text=True)

    trust = await seen(server.host(host_key=(), identity=None))

    assert trust.shown.fingerprint == f"ssh-ed25519 {printed.split()[1]}"
    assert (trust.pinned, trust.is_pinned, trust.is_changed) == ((), False, False)
    assert server.logins() == 0


async def test_what_was_shown_is_what_can_be_pinned(servers: Yard):
    server = servers.sshd()
    shown = (await seen(server.host(host_key=()))).shown

    transports = quick()
    answer = await transports(server.host(host_key=shown.text)).call(("true",), timeout=300)
    await transports.close()

    assert answer.exit_code == 0
    assert len(shown.text.split()) == 2


async def test_a_pinned_key_leaves_nothing_to_do(servers: Yard):
    server = servers.sshd()

    trust = await seen(server.host(host_key=(public(OTHER), server.host_key)))

    assert trust.is_pinned
    assert not trust.is_changed


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
async def test_a_changed_key_is_said_to_be_one(servers: Yard, kind: str):
    server = servers.sshd()
    host = server.host()
    server.use_key(asyncssh.generate_private_key(kind))
    server.restart()

    trust = await seen(host)

    assert trust.is_changed
    assert trust.shown.text == public(server.key)
    assert trust.pinned != (trust.shown.fingerprint,)


async def test_a_key_that_cannot_be_read_does_not_stand_in_the_way_of_a_new_one(servers: Yard):
    trust = await seen(servers.sshd().host(host_key="ssh-ed25519 broken"))

    assert trust.pinned == ()


async def test_a_host_behind_a_jump_is_asked_through_it(servers: Yard):
    jump, target = servers.sshd("jump"), servers.sshd("target")

    trust = await seen(target.host(host_key=(), jump="jump"), {"jump": jump.host()})

    assert trust.shown.text == public(target.key)
    assert jump.logins() == 1


async def test_a_jump_must_be_trusted_first(servers: Yard):
    jump, target = servers.sshd("jump"), servers.sshd("target")

    with pytest.raises(Unavailable, match=r"its jump failed: host jump .* run `reconciler host trust jump`"):
        await seen(target.host(host_key=(), jump="jump"), {"jump": jump.host(host_key=())})


async def test_a_host_that_does_not_answer_is_told_with_the_remedy(servers: Yard):
    host = servers.sshd().host(host_key=())

    with pytest.raises(Unavailable, match="nothing listens there; check `port`"):
        await seen(host.model_copy(update={"port": 1}))
    async with silent_server() as port:
        with pytest.raises(Unavailable, match=r"no SSH answer within 0\.2 s"):
            await seen(host.model_copy(update={"port": port}), connect=0.2)


async def test_this_machine_has_no_key_to_trust():
    with pytest.raises(UsageError, match="host local is this machine"):
        await seen(Host(name="local"))
