"""What a merge queue needs of repositories and hosts: the same commits each time, validations run once."""

import asyncio
import shutil

import pytest

from reconciler.core.errors import Unavailable
from reconciler.core.model.runs import ValidationRequest
from reconciler.core.model.status import Phase
from tests.dispatch.test_verify import push
from tests.dispatch.world import LOCAL, RUN, World, git, needs_of, until


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def request_of(world, commit, *validation, **fields):
    values = {"run": RUN, "task": "web/fix", "host": LOCAL, "repo": world.repo, "branch": "main"}
    return ValidationRequest(**values, commit=commit, validation=validation, timeout="1m", **fields)


@pytest.fixture
async def dispatcher(world):
    dispatcher = world.dispatcher()
    yield dispatcher
    await dispatcher.close()


@pytest.fixture
def branches(world):
    """Return the heads of three branches from main: the second and third write the same file."""
    clone, heads = world.folder / "clone", {"one": push(world, "a", "one")}
    git(clone, "reset", "-q", "--hard", "origin/main")
    heads["two"] = push(world, "b", "two")
    git(clone, "reset", "-q", "--hard", "origin/main")
    (clone / "b").write_text("another\n")
    return heads | {"three": push(world, "c", "three")}


async def test_the_same_heads_on_the_same_base_are_the_same_commits_up_to_a_conflict(world, branches):
    chains = []
    for _ in range(2):  # the second has another mirror
        dispatcher = world.dispatcher()
        chains.append(await dispatcher.merge_chain(world.repo, list(branches.items())))
        await dispatcher.close()
        shutil.rmtree(world.data / "repos")

    assert chains[0] == chains[1]
    assert (len(chains[0].commits), chains[0].conflicts) == (2, ("b",))
    assert chains[0].base == git(world.code, "rev-parse", "main")


async def test_a_prefix_that_has_landed_is_the_base_of_the_same_commits(world, dispatcher, branches):
    heads = [("one", branches["one"]), ("two", branches["two"])]
    before = await dispatcher.merge_chain(world.repo, heads)

    landed = await dispatcher.land(world.repo, before.commits[0], before.base)
    late = await dispatcher.land(world.repo, before.commits[1], before.base)
    after = await dispatcher.merge_chain(world.repo, heads)

    assert (landed, late) == (True, False)
    assert git(world.code, "rev-parse", "main") == before.commits[0] == after.base
    assert (after.landed, after.commits) == ({branches["one"]}, before.commits[1:])


async def test_a_head_that_no_branch_holds_is_left_out_and_keeps_no_other_waiting(
    world, dispatcher, branches
):
    chain = await dispatcher.merge_chain(world.repo, [("one", "1" * 40), ("two", branches["two"])])

    assert (chain.absent, len(chain.commits)) == ({"1" * 40}, 1)


async def test_a_validation_that_was_ended_is_no_result_and_is_run_anew(world, dispatcher, branches):
    gate = world.folder / "gate"
    wait = f"while [ ! -e '{gate}' ]; do sleep 0.02; done"
    request = request_of(world, branches["one"], world.note("begun"), wait)
    validation = asyncio.create_task(dispatcher.validate(request))
    await until(lambda: world.noted)

    await dispatcher.end_validation(request)
    with pytest.raises(Unavailable):
        await validation
    gate.touch()
    checks = await dispatcher.validate(request)

    assert [check.exit_code for check in checks] == [0, 0]
    assert world.noted == ["begun", "begun"]


async def test_what_is_validated_is_another_if_the_commands_are(world, dispatcher, branches):
    red = await dispatcher.validate(request_of(world, branches["one"], "false"))
    green = await dispatcher.validate(request_of(world, branches["one"], "true"))
    again = await dispatcher.validate(request_of(world, branches["one"], "false"))

    assert [checks[0].exit_code for checks in (red, green, again)] == [1, 0, 1]


def test_a_validation_goes_on_while_its_task_is_open_though_its_run_is_over():
    for phase in (Phase.REVIEW_PENDING, Phase.COMPLETED):
        needs = needs_of(RUN, phase=phase)
        assert needs.is_stale(RUN)
        assert needs.is_stale(RUN, is_check=True) == (phase is Phase.COMPLETED)
