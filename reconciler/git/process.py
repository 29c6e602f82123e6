"""
Command runner: every git process of this machine starts here, with one list of safety settings.

What differs is the purpose, and each has a named constructor: which repository,
whose configuration, and whether a remote is talked to. Work on a repository
reads nothing but the repository itself; talking to a remote needs the
credentials of whoever runs this process, so there their own configuration is
read too. Only a commit in a person's name goes without the list: their identity
and their signature are meant. What they do in a checkout is `checkout`'s.
"""

import asyncio
import os
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Self

from reconciler.core.errors import Unavailable
from reconciler.core.text import both_ends, without_credentials
from reconciler.subprocesses import end, start

_SAFE: Sequence[str] = (
    # Programs that a repository's own configuration could make us run:
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",  # run by `status` and `diff`
    "core.alternateRefsCommand=true",  # run by `fetch` for borrowed repositories; `true` prints nothing
    "commit.gpgSign=false",  # `gpg.program`; it would ask for a passphrase too, and nobody is there
    "push.gpgSign=false",
    "log.showSignature=false",  # the same program, and its output would mix with what we parse
    # Submodules have addresses and configurations of their own, which nobody has looked at.
    "fetch.recurseSubmodules=false",
    "push.recurseSubmodules=no",
    # Upkeep goes on after the command that began it: it holds locks, and drops what is not named yet.
    "gc.auto=0",
    "maintenance.auto=false",
    "core.quotePath=false",  # unquoted names, for comparisons
    "core.logAllRefUpdates=false",  # each commit of the record would add a line, and keep what is rewound
)
"""Overrides of a repository's own configuration, so that whoever can write it cannot run code here."""

QUIET = {
    "GIT_TERMINAL_PROMPT": "0",  # nobody is there to answer
    "LC_ALL": "C.UTF-8",
    "LANGUAGE": "C",  # errors are told apart by git's messages
}
"""Environment of every git process, also in a person's name."""
_SAFE_PROTOCOLS = {"GIT_ALLOW_PROTOCOL": "file:https:http:ssh"}
"""Not `ext::`, which runs commands, nor `git://`, where anybody may answer."""
_CLEAN = {
    **QUIET,
    **_SAFE_PROTOCOLS,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,  # the same work gives the same commit, whoever runs this process
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",  # `refs/replace/` would show other content under an id that was checked
    "GIT_OPTIONAL_LOCKS": "0",  # readers take no locks
    "GIT_LITERAL_PATHSPECS": "1",  # a task may be called `*`
}
_BASE = ("PATH", "HOME", "TMPDIR", "USER", "LOGNAME")
_OF_REMOTES = re.compile(
    r"GIT_(?:SSH(?:_COMMAND|_VARIANT)?|ASKPASS|SSL_\w+|HTTP_\w+|PROXY_\w+|CONFIG_(?:GLOBAL|COUNT|(?:KEY|VALUE)_\d+))\Z"
)
PLACES = re.compile(
    r"GIT_(?:DIR|WORK_TREE|INDEX_FILE|PREFIX|COMMON_DIR|NAMESPACE|OBJECT_\w+|ALTERNATE_OBJECT_\w+)\Z"
)
"""Variables, as set in hooks, that would point git to another repository."""
_PROGRESS = re.compile(
    r"(?:remote: +)?(?:Enumerating|Counting|Compressing|Receiving|Unpacking|Writing) objects\b"
    r"|(?:remote: +)?(?:Resolving deltas|Checking connectivity|Checking objects|Delta compression|Total \d)"
)
_PIECE = 64 * 1024


class GitFailed(Unavailable):
    """Git ended with an exit code that was not expected."""


@dataclass(frozen=True, slots=True)
class GitResult:
    """Result of a git command."""

    code: int
    stdout: bytes
    message: str
    """Git's stderr, fit for a log, without progress output."""

    @property
    def text(self) -> str:
        """Its stdout, stripped."""
        return self.stdout.decode(errors="replace").strip()


