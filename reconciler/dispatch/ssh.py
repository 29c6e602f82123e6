"""
A host over SSH: the transport that makes a run there what it is here.

Everything goes over one connection. What fails is told as Unavailable, with
the host, the step and the remedy: for a run any failure of the way is doubt,
and what a person mends on the host needs no new spec, so it is tried again.
"""

import asyncio
import contextlib
import shlex
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncssh

from reconciler.core.errors import Unavailable
from reconciler.core.text import one_line
from reconciler.dispatch.line import Line, Link, Once
from reconciler.dispatch.sftp import Files
from reconciler.dispatch.transport import SAFE_WORD, Answer, Transport

T = TypeVar("T")

_SESSIONS = 6
"""Most commands at once: sshd has 10 sessions (MaxSessions), and frees one later than its command ends."""
_NEVER_OPENED = range(1, 5)
"""Codes of a refused channel (RFC 4254, 5.1): the command was not even sent."""
_SFTP_LOST = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection)
_REFUSED_PAUSE = 0.05
_REFUSED_CAP = 1.0
_READY = b"reconciler-ready\n"


class SshTransport(Transport):
    """One host, over a line that only the hosts behind it share."""

    def __init__(self, line: Line, *, is_lasting: bool = True) -> None:
        self._line = line
        self._sessions = asyncio.Semaphore(_SESSIONS)
        self._visit: _Visit | None = None
        hop = line.hop
        # A run may outlive the connection, and with it the agent's socket; the link is made anew each time.
        # There is one for each host: who comes only for a moment would take it from the runs of who stays.
        self._links_agent = hop.agent_forwarding and is_lasting
        self._prefix = ("env", f"SSH_AUTH_SOCK=$HOME/{agent_socket(hop.name)}") if self._links_agent else ()

    async def call(self, words: Sequence[str], stdin: bytes = b"", *, timeout: float) -> Answer:
        """Run a short command and return all that it printed, as Transport says."""
        command = command_line((*self._prefix, *words))
        step, visit = "wait for a free session", None
        try:
            async with asyncio.timeout(timeout), self._sessions:
                step = "connect"
                visit = await self._ready()
                with visit.link.held():
                    step = "open a session (sshd has as many as its MaxSessions)"
                    process = await visit.open(command)
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
                    files = await visit.files()
                    if files:
                        return await files.read(path, offset, limit)
        except TimeoutError as error:
            if visit:
                self._line.retire(visit.link)
            raise self._too_late(step, timeout) from error
        except (OSError, asyncssh.Error) as error:
            raise self._cut_off(step, error) from error
        return await self._read_by_command(path, offset, limit)

    def retire(self) -> None:
        """Let go of the connection once nobody uses it; a later call makes a new one."""
        self._line.retire()

    async def close(self) -> None:
        """Let go of the host; runs on it go on."""
        await self._line.close()
        if self._visit:
            await self._visit.stop()

    async def _ready(self) -> "_Visit":
        """Return the visit of the live connection, greeted."""
        link = await self._line.link()
        if self._visit is None or self._visit.link is not link:
            self._visit = _Visit(link, self._line, links_agent=self._links_agent)
        visit = self._visit
        await visit.greeted()
        return visit

    async def _read_by_command(self, path: str, offset: int, limit: int) -> bytes:
        """Read without SFTP, which a host may lack: a process for each piece, but the same bytes."""
        file = shlex.quote(path)
        script = f"if [ -f {file} ]; then tail -c +{offset + 1} {file} | head -c {limit}; fi\n"
        answer = await self.call(
            (self._line.hop.shell, "-s"), script.encode(), timeout=self._line.patience.read
        )
        if answer.exit_code != 0 or answer.stderr:
            why = one_line(answer.stderr.decode(errors="replace"))
            raise Unavailable(f"host {self._line.hop}: read {path}: {why or f'exit code {answer.exit_code}'}")
        return answer.stdout

    def _too_late(self, step: str, seconds: float) -> Unavailable:
        before = f"; the last try to connect: {self._line.trouble}" if self._line.trouble else ""
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


