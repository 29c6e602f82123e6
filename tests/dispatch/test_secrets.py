"""
Secrets reach the agent and nothing else.
"""

import json

import pytest

from reconciler.core.adapter import Secret
from reconciler.core.model import FailureClass
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.secrets import hide, spellings
from tests.dispatch.world import SCRIPT, World

VALUE = "hush: it's $(a) `secret`"
SHOW = 'printf %s "$KEY" | sha256sum; printf %s "$KEY" >\'{at}\''


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    made = World(tmp_path / "a world")
    (tmp_path / "key file").write_text(f"{VALUE}\n")
    monkeypatch.setenv("MY_KEY", VALUE)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    environ = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LC_MY_KEY": VALUE}
    made.transport = LocalTransport(made.data / "host", environ)
    return made


@pytest.mark.parametrize(
    "secret",
    [
        Secret(env="MY_KEY"),
        Secret(file="~/key file"),
        Secret(command=("sh", "-c", 'cat "$HOME/key file"')),
        Secret(credential="key file"),
        Secret(env="LC_MY_KEY", on="host"),
        Secret(file="~/key file", on="host"),
        Secret(command=("sh", "-c", 'cat "$HOME/key file"'), on="host"),
    ],
    ids=repr,
)
async def test_a_secret_reaches_the_agent_and_is_written_nowhere(world, secret):
    seen = world.folder / "seen"
    order = world.order(
        SHOW.format(at=seen), adapter={"secrets": {"KEY": secret}}, validation=('test -z "$KEY"',)
    )

    report = await world.carry_out(order)

    assert (report.verdict.outcome, report.failed_check) == ("success", None)
    assert seen.read_text() == VALUE
    seen.unlink()
    files = [path for path in world.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if VALUE.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (Secret(env="NO_KEY"), "no NO_KEY"),
        (Secret(file="/nowhere/key"), "/nowhere/key"),
        (Secret(command=("sh", "-c", "echo hush; exit 3")), "exit code 3"),
        (Secret(command=("no-such-program",)), "no-such-program"),
        (Secret(env="NO_KEY", on="host"), "stderr"),
        (Secret(file="/nowhere/key", on="host"), "stderr"),
    ],
    ids=repr,
)
async def test_a_secret_that_cannot_be_had_is_a_matter_for_a_person(world, secret, words):
    order = world.order(world.note("ran"), adapter={"secrets": {"KEY": secret}}, repo=None)

    report = await world.carry_out(order)

    assert report.verdict.kind == FailureClass.AUTH
    assert words in report.verdict.message
    assert "hush" not in report.verdict.message
    assert world.noted == []


async def test_a_run_that_was_started_needs_its_secrets_no_more(world, monkeypatch):
    order = world.order("exit 0", adapter={"secrets": {"KEY": Secret(env="MY_KEY")}}, repo=None)
    first = await world.carry_out(order)
    monkeypatch.delenv("MY_KEY")

    again = await world.carry_out(order)

    assert again == first


async def test_what_an_agent_tells_of_its_secrets_stands_in_its_log_and_not_in_its_report(world):
    order = world.order(
        'printf "my key is %s" "$KEY"; printf %s "$KEY" >key',
        adapter={"secrets": {"KEY": Secret(env="MY_KEY")}},
        validation=("cat key; echo; echo begin 9 9", "echo second; exit 1"),
    )

    report = await world.carry_out(order)

    assert report.verdict.text == "my key is " + "*" * len(VALUE)
    assert [check.output for check in report.checks] == ["*" * len(VALUE) + "\nbegin 9 9", "second"]


@pytest.mark.parametrize("spell", [str, json.dumps, lambda text: json.dumps(text, ensure_ascii=False)])
async def test_a_secret_is_hidden_as_it_is_and_as_json_spells_it(monkeypatch, spell):
    value = 'two "lines"\nwith an ä'
    monkeypatch.setenv("MY_KEY", value)
    monkeypatch.setenv("SHORT", "two")
    sources = {"KEY": Secret(env="MY_KEY"), "GONE": Secret(env="NO_KEY"), "SHORT": Secret(env="SHORT")}
    adapter = SCRIPT.model_copy(update={"secrets": sources})
    text = f"two words: {spell(value)}".encode()

    hidden = hide(text, await spellings(adapter))

    assert hidden.replace(b"*", b"").strip(b'"') in {b"two words: ", b'two words: "'}
    assert len(hidden) == len(text)
