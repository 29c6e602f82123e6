"""
What was seen of a login, and what one is told: the table, row by row.
"""

import socket

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.dispatch.ssh.diagnosis import Class, Seen, Try, diagnose
from reconciler.dispatch.ssh.route import Hop

KEY = asyncssh.generate_private_key("ssh-ed25519").convert_to_public()
OTHER = asyncssh.generate_private_key("ecdsa-sha2-nistp256").convert_to_public()
HELLO = b"SSH-2.0-OpenSSH_9.2\r\n"
LOST = asyncssh.ConnectionLost("Connection lost")
DENIED = asyncssh.PermissionDenied("Permission denied")


def kexinit(*lists: str) -> bytes:
    """Return the packet in which a server names its algorithms."""
    names = [*lists, *[""] * (10 - len(lists))]
    body = bytes([20]) + bytes(16) + b"".join(len(n).to_bytes(4) + n.encode() for n in names) + bytes(5)
    return (len(body) + 5).to_bytes(4) + bytes([4]) + body + bytes(4)


def told(error: Exception, *, pinned=(KEY,), user: str | None = "agents", **seen: object):
    hop = Hop(name="h1", address="h1.example", user=user)
    return diagnose(Try(hop, error, Seen(**seen), pinned, ["ssh-ed25519", "rsa-sha2-512"], 15.0))


@pytest.mark.parametrize(
    ("error", "seen", "kind", "remedy"),
    [
        (socket.gaierror(-2, "unknown"), {}, Class.NAME, "check `address`"),
        (ConnectionRefusedError(), {}, Class.CLOSED, "check `port`"),
        (OSError(113, "No route to host"), {}, Class.NETWORK, "the network"),
        (TimeoutError(), {}, Class.SILENT, "firewalls"),
        (TimeoutError(), {"connected": True}, Class.SILENT, "says nothing"),
        (TimeoutError(), {"connected": True, "output": HELLO}, Class.SLOW, "UseDNS"),
        (LOST, {"connected": True}, Class.BUSY, "MaxStartups"),
        (ConnectionResetError(), {"connected": True}, Class.BUSY, "MaxStartups"),
        (LOST, {"connected": True, "output": HELLO}, Class.BUSY, "see its log"),
        (LOST, {"output": b"Not allowed at this time\r\n"}, Class.BARRED, "PerSourcePenaltyExemptList"),
        (LOST, {"output": b"Exceeded MaxStartups\r\n"}, Class.BUSY, "tried again"),
        (LOST, {"output": b"HTTP/1.1 400\r\n"}, Class.STRANGER, "`port` is sshd's"),
        (TimeoutError(), {"connected": True, "output": b"* OK IMAP4 ready\r\n"}, Class.STRANGER, "IMAP4"),
        (asyncssh.ChannelOpenError(2, "refused"), {}, Class.JUMP, "AllowTcpForwarding"),
        (
            LOST,
            {"output": HELLO + kexinit("curve25519-sha256", "ssh-rsa")},
            Class.ALGORITHMS,
            "ssh-keygen -A",
        ),
        (LOST, {"output": HELLO + kexinit("curve25519-sha256", "ssh-dss")}, Class.ALGORITHMS, "only ssh-dss"),
        (LOST, {"output": HELLO + kexinit("curve25519-sha256", "ssh-ed25519")}, Class.BUSY, "see its log"),
        # Who finds out first that nothing is in common hangs up: it may be the server.
        (LOST, {"output": HELLO + kexinit("old-kex", "ssh-ed25519")}, Class.ALGORITHMS, "it has is old-kex"),
        (
            ConnectionResetError(),
            {"connected": True, "output": HELLO + kexinit("curve25519-sha256", "ssh-ed25519", "3des-cbc")},
            Class.ALGORITHMS,
            "no cipher algorithm in common; all that it has is 3des-cbc",
        ),
        (
            LOST,
            {"output": HELLO + kexinit("curve25519-sha256", "ssh-ed25519", "aes128-ctr", "", "hmac-md5")},
            Class.ALGORITHMS,
            "no MAC algorithm in common; all that it has is hmac-md5",
        ),
        (
            LOST,
            {
                "output": HELLO
                + kexinit("curve25519-sha256", "ssh-ed25519", "aes128-gcm@openssh.com", "", "hmac-md5")
            },
            Class.BUSY,
            "see its log",
        ),
        (DENIED, {"offered": 1, "is_exhausted": True}, Class.LOGIN, "authorized_keys"),
        (
            DENIED,
            {"offered": 1, "prompts": {"password"}, "is_exhausted": True},
            Class.LOGIN,
            "authorized_keys",
        ),
        (DENIED, {"offered": 1, "prompts": {"password"}}, Class.SECOND_FACTOR, "password besides"),
        (DENIED, {"prompts": {"password"}}, Class.NO_KEYS, "PubkeyAuthentication"),
        (LOST, {"output": HELLO, "offered": 1}, Class.ACCOUNT, "expired"),
        (asyncssh.ProtocolError("Too many authentication failures"), {}, Class.TOO_MANY_KEYS, "`identity`"),
        (asyncssh.HostKeyNotVerifiable("no"), {"presented": OTHER}, Class.HOST_KEY, "another type"),
        (asyncssh.HostKeyNotVerifiable("no"), {"presented": KEY}, Class.HOST_KEY, "has changed"),
        (asyncssh.ProtocolError("oops"), {"output": HELLO}, Class.PROTOCOL, "oops"),
        (ValueError("odd"), {}, Class.NETWORK, "odd"),
    ],
)
def test_what_was_seen_decides_what_one_is_told(error, seen, kind, remedy):
    finding = told(error, **seen)

    assert finding.kind is kind, finding
    assert remedy in finding.message


errors = st.sampled_from(
    [
        LOST,
        DENIED,
        TimeoutError(),
        ConnectionResetError(),
        OSError(5, "no"),
        asyncssh.ProtocolError("no"),
        asyncssh.KeyExchangeFailed("No matching MAC algorithm found, sent a and received b"),
        asyncssh.HostKeyNotVerifiable("no"),
        ValueError("no"),
    ]
)


tries = st.builds(
    Seen,
    output=st.builds(
        bytes.__add__, st.sampled_from([b"", HELLO, b"SSH-2.0-", b"SSH-1"]), st.binary(max_size=80)
    ),
    connected=st.booleans(),
    offered=st.integers(0, 3),
    prompts=st.sets(st.sampled_from(["password", "keyboard-interactive"])),
    presented=st.sampled_from([None, KEY, OTHER]),
    banner=st.text(max_size=20),
)


@given(errors, tries)
def test_whatever_was_seen_is_told_in_one_harmless_line(error: Exception, seen: Seen):
    hop = Hop(name="h1", address="h1.example")

    message = diagnose(Try(hop, error, seen, (KEY,), ["ssh-ed25519"], 15.0)).message

    assert message
    assert message.isprintable()


def test_names_of_algorithms_are_made_harmless_too():
    said = HELLO + kexinit("curve25519-sha256", "\x1b[31mred")

    assert told(LOST, output=said).message.isprintable()
