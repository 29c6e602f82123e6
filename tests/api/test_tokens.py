"""
Tokens: what they look like, who is let in with one, and when it was last used.
"""

import hashlib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.api.problems import Unauthenticated
from reconciler.api.tokens import LastUse, authenticate, hash_of, is_still_good, new_token
from reconciler.core.errors import Refused
from reconciler.core.model.specs import Agent
from tests.api.world import AGENTS, HASHES, TOKENS
from tests.fakes import START, FakeClock


def draw(size):
    return "5" * 2 * size


def agent(name="jeeves", token="", **fields):
    return Agent(name=name, token_hash=(hash_of(token),), **fields)


def bearer(token):
    return f"Bearer {token}"


def test_a_token_names_its_agent_and_only_its_hash_is_kept():
    token, digest = new_token("jeeves", draw)

    assert token == f"rct_jeeves.{'5' * 64}"
    assert digest == hashlib.sha256(token.encode()).hexdigest()


@pytest.mark.parametrize("name", ["jeeves", "a.b", "a_b", "rct_x", "a-1.2"])
def test_the_agent_is_found_by_the_name_in_its_token(name):
    token, _ = new_token(name, draw)

    assert authenticate(bearer(token), {name: agent(name, token)}, START).agent == name


def test_both_tokens_are_good_during_a_rotation():
    old, new = new_token("jeeves", draw), new_token("jeeves", lambda size: "6" * size)
    agents = {"jeeves": Agent(name="jeeves", token_hash=(old[1], new[1]))}

    assert {authenticate(bearer(token), agents, START).agent for token, _ in (old, new)} == {"jeeves"}
    with pytest.raises(Unauthenticated):
        authenticate(bearer(old[0]), {"jeeves": Agent(name="jeeves", token_hash=(new[1],))}, START)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKENS['jeeves']}",
        TOKENS["jeeves"],
        bearer(TOKENS["jeeves"] + "x"),
        bearer(TOKENS["jeeves"][:-1]),
        bearer(TOKENS["jeeves"].replace("jeeves", "hermes")),
        bearer(TOKENS["jeeves"].replace("jeeves", "nobody")),
        bearer(HASHES["jeeves"]),
        bearer(f"rct_jeeves.{HASHES['jeeves']}"),
        bearer("rct_."),
        bearer("\udcff"),
    ],
)
def test_anything_else_is_refused_without_being_repeated(header):
    with pytest.raises(Unauthenticated) as error:
        authenticate(header, AGENTS, START)

    for secret in (TOKENS["jeeves"], HASHES["jeeves"]):
        assert secret[-16:] not in str(error.value)


@given(st.text(max_size=100))
def test_no_text_is_let_in_by_chance(text):
    with pytest.raises(Unauthenticated):
        authenticate(bearer(text), AGENTS, START)


def test_an_agent_without_a_hash_has_no_token():
    token, _ = new_token("jeeves", draw)

    with pytest.raises(Unauthenticated, match="not known"):
        authenticate(bearer(token), {"jeeves": Agent(name="jeeves")}, START)


def test_a_token_ends_when_it_expires_and_says_so_to_its_owner_alone():
    token, _ = new_token("jeeves", draw)
    agents = {"jeeves": agent(token=token, expires=START + timedelta(days=1))}

    caller = authenticate(bearer(token), agents, START)

    assert is_still_good(caller, agents, START)
    assert not is_still_good(caller, agents, START + timedelta(days=1))
    with pytest.raises(Unauthenticated, match=r"expired at 2030-01-02T09:00:00Z"):
        authenticate(bearer(token), agents, START + timedelta(days=1))
    with pytest.raises(Unauthenticated, match="not known"):
        authenticate(bearer(f"{token}x"), agents, START + timedelta(days=1))


def test_who_was_let_in_is_put_out_when_the_token_is_revoked_or_means_less():
    caller = authenticate(bearer(TOKENS["boss"]), AGENTS, START)
    lesser = AGENTS["boss"].model_copy(update={"scopes": ("read",)})

    assert is_still_good(caller, AGENTS, START)
    assert not is_still_good(caller, {}, START)
    assert not is_still_good(caller, {"boss": agent("boss", "other", scopes=("admin",))}, START)
    assert not is_still_good(caller, {"boss": lesser}, START)


def test_scopes_say_what_a_token_is_good_for():
    good = {
        name: {scope for scope in ("agent", "read", "admin") if caller.may(scope)}
        for name in TOKENS
        for caller in [authenticate(bearer(TOKENS[name]), AGENTS, START)]
    }

    assert good == {
        "jeeves": {"agent"},
        "hermes": {"agent"},
        "watcher": {"read"},
        "boss": {"agent", "read", "admin"},
    }
    with pytest.raises(Refused, match=r"scope read, .*specs/agents/jeeves\.yaml"):
        authenticate(bearer(TOKENS["jeeves"]), AGENTS, START).require("read")


def test_a_caller_does_not_show_its_token():
    assert HASHES["jeeves"] not in repr(authenticate(bearer(TOKENS["jeeves"]), AGENTS, START))


# --- Last use --------------------------------------------------------------


def test_the_last_use_is_known_after_a_restart(tmp_path):
    clock = FakeClock()
    used = LastUse(tmp_path / "used", clock)

    used.note("jeeves")

    assert LastUse(tmp_path / "used", clock).get("jeeves") == used.get("jeeves") == clock.time
    assert used.get("hermes") is None


def test_the_file_is_written_once_a_minute_and_agent_at_most(tmp_path):
    clock, file = FakeClock(), tmp_path / "used"
    used = LastUse(file, clock)
    used.note("jeeves")
    first = file.read_bytes()

    used.note("jeeves")
    assert file.read_bytes() == first

    clock.time += timedelta(minutes=1)
    used.note("jeeves")
    assert file.read_bytes() != first
    assert [one.name for one in tmp_path.iterdir()] == ["used"]


def test_a_file_that_cannot_be_read_or_written_stops_nobody(tmp_path, caplog):
    file = tmp_path / "used"
    file.write_bytes(b"\x00{")
    used = LastUse(file, FakeClock())
    file.unlink()
    file.mkdir()

    used.note("jeeves")

    assert used.get("jeeves") is not None
    assert "after a restart it is out of date" in caplog.text
