import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.core.errors import Unavailable, UsageError
from reconciler.store.leader import LOOKS, Holder, LeaderLease, holder_of, this_process
from tests.store.world import BRANCH, created, git, start, started

REF = f"refs/fleet/leader/{BRANCH}"
SINCE = "2026-01-02T03:04:05Z"


class Clock:
    """Takes the place of time: each pause does what comes next, and the end of what comes is an end."""

    def __init__(self, *happens):
        self.happens = list(happens)
        self.pauses = 0

    async def __call__(self, _):
        self.pauses += 1
        if not self.happens:
            raise TimeoutError("nothing more happens")
        if (happening := self.happens.pop(0)) is not None:
            await happening()


def elsewhere(name, mode="serve"):
    """Return a holder on another machine."""
    return Holder(id=name, mode=mode, since=SINCE, host="other", pid=1, started="1", where="another boot")


@pytest.fixture
def url(bare):
    return f"file://{bare}"


@pytest.fixture
def lease(open_repository, url, tmp_path):
    """Return a function that makes a lease of the fleet behind the URL, each with a clone of its own."""

    async def make(holder, *happens, place=url, clock=lambda: 0.0):
        repository = await open_repository(place, tmp_path / holder.id)
        return LeaderLease(repository, BRANCH, holder, pause=Clock(*happens), clock=clock)

    return make


def named(place):
    """Return who holds the lease."""
    return json.loads(git(place, "cat-file", "blob", REF))["id"]


async def test_who_comes_first_has_it_and_lets_the_next_have_it_at_once(lease, bare):
    one = await lease(elsewhere("one"))
    await one.take()
    assert named(bare) == "one"

    await one.release()
    two = await lease(elsewhere("two"))
    await two.take()

    assert (one.is_held, two.is_held, named(bare)) == (False, True, "two")


@pytest.mark.parametrize("modes", [("serve", "serve"), ("serve", "run"), ("run", "serve")])
async def test_a_second_one_is_refused_once_the_first_was_seen_alive(lease, bare, modes):
    one = await lease(elsewhere("one", modes[0]))
    await one.take()
    two = await lease(elsewhere("two", modes[1]), one._renew)

    with pytest.raises(UsageError, match=r"another reconciler serves .* on other .*--take-over"):
        await two.take()

    assert named(bare) == "one"


@pytest.mark.parametrize("looks_per_beat", [1, 2, 3])
async def test_one_that_lives_is_seen_to_however_often_it_beats_between_two_looks(
    lease, bare, looks_per_beat
):
    one = await lease(elsewhere("one"))
    await one.take()

    async def beat():
        for _ in range(looks_per_beat):
            await one._renew()

    two = await lease(elsewhere("two"), *[beat] * LOOKS)

    with pytest.raises(UsageError):
        await two.take()


async def test_one_on_another_machine_that_stands_still_is_taken_for_gone_after_some_looks(lease, bare):
    await (await lease(elsewhere("one"))).take()
    two = await lease(elsewhere("two"), *[None] * LOOKS)

    await two.take()

    assert two.is_held
    assert two._pause.pauses == LOOKS
    assert named(bare) == "two"


async def test_one_that_comes_back_after_it_was_taken_for_gone_ends(lease, bare):
    one = await lease(elsewhere("one"), None)
    await one.take()
    await (await lease(elsewhere("two"), *[None] * LOOKS)).take()

    with pytest.raises(UsageError, match="another reconciler took over"):
        await one.keep()

    assert not one.is_held
    await one.release()
    assert named(bare) == "two"


async def test_one_that_wakes_writes_nothing_before_it_looked_at_its_lease_again(
    lease, bare, open_repository, tmp_path
):
    seconds = iter((0.0, 0.0, 1.0, 120.0, 120.0))
    one = await lease(elsewhere("one"), None, clock=lambda: next(seconds))
    state = await start(await open_repository(bare, tmp_path / "state"))
    state.fence = one.require
    await one.take()
    await state.commit([created("a")])
    await (await lease(elsewhere("two"), *[None] * LOOKS)).take()

    with pytest.raises(Unavailable, match="another reconciler took over"):
        await state.commit([started("a")])
    with pytest.raises(UsageError, match="another reconciler took over"):
        await one.keep()
    await state.close()

    assert not one.is_held
    assert git(bare, "log", "-1", "--format=%s", BRANCH) == "task a: created"


