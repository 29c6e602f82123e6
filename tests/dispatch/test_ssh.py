"""
Connections to real sshd servers: what may go wrong with them, and what must not be noticed.
"""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

import asyncssh
import pytest

from reconciler.core.errors import Unavailable
from reconciler.core.model.specs import Host
from reconciler.dispatch.pool import TransportPool
from reconciler.dispatch.ssh import connection
from reconciler.dispatch.ssh.connection import ConnectLimiter, SingleFlight
from reconciler.dispatch.ssh.diagnosis import fingerprint
from reconciler.dispatch.ssh.route import Hop
from tests import processes
from tests.dispatch.sshd import Sshd, Yard, needs_sshd, public, quick, silent_server, yard

pytestmark = needs_sshd


@pytest.fixture
def servers(tmp_path: Path):
    with yard(tmp_path / "servers") as made:
        yield made


@contextlib.asynccontextmanager
async def opened(hosts: dict[str, Host] | None = None, **options):
    transports = quick(hosts, **options)
    try:
        yield transports
    finally:
        await transports.close()


async def why(host: Host, **options) -> str:
    """Return what a call to the host is told."""
    async with opened(**options) as transports:
        with pytest.raises(Unavailable) as told:
            await transports(host).call(("true",), timeout=300)
    return str(told.value)


async def say(transports: TransportPool, host: Host, text: str) -> bytes:
    return (await transports(host).call(("echo", text), timeout=300)).stdout


# --- What goes wrong, and what one is told -----------------------------------

OTHER = asyncssh.generate_private_key("ssh-ed25519")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": 1}, r"nothing listens there; check `port`"),
        ({"address": "no-such-host.invalid"}, r"its name is not known.*check `address`"),
        ({"address": "255.255.255.255"}, r"no connection \(.*check `address` and the network"),
        ({"user": "nobody"}, r"login refused for user 'nobody'; check `user`.*authorized_keys"),
        ({"host_key": ()}, r"no host_key is pinned.*reconciler host trust h1"),
        ({"host_key": "ssh-ed25519 AAAA"}, r"host_key cannot be read.*reconciler host trust h1"),
        ({"host_key": public(OTHER)}, r"its key has changed: expected .*presented .*host trust h1"),
        ({"identity": "/nowhere/key"}, r"identity /nowhere/key cannot be read.*fix `identity`"),
        ({"identity": None}, r"no key to log in with; name one in `identity`.*SSH_AUTH_SOCK"),
        ({"shell": "no-such-shell"}, r"did not run `no-such-shell -s` \(exit code 127.*set `shell`"),
        ({"jump": "h2"}, r"jump 'h2' is no host of this fleet.*specs/hosts/"),
        ({"jump": "a b c"}, r"jump 'a b c' is neither a host's name nor `user@address:port`"),
        ({"jump": "h1@127.0.0.1:1"}, r"is no host of this fleet, so its key is pinned nowhere"),
    ],
)
async def test_a_spec_that_leads_nowhere_is_told_with_host_step_and_remedy(servers: Yard, changes, message):
    told = await why(servers.sshd().host(**changes))

    assert told.startswith("host h1")
    assert re.search(message, told), told


async def test_a_changed_key_is_told_with_both_fingerprints(servers: Yard):
    server = servers.sshd()
    host = server.host()
    expected = fingerprint(server.key)
    server.use_key(asyncssh.generate_private_key("ecdsa-sha2-nistp256"))
    server.restart()

    told = await why(host)

    assert f"expected {expected}" in told
    assert f"presented {fingerprint(server.key)}" in told


async def test_any_of_several_pinned_keys_will_do(servers: Yard):
    server = servers.sshd()

    async with opened() as transports:
        host = server.host(host_key=(public(OTHER), server.host_key))
        assert await say(transports, host, "hello") == b"hello\n"


