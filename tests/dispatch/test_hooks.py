"""RunHooks: commands of host and repo around the rounds of a run, in its workspace."""

import asyncio
from datetime import timedelta

import pytest

from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import RunHooks
from reconciler.core.model.status import Phase
from reconciler.dispatch.protocol import hook_id
from tests.dispatch.world import LOCAL, RUN, World, ended, git, needs_of, sweep, until


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path / "a world")


def noting(world: World, *names: str) -> RunHooks:
    """Return hooks that write their names and where they ran into the journal."""
    return RunHooks(**{name: (world.note(f"{name} $PWD"),) for name in names})


def words(world: World) -> list[str]:
    return [line.split()[0] for line in world.noted]


async def test_a_workspace_is_set_up_once_and_each_round_has_its_hooks(world):
    around = noting(world, "after_create", "before_run", "after_run")
    order = world.order(world.note("agent"), hooks=around)

    await world.carry_out(order)
    again = world.order(world.note("agent"), number=2, hooks=around)
    await world.carry_out(again)

    assert words(world) == [
        *("after_create", "before_run", "agent", "after_run"),
        *("before_run", "agent", "after_run"),
    ]
    assert len({line.split(maxsplit=1)[1] for line in world.noted if " " in line}) == 1


async def test_what_hooks_install_is_there_for_the_agent_and_ignored_files_stay(world):
    around = RunHooks(after_create=("echo deps >>.gitignore; mkdir deps; echo it >deps/tool",))
    order = world.order("cat deps/tool >used", hooks=around, validation=("test -e deps/tool",))

    report = await world.carry_out(order)
    later = await world.carry_out(
        world.order("cat deps/tool >>used", number=2, hooks=around, expected_head=report.head_commit)
    )

    assert (report.verdict.message, later.verdict.message) == ("", "")
    assert report.failed_check is None
    assert git(world.code, "show", "task/web/fix:used") == "it\nit"


async def test_no_agent_starts_after_a_hook_that_failed_and_a_person_reads_why(world):
    around = RunHooks(before_run=("echo fine", "echo no such package >&2; exit 3", "echo never"))

    report = await world.carry_out(world.order(world.note("agent"), hooks=around))

    assert (report.verdict.kind, world.noted) == (FailureClass.CONFIG, [])
    assert report.verdict.message == (
        "host local: a hook before the agent failed with exit code 3: "
        "echo no such package >&2; exit 3 (no such package)"
    )
    assert [check.output.strip() for check in report.checks] == ["no such package"]


async def test_a_hook_that_takes_too_long_is_stopped(world):
    around = RunHooks(before_run=("sleep 600",), timeout=timedelta(seconds=1))

    report = await world.carry_out(world.order(world.note("agent"), hooks=around))

    assert (report.verdict.kind, world.noted) == (FailureClass.CONFIG, [])
    assert "a hook before the agent was stopped after 1" in report.verdict.message


async def test_a_hook_after_the_agent_that_fails_is_noted_and_the_work_is_delivered(world):
    order = world.order("echo new >new", hooks=RunHooks(after_run=("exit 4",)))

    report = await world.carry_out(order)

    assert (report.verdict.outcome, report.commits) == ("success", 1)
    assert report.verdict.notes == ("after_run failed with exit code 4: exit 4",)


async def test_hooks_run_after_an_agent_that_failed_too(world):
    around = noting(world, "after_run")

    report = await world.carry_out(world.order("exit 1", hooks=around))

    assert (report.verdict.outcome, words(world)) == ("failed", ["after_run"])


async def test_a_reconciler_that_ends_while_a_hook_runs_runs_it_once_and_loses_nothing_of_it(world):
    gate = world.folder / "gate"
    wait = f"echo kept >kept; {world.note('hook')}; until [ -e '{gate}' ]; do sleep 0.05; done"
    order = world.order(f"cat kept; {world.note('agent')}", hooks=RunHooks(before_run=(wait,)))
    before = world.dispatcher()
    before.follow(order, lambda _: None)
    await until(lambda: world.noted)
    await before.close()
    gate.touch()

    report = await world.carry_out(order)

    assert (report.verdict.message, world.noted) == ("", ["hook", "agent"])


async def test_the_log_of_a_round_has_its_hooks_before_the_agent(world):
    around = RunHooks(before_run=("echo first",), after_run=("echo last",))
    order = world.order("echo agent", hooks=around, validation=("echo check",))

    await world.carry_out(order)

    labels = [label for label, _ in world.dispatcher().logs.paths(order.run)]
    assert [label for label in labels if "stderr" not in label] == [
        "round 1 hooks before",
        "round 1 agent",
        "round 1 hooks after",
        "round 1 validation",
    ]


async def test_a_hook_that_was_there_before_is_evidence_and_no_agent_starts(world):
    around = noting(world, "before_run")
    order = world.order(world.note("agent"), hooks=around)
    forged = world.data / "host" / "f1" / "runs" / hook_id(order.run, 1, "b")
    forged.mkdir(parents=True)
    for name, text in {"claim": "", "done": "0 0 0 0 exit\n"}.items():
        (forged / name).write_text(text)

    report = await world.carry_out(order)

    assert (report.verdict.kind, world.noted) == (FailureClass.AGENT, [])
    assert "tampered" in report.verdict.message


async def test_a_cancelled_run_starts_none_of_its_hooks_any_more(world):
    order = world.order(world.note("agent"), hooks=noting(world, "before_run", "after_run"))
    dispatcher, facts = world.dispatcher(), asyncio.Queue()

    dispatcher.stop(order, "nobody wants it", facts.put_nowait)
    await ended(facts)
    await dispatcher.close()
    report = await world.carry_out(order)

    assert (report.verdict.outcome, world.noted) == ("failed", [])


async def test_what_belongs_to_a_workspace_is_put_away_once_before_it_is_removed(world, caplog):
    around = RunHooks(before_remove=(world.note("put $RECONCILER_TASK $(cat left)"), "echo no >&2; exit 3"))
    await world.carry_out(world.order("echo behind >left"))
    needs = needs_of(RUN, phase=Phase.COMPLETED, hooks=around)

    await sweep(world, needs)
    await sweep(world, needs)

    host = world.data / "host" / "f1"
    assert world.noted == ["put web/fix behind"]
    assert [*(host / "work").iterdir()] == [*host.glob("runs/*.r1*")] == []
    assert f"{RUN}: before_remove failed with exit code 3: echo no >&2; exit 3 (no)" in caplog.text


async def test_hooks_before_a_removal_that_a_reconciler_left_running_are_waited_for(world):
    gate = world.folder / "gate"
    wait = f"{world.note('hook')}; until [ -e '{gate}' ]; do sleep 0.05; done"
    await world.carry_out(world.order("true"))
    needs = needs_of(RUN, phase=Phase.COMPLETED, hooks=RunHooks(before_remove=(wait,)))
    before = world.dispatcher()
    sweeping = asyncio.create_task(before.sweep(LOCAL, lambda: needs))
    await until(lambda: world.noted)
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)
    await before.close()
    work = world.data / "host" / "f1" / "work"

    await sweep(world, needs)
    kept = [*work.iterdir()]
    gate.touch()
    await until((world.data / "host" / "f1" / "runs" / hook_id(RUN, 1, "d") / "exit").exists)
    await sweep(world, needs)

    assert (len(kept), world.noted, [*work.iterdir()]) == (1, ["hook"], [])
