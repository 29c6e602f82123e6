"""
sshd as it is out there: what works all the same, and what one is told of what cannot.
"""

import asyncio
import contextlib
import getpass
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncssh
import pytest

from reconciler.core.errors import Unavailable
from reconciler.core.model.specs import Host
from reconciler.dispatch.pool import TransportPool
from tests import processes
from tests.dispatch.sshd import Sshd, Yard, needs_sshd, public, quick, silent_server, yard
from tests.dispatch.world import until

pytestmark = needs_sshd
HELLO = b"echo hi\n"


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Yard]:
    with yard(tmp_path / "servers") as made:
        yield made


@contextlib.asynccontextmanager
async def opened(hosts: dict[str, Host] | None = None, **options) -> AsyncIterator[TransportPool]:
    transports = quick(hosts, **options)
    try:
        yield transports
    finally:
        await transports.close()


async def ask(host: Host, **options) -> str:
    """Return what a command on the host prints, or why it was not run."""
    async with opened(**options) as transports:
        try:
            answer = await transports(host).call(("sh", "-s"), HELLO, timeout=60)
        except Unavailable as error:
            return str(error)
    return answer.stdout.decode()


@pytest.fixture
def trusted() -> Iterator[Path]:
    """A folder from which sshd runs programs: nobody but root may write to it."""
    if os.geteuid() != 0:
        pytest.skip("sshd runs programs of root alone")
    with tempfile.TemporaryDirectory(dir=Path("~root").expanduser()) as folder:
        yield Path(folder)


def rsa(server: Sshd) -> Sshd:
    server.use_key(asyncssh.generate_private_key("ssh-rsa", key_size=2048))
    server.restart()
    return server


# --- What is no obstacle ---------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh", "csh", "dash"])
async def test_any_login_shell_will_do(servers: Yard, shell: str):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    server = servers.sshd(ForceCommand=f'exec {shell} -c "$SSH_ORIGINAL_COMMAND"')

    assert await ask(server.host()) == "hi\n"


@pytest.mark.parametrize(
    "options",
    [
        {"MaxSessions": "1"},
        {"Subsystem": ""},
        {"AcceptEnv": "none"},
        {"PermitUserEnvironment": "yes"},
        {"Banner": "/etc/passwd"},
        {"PrintMotd": "yes"},
        {"PasswordAuthentication": "yes", "KbdInteractiveAuthentication": "yes"},
        {"ForceCommand": 'echo warning >&2; exec sh -c "$SSH_ORIGINAL_COMMAND"'},
        {"KexAlgorithms": "ecdh-sha2-nistp256", "Ciphers": "aes128-ctr", "MACs": "hmac-sha1"},
        {"AllowTcpForwarding": "no", "AllowAgentForwarding": "no", "PermitTTY": "no", "PermitOpen": "none"},
        {"ClientAliveInterval": "1", "ClientAliveCountMax": "1", "RekeyLimit": "16K"},
    ],
    ids=",".join,
)
async def test_a_server_of_its_own_kind_is_used(servers: Yard, tmp_path: Path, options: dict[str, str]):
    server = servers.sshd(**options)
    (tmp_path / "file").write_text("text")

    async with opened() as transports:
        transport = transports(server.host())
        for _ in range(3):
            assert (await transport.call(("sh", "-s"), HELLO, timeout=60)).stdout == b"hi\n"
            assert await transport.read(str(tmp_path / "file"), 0, 10) == b"text"
    assert server.logins() <= 2


async def test_a_home_that_is_not_there_keeps_no_command_from_running(servers: Yard):
    server = servers.sshd(env={"HOME": "/nowhere/at/all"})

    assert await ask(server.host()) == "hi\n"


async def test_a_host_with_a_certificate_shows_its_pinned_key(servers: Yard):
    server, authority = servers.sshd(), asyncssh.generate_private_key("ssh-ed25519")
    certificate = authority.generate_host_certificate(server.key, "h1", principals=["127.0.0.1"])
    certificate.write_certificate(server.folder / "host_key-cert.pub")
    server.stop()
    server._options["HostCertificate"] = str(server.folder / "host_key-cert.pub")
    server.start()

    assert await ask(server.host()) == "hi\n"


