"""Ports for servers that are told theirs before they listen."""

import random
import socket
from contextlib import suppress
from pathlib import Path

_FIRST = 10_000
_LOCAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Which ports the kernel gives to whoever connects or asks for any: one that is free may be gone at once."""


def free_port() -> int:
    """Return a port of loopback that is free and stays so: it is outside of what the kernel gives away."""
    end = max(int(_LOCAL_RANGE.read_text().split()[0]), _FIRST + 1000)
    while True:
        port = random.SystemRandom().randrange(_FIRST, end)
        with suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