@dataclass(frozen=True, slots=True)
class Git:
    """Git, with the configuration and environment of one purpose."""

    options: tuple[str, ...]
    env: Mapping[str, str]
    timeout: float | None = None
    """Seconds a command may take, unless it is given others."""

    @classmethod
    def local(cls, git_dir: Path, *, timeout: float | None = None) -> Self:
        """Return git for the object database and refs of a repository on this machine."""
        return cls((f"--git-dir={git_dir}", *_overrides()), _clean_environment(), timeout)

    @classmethod
    def networked(cls, git_dir: Path) -> Self:
        """Return git for fetch and push: credential helpers and rewritten addresses of the user work."""
        return cls((f"--git-dir={git_dir}", *_overrides()), _networked_environment())

    @classmethod
    def nowhere(cls) -> Self:
        """Return git outside any repository, for remotes: no local configuration interferes."""
        return cls(("-C", "/", *_overrides()), _networked_environment())

    @classmethod
    def discovering(cls, place: Path) -> Self:
        """Return git that looks for the repository around a folder; the user's `safe.directory` counts."""
        return cls(("-C", str(place), *_overrides()), _networked_environment())

    @classmethod
    def workspace(cls, folder: Path, env: Mapping[str, str], *, timeout: float) -> Self:
        """
        Return git for a work tree in which agents write, and so may have written its configuration too.

        The user's own configuration counts, the system's as well: it has the
        filters that files need on their way in. Reflogs are for the agent.
        """
        options = ("-C", str(folder), *_overrides(), "-c", "core.logAllRefUpdates=true")
        return cls(options, _elsewhere(env) | QUIET | _SAFE_PROTOCOLS, timeout)

    @classmethod
    def personal(cls, git_dir: Path) -> Self:
        """Return git for objects in the name of the person: their identity, and how they sign."""
        return cls((f"--git-dir={git_dir}",), _elsewhere(os.environ) | QUIET)

    def synced(self) -> Self:
        """
        Return git that syncs objects and refs to disk; its default syncs almost nothing.

        It never syncs the folders that they are in.
        """
        return self.with_options("-c", "core.fsync=all")

    def with_options(self, *options: str) -> Self:
        """Return git with further options, which win."""
        return replace(self, options=(*self.options, *options))

    def with_env(self, env: Mapping[str, str]) -> Self:
        """Return git with further variables."""
        return replace(self, env={**self.env, **env})

    async def run(
        self,
        *args: str,
        stdin: bytes = b"",
        codes: Collection[int] = (0,),
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> bytes:
        """
        Run a git command and return what it printed.

        Raises GitFailed, with git's message, if it ends with an exit code not
        in `codes`, and Unavailable as `attempt` does.
        """
        return (await self.attempt(*args, stdin=stdin, codes=codes, timeout=timeout, env=env)).stdout

    async def line(
        self,
        *args: str,
        stdin: bytes = b"",
        codes: Collection[int] = (0,),
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run a git command as `run` does, and return the one line it printed."""
        return (await self.run(*args, stdin=stdin, codes=codes, env=env)).decode(errors="replace").strip()

    async def diff(self, base: str, head: str, *options: str) -> bytes:
        """Return what a commit changes since it parted from another. Raises GitFailed."""
        flags = ("--no-ext-diff", "--no-textconv", "--find-renames")  # none of the repository's own programs
        return await self.run("diff", *flags, *options, f"{base}...{head}", "--")

    async def attempt(
        self,
        *args: str,
        stdin: bytes = b"",
        codes: Collection[int] | None = None,
        timeout: float | None = None,
        silence: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> GitResult:
        """
        Run a git command and return how it ended: whatever that is, unless `codes` says what is expected.

        `timeout` is in seconds; `silence` is how many it may print nothing,
        which whoever waits for an answer that never comes does (ask for
        `--progress`). Raises GitFailed for another exit code, Unavailable if git
        took longer or cannot be started.
        """
        timeout = timeout or self.timeout
        process = await self._start(args, env or {})
        try:
            async with asyncio.timeout(timeout):
                stdout, stderr = await _communicate(process, stdin, silence)
        except _Silent:
            raise Unavailable(f"nothing came for {silence:g} s, so git {args[0]} was stopped") from None
        except TimeoutError:
            raise Unavailable(f"git {args[0]} took longer than {timeout:g} s; it was stopped") from None
        finally:
            if process.returncode is None:
                await end(process)
        result = GitResult(process.returncode or 0, stdout, printable_error(_without_progress(stderr)))
        if codes is not None and result.code not in codes:
            raise GitFailed(f"git {args[0]} failed ({result.code}): {result.message}")
        return result

    async def _start(self, args: Sequence[str], env: Mapping[str, str]) -> asyncio.subprocess.Process:
        try:
            return await start(
                "git",
                *self.options,
                *args,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**self.env, **env},
            )  # no terminal for prompts, and Ctrl-C is handled by us
        except OSError as error:
            raise _cannot_start(error) from error

    def keep_running(
        self, *args: str, stderr: IO[bytes], keep_open: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        """
        Start a long-running git command, to be used from a thread.

        `keep_open` are file descriptors it inherits. Raises Unavailable if git cannot be started.
        """
        try:
            return subprocess.Popen(
                ["git", *self.options, *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=dict(self.env),
                pass_fds=keep_open,
                start_new_session=True,  # as above
            )
        except OSError as error:
            raise _cannot_start(error) from error


def pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """Return the pipes to and from a process that was started by `Git.keep_running`."""
    if process.stdin is None or process.stdout is None:
        raise OSError("started without pipes")
    return process.stdin, process.stdout


class _Silent(Exception):
    """Nothing was printed for too long."""


async def _communicate(
    process: asyncio.subprocess.Process, stdin: bytes, silence: float | None
) -> tuple[bytes, bytes]:
    """Return what a process prints. Raises _Silent if it prints nothing for so long."""
    if silence is None or process.stdout is None or process.stderr is None:
        return await process.communicate(stdin)
    clock = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(silence) as limit:

            async def read(stream: asyncio.StreamReader) -> bytes:
                pieces = []
                while piece := await stream.read(_PIECE):
                    limit.reschedule(clock() + silence)
                    pieces.append(piece)
                return b"".join(pieces)

            if process.stdin is not None:
                process.stdin.close()  # network commands get no stdin
            output = await asyncio.gather(read(process.stdout), read(process.stderr))
            await process.wait()
    except TimeoutError:
        if limit.expired():
            raise _Silent from None
        raise
    return output[0], output[1]


def printable_error(text: bytes | str) -> str:
    """Return git's message on one sanitized line, without credentials; a long one is cut in the middle."""
    decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return both_ends(without_credentials(decoded))


def _without_progress(stderr: bytes) -> str:
    """Return git's stderr without progress output."""
    lines = re.split(r"[\r\n]+", stderr.decode("utf-8", "replace"))
    return "\n".join(line for line in lines if not _PROGRESS.match(line))


def _overrides() -> Sequence[str]:
    return [word for setting in _SAFE for word in ("-c", setting)]


def _clean_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _BASE if name in os.environ} | _CLEAN


def _networked_environment() -> dict[str, str]:
    """Return the clean environment plus what finds credentials: helpers may need any variable."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    clean = {name: value for name, value in _CLEAN.items() if name != "GIT_CONFIG_GLOBAL"}
    for_remotes = {name: value for name, value in os.environ.items() if _OF_REMOTES.match(name)}
    return others | clean | for_remotes


def _elsewhere(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if not PLACES.match(name)}


def _cannot_start(error: OSError) -> Unavailable:
    return Unavailable(f"git cannot be started: {error.strerror}; is it installed and on the PATH?")
