"""
Secrets reach the agent and nothing else.
"""

import asyncio
import os
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

import pytest

from reconciler.core.adapter import Secret
from reconciler.core.model.runs import FailureClass
from reconciler.dispatch import secrets
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.retrying import StepFailed
from tests import processes
from tests.dispatch.world import World, ended

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
    ("secret", "message"),
    [
        (Secret(env="NO_KEY"), "no NO_KEY"),
        (Secret(file="/nowhere/key"), "/nowhere/key"),
        (Secret(command=("sh", "-c", "echo hush; exit 3")), "exit code 3"),
        (Secret(command=("no-such-program",)), "no-such-program"),
        (Secret(env="NO_KEY", on="host"), "no NO_KEY"),
        (Secret(file="/nowhere/key", on="host"), "/nowhere/key"),
        (Secret(command=("sh", "-c", "echo hush; exit 3"), on="host"), "exit code 3"),
    ],
    ids=repr,
)
async def test_a_secret_that_cannot_be_had_is_a_matter_for_a_person(world, secret, message):
    order = world.order(world.note("ran"), adapter={"secrets": {"KEY": secret}}, repo=None)

    report = await world.carry_out(order)

    assert report.verdict.kind == FailureClass.AUTH
    assert message in report.verdict.message
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


# --- Masks --------------------------------------------------------------------

MINT = 'n=$(cat "{at}" 2>/dev/null || echo 0); n=$((n + 1)); echo $n >"{at}"; echo "tok-$n-a1B2c3D4e5F6g7"'
TOLD = (
    'echo "I was given $KEY"; printf %s "$KEY" >key',
    ("cat key; echo; base64 <key; od -An -tx1 key; fold -w 7 key; exit 1",),
)


def minted(world, on):
    """Return a secret that is another one each time it is looked up."""
    return {"secrets": {"KEY": Secret(command=("sh", "-c", MINT.format(at=world.folder / "minted")), on=on)}}


def words_of(report):
    return report.model_dump_json()


@pytest.mark.parametrize("on", ["reconciler", "host"])
async def test_a_token_that_is_minted_at_each_look_up_is_masked_as_it_was_injected(world, on):
    script, validation = TOLD
    order = world.order(script, adapter=minted(world, on), validation=validation)

    report = await world.carry_out(order)

    assert report.verdict.text == "I was given " + "*" * len("tok-1-a1B2c3D4e5F6g7") + "\n"
    letters = "".join(filter(str.isalnum, words_of(report)))
    assert "a1B2c3D4" not in letters
    assert b64encode(b"tok-1-a1B2c3D4e5F6g7").decode().rstrip("=")[:-1] not in letters
    assert b"a1B2c3D4".hex() not in letters
    assert (world.folder / "minted").read_text() == "1\n"


@pytest.mark.parametrize("on", ["reconciler", "host"])
@pytest.mark.parametrize("ending", ["exit 0", "exit 1"])
async def test_after_a_restart_words_are_withheld_if_what_was_injected_cannot_be_had_any_more(
    world, on, ending
):
    script, validation = TOLD
    order = world.order(
        f'{script}; echo "failed: $KEY" >&2; {ending}', adapter=minted(world, on), validation=validation
    )
    await world.carry_out(order)

    again = await world.carry_out(order)

    assert "a1B2c3D4" not in words_of(again)
    told = [again.verdict.message or again.verdict.text, *(check.output for check in again.checks)]
    assert all("withheld" in message for message in told)


async def test_after_a_restart_words_are_masked_if_what_was_injected_is_what_is_looked_up(world):
    order = world.order(
        'echo "I was given $KEY"', adapter={"secrets": {"KEY": Secret(env="MY_KEY")}}, repo=None
    )
    first = await world.carry_out(order)

    again = await world.carry_out(order)

    assert again == first
    assert "*" * len(VALUE) in again.verdict.text


