"""Egress lists: what can be listed, and what two lists allow together."""

import pytest

from reconciler.core.adapter import Adapter, Sandbox
from reconciler.core.egress import check_network, expanded, intersection
from reconciler.core.model.specs import Host
from reconciler.core.model.status import HostStatus
from reconciler.core.runs.sandbox import sandbox_of
from tests.core.test_sandbox import SCRIPT, placed
from tests.strategies import NOW


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("api.example.org", ("api.example.org:443", "api.example.org:80")),
        ("API.Example.org.:8443", ("api.example.org:8443",)),
        ("*.example.org:443", ("*.example.org:443",)),
        ("10.1.2.3:22", ("10.1.2.3/32:22",)),
        ("10.1.2.3/16:443", ("10.1.0.0/16:443",)),
        ("[fd00::1]:443", ("[fd00::1/128]:443",)),
        ("localhost:8080", ("localhost:8080",)),
        ("127.0.0.1:8080", ("localhost:8080",)),
        ("[::1]:8080", ("localhost:8080",)),
    ],
)
def test_a_destination_is_a_name_or_addresses_with_a_port_or_those_of_the_web(text, allowed):
    assert expanded(text) == allowed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("https://api.example.org", "no destination"),
        ("api.example.org/path", "without scheme and path"),
        ("*", "no destination"),
        ("a.*.org", "no destination"),
        ("bücher.example", "no destination"),
        ("", "no destination"),
        ("::1", "as \\[::1\\]:PORT"),
        ("a:0", "no port"),
        ("a:65536", "no port"),
        ("a:b", "no destination"),
        ("localhost", "name the port"),
        ("127.0.0.1", "name the port"),
        ("0.0.0.0/0", "network: true"),
        ("1.2.3.400", "no address"),
        ("[fd00::zz]", "no address"),
    ],
)
def test_what_is_no_destination_is_refused_with_what_to_write(text, why):
    with pytest.raises(ValueError, match=why):
        expanded(text)


@pytest.mark.parametrize("network", [True, False, ("a.org",)])
def test_a_network_is_there_or_not_or_what_is_listed(network):
    assert check_network(network) == network


@pytest.mark.parametrize("network", ["a.org", None, 1, {}, [], [1], ["a.org"] * 101, ["a.org", "b/"]])
def test_what_is_no_network_is_refused(network):
    with pytest.raises(ValueError, match=r"expected true|must list|no destination"):
        check_network(network)


def test_two_lists_allow_what_both_do():
    host = ("api.example.org", "*.example.com:443", "10.0.0.0/8:443", "localhost:8080")
    adapter = ("api.example.org:443", "a.example.com", "*.b.example.com:443", "10.1.0.0/16", "example.com")

    both = ("api.example.org:443", "a.example.com:443", "*.b.example.com:443", "10.1.0.0/16:443")
    assert set(intersection(host, adapter)) == set(intersection(adapter, host)) == set(both)


LIST = ("api.example.org:443",)


@pytest.mark.parametrize(
    ("host", "adapter", "network"),
    [
        (True, LIST, LIST),
        (LIST, True, LIST),
        (False, LIST, False),
        (LIST, False, False),
        (LIST, ("api.example.org", "b.example.org"), LIST),
        (LIST, ("b.example.org",), False),
    ],
)
def test_the_stricter_of_two_networks_counts(host, adapter, network):
    sandbox = sandbox_of(
        Host(name="a", sandbox=Sandbox(network=host)), Adapter(name="x", sandbox=Sandbox(network=adapter))
    )

    assert sandbox == Sandbox(network=network)


@pytest.mark.parametrize(
    ("egress", "why"),
    [
        (None, "has not been asked for an egress list yet"),
        ("install python3", "can have no egress list: install python3"),
    ],
)
def test_a_task_waits_with_the_reason_where_its_egress_list_cannot_be_had(egress, why):
    host = Host(name="a", sandbox=Sandbox(network=LIST))

    up = HostStatus(reachable=True, since=NOW, sandbox="", egress=egress)

    assert placed(host, up, SCRIPT).rejected == {"a": why}
    assert placed(host, up.model_copy(update={"egress": ""}), SCRIPT).chosen == "a"
