"""`reconciler serve`, as a process of its own: where it listens, and how it ends."""

import json
import signal
import subprocess
from contextlib import contextmanager
from urllib.request import urlopen

import pytest

from reconciler.cli.exits import ExitCode
from tests.forking import Process, run


@contextmanager
def serving(fleet, *options):
    """Serve a fleet on a free port; yield the process and its address."""
    message = [*fleet.command, "serve", "--listen", "127.0.0.1:0", *options]
    with Process(message, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = next(line for line in process.stdout if line.startswith("listening on "))
            yield process, line.removeprefix("listening on ").strip()
        finally:
            process.kill()


def read(url):
    with urlopen(url, timeout=60) as answer:
        return answer.status, answer.read().decode()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--listen", "0.0.0.0:8420"], "--tls-cert and --tls-key, or --behind-proxy"),
        (["--listen", ":8420"], "--tls-cert and --tls-key, or --behind-proxy"),
        (["--listen", "[::]:8420"], "--tls-cert and --tls-key, or --behind-proxy"),
        (["--listen", "8420"], "is not an address such as 127.0.0.1:8420"),
        (["--tls-cert", "cert.pem"], "belong together: give both or neither"),
        (["--tls-cert", "cert.pem", "--tls-key", "key.pem"], "cannot be used"),
    ],
)
def test_it_does_not_begin_where_it_could_not_be_safe(fleet, options, message):
    done = fleet.run("serve", *options)

    assert done.exit_code == ExitCode.USAGE
    assert message in done.stderr


def test_it_serves_the_api_works_and_ends_when_it_is_told_to(fleet):
    with serving(fleet) as (process, url):
        completed = next(line for line in process.stdout if "completed" in line)
        health = read(f"{url}/healthz")
        document = json.loads(read(f"{url}/api/v1/openapi.json")[1])
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
        log = process.stderr.read()

    assert "hello" in completed
    assert health[0] == 200
    assert document["openapi"].startswith("3.1")
    assert (code, log) == (ExitCode.OK, "")


def test_a_second_one_on_the_same_fleet_is_refused_and_harms_nothing(fleet):
    with serving(fleet) as (process, url):
        other = [*fleet.command, "serve", "--listen", "127.0.0.1:0"]
        done = run(other, capture_output=True, text=True, check=False, timeout=60)
        still = read(f"{url}/healthz")[0]
        is_alive = process.poll() is None

    assert done.returncode == ExitCode.USAGE
    assert "Traceback" not in done.stderr
    assert (still, is_alive) == (200, True)
