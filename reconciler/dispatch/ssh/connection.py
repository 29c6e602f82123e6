"""
SSH connector: one multiplexed connection per machine, opened on demand and reopened after a loss.

Keys are pinned by the host's spec and nowhere else; the service user's own
configuration is read only where the spec says so.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import asyncssh

from reconciler.core.errors import Unavailable
from reconciler.core.text import one_line
from reconciler.dispatch.ssh.diagnosis import Class, Finding, Seen, Try, diagnose, fingerprint
from reconciler.dispatch.ssh.route import SSH_PORT, Hop
from reconciler.files import read_in_time

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
_IDENTITY_TIMEOUT = 10.0
"""Seconds for reading an identity file."""
_MOST_LOGINS = 3
"""Connections made for one login whose right key may be one of many: more of them, and sshd bars us."""
_MOST_OUTPUT = 16 * 1024
"""Bytes that are kept of what a server says before it is encrypted; its algorithms take 1 or 2 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectTimeouts:
    """How long to wait for a host, in seconds; the defaults suit the internet."""

    connect: float = 15.0
    """For the TCP connection and the sshd's version line."""
    login: float = 60.0
    """For the key exchange and the login after that, and again for the login shell: directories are slow."""
    keepalive: float = 15.0
    """Between two keepalive requests."""
    keepalive_count: int = 3
    """How many may go unanswered; a dead line is noticed after keepalive * (count + 1)."""
    backoff: float = 0.5
    """Before the second try to connect; doubles with each."""
    backoff_cap: float = 30.0
    """Longest wait between two tries."""
    read: float = 30.0
    """For a piece of a file."""


class SingleFlight(Generic[T]):
    """Single flight: concurrent callers share one call."""

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._task: asyncio.Future[T] | None = None

    async def get(self) -> T:
        """
        Return the result of `make`; a cancelled caller does not cancel it for the others.

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

    @property
    def is_busy(self) -> bool:
        """Whether a call is running."""
        return self._task is not None

    async def stop(self) -> None:
        """Cancel the running call, if there is one."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _done(self, task: asyncio.Future[T]) -> None:
        self._task = None
        if not task.cancelled():
            task.exception()  # retrieved here, in case nobody awaits it any more


class CachedSingleFlight(SingleFlight[T]):
    """Cached single flight: the first result without an error is kept."""

    _kept: tuple[T] | None = None

    @property
    def is_done(self) -> bool:
        """Whether there is a cached result."""
        return self._kept is not None

    async def get(self) -> T:
        """Return the cached result, or that of `make`."""
        if self._kept is None:
            self._kept = (await super().get(),)
        return self._kept[0]


class ConnectLimiter:
    """
    Limits the connections that are opened at a time: sshd drops the rest (MaxStartups), and we have one core.

    One that takes longer than `brief` seconds only waits, for a host that may
    hang: it has no part in the total any more, which others wait for.
    """

    def __init__(self, *, each: int = 4, total: int = 32, brief: float = 3.0) -> None:
        self._turns: dict[tuple[str, int], _KeyedLock] = {}
        self._each = each
        self._total = asyncio.Semaphore(total)
        self._brief = brief

    @contextlib.asynccontextmanager
    async def entered(self, hop: Hop) -> AsyncIterator[None]:
        """Wait for a slot, and hold it during the block."""
        place = hop.address, hop.port
        turns = self._turns.setdefault(place, _KeyedLock(asyncio.Semaphore(self._each)))
        turns.wanted += 1
        try:
            async with turns.free, self._part_of_total():
                yield
        finally:
            turns.wanted -= 1
            if not turns.wanted:
                del self._turns[place]

    @contextlib.asynccontextmanager
    async def _part_of_total(self) -> AsyncIterator[None]:
        await self._total.acquire()
        leave = contextlib.ExitStack()
        leave.callback(self._total.release)
        early = asyncio.get_running_loop().call_later(self._brief, leave.close)  # idempotent
        try:
            yield
        finally:
            early.cancel()
            leave.close()


@dataclass(slots=True)
class _KeyedLock:
    """A lock that exists as long as somebody waits for it."""

    free: asyncio.Semaphore
    wanted: int = 0


