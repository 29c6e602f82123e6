"""
Notifications to systemd: ready, watchdog, stopping.

Without systemd nothing is sent. Source: sd_notify(3).
"""

import os
import socket
from contextlib import suppress


def sd_notify(state: str) -> None:
    """Send systemd a state such as `READY=1`; errors are ignored."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    path = f"\0{address[1:]}" if address.startswith("@") else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as talk:
        talk.sendto(state.encode(), path)


def watchdog_interval() -> float | None:
    """Return the interval of `WATCHDOG=1` in seconds, with a safety margin; None if it is off."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1e6 / 3
