"""
Tokens of outside agents: shown once, their hashes committed.
"""

import hashlib
import json

import pytest
from ruamel.yaml import YAML


def hash_of(token):
    return hashlib.sha256(token.encode()).hexdigest()


def spec(fleet):
    return YAML(typ="safe", pure=True).load(fleet.read("specs/agents/jeeves.yaml"))


def make(fleet, *args):
    done = fleet.run("token", "new", "jeeves", *args)
    assert done.exit_code == 0, done.stderr
    return done.stdout.strip()


def test_a_token_is_shown_and_its_hash_is_committed_with_a_new_agent(fleet):
    token = make(fleet, "--reason", "He asked")

    assert token.startswith("rct_jeeves.")
    assert spec(fleet) == {"token_hash": [hash_of(token)]}
    assert (
        fleet.git("log", "-1", "--format=%an|%s|%b").strip() == "Test|Make a token of agent jeeves|He asked"
    )
    assert fleet.git("status", "--porcelain") == ""
    assert token.partition(".")[2] not in fleet.git("log", "--patch", "--all")


def test_the_rest_of_an_agents_file_stays_as_it_is(fleet):
    fleet.write("specs/agents/jeeves.yaml", "# Ours.\ncapabilities: [gpu]   # one card\n")
    fleet.commit()

    token = make(fleet, "--scope", "agent", "--scope", "read", "--expires", "90d")

    text = fleet.read("specs/agents/jeeves.yaml")
    assert text.startswith("# Ours.\ncapabilities: [gpu]   # one card\n")
    assert spec(fleet)["token_hash"] == [hash_of(token)]
    assert spec(fleet)["scopes"] == ["agent", "read"]
    assert fleet.run("validate").exit_code == 0


def test_a_second_token_is_made_by_a_rotation_alone_and_never_a_third(fleet):
    first = make(fleet)

    refused = fleet.run("token", "new", "jeeves")
    second = make(fleet, "--rotate")
    third = fleet.run("token", "new", "jeeves", "--rotate")

    assert (refused.exit_code, refused.stdout) == (64, "")
    assert "--rotate" in refused.stderr
    assert spec(fleet) == {"token_hash": [hash_of(first), hash_of(second)]}
    assert (third.exit_code, third.stdout) == (64, "")
    assert "token revoke jeeves --old" in third.stderr


def test_the_end_of_a_rotation_leaves_the_new_token(fleet):
    make(fleet)
    second = make(fleet, "--rotate")

    done = fleet.run("token", "revoke", "jeeves", "--old")
    again = fleet.run("token", "revoke", "jeeves", "--old")

    assert done.stdout == "jeeves: 1 revoked, 1 left\n"
    assert spec(fleet) == {"token_hash": [hash_of(second)]}
    assert (again.exit_code, again.stdout) == (0, "")
    assert fleet.git("log", "-1", "--format=%s") == "Revoke the old token of agent jeeves"


def test_every_token_is_revoked_at_once(fleet):
    make(fleet)
    make(fleet, "--rotate")

    done = fleet.run("token", "revoke", "jeeves")

    assert done.stdout == "jeeves: 2 revoked, 0 left\n"
    assert not spec(fleet)
    assert fleet.run("validate").exit_code == 0


def test_agents_and_how_many_tokens_they_have_are_listed(fleet):
    make(fleet, "--expires", "1d")

    found = json.loads(fleet.run("token", "list", "-o", "json").stdout)
    table = fleet.run("token", "list").stdout

    assert [(each["name"], each["tokens"], each["scopes"]) for each in found] == [("jeeves", 1, ["agent"])]
    assert found[0]["expires"].endswith("Z")
    assert "jeeves" in table


@pytest.mark.parametrize("verb", ["new", "revoke"])
def test_a_name_that_cannot_be_an_agents_is_refused(fleet, verb):
    done = fleet.run("token", verb, "../jeeves")

    assert done.exit_code == 64
    assert "unsafe name" in done.stderr


def test_the_tokens_of_an_unknown_agent_are_not_found(fleet):
    make(fleet)

    done = fleet.run("token", "revoke", "jeves")

    assert done.exit_code == 3
    assert "did you mean 'jeeves'" in done.stderr


def test_a_file_that_is_being_edited_is_not_committed_with_a_token(fleet):
    fleet.write("specs/agents/jeeves.yaml", "capabilities: [gpu]\n")

    done = fleet.run("token", "new", "jeeves")

    assert (done.exit_code, done.stdout) == (64, "")
    assert "not committed" in done.stderr
    assert fleet.read("specs/agents/jeeves.yaml") == "capabilities: [gpu]\n"
