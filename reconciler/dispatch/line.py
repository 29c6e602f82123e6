"""
A line to one machine: one multiplexed SSH connection, made when it is needed and made again when it is lost.

Keys are pinned by the host's spec and nowhere else; the service user's own
configuration is read only where the spec says so.
"""

import asyncio
import contextlib
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import asyncssh

from reconciler.core.errors import Unavailable
from reconciler.core.text import one_line
from reconciler.dispatch.route import SSH_PORT, Hop

T = TypeVar("T")

ALGORITHMS = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}
"""Signature algorithms of each type of host key, the preferred type first."""

_CLOSE_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for a host, in seconds; the defaults suit the internet."""

    connect: float = 15.0
    """For a connection: TCP, key exchange, login."""
    keepalive: float = 15.0
    """Between two signs of life that are asked for."""
    keepalive_count: int = 3
    """How many may go unanswered; a dead line is noticed after keepalive * (count + 1)."""
    backoff: float = 0.5
    """Before the second try to connect; doubles with each."""
    backoff_cap: float = 30.0
    """Longest wait between two tries."""
    read: float = 30.0
    """For a piece of a file."""


class Shared(Generic[T]):
    """One doing for everybody who asks while it is being done."""

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._task: asyncio.Future[T] | None = None

    async def get(self) -> T:
        """
        Return what `make` makes; who gives up waiting does not take it from the others.

        Raises what `make` raises, and Unavailable if it was stopped.
        """
        task = self._task
        if task is None:
            task = self._task = asyncio.ensure_future(self._make())
            task.add_done_callback(self._done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if task.cancelled() and waiter and not waiter.cancelling():
                raise Unavailable("the way to the host was closed meanwhile; ask again") from None
            raise

    async def stop(self) -> None:
        """Stop it, if it is being done."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _done(self, task: asyncio.Future[T]) -> None:
        self._task = None
        if not task.cancelled():
            task.exception()  # seen here, in case nobody waits for it any more


class Once(Shared[T]):
    """The same, done well once: what came of it is kept."""

    _kept: tuple[T] | None = None

    async def get(self) -> T:
        """Return what `make` made or makes."""
        if self._kept is None:
            self._kept = (await super().get(),)
        return self._kept[0]


class Gate:
    """Lets few connections at a time be made: sshd drops the rest (MaxStartups), and we have one core."""

    def __init__(self, *, each: int = 4, total: int = 32) -> None:
        self._each: defaultdict[tuple[str, int], asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(each)
        )
        self._total = asyncio.Semaphore(total)

    @contextlib.asynccontextmanager
    async def entered(self, hop: Hop) -> AsyncIterator[None]:
        """Wait for a turn; it lasts as long as the block."""
        async with self._each[hop.address, hop.port], self._total:
            yield


