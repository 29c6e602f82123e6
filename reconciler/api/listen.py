"""
Where to listen; a public address only with TLS, or behind a proxy that has it.
"""

import re
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from reconciler.core.errors import UsageError

_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]*)):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen, and how."""

    host: str
    port: int
    """0: any that is free."""
    tls: ssl.SSLContext | None = None
    behind_proxy: bool = False
    """Whether the peer's address is what the one proxy before us says (X-Forwarded-For)."""

    def url(self, port: int) -> str:
        """Return the address for clients, with the port that it came to be."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{port}"


def read_listen(
    address: str, tls_cert: Path | None = None, tls_key: Path | None = None, *, behind_proxy: bool = False
) -> Listen:
    """
    Return where to listen, from `127.0.0.1:8420` or `[::1]:8420` and the files of a certificate.

    Raises UsageError, for a public address without TLS and without a proxy too.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"]) > 0xFFFF:  # noqa: PLR2004 - ports have 16 bits
        raise UsageError(f"--listen {address!r} is no address such as 127.0.0.1:8420 or [::1]:8420")
    host = match["six"] or match["host"] or "0.0.0.0"  # noqa: S104 - refused below, unless it is protected
    tls = _tls(tls_cert, tls_key)
    if not (tls or behind_proxy or _is_loopback(host)):
        raise UsageError(
            f"--listen {address} is reachable from other machines, and tokens would go over the network "
            "as plain text: give --tls-cert and --tls-key, or --behind-proxy if a proxy with TLS is "
            "before it, or listen on 127.0.0.1"
        )
    return Listen(host, int(match["port"]), tls, behind_proxy)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise UsageError("--tls-cert and --tls-key belong together: give both or neither")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password=lambda: "")  # never ask on a terminal
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(
            f"the certificate {cert} with the key {key} cannot be used: {error.strerror or error}; "
            "both must be PEM files that belong together, readable, the key without a passphrase"
        ) from error
    return context