class _Visit:
    """What is done once over each connection: a greeting, and a client for files."""

    def __init__(self, link: Link, line: Line, *, links_agent: bool) -> None:
        self.link = link
        self._links_agent = links_agent
        self._line = line
        self._greeting = Once(self._greet)
        self._files = Once(self._start_files)

    async def greeted(self) -> None:
        """See that the shell of the host does what it is told and nothing else."""
        await self._greeting.get()

    async def files(self) -> Files | None:
        """Return the client for files; None if the host has no SFTP."""
        return await self._files.get()

    async def open(self, command: str) -> asyncssh.SSHClientProcess[bytes]:
        """Start the command in a session of its own."""
        return await self._opened(lambda: self.link.connection.create_process(command, encoding=None))

    async def stop(self) -> None:
        """Give up what is still under way."""
        await self._greeting.stop()
        await self._files.stop()

    async def _greet(self) -> None:
        hop = self._line.hop
        try:
            async with asyncio.timeout(self._line.patience.connect):
                answer = await finish(
                    await self.open(f"{hop.shell} -s"), _greeting(hop.name, self._links_agent)
                )
        except TimeoutError as error:
            self._line.retire(self.link)
            raise Unavailable(
                f"host {hop}: the login shell gave no answer within {self._line.patience.connect:g} s; "
                "see what its startup files (~/.bashrc, ~/.profile) wait for"
            ) from error
        except (OSError, asyncssh.Error) as error:
            raise Unavailable(
                f"host {hop}: the connection ended ({one_line(str(error))}) before the login shell answered; "
                "if that goes on, see the log of its sshd"
            ) from error
        if answer.stdout != _READY:
            self._line.retire(self.link)  # the login shell of a user is looked up when a connection is made
            raise Unavailable(f"host {hop}: {_misunderstood(answer, hop.shell)}")

    async def _start_files(self) -> Files | None:
        try:
            return Files(await self._opened(self.link.connection.start_sftp_client))
        except (asyncssh.ChannelOpenError, asyncssh.SFTPError):
            if self.link.is_lost:
                raise
            return None

    async def _opened(self, make: Callable[[], Awaitable[T]]) -> T:
        """Return what `make` makes in a session; wait and ask again while sshd has none free."""
        refusals = 0
        while True:
            try:
                return await make()
            except asyncssh.ChannelOpenError as error:
                if self.link.is_lost or error.code not in _NEVER_OPENED:
                    raise
            refusals += 1
            await asyncio.sleep(self._line.pause(refusals, base=_REFUSED_PAUSE, cap=_REFUSED_CAP))


def command_line(words: Sequence[str]) -> str:
    """Return the words as a line that every login shell reads alike. Raises ValueError for any other word."""
    for word in words:
        if not SAFE_WORD.match(word):
            raise ValueError(f"{word!r} may not stand on a command line; send it over stdin")
    return " ".join(words)


async def finish(process: "asyncssh.SSHClientProcess[Any]", stdin: bytes) -> Answer:
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
    return Answer(exit_code=code if code >= 0 else 128 - code, stdout=stdout, stderr=stderr)


def agent_socket(host: str) -> str:
    """
    Return where a host keeps a link to the forwarded agent's socket, relative to the user's home.

    The socket itself moves with every connection; a run outlives connections
    and uses this path as SSH_AUTH_SOCK. Hosts may share a home, so the name is
    in it.
    """
    return f".local/state/reconciler/agent-{host.replace('/', '+')}.sock"


def _greeting(host: str, agent_forwarding: bool) -> bytes:
    """Return the script that is the first over each connection; it points the link at the forwarded agent."""
    link = f'"$HOME"/{shlex.quote(agent_socket(host))}'
    refresh = '[ -z "$SSH_AUTH_SOCK" ] || { mkdir -p "${link%/*}" && ln -sfn "$SSH_AUTH_SOCK" "$link"; }\n'
    return (
        f"link={link}\n{refresh}" if agent_forwarding else ""
    ).encode() + b"printf 'reconciler-%s\\n' ready\n"


def _misunderstood(answer: Answer, shell: str) -> str:
    """Say what is wrong with a shell that did not answer the greeting as it should."""
    text = one_line(answer.stdout.removesuffix(_READY).decode(errors="replace"))
    if answer.stdout.endswith(_READY):
        return (
            f"its login shell prints text before each command ({text!r}); "
            "make its startup files (~/.bashrc, ~/.profile) silent where there is no terminal"
        )
    said = one_line(answer.stderr.decode(errors="replace")) or text
    return (
        f"its login shell did not run `{shell} -s` (exit code {answer.exit_code}: {said!r}); "
        "give the user a login shell, and set `shell` to a POSIX shell that is there"
    )
