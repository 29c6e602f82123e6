"""Files of a run: written before it, outside of git, and gone when its work is taken up."""

import json

import pytest

from reconciler.core.adapter import FileTemplate, Secret
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import RunHooks
from reconciler.core.model.status import Phase
from reconciler.core.runs.command import FILES
from tests.dispatch.world import RUN, World, git, needs_of, sweep, until

TOKEN = "tok-0123456789abcdef"
SERVERS = FileTemplate(
    template='{"token": {{ secrets.TOKEN | tojson }}, "in": {{ workspace | tojson }}}',
    secrets={"TOKEN": Secret(command=("printf", TOKEN))},
)
PLAIN = FileTemplate(template="task={{ task }}\nbranch={{ branch }}\n")


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path / "a world")


async def test_a_run_has_its_files_for_hooks_and_agent_and_neither_git_nor_the_host_keeps_them(world):
    order = world.order(
        f"""cp .mcp/servers.json '{world.folder}/seen'; cat "$SETTINGS" >'{world.folder}/settings'
        stat -c %a .mcp/servers.json "$SETTINGS" >'{world.folder}/modes'; echo {TOKEN}
        git status --porcelain >'{world.folder}/status'; git add -A; echo new >new""",
        files={".mcp/servers.json": SERVERS, "{files}/a/settings": PLAIN},
        env={"SETTINGS": f"{FILES}/a/settings"},
        hooks=RunHooks(before_run=(f"cp .mcp/servers.json '{world.folder}/in hook'",)),
        validation=("! test -e .mcp",),
    )

    report = await world.carry_out(order)

    seen = json.loads((world.folder / "seen").read_text())
    assert (seen["token"], (world.folder / "in hook").exists()) == (TOKEN, True)
    assert seen["in"].endswith("/work/web+fix.g12345678.a1")
    assert (world.folder / "settings").read_text() == "task=web/fix\nbranch=task/web/fix\n"
    assert (world.folder / "modes").read_text().split() == ["600", "600"]
    assert (world.folder / "status").read_text() == ""
    assert (report.verdict.outcome, report.failed_check, TOKEN in report.verdict.text) == (
        "success",
        None,
        False,
    )
    assert git(world.code, "show", "--name-only", "--format=", "task/web/fix") == "new"
    kept = [path for path in world.data.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert {path.name for path in kept} == {"out"}, "what the agent printed stands in its log alone"


async def test_a_file_that_git_has_is_never_written_over(world):
    order = world.order(world.note("agent"), files={"src/main.py": PLAIN})

    report = await world.carry_out(order)

    assert (report.verdict.kind, world.noted) == (FailureClass.CONFIG, [])
    assert report.verdict.message == (
        "host local: file src/main.py: git has one of that name, and what is in git is never written over; "
        "choose another path, or {files}/main.py"
    )


async def test_no_file_is_written_through_a_link_and_a_secret_that_is_missing_is_named(world):
    (world.folder / "elsewhere").mkdir()
    away = world.order(f"ln -s '{world.folder}/elsewhere' .mcp; exit 1")
    await world.carry_out(away)
    later = world.order(world.note("agent"), number=2, files={".mcp/servers.json": SERVERS})

    linked = await world.carry_out(later)
    missing = await world.carry_out(
        world.order(
            world.note("agent"),
            run=RUN.replace("a1", "a2"),
            files={"a": FileTemplate(template="{{ secrets.X }}", secrets={"X": Secret(file="/no/such")})},
        )
    )

    assert linked.verdict.message == (
        "host local: file .mcp/servers.json: .mcp is a link here; name the folder that it leads to"
    )
    assert (missing.verdict.kind, world.noted) == (FailureClass.AUTH, [])
    assert missing.verdict.message.startswith("file a: secret X cannot be had: /no/such: No such file")
    assert [*(world.folder / "elsewhere").iterdir()] == []


async def test_the_files_of_a_run_that_was_restarted_or_failed_are_gone_too(world):
    gate = world.folder / "gate"
    order = world.order(
        f"until [ -e '{gate}' ]; do sleep 0.05; done; echo new >new; exit 1",
        files={".mcp/servers.json": SERVERS},
    )
    before = world.dispatcher()
    before.follow(order, lambda _: None)
    work = world.data / "host" / "f1" / "work" / "web+fix.g12345678.a1"
    await until(lambda: (world.data / "logs").exists() and (work / ".mcp" / "servers.json").exists())
    await before.close()
    gate.touch()

    # Its spec names another file by now: what was written is what goes.
    report = await world.carry_out(order.model_copy(update={"files": {"other": PLAIN}}))

    assert report.verdict.outcome == "failed"
    assert not (work / ".mcp" / "servers.json").exists()


async def test_a_file_that_a_gitignore_takes_in_again_is_refused_before_an_agent_could_commit_it(world):
    git(world.folder / "seed", "commit", "-q", "--allow-empty", "-m", "x")
    (world.folder / "seed" / ".gitignore").write_text("!.npmrc\n")
    git(world.folder / "seed", "add", ".")
    git(world.folder / "seed", "commit", "-q", "-m", "Take it in")
    git(world.folder / "seed", "push", "-q", str(world.code), "main")

    report = await world.carry_out(world.order(world.note("agent"), files={".npmrc": SERVERS}))

    assert (report.verdict.kind, world.noted) == (FailureClass.CONFIG, [])
    assert report.verdict.message == (
        "host local: file .npmrc: a .gitignore here takes it in again (`!`), so that it would be committed; "
        "choose another path, or {files}/.npmrc"
    )


async def test_no_file_is_written_or_removed_where_an_agent_had_its_workspace_lead(world):
    elsewhere = world.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".npmrc").write_text("of a person\n")
    moved = f'work=$PWD; cd ..; rm -rf "$work"; ln -s \'{elsewhere}\' "$work"'
    order = world.order(moved, repo=None, files={".npmrc": SERVERS})

    await world.carry_out(order)
    later = await world.carry_out(
        world.order(world.note("agent"), repo=None, number=2, files={".npmrc": SERVERS, "new": PLAIN})
    )

    assert later.verdict.message.endswith(" is a link here; name the folder that it leads to")
    assert (world.noted, [path.name for path in elsewhere.iterdir()]) == ([], [".npmrc"])
    assert (elsewhere / ".npmrc").read_text() == "of a person\n"


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.CREATED])
async def test_files_that_stay_of_a_run_whose_host_was_away_go_at_the_next_sweep(world, phase):
    await world.carry_out(world.order("echo begun >begun; exit 1", files={".npmrc": PLAIN}))
    work = world.data / "host" / "f1" / "work" / "web+fix.g12345678.a1"
    written = world.data / "host" / "f1" / "runs" / "web+fix.g12345678.a1.r1"
    (written / "files").mkdir()
    (written / "written").write_text(".npmrc\n")
    for left in (work / ".npmrc", written / "files" / "a"):
        left.write_text(TOKEN)

    await sweep(world, needs_of(RUN, phase=phase))

    kept = [path for path in (world.data / "host").rglob("*") if path.is_file()]
    assert work / "begun" in kept
    assert [path for path in kept if TOKEN.encode() in path.read_bytes()] == []


async def test_files_of_a_live_run_stay_at_a_sweep(world):
    order = world.order("exit 1", files={".npmrc": PLAIN})
    await world.carry_out(order)
    left = world.data / "host" / "f1" / "runs" / "web+fix.g12345678.a1.r1" / "files"
    left.mkdir()

    await sweep(world, needs_of(RUN, phase=Phase.RUNNING))

    assert left.exists(), "a hook after the agent may still read them"
