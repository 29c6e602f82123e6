"""
Diagnosis of failed logins, from what was observed of the attempt and not from the type of the error.

`diagnose` is a table, read from the top: the first row whose condition holds
says what is wrong and what to do about it.
"""

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import asyncssh
from asyncssh.encryption import get_default_encryption_algs
from asyncssh.kex import get_default_kex_algs
from asyncssh.mac import get_default_mac_algs

from reconciler.core.text import one_line
from reconciler.dispatch.ssh.route import Hop

_HELLO = re.compile(rb"^SSH-[^\r\n]*", re.MULTILINE)
_KEXINIT = 20
_PACKET_HEAD = 6
"""Bytes before the payload's body: length, padding, type of message."""
_COOKIE = 16
_LISTS = ("key exchange", "host key", "cipher", "_", "MAC", "_", "_", "_")
"""What the name lists of a KEXINIT are about (RFC 4253, 7.1); those of the other way say the same."""


class Class(StrEnum):
    """Kind of failure."""

    NAME = "name"
    NETWORK = "network"
    CLOSED = "closed"
    """Nothing listens there."""
    SILENT = "silent"
    SLOW = "slow"
    STRANGER = "stranger"
    """Something other than an sshd listens there."""
    BUSY = "busy"
    BARRED = "barred"
    """It rejects our connections for a while."""
    ALGORITHMS = "algorithms"
    """It offers only outdated algorithms."""
    HOST_KEY = "host key"
    JUMP = "jump"
    TOO_MANY_KEYS = "too many keys"
    LOGIN = "login"
    SECOND_FACTOR = "second factor"
    NO_KEYS = "no keys"
    """It takes passwords, but no keys."""
    ACCOUNT = "account"
    PROTOCOL = "protocol"


@dataclass(slots=True, kw_only=True)
class Seen:
    """Observations of one attempt to connect and log in."""

    connected: bool = False
    """Whether anybody accepted the connection."""
    output: bytes = b""
    """The server's first bytes, in the clear: version line and key exchange."""
    presented: asyncssh.SSHKey | None = None
    """Key of the host that is not pinned."""
    offered: int = 0
    """How many keys it was shown."""
    is_exhausted: bool = False
    """Whether it wanted one more key than there was."""
    prompts: set[str] = field(default_factory=set)
    """Other login methods it offered: `password`, `keyboard-interactive`."""
    banner: str = ""
    """Login banner."""

    @property
    def hello(self) -> str:
        """Its version line, such as `SSH-2.0-OpenSSH_9.2`; empty if there was none."""
        match = _HELLO.search(self.output)
        return match.group().decode(errors="replace") if match else ""

    @property
    def text(self) -> str:
        """What it sent instead of a version line, in one line."""
        return "" if self.hello else one_line(self.output.decode(errors="replace"), 100)

    @property
    def algorithms(self) -> Mapping[str, Sequence[str]]:
        """Its algorithms, by use; empty if the key exchange did not begin."""
        match = _HELLO.search(self.output)
        return _algorithms(self.output[match.end() :].lstrip(b"\r\n")) if match else {}


class Try(NamedTuple):
    """A failed attempt: where, how, and what was observed."""

    hop: Hop
    error: Exception
    seen: Seen
    pinned: Sequence[asyncssh.SSHKey]
    host_algorithms: Sequence[str]
    """Host key algorithms that we accept."""
    seconds: float
    """Timeout that applied."""

    @property
    def user(self) -> str:
        """The login user, for messages."""
        return f"user {self.hop.user!r}" if self.hop.user else "the service user's own name"

    @property
    def text(self) -> str:
        """Message of the error."""
        return one_line(str(self.error), 200) or type(self.error).__name__

    @property
    def is_cut_off(self) -> bool:
        """Whether the other side closed the connection."""
        return isinstance(self.error, asyncssh.ConnectionLost | ConnectionError)

    @property
    def has_hostkey_in_common(self) -> bool:
        """Whether it has a host key algorithm that we accept; true if unknown."""
        theirs = self.seen.algorithms.get("host key")
        return not theirs or not set(theirs).isdisjoint(self.host_algorithms)


class Finding(NamedTuple):
    """What is wrong, and what to do about it."""

    kind: Class
    message: str


def diagnose(case: Try) -> Finding:
    """Return why the login failed; text from the other side in it is sanitized."""
    return next(
        Finding(kind, one_line(describe(case), 1000)) for kind, holds, describe in _TABLE if holds(case)
    )


def fingerprint(key: asyncssh.SSHKey) -> str:
    """Return type and SHA-256 of a key as `ssh-keygen -l` prints them."""
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


# --- Messages -------------------------------------------------------------


def _old_host_key(case: Try) -> str:
    theirs = case.seen.algorithms["host key"]
    if "ssh-rsa" in theirs:
        return (
            "it shows its RSA key with SHA-1 signatures only (ssh-rsa), which prove nothing any more; "
            "give it an Ed25519 key (`ssh-keygen -A`, then restart sshd), or a newer sshd"
        )
    return (
        f"it has no host key of a type that is taken, only {_some(theirs)}; "
        "give it an Ed25519 key (`ssh-keygen -A`, then restart sshd)"
    )