async def test_a_key_with_a_passphrase_belongs_into_the_agent(servers: Yard, tmp_path: Path):
    locked = tmp_path / "locked"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f", str(locked)]
    await asyncio.to_thread(subprocess.run, command, check=True)

    told = await why(servers.sshd().host(identity=str(locked)))

    assert "Passphrase must be specified" in told
    assert "goes into the SSH agent" in told


async def test_an_identity_that_never_answers_is_told_and_holds_no_thread(servers, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "key")
    monkeypatch.setattr(connection, "_IDENTITY_TIMEOUT", 0.1)

    told = await why(servers.sshd().host(identity=str(tmp_path / "key")))

    os.close(os.open(tmp_path / "key", os.O_WRONLY))  # the thread comes back
    assert "key did not answer within 0.1 s; fix `identity`" in told


async def test_a_key_the_host_does_not_know_is_refused(servers: Yard, tmp_path: Path):
    stranger = tmp_path / "stranger"
    OTHER.write_private_key(stranger)

    assert "login refused" in await why(servers.sshd().host(identity=str(stranger)))


async def test_a_server_that_accepts_and_says_nothing_is_given_up(servers: Yard):
    async with silent_server() as port:
        told = await why(servers.sshd().host(port=port), connect=0.2)

    assert "no SSH answer within 0.2 s; check `address`, `port` and firewalls" in told


async def test_a_server_that_is_no_sshd_is_told_so(servers: Yard):
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-1.0-something else\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        told = await why(servers.sshd().host(port=server.sockets[0].getsockname()[1]))

    assert "the SSH handshake failed" in told
    assert "check that `port` is sshd's" in told


async def test_a_shell_that_prints_a_banner_is_told_with_its_words(servers: Yard):
    server = servers.sshd(ForceCommand='echo "Welcome to h1"; exec sh -c "$SSH_ORIGINAL_COMMAND"')

    told = await why(server.host())

    assert "prints text before each command ('Welcome to h1')" in told
    assert "~/.bashrc" in told


async def test_a_user_without_a_login_shell_is_told_so(servers: Yard):
    told = await why(servers.sshd(ForceCommand='echo "This account is not available."; exit 1').host())

    assert "did not run `sh -s` (exit code 1: 'This account is not available.')" in told


async def test_a_login_shell_that_hangs_is_told_so(servers: Yard):
    told = await why(servers.sshd(ForceCommand="exec sleep 300").host(), login=3.0)

    assert "the login shell gave no answer within 3 s; see what its startup files" in told


async def test_a_connection_that_ends_under_the_login_shell_is_told_so(servers: Yard):
    told = await why(servers.sshd(ForceCommand="kill -9 $PPID").host())

    assert "before the login shell answered; if that goes on, see the log of its sshd" in told


async def test_a_mended_host_is_used_again(servers: Yard):
    server = servers.sshd()
    server.stop()
    async with opened() as transports:
        with pytest.raises(Unavailable, match="nothing listens"):
            await say(transports, server.host(), "early")

        server.start()

        assert await say(transports, server.host(), "later") == b"later\n"


async def test_a_failed_try_is_not_repeated_before_its_backoff_is_over(servers: Yard):
    tries = 0

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    host = servers.sshd().host(port=server.sockets[0].getsockname()[1])
    async with server, opened(backoff=1000.0, backoff_cap=1000.0) as transports:
        with pytest.raises(Unavailable, match="closed the connection before login"):
            await say(transports, host, "first")

        with pytest.raises(Unavailable, match=r"connect: no answer .* last try to connect: .*before login"):
            await transports(host).call(("true",), timeout=0.1)

    assert tries == 1


# --- Connections that end ----------------------------------------------------


