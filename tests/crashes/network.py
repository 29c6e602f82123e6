"""
Network namespaces for hosts: each its own, with one link that can be cut.

A cut link loses what is sent and says nothing, in either direction: unlike a stopped process, whose kernel
still answers for it; and unlike a link that is down, whose packets go where all others go, to whoever answers
there.
"""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

_BLOCK = "198.18"
"""Of addresses that are for tests of networks alone (RFC 2544)."""

_NOBODY = "02:00:00:00:00:01"
"""A link-layer address that no station has; its bit for local ones is set."""


@dataclass(frozen=True, slots=True)
class Network:
    """A namespace with a link to this machine; `number`, from 0, is that of its addresses."""

    number: int

    @property
    def name(self) -> str:
        """What it is called, as are its ends of the link."""
        return f"soak{os.getpid()}n{self.number}"[-14:]

    @property
    def address(self) -> str:
        """Address of the host that is in it."""
        return f"{_BLOCK}.{self.number}.2"

    @property
    def prefix(self) -> Sequence[str]:
        """What stands before a command that is to run in it."""
        return ("ip", "netns", "exec", self.name)

    def make(self) -> None:
        """Make it. Raises CalledProcessError where that is not allowed."""
        outer, inner = f"{self.name}a", f"{self.name}b"
        _ip("netns", "add", self.name)
        _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", self.name)
        _ip("address", "add", f"{_BLOCK}.{self.number}.1/30", "dev", outer)
        _ip("link", "set", outer, "up")
        for args in (("address", "add", f"{self.address}/30", "dev", inner), ("link", "set", inner, "up")):
            _ip("-netns", self.name, *args)
        _ip("-netns", self.name, "link", "set", "lo", "up")

    def cut(self) -> None:
        """Let nothing through: what is sent goes to a station that is not there."""
        _ip(*self._neighbour("replace", 2), "lladdr", _NOBODY, "nud", "permanent", "dev", f"{self.name}a")
        inner = (*self._neighbour("replace", 1), "lladdr", _NOBODY, "nud", "permanent")
        _ip("-netns", self.name, *inner, "dev", f"{self.name}b")

    def mend(self) -> None:
        """Let everything through again."""
        _ip(*self._neighbour("delete", 2), "dev", f"{self.name}a")
        _ip("-netns", self.name, *self._neighbour("delete", 1), "dev", f"{self.name}b")

    def _neighbour(self, verb: str, station: int) -> Sequence[str]:
        return ("neighbour", verb, f"{_BLOCK}.{self.number}.{station}")

    def remove(self) -> None:
        """Remove it, and the link with it, if it is there."""
        subprocess.run(["ip", "link", "delete", f"{self.name}a"], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, check=False)


def are_allowed() -> bool:
    """Return whether namespaces with links can be made here."""
    trial = Network(255)
    try:
        trial.make()
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        trial.remove()
    return True


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], capture_output=True, check=True)
