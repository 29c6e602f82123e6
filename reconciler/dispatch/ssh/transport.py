"""
SSH transport: commands and files on a host, over one connection.

Everything goes over one connection. What fails is told as Unavailable, with
the host, the step and the remedy: for a run any failure of the way is doubt,
and what a person fixes on the host needs no new spec, so it is tried again.
"""

import asyncio
import contextlib
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncssh

from reconciler.core.errors import Unavailable
from reconciler.core.text import one_line
from reconciler.dispatch.ssh.connection import CachedSingleFlight, SshConnection, SshConnector
from reconciler.dispatch.ssh.greeting import Greeting, misunderstood, unended
from reconciler.dispatch.ssh.route import Hop
from reconciler.dispatch.ssh.sftp import Files
from reconciler.dispatch.transport import SAFE_WORD, CommandResult, Transport

T = TypeVar("T")

_SESSIONS, _LONG_SESSIONS = 6, 4
"""
Most commands at once, and most of those that may take long: sshd has 10
sessions (MaxSessions), and frees one later than its command ends. A probe must
not wait for repositories that are being copied.
"""
_LONG = 300.0
"""Seconds; a command that may take more is a long one."""
_STARVED = 3.0
"""Seconds for which sshd may have no session free before a new connection is made."""
_NEVER_OPENED = range(1, 5)
"""Codes of a refused channel (RFC 4254, 5.1): the command was not even sent."""
_SFTP_LOST = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection)
_REFUSED_PAUSE = 0.05
_REFUSED_CAP = 1.0


class SshTransport(Transport):
    """Transport to one host, over a connector that it shares only with hosts behind it."""

    def __init__(self, line: SshConnector, *, is_lasting: bool = True) -> None:
        self._line = line
        self._sessions = asyncio.Semaphore(_SESSIONS)
        self._long = asyncio.Semaphore(_LONG_SESSIONS)
        self._has_room_for_files = True
        """Whether sshd has a session for files beside one for commands (MaxSessions 1: it has not)."""
        self._visit: _SshSession | None = None
        hop = line.hop
        # A run may outlive the connection, and with it the agent's socket; the link is made anew each time.
        # There is one for each host: who comes only for a moment would take it from the runs of who stays.
        self._links_agent = hop.agent_forwarding and is_lasting
        self._prefix = ("env", f"SSH_AUTH_SOCK=$HOME/{agent_socket(hop.name)}") if self._links_agent else ()

    async def call(self, argv: Sequence[str], stdin: bytes = b"", *, timeout: float) -> CommandResult:
        """Run a short command and return all that it printed, as Transport says."""
        command = command_line((*self._prefix, *argv))
        step, visit = "wait for a free session", None
        try:
            async with asyncio.timeout(timeout), self._turn(timeout):
                while True:
                    step, visit = "connect", None
                    visit = await self._ready()
                    with visit.link.held():
                        step = "open a session (sshd has as many as its MaxSessions)"
                        process = await self._opened(visit, command, is_long=timeout > _LONG)
                        if process is not None:
                            step = f"run {command}"
                            return await finish(process, stdin)
        except TimeoutError as error:
            if visit:
                self._line.retire(
                    visit.link
                )  # a command that hangs keeps its session on the host: get new ones
            raise self._too_late(step, timeout) from error
        except (OSError, asyncssh.Error) as error:
            raise self._cut_off(step, error) from error

    async def read(self, path: str, offset: int, limit: int) -> bytes:
        """Return at most `limit` bytes of a file from `offset`, as Transport says."""
        step, timeout, visit = "connect", self._line.patience.read, None
        try:
            async with asyncio.timeout(timeout):
                visit = await self._ready()
                with visit.link.held():
                    step = f"read {path}"
                    files = await visit.files() if self._has_room_for_files else None
                    if files:
                        return await files.read(path, offset, limit)
        except TimeoutError as error:
            if visit:
                self._line.retire(visit.link)
            raise self._too_late(step, timeout) from error
        except (OSError, asyncssh.Error) as error:
            if visit and isinstance(error, asyncssh.SFTPNoConnection | asyncssh.SFTPConnectionLost):
                self._line.retire(visit.link)  # what serves files there can end alone, and then no read works
            raise self._cut_off(step, error) from error
        return await self._read_by_command(path, offset, limit)

    def retire(self) -> None:
        """Close the connection once it is unused; a later call opens a new one."""
        self._line.retire()

    async def close(self) -> None:
        """Close the connections; runs on the host go on."""
        await self._line.close()
        if self._visit:
            await self._visit.stop()

    async def _ready(self) -> "_SshSession":
        """Return the session of the live connection, after its greeting."""
        link = await self._line.link()
        if self._visit is None or self._visit.link is not link:
            self._visit = _SshSession(link, self._line, links_agent=self._links_agent)
        visit = self._visit
        await visit.greeted()
        return visit

    @contextlib.asynccontextmanager
    async def _turn(self, timeout: float) -> AsyncIterator[None]:
        """Wait for a session slot, and hold it during the block."""
        async with self._long if timeout > _LONG else contextlib.nullcontext(), self._sessions:
            yield

    async def _opened(
        self, visit: "_SshSession", command: str, *, is_long: bool
    ) -> "asyncssh.SSHClientProcess[bytes] | None":
        """
        Start the command in a session; None if a short one should be tried over a new connection.

        Sessions may be taken by commands that take long, or by our own client for
        files where there is but one; those are let go on, and new ones are had.
        """
        if is_long:
            return await visit.open(command)
        try:
            async with asyncio.timeout(_STARVED):
                return await visit.open(command)
        except TimeoutError:
            if visit.is_reading_only:
                self._has_room_for_files = False
            self._line.retire(visit.link)
            return None

    async def _read_by_command(self, path: str, offset: int, limit: int) -> bytes:
        """Read without SFTP, which a host may lack: a process for each piece, but the same bytes."""
        file = shlex.quote(path)
        script = (
            f"[ -f {file} ] || exit 0\n[ -r {file} ] || exit 1\n"
            f"tail -c +{offset + 1} {file} | head -c {limit}\n"
        )
        answer = await self.call(
            (self._line.hop.shell, "-s"), script.encode(), timeout=self._line.patience.read
        )
        if answer.exit_code != 0:  # words alone may be those of a login shell
            raise Unavailable(
                f"host {self._line.hop}: read {path}: refused (exit code {answer.exit_code}); "
                "see who may read it there"
            )
        return answer.stdout

    def _too_late(self, step: str, seconds: float) -> Unavailable:
        if step == "connect" and self._visit and self._visit.is_being_greeted:
            return Unavailable(f"host {self._line.hop}: {self._visit.why_silent(seconds)}")
        if self._visit and self._visit.greeted_in > seconds / 2:
            return Unavailable(
                f"host {self._line.hop}: {step}: no answer within {seconds:g} s; its login shell alone takes "
                f"{self._visit.greeted_in:.0f} s, see what its startup files (~/.bashrc, ~/.profile) do"
            )
        before = f"; the last try to connect: {self._line.last_error}" if self._line.last_error else ""
        return Unavailable(
            f"host {self._line.hop}: {step}: no answer within {seconds:g} s; "
            f"see whether it is overloaded or hangs{before}"
        )

    def _cut_off(self, step: str, error: Exception) -> Unavailable:
        if isinstance(error, asyncssh.SFTPError) and not isinstance(error, _SFTP_LOST):
            return Unavailable(
                f"host {self._line.hop}: {step}: refused ({one_line(str(error))}); see who may read it there"
            )
        return Unavailable(
            f"host {self._line.hop}: {step}: cut off ({one_line(str(error)) or type(error).__name__}); "
            "whether it was done is not known, ask again"
        )


