"""Rules inside one file that types do not carry."""

import pytest

from reconciler.core.adapter import Adapter, AdapterSpec, Sandbox
from reconciler.core.model.specs import AgentSpec, FleetSpec, HostSpec, RepoSpec, TaskSpec
from reconciler.specs.adapters import useless_parts
from reconciler.specs.rules import broken_rules


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a.git",
        "https://example.org:8443/a b",
        "ssh://git@example.org/a",
        "ssh://git@[::1]:2222/a",
        "git@example.org:team/a.git",
        "example.org:a",
        "http://localhost:3000/a",
        "http://127.0.0.1/a",
        "http://[::1]/a",
        "file:///srv/a.git",
        "/srv/a.git",
        "../a",
        "a-b/c",
        ".",
    ],
)
def test_addresses_that_git_fetches_without_running_anything_are_let_through(url):
    assert broken_rules(RepoSpec(url=url)) == []


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("ext::sh -c id", "helpers"),
        ("ext::ssh://example.org/a", "helpers"),
        ("fd::17", "helpers"),
        ("transport+x::y", "helpers"),
        ("-u/bin/sh", "begins with '-'"),
        ("git@-oProxyCommand=id:a", "begins with '-'"),
        ("ssh://-oProxyCommand=id/a", "begins with '-'"),
        ("ssh://git@-oProxyCommand=id/a", "begins with '-'"),
        (" /srv/a", "characters"),
        ("/srv/a\nb", "characters"),
        ("/srv/\x1b[31m", "characters"),
        ("http://example.org/a", "plain http"),
        ("http://localhost.example.org/a", "plain http"),
        ("git://example.org/a", "scheme 'git'"),
        ("javascript://a", "scheme 'javascript'"),
        ("https://u:p@example.org/a", "password"),
        ("https:///a", "no host"),
        ("https://[::1/a", "not an address"),
    ],
)
def test_other_addresses_are_refused_without_being_repeated(url, word):
    (mistake,) = broken_rules(RepoSpec(url=url))

    assert mistake.path == ("url",)
    assert word in mistake.message
    assert "\x1b" not in mistake.message


@pytest.mark.parametrize("address", ["big", "big.example.org", "10.0.0.7", "::1", "fe80::1%eth0", "my_host"])
def test_hosts_have_names_and_addresses(address):
    assert broken_rules(HostSpec(address=address)) == []


@pytest.mark.parametrize("program", ["", " "])
def test_a_command_without_a_program_is_refused(program):
    assert [mistake.path for mistake in broken_rules(AdapterSpec(command=(program, "x")))] == [("command", 0)]


@pytest.mark.parametrize(
    "address", ["-oX", "a b", "a;b", "user@host", "$(id)", "a/b", "big:22", "10.0.0.7:2222"]
)
def test_what_is_no_address_of_a_host_is_refused(address):
    assert [mistake.path for mistake in broken_rules(HostSpec(address=address))] == [("address",)]


def test_version_ranges_of_a_host_are_read():
    spec = HostSpec.model_validate(
        {"adapters": {"codex": {"version": ">=1,<2"}, "qwen": {"version": "new"}, "x": {}}}
    )

    assert [mistake.path for mistake in broken_rules(spec)] == [("adapters", "qwen", "version")]


@pytest.mark.parametrize("schedule", ["0 9 * * 1-5", "*/5 * * * *", "0 0 L * *"])
def test_cron_expressions_are_understood(schedule):
    assert broken_rules(TaskSpec(goal="x", schedule=schedule)) == []


def test_a_schedule_that_never_comes_due_is_told():
    (mistake,) = broken_rules(TaskSpec(goal="x", schedule="0 0 */40 2 MON#5"))

    assert (mistake.path, mistake.message) == (("schedule",), "'0 0 */40 2 MON#5' is never due")


@pytest.mark.parametrize(
    "spec",
    [FleetSpec, lambda **fields: RepoSpec(url="/r", **fields), lambda **fields: TaskSpec(goal="x", **fields)],
)
def test_hours_and_time_zones_are_read_wherever_they_stand(spec):
    good = {"window": ("mon-fri 09:00-17:30", "22:00-06:00"), "timezone": "Europe/Berlin"}
    bad = {"window": ("22:00-06:00", "nine to five"), "timezone": "Berlin"}

    assert broken_rules(spec(**good)) == []
    assert {mistake.path: mistake.message.partition(",")[0] for mistake in broken_rules(spec(**bad))} == {
        ("timezone",): "expected a time zone such as 'UTC' or 'Europe/Berlin'",
        ("window", 1): "expected hours such as 'mon-fri 09:00-17:30' or '22:00-06:00'",
    }