async def test_a_certificate_beside_the_identity_logs_in(servers: Yard):
    authority = asyncssh.generate_private_key("ssh-ed25519")
    server = servers.sshd()
    key = asyncssh.read_private_key(server.identity)
    (server.folder / "authorized_keys").write_text(f"cert-authority {public(authority)}\n")
    assert "login refused" in await ask(server.host())

    authority.generate_user_certificate(key, "agents", principals=[getpass.getuser()]).write_certificate(
        f"{server.identity}-cert.pub"
    )

    assert await ask(server.host()) == "hi\n"  # and nothing was started anew


async def test_a_login_may_take_longer_than_a_connection(servers: Yard, trusted: Path):
    slow = trusted / "slow"
    server = servers.sshd(
        AuthorizedKeysCommand=str(slow), AuthorizedKeysCommandUser="root", AuthorizedKeysFile="none"
    )
    slow.write_text(f"#!/bin/sh\nsleep 5\ncat {server.folder}/authorized_keys\n")
    slow.chmod(0o755)
    server.restart()

    assert await ask(server.host(), connect=4.0, login=60.0) == "hi\n"


async def test_a_login_shell_may_take_longer_than_a_connection(servers: Yard):
    server = servers.sshd(ForceCommand='sleep 5; exec sh -c "$SSH_ORIGINAL_COMMAND"')

    assert await ask(server.host(), connect=4.0, login=60.0) == "hi\n"


async def test_where_sshd_has_one_session_files_are_read_and_commands_run(servers: Yard, tmp_path: Path):
    server = servers.sshd(MaxSessions="1")
    (tmp_path / "file").write_text("text")

    async with opened() as transports:
        transport = transports(server.host())
        for _ in range(4):
            assert await transport.read(str(tmp_path / "file"), 0, 10) == b"text"
            assert (await transport.call(("sh", "-s"), HELLO, timeout=60)).stdout == b"hi\n"

    assert server.logins() == 2


async def test_a_short_command_does_not_wait_for_the_long_ones(servers: Yard):
    server = servers.sshd(MaxSessions="2")
    async with opened() as transports:
        transport = transports(server.host())
        long = [asyncio.create_task(transport.call(("sleep", "300"), timeout=1800)) for _ in range(9)]
        await asyncio.sleep(0)

        answers = [await transport.call(("sh", "-s"), HELLO, timeout=60) for _ in range(3)]

        for task in long:
            task.cancel()
        await asyncio.gather(*long, return_exceptions=True)
    assert [answer.stdout for answer in answers] == [b"hi\n"] * 3


# --- Keys ------------------------------------------------------------------------


