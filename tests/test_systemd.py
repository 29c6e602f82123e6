"""What systemd is told, and the unit by which it starts the reconciler."""

import os
import shutil
import socket
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from reconciler.systemd import sd_notify, watchdog_interval

UNIT = Path(__file__).parents[1] / "deploy/reconciler.service"


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path, monkeypatch):
    """Return the socket at which systemd listens."""
    address = str(tmp_path / "notify") if request.param == "path" else f"\0reconciler-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        yield listening


def test_systemd_hears_what_it_is_told(manager):
    sd_notify("READY=1")
    sd_notify("STOPPING=1")

    assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STOPPING=1"]


@pytest.mark.parametrize("address", [None, "", "relative", "/nowhere/at/all", "@nobody-listens-here"])
def test_where_nobody_listens_nothing_happens(address, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)

    assert sd_notify("READY=1") is None


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        (None, None, None),
        ("", None, None),
        ("soon", None, None),
        ("60000000", None, 20.0),
        ("60000000", "ours", 20.0),
        ("60000000", "1", None),
    ],
)
def test_the_watchdog_is_fed_three_times_in_its_time(usec, pid, seconds, monkeypatch):
    told = {"WATCHDOG_USEC": usec, "WATCHDOG_PID": str(os.getpid()) if pid == "ours" else pid}
    for name, value in told.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)

    assert watchdog_interval() == seconds


# --- The unit --------------------------------------------------------------


def test_the_unit_starts_serve_with_options_that_it_has():
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string(UNIT.read_text())
    program, *args = unit["Service"]["ExecStart"].split()

    from reconciler.cli.main import COMMANDS
    from reconciler.cli.run import serve_command

    known = {word for option in serve_command.params for word in option.opts}
    options = {word for word in args[args.index("serve") + 1 :] if word.startswith("--")}
    assert Path(program).name == "reconciler"
    assert "serve" in {name for part in COMMANDS.values() for name in part}
    assert options <= known
    assert unit["Service"]["Type"] == "notify"
    assert unit["Service"]["WatchdogSec"] == "60s"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_every_line_of_the_unit(tmp_path):
    program = tmp_path / "reconciler"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "reconciler.service"
    text = UNIT.read_text().replace("/opt/reconciler/.venv/bin/reconciler", str(program))
    unit.write_text(text.replace("<ssh://git@code.example.org/fleet.git>", "/srv/fleet.git"))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )

    ours = [line for line in done.stderr.splitlines() if "reconciler.service" in line]
    assert ours == []
