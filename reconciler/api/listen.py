"""
Where to listen; a public address only with TLS, or behind a proxy that has it.
"""

import logging
import re
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from reconciler.core.errors import UsageError

log = logging.getLogger(__name__)
_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]*)):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class Listen:
    """A listen address, and its TLS."""

    host: str
    port: int
    """0: any that is free."""
    tls: ssl.SSLContext | None = None
    behind_proxy: bool = False
    """Whether the peer's address is what the one proxy before us says (X-Forwarded-For)."""

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can ask."""
        return is_loopback(self.host) and not self.behind_proxy

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
        raise UsageError(f"--listen {address!r} is not an address such as 127.0.0.1:8420 or [::1]:8420")
    host = match["six"] or match["host"] or "0.0.0.0"  # noqa: S104 - refused below, unless it is protected
    tls = _tls(tls_cert, tls_key)
    if not (tls or behind_proxy or is_loopback(host)):
        raise UsageError(
            f"--listen {address} is reachable from other machines, and tokens would go over the network "
            "as plain text: give --tls-cert and --tls-key, or --behind-proxy if a proxy with TLS is "
            "before it, or listen on 127.0.0.1"
        )
    return Listen(host, int(match["port"]), tls, behind_proxy)


def is_loopback(host: str) -> bool:
    """Return whether a name or an address is this machine's own, which no other reaches."""
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
        context.sni_callback = _renewal(cert, key, _as_of(cert, key))
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(
            f"the certificate {cert} with the key {key} cannot be used: {error.strerror or error}; "
            "both must be PEM files that belong together, readable, the key without a passphrase"
        ) from error
    return context


def _renewal(
    cert: Path, key: Path, as_of: Sequence[object]
) -> Callable[[ssl.SSLObject, Any, ssl.SSLContext], None]:
    """
    Return what takes up a certificate that was renewed; called in each handshake.

    A pair that cannot be used, or not yet, leaves the one before in force; it is
    tried again at the next handshake.
    """

    def renew(connection: ssl.SSLObject, _name: Any, context: ssl.SSLContext) -> None:
        nonlocal as_of
        try:
            now = _as_of(cert, key)
            if now == as_of:
                return
            fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            fresh.load_cert_chain(cert, key, password=lambda: "")  # apart: half of a pair must not get in
            context.load_cert_chain(cert, key, password=lambda: "")
        except OSError as error:
            log.warning(
                "the certificate %s was renewed and cannot be used: %s", cert, error.strerror or error
            )
            return
        as_of = now
        fresh.minimum_version = context.minimum_version
        connection.context = fresh  # this handshake is past the choice of the old one

    return renew


def _as_of(*files: Path) -> Sequence[object]:
    return [(stat.st_mtime_ns, stat.st_ino) for stat in (file.stat() for file in files)]