class Link:
    """One connection, as long as it lives; it ends when it is retired and nobody uses it."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self.connection = connection
        self.is_lost = False
        self._is_retired = False
        self._users = 0

    @contextlib.contextmanager
    def held(self) -> Iterator[asyncssh.SSHClientConnection]:
        """Keep it from ending while the block uses it."""
        self.hold()
        try:
            yield self.connection
        finally:
            self.let_go()

    def hold(self) -> None:
        """Keep it from ending until `let_go`."""
        self._users += 1

    def let_go(self) -> None:
        """Say that one use is over."""
        self._users -= 1
        self._end_if_unused()

    def retire(self) -> None:
        """Let it end as soon as nobody uses it."""
        self._is_retired = True
        self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self._is_retired and self._users == 0:
            self.connection.close()


class Line:
    """The way over one hop, through the line before it (`via`) if there is one."""

    def __init__(
        self,
        hop: Hop,
        *,
        via: "Line | None",
        gate: Gate,
        patience: Patience,
        jitter: Callable[[], float],
        agent_path: str | None,
    ) -> None:
        self.hop = hop
        self.patience = patience
        self._via = via
        self._gate = gate
        self._jitter = jitter
        self._agent_path = agent_path
        self._link: Link | None = None
        self._links: set[Link] = set()
        self._connecting = Shared(self._connect)
        self._failures = 0
        self._not_before = 0.0
        self.trouble: Unavailable | None = None
        """Why the last try to connect failed; None after one that did not."""

    async def link(self) -> Link:
        """
        Return the live connection, or make one; tries that follow a failed one wait for their backoff.

        Raises Unavailable with the host, the step and the remedy.
        """
        if self._link is None or self._link.is_lost:
            return await self._connecting.get()
        return self._link

    async def shown_key(self) -> asyncssh.SSHKey:
        """
        Return the key the machine shows now, of a pinned type if it has one; nobody logs in.

        Whether it is the right one is not said. Raises Unavailable.
        """
        pinned = known_keys(self.hop)
        through = await self._through()
        async with self._gate.entered(self.hop):
            try:
                async with asyncio.timeout(self.patience.connect):
                    key = await asyncssh.get_server_host_key(
                        self.hop.address,
                        tunnel=through.connection if through else (),
                        server_host_key_algs=_algorithms(pinned),
                        **self._place(),
                    )
            except (OSError, ValueError, asyncssh.Error) as error:
                raise _trouble(self.hop, error, pinned, _Witness(), self.patience.connect) from error
        if key is None:
            raise Unavailable(f"host {self.hop}: it shows no key; pin one in `host_key` by hand")
        return key

    def retire(self, link: Link | None = None) -> None:
        """Have the next caller get a new connection; this one ends when it is no longer used."""
        link = link or self._link
        if link is None:
            return
        link.retire()
        if link is self._link:
            self._link = None

    def pause(self, tries: int, *, base: float, cap: float) -> float:
        """Return how long to wait after so many failed tries: doubling, capped, jittered."""
        return min(cap, base * 2.0 ** min(tries - 1, 16)) * (0.5 + self._jitter() / 2)

    async def close(self) -> None:
        """End every connection; what was started over them on the host goes on."""
        await self._connecting.stop()
        self._link = None
        links = list(self._links)
        for link in links:
            link.connection.close()
        for link in links:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await link.connection.wait_closed()

    async def _connect(self) -> Link:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._not_before - loop.time()))
        try:
            self._link = await self._open()
        except Unavailable as error:
            self._failures += 1
            wait = self.pause(self._failures, base=self.patience.backoff, cap=self.patience.backoff_cap)
            self._not_before = loop.time() + wait
            self.trouble = error
            raise
        self._failures, self.trouble = 0, None
        return self._link

    async def _open(self) -> Link:
        pinned = _pinned(self.hop)
        through = await self._through()
        if through is None:
            return await self._login(pinned, None)
        through.hold()
        try:
            return await self._login(pinned, through)
        except BaseException:
            through.let_go()
            raise

    async def _through(self) -> Link | None:
        """Return the connection to go through; None if it is reached directly."""
        if self._via is None:
            return None
        try:
            return await self._via.link()
        except Unavailable as error:
            raise Unavailable(f"host {self.hop}: its jump failed: {error}") from error

    async def _login(self, pinned: Sequence[asyncssh.SSHKey], through: Link | None) -> Link:
        witness = _Witness()
        async with self._gate.entered(self.hop), _client_keys(self.hop, self._agent_path) as keys:
            try:
                async with asyncio.timeout(self.patience.connect):
                    connection = await asyncssh.connect(
                        self.hop.address,
                        tunnel=through.connection if through else (),
                        known_hosts=(pinned, [], []),
                        server_host_key_algs=_algorithms(pinned),
                        client_factory=lambda: witness,
                        **self._options(keys),
                    )
            except (OSError, ValueError, asyncssh.Error) as error:
                raise _trouble(self.hop, error, pinned, witness, self.patience.connect) from error
        return self._begin(connection, witness, through)

    def _begin(
        self, connection: asyncssh.SSHClientConnection, witness: "_Witness", through: Link | None
    ) -> Link:
        """Keep the books of a new connection; what it goes through is held until it ends."""
        link = Link(connection)
        self._links.add(link)

        def lost() -> None:
            link.is_lost = True
            self._links.discard(link)
            if through:
                through.let_go()

        witness.tell(lost)
        return link

    def _options(self, keys: Sequence[asyncssh.SSHKeyPair] | None) -> dict[str, Any]:
        """Return what asyncssh is told; nothing is left to files and variables the spec does not name."""
        hop = self.hop
        options: dict[str, Any] = {
            "keepalive_interval": self.patience.keepalive,
            "keepalive_count_max": self.patience.keepalive_count,
            "preferred_auth": "publickey",
            "gss_kex": False,
            "gss_auth": False,
            "x509_trusted_certs": None,
            "agent_forwarding": (hop.agent_forwarding and self._agent_path) or False,
        }
        if hop.user:
            options["username"] = hop.user
        if keys is not None:
            options |= {"agent_path": None, "client_keys": keys}
        return options | self._place()

    def _place(self) -> dict[str, Any]:
        """Return where it is, beside the address; the user's own configuration may know better."""
        if self.hop.ssh_config:
            return {} if self.hop.port == SSH_PORT else {"port": self.hop.port}
        return {"config": None, "port": self.hop.port}


class _Witness(asyncssh.SSHClient):
    """Sees which key the host shows, and when the connection ends."""

    def __init__(self) -> None:
        self.presented: asyncssh.SSHKey | None = None
        self._is_lost = False
        self._tell: Callable[[], None] | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002  asyncssh's signature
        """Remember a key that is not pinned, for the error; trust nothing."""
        self.presented = key
        return False

    def tell(self, lost: Callable[[], None]) -> None:
        """Call this once the connection has ended, which it may have already."""
        self._tell = lost
        if self._is_lost:
            lost()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncssh's signature
        """Pass it on."""
        self._is_lost = True
        if self._tell:
            self._tell()