@pytest.mark.parametrize(
    "spec",
    [FleetSpec, lambda **fields: RepoSpec(url="/r", **fields), lambda **fields: TaskSpec(goal="x", **fields)],
)
def test_templates_are_read_wherever_they_stand(spec):
    assert broken_rules(spec(template="{{ task.goal }}")) == []
    assert [mistake.path for mistake in broken_rules(spec(template="{{"))] == [("template",)]


def test_an_adapter_with_everything_right_is_right():
    spec = AdapterSpec.model_validate(
        {
            "command": ("x",),
            "version": {"command": ("x",), "pattern": r"v(\d+)", "range": ">=2.1"},
            "secrets": {"A": {"env": "B"}, "C": {"command": ("pass", "show")}, "D": {"credential": "d"}},
            "output": {
                "format": "json",
                "text": "[?type=='result'] | [-1].result",
                "exit_codes": {"3": "auth"},
            },
        }
    )

    assert broken_rules(spec) == []


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"version": {"command": ("x",), "pattern": "no group"}}, ("version", "pattern")),
        ({"version": {"command": ("x",), "pattern": "(" * 5000 + ")" * 5000}}, ("version", "pattern")),
        ({"secrets": {"A": {}}}, ("secrets", "A")),
    ],
)
def test_what_an_adapter_gets_wrong_is_found(fields, path):
    assert [mistake.path for mistake in broken_rules(AdapterSpec.model_validate(fields))] == [path]


def test_the_hash_of_a_token_is_a_hash():
    spec = AgentSpec(token_hash=("a" * 64, "A" * 64, "a" * 63))

    assert [mistake.path for mistake in broken_rules(spec)] == [("token_hash", 1), ("token_hash", 2)]


FORGE = {"api": "https://code.example.org/api/v1", "repo": "tools/calc", "token": {"env": "FORGE_TOKEN"}}


@pytest.mark.parametrize("spec", [FleetSpec, lambda **words: RepoSpec(url="/r", **words)])
@pytest.mark.parametrize(
    ("fields", "path", "word"),
    [
        ({}, None, ""),
        ({"api": "http://127.0.0.1:3000/api/v1", "webhook_secret": {"credential": "hook"}}, None, ""),
        ({"api": "http://code.example.org/api/v1"}, ("forge", "api"), "plain http"),
        ({"api": "https://bot:t0ken@code.example.org"}, ("forge", "api"), "more than an address"),
        ({"api": "https://code.example.org/?token=t0ken"}, ("forge", "api"), "more than an address"),
        ({"api": "code.example.org"}, ("forge", "api"), "expected an address"),
        ({"api": "https://code.example.org:port"}, ("forge", "api"), "not an address"),
        ({"api": "https://code.example.org/\n"}, ("forge", "api"), "characters"),
        ({"token": {}}, ("forge", "token"), "found none"),
        ({"token": {"env": "A", "file": "b"}}, ("forge", "token"), "env and file"),
        ({"token": {"env": "A", "on": "host"}}, ("forge", "token", "on"), "only the reconciler"),
        ({"webhook_secret": {}}, ("forge", "webhook_secret"), "found none"),
    ],
)
def test_a_forge_is_reached_safely_and_its_secrets_have_one_source_each(spec, fields, path, word):
    mistakes = broken_rules(spec(forge={**FORGE, **fields}))

    assert [mistake.path for mistake in mistakes] == ([path] if path else [])
    assert all(word in mistake.message and "t0ken" not in mistake.message for mistake in mistakes)


@pytest.mark.parametrize(("network", "wrong"), [(False, [("sandbox", "network")]), (True, [])])
def test_an_agent_that_calls_a_model_has_a_network_in_its_sandbox(network, wrong):
    adapter = Adapter(
        name="x",
        command=("x", "{model}"),
        model=("-m", "{model}"),
        sandbox=Sandbox(network=network),
    )

    assert [mistake.path for mistake in useless_parts(adapter)] == wrong
