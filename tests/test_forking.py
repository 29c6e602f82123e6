"""
The contract of processes that tests start: nobody sees whether one was forked or started.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forking import Process, is_forked, run
from tests.processes import is_alive, with_word

ROOT = Path(__file__).parents[1]
LOOK = """
import asyncio, gc, json, os, resource, signal, sys, threading

STATUS = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)

def look_at(stream):
    buffer = stream.buffer
    flags = stream.encoding, stream.errors, stream.newlines, stream.line_buffering, stream.write_through
    return flags, stream.name, stream.mode, type(buffer).__name__, stream.fileno(), stream.isatty()

print(json.dumps({
    "arguments": [sys.argv, sys.orig_argv], "path": sys.path, "flags": list(sys.flags),
    "main": [__name__, __spec__.name, sys.modules["__main__"].__file__],
    "environment": [dict(os.environ), os.popen("printenv SAID | od -c").read()],
    "folder": [os.getcwd(), os.readlink("/proc/self/cwd")],
    "streams": [look_at(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
    "again": [sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__],
    "files": sorted(os.listdir("/proc/self/fd"))[:3] + [len(os.listdir("/proc/self/fd"))],
    "status": [STATUS[name] for name in ("SigBlk", "SigIgn", "SigCgt", "Umask", "Uid", "Groups", "Threads")],
    "handlers": [str(signal.getsignal(each)) for each in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM)],
    "group": [os.getpgrp() == os.getpid(), os.getsid(0) == os.getpid()],
    "limits": [resource.getrlimit(each) for each in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)],
    "others": [os.nice(0), gc.isenabled(), gc.get_threshold(), threading.active_count()],
    "loops": asyncio._get_running_loop() is None,
    "said": sys.stdin.read(),
}))
"""


@pytest.fixture(params=["forked", "started"])
def program(request, monkeypatch, tmp_path):
    """Return a function that makes a module, and returns the command that runs it in this folder."""
    monkeypatch.setenv("RECONCILER_TEST_FORK", str(int(request.param == "forked")))
    monkeypatch.chdir(tmp_path)

    def written(text, *args):
        (tmp_path / "probe.py").write_text(text)
        command = [sys.executable, "-m", "probe", *args]
        assert is_forked(command, {}) == (request.param == "forked")
        return command

    return written


@pytest.mark.parametrize("options", [{}, {"start_new_session": True}])
def test_it_finds_what_a_start_of_python_finds(tmp_path, monkeypatch, options):
    (tmp_path / "probe.py").write_text(LOOK)
    command = [sys.executable, "-m", "probe", "one", "zwei ü"]
    of_python = {
        name: text for name, text in os.environ.items() if name.startswith(("PYTHON", "LC_", "LANG"))
    }
    env = {**of_python, "PATH": os.environ["PATH"], "SAID": "ü\udcff"}
    found = []

    for way in "10":
        monkeypatch.setenv("RECONCILER_TEST_FORK", way)
        mask = os.umask(0o027)
        try:
            done = run(
                command, cwd=tmp_path, env=env, input=b"hello", capture_output=True, check=True, **options
            )
        finally:
            os.umask(mask)
        found.append(json.loads(done.stdout))

    forked, started = found
    assert {name: (fact, started[name]) for name, fact in forked.items() if fact != started[name]} == {}
    assert started["said"] == "hello"
    assert started["folder"] == [str(tmp_path)] * 2


@pytest.mark.parametrize(
    ("text", "code", "error"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no')", 1, "no"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("raise KeyboardInterrupt", -2, "KeyboardInterrupt"),
        ("import os; os._exit(77)", 77, ""),
        ("import os; os.abort()", -6, ""),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import atexit, sys; atexit.register(print, 'last', file=sys.stderr)", 0, "last"),
    ],
)
def test_its_end_is_what_it_says(program, text, code, error):
    done = run(program(text), capture_output=True, text=True)

    assert (done.returncode, done.stderr.strip().rpartition("\n")[2]) == (code, error)
    assert ("Traceback" in done.stderr) == ("Error" in error or "Interrupt" in error)


def test_the_program_itself_runs(program):
    command = [*program("")[:2], "reconciler"]

    wrong = run([*command, "git"], capture_output=True, text=True)

    assert run([*command, "version"], capture_output=True, text=True).stdout.startswith("reconciler ")
    assert (wrong.returncode, wrong.stdout) == (64, "")
    assert "no such command 'git'" in wrong.stderr


def test_it_is_spoken_with_while_it_runs(program):
    echo = program(
        "import os, sys\nprint(os.getpid(), flush=True)\n"
        "for line in sys.stdin: print(line[:-1] * 2, flush=True)"
    )

    with Process(echo, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert int(process.stdout.readline()) == process.pid
        process.stdin.write("a\n")
        assert process.stdout.readline() == "aa\n"
        assert process.poll() is None

    assert process.returncode == 0
    assert process.poll() == process.wait() == 0


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, -15), (signal.SIGINT, 5)]
)
def test_signals_reach_it(program, number, code):
    waits = program(
        "import time\ntry:\n    print('up', flush=True)\n    time.sleep(100)\n"
        "except KeyboardInterrupt: raise SystemExit(5)"
    )

    with Process(waits, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
        os.kill(process.pid, signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        assert process.wait(timeout=60) == code

    assert not is_alive(process.pid)
    process.kill()  # of what has ended is nothing done


def test_whoever_waits_no_longer_ends_it(program):
    with pytest.raises(subprocess.TimeoutExpired) as late:
        run(
            program("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(100)"),
            capture_output=True,
            timeout=5,
        )

    assert not is_alive(int(late.value.stdout))


def test_a_failure_is_an_exception_where_that_is_asked_for(program):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run(program("print('x'); raise SystemExit(4)"), capture_output=True, text=True, check=True)

    assert (failed.value.returncode, failed.value.stdout) == (4, "x\n")


def test_a_folder_that_is_not_there_is_an_error_at_once(program, tmp_path):
    with pytest.raises(FileNotFoundError):
        run(program(""), cwd=tmp_path / "none")


def test_nobody_who_reads_is_an_error_of_its_own(program):
    reading, writing = os.pipe()
    os.close(reading)

    done = run(program("print('x' * 9)"), stdout=writing, stderr=subprocess.PIPE, text=True)

    os.close(writing)
    assert "BrokenPipeError" in done.stderr
    assert done.returncode == (1 if os.environ.get("PYTHONUNBUFFERED") else 120)


def test_what_it_starts_is_of_its_group_and_is_ended_with_it(program):
    word = f"sleep-{os.getpid()}"
    family = program(
        "import subprocess, sys\n"
        "subprocess.Popen(['sh', '-c', 'echo up; sleep 100; :', sys.argv[1]])\n"
        "import time; time.sleep(100)",
        word,
    )

    with Process(family, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.readline() == b"up\n"
        assert process.pid not in (os.getpgrp(), os.getsid(0))
        assert os.getpgid(process.pid) == os.getsid(process.pid) == process.pid
        os.killpg(process.pid, signal.SIGKILL)
        assert process.stdout.read() == b""  # all that had it are gone

    assert process.returncode == -9
    assert not with_word(word)


def test_many_at_a_time_end_by_themselves_and_draw_numbers_of_their_own(program):
    draws = program("import random, sys, time; time.sleep(float(sys.argv[1])); print(random.random())")
    delays = (0.2, 0.0, 0.1)

    many = [Process([*draws, str(delay)], stdout=subprocess.PIPE, text=True) for delay in delays]

    assert len({process.communicate()[0] for process in many}) == len(delays)
    assert {process.returncode for process in many} == {0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_with_the_tests_and_what_it_forked_lives_on(tmp_path, number):
    text = (
        "import os, sys, time\nfrom tests import forking\n"
        "made = forking.Process([sys.executable, '-m', 'probe'], stdin=-3, stdout=-3, stderr=-3)\n"
        "print(made.pid, forking._server()._process.pid, flush=True)\ntime.sleep(100)\n"
    )
    (tmp_path / "probe.py").write_text("import time; time.sleep(100)")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RECONCILER_TEST_FORK": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", text], cwd=tmp_path, env=env, stdout=subprocess.PIPE
    ) as tests:
        made, server = map(int, tests.stdout.readline().split())
        assert is_alive(server)

        tests.send_signal(number)
        tests.wait()

        assert tests.stdout.read() == b""  # the server had it, too
    assert is_alive(made)
    os.kill(made, signal.SIGKILL)


def test_only_what_starts_as_tests_do_is_forked(tmp_path, monkeypatch):
    monkeypatch.setenv("RECONCILER_TEST_FORK", "1")
    command = [sys.executable, "-m", "reconciler", "version"]
    env = dict(os.environ)

    assert is_forked(command, {"env": {**env, "HOME": "/", "RECONCILER_REPO": "x"}, "cwd": tmp_path})
    assert not is_forked(command, {"env": {**env, "PYTHONPATH": str(tmp_path)}})
    assert not is_forked(command, {"env": {**env, "LC_ALL": "C"}})
    assert not is_forked(command, {"preexec_fn": print})
    assert not is_forked([sys.executable, "-c", "import reconciler"], {})
    assert not is_forked(["sh", "-c", "reconciler"], {})
