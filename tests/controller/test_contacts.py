"""
Repositories that do not answer: their tasks wait, hold no slot and say why; so does what else is tried again.
"""

from datetime import timedelta

import pytest

from reconciler.core.model.specs import FleetSpec, Host, Repo
from reconciler.core.model.status import Phase, Reason
from tests.fakes import make_desired, make_task

FAR = "https://code.example.org/{}"
REPOS = {name: Repo(name=name, url=FAR.format(name)) for name in ("dead", "good")}
ONE_SLOT = {"local": Host(name="local", slots=1)}


def fleet(*tasks):
    return make_desired(*tasks, repos=REPOS, hosts=ONE_SLOT)


async def test_a_repo_that_does_not_answer_holds_no_slot_of_others(stage):
    stage.dispatch.away = {"dead"}
    first = [make_task(f"a{number}", repo="dead", priority=9) for number in range(3)]
    stage.specs.push(fleet(*first, make_task("b", repo="good")))

    await stage.run()

    assert stage.state.statuses["b"].phase is Phase.COMPLETED
    for task in first:
        status = stage.state.statuses[task.name]
        assert (status.phase, status.attempt) == (Phase.CREATED, 0)
        assert (status.waiting.reason, status.waiting.message) == (Reason.REPO, "repo dead: no answer")


async def test_what_waits_for_a_repo_starts_once_it_answers_and_costs_one_commit_meanwhile(stage):
    stage.dispatch.away = {"dead"}
    stage.specs.push(fleet(make_task("a", repo="dead")))
    await stage.run()
    commits, asked = len(stage.state.log), len(stage.dispatch.reached)

    loop = stage.loop()
    for _ in range(40):
        loop.inbox.notify()
        await loop.run("idle")
        stage.clock.time += timedelta(minutes=1)
    assert len(stage.state.log) <= commits + 1
    assert len(stage.dispatch.reached) > asked + 10
    stage.dispatch.away = set()
    await stage.run()

    assert stage.state.statuses["a"].phase is Phase.COMPLETED


@pytest.mark.parametrize(
    ("url", "is_asked_first"),
    [
        ("https://code.example.org/a", True),
        ("ssh://git@code.example.org/a", True),
        ("git@code.example.org:a", True),
        ("file:///srv/a.git", False),
        ("../a.git", False),
        ("/srv/a.git", False),
    ],
)
async def test_a_repo_far_away_is_asked_before_a_slot_is_given_to_its_tasks(stage, url, is_asked_first):
    repos = {"a": Repo(name="a", url=url)}
    stage.specs.push(make_desired(make_task("a", repo="a"), repos=repos))

    await stage.run()

    waits = [step.after.waiting.message for step in stage.state.log if step.after and step.after.waiting]
    assert waits == (["waits for the first answer of repo a"] if is_asked_first else [])
    assert stage.state.statuses["a"].phase is Phase.COMPLETED


async def test_a_step_that_is_tried_again_is_told_on_its_task_once_and_when_it_works_again(stage):
    stage.dispatch.hold = True
    stage.specs.push(fleet(make_task("a", repo="good")))
    loop = await stage.run("started")
    run, commits = stage.state.statuses["a"].run_key, len(stage.state.log)

    stage.dispatch.retry_reasons = {run: "cannot push"}
    for _ in range(3):
        await stage.run("started")
    told = stage.state.statuses["a"]
    stage.dispatch.retry_reasons = {}
    await stage.run("started")

    assert loop.cache.statuses["a"].waiting is None
    assert (told.phase, told.waiting.reason, told.waiting.message) == (
        Phase.RUNNING,
        Reason.RETRYING,
        "cannot push",
    )
    assert stage.state.statuses["a"].waiting is None
    assert len(stage.state.log) == commits + 2


async def test_a_run_whose_delivery_waits_leaves_its_slot_and_its_place_in_the_limits_to_others(stage):
    stage.dispatch.hold = True
    tasks = [make_task("a", repo="good", priority=9), make_task("b", repo="good")]
    stage.specs.push(make_desired(*tasks, repos=REPOS, hosts=ONE_SLOT, fleet=FleetSpec(max_running=1)))
    await stage.run("started")
    run = stage.state.statuses["a"].run_key

    stage.dispatch.retry_reasons = {run: "waits for an answer of the repo"}
    stage.dispatch.agent_over = frozenset({run})
    await stage.run("started")
    waiting, other = stage.state.statuses["a"].waiting, stage.state.statuses["b"]

    assert (waiting.reason, waiting.message) == (Reason.DELIVERY, "waits for an answer of the repo")
    assert other.phase is Phase.RUNNING
