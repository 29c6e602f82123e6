"""
OpenSSH's own server on loopback ports, each with its own keys and settings.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import asyncssh
import pytest

from reconciler.core.model.specs import Host
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.pool import TransportPool
from reconciler.dispatch.ssh.connection import ConnectTimeouts
from tests import processes
from tests.ports import free_port

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needs_sshd = [
    pytest.mark.sshd,
    pytest.mark.skipif(SSHD is None, reason="OpenSSH's server (sshd) is not installed"),
]
_START_TRIES = 1000


class Sshd:
    """One server; `stop`, `start` and `kill_connections` are what may happen to it."""

    def __init__(
        self,
        folder: Path,
        name: str,
        client_key: asyncssh.SSHKey,
        env: dict[str, str],
        options: dict[str, str],
        *,
        within: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.folder = folder
        self.port = free_port()
        self.log = folder / "log"
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.identity = folder / "identity"
        self.home = folder / "home"
        # Neither this user's startup files nor what runs there shall meet.
        self._env = {"HOME": str(self.home)} | env
        self._options = options
        self._within = within
        self._client_key = client_key
        self._process: subprocess.Popen[bytes] | None = None
        self.home.mkdir(parents=True)
        self.use_key(self.key)
        self.identity.touch(mode=0o600)
        client_key.write_private_key(self.identity)
        client_key.write_public_key(folder / "authorized_keys")

    @property
    def host_key(self) -> str:
        return public(self.key)

    def host(self, **changes: object) -> Host:
        """Return the spec with which this server is reached."""
        fields = {
            "name": self.name,
            "address": self._options.get("ListenAddress", "127.0.0.1"),
            "port": self.port,
            "host_key": (self.host_key,),
            "identity": str(self.identity),
        }
        return Host.model_validate(fields | changes)

    def use_key(self, key: asyncssh.SSHKey) -> None:
        """Show this key from the next start on."""
        self.key = key
        path = self.folder / "host_key"
        path.touch(mode=0o600)
        path.write_bytes(key.export_private_key())

    def start(self) -> None:
        settings = {
            "Port": str(self.port),
            "ListenAddress": "127.0.0.1",
            "HostKey": str(self.folder / "host_key"),
            "AuthorizedKeysFile": str(self.folder / "authorized_keys"),
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "LogLevel": "VERBOSE",
            "Subsystem": "sftp internal-sftp",
            "SetEnv": " ".join(f"{name}={value}" for name, value in self._env.items()),
        } | self._options
        config = self.folder / "config"
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items() if value))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd run by root insists on it
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*self._within, str(SSHD), "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"]},
            )
        self._wait_until_it_listens()

    def _wait_until_it_listens(self) -> None:
        assert self._process
        for _ in range(_START_TRIES):
            if b"Server listening" in self.log.read_bytes():
                return
            assert self._process.poll() is None, self.log.read_text()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=0.01)
        pytest.fail(f"sshd does not start: {self.log.read_text()}")

    def connections(self) -> list[int]:
        """Return the processes that serve connections now."""
        assert self._process
        return processes.children(self._process.pid)

    def kill_connections(self) -> int:
        """End every connection the hard way; what runs on the host goes on."""
        victims = self.connections()
        for monitor in victims:
            # An sshd that is not root's has a process of its own for the user, which holds the connection.
            for pid in (*(each for each in processes.children(monitor) if processes.is_sshd(each)), monitor):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return len(victims)

    def stall_connections(self) -> list[int]:
        """Have every connection fall silent; return whom to SIGKILL in the end."""
        stalled = [pid for parent in self.connections() for pid in (parent, *processes.children(parent))]
        for pid in stalled:
            os.kill(pid, signal.SIGSTOP)
        return stalled

    def logins(self) -> int:
        """Return how many logins succeeded since the start."""
        return self.log.read_text(errors="replace").count("Accepted publickey")

    def stop(self) -> None:
        """Stop listening, and end all connections."""
        if self._process:
            self.kill_connections()
            self._process.kill()
            self._process.wait()
            self._process = None

    def clear(self) -> None:
        """End what still runs on this host: what outlived its connection."""
        for pid in processes.with_variable("HOME", str(self.home)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()


class Yard:
    """Makes servers, and stops them in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._client_key = asyncssh.generate_private_key("ssh-ed25519")
        self.servers: list[Sshd] = []

    def sshd(
        self,
        name: str = "h1",
        env: dict[str, str] | None = None,
        *,
        within: Sequence[str] = (),
        **options: str,
    ) -> Sshd:
        """
        Return a running server; `options` are lines of sshd_config, an empty one takes a line away.

        `within` is a command that becomes the one after it, such as `ip netns exec NAME`.
        """
        server = Sshd(self.folder / name, name, self._client_key, env or {}, options, within=within)
        self.servers.append(server)
        server.start()
        return server

    def stop(self) -> None:
        for server in self.servers:
            server.stop()
            server.clear()


def quick(
    hosts: Mapping[str, Host] | None = None,
    *,
    local: Path = Path("nowhere"),
    agent_path: str | None = None,
    is_lasting: bool = True,
    **patience: float,
) -> TransportPool:
    """Return transports that do not wait long between tries, but for an answer as long as it takes."""
    return TransportPool(
        lambda: hosts or {},
        local=lambda host: LocalTransport(local / host.name),
        jitter=lambda: 0.5,
        agent_path=agent_path,
        patience=ConnectTimeouts(**{"connect": 30.0, "backoff": 0.01, "backoff_cap": 0.1} | patience),
        is_lasting=is_lasting,
    )


@contextlib.contextmanager
def yard(folder: Path) -> Iterator[Yard]:
    """Yield a maker of servers that are stopped at the end of the block."""
    made = Yard(folder)
    try:
        yield made
    finally:
        made.stop()


@contextlib.asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """Yield the port of a server that accepts connections and says nothing."""
    held: list[asyncio.StreamWriter] = []

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for writer in held:
            writer.close()
        server.close()
        await server.wait_closed()


def public(key: asyncssh.SSHKey) -> str:
    """Return the public key as it is pinned."""
    return key.export_public_key().decode().strip()