def _no_algorithms(case: Try) -> str:
    use = _in_dispute(case)
    theirs = case.seen.algorithms.get(use, ())
    return (
        f"no {use} algorithm in common; all that it has is "
        f"{_some(theirs)}, not safe any more; update its sshd, or see its sshd_config"
    )


def _in_dispute(case: Try) -> str:
    """Return the uses without a common algorithm; empty if there are none, or nothing is known."""
    if isinstance(case.error, asyncssh.KeyExchangeFailed) and "No matching" in case.text:
        named = {"MAC": "MAC", "encryption": "cipher", "host key": "host key"}
        return next((use for word, use in named.items() if word in case.text), "key exchange")
    # Both sides find out at once, and a server may be the quicker one to hang up.
    return next((use for use in _OURS if case.is_cut_off and _has_none_of_ours(case, use)), "")


def _has_none_of_ours(case: Try, use: str) -> bool:
    theirs, ours = case.seen.algorithms.get(use), _OURS[use]
    if not theirs:
        return False
    if use == "MAC" and any(map(_needs_no_mac, _in_common(case, "cipher"))):
        return False
    return ours.isdisjoint(theirs)


def _in_common(case: Try, use: str) -> frozenset[str]:
    """Return the algorithms for a use that both sides have."""
    return _OURS[use].intersection(case.seen.algorithms.get(use, ()))


def _needs_no_mac(cipher: str) -> bool:
    return "gcm" in cipher or "poly1305" in cipher


_OURS: Mapping[str, frozenset[str]] = {
    "key exchange": frozenset(name.decode() for name in get_default_kex_algs()),
    "cipher": frozenset(name.decode() for name in get_default_encryption_algs()),
    "MAC": frozenset(name.decode() for name in get_default_mac_algs()),
}
"""Our algorithms, by use."""


def _changed_key(case: Try) -> str:
    expected = ", ".join(map(fingerprint, case.pinned))
    shown = fingerprint(case.seen.presented) if case.seen.presented else ""
    kinds = {key.get_algorithm() for key in case.pinned}
    of_other_kind = case.seen.presented and case.seen.presented.get_algorithm() not in kinds
    why = "it shows a key of another type than the pinned one" if of_other_kind else "its key has changed"
    return (
        f"{why}: expected {expected}, presented {shown}; "
        f"if that is right, run `reconciler host trust {case.hop.name}`, else somebody stands in between"
    )


def _unwanted_key(case: Try) -> str:
    return (
        f"login refused for {case.user}{_banner(case)}; check `user`, and that the public key of "
        f"{case.hop.identity or 'a key in the SSH agent'} is in the authorized_keys there, and of a type "
        "that its sshd takes (PubkeyAcceptedAlgorithms)"
    )


def _too_many(case: Try) -> str:
    shown = f"{case.seen.offered} keys" if case.seen.offered else "the keys"
    return (
        f"it took no more after {shown} of the SSH agent (MaxAuthTries), none of which {case.user} may log "
        "in with, or too late; name the right one in `identity`: the private key, or its .pub file if the "
        "agent holds it"
    )


def _second_factor(case: Try) -> str:
    return (
        f"the key of {case.user} is right, but it wants {_listed(case)} besides (AuthenticationMethods), and "
        "nobody is here to type; let this user log in with the key alone (a `Match User` block there)"
    )


def _no_keys(case: Try) -> str:
    return (
        f"it takes no keys, only {_listed(case)}, and nobody is here to type; "
        "allow `PubkeyAuthentication` in its sshd_config for this user"
    )


def _account(case: Try) -> str:
    return (
        f"it ended the connection while {case.user} logged in{_banner(case)}; the account may be expired, "
        "locked or kept out (PAM, AllowUsers), or its home be away: see the log of its sshd"
    )


def _slow(case: Try) -> str:
    return (
        f"{case.seen.hello} answered, but the login was not done within {case.seconds:g} s; see what it "
        "waits for there (UseDNS, PAM, AuthorizedKeysCommand), in the log of its sshd"
    )


def _hung_up(_: Try) -> str:
    return (
        "it closed the connection before login, without a message; sshd may be starting, overloaded "
        "(MaxStartups), or bar us for a time (PerSourcePenalties); a firewall or tcp_wrappers do the same"
    )


def _cut_during_session(case: Try) -> str:
    return (
        f"{case.seen.hello} closed the connection before login; sshd may be overloaded (MaxStartups), "
        "short of memory, or want other algorithms: see its log"
    )


def _banner(case: Try) -> str:
    return f" ({case.seen.banner!r})" if case.seen.banner else ""


def _listed(case: Try) -> str:
    return " or ".join(sorted(case.seen.prompts)) or "something else"


def _some(names: Sequence[str]) -> str:
    """Return a few names; extensions that stand among them are none."""
    real = [name for name in names if "strict" not in name and not name.startswith("ext-info")]
    return ", ".join(real[:5]) + (f" and {len(real) - 5} more" if len(real) > 5 else "") or "none"  # noqa: PLR2004


# --- The table -------------------------------------------------------------