class SshConnection:
    """One connection, with a count of its users; closed once it is retired and unused."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self.connection = connection
        self.is_lost = False
        self._is_retired = False
        self.users = 0
        """Current number of users."""

    @contextlib.contextmanager
    def held(self) -> Iterator[asyncssh.SSHClientConnection]:
        """Keep it open during the block."""
        self.hold()
        try:
            yield self.connection
        finally:
            self.release()

    def hold(self) -> None:
        """Keep it open until `release`."""
        self.users += 1

    def release(self) -> None:
        """End one use."""
        self.users -= 1
        self._end_if_unused()

    def retire(self) -> None:
        """Close it as soon as it is unused."""
        self._is_retired = True
        self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self._is_retired and self.users == 0:
            self.connection.close()


class SshConnector:
    """Opens connections over one hop, through the connector of the previous hop (`via`) if there is one."""

    def __init__(
        self,
        hop: Hop,
        *,
        via: "SshConnector | None",
        gate: ConnectLimiter,
        patience: ConnectTimeouts,
        jitter: Callable[[], float],
        agent_path: str | None,
    ) -> None:
        self.hop = hop
        self.patience = patience
        self._via = via
        self._gate = gate
        self._jitter = jitter
        self._agent_path = agent_path
        self._link: SshConnection | None = None
        self._links: set[SshConnection] = set()
        self._good_key = b""
        """Public key of the last login: offered first, before sshd has seen too many."""
        self._connecting = SingleFlight(self._connect)
        self._failures = 0
        self._not_before = 0.0
        self.last_error: Unavailable | None = None
        """Why the last try to connect failed; None after one that did not."""

    @property
    def is_used(self) -> bool:
        """Whether any connection is in use; those are closed by `close`."""
        return bool(self._links) or self._connecting.is_busy

    async def link(self) -> SshConnection:
        """
        Return the live connection, or open one; attempts after a failed one wait for their backoff.

        Raises Unavailable with the host, the step and the remedy.
        """
        if self._link is None or self._link.is_lost:
            return await self._connecting.get()
        return self._link

    async def shown_key(self) -> asyncssh.SSHKey:
        """
        Return the machine's current host key, of a pinned type if it has one, without logging in.

        The key is not verified. Raises Unavailable.
        """
        pinned = known_keys(self.hop)
        through = await self._through()
        witness = _HostKeyObserver()
        async with self._gate.entered(self.hop):
            try:
                connection = await self._connected((), pinned, through, witness, {"client_keys": None})
            except asyncssh.HostKeyNotVerifiable as error:
                if witness.seen.presented is None:
                    raise self._error(error, pinned, witness.seen) from error
                return witness.seen.presented
            except (OSError, ValueError, asyncssh.Error) as error:
                raise self._error(error, pinned, witness.seen) from error
        connection.close()
        raise Unavailable(f"host {self.hop}: it shows no key; pin one in `host_key` by hand")

    def retire(self, link: SshConnection | None = None) -> None:
        """Make the next caller get a new connection; this one is closed when it is no longer used."""
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
        """Close every connection; runs on the host go on."""
        await self._connecting.stop()
        self._link = None
        links = list(self._links)
        for link in links:
            link.connection.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await asyncio.gather(*(link.connection.wait_closed() for link in links))

    async def _connect(self) -> SshConnection:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._not_before - loop.time()))
        try:
            self._link = await self._open()
        except Unavailable as error:
            self._failures += 1
            wait = self.pause(self._failures, base=self.patience.backoff, cap=self.patience.backoff_cap)
            self._not_before = loop.time() + wait
            self.last_error = error
            raise
        self._failures, self.last_error = 0, None
        return self._link

    async def _open(self) -> SshConnection:
        pinned = _pinned(self.hop)
        through = await self._through()
        if through is None:
            return await self._login(pinned, None)
        through.hold()
        try:
            return await self._login(pinned, through)
        except BaseException:
            through.release()
            raise

    async def _through(self) -> SshConnection | None:
        """Return the connection to go through; None if it is reached directly."""
        if self._via is None:
            return None
        try:
            return await self._via.link()
        except Unavailable as error:
            raise Unavailable(f"host {self.hop}: its jump failed: {error}") from error

    async def _login(self, pinned: Sequence[asyncssh.SSHKey], through: SshConnection | None) -> SshConnection:
        async with self._gate.entered(self.hop), self._client_keys() as keys:
            left = None if keys is None else sorted(keys, key=lambda key: key.public_data != self._good_key)
            for turn in range(1, _MOST_LOGINS + 1):
                witness = _HostKeyObserver(left)
                try:
                    connection = await self._connected(
                        pinned, pinned, through, witness, self._login_options(left)
                    )
                except (OSError, ValueError, asyncssh.Error) as error:
                    finding = self._diagnose(error, pinned, witness.seen)
                    left = (left or [])[witness.seen.offered :]
                    # sshd hangs up after some keys (MaxAuthTries); the rest is for another connection.
                    if finding.kind is Class.TOO_MANY_KEYS and left and turn < _MOST_LOGINS:
                        continue
                    raise Unavailable(f"host {self.hop}: {finding.message}") from error
                self._good_key = witness.last_key
                return self._begin(connection, witness, through)
        raise AssertionError("every turn returns or raises")

    async def _connected(
        self,
        trusted: Sequence[asyncssh.SSHKey],
        pinned: Sequence[asyncssh.SSHKey],
        through: SshConnection | None,
        witness: "_HostKeyObserver",
        options: Mapping[str, Any],
    ) -> asyncssh.SSHClientConnection:
        """Connect and log in: with the short timeout up to the version line, then with that for logins."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.patience.connect) as limit:
            witness.on_hello = lambda: limit.reschedule(loop.time() + self.patience.login)
            return await asyncssh.connect(
                self.hop.address,
                tunnel=through.connection if through else (),
                known_hosts=(trusted, [], []),
                server_host_key_algs=_algorithms(pinned),
                client_factory=lambda: witness,
                login_timeout=None,
                **{**self._options(), **options},
            )

    def _diagnose(self, error: Exception, pinned: Sequence[asyncssh.SSHKey], seen: Seen) -> Finding:
        seconds = self.patience.login if seen.hello else self.patience.connect
        return diagnose(Try(self.hop, error, seen, pinned, _algorithms(pinned), seconds))

    def _error(self, error: Exception, pinned: Sequence[asyncssh.SSHKey], seen: Seen) -> Unavailable:
        return Unavailable(f"host {self.hop}: {self._diagnose(error, pinned, seen).message}")

    def _begin(
        self,
        connection: asyncssh.SSHClientConnection,
        witness: "_HostKeyObserver",
        through: SshConnection | None,
    ) -> SshConnection:
        """Register a new connection; the one it goes through is held until it ends."""
        link = SshConnection(connection)
        self._links.add(link)

        def lost() -> None:
            link.is_lost = True
            self._links.discard(link)
            if through:
                through.release()

        witness.tell(lost)
        return link

    def _options(self) -> dict[str, Any]:
        """Return the options of asyncssh; no files or variables are used that the spec does not name."""
        hop = self.hop
        options: dict[str, Any] = {
            "keepalive_interval": self.patience.keepalive,
            "keepalive_count_max": self.patience.keepalive_count,
            # Interactive logins are never done, but a request for one tells what is wrong.
            "preferred_auth": "publickey,keyboard-interactive,password",
            # No terminal and no command, whatever the user's configuration says.
            "request_pty": False,
            "command": None,
            "gss_kex": False,
            "gss_auth": False,
            "x509_trusted_certs": None,
            "agent_forwarding": (hop.agent_forwarding and self._agent_path) or False,
        }
        if hop.user:
            options["username"] = hop.user
        return options | self._place()

    @staticmethod
    def _login_options(keys: Sequence[asyncssh.SSHKeyPair] | None) -> Mapping[str, Any]:
        """Return the options for client keys: offered one by one by the observer, or as ssh_config says."""
        return {} if keys is None else {"agent_path": None, "client_keys": None}

    @contextlib.asynccontextmanager
    async def _client_keys(self) -> AsyncIterator[Sequence[asyncssh.SSHKeyPair] | None]:
        """Yield the keys to log in with: the identity's, else the agent's; None for those of ssh_config."""
        hop = self.hop
        if hop.identity:
            identity = await _identity(hop, hop.identity)
            if not isinstance(identity, InAgent):
                yield identity
                return
            async with self._agents_keys(f"{identity.why}; `ssh-add` its private key") as keys:
                yield identity.among(hop, keys)
        elif hop.ssh_config:
            yield None
        else:
            async with self._agents_keys("no key to log in with; name one in `identity`") as keys:
                if not keys:
                    raise Unavailable(
                        f"host {hop}: the SSH agent holds no key; `ssh-add` one, or set `identity`"
                    )
                yield keys

    @contextlib.asynccontextmanager
    async def _agents_keys(self, why: str) -> AsyncIterator[Sequence[asyncssh.SSHKeyPair]]:
        """Yield the keys of the SSH agent, whose connection is open during the block."""
        hop = self.hop
        if not self._agent_path:
            raise Unavailable(f"host {hop}: {why}, or run an SSH agent (SSH_AUTH_SOCK)")
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self.patience.connect):
                    agent = await stack.enter_async_context(asyncssh.connect_agent(self._agent_path))
                    keys = await agent.get_keys()
            except (OSError, ValueError, asyncssh.Error) as error:
                reason = one_line(str(error)) or f"not within {self.patience.connect:g} s"
                raise Unavailable(
                    f"host {hop}: the SSH agent does not answer ({reason}); start it, or set `identity`"
                ) from error
            yield keys

    def _place(self) -> dict[str, Any]:
        """Return the port, and no configuration file unless the spec allows the user's own."""
        if self.hop.ssh_config:
            return {} if self.hop.port == SSH_PORT else {"port": self.hop.port}
        return {"config": None, "port": self.hop.port}


