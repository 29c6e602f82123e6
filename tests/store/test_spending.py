"""
What agents took, read back from commits: everything once, whatever became of the tasks.
"""

from datetime import timedelta

import pytest

from reconciler.core.adapter import Usage
from reconciler.core.events import Completed, Origin, Removed, Renamed, Renewed, SpecRemoved
from reconciler.core.lifecycle import Transition
from reconciler.core.model.status import Phase
from reconciler.store.spending import spending
from tests.statuses import changed
from tests.store.world import BRANCH, NOW, commit, created, git, spec, started, status

FIRST = Usage(input_tokens=100, output_tokens=10, cost_usd=0.25, turns=2, seconds=1.5)
SECOND = Usage(input_tokens=50, cached_tokens=7, cost_usd=0.1, turns=1, seconds=0.25)


def ended(name, usage, *, at=NOW, phase=Phase.COMPLETED, **fields):
    """Return the end of a run after which the task has taken this much, all in all."""
    before = status(Phase.RUNNING, run=f"{name}.g1.a1", assigned_host="local")
    after = status(phase, run=f"{name}.g1.a1", assigned_host="local", usage=usage, **fields)
    return Transition(
        name,
        before,
        after,
        Completed(task=name, origin=Origin(at, "done")),
    )


async def spent(open_repository, bare, **since):
    return await spending(await open_repository(bare), BRANCH, **since)


async def test_without_a_record_nothing_was_spent(open_repository, bare):
    assert await spent(open_repository, bare) == ()


async def test_each_round_is_told_with_where_it_was_spent(open_repository, open_state, bare):
    state = await open_state(bare)
    await state.commit([created("web/a"), started("web/a")])
    await state.commit([ended("web/a", FIRST, adapter="codex", model="gpt-5", repo="web")])
    await state.commit([ended("web/a", FIRST + SECOND, at=NOW + timedelta(hours=1), adapter="codex")])

    first, second = await spent(open_repository, bare)

    assert (first.task, first.repo, first.adapter, first.model) == ("web/a", "web", "codex", "gpt-5")
    assert (first.host, first.at, first.usage) == ("local", NOW, FIRST)
    assert (second.repo, second.model) == (None, None)
    assert (second.at, second.usage) == (NOW + timedelta(hours=1), SECOND)


async def test_a_removed_task_still_counts_and_its_namesake_counts_anew(open_repository, open_state, bare):
    state = await open_state(bare)
    gone = status(Phase.COMPLETED, usage=FIRST, removed=True)
    await state.commit([created("a"), ended("a", FIRST)])
    await state.commit(
        [
            Transition(
                "a",
                gone,
                None,
                Removed(task="a", origin=Origin(NOW, "gone")),
            )
        ]
    )
    await state.commit([created("a"), ended("a", SECOND)])

    assert [each.usage for each in await spent(open_repository, bare)] == [FIRST, SECOND]


async def test_a_renamed_task_counts_once(open_repository, open_state, bare):
    state = await open_state(bare)
    done = status(Phase.COMPLETED, usage=FIRST)
    await state.commit([created("a"), ended("a", FIRST)])
    await state.commit([Transition("b", done, done, Renamed(task="b", origin=Origin(NOW, "moved"), old="a"))])
    await state.commit([ended("b", FIRST + SECOND)])

    found = await spent(open_repository, bare)

    assert [(each.task, each.usage) for each in found] == [("a", FIRST), ("b", SECOND)]


async def test_what_changes_nothing_of_the_usage_costs_nothing(open_repository, open_state, bare):
    state = await open_state(bare)
    done = status(Phase.COMPLETED, usage=FIRST, assigned_host="local")
    moved = changed(done, phase=Phase.CREATED, assigned_host="other")
    await state.commit([created("a"), ended("a", FIRST)])
    await state.commit(
        [
            Transition("a", done, moved, Renewed(task="a", origin=Origin(NOW, "again"), spec=spec("a"))),
            Transition(
                "a",
                moved,
                done,
                SpecRemoved(task="a", origin=Origin(NOW, "gone")),
            ),
        ]
    )

    assert len(await spent(open_repository, bare)) == 1