class _SshSession:
    """State of one connection: its greeting, and its client for files."""

    def __init__(self, link: SshConnection, line: SshConnector, *, links_agent: bool) -> None:
        self.link = link
        self._links_agent = links_agent
        self._line = line
        self._greeting = CachedSingleFlight(self._greet)
        self._files = CachedSingleFlight(self._start_files)
        self._is_refused = False
        """Whether the last requested session was refused."""
        self._greeter: asyncssh.SSHClientProcess[bytes] | None = None
        self.greeted_in = 0.0
        """Seconds that the login shell took to answer."""

    async def greeted(self) -> None:
        """Check that the login shell runs commands without adding output of its own."""
        await self._greeting.get()

    async def files(self) -> Files | None:
        """Return the client for files; None if the host has no SFTP."""
        return await self._files.get()

    async def open(self, command: str) -> asyncssh.SSHClientProcess[bytes]:
        """Start the command in a session of its own."""
        return await self._opened(lambda: self.link.connection.create_process(command, encoding=None))

    @property
    def is_reading_only(self) -> bool:
        """Whether nothing but the client for files takes a session: who asks is the only user."""
        return self._files.is_done and self.link.users == 1

    async def stop(self) -> None:
        """Cancel what is still running."""
        await self._greeting.stop()
        await self._files.stop()

    async def _greet(self) -> None:
        hop, seconds = self._line.hop, self._line.patience.login
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(seconds):
                self._greeter = await self.open(f"{hop.shell} -s")
                greeting = _greeting(hop, links_agent=self._links_agent)
                greeted = await _greeted(self._greeter, greeting, self._line.patience.connect)
        except TimeoutError as error:
            self._line.retire(self.link)
            raise Unavailable(f"host {hop}: {self.why_silent(seconds)}") from error
        except (OSError, asyncssh.Error) as error:
            raise Unavailable(
                f"host {hop}: the connection ended ({one_line(str(error))}) before the login shell answered; "
                "if that goes on, see the log of its sshd"
            ) from error
        if not greeted.is_understood:
            self._line.retire(self.link)  # the login shell of a user is looked up when a connection is made
            raise Unavailable(f"host {hop}: {misunderstood(greeted, hop.shell)}")
        self.greeted_in = asyncio.get_running_loop().time() - began

    @property
    def is_being_greeted(self) -> bool:
        """Whether the login shell has been asked, and has not answered yet."""
        return not self._greeting.is_done

    def why_silent(self, seconds: float) -> str:
        """Return why the greeting is not over, from what came of it until now."""
        if self._is_refused:
            return (
                f"it opened no session within {seconds:g} s; see MaxSessions in its sshd_config (0 allows "
                "none), and who else uses this connection"
            )
        if self._greeter is None:
            return unended(b"", None, seconds)
        return unended(self._greeter.collect_output()[0] or b"", self._greeter.returncode, seconds)

    async def _start_files(self) -> Files | None:
        try:
            return Files(await self._opened(self.link.connection.start_sftp_client))
        except (asyncssh.ChannelOpenError, asyncssh.SFTPError):
            if self.link.is_lost:
                raise
            return None

    async def _opened(self, make: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `make` in a session; wait and retry while sshd has none free."""
        refusals = 0
        while True:
            try:
                made = await make()
            except asyncssh.ChannelOpenError as error:
                if self.link.is_lost or error.code not in _NEVER_OPENED:
                    raise
                self._is_refused = True
            else:
                self._is_refused = False
                return made
            refusals += 1
            await asyncio.sleep(self._line.pause(refusals, base=_REFUSED_PAUSE, cap=_REFUSED_CAP))


def command_line(argv: Sequence[str]) -> str:
    """Join the arguments to a line that every login shell reads alike. Raises ValueError for unsafe ones."""
    for word in argv:
        if not SAFE_WORD.match(word):
            raise ValueError(f"{word!r} is not safe on a command line; send it over stdin")
    return " ".join(f'"{word}"' if "$" in word else word for word in argv)  # a home may have spaces in it


async def finish(process: "asyncssh.SSHClientProcess[Any]", stdin: bytes) -> CommandResult:
    """
    Feed the process and return what it printed.

    Raises ConnectionLost if its exit code did not arrive: then it may still run.
    """
    try:
        with contextlib.suppress(BrokenPipeError):  # it may end without reading all of it
            process.stdin.write(stdin)
            process.stdin.write_eof()
        stdout, stderr = await process.communicate()
        code = process.returncode
    finally:
        process.close()
    if code is None:
        raise asyncssh.ConnectionLost("the connection ended before the command did")
    return CommandResult(exit_code=code if code >= 0 else 128 - code, stdout=stdout, stderr=stderr)


def agent_socket(host: str) -> str:
    """
    Return where a host keeps a link to the forwarded agent's socket, relative to the user's home.

    The socket itself moves with every connection; a run outlives connections
    and uses this path as SSH_AUTH_SOCK. Hosts may share a home, so the name is
    in it.
    """
    return f".local/state/reconciler/agent-{host.replace('/', '+')}.sock"


async def _greeted(process: "asyncssh.SSHClientProcess[Any]", script: bytes, patience: float) -> Greeting:
    """
    Send the greeting and return the answer.

    The end of the input comes later than usual: who waits for it read the input itself.
    """
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(script)
    after_eof = False
    try:
        try:
            async with asyncio.timeout(patience):
                await process.wait_closed()
        except TimeoutError:
            after_eof = True
        return Greeting(await finish(process, b""), after_eof)
    finally:
        process.close()


def _greeting(hop: Hop, *, links_agent: bool) -> bytes:
    """Return the first script over each connection; it updates the link to the forwarded agent's socket."""
    link = f'"$HOME"/{shlex.quote(agent_socket(hop.name))}'
    refresh = '[ -z "$SSH_AUTH_SOCK" ] || { mkdir -p "${link%/*}" && ln -sfn "$SSH_AUTH_SOCK" "$link"; }\n'
    return (
        "printf 'reconciler-%s\\n' greeted\n"
        + (f"link={link}\n{refresh}" if links_agent else "")
        + "printf 'reconciler-%s\\n' ready\nexit 0\n"
    ).encode()