_Row = tuple[Class, Callable[[Try], bool], Callable[[Try], str]]


def _is(*kinds: type[Exception]) -> Callable[[Try], bool]:
    return lambda case: isinstance(case.error, kinds)


def _says(*phrases: bytes) -> Callable[[Try], bool]:
    return lambda case: not case.seen.hello and any(word in case.seen.output for word in phrases)


_TABLE: Sequence[_Row] = (
    (
        Class.NAME,
        _is(socket.gaierror),
        lambda case: f"its name is not known ({getattr(case.error, 'strerror', '')}); check `address`",
    ),
    (
        Class.JUMP,
        _is(asyncssh.ChannelOpenError),
        lambda case: (
            f"the jump host cannot reach it ({case.text}); "
            "check `address` and `port`, and AllowTcpForwarding of the jump host"
        ),
    ),
    (
        Class.CLOSED,
        _is(ConnectionRefusedError),
        lambda _: "nothing listens there; check `port`, and that sshd runs",
    ),
    (
        Class.BARRED,
        _says(b"Not allowed at this time"),
        lambda _: (
            "it takes no connection from here for a while (PerSourcePenalties: `Not allowed at this time`), "
            "after logins that failed; it passes by itself: fix what failed first, or exempt this address "
            "(PerSourcePenaltyExemptList)"
        ),
    ),
    (
        Class.BUSY,
        _says(b"MaxStartups"),
        lambda _: "its sshd has too many logins under way (MaxStartups); it is tried again",
    ),
    (
        Class.STRANGER,
        lambda case: bool(case.seen.text),
        lambda case: (
            f"what listens there is no sshd: the SSH handshake failed, it says {case.seen.text!r}; "
            "check that `port` is sshd's"
        ),
    ),
    (
        Class.STRANGER,
        lambda case: bool(case.seen.hello) and not case.seen.hello.startswith(("SSH-2.0-", "SSH-1.99-")),
        lambda case: (
            f"the SSH handshake failed: it speaks {case.seen.hello!r}; "
            "check that `port` is sshd's, and update it"
        ),
    ),
    (
        Class.HOST_KEY,
        lambda case: (
            case.seen.presented is not None and isinstance(case.error, asyncssh.HostKeyNotVerifiable)
        ),
        _changed_key,
    ),
    (Class.ALGORITHMS, lambda case: not case.has_hostkey_in_common, _old_host_key),
    (Class.ALGORITHMS, lambda case: bool(_in_dispute(case)), _no_algorithms),
    (
        Class.TOO_MANY_KEYS,
        lambda case: "Too many authentication failures" in case.text,
        _too_many,
    ),
    (
        Class.NO_KEYS,
        lambda case: isinstance(case.error, asyncssh.PermissionDenied) and _wanted_no_key(case),
        _no_keys,
    ),
    (
        Class.SECOND_FACTOR,
        lambda case: (
            isinstance(case.error, asyncssh.PermissionDenied)
            and bool(case.seen.offered and case.seen.prompts)
            and not case.seen.is_exhausted
        ),
        _second_factor,
    ),
    (Class.LOGIN, _is(asyncssh.PermissionDenied), _unwanted_key),
    (
        Class.SLOW,
        lambda case: isinstance(case.error, TimeoutError) and bool(case.seen.hello),
        _slow,
    ),
    (
        Class.SILENT,
        _is(TimeoutError),
        lambda case: (
            f"no SSH answer within {case.seconds:g} s; check `address`, `port` and firewalls, and that sshd "
            f"runs there{'; what accepts connections there says nothing' if case.seen.connected else ''}"
        ),
    ),
    (Class.ACCOUNT, lambda case: case.is_cut_off and case.seen.offered > 0, _account),
    (Class.BUSY, lambda case: case.is_cut_off and bool(case.seen.hello), _cut_during_session),
    (Class.BUSY, lambda case: case.is_cut_off and case.seen.connected, _hung_up),
    (
        Class.PROTOCOL,
        _is(asyncssh.Error),
        lambda case: f"the SSH handshake failed ({case.text}); see the log of its sshd",
    ),
    (
        Class.NETWORK,
        lambda _: True,
        lambda case: f"no connection ({case.text}); check `address` and the network",
    ),
)


def _wanted_no_key(case: Try) -> bool:
    return not case.seen.offered and not case.seen.is_exhausted and bool(case.seen.prompts)


# --- What a server says in the clear ---------------------------------------


def _algorithms(packet: bytes) -> Mapping[str, Sequence[str]]:
    """Return the name lists of the KEXINIT that a server begins with; empty if there is none."""
    if len(packet) < _PACKET_HEAD or packet[_PACKET_HEAD - 1] != _KEXINIT:
        return {}
    at, offers = _PACKET_HEAD + _COOKIE, dict[str, Sequence[str]]()
    for use in _LISTS:
        size = int.from_bytes(packet[at : at + 4])
        names = packet[at + 4 : at + 4 + size]
        if len(names) != size:
            return {}
        offers.setdefault(use, names.decode("ascii", errors="replace").split(",") if names else ())
        at += 4 + size
    return offers