async def test_a_connection_killed_under_a_command_is_doubt_and_the_next_call_works(
    servers: Yard, tmp_path: Path
):
    server, started = servers.sshd(), tmp_path / "started"
    os.mkfifo(started)
    async with opened() as transports:
        script = f"exec 3>&1; (exec sleep 300 >&3) & echo up >{started}; wait".encode()
        call = asyncio.create_task(transports(server.host()).call(("sh", "-s"), script, timeout=60))
        await asyncio.to_thread(started.read_bytes)  # until it has begun

        assert server.kill_connections() == 1

        with pytest.raises(Unavailable, match=r"run sh -s: cut off .* is not known, ask again"):
            await call
        assert await say(transports, server.host(), "again") == b"again\n"


async def test_a_restarted_server_is_found_again(servers: Yard):
    server = servers.sshd()
    async with opened() as transports:
        assert await say(transports, server.host(), "before") == b"before\n"

        server.restart()
        with contextlib.suppress(Unavailable):  # it may not have noticed yet
            await say(transports, server.host(), "notice")

        assert await say(transports, server.host(), "after") == b"after\n"


async def test_a_connection_that_falls_silent_is_noticed_by_its_missing_signs_of_life(servers: Yard):
    server = servers.sshd()
    async with opened(keepalive=0.5, keepalive_count=10) as transports:
        await say(transports, server.host(), "before")
        stalled = server.stall_connections()

        try:
            with pytest.raises(Unavailable, match="cut off"):
                await transports(server.host()).call(("true",), timeout=1800)
        finally:
            for pid in stalled:
                os.kill(pid, signal.SIGKILL)

        assert await say(transports, server.host(), "after") == b"after\n"


async def test_a_read_that_gets_no_answer_is_doubt(servers: Yard, tmp_path: Path):
    server, file = servers.sshd(), tmp_path / "file"
    file.write_text("text")
    async with opened(read=0.5) as transports:
        transport = transports(server.host())
        await transport.call(("true",), timeout=300)
        stalled = server.stall_connections()

        try:
            with pytest.raises(Unavailable, match=rf"read {file}: no answer within 0\.5 s"):
                await transport.read(str(file), 0, 10)
        finally:
            for pid in stalled:
                os.kill(pid, signal.SIGKILL)


async def test_a_call_that_is_given_up_leaves_the_others_alone(servers: Yard):
    server = servers.sshd()
    async with opened() as transports:
        transport = transports(server.host())
        given_up = [asyncio.create_task(transport.call(("sleep", "300"), timeout=60)) for _ in range(3)]
        kept = asyncio.create_task(transport.call(("echo", "kept"), timeout=60))
        await asyncio.sleep(0)

        for call in given_up:
            call.cancel()

        assert (await kept).stdout == b"kept\n"
        assert all(
            isinstance(end, asyncio.CancelledError)
            for end in await asyncio.gather(*given_up, return_exceptions=True)
        )


async def test_closing_ends_the_connections_and_what_waits_for_them(servers: Yard):
    server = servers.sshd()
    transports = quick()
    call = asyncio.create_task(transports(server.host()).call(("sleep", "300"), timeout=60))
    await say(transports, server.host(), "open")

    await transports.close()

    with pytest.raises(Unavailable):
        await call


async def test_what_waits_for_a_connection_is_told_when_it_is_given_up():
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    shared = SingleFlight(lambda: never)
    waiter = asyncio.create_task(shared.get())
    await asyncio.sleep(0)

    await shared.stop()

    with pytest.raises(Unavailable, match="closed meanwhile"):
        await waiter


# --- Sessions and connections are counted ------------------------------------


async def test_one_connection_serves_all_calls_and_reads(servers: Yard, tmp_path: Path):
    server = servers.sshd()
    (tmp_path / "file").write_text("text")
    async with opened() as transports:
        transport = transports(server.host())
        answers = await asyncio.gather(
            *(transport.call(("true",), timeout=60) for _ in range(40)),
            *(transport.read(str(tmp_path / "file"), 0, 10) for _ in range(40)),
        )

    assert len(answers) == 80
    assert server.logins() == 1


