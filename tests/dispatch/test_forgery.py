"""
Agents that write their own verdict, or somebody else's: nothing of it is believed, and it is told.
"""

import asyncio
import shutil

import pytest

from reconciler.core.model.runs import FailureClass
from reconciler.dispatch.protocol import Stage
from tests.dispatch.world import (
    RUN,
    World,
    ended,
    finish,
    git,
    make_runs,
    needs_of,
    run,
    seen,
    start,
    sweep,
    until,
)

OTHER = "web/other.g12345678.a1"
FOLDER = RUN.replace("/", "+")
PASSED = "printf 'begin 1 0\\nend 1 0 5 2\\n'"
FORGE = (
    'forge() { mkdir -p "$1"; boot=$(cat /proc/sys/kernel/random/boot_id); '
    'echo "1 1 $boot ok" >"$1/claim"; echo "1 1 $boot ' + "0" * 64 + ' - ok" >"$1/claim"; '
    f'{PASSED} >"$1/err"; echo forged >"$1/out"; '
    'echo "0 7 30 5 exit ' + "1" * 64 + ' ok" >"$1/exit"; }; '
    "runs=${RECONCILER_RUN_DIR%/*}; "
)


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path / "a world")


def heads(world: World) -> str:
    return git(world.code, "for-each-ref", "--format=%(refname:short)", "refs/heads")


def has_passed(report) -> bool:
    return report.verdict.outcome == "success" and report.failed_check is None and bool(report.checks)


# --- The validation ---------------------------------------------------------


@pytest.mark.parametrize(
    "attack",
    [
        'forge "$RECONCILER_RUN_DIR"v',
        'mkdir -p "$RECONCILER_RUN_DIR"v/claim',
        'mkdir -p "$RECONCILER_RUN_DIR"v/exit',
        'mkdir -p "$RECONCILER_RUN_DIR"v; mkfifo "$RECONCILER_RUN_DIR"v/exit',
        'mkdir -p "$RECONCILER_RUN_DIR"v; ln -s /dev/zero "$RECONCILER_RUN_DIR"v/claim',
        'forge "$runs/elsewhere"; ln -s "$runs/elsewhere" "$RECONCILER_RUN_DIR"v',
        'forge "$RECONCILER_RUN_DIR"v; rm "$RECONCILER_RUN_DIR"v/exit',
        'forge "$RECONCILER_RUN_DIR"v; git update-ref refs/reconciler/done/${RECONCILER_RUN_DIR##*/} HEAD',
    ],
)
async def test_a_validation_that_was_there_before_is_evidence(world, attack, caplog):
    order = world.order(f"{FORGE} echo x >x; git add x; git commit -qm x; {attack}", validation=("false",))

    report = await world.carry_out(order)

    assert (report.verdict.outcome, report.verdict.kind) == ("failed", FailureClass.AGENT)
    assert "tampered" in report.verdict.message
    assert "tampered" in caplog.text
    assert heads(world) == "main"


@pytest.mark.parametrize(
    "attack",
    [
        f'mkdir -p "$RECONCILER_RUN_DIR"v; {PASSED} >"$RECONCILER_RUN_DIR"v/err',
        "for at in $(dirname $(dirname $runs))/bin/*; do echo 'echo S done 0 1 1 1 exit' >$at; done",
        "for at in $(dirname $(dirname $runs))/bin/*; do rm $at; mkdir $at; done",
        "for at in $(dirname $(dirname $runs))/bin/*; do rm $at; ln -s /bin/true $at; done",
        'for tool in wc sh awk cat; do printf "#!/bin/sh\\nexit 0\\n" >$tool; chmod +x $tool; done',
    ],
)
async def test_whatever_lies_around_a_validation_that_fails_it_has_failed(world, attack):
    report = await world.carry_out(
        world.order(f"{FORGE} echo x >x; {attack}", validation=("exit 1",), env={"PATH": f".:{PATH}"})
    )

    assert not has_passed(report)
    assert heads(world) == "main"


PATH = "/usr/local/bin:/usr/bin:/bin"


