"""
One way to run git: a clean configuration, no prompts, git's own words when it fails.

Local work reads nothing but the repository itself: no hooks, no file system
monitor, no signing, no upkeep on the side, and no configuration of whoever
happens to run this process. Talking to a remote needs that person's
credentials, so there (and only there) their own configuration is read too.
"""

import asyncio
import os
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from reconciler.core.errors import Unavailable
from reconciler.subprocesses import end, start

_SAFE: Sequence[str] = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.alternateRefsCommand=true",
    "core.quotePath=false",
    "core.logAllRefUpdates=false",
    "commit.gpgSign=false",
    "push.gpgSign=false",
    "log.showSignature=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "fetch.recurseSubmodules=false",
    "push.recurseSubmodules=no",
)
"""Overrides whatever a repository's own configuration says."""

_BASE = ("PATH", "HOME", "TMPDIR", "USER", "LOGNAME")
_OF_REMOTES = re.compile(
    r"GIT_(?:SSH(?:_COMMAND|_VARIANT)?|ASKPASS|SSL_\w+|HTTP_\w+|PROXY_\w+|CONFIG_(?:GLOBAL|COUNT|(?:KEY|VALUE)_\d+))\Z"
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_CONTROL = re.compile(r"[^\x20-\x7e\u00a1-\ud7ff\ue000-\U0010ffff]+")
_WORDS = 600
"""Most characters of git's own words in an error."""


@dataclass(frozen=True, slots=True)
class GitResult:
    """How a git command ended."""

    code: int
    stdout: bytes
    words: str
    """What git said on stderr, fit for a log."""


@dataclass(frozen=True, slots=True)
class Git:
    """Git, with the configuration and environment of one purpose."""

    options: tuple[str, ...]
    env: Mapping[str, str]

    @classmethod
    def local(cls, git_dir: Path) -> Self:
        """Return git for the object database and refs of a repository on this machine."""
        return cls((f"--git-dir={git_dir}", *_overrides()), _clean_environment())

    @classmethod
    def networked(cls, git_dir: Path) -> Self:
        """Return git for fetch and push: credential helpers and rewritten addresses of the user work."""
        return cls((f"--git-dir={git_dir}", *_overrides()), _networked_environment())

    @classmethod
    def nowhere(cls) -> Self:
        """Return git that stands in no repository and talks to remotes: none of ours can be in its way."""
        return cls(("-C", "/", *_overrides()), _networked_environment())

    @classmethod
    def discovering(cls, place: Path) -> Self:
        """Return git that looks for the repository around a folder; the user's `safe.directory` counts."""
        return cls(("-C", str(place), *_overrides()), _networked_environment())

    @classmethod
    def personal(cls, *where: str) -> Self:
        """
        Return git as the person themselves would call it: identity, hooks, filters.

        `where` are options that say in which repository, `-C <folder>` or `--git-dir=<folder>`.
        """
        env = {name: value for name, value in os.environ.items() if name not in _PLACES}
        return cls(where, env | _QUIET)

    async def run(
        self,
        *words: str,
        stdin: bytes = b"",
        codes: Collection[int] = (0,),
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> bytes:
        """
        Run a git command and return what it printed.

        Raises Unavailable, with git's own words, if it ends with an exit code not in `codes`.
        """
        result = await self.attempt(*words, stdin=stdin, timeout=timeout, env=env)
        if result.code not in codes:
            raise Unavailable(f"git {words[0]} failed ({result.code}): {result.words}")
        return result.stdout

    async def attempt(
        self,
        *words: str,
        stdin: bytes = b"",
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> GitResult:
        """
        Run a git command and return how it ended, whatever that is.

        `timeout` is in seconds. Raises Unavailable if git took longer or cannot be started.
        """
        process = await self._start(words, env or {})
        try:
            stdout, stderr = await asyncio.wait_for(process.communicate(stdin), timeout)
        except TimeoutError:
            raise Unavailable(f"git {words[0]} did not end within {timeout:g} s; it was stopped") from None
        finally:
            if process.returncode is None:
                await end(process)
        return GitResult(process.returncode or 0, stdout, printable_error(stderr))

    async def _start(self, words: Sequence[str], env: Mapping[str, str]) -> asyncio.subprocess.Process:
        try:
            return await start(
                "git",
                *self.options,
                *words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**self.env, **env},
            )  # no terminal to ask on, and Ctrl-C is ours to answer
        except OSError as error:
            raise _cannot_start(error) from error

    def keep_running(
        self, *words: str, stderr: IO[bytes], keep_open: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        """
        Start a git command that is talked to for long, from a thread.

        `keep_open` are file descriptors it inherits. Raises Unavailable if git cannot be started.
        """
        try:
            return subprocess.Popen(
                ["git", *self.options, *words],
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


def printable_error(text: bytes | str) -> str:
    """Return git's words on one line, without control characters and without credentials of URLs."""
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    line = _CONTROL.sub(" ", _CREDENTIALS.sub("", words)).strip()
    return line if len(line) <= _WORDS else f"{line[: _WORDS // 3]} … {line[-_WORDS // 2 :]}"


def _overrides() -> Sequence[str]:
    return [word for setting in _SAFE for word in ("-c", setting)]


_QUIET = {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8", "LANGUAGE": "C"}
"""Nobody is asked, and messages are in the language that errors are told apart by."""

_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_NAMESPACE")
"""What a hook's environment says about another repository than the one that is meant."""


def _clean_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _BASE if name in os.environ} | {
        **_QUIET,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": "file:https:http:ssh",  # no ext::, which runs commands
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_LITERAL_PATHSPECS": "1",
    }


def _networked_environment() -> dict[str, str]:
    """Return the clean environment plus what finds credentials: helpers may need any variable."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    clean = _clean_environment()
    del clean["GIT_CONFIG_GLOBAL"]
    for_remotes = {name: value for name, value in os.environ.items() if _OF_REMOTES.match(name)}
    return others | clean | for_remotes


def _cannot_start(error: OSError) -> Unavailable:
    return Unavailable(f"git cannot be started: {error.strerror}; is it installed and on the PATH?")