def fingerprint(key: asyncssh.SSHKey) -> str:
    """Return type and SHA-256 of a key as `ssh-keygen -l` prints them."""
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


def known_keys(hop: Hop) -> list[asyncssh.SSHKey]:
    """Return the pinned keys that can be read."""
    keys = []
    for text in hop.host_key:
        with contextlib.suppress(asyncssh.KeyImportError, ValueError):
            keys.append(asyncssh.import_public_key(text))
    return keys


def _pinned(hop: Hop) -> list[asyncssh.SSHKey]:
    if not hop.host_key:
        raise Unavailable(
            f"host {hop}: no host_key is pinned, so nothing there is trusted; "
            f"run `reconciler host trust {hop.name}`"
        )
    try:
        return [asyncssh.import_public_key(text) for text in hop.host_key]
    except (asyncssh.KeyImportError, ValueError) as error:
        raise Unavailable(
            f"host {hop}: host_key cannot be read ({error}); write it as `ssh-ed25519 AAAA…`, "
            f"or run `reconciler host trust {hop.name}`"
        ) from error


def _algorithms(pinned: Sequence[asyncssh.SSHKey]) -> list[str]:
    """
    Return all algorithms, those of the pinned keys first.

    The others are named too: a host that has only other keys shall show one,
    so that the error can say which.
    """
    types = {key.get_algorithm() for key in pinned}
    return [
        name for kind in sorted(ALGORITHMS, key=lambda kind: kind not in types) for name in ALGORITHMS[kind]
    ]


@contextlib.asynccontextmanager
async def _client_keys(
    hop: Hop, agent_path: str | None
) -> AsyncIterator[Sequence[asyncssh.SSHKeyPair] | None]:
    """Yield the keys to log in with: the identity file, else the agent's; None leaves it to ssh_config."""
    if hop.identity:
        yield _identity(hop, hop.identity)
    elif hop.ssh_config:
        yield None
    else:
        if not agent_path:
            raise Unavailable(
                f"host {hop}: no key to log in with; name one in `identity`, "
                "or run an SSH agent (SSH_AUTH_SOCK)"
            )
        try:
            agent = await asyncssh.connect_agent(agent_path)
        except OSError as error:
            raise Unavailable(
                f"host {hop}: the SSH agent does not answer ({error}); start it, or set `identity`"
            ) from error
        async with agent:
            keys = await agent.get_keys()
            if not keys:
                raise Unavailable(f"host {hop}: the SSH agent holds no key; `ssh-add` one, or set `identity`")
            yield keys


def _identity(hop: Hop, path: str) -> Sequence[asyncssh.SSHKeyPair]:
    try:
        return asyncssh.load_keypairs(str(Path(path).expanduser()))
    except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise Unavailable(
            f"host {hop}: identity {path} cannot be read ({one_line(str(error))}); mend `identity`; "
            "a key with a passphrase goes into the SSH agent, and `identity` is left out"
        ) from error


def _trouble(
    hop: Hop, error: Exception, pinned: Sequence[asyncssh.SSHKey], witness: _Witness, seconds: float
) -> Unavailable:
    """Return what went wrong in words: host, step, remedy."""
    user = f"user {hop.user!r}" if hop.user else "the service user's own name"
    match error:
        case asyncssh.HostKeyNotVerifiable() if witness.presented:
            expected = ", ".join(map(fingerprint, pinned))
            why = (
                f"its key has changed: expected {expected}, presented {fingerprint(witness.presented)}; "
                f"if that is right, run `reconciler host trust {hop.name}`, else somebody stands in between"
            )
        case asyncssh.PermissionDenied():
            why = (
                f"login refused for {user}; check `user`, and that the public key of "
                f"{hop.identity or 'a key in the SSH agent'} is in the authorized_keys there"
            )
        case asyncssh.ChannelOpenError():
            why = (
                f"the jump host cannot reach it ({one_line(str(error))}); "
                "check `address` and `port`, and AllowTcpForwarding of the jump host"
            )
        case TimeoutError():
            why = (
                f"no SSH answer within {seconds:g} s; "
                "check `address`, `port` and firewalls, and that sshd runs there"
            )
        case socket.gaierror():
            why = f"its name is not known ({error.strerror}); check `address`"
        case ConnectionRefusedError():
            why = "nothing listens there; check `port`, and that sshd runs"
        case asyncssh.ConnectionLost() | ConnectionResetError():
            why = (
                "it closed the connection before login; "
                "sshd may be starting, overloaded (MaxStartups), or bar us for a time (PerSourcePenalties)"
            )
        case asyncssh.Error():
            why = f"no SSH session could be agreed on ({one_line(str(error))}); check that `port` is sshd's"
        case _:
            why = f"no connection ({one_line(str(error))}); check `address` and the network"
    return Unavailable(f"host {hop}: {why}")