@pytest.mark.parametrize("sessions", ["2", "4"])
async def test_calls_queue_where_sshd_has_few_sessions(servers: Yard, tmp_path: Path, sessions: str):
    server = servers.sshd(MaxSessions=sessions)
    (tmp_path / "file").write_text("text")
    async with opened() as transports:
        transport = transports(server.host())
        assert await transport.read(str(tmp_path / "file"), 0, 10) == b"text"

        answers = await asyncio.gather(*(transport.call(("true",), timeout=60) for _ in range(20)))

    assert [answer.exit_code for answer in answers] == [0] * 20
    assert server.logins() == 1


async def test_commands_that_hang_do_not_use_up_the_sessions_of_the_host(servers: Yard):
    server = servers.sshd(MaxSessions="3")
    async with opened() as transports:
        transport = transports(server.host())
        for _ in range(4):
            with pytest.raises(Unavailable):
                await transport.call(("sleep", "30"), timeout=0.5)

        assert await say(transports, server.host(), "still") == b"still\n"


async def test_few_connections_are_made_at_a_time():
    gate, inside, most = ConnectLimiter(each=2, total=3), set(), 0
    turn = asyncio.Event()

    async def enter(hop: Hop, number: int) -> None:
        nonlocal most
        async with gate.entered(hop):
            inside.add((hop.address, number))
            most = max(most, len(inside))
            assert sum(address == hop.address for address, _ in inside) <= 2
            await turn.wait()
            inside.discard((hop.address, number))

    hops = [Hop(name=name, address=name) for name in ("a", "b", "c")]
    entering = [asyncio.create_task(enter(hop, number)) for hop in hops for number in range(5)]
    for _ in range(10):
        await asyncio.sleep(0)
    turn.set()
    await asyncio.gather(*entering)

    assert most == 3


async def test_hosts_that_hang_keep_no_others_from_being_connected_to():
    gate, free = ConnectLimiter(each=2, total=2, brief=0), asyncio.Event()
    async with (
        asyncio.timeout(60),
        gate.entered(Hop(name="a", address="a")),
        gate.entered(Hop(name="b", address="b")),
        gate.entered(Hop(name="c", address="c")),
    ):
        free.set()

    assert free.is_set()
    assert not gate._turns


# --- The way: jump hosts, changed specs --------------------------------------


async def test_hosts_behind_a_jump_share_one_connection_to_it(servers: Yard):
    jump, first, second = servers.sshd("jump"), servers.sshd("first"), servers.sshd("second")
    hosts = {"jump": jump.host()}
    async with opened(hosts) as transports:
        said = await asyncio.gather(
            say(transports, first.host(jump="jump"), "first"),
            say(transports, second.host(jump="jump"), "second"),
            say(transports, jump.host(), "jump"),
        )

    assert said == [b"first\n", b"second\n", b"jump\n"]
    assert [server.logins() for server in servers.servers] == [1, 1, 1]


async def test_a_host_behind_a_jump_is_reached_through_it_only(servers: Yard):
    jump, target = servers.sshd("jump"), servers.sshd("target")
    host = target.host(jump="jump")
    async with opened({"jump": jump.host()}) as transports:
        assert await say(transports, host, "before") == b"before\n"

        jump.stop()
        with pytest.raises(Unavailable):
            await say(transports, host, "without")
        with pytest.raises(
            Unavailable, match=r"host target .* its jump failed: host jump .* nothing listens"
        ):
            await say(transports, host, "without")
        jump.start()

        assert await say(transports, host, "after") == b"after\n"


async def test_a_chain_of_jumps_is_gone_hop_by_hop(servers: Yard):
    outer, inner, target = servers.sshd("outer"), servers.sshd("inner"), servers.sshd("target")
    hosts = {"outer": outer.host(), "inner": inner.host(jump="outer")}

    async with opened(hosts) as transports:
        assert await say(transports, target.host(jump="inner"), "there") == b"there\n"

    assert [server.logins() for server in servers.servers] == [1, 1, 1]