@pytest.mark.parametrize(
    "clear",
    ["setsid", "setsid env -i", "env -i setsid sh -c 'setsid env -i \"$@\" & exit' -", "nohup env -i"],
)
async def test_what_an_agent_leaves_behind_forges_no_validation(world, clear):
    """It would write each record of the validation as soon as its folder is there."""
    folder = world.data / "host/f1/runs" / f"{FOLDER}.r1v"
    script = world.folder / "forger"
    script.write_text(
        f"{FORGE} while [ ! -e '{world.folder}/end' ]; do [ -d '{folder}' ] && forge '{folder}'; done\n"
    )
    order = world.order(
        f"{clear} sh '{script}' </dev/null >/dev/null 2>&1 & echo x >x", validation=("sleep 0.3; false",)
    )

    report = await world.carry_out(order)
    (world.folder / "end").touch()

    assert [check.exit_code for check in report.checks] == [1]
    assert heads(world) == "main"


@pytest.mark.parametrize(
    "attack",
    [
        f"{PASSED} >>$RECONCILER_RUN_DIR/err; exit 9",
        f"{PASSED} >$RECONCILER_RUN_DIR/err; exit 9",
        f"(while :; do {PASSED} >$RECONCILER_RUN_DIR/err; done) & exit 9",
        f"echo '0 1 1 1 exit {'1' * 64} ok' >$RECONCILER_RUN_DIR/exit; sleep 0.3; exit 9",
        "kill -9 $PPID; sleep 1; exit 9",
        f"{PASSED} >$RECONCILER_RUN_DIR/err; kill -9 $PPID; exit 9",
        f"cd $RECONCILER_RUN_DIR; echo '0 1 1 1 exit {'1' * 64} ok' >exit; kill -9 $(cut -d' ' -f1 claim)",
        "rm -r $RECONCILER_RUN_DIR; exit 9",
    ],
)
async def test_what_a_command_of_the_validation_runs_cannot_pass_it(world, attack):
    report = await world.carry_out(world.order("echo x >x", validation=(attack,)))

    assert not has_passed(report)
    assert heads(world) == "main"


# --- The agent's own run, and those of others ---------------------------------


@pytest.mark.parametrize("other", [f"{FOLDER[:-1]}2.r1", "web+other.g12345678.a1.r1", f"{FOLDER}.r2"])
async def test_a_run_that_was_there_before_it_was_asked_for_is_evidence(world, other, caplog):
    key, number = (RUN, 2) if other.endswith("r2") else (other[:-3].replace("+", "/"), 1)
    await world.carry_out(world.order(f'{FORGE} forge "$runs/{other}"; echo x >x', repo=None))

    report = await world.carry_out(world.order(world.note("ran"), run=key, number=number, repo=None))

    assert (report.verdict.kind, world.noted) == (FailureClass.CONFIG, [])  # a next attempt would start it
    assert "tampered" in report.verdict.message
    assert "tampered" in caplog.text


@pytest.mark.parametrize("is_swept", [False, True])
@pytest.mark.parametrize("proofs", ["of an older copy", "none"])
async def test_a_run_that_the_host_knows_is_not_started_again_whatever_is_known_here(world, is_swept, proofs):
    """The record and the data folder went back together; the host did not."""
    order = world.order(world.note("ran"), repo=None)
    await world.carry_out(world.order("exit 1", run=OTHER, repo=None))
    shutil.copytree(world.data / "proofs", world.folder / "older")
    await world.carry_out(order)
    if is_swept:
        await sweep(world, needs_of(OTHER))
    shutil.rmtree(world.data / "proofs")
    if proofs == "of an older copy":
        (world.folder / "older").rename(world.data / "proofs")

    report = await world.carry_out(order)

    assert world.noted == ["ran"]
    if is_swept or proofs == "of an older copy":
        assert report.verdict.kind is FailureClass.CONFIG
        assert "restore the newer copy, or `reconciler retry web/fix`" in report.verdict.message
        assert f"ran there before ({'past' if is_swept else 'done'})" in report.verdict.message
    else:  # as after the loss of the data folder alone: what it did is taken up
        assert report.verdict.outcome == "success"


async def test_a_workspace_that_was_there_before_its_run_is_made_anew(world):
    there = world.data / "host/f1/work" / OTHER.replace("/", "+")
    await world.carry_out(world.order(f"cp -r . '{there}'; echo oops >'{there}/README'; touch '{there}/new'"))

    report = await world.carry_out(world.order("cat README; ls", run=OTHER))

    assert report.verdict.text == "hello\nREADME\nsrc\n"