class Agent:
    """An SSH agent with many keys."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "agent")
        self._folder = folder
        self._process = subprocess.Popen(["ssh-agent", "-D", "-a", self.path], stdout=subprocess.DEVNULL)
        while not Path(self.path).exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.01)

    def add(self, file: Path) -> None:
        env = os.environ | {"SSH_AUTH_SOCK": self.path}
        subprocess.run(["ssh-add", "-q", str(file)], env=env, check=True, stdin=subprocess.DEVNULL)

    def add_strangers(self, count: int) -> None:
        for _ in range(count):
            key, file = asyncssh.generate_private_key("ssh-ed25519"), self._folder / "stranger"
            file.touch(mode=0o600)
            key.write_private_key(file)
            self.add(file)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    made = Agent(tmp_path_factory.mktemp("a"))
    yield made
    made.stop()


@pytest.mark.parametrize("before", [0, 5, 6, 11])
async def test_the_right_one_of_many_keys_in_the_agent_is_found_and_then_offered_first(
    servers: Yard, agent: Agent, before: int
):
    server = servers.sshd()
    agent.add_strangers(before)
    agent.add(server.identity)
    agent.add_strangers(2)

    async with opened(agent_path=agent.path) as transports:
        transport = transports(server.host(identity=None))
        assert (await transport.call(("sh", "-s"), HELLO, timeout=60)).stdout == b"hi\n"
        tries = server.log.read_text().count("Connection from")
        server.kill_connections()
        with contextlib.suppress(Unavailable):
            await transport.call(("sh", "-s"), HELLO, timeout=60)
        assert (await transport.call(("sh", "-s"), HELLO, timeout=60)).stdout == b"hi\n"

    assert server.log.read_text().count("Connection from") == tries + 1


async def test_too_many_keys_of_which_none_is_right_are_told_and_not_tried_for_ever(
    servers: Yard, agent: Agent
):
    server = servers.sshd()
    agent.add_strangers(30)

    told = await ask(server.host(identity=None), agent_path=agent.path)

    assert "(MaxAuthTries)" in told
    assert "name the right one in `identity`" in told
    assert server.log.read_text().count("Connection from") == 3


async def test_a_server_that_allows_few_tries_is_asked_again(servers: Yard, agent: Agent):
    server = servers.sshd(MaxAuthTries="3")
    agent.add_strangers(5)
    agent.add(server.identity)

    assert await ask(server.host(identity=None), agent_path=agent.path) == "hi\n"


async def test_an_identity_that_is_a_public_key_stands_for_the_agents_private_one(
    servers: Yard, agent: Agent
):
    server = servers.sshd()
    shutil.copy(server.folder / "authorized_keys", server.folder / "key.pub")
    host = server.host(identity=str(server.folder / "key.pub"))
    agent.add_strangers(9)

    absent = await ask(host, agent_path=agent.path)
    alone = await ask(host)
    agent.add(server.identity)

    assert re.search(r"is a public key .* does not hold ssh-ed25519 SHA256:.*; `ssh-add` its private", absent)
    assert re.search(r"is a public key .*; `ssh-add` its private key, or run an SSH agent \(SSH_AUTH", alone)
    assert await ask(host, agent_path=agent.path) == "hi\n"


async def test_a_key_with_a_passphrase_is_used_if_the_agent_holds_it(servers: Yard, agent: Agent):
    server = servers.sshd()
    agent.add_strangers(9)
    agent.add(server.identity)
    shutil.copy(server.folder / "authorized_keys", f"{server.identity}.pub")
    change = ["ssh-keygen", "-q", "-p", "-N", "open sesame", "-f", str(server.identity)]
    await asyncio.to_thread(subprocess.run, change, check=True, stdout=subprocess.DEVNULL)

    assert await ask(server.host(), agent_path=agent.path) == "hi\n"


@pytest.mark.parametrize("text", ["", "no key at all\n", "ssh-ed25519 AAAA\n"])
async def test_an_identity_that_is_no_key_is_told(servers: Yard, tmp_path: Path, text: str):
    (tmp_path / "key").write_text(text)

    told = await ask(servers.sshd().host(identity=str(tmp_path / "key")))

    assert "fix `identity`: a private key, or the .pub file of one that the SSH agent holds" in told


async def test_an_agent_that_hangs_is_given_up(servers: Yard, tmp_path_factory: pytest.TempPathFactory):
    path = str(tmp_path_factory.mktemp("a") / "agent")
    held = []
    async with await asyncio.start_unix_server(lambda *pair: held.append(pair), path):
        told = await ask(servers.sshd().host(identity=None), agent_path=path, connect=0.3)
        for _, writer in held:
            writer.close()

    assert "the SSH agent does not answer (not within 0.3 s)" in told


# --- What one is told -------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"HostKeyAlgorithms": "ssh-rsa"}, r"SHA-1 signatures only \(ssh-rsa\).*`ssh-keygen -A`"),
        ({"KexAlgorithms": "diffie-hellman-group1-sha1"}, r"no key exchange .* all that it has is diffie-"),
        ({"Ciphers": "3des-cbc"}, r"no cipher algorithm in common; all that it has is 3des-cbc, not safe"),
        ({"MACs": "hmac-md5", "Ciphers": "aes128-ctr"}, r"no MAC algorithm .* all that it has is hmac-md5"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
async def test_a_server_with_old_algorithms_only_is_told_with_them(servers: Yard, options, message):
    told = await ask(rsa(servers.sshd(**options)).host())

    assert re.search(message, told), told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"PubkeyAuthentication": "no", "PasswordAuthentication": "yes"},
            "it takes no keys, only password, and nobody is here to type; allow `PubkeyAuthentication`",
        ),
        (
            {"PubkeyAuthentication": "no", "KbdInteractiveAuthentication": "yes"},
            "it takes no keys, only keyboard-interactive",
        ),
        (
            {"AuthenticationMethods": "publickey,password", "PasswordAuthentication": "yes"},
            r"the key of .* is right, but it wants password besides \(AuthenticationMethods\)",
        ),
        ({"DenyUsers": "*"}, r"login refused for .*authorized_keys"),
        ({"PubkeyAcceptedAlgorithms": "rsa-sha2-512"}, r"login refused for .*\(PubkeyAcceptedAlgorithms\)"),
        ({"MaxSessions": "0"}, r"it opened no session within 5 s; see MaxSessions"),
        ({"ForceCommand": "internal-sftp"}, r"it allows SFTP and no commands \(ForceCommand internal-sftp\)"),
        ({"ForceCommand": "/bin/true"}, r"ended \(exit code 0\) before it ran anything.*forced command"),
        ({"ForceCommand": 'sh -c "$SSH_ORIGINAL_COMMAND"; echo bye'}, r"prints text after each .*'bye'"),
        ({"ForceCommand": "echo hello; exec sh -s"}, r"prints text before each command \('hello'\)"),
    ],
)
async def test_what_keeps_us_out_is_told_from_what_was_seen(servers: Yard, options, message):
    told = await ask(servers.sshd(**options).host(), login=5.0 if "MaxSessions" in options else 60.0)

    assert re.search(message, told), told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "exit 0\n",
            r"ended \(exit code 0\) before it ran anything; see whether its startup files .* `exit`",
        ),
        ("set -e; false\n", r"ended \(exit code 1\) before it ran anything.*`set -e`"),
        ("read answer\n", r"startup files .* read the input .* `\[ -t 0 \] \|\| return`"),
        ("cat >/dev/null\n", r"startup files .* read the input .* `\[ -t 0 \] \|\| return`"),
        ("echo welcome\n", r"prints text before each command \('welcome'\)"),
        ("trap 'echo bye' EXIT\n", r"prints text after each command \('bye'\)"),
        ("sh() { echo no; }\n", r"did not run `sh -s` \(exit code 0: 'no'\)"),
        ("echo oops >&2\n", "^hi\n$"),
        ("exec zsh\n", "^hi\n$|ended|exec: zsh: not found"),
        ("stty erase ^H\n", "^hi\n$"),
        ("trap 'exit 3' EXIT\n", r"ends each command with exit code 3, whatever that was"),
        ("exec 1>&2\n", r"lead its output elsewhere \(`exec >…`\)"),
        ("exec >/dev/null\n", r"before it ran anything; .*`exec` with a redirection"),
        ("printf '\\0'\n", r"prints text before each command \(b'\\x00'\)"),
        ("set -eu; echo $UNSET\n", r"UNSET: unbound variable.*see what its startup files"),
        ("export PATH=/nowhere\n", r"sh: command not found.*see what its startup files"),
        ("cd /; set -fux; umask 077; nohup sleep 9 >/dev/null 2>&1 &\n", "^hi\n$"),
    ],
)
async def test_startup_files_are_told_by_what_they_do(servers: Yard, text: str, message: str):
    server = servers.sshd()
    for file in (".bashrc", ".bash_profile"):
        (server.home / file).write_text(text)
    if await ask(server.host(), connect=4.0) == "hi\n" and not message.startswith("^hi"):
        pytest.skip("the login shell of this user reads no startup files under sshd")

    told = await ask(server.host(), connect=4.0)

    assert re.search(message, told), told


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"", r"closed the connection before login, without a message; .*MaxStartups.*PerSourcePenalties"),
        (b"Not allowed at this time\r\n", r"no connection from here for a while \(PerSourcePenalties"),
        (b"Exceeded MaxStartups\r\n", r"too many logins under way \(MaxStartups\)"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", r"is no sshd.*'HTTP/1.1 400 Bad Request'.*`port` is sshd's"),
        (b"220 mail ESMTP\r\n", r"is no sshd.*'220 mail ESMTP'"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", r"is no sshd"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", r"SSH-2.0-OpenSSH_9.9 closed the connection before login"),
        (b"SSH-1.5-old\r\n", r"it speaks 'SSH-1.5-old'"),
    ],
)
@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_server_that_ends_the_talk_is_told_by_what_it_said(
    servers: Yard, said: bytes, message: str, end: str
):
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        if end == "reset" and not said:  # else the reset may overtake the words
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        told = await ask(servers.sshd().host(port=server.sockets[0].getsockname()[1]))

    assert re.search(message, told), told


async def test_an_account_that_is_kept_out_after_its_key_is_told_so(servers: Yard):
    """As PAM does with an expired account: the connection ends when the key was shown."""
    server = servers.sshd(AuthorizedKeysCommand="/bin/false", AuthorizedKeysCommandUser="nobody")
    (server.folder / "authorized_keys").write_text("")

    class Closing(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            self.conn = conn

        def begin_auth(self, username: str) -> bool:
            return True

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
            self.conn.abort()
            return False

    listening = await asyncssh.create_server(Closing, "127.0.0.1", 0, server_host_keys=[server.key])
    async with listening:
        told = await ask(server.host(port=listening.get_port()))

    assert "ended the connection while the service user's own name logged in" in told
    assert "expired, locked or kept out" in told


async def test_a_host_key_of_another_type_than_the_pinned_one_is_told_so(servers: Yard):
    server = servers.sshd()
    host = server.host()
    server.use_key(asyncssh.generate_private_key("ecdsa-sha2-nistp256"))
    server.restart()

    told = await ask(host)

    assert "it shows a key of another type than the pinned one: expected ssh-ed25519" in told
    assert "presented ecdsa-sha2-nistp256" in told


async def test_a_call_that_is_given_up_under_a_slow_login_shell_says_what_it_waits_for(servers: Yard):
    gate = servers.folder / "gate"
    server = servers.sshd(
        ForceCommand=f'until [ -e {gate} ]; do sleep 0.1; done; exec sh -c "$SSH_ORIGINAL_COMMAND"'
    )
    async with opened() as transports:
        transport = transports(server.host())
        with pytest.raises(
            Unavailable, match="the login shell gave no answer within 5 s; see what its startup"
        ):
            await transport.call(("sh", "-s"), HELLO, timeout=5)

        gate.touch()
        assert (await transport.call(("sh", "-s"), HELLO, timeout=60)).stdout == b"hi\n"

    assert server.logins() == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(sleep 60) &\n", r"something that its startup files .* started keeps its output open"),
        ("while :; do echo tick; sleep 1; done &\n", r"something that its startup files .* started keeps"),
        ("trap 'sleep 60' EXIT;\n", r"did what it was asked to, but did not end .*`trap … EXIT`"),
        ("echo 'which one?'; sleep 60;\n", r"prints text of its own \('which one\?'\) and ran nothing"),
        ("kill -STOP $$;\n", r"gave no answer within 4 s; see what its startup files .* wait for"),
    ],
)
async def test_a_login_shell_that_does_not_end_is_told_by_what_came_of_it(
    servers: Yard, text: str, message: str
):
    server = servers.sshd(ForceCommand=f'{text.strip()} sh -c "$SSH_ORIGINAL_COMMAND"')
    async with opened(login=4.0) as transports:
        with pytest.raises(Unavailable) as told:
            await transports(server.host()).call(("sh", "-s"), HELLO, timeout=60)

    assert re.search(message, str(told.value)), told.value


async def test_a_call_that_a_slow_login_shell_keeps_waiting_says_how_long_that_takes(servers: Yard):
    server = servers.sshd(ForceCommand='sleep 1; exec sh -c "$SSH_ORIGINAL_COMMAND"')
    async with opened() as transports:
        transport = transports(server.host())
        await transport.call(("sh", "-s"), HELLO, timeout=60)

        with pytest.raises(Unavailable, match=r"its login shell alone takes \d+ s, see what its startup"):
            await transport.call(("sh", "-s"), HELLO, timeout=0.5)


async def test_who_only_accepts_is_told_apart_from_who_is_not_there(servers: Yard):
    async with silent_server() as port:
        told = await ask(servers.sshd().host(port=port), connect=0.2)

    assert "no SSH answer within 0.2 s; check `address`, `port` and firewalls" in told
    assert "what accepts connections there says nothing" in told


# --- The user's own configuration -------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        "RequestTTY force",
        "RequestTTY yes",
        "RemoteCommand echo remote",
        "RequestTTY force\nRemoteCommand tmux attach",
        "ControlMaster auto\nControlPath ~/.ssh/control-%h\nControlPersist 10",
        "ForwardX11 yes\nForwardAgent yes\nLocalForward 1 127.0.0.1:1",
        "PermitLocalCommand yes\nLocalCommand false",
        "SendEnv LANG LC_*\nSetEnv A=b",
        "IdentitiesOnly yes",
        "PreferredAuthentications password",
        "ServerAliveInterval 1\nConnectTimeout 60\nTCPKeepAlive no\nCompression yes",
        "ProxyCommand {python} {proxy} 127.0.0.1 {port}",
        "Include {folder}/more",
    ],
)
async def test_what_the_users_configuration_wants_for_people_changes_no_command(
    servers: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str
):
    server, home = servers.sshd(), tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    proxy = tmp_path / "proxy.py"
    proxy.write_text(PROXY)
    (tmp_path / "more").write_text(f"Port {server.port}\n")
    text = lines.format(python=sys.executable, proxy=proxy, port=server.port, folder=tmp_path)
    (home / ".ssh" / "config").write_text(
        f"Host friendly\nHostName 127.0.0.1\nPort {server.port}\nIdentityFile {server.identity}\n{text}\n"
        'Match exec "true"\nServerAliveCountMax 5\n'
    )
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "file").write_bytes(b"a\nb\r\n")
    host = server.host(address="friendly", port=22, ssh_config=True, identity=None)

    async with opened() as transports:
        answer = await transports(host).call(("sh", "-s"), b"echo hi; echo no >&2; exit 3\n", timeout=60)
        data = await transports(host).read(str(tmp_path / "file"), 0, 100)
    await until(lambda: not is_waited_for(proxy))
    await asyncio.sleep(0)  # the loop is told of its end

    assert (answer.exit_code, answer.stdout, answer.stderr) == (3, b"hi\n", b"no\n")
    assert data == b"a\nb\r\n"


def is_waited_for(program: Path) -> bool:
    """Return whether a program runs, or has ended and the loop was not told yet."""
    waiting = (thread.name.startswith("asyncio-waitpid") for thread in threading.enumerate())
    return bool(processes.with_word(str(program))) or any(waiting)


PROXY = """
import os, select, socket, sys
line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
while True:
    for source in select.select([0, line], [], [])[0]:
        data = os.read(0, 65536) if source == 0 else line.recv(65536)
        if not data:
            sys.exit()
        line.sendall(data) if source == 0 else os.write(1, data)
"""