class _HostKeyObserver(asyncssh.SSHClient):
    """Observes a login, offers the keys one by one, and notices the end of the connection."""

    def __init__(self, keys: Sequence[asyncssh.SSHKeyPair] | None = None) -> None:
        self.seen = Seen()
        self.last_key = b""
        self.on_hello: Callable[[], None] = lambda: None
        self._keys = deque(keys or ())
        self._is_lost = False
        self._tell: Callable[[], None] | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Record what the other side sends before encryption, which no error contains."""
        self.seen.connected = True
        receive = conn.data_received

        def data_received(data: bytes, datatype: Any = None) -> None:
            was_greeted = bool(self.seen.hello)
            self.seen.output += data[: _MOST_OUTPUT - len(self.seen.output)]
            if self.seen.hello and not was_greeted:
                self.on_hello()
            if len(self.seen.output) >= _MOST_OUTPUT:
                del conn.data_received
            receive(data, datatype)

        conn.data_received = data_received  # type: ignore[method-assign]

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002  asyncssh's signature
        """Remember a key that is not pinned, for the error; trust nothing."""
        self.seen.presented = key
        return False

    def public_key_auth_requested(self) -> asyncssh.SSHKeyPair | None:
        """Offer the next key."""
        if not self._keys:
            self.seen.is_exhausted = True
            return None
        key = self._keys.popleft()
        self.seen.offered, self.last_key = self.seen.offered + 1, key.public_data
        return key

    def kbdint_auth_requested(self) -> None:
        """Note that keyboard-interactive login is offered."""
        self.seen.prompts.add("keyboard-interactive")

    def password_auth_requested(self) -> None:
        """Note that password login is offered."""
        self.seen.prompts.add("password")

    def auth_banner_received(self, msg: str, lang: str) -> None:  # noqa: ARG002  asyncssh's signature
        """Note the login banner."""
        self.seen.banner = one_line(msg, 200)

    def tell(self, lost: Callable[[], None]) -> None:
        """Set the callback for the end of the connection; called at once if it has ended."""
        self._tell = lost
        if self._is_lost:
            lost()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncssh's signature
        """Notify the callback."""
        self._is_lost = True
        if self._tell:
            self._tell()


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


@dataclass(frozen=True, slots=True)
class InAgent:
    """A public key whose private key must come from the SSH agent, and the reason."""

    public: asyncssh.SSHKey
    why: str

    def among(self, hop: Hop, keys: Sequence[asyncssh.SSHKeyPair]) -> Sequence[asyncssh.SSHKeyPair]:
        """Return the agent's matching keys. Raises Unavailable if there is none."""
        matching = [key for key in keys if self.public.public_data in {key.public_data, key.key_public_data}]
        if not matching:
            raise Unavailable(
                f"host {hop}: {self.why}, and the agent does not hold {fingerprint(self.public)}; "
                "`ssh-add` its private key, or name a private key without a passphrase"
            )
        return matching