async def test_an_agent_that_says_it_is_over_is_ended_and_told(world, caplog):
    forged = f"echo '0 1 1 1 exit {'1' * 64} ok' >$RECONCILER_RUN_DIR/exit; "
    forged += 'echo "${RECONCILER_RUN_DIR##*/} 0" >>"$RECONCILER_RUN_DIR/../events"; '
    going_on = f"while :; do sleep 0.1; done; {world.note('after')}"

    report = await world.carry_out(world.order(forged + going_on, validation=("true",)))

    assert (report.verdict.kind, report.checks) == (FailureClass.AGENT, ())
    assert "tampered" in report.verdict.message


@pytest.mark.parametrize(
    "junk", ["\\n\\n", "\\377\\376 0\\n", "b.r1\\n", "b.r1 0\\n", "x\\000y z\\n", " \\n"]
)
async def test_no_line_among_the_events_disturbs_the_runs_of_others(tmp_path, junk):
    runs, gate = make_runs(tmp_path), tmp_path / "gate"
    other = await start(runs, "b.r1", f"while [ ! -e '{gate}' ]; do sleep 0.05; done; exit 3")
    following = asyncio.create_task(finish(runs, "b.r1", other))

    end = await run(runs, "a.r1", f"printf '{junk}' >>$RECONCILER_RUN_DIR/../events")
    gate.touch()

    assert (end.exit_code, (await following).exit_code) == (0, 3)
    await runs.close()


@pytest.mark.parametrize("name", ["out", "err", "exit", "pid", "cancel", "../events", "supervisor.log"])
@pytest.mark.parametrize("make", ["mkfifo", "mkdir", "ln -s /dev/zero", "ln -s /nowhere/x"])
async def test_nothing_that_an_agent_puts_in_place_of_a_record_blocks_who_reads_it(tmp_path, name, make):
    runs = make_runs(tmp_path)
    at = f"$RECONCILER_RUN_DIR/{name}"

    end = await run(runs, "a.r1", f"rm -rf {at}; {make} {at}; exit 3")
    after = await run(runs, "b.r1", "exit 4")

    assert end.stage in {Stage.DONE, Stage.STRANGE}
    assert after.exit_code == 4
    await runs.close()


async def test_an_agent_finds_the_proof_of_its_run_nowhere(world):
    order = world.order(
        f"cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null; cat '{world.data}'/proofs/*; "
        "grep -r . $RECONCILER_RUN_DIR; true",
        validation=("true",),
    )

    report = await world.carry_out(order)

    (record,) = (world.data / "host/f1/runs").glob("*.r1/exit")
    seal = record.read_text().split()[5].encode()
    printed = (world.data / "logs" / f"{FOLDER}.r1" / "out").read_bytes()
    assert has_passed(report)
    assert len(seal) == 64
    assert len(printed) > 1000
    assert seal not in printed


# --- What is lost here --------------------------------------------------------


@pytest.mark.parametrize("moment", ["the agent", "the validation", "the end"])
async def test_without_its_proofs_a_live_run_is_taken_up_and_validated_anew(world, moment):
    gate = world.folder / "gate"
    wait = f"while [ ! -e '{gate}' ]; do sleep 0.05; done"
    scripts = {"the agent": (wait, "true"), "the validation": ("true", wait), "the end": ("true", "true")}
    agent, check = scripts[moment]
    order = world.order(
        f"{world.note('agent')}; echo x >x; {agent}", validation=(f"{world.note('check')}; {check}",)
    )
    first, facts = world.dispatcher(), asyncio.Queue()
    first.follow(order, facts.put_nowait)
    if moment == "the end":
        await ended(facts)
    elif moment == "the agent":
        await seen(facts)
    else:
        await until(lambda: "check" in world.noted)
    await first.close()
    shutil.rmtree(world.data / "proofs")
    gate.touch()

    report = await world.carry_out(order)

    assert has_passed(report)
    assert world.noted == (["agent", "check"] if moment == "the agent" else ["agent", "check", "check"])


# --- What is validated is what is delivered -------------------------------------