@pytest.mark.parametrize("ending", ["exit 0", "exit 1"])
@pytest.mark.parametrize(
    "leave",
    [
        'mkdir "$KEY"; git init -q "$KEY"',
        'git switch -q -c "x/$KEY"; git commit -q --allow-empty -m "$KEY"; git switch -q -',
        'git worktree add -q --detach "$TMPDIR/$KEY"; echo x >"$TMPDIR/$KEY/new"',
    ],
    ids=["folder", "branch", "work tree"],
)
async def test_names_that_an_agent_gives_do_not_tell_its_secrets(world, tmp_path, leave, ending):
    env = {"TMPDIR": str(tmp_path)}
    order = world.order(f"{leave}; {ending}", adapter=minted(world, "reconciler"), env=env)

    for told in ("**********", "withheld"):  # as injected; then after a restart
        report = await world.carry_out(order)
        assert "a1B2c3D4" not in words_of(report)
        assert told in words_of(report)


async def test_a_later_round_does_not_tell_of_the_secrets_of_an_earlier_one(world):
    script = 'echo "I have $(cat key 2>/dev/null) and $KEY"; [ -e key ] || printf %s "$KEY" >key'
    dispatcher, facts = world.dispatcher(), asyncio.Queue()

    for number in (1, 2):
        order = world.order(script, number=number, adapter=minted(world, "reconciler"))
        dispatcher.follow(order, facts.put_nowait)
        report = await ended(facts)
        assert "a1B2c3D4" not in words_of(report)
    await dispatcher.close()
    assert report.verdict.text.count("*") == 2 * len("tok-1-a1B2c3D4e5F6g7")


async def test_a_mistake_of_ours_does_not_tell_secrets(world):
    def stumbling(*_, stdout, **__):
        raise ValueError(stdout.read())

    order = world.order('echo "$KEY"', adapter={"secrets": {"KEY": Secret(env="MY_KEY")}}, repo=None)

    report = await world.carry_out(order, read_output=stumbling)

    assert "ValueError" in report.verdict.message
    assert "secret" not in report.verdict.message


async def test_files_that_never_answer_hold_no_thread_that_others_need(monkeypatch, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(secrets, "_COMMAND_TIMEOUT", 0.2)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    secret = Secret(file=str(tmp_path / "pipe"))
    looks = asyncio.gather(*(secrets.find_secret("it", secret) for _ in range(3)), return_exceptions=True)

    assert await asyncio.to_thread(lambda: "others go on") == "others go on"
    assert {str(error) for error in await looks} == {
        f"it cannot be had: {tmp_path}/pipe: did not answer within 0.2 s; fix it, then retry the task"
    }
    os.close(os.open(tmp_path / "pipe", os.O_WRONLY))  # the threads come back


async def test_a_helper_that_hangs_is_ended_with_all_that_it_started(monkeypatch, tmp_path):
    monkeypatch.setattr(secrets, "_COMMAND_TIMEOUT", 0.3)
    word = f"hanging-{tmp_path.name}"
    hang = f"sh -c 'sleep 60; : {word}' & sleep 60; : {word}"

    with pytest.raises(StepFailed, match="did not answer"):
        await secrets.find_secret("it", Secret(command=("sh", "-c", hang)))

    assert processes.left_with_word(word) == []


async def test_a_helper_that_hangs_on_a_host_is_ended_with_all_that_it_started(monkeypatch, world, tmp_path):
    monkeypatch.setattr(secrets, "_COMMAND_TIMEOUT", 0.3)
    word = f"hanging-{tmp_path.name}"
    hang = f"sh -c 'sleep 60; : {word}' & sleep 60; : {word}"
    secret = Secret(command=("sh", "-c", hang), on="host")

    report = await world.carry_out(world.order("true", adapter={"secrets": {"KEY": secret}}, repo=None))

    assert report.verdict.kind == FailureClass.AUTH
    assert "no answer" in report.verdict.message
    assert processes.left_with_word(word) == []