async def test_a_jump_needs_no_shell(servers: Yard):
    jump, target = servers.sshd("jump", ForceCommand="exit 1"), servers.sshd("target")

    async with opened({"jump": jump.host()}) as transports:
        assert await say(transports, target.host(jump="jump"), "there") == b"there\n"


async def test_a_jump_given_by_address_is_pinned_by_the_host_at_that_address(servers: Yard):
    jump, target = servers.sshd("jump"), servers.sshd("target")
    user = (await asyncio.to_thread(subprocess.check_output, ["id", "-un"])).decode().strip()
    host = target.host(jump=f"{user}@127.0.0.1:{jump.port}")

    async with opened({"jump": jump.host()}) as transports:
        assert await say(transports, host, "there") == b"there\n"

    assert jump.logins() == 1


async def test_a_jump_whose_key_has_changed_is_not_gone_through(servers: Yard):
    jump, target = servers.sshd("jump"), servers.sshd("target")
    hosts = {"jump": jump.host(host_key=public(OTHER))}

    async with opened(hosts) as transports:
        with pytest.raises(Unavailable, match=r"its jump failed: host jump .*key has changed"):
            await say(transports, target.host(jump="jump"), "there")


async def test_the_same_account_is_the_same_transport_however_it_is_reached(servers: Yard):
    host = servers.sshd().host()
    async with opened() as transports:
        assert transports(host) is transports(host.model_copy(update={"slots": 7}))
        assert transports(host) is transports(host.model_copy(update={"port": 1}))
        assert transports(host) is transports(host.model_copy(update={"jump": "nobody"}))
        assert transports(host) is not transports(host.model_copy(update={"user": "other"}))
        assert transports(host) is not transports(host.model_copy(update={"address": "127.0.0.2"}))


async def test_who_holds_a_transport_follows_every_change_of_the_way(servers: Yard):
    server = servers.sshd()
    hosts = {"h1": server.host(host_key=public(OTHER))}
    async with opened(hosts) as transports:
        held = transports(hosts["h1"])
        with pytest.raises(Unavailable, match="key has changed"):
            await held.call(("true",), timeout=300)

        hosts["h1"] = server.host()

        assert (await held.call(("echo", "trusted"), timeout=300)).stdout == b"trusted\n"


async def test_what_was_begun_at_an_address_is_followed_there_though_the_host_has_moved(servers: Yard):
    here, there = servers.sshd("h1"), servers.sshd("there", ListenAddress="127.0.0.2")
    hosts = {"h1": here.host()}
    async with opened(hosts) as transports:
        held = transports(hosts["h1"])
        hosts["h1"] = there.host(name="h1", address="127.0.0.2")

        for transport, home in ((held, here.home), (transports(hosts["h1"]), there.home)):
            assert (await transport.call(("echo", "$HOME"), timeout=300)).stdout == f"{home}\n".encode()


async def test_ways_that_are_not_taken_any_more_are_forgotten(servers: Yard):
    front, back = servers.sshd("front"), servers.sshd("back")
    hosts = {"front": front.host(), "back": back.host(jump="front")}
    async with opened(hosts) as transports:
        held = transports(hosts["back"])
        for number in range(20):
            hosts["back"] = back.host(jump="front", identity=f"{back.identity}", user=None, shell="sh")
            hosts["gone"] = Host(name="gone", address=f"192.0.2.{number}", host_key=front.host_key)
            transports(hosts["gone"])
            link = back.folder / f"identity{number}"
            link.symlink_to(back.identity)
            hosts["back"] = back.host(jump="front", identity=str(link))
            assert (await held.call(("echo", "hi"), timeout=60)).stdout == b"hi\n"

        assert len(transports._remotes) == 1
        assert len(transports._lines) <= 4
        assert len(transports._requested) <= 3


async def test_this_machine_is_no_jump_host(servers: Yard):
    told_by = servers.sshd().host(jump="here")

    async with opened({"here": Host(name="here")}) as transports:
        with pytest.raises(Unavailable, match="host here: it has no address"):
            await transports(told_by).call(("true",), timeout=300)


