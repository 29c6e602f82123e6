"""
Where to listen: on the loopback as it comes, elsewhere only protected.
"""

import ssl

import pytest

from reconciler.api.listen import read_listen
from reconciler.core.errors import UsageError


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:8420", "127.0.0.1", 8420),
        ("[::1]:0", "::1", 0),
        ("localhost:80", "localhost", 80),
        ("127.8.9.1:1", "127.8.9.1", 1),
    ],
)
def test_the_loopback_needs_nothing_else(address, host, port):
    listen = read_listen(address)

    assert (listen.host, listen.port, listen.tls) == (host, port, None)


@pytest.mark.parametrize(
    "address", ["0.0.0.0:8420", ":8420", "[::]:8420", "192.0.2.7:1", "code.example.org:1"]
)
def test_a_public_address_needs_tls_or_a_proxy(address, certificate):
    with pytest.raises(UsageError, match="--tls-cert and --tls-key, or --behind-proxy"):
        read_listen(address)

    assert read_listen(address, behind_proxy=True).behind_proxy
    assert read_listen(address, *certificate).tls.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    "address", ["8420", "127.0.0.1", "127.0.0.1:99999", "::1:80", "http://x:1", "a b:1", ""]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(UsageError, match=r"is not an address such as 127\.0\.0\.1:8420"):
        read_listen(address)


def test_a_certificate_that_cannot_be_used_is_named(certificate, tmp_path):
    cert, key = certificate
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")

    for wrong in ((cert, junk), (cert, tmp_path / "missing"), (junk, key)):
        with pytest.raises(UsageError, match="cannot be used") as error:
            read_listen("127.0.0.1:0", *wrong)
        assert str(wrong[1]) in str(error.value)
    with pytest.raises(UsageError, match="belong together"):
        read_listen("127.0.0.1:0", cert, None)


def test_the_address_for_clients_has_the_port_that_it_came_to_be():
    assert read_listen("[::1]:0").url(77) == "http://[::1]:77"
