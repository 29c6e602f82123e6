"""
Tasks that begin on the branch of another.
"""

from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.core.forge.presentation import desired_view
from reconciler.core.model.specs import Agent, Repo
from reconciler.core.model.status import LeaseRequest, Observed, Phase, Reason, Status
from reconciler.core.planning.plan import StartRun, plan
from reconciler.core.runs.command import assignment, build_run_request
from reconciler.core.runs.start_point import pull_bases
from tests.fakes import START, make_desired, make_task
from tests.statuses import changed, make_status

HEAD = "a" * 40
FORGE = {"api": "https://code.example.org/api/v1", "repo": "o/web", "token": {"env": "T"}}
REPO = Repo.model_validate({"name": "web", "url": "web.git", "forge": FORGE, "merge": "when_green"})


def fleet(*, review: str = "none", **fields: object):
    first = make_task("first", repo="web", review=review)
    then = make_task("then", repo="web", start_from="first", review=review, **fields)
    return make_desired(first, then, repos={"web": REPO})


def observe(desired, phase: Phase | None, head: str | None = HEAD):
    statuses = {"then": status(desired, "then", Phase.CREATED)}
    if phase is not None:
        statuses["first"] = status(desired, "first", phase, head_commit=head, branch_name="task/first")
    return Observed(statuses=statuses)


def status(desired, name: str, phase: Phase, **fields: object) -> Status:
    task = desired.tasks[name]
    since = START - timedelta(hours=1)
    run = {} if phase is Phase.CREATED else {"repo": "web"}
    known = {"since": since, "created_at": since, "generation": task.generation, "work": task.work, **run}
    return make_status(phase, **{**known, **fields})


def start_of(planned):
    starts = {action.task: action.event for action in planned.actions if isinstance(action, StartRun)}
    return starts["then"]


@pytest.mark.parametrize("phase", [Phase.REVIEW_PENDING, Phase.COMPLETED])
@pytest.mark.parametrize("review", ["none", "merge", "pull_request"])
def test_it_begins_on_what_was_delivered_and_on_the_base_branch_once_that_is_merged(phase, review):
    desired = fleet(review=review)

    start = start_of(plan(desired, observe(desired, phase), START))

    is_merged = phase is Phase.COMPLETED and review != "none"
    assert start.start_from == (None if is_merged else HEAD)
    assert ("; it begins on first (aaaaaaaa)" in start.origin.reason) is not is_merged


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (Phase.CREATED, "waits for first"),
        (Phase.RUNNING, "waits for first"),
        (Phase.FAILED, "waits for first (failed)"),
        (Phase.CANCELLED, "waits for first (cancelled)"),
        (Phase.ESCALATED, "waits for first (escalated)"),
    ],
)
def test_it_waits_as_for_a_dependency_until_there_is_a_branch(phase, message):
    desired = fleet()

    waiting = plan(desired, observe(desired, phase), START).waiting["then"]

    assert (waiting.reason, waiting.message) == (Reason.DEPENDENCY, message)


def test_what_must_be_completed_first_too_must_be_completed():
    desired = fleet(review="merge", depends_on=("first",))

    planned = plan(desired, observe(desired, Phase.REVIEW_PENDING), START)

    assert planned.waiting["then"].message == "waits for first"


def test_what_changed_nothing_is_begun_on_as_the_base_branch_is():
    desired = fleet()

    assert start_of(plan(desired, observe(desired, Phase.COMPLETED, head=None), START)).start_from is None


def test_the_order_names_the_commit_until_reviewers_ask_for_more():
    desired = fleet()
    fields = {"run": "then.g1.a1", "assigned_host": "local", "adapter": "script", "start_from": HEAD}
    live = status(desired, "then", Phase.RUNNING, **fields)
    later = changed(live, review_count=1, head_commit="b" * 40)

    first, second = (build_run_request(desired.tasks["then"], each, desired) for each in (live, later))

    assert (first.start_from, first.stack) == (HEAD, HEAD)
    assert (second.start_from, second.stack) == ("b" * 40, HEAD)
    assert assignment(desired.tasks["then"], live, desired).start_from == HEAD


def test_an_outside_agent_is_told_where_to_begin():
    desired = fleet(execution_mode="http_pull")
    desired.agents["jeeves"] = Agent(name="jeeves")
    observed = replace(
        observe(desired, Phase.COMPLETED), lease_requests=(LeaseRequest(agent="jeeves", request_key="k"),)
    )

    assert start_of(plan(desired, observed, START)).start_from == HEAD


@pytest.mark.parametrize(
    ("phase", "bases"),
    [
        (Phase.REVIEW_PENDING, ("task/first", None)),
        (Phase.RUNNING, ("task/first", None)),
        (Phase.CANCELLED, ("task/first", None)),
        (Phase.COMPLETED, ("main", "task/first")),
    ],
)
def test_its_pull_request_is_against_the_branch_it_began_on_until_that_is_merged(phase, bases):
    desired = fleet(review="pull_request")
    statuses = observe(desired, phase).statuses
    mine = status(desired, "then", Phase.REVIEW_PENDING, head_commit="b" * 40, branch_name="task/then")

    found = pull_bases(desired.tasks["then"], REPO, desired, statuses)
    wanted = desired_view(desired.tasks["then"], mine, REPO, bot="bot", bases=found)

    assert found == bases
    assert (wanted.base, wanted.leaves, wanted.opens) == (*bases, True)


@pytest.mark.parametrize("merge", ["never", "when_approved", "when_green"])
@pytest.mark.parametrize("below", [Phase.CREATED, Phase.REVIEW_PENDING, Phase.COMPLETED])
def test_a_merge_that_waits_for_the_one_below_says_so_where_the_reconciler_merges(merge, below):
    repo = REPO.model_copy(update={"merge": merge})
    tasks = fleet(review="pull_request").tasks.values()
    desired = make_desired(*tasks, repos={"web": repo})
    statuses = {
        "first": status(desired, "first", below, head_commit=HEAD, branch_name="task/first"),
        "then": status(desired, "then", Phase.REVIEW_PENDING, head_commit="b" * 40, branch_name="task/then"),
    }

    waiting = plan(desired, Observed(statuses=statuses), START).waiting.get("then")

    is_held = merge != "never" and below is not Phase.COMPLETED
    message = "is merged after first, on whose branch it stands"
    assert (waiting and (waiting.reason, waiting.message)) == (
        (Reason.DEPENDENCY, message) if is_held else None
    )
