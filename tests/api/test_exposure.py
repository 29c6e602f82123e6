"""By which names the server may be called: one rule for pages and metrics."""

import pytest

from reconciler.api.exposure import exposure_of
from reconciler.api.listen import read_listen

HERE = exposure_of(read_listen("127.0.0.1:8420"), "https://fleet.example.org/x", b"key")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8420", "LOCALHOST:1", "[::1]:8420", "127.9.9.9", "Fleet.example.org:443"]
)
def test_its_own_names_and_those_of_the_loopback_are_taken(host):
    assert HERE.has_name(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":8420",
        "evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "[::1",
        "::1]",
        "10.0.0.7",
    ],
)
def test_any_other_name_is_not_whatever_it_looks_like(host):
    assert not HERE.has_name(host)