async def test_jumps_in_a_circle_are_told_so(servers: Yard):
    host = servers.sshd().host(jump="h2")
    hosts = {"h1": host, "h2": host.model_copy(update={"name": "h2", "jump": "h1"})}

    async with opened(hosts) as transports:
        with pytest.raises(Unavailable, match="jump goes in a circle"):
            await transports(host).read("/etc/hostname", 0, 10)


async def test_what_a_jump_host_cannot_reach_is_told_so(servers: Yard):
    jump, target = servers.sshd("jump"), servers.sshd("target")

    async with opened({"jump": jump.host()}) as transports:
        with pytest.raises(Unavailable, match="the jump host cannot reach it"):
            await say(transports, target.host(jump="jump", port=1), "there")


async def test_a_changed_way_gets_a_new_connection_and_any_other_change_does_not(servers: Yard):
    server = servers.sshd()
    async with opened() as transports:
        await say(transports, server.host(), "first")
        await say(transports, server.host(slots=9, cordon=True), "same-way")
        assert server.logins() == 1

        await say(transports, server.host(host_key=(server.host_key, public(OTHER))), "new-way")
        assert server.logins() == 2

        assert await say(transports, server.host(), "old-way") == b"old-way\n"  # a run began with it


# --- Nothing is taken from the service user, nothing lent to the host --------


@pytest.fixture
def user_config(servers: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sshd:
    """Have a server that the user's own ~/.ssh/config leads to by another name."""
    server = servers.sshd()
    folder = tmp_path / "user" / ".ssh"
    folder.mkdir(parents=True)
    (folder / "config").write_text(
        f"Host nickname\n  HostName 127.0.0.1\n  Port {server.port}\n  IdentityFile {server.identity}\n"
    )
    monkeypatch.setenv("HOME", str(folder.parent))
    return server


async def test_the_users_own_configuration_is_not_read(user_config: Sshd):
    told = await why(user_config.host(address="nickname", port=22))

    assert "its name is not known" in told


async def test_the_users_own_configuration_is_read_for_a_host_that_says_so(user_config: Sshd):
    host = user_config.host(address="nickname", port=22, identity=None, ssh_config=True)

    async with opened() as transports:
        assert await say(transports, host, "hello") == b"hello\n"


async def test_the_users_own_known_hosts_do_not_stand_in_for_a_pinned_key(user_config: Sshd):
    known = f"[127.0.0.1]:{user_config.port} {user_config.host_key}\n"
    await asyncio.to_thread((Path.home() / ".ssh" / "known_hosts").write_text, known)

    told = await why(user_config.host(host_key=(), ssh_config=True))

    assert "no host_key is pinned" in told


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory):
    """Start an SSH agent; return the path of its socket."""
    socket = tmp_path_factory.mktemp("agent") / "socket"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()  # it says so when it listens
    yield str(socket)
    process.terminate()
    process.wait()
    process.stdout.close()


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory):
    """Have servers whose homes have short paths: a socket's has at most 107 bytes."""
    with yard(tmp_path_factory.mktemp("s") / "s") as made:
        yield made


async def add(agent: str, identity: Path) -> None:
    async with await asyncssh.connect_agent(agent) as client:
        await client.add_keys([str(identity)])


async def test_without_an_identity_the_agents_keys_are_used(servers: Yard, agent: str):
    server = servers.sshd()
    host = server.host(identity=None)
    assert "the SSH agent does not answer" in await why(host, agent_path=f"{agent}-gone")
    assert "the SSH agent holds no key" in await why(host, agent_path=agent)

    await add(agent, server.identity)

    async with opened(agent_path=agent) as transports:
        assert await say(transports, host, "hello") == b"hello\n"


async def test_an_agent_is_not_forwarded_unless_the_host_asks_for_it(servers: Yard, agent: str):
    server = servers.sshd()
    await add(agent, server.identity)

    async with opened(agent_path=agent) as transports:
        assert await say(transports, server.host(), "/$SSH_AUTH_SOCK") == b"/\n"


