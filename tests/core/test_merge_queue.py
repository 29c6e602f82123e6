"""What a merge queue does next, and that nothing lands that was not validated."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.forge.merge_queue import (
    LONGEST_CHAIN,
    Land,
    MergeChain,
    QueueEntry,
    SendBack,
    Stuck,
    Validate,
    next_step,
    queue_entries,
    queue_news,
)
from reconciler.core.forge.presentation import desired_view
from reconciler.core.forge.pull_request import QUEUE, follow, is_queued, may_merge
from reconciler.core.lifecycle import transition
from reconciler.core.model.forge import QueueNews
from reconciler.core.model.runs import Check
from reconciler.core.model.specs import Repo
from reconciler.core.model.status import Phase, Reason, Waiting
from tests.core.test_pull_request import (
    BOT,
    HEAD,
    LATER,
    LAZY,
    OTHER,
    a_pull,
    a_review,
    a_status,
    a_task,
    seen,
)
from tests.strategies import NOW

FORGE = {"api": "https://forge.example.org/api/v1", "repo": "ops/shop", "token": {"env": "TOKEN"}}
QUEUED = LAZY.model_copy(update={"merge": "queue", "validation": ("make test",)})
RED = (Check(command="make test", exit_code=2, seconds=1.0, output="3 tests fail"),)
APPROVED = a_pull(reviews=(a_review(verdict="approved", notes=()),))


# --- The decision ----------------------------------------------------------


@dataclass
class Fleet:
    """A repo whose queue is worked off; commits are what they are made of."""

    queue: list[str]
    culprits: set[str] = field(default_factory=set)
    rivals: set[tuple[str, str]] = field(default_factory=set)
    """Branches that conflict: the one that comes later."""
    base: str = "main"
    broken: set[str] = field(default_factory=set)
    """Commits of others that break the base."""
    results: dict[str, str] = field(default_factory=dict)
    validated: list[str] = field(default_factory=list)
    landed: list[str] = field(default_factory=list)
    sent_back: list[tuple[str, str]] = field(default_factory=list)

    def chain(self) -> MergeChain:
        commits, last = [], self.base
        for head in self.queue[:LONGEST_CHAIN]:
            if self.conflicts(last, head):
                return MergeChain(base=self.base, commits=tuple(commits), conflicts=("a.txt",))
            last = f"{last}+{head}"
            commits.append(last)
        return MergeChain(base=self.base, commits=tuple(commits))

    def conflicts(self, commit: str, head: str) -> bool:
        return any((other, head) in self.rivals for other in commit.split("+"))

    def is_red(self, commit: str) -> bool:
        return bool((self.culprits | self.broken) & set(commit.split("+")))

    def validate(self, commit: str) -> None:
        self.validated.append(commit)
        self.results[commit] = "red" if self.is_red(commit) else "green"

    def step(self, *, moves: str = "", fails: bool = False) -> object:
        """Take a step; somebody moves the base just before anything lands, or the host fails."""
        chain = self.chain()
        step = next_step(chain, self.results)
        if moves:
            self.base = f"{self.base}+{moves}"
        if isinstance(step, Validate) and not fails:
            self.validate(chain.commit(step.position))
        elif isinstance(step, Land) and self.base == chain.base:
            self.land(chain, step)
        elif isinstance(step, SendBack):
            first = self.queue.pop(0)
            self.sent_back.append((first, step.why))
            assert step.why == "red" or self.conflicts(chain.base, first)
            assert step.why == "conflict" or (first in self.culprits and not self.is_red(chain.base))
        return step

    def land(self, chain: MergeChain, step: Land) -> None:
        commit = chain.commit(step.position)
        assert self.results[commit] == "green"
        assert not self.is_red(commit)
        assert commit == "+".join([self.base, *self.queue[: step.position]])
        self.base = commit
        self.landed += self.queue[: step.position]
        del self.queue[: step.position]

    def drain(self) -> None:
        while self.queue:
            assert not isinstance(self.step(), Stuck)


TEN = [f"b{number}" for number in range(1, 11)]


def test_ten_of_which_the_fourth_fails_land_but_for_that_one_in_six_validations():
    fleet = Fleet(list(TEN), culprits={"b4"})

    fleet.drain()

    assert [commit.count("+") for commit in fleet.validated] == [10, 5, 2, 3, 4, 9]
    assert fleet.landed == [name for name in TEN if name != "b4"]
    assert fleet.sent_back == [("b4", "red")]


def test_a_queue_that_passes_takes_one_validation():
    fleet = Fleet(list(TEN))

    fleet.drain()

    assert (len(fleet.validated), fleet.landed) == (1, TEN)


def test_a_base_that_fails_itself_sends_nobody_back():
    fleet = Fleet(["b1", "b2"], base="main+x", broken={"x"})

    steps = [fleet.step() for _ in range(4)]

    assert steps == [Validate(2), Validate(1), Validate(0), Stuck()]
    assert (fleet.landed, fleet.sent_back) == ([], [])


def test_who_conflicts_with_one_ahead_waits_until_that_one_has_landed():
    fleet = Fleet(["b1", "b2", "b3"], culprits={"b1"}, rivals={("b1", "b2")})

    fleet.drain()

    assert fleet.sent_back == [("b1", "red")]
    assert fleet.landed == ["b2", "b3"]


def test_a_base_that_somebody_moves_leaves_no_result_standing():
    fleet = Fleet(["b1", "b2"])

    fleet.step()
    refused = fleet.step(moves="x")
    fleet.drain()

    assert refused == Land(2)
    assert fleet.validated == ["main+b1+b2", "main+x+b1+b2"]


names = st.integers(1, 24).map(lambda count: [f"b{number}" for number in range(1, count + 1)])


@st.composite
def fleets(draw):
    queue = draw(names)
    culprits = draw(st.sets(st.sampled_from(queue), max_size=4))
    pairs = st.tuples(st.sampled_from(queue), st.sampled_from(queue)).filter(lambda pair: pair[0] != pair[1])
    return Fleet(queue, culprits=culprits, rivals=draw(st.sets(pairs, max_size=3)))


trouble = st.lists(st.sampled_from(["", "", "move", "break", "host", "restart"]), max_size=30)


@given(fleets(), trouble)
def test_whatever_happens_only_what_passed_lands_and_each_innocent_branch_does(fleet, trouble):
    before = list(fleet.queue)
    for number, what in enumerate(trouble):
        if not fleet.queue:
            break
        if what == "restart":
            fleet.results.clear()
        if what == "break":
            fleet.broken.add(f"x{number}")
        fleet.step(moves=f"x{number}" if what in {"move", "break"} else "", fails=what == "host")
    fleet.broken.clear()  # somebody repairs it with a commit of his own
    fleet.base, fleet.results = f"{fleet.base}+y", {}

    fleet.drain()

    innocent = [name for name in before if name not in fleet.culprits and not touches(fleet.rivals, name)]
    assert [name for name in fleet.landed if name in innocent] == innocent
    assert not fleet.culprits & set(fleet.landed)
    assert sorted(fleet.landed + [name for name, _ in fleet.sent_back]) == sorted(before)


@given(names, st.data())
def test_a_branch_that_fails_costs_a_bisection(queue, data):
    culprits = data.draw(st.sets(st.sampled_from(queue), max_size=4))
    fleet = Fleet(list(queue), culprits=culprits)

    fleet.drain()

    batches = ceil(len(queue) / LONGEST_CHAIN)
    each = 1 + ceil(log2(min(len(queue), LONGEST_CHAIN)))
    assert len(fleet.validated) <= batches + 1 + len(culprits) * each
    assert len(set(fleet.validated)) == len(fleet.validated)


def touches(rivals, name):
    return any(name in pair for pair in rivals)


# --- Who is in it ----------------------------------------------------------


def test_an_approved_pull_request_enters_the_queue_and_is_not_merged_otherwise():
    waiting = seen(APPROVED, a_status(), repo=QUEUED).waiting

    assert (waiting.reason, waiting.message) == (Reason.MERGE_QUEUE, "it is in the merge queue")
    assert is_queued(a_task(), a_status(), APPROVED, QUEUED, bot=BOT)
    assert not may_merge(a_task(), a_status(), APPROVED, QUEUED, bot=BOT)


@pytest.mark.parametrize(
    "change",
    [
        {"reviews": ()},
        {"head": OTHER},
        {"is_draft": True},
        {"checks": "pending"},
        {"checks": "failure", "failed_checks": ("ci",)},
        {"is_conflicting": True},
        {"state": "closed"},
        {"reviews": (a_review(1, verdict="approved", commit=OTHER),)},
        {"reviews": (a_review(1, verdict="approved"), a_review(2, "bob", "changes_requested"))},
    ],
)
def test_what_would_not_be_merged_when_approved_is_not_in_the_queue(change):
    assert not is_queued(a_task(), a_status(), replace(APPROVED, **change), QUEUED, bot=BOT)


def test_its_order_is_that_in_which_they_entered_and_then_that_of_their_approval():
    early, late = NOW, NOW + timedelta(hours=1)
    entered = {"a": late, "b": early, "c": early}
    approved = {"a": early, "b": late, "c": early}
    tasks = {name: a_task(name=name) for name in entered}
    statuses = {
        name: a_status(waiting=Waiting(reason=Reason.MERGE_QUEUE, message="in", since=since))
        for name, since in entered.items()
    }
    pulls = {
        name: replace(APPROVED, reviews=(replace(a_review(verdict="approved"), at=at),))
        for name, at in approved.items()
    }

    entries = queue_entries(QUEUED, tasks, statuses, pulls, bot=BOT)

    assert [entry.task for entry in entries] == ["c", "b", "a"]


def test_what_is_on_record_of_the_queue_stands_until_the_queue_says_something_else():
    status = a_status(waiting=Waiting(reason=Reason.MERGE_QUEUE, message="place 3", since=NOW))
    same = replace(APPROVED, queue=QueueNews(message="place 3"))
    other = replace(APPROVED, queue=QueueNews(message="place 2", validated=HEAD))

    assert seen(APPROVED, status, repo=QUEUED) is None
    assert seen(same, status, repo=QUEUED) is None
    event = seen(other, status, repo=QUEUED)
    after = transition(status, event)
    assert (after.waiting.message, after.waiting.since) == ("place 2", NOW)
    assert after.review.validated == HEAD


def test_whoever_cannot_land_keeps_the_place_in_the_queue():
    status = a_status(waiting=Waiting(reason=Reason.MERGE_QUEUE, message="place 3", since=NOW))
    halted = replace(APPROVED, queue=QueueNews(message="cannot land", is_stuck=True))

    after = transition(status, seen(halted, status, repo=QUEUED))

    assert (after.waiting.reason, after.waiting.since) == (Reason.MERGE_QUEUE_HALTED, NOW)
    assert seen(APPROVED, after, repo=QUEUED) is None


def test_whose_checks_are_repaired_enters_behind_those_that_are_in():
    status = a_status(waiting=Waiting(reason=Reason.BLOCKED, message="checks fail", since=NOW))

    after = transition(status, seen(APPROVED, status, repo=QUEUED))

    assert (after.waiting.reason, after.waiting.since) == (Reason.MERGE_QUEUE, LATER)


def test_whoever_loses_the_approval_leaves_the_queue_and_nothing_of_it_counts_as_validated():
    waiting = Waiting(reason=Reason.MERGE_QUEUE, message="place 1", since=NOW)
    status = a_status(waiting=waiting)
    status = status.model_copy(update={"review": status.review.model_copy(update={"validated": HEAD})})

    after = transition(status, seen(a_pull(), status, repo=QUEUED))

    assert after.waiting.reason is Reason.REVIEW
    assert after.review.validated is None


def test_the_pull_request_says_that_it_is_in_the_queue_and_not_at_which_place():
    waiting = Waiting(reason=Reason.MERGE_QUEUE, message="place 3 in the merge queue", since=NOW)
    repo = Repo.model_validate({**QUEUED.model_dump(), "forge": FORGE})

    view = desired_view(a_task(), a_status(waiting=waiting), repo, APPROVED, bot=BOT)

    assert "it is in the merge queue" in view.body
    assert "place 3" not in view.body
    assert view.merges is None


# --- What it says ----------------------------------------------------------


def entries(count):
    return [
        QueueEntry(task=f"t{number}", number=number, run=f"t{number}.g0.a1", branch=f"b{number}", head=HEAD)
        for number in range(1, count + 1)
    ]


def messages(step, count=3, **more):
    chain = MergeChain(base="0" * 40, commits=tuple(f"{number}" * 40 for number in range(1, count + 1)))
    return [news for _, news in queue_news(QUEUED, entries(count), chain, step, **more)]


def test_each_branch_is_told_its_place_and_what_is_validated():
    first, second, third = messages(Validate(2))

    assert first.message == "place 1 in the merge queue; main with #1, #2 (2222222222) is validated"
    assert second.message.startswith("place 2 in the merge queue; main with #1, #2")
    assert third.message == "place 3 in the merge queue, behind those that are validated first"


def test_what_passed_says_with_which_commit_it_lands():
    first, second, third = messages(Land(2))

    assert first.message == "place 1 in the merge queue; main with #1, #2 (2222222222) passed, and lands"
    assert [first.validated, second.validated, third.validated] == ["2" * 40, "2" * 40, None]


def test_what_cannot_be_done_now_says_why():
    host, push = messages(Validate(1), error="no answer")[0], messages(Land(1), error="protected")[0]

    assert host.message.endswith("is validated, and cannot be now: no answer")
    assert push.message.endswith("passed, but cannot land: protected")
    assert (host.is_stuck, push.is_stuck) == (False, True)


def test_a_base_that_fails_asks_for_a_person():
    first, *_ = messages(Stuck(), checks=RED)

    assert first.is_stuck
    assert "main itself (0000000000) does not pass: `make test` failed with exit code 2" in first.message


@pytest.mark.parametrize(("why", "told"), [("red", "3 tests fail"), ("conflict", "a.txt")])
def test_the_branch_that_fails_is_a_round_for_its_own_agent_which_is_told_why(why, told):
    chain = MergeChain(base="0" * 40, commits=("1" * 40,) if why == "red" else (), conflicts=("a.txt",))
    (_, first), (_, second) = queue_news(QUEUED, entries(2), chain, SendBack(why), checks=RED)

    event = seen(replace(APPROVED, queue=first), a_status(), repo=QUEUED)

    [note] = event.reviews
    assert note.author == QUEUE
    assert told in note.text
    assert "git merge origin/main" in note.text
    assert transition(a_status(), event).phase is Phase.CREATED
    assert second.message == "place 1 in the merge queue, behind those that are validated first"


def test_a_conflict_that_the_forge_sees_goes_back_to_the_agent_too():
    event = seen(a_pull(is_conflicting=True), a_status(), repo=QUEUED)

    assert "conflicts with main" in event.origin.reason


def test_those_too_far_behind_say_no_place_that_would_change_all_the_time():
    count = LONGEST_CHAIN + 2
    news = messages(Validate(LONGEST_CHAIN), count=count)

    assert [each.message for each in news[-2:]] == ["in the merge queue, behind 16 others"] * 2
    assert follow(
        a_task(), a_status(), replace(APPROVED, queue=news[-1]), QUEUED, LATER, bot=BOT
    ).waiting.message.endswith("16 others")