async def test_one_that_wakes_and_still_leads_goes_on(lease, bare):
    seconds = iter((0.0, 0.0, 120.0, 120.0, 121.0))
    one = await lease(elsewhere("one"), clock=lambda: next(seconds))
    await one.take()
    before = one._value

    await one.require()
    await one.require()

    assert one._value == git(bare, "rev-parse", REF) != before


async def test_it_is_taken_by_force_from_one_that_lives(lease, bare):
    one = await lease(elsewhere("one"), None)
    await one.take()

    await (await lease(elsewhere("two"))).take(by_force=True)

    assert named(bare) == "two"
    with pytest.raises(UsageError):
        await one.keep()


@pytest.fixture
def process():
    """Yield a process of this machine, for who is to live or to die."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as made:
        yield made
        made.kill()


def held_by(process, name="one", mode="serve"):
    """Return a holder that is this process."""
    me = this_process(name, mode, SINCE)
    started = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    return replace(me, pid=process.pid, started=started)


async def test_one_of_this_machine_is_refused_at_once_while_its_process_lives(lease, process):
    await (await lease(held_by(process))).take()

    with pytest.raises(UsageError):
        await (await lease(elsewhere("two"))).take()


@pytest.mark.parametrize("is_buried", [True, False])
async def test_one_of_this_machine_that_was_killed_is_gone_at_once(lease, bare, process, is_buried):
    await (await lease(held_by(process))).take()
    process.kill()
    if is_buried:
        process.wait()
    else:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - it is dead

    two = await lease(elsewhere("two"))
    await two.take()

    assert two.is_held
    assert named(bare) == "two"


async def test_another_process_of_the_same_number_is_not_the_one_that_died(lease, bare, process):
    await (await lease(replace(held_by(process), started="1"))).take()

    await (await lease(elsewhere("two"))).take()

    assert named(bare) == "two"


async def test_two_that_serve_no_api_share_a_remote_and_the_second_follows_the_first(lease, bare):
    one = await lease(elsewhere("one", "run"))
    await one.take()
    two = await lease(elsewhere("two", "run"), None, one.release, None)
    await two.take()
    assert not two.is_held

    with pytest.raises(TimeoutError):
        await two.keep()

    assert two.is_held
    assert named(bare) == "two"


async def test_one_that_only_runs_gives_way_to_one_that_serves(lease, bare):
    one, serving = await lease(elsewhere("one", "run")), await lease(elsewhere("serving"))
    await one.take()

    async def take_over():
        await serving.take(by_force=True)

    two = await lease(elsewhere("two", "run"), take_over)
    await two.take()

    with pytest.raises(UsageError, match="another reconciler serves"):
        await two.keep()


async def test_signs_of_life_leave_nothing_that_grows(lease, bare):
    one = await lease(elsewhere("one"), *[None] * 30)
    await one.take()
    with pytest.raises(TimeoutError):
        await one.keep()

    blobs = git(bare, "cat-file", "--batch-all-objects", "--batch-check").count(" blob ")
    assert blobs < 10


async def test_a_remote_that_lost_the_ref_gets_it_again(lease, bare):
    async def lose():
        git(bare, "update-ref", "-d", REF)

    one = await lease(elsewhere("one"), lose)
    await one.take()
    with pytest.raises(TimeoutError):
        await one.keep()

    assert named(bare) == "one"


async def test_a_push_whose_answer_was_lost_is_no_other_reconciler(lease, bare):
    one = await lease(elsewhere("one"), None, None)
    await one.take()
    before = one._value
    await one._renew()
    one._value = before

    with pytest.raises(TimeoutError):
        await one.keep()

    assert one.is_held
    assert git(bare, "rev-parse", REF) == one._value


async def test_one_goes_on_while_its_remote_is_away(lease, bare):
    away = bare.with_name("away.git")

    async def leave():
        bare.rename(away)

    async def come_back():
        away.rename(bare)

    one = await lease(elsewhere("one"), leave, come_back)
    await one.take()
    with pytest.raises(TimeoutError):
        await one.keep()

    assert one.is_held
    assert named(bare) == "one"


HOOKS = {
    "refuses all refs of ours": "#!/bin/sh\nexit 1\n",
    "names them": "#!/bin/sh\necho 'refs/fleet is not allowed here' >&2; exit 1\n",
}


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
async def test_a_remote_that_keeps_no_such_refs_is_served_without_a_lease(lease, bare, caplog, hook):
    (bare / "hooks").mkdir(exist_ok=True)
    (bare / "hooks/pre-receive").write_text(hook)
    (bare / "hooks/pre-receive").chmod(0o755)
    one = await lease(elsewhere("one"), None)

    await one.take()
    with pytest.raises(TimeoutError):
        await one.keep()
    await one.release()

    assert "a second reconciler cannot be told of this one" in caplog.text


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"pid": "x"}', '{"pid": []}', "\x1b[31m", '"' + "x" * 9000]
)
async def test_what_is_no_holder_is_waited_out(lease, bare, content):
    blob = git(bare, "hash-object", "-w", "--stdin", stdin=content)
    git(bare, "update-ref", REF, blob)
    two = await lease(elsewhere("two"), *[None] * LOOKS)

    await two.take()

    assert named(bare) == "two"


async def test_what_a_holder_says_cannot_write_to_a_terminal(open_repository, bare):
    document = {"id": "x", "mode": "run", "host": "\x1b]0;me\x07\n\u202eroot", "pid": 3}
    blob = git(bare, "hash-object", "-w", "--stdin", stdin=json.dumps(document))
    git(bare, "update-ref", REF, blob)

    _, holder = await holder_of(await open_repository(bare), REF)

    assert str(holder).isprintable()


# --- In a folder -------------------------------------------------------------


@pytest.mark.parametrize("mode", ["run", "serve"])
async def test_in_a_folder_a_holder_that_cannot_be_told_of_is_gone_at_once(lease, bare, mode):
    """The machine was started anew: whoever has the lock is the only one."""
    await (await lease(elsewhere("one", mode), place=bare)).take()

    two = await lease(elsewhere("two", mode), place=bare)
    await two.take()

    assert named(bare) == "two"


@pytest.mark.parametrize("mode", ["run", "serve"])
async def test_the_copy_of_a_folder_that_is_served_is_refused(lease, bare, process, mode):
    await (await lease(held_by(process, mode=mode), place=bare)).take()
    copy = bare.with_name("copy.git")
    shutil.copytree(bare, copy)

    two = await lease(this_process("two", mode, SINCE), place=copy)
    with pytest.raises(UsageError, match="is a copy of a fleet that is served"):
        await two.take()
    await two.take(by_force=True)

    assert (named(bare), named(copy)) == ("one", "two")


@pytest.mark.parametrize("is_remote", [True, False])
async def test_a_ref_that_cannot_be_written_is_told_and_not_tried_for_ever(lease, bare, url, is_remote):
    git(bare, "update-ref", "refs/fleet/leader", "refs/heads/main")
    one = await lease(elsewhere("one"), place=url if is_remote else bare)

    with pytest.raises(Unavailable):
        await one.take()


@pytest.mark.parametrize("content", [b"", b"\0" * 41, b"oops\n"])
async def test_a_ref_that_a_loss_of_power_damaged_is_taken_in_a_folder(lease, bare, content):
    ref = bare / REF
    ref.parent.mkdir(parents=True)
    ref.write_bytes(content)
    ref.with_name(f"{ref.name}.lock").touch()

    one = await lease(elsewhere("one"), place=bare)
    await one.take()

    assert one.is_held
    assert named(bare) == "one"