async def test_a_run_finds_the_forwarded_agent_again_after_the_connection_broke(short: Yard, agent: str):
    server = short.sshd()
    await add(agent, server.identity)
    host = server.host(agent_forwarding=True)
    ask = ("ssh-add", "-l")
    async with opened(agent_path=agent) as transports:
        first = await transports(host).call(ask, timeout=300)
        server.kill_connections()
        with contextlib.suppress(Unavailable):
            await say(transports, host, "notice")

        second = await transports(host).call(ask, timeout=300)

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout == second.stdout != b""


SFTP_SERVER = "/usr/lib/openssh/sftp-server"
"""Where Debian has it."""


# --- Following a file --------------------------------------------------------


@pytest.mark.parametrize("subsystem", ["sftp internal-sftp", ""])
async def test_nothing_of_a_growing_file_is_lost_or_doubled_across_killed_connections(
    servers: Yard, tmp_path: Path, subsystem: str
):
    server, log = servers.sshd(Subsystem=subsystem), tmp_path / "out"
    written = [f"line {number}\n".encode() * 50 for number in range(150)]
    got = b""
    async with opened() as transports:
        for number, text in enumerate(written):
            with log.open("ab") as out:
                out.write(text)
            if number % 10 == 5:
                server.kill_connections()
            with contextlib.suppress(Unavailable):
                got += await transports(server.host()).read(str(log), len(got), 1 << 20)
        while len(got) < log.stat().st_size:
            with contextlib.suppress(Unavailable):  # the end of the last connection may show only now
                got += await transports(server.host()).read(str(log), len(got), 1 << 20)

    assert got == b"".join(written)
    assert server.logins() > 10


@pytest.mark.skipif(not Path(SFTP_SERVER).exists(), reason=f"{SFTP_SERVER} is not installed")
async def test_a_client_for_files_that_ends_alone_is_replaced(servers: Yard, tmp_path: Path):
    server, log = servers.sshd(Subsystem=f"sftp {SFTP_SERVER}"), tmp_path / "out"
    log.write_text("line")
    async with opened() as transports:
        assert await transports(server.host()).read(str(log), 0, 9) == b"line"
        helper = next(pid for pid in descendants(server.connections()) if b"sftp-server" in command_of(pid))
        os.kill(helper, signal.SIGKILL)

        with contextlib.suppress(Unavailable):  # at the latest the second read meets it
            await transports(server.host()).read(str(log), 0, 9)
            await transports(server.host()).read(str(log), 0, 9)
        assert await transports(server.host()).read(str(log), 0, 9) == b"line"


def descendants(pids: list[int]) -> list[int]:
    below = [child for pid in pids for child in processes.children(pid)]
    return [*below, *descendants(below)] if below else []


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_more_files_are_read_than_handles_are_kept(
    servers: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("reconciler.dispatch.ssh.sftp._KEPT", 5)
    for number in range(30):
        (tmp_path / str(number)).write_text(f"text {number}")
    async with opened() as transports:
        transport = transports(servers.sshd().host())
        for _ in range(3):
            texts = await asyncio.gather(*(transport.read(str(tmp_path / str(n)), 0, 99) for n in range(30)))
            assert texts == [f"text {number}".encode() for number in range(30)]


async def test_a_file_made_anew_under_the_same_path_is_read_once_the_old_handle_is_old(
    servers: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("reconciler.dispatch.ssh.sftp._KEPT_SECONDS", -1.0)
    file = tmp_path / "out"
    file.write_text("old")
    async with opened() as transports:
        transport = transports(servers.sshd().host())
        assert await transport.read(str(file), 0, 10) == b"old"
        file.unlink()
        file.write_text("new text")

        assert await transport.read(str(file), 3, 10) == b""  # the end of the old one
        assert await transport.read(str(file), 0, 10) == b"new text"
