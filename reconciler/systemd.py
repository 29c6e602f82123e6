"""
What systemd is told: that we are ready, that we are alive, that we stop.

Without systemd nobody listens, and nothing is said. Source: sd_notify(3).
"""

import os
import socket
from contextlib import suppress


def sd_notify(state: str) -> None:
    """Tell systemd a state such as `READY=1`; whether it hears us is not for us to know."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    path = f"\0{address[1:]}" if address.startswith("@") else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as talk:
        talk.sendto(state.encode(), path)


def watchdog_interval() -> float | None:
    """Return how often to say `WATCHDOG=1`, in seconds, with room to spare; None: not at all."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1e6 / 3