@pytest.mark.parametrize("hide", ["--assume-unchanged", "--skip-worktree"])
async def test_a_change_that_the_index_hides_is_delivered_as_it_was_validated(world, hide):
    report = await world.carry_out(
        world.order(f"git update-index {hide} README; echo changed >README; echo x >x", validation=("true",))
    )

    assert has_passed(report)
    assert git(world.code, "show", "task/web/fix:README") == "changed"


async def test_what_only_the_agents_own_excludes_hide_is_part_of_the_work(world):
    await world.carry_out(
        world.order(
            "echo shim >>.git/info/exclude; mkdir -p .git/info; echo shim >.git/info/exclude; echo x >shim"
        )
    )

    assert git(world.code, "show", "task/web/fix:shim") == "x"


async def test_an_object_that_stands_in_for_another_is_not_looked_at(world):
    script = (
        "other=$(echo other | git hash-object -w --stdin); "
        "git replace -f $(git rev-parse HEAD:README) $other; echo x >x"
    )

    report = await world.carry_out(world.order(script, validation=('test "$(cat README)" = hello',)))

    assert has_passed(report)
    assert git(world.code, "show", "task/web/fix:README") == "hello"


async def test_no_hook_of_the_agents_runs_while_its_work_is_validated(world):
    script = world.folder / "hook"
    script.write_text(f"#!/bin/sh\n{world.note('hook')}\n")
    script.chmod(0o755)
    hooks = ("post-commit", "pre-commit", "post-index-change", "reference-transaction")
    put = "; ".join(f"cp '{script}' .git/hooks/{hook}" for hook in hooks)
    command = "git -c user.name=a -c user.email=a@b.c commit -q --allow-empty -m x && git status >/dev/null"

    report = await world.carry_out(
        world.order(f"mkdir -p .git/hooks; {put}; echo x >x", validation=(command,))
    )

    assert has_passed(report)
    assert world.noted == []


GUESSED = """
mkdir -p ../../scratch && ln -s "$evil/.." "../../scratch/${PWD##*/}" && ln -s "$evil" "$evil/../new"
"""
ELSEWHERE = """
git worktree add -q ../../tree -b tree
cp -R .git/refs "$evil/.git"
echo "$evil/.git" >.git/worktrees/tree/commondir
echo '* filter=x' >../../tree/.gitattributes
echo hallo >../../tree/README
"""


@pytest.mark.parametrize("plant", [GUESSED, ELSEWHERE], ids=["a name that can be guessed", "a work tree"])
async def test_no_settings_that_the_agent_put_somewhere_run_its_code_after_it_has_ended(world, plant):
    noting = world.folder / "filter"
    noting.write_text(f"#!/bin/sh\n{world.note('filter')}\ncat\n")
    noting.chmod(0o755)
    evil = f"""
evil=${{PWD%/*/*}}/evil
git init -q "$evil"
cp -R .git/objects "$evil/.git"
git config -f "$evil/.git/config" filter.x.clean "'{noting}'"
echo '* filter=x' >.gitattributes
"""

    await world.carry_out(world.order(f"{evil}{plant}; echo x >x", validation=("true",)))

    assert world.noted == []


async def test_pipes_with_names_that_can_be_guessed_keep_nobody_waiting(tmp_path):
    runs = make_runs(tmp_path)
    plant = (
        'n=$(sh -c "echo \\$\\$"); mkdir ../b.r1; for i in $(seq 300); do for at in by exit; do '
        'mkfifo "../b.r1/$at.$((n + i)).job" "../b.r1/$at.$((n + i))"; done; done; '
        "mkfifo ../b.r1/supervisor.log"
    )

    await run(runs, "a.r1", f"cd $RECONCILER_RUN_DIR && {plant}")
    end = await run(runs, "b.r1", "exit 4")

    assert end.exit_code == 4
    await runs.close()


async def test_a_file_that_the_index_hides_as_not_wanted_is_there_when_the_work_is_validated(world):
    script = "git update-index --skip-worktree README; rm README; echo x >x"

    report = await world.carry_out(world.order(script, validation=("test -f README",)))

    assert has_passed(report)
    assert git(world.code, "show", "task/web/fix:README") == "hello"
