"""
Who can reach the server: by which names, and whether only programs of this machine.
"""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from reconciler.api.listen import Listen, is_loopback


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """Where pages and metrics are served, as far as it decides who may read them."""

    hosts: frozenset[str] | None
    """
    Names by which it may be called, as a request's Host, beside those of the loopback; None: by any.

    Another site's name may be made to lead here (DNS rebinding): its page must read nothing.
    """
    is_open: bool
    """Whether everybody who reaches it may read."""
    is_secure: bool
    """Whether there is TLS between the browser and us."""
    key: bytes
    """Signs cookies."""

    def has_name(self, host: str) -> bool:
        """Return whether a request's Host, with a port or not, is a name of this server."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:  # half an IPv6 address
            return False
        return self.hosts is None or name in self.hosts or is_loopback(name)

    @property
    def cookie(self) -> str:
        """Name of the cookie; of one with TLS, browsers see to it that no other server has set it."""
        return "__Host-reconciler" if self.is_secure else "reconciler"


def exposure_of(listen: Listen, public_url: str, key: bytes) -> Exposure:
    """Return how they are served at a listen address, and perhaps at an address that others know."""
    public = urlsplit(public_url).hostname
    is_everywhere = _is_unspecified(listen.host)
    names = {listen.host.lower()} | ({public} if public else set())
    return Exposure(
        # A cookie is only sent to the name that set it, so that another name leads nowhere but to the login.
        hosts=None if is_everywhere and not public else frozenset(names),
        is_open=listen.is_local and (public is None or is_loopback(public)),
        is_secure=listen.tls is not None or listen.behind_proxy or public_url.startswith("https:"),
        key=key,
    )


def _is_unspecified(host: str) -> bool:
    """Return whether an address stands for all that the machine has."""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False
