"""
Git on this machine: for the mirrors of code repositories, and for fetching and pushing.

No hooks, no file system monitor, no signing, no upkeep on the side. Only talking
to a remote reads the configuration of whoever runs this process, for their
credentials.
"""

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import Unavailable
from reconciler.core.text import one_line
from reconciler.subprocesses import end, start

_OVERRIDES = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.alternateRefsCommand=true",
    "push.gpgSign=false",
    "push.recurseSubmodules=no",
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "maintenance.auto=false",
)
_QUIET = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ALLOW_PROTOCOL": "file:https:http:ssh",  # no ext::, which runs commands
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "LC_ALL": "C.UTF-8",
    "LANGUAGE": "C",  # errors are told apart by git's words
}
_FOR_REMOTES = re.compile(r"GIT_(?:SSH|ASKPASS|SSL_|HTTP_|PROXY_|CONFIG_(?:GLOBAL|COUNT|KEY_|VALUE_))")
_WORDS = 600
"""Most characters of git's own words."""
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_PROGRESS = re.compile(
    r"(?:remote: +)?(?:Enumerating|Counting|Compressing|Receiving|Unpacking|Writing) objects\b"
    r"|(?:remote: +)?(?:Resolving deltas|Checking connectivity|Checking objects|Delta compression|Total \d)"
)
_PIECE = 64 * 1024


@dataclass(frozen=True, slots=True)
class MirrorGitResult:
    """How a git command ended."""

    code: int
    stdout: bytes
    words: str
    """What git said on stderr, on one line and without credentials."""

    @property
    def text(self) -> str:
        """What it printed, without white space around it."""
        return self.stdout.decode(errors="replace").strip()


async def mirror_git(
    folder: Path | None,
    *words: str,
    stdin: bytes = b"",
    remote: bool = False,
    timeout: float = 600,
    silence: float | None = None,
) -> MirrorGitResult:
    """
    Run a git command on the bare repository in `folder` (None: on none) and return how it ended.

    `remote`: it talks to another repository. `timeout` in seconds; `silence` is
    how many it may print nothing, which whoever waits for an answer that never
    comes does (ask for `--progress`). Raises Unavailable if git cannot be
    started or took too long.
    """
    options = [word for setting in _OVERRIDES for word in ("-c", setting)]
    place = [f"--git-dir={folder}"] if folder else ["-C", "/"]
    try:
        process = await start(
            "git",
            *place,
            *options,
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(remote=remote),
        )  # no terminal to ask on, and Ctrl-C is ours to answer
    except OSError as error:
        raise Unavailable(
            f"git cannot be started: {error.strerror}; is it installed and on the PATH?"
        ) from error
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr = await _communicate(process, stdin, silence)
    except _Silent:
        raise Unavailable(f"nothing came for {silence:g} s, so git {words[0]} was stopped") from None
    except TimeoutError:
        raise Unavailable(f"git {words[0]} took longer than {timeout:g} s; it was stopped") from None
    finally:
        if process.returncode is None:
            await end(process)
    said = both_ends(without_credentials(_without_progress(stderr.decode(errors="replace"))))
    return MirrorGitResult(process.returncode or 0, stdout, said)


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
                process.stdin.close()  # whoever talks to a remote is told nothing
            found = await asyncio.gather(read(process.stdout), read(process.stderr))
            await process.wait()
    except TimeoutError:
        if limit.expired():
            raise _Silent from None
        raise
    return found[0], found[1]


def _without_progress(text: str) -> str:
    """Return what git said apart from how far it has come."""
    return "\n".join(line for line in re.split(r"[\r\n]+", text) if not _PROGRESS.match(line))


def both_ends(text: str) -> str:
    """Return what git said as one line; if it is long, how it ends too: what a forge answers stands there."""
    line = one_line(text, len(text))
    return line if len(line) <= _WORDS else f"{line[: _WORDS // 2]} … {line[-_WORDS // 2 :]}"


def without_credentials(text: str) -> str:
    """Return a text in which no URL tells who somebody is."""
    return _CREDENTIALS.sub("", text)


def _environment(*, remote: bool) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    if not remote:
        return env | _QUIET | {"GIT_CONFIG_GLOBAL": os.devnull}
    return env | _QUIET | {name: value for name, value in os.environ.items() if _FOR_REMOTES.match(name)}