async def test_only_what_was_spent_since_then_is_told_if_one_asks_so(open_repository, open_state, bare):
    state = await open_state(bare)
    await state.commit([created("a"), ended("a", FIRST, at=NOW - timedelta(days=30))])
    await state.commit([ended("a", FIRST + SECOND, at=NOW)])

    assert [each.usage for each in await spent(open_repository, bare, since=NOW)] == [SECOND]
    assert len(await spent(open_repository, bare, since=NOW - timedelta(days=30))) == 2
    assert await spent(open_repository, bare, since=NOW + timedelta(seconds=1)) == []


async def test_a_record_that_was_set_back_gives_no_money_back(open_repository, open_state, bare, checkout):
    state = await open_state(bare)
    await state.commit([created("a"), ended("a", FIRST)])
    await state.commit([ended("a", FIRST + SECOND)])
    git(checkout, "fetch", "-q", str(bare), f"{BRANCH}:{BRANCH}")
    git(checkout, "checkout", "-q", BRANCH)
    git(checkout, "revert", "--no-edit", "HEAD")
    git(checkout, "push", "-q", str(bare), BRANCH)
    await state.load()
    await state.commit([ended("a", FIRST + FIRST)])

    assert [each.usage for each in await spent(open_repository, bare)] == [FIRST, SECOND, FIRST]


@pytest.mark.parametrize(
    "damage",
    [
        b"phase: [\n",
        b"usage:\n  [oops\n",
        b"usage:\n  input_tokens: -5\n",
        b"usage:\n  turns: .nan\n",
        b"usage: 1999-99-99\n",
        b"usage: [1]\n",
        b"usage:\n  model: {a: b}\n",
        b"repo: {a: b}\n",
        b"repo: \xff\n",
        b"",
    ],
)
async def test_a_status_that_was_damaged_and_put_right_spent_nothing(
    open_repository, open_state, bare, checkout, damage
):
    state = await open_state(bare)
    await state.commit([created("a"), ended("a", FIRST)])
    git(checkout, "fetch", "-q", str(bare), f"{BRANCH}:{BRANCH}")
    git(checkout, "checkout", "-q", BRANCH)
    [file] = checkout.glob("fleet-state/tasks/a.yaml")
    file.write_bytes(damage and file.read_bytes() + damage)
    git(checkout, "commit", "-q", "-a", "-m", "Damage")
    file.write_bytes(file.read_bytes() + b"# again\n")
    git(checkout, "commit", "-q", "-a", "-m", "More of it")
    git(checkout, "revert", "--no-edit", "HEAD", "HEAD~1")
    git(checkout, "push", "-q", str(bare), BRANCH)
    await state.load()
    await state.commit([ended("a", FIRST + SECOND)])

    found = await spent(open_repository, bare)

    assert sum((each.usage for each in found), Usage()) == FIRST + SECOND + (Usage() if damage else FIRST)
    assert {each.repo for each in found} == {None}


async def test_on_a_shared_branch_other_files_and_merges_are_passed_over(
    open_repository, open_state, bare, checkout
):
    state = await open_state(bare)
    await state.commit([created("a"), ended("a", FIRST)])
    git(checkout, "fetch", "-q", str(bare), f"{BRANCH}:{BRANCH}")
    git(checkout, "checkout", "-q", "-b", "side", BRANCH)
    commit(checkout, "specs/tasks/b.yaml", "goal: b\n")
    git(checkout, "checkout", "-q", BRANCH)
    commit(checkout, "odd\nname", ":000000 100644\n")
    git(checkout, "merge", "-q", "--no-edit", "side")
    git(checkout, "push", "-q", str(bare), BRANCH)
    await state.load()
    await state.commit([ended("a", FIRST + SECOND)])

    assert [each.usage for each in await spent(open_repository, bare)] == [FIRST, SECOND]
