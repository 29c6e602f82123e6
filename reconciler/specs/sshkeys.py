"""
Check of the public keys in `host_key`.
"""

import base64
import binascii
from collections.abc import Iterator

_LENGTHS = {b"ssh-ed25519": (32,), b"ssh-ed448": (57,)}
_PARTS = {b"ssh-rsa": 2, b"ecdsa-sha2-nistp256": 2, b"ecdsa-sha2-nistp384": 2, b"ecdsa-sha2-nistp521": 2}
KEY_TYPES = (*map(bytes.decode, _LENGTHS), *map(bytes.decode, _PARTS))


def check_host_key(line: str) -> None:
    """Raise ValueError, with the reason, unless a line is a public key: kind, base64, optional comment."""
    fields = line.split()
    if "PRIVATE KEY" in line:
        raise ValueError("this is a private key; the host's public one belongs here")
    if len(fields) > 1 and fields[0] not in KEY_TYPES and fields[1] in KEY_TYPES:
        raise ValueError(f"leave out {fields[0]!r}: the line begins with the kind of the key")
    if len(fields) < 2 or fields[0] not in KEY_TYPES:  # noqa: PLR2004 - kind and key
        raise ValueError(
            f"expected a public key such as 'ssh-ed25519 AAAA…' ({', '.join(KEY_TYPES)}); "
            "`reconciler host trust` writes it"
        )
    if not _is_whole(fields[0].encode(), fields[1]):
        raise ValueError(f"the {fields[0]} key is not whole; `reconciler host trust` writes it")


def _is_whole(kind: bytes, text: str) -> bool:
    try:
        named, *parts = _fields(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error):
        return False
    if kind in _LENGTHS:
        return named == kind and tuple(map(len, parts)) == _LENGTHS[kind]
    is_curve = not kind.startswith(b"ecdsa") or parts[:1] == [kind.rpartition(b"-")[2]]
    return named == kind and len(parts) == _PARTS[kind] and all(parts) and is_curve


def _fields(data: bytes) -> Iterator[bytes]:
    """Yield the fields of the SSH wire format: a length in four bytes, and the bytes. Raises ValueError."""
    while data:
        length, data = int.from_bytes(data[:4]), data[4:]
        if len(data) < length:
            raise ValueError("cut off")
        yield data[:length]
        data = data[length:]