async def _identity(hop: Hop, path: str) -> Sequence[asyncssh.SSHKeyPair] | InAgent:
    """Return what an identity file holds, as `read_identity` does, also if it never answers."""
    try:
        return await read_in_time(partial(read_identity, hop, path), path, _IDENTITY_TIMEOUT)
    except OSError as error:
        raise Unavailable(f"host {hop}: identity {path} {error.strerror}; fix `identity`") from None


def read_identity(hop: Hop, path: str) -> Sequence[asyncssh.SSHKeyPair] | InAgent:
    """
    Return the keys of an identity file, or an `InAgent` if the SSH agent must provide them.

    That is so for a file with a public key, and for a private key with a
    passphrase beside its `.pub`. Raises Unavailable.
    """
    file = str(Path(path).expanduser())
    try:
        return asyncssh.load_keypairs(file)
    except (OSError, ValueError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        is_locked = isinstance(error, asyncssh.KeyEncryptionError) or "assphrase" in str(error)
        why = f"identity {path} cannot be read ({one_line(str(error))}); " + (
            "a key with a passphrase goes into the SSH agent"
            if is_locked
            else "fix `identity`: a private key, or the .pub file of one that the SSH agent holds"
        )
        public = _public_key(f"{file}.pub" if is_locked else file)
        if public is None:
            more = ", and `identity` names its .pub file or is left out" if is_locked else ""
            raise Unavailable(f"host {hop}: {why}{more}") from error
    return InAgent(public, why if is_locked else f"identity {path} is a public key of the SSH agent's")


def _public_key(file: str) -> asyncssh.SSHKey | None:
    """Return the public key in a file, or that of a certificate; None if it has none."""
    with contextlib.suppress(OSError, ValueError, asyncssh.KeyImportError):
        return asyncssh.read_public_key(file)
    with contextlib.suppress(OSError, ValueError, asyncssh.KeyImportError):
        return asyncssh.read_certificate(file).key
    return None
