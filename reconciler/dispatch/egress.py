"""
Way into a sandbox with an egress list: a program for hosts, which needs Python's library alone.

    python3 egress.py PROXY PORTS DESTINATION... -- BWRAP... -- PYTHON egress.py --inside COMMAND...

Outside, it starts the proxy (`egress_proxy.py`) and becomes bubblewrap. Inside, where there is no network but
a loopback of its own, it opens the sockets on that loopback, hands them out to the proxy, and becomes
the command. So nothing of the proxy is in reach of the command but those sockets.
"""

from __future__ import annotations

import os
import socket
import sys

CHANNEL = 9
"""Descriptor over which the sockets are handed out."""
_PORTS = "RECONCILER_EGRESS_PORTS"
"""Variable with the ports of the host's loopback that are there on that of the sandbox."""
_PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")


def become(args: list[str]) -> None:
    """Become bubblewrap, or inside of it the command."""
    if args[0] == "--inside":
        enter(args[1:])
    proxy, ports, *rest = args
    end = rest.index("--")
    start_proxy(proxy, rest[:end])
    os.environ[_PORTS] = ports
    os.execv(rest[end + 1], rest[end + 1 :])


def start_proxy(program: str, destinations: list[str]) -> None:
    """Start the proxy as a child, with its end of the channel and a descriptor of this process."""
    theirs, ours = socket.socketpair()
    parent = os.pidfd_open(os.getpid())
    if os.fork() == 0:
        kept = [ours.fileno(), parent]
        for each in kept:
            os.set_inheritable(each, True)
        args = [sys.executable, "-I", "-S", program, *map(str, kept), *destinations]
        os.execv(sys.executable, args)
    os.dup2(theirs.fileno(), CHANNEL)


def enter(command: list[str]) -> None:
    """Open the sockets, hand them out, and become the command once the proxy is ready."""
    ports = [int(port) for port in os.environ.pop(_PORTS).split(",") if port]
    sockets = [socket.create_server(("127.0.0.1", port), backlog=128) for port in (0, *ports)]
    with socket.socket(fileno=CHANNEL) as channel:
        text = " ".join(map(str, ports)) or "-"
        socket.send_fds(channel, [text.encode()], [each.fileno() for each in sockets])
        if not channel.recv(1):
            sys.exit("egress: the proxy ended before it began")
    address = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    os.environ.update(dict.fromkeys(_PROXIES, address))
    os.environ.update(dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1,::1"))
    os.environ["NODE_USE_ENV_PROXY"] = "1"
    for name in ("all_proxy", "ALL_PROXY"):
        os.environ.pop(name, None)
    for each in sockets:
        each.close()
    os.execvp(command[0], command)


if __name__ == "__main__":
    become(sys.argv[1:])
