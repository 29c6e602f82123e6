"""
Fork server: starts `python -m reconciler` as a process that is forked from one that has imported everything.

Most of what a command takes is the start of Python and its imports, and tests start some hundreds.
`Process` and `run` are `subprocess.Popen` and `subprocess.run`, and what they start is a process like any
other: it ends by itself or is killed, and has nothing of others but what was imported. Tests of starts and of
imports themselves use `subprocess`, and so does everything with `RECONCILER_TEST_FORK=0`.

The server is a process of its own beside each process of tests: it begins at the first use and ends with it,
has one thread, and runs no loop.
"""

import atexit
import gc
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from runpy import run_module, run_path
from typing import Any

_IMPORTED = (
    *("cli.main", "cli.run", "cli.serving", "cli.verify", "serve.process", "serve.api"),
    *("api.server", "dispatch.ssh.connection", "dispatch.ssh.transport"),
)
_OPTIONS = frozenset(
    {"stdin", "stdout", "stderr", "cwd", "env", "text", "encoding", "errors", "bufsize", "start_new_session"}
)
"""What may be asked of a process that is forked."""
_OF_PYTHON = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_")
"""How the variables begin that are read before the first line of a program."""
_NUMBER = struct.Struct("i")


def is_forked(command: Sequence[str | os.PathLike[str]], options: Mapping[str, Any]) -> bool:
    """Tell whether a process can be forked, so that nobody sees a difference."""
    env, cwd = options.get("env"), options.get("cwd")
    return (
        os.environ.get("RECONCILER_TEST_FORK") != "0"
        and hasattr(os, "pidfd_open")
        and command[0] == sys.executable
        and (command[1] == "-m" or Path(command[1]).is_absolute())
        and options.keys() <= _OPTIONS
        and (cwd is None or Path(cwd).is_dir())
        and _of_python(os.environ if env is None else env) == _server().of_python
    )


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    input: str | bytes | None = None,  # noqa: A002 - as subprocess has it
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Start a process and wait for its end, as `subprocess.run` does."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if capture_output:
        options.update(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with Process(command, **options) as process:
        try:
            out, err = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


class Process(subprocess.Popen):
    """A process, as `subprocess.Popen` starts it."""

    def __init__(self, command: Sequence[str | os.PathLike[str]], **options: Any) -> None:
        self._status: int | None = None
        """Descriptor from which its exit status is read, if it was forked."""
        self._is_forked = is_forked(command, options)
        super().__init__(command, **options)

    def _execute_child(self, args: Sequence[Any], *more: Any) -> None:
        if not self._is_forked:
            super()._execute_child(args, *more)
            return
        cwd, env, pipes, is_leader = more[4], more[5], more[9:15], more[20]
        inner = (pipes[0], pipes[3], pipes[5])
        files = [number if pipe == -1 else pipe for number, pipe in enumerate(inner)]
        order = {
            "args": [os.fspath(arg) for arg in args[1:]],
            "cwd": os.fspath(cwd or Path.cwd()),
            "env": {name: os.fspath(value) for name, value in (os.environ if env is None else env).items()},
            "umask": _umask(),
            "is_leader": is_leader,
        }
        self.pid, self._status = _server().fork(order, files)
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def _internal_poll(self, _deadstate: int | None = None, **others: Any) -> int | None:
        if self._status is None:
            return super()._internal_poll(_deadstate, **others)
        return super()._internal_poll(_deadstate, _waitpid=self._wait_for)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._status is None:
            return super()._try_wait(wait_flags)
        return self._wait_for(self.pid, wait_flags)

    def _wait_for(self, pid: int, flags: int) -> tuple[int, int]:
        """Do as `os.waitpid` does: of what the server forked it knows the end."""
        if not _is_readable(self._status, 0 if flags & os.WNOHANG else None):
            return 0, 0
        said = os.read(self._status, _NUMBER.size)
        os.close(self._status)
        assert said, "the server of forks ended before what it forked"
        return pid, _NUMBER.unpack(said)[0]


def _is_readable(file: int, timeout: float | None) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(file, selectors.EVENT_READ)
        return bool(selector.select(timeout))


def _of_python(env: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in env.items() if name.startswith(_OF_PYTHON)}


def _umask() -> int:
    """Return that of this process; to ask the system for it would change it for a moment."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("\nUmask:")[2].split()[0], 8)


# --- The server, as its client sees it ---------------------------------------------------------------------


class _Server:
    def __init__(self) -> None:
        self.of_python = _of_python(os.environ)
        self._socket, theirs = socket.socketpair()
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def fork(self, order: Mapping[str, Any], files: Sequence[int]) -> tuple[int, int]:
        """Return the id of a new process, and a descriptor that its exit status will be read from."""
        status, theirs = os.pipe()
        line = json.dumps(order).encode()
        with self._lock:
            socket.send_fds(self._socket, [_NUMBER.pack(len(line))], [*files, theirs])
            os.close(theirs)
            self._socket.sendall(line)
            pid = _NUMBER.unpack(_receive(self._socket, _NUMBER.size))[0]
        return pid, status

    def end(self) -> None:
        self._socket.close()
        self._process.wait()


@cache
def _server() -> _Server:
    server = _Server()
    atexit.register(server.end)
    return server


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


# --- The server itself --------------------------------------------------------------------------------------


def _serve(number: int) -> Mapping[str, Any]:
    """Fork as often as somebody asks; return, in what is forked, what was asked for."""
    for module in _IMPORTED:
        import_module(f"reconciler.{module}")
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "an import started a thread"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, and they this
    gc.collect()
    gc.freeze()
    forked: dict[int, tuple[int, int]] = {}
    """By the descriptor of a process: its id, and where its exit status is written to."""
    with socket.socket(fileno=number) as asked, selectors.DefaultSelector() as selector:
        selector.register(number, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd in forked:
                    selector.unregister(key.fd)
                    _tell_end(key.fd, *forked.pop(key.fd))
                    continue
                order, files = _next_order(asked)
                pid = os.fork()
                if pid == 0:
                    for file in (*forked, *(status for _, status in forked.values()), files[3]):
                        os.close(file)
                    _take_files(files[:3])
                    return order
                for file in files[:3]:
                    os.close(file)
                process = os.pidfd_open(pid)
                forked[process] = pid, files[3]
                selector.register(process, selectors.EVENT_READ)
                asked.sendall(_NUMBER.pack(pid))


def _next_order(asked: socket.socket) -> tuple[Mapping[str, Any], list[int]]:
    """Read what is asked for, and its descriptors; end with the tests."""
    try:
        size, files, _, _ = socket.recv_fds(asked, _NUMBER.size, 4)
        return json.loads(_receive(asked, *_NUMBER.unpack(size))), files
    except (EOFError, ConnectionError, struct.error):
        os._exit(0)


def _tell_end(process: int, pid: int, status: int) -> None:
    """Say how a process ended, while its id is still its own."""
    end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    code = end.si_status << 8 if end.si_code == os.CLD_EXITED else end.si_status
    with suppress(BrokenPipeError):  # nobody waits for it
        os.write(status, _NUMBER.pack(code))
    os.close(status)
    os.close(process)
    os.waitpid(pid, 0)


def _take_files(files: Sequence[int]) -> None:
    """Have these as the streams of this process."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = _open_like(getattr(sys, name), number)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _open_like(was: TextIOWrapper, number: int) -> TextIOWrapper:
    """Open a standard stream as a start of Python does, which knows whether it is a terminal."""
    is_raw = was.write_through  # by PYTHONUNBUFFERED
    buffering = 0 if is_raw and number > 0 else -1
    binary = open(number, f"{was.mode}b", buffering, closefd=False)  # noqa: SIM115 - as long as this process
    getattr(binary, "raw", binary).name = was.name
    by_line = not is_raw and (number == 2 or binary.isatty())
    stream = TextIOWrapper(binary, was.encoding, was.errors, "\n", by_line, is_raw)
    stream.mode = was.mode
    return stream


def _become(order: Mapping[str, Any]) -> None:
    """Be as Python is after a start, before it runs a module or a file."""
    if order["is_leader"]:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.umask(order["umask"])
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    first, *others = order["args"]
    sys.path.insert(0, order["cwd"] if first == "-m" else str(Path(first).parent))
    sys.argv = [first, *others[1:]] if first == "-m" else [first, *others]
    sys.orig_argv = [sys.executable, first, *others]


if __name__ == "__main__":
    del sys.path[0]  # this folder
    _become(_serve(int(sys.argv[1])))
    if sys.orig_argv[1] == "-m":
        run_module(sys.orig_argv[2], run_name="__main__", alter_sys=True)
    else:
        run_path(sys.orig_argv[1], run_name="__main__")
