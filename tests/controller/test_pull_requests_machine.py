"""
Pull requests in use: people review, push, close and merge; webhooks are lost, doubled and late; forges fail.

What goes on record follows from what people do, and from nothing else.
"""

import asyncio
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reconciler.core.errors import Unavailable
from reconciler.core.events import ChangesRequested, WaitingChanged
from reconciler.core.model.status import MERGE_REASONS, Phase, Reason
from tests.controller.forging import REPO, Scene, reviewed, turns

NAMES = ("a", "b")
REPO_FIELDS = st.fixed_dictionaries(
    {
        "merge": st.sampled_from(["never", "when_approved", "when_green"]),
        "failed_checks": st.sampled_from(["wait", "fix"]),
        "base_moved": st.sampled_from(["leave", "merge"]),
    }
)


class Review(RuleBasedStateMachine):
    """Reviewers and a forge around one loop."""

    @initialize(fields=REPO_FIELDS, max_reviews=st.integers(0, 2))
    def begin(self, fields, max_reviews):
        self.events = asyncio.new_event_loop()
        self.max_reviews = max_reviews
        self.merged = set()
        self.scene = Scene()
        self.scene.push(
            *[reviewed(name, max_reviews=max_reviews) for name in NAMES],
            repo=REPO.model_copy(update=fields),
        )
        self.do(self.scene.start())
        self.settle()

    def do(self, work):
        return self.events.run_until_complete(work)

    def settle(self):
        self.do(self.scene.pass_time(timedelta(minutes=2), step=timedelta(seconds=20)))

    @property
    def site(self):
        return self.scene.site

    def pull(self, name):
        return self.site.newest(f"task/{name}")

    # --- What people do there ---

    @rule(name=st.sampled_from(NAMES), verdict=st.sampled_from(["approved", "changes_requested", "comment"]))
    def review(self, name, verdict):
        if (pull := self.pull(name)) and pull.state == "open":
            self.site.review(pull.number, verdict, f"I say {verdict}")

    @rule(name=st.sampled_from(NAMES))
    def close(self, name):
        if (pull := self.pull(name)) and pull.state == "open":
            self.site.close(pull.number)

    @rule(name=st.sampled_from(NAMES))
    def reopen(self, name):
        if (pull := self.pull(name)) and pull.state == "closed" and not pull.is_merged:
            self.site.reopen(pull.number)

    @rule(name=st.sampled_from(NAMES))
    def merge(self, name):
        if (pull := self.pull(name)) and pull.state == "open":
            self.site.merge(pull.number)

    @rule(name=st.sampled_from(NAMES))
    def push(self, name):
        if (pull := self.pull(name)) and pull.state == "open":
            self.site.push(pull.branch)

    @rule(name=st.sampled_from(NAMES), state=st.sampled_from(["pending", "success", "failure"]))
    def check(self, name, state):
        if pull := self.pull(name):
            self.site.set_status(pull.head, state)

    @rule(name=st.sampled_from(NAMES), is_conflicting=st.booleans())
    def base_moves(self, name, is_conflicting):
        if (pull := self.pull(name)) and pull.state == "open":
            self.site.change(pull.number, is_conflicting=is_conflicting, mergeable=not is_conflicting)

    # --- What happens ---

    @rule(
        names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4),
        strangers=st.lists(st.integers(50, 99)),
    )
    def webhooks_come(self, names, strangers):
        for number, name in enumerate(names):
            ours = [pull.number] if (pull := self.pull(name)) else []
            self.scene.webhooks(*ours, *strangers, delivery=f"d-{number}")
        self.do(turns())

    @rule(seconds=st.sampled_from([0, 5, 90]))
    def time_passes(self, seconds):
        self.do(self.scene.pass_time(timedelta(seconds=seconds), step=timedelta(seconds=5)))

    @rule(seconds=st.sampled_from([5, 600]))
    def the_forge_is_away(self, seconds):
        self.scene.forges.away = True
        self.do(self.scene.pass_time(timedelta(seconds=seconds), step=timedelta(seconds=20)))
        self.scene.forges.away = False

    @rule(hold=st.booleans())
    def agents_take_their_time(self, hold):
        self.scene.dispatch.hold = hold
        if not hold:
            self.finish()

    def finish(self):
        """Let everybody who is at work be done."""
        dispatch = self.scene.dispatch
        for order in [order for key, order in dispatch.started.items() if key in dispatch.followed]:
            dispatch.finish(order)
        self.do(turns())

    @rule(lag=st.sampled_from([0, 3, 30]))
    def answers_take_their_time(self, lag):
        self.scene.forges.lag = lag

    @rule(refuses=st.booleans())
    def merges_are_refused(self, refuses):
        self.scene.forges.refuses_merges = refuses

    @rule()
    def commits_fail(self):
        self.scene.state.refuse = [Unavailable("no disk")]

    @rule()
    def the_process_dies_and_comes_back(self):
        self.scene.serving.cancel()
        self.do(asyncio.wait([self.scene.serving]))
        self.do(self.scene.start())

    # --- What must hold ---

    @invariant()
    def the_process_lives(self):
        if self.scene.serving.done():
            self.scene.serving.result()
        assert not self.scene.serving.done()

    @invariant()
    def a_task_has_one_open_pull_request_at_most(self):
        branches = [pull.branch for pull in self.site.pulls.values() if pull.state == "open"]
        assert len(branches) == len(set(branches))

    @invariant()
    def nothing_is_said_twice(self):
        said = [(comment.number, comment.key) for comment in self.site.comments if comment.key]
        assert len(said) == len(set(said))

    @invariant()
    def rounds_are_limited(self):
        assert all(s.review.count <= self.max_reviews for s in self.scene.state.statuses.values())

    @invariant()
    def nothing_is_answered_twice(self):
        events = [step.event for step in self.scene.state.log if isinstance(step.event, ChangesRequested)]
        answered = [(event.task, event.reviewed, event.head) for event in events]
        assert len(answered) == len(set(answered))

    def teardown(self):
        """Once people rest, tasks stand where their pull requests do, and forge and record are left alone."""
        if not hasattr(self, "scene"):
            return
        try:
            self.come_to_rest()
        finally:
            self.scene.serving.cancel()
            self.do(asyncio.wait([self.scene.serving]))
            self.events.close()

    def come_to_rest(self):
        self.scene.state.refuse, self.scene.forges.away, self.scene.forges.lag = [], False, 0
        self.scene.forges.refuses_merges = self.scene.dispatch.hold = False
        self.finish()
        self.do(self.scene.pass_time(timedelta(hours=1), step=timedelta(seconds=30)))
        commits = len(self.scene.state.log)
        self.scene.forges.asked.clear()
        self.do(self.scene.pass_time(timedelta(hours=1), step=timedelta(seconds=30)))

        self.the_process_lives()
        assert len(self.scene.state.log) == commits
        assert self.scene.forges.asked["pulls"] <= 61
        assert self.scene.forges.asked["show"] == 0
        for name in NAMES:
            self.stands_where_its_pull_request_does(name)

    def stands_where_its_pull_request_does(self, name):
        status, pull = self.scene.status(name), self.pull(name)
        assert status.review.pull_request.number == pull.number
        if pull.is_merged:
            assert status.phase is Phase.COMPLETED
        elif pull.state == "closed":
            assert status.phase is Phase.CANCELLED
        else:
            assert status.phase in {Phase.REVIEW_PENDING, Phase.ESCALATED}
            assert status.head_commit == pull.head or status.phase is Phase.ESCALATED
        assert [label for label in pull.labels if label.startswith("agent/")] == [f"agent/{status.phase}"]


Review.TestCase.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=15)
test_pull_requests_in_use = Review.TestCase


# --- Whatever webhooks do --------------------------------------------------

DEEDS = st.lists(
    st.tuples(
        st.sampled_from(
            ["approved", "changes_requested", "comment", "close", "reopen", "push", "merge", "red"]
        ),
        st.sampled_from(NAMES),
    ),
    max_size=6,
)


@given(deeds=DEEDS, fields=REPO_FIELDS, shuffle=st.randoms())
def test_the_record_is_the_same_whatever_webhooks_and_crashes_do(deeds, fields, shuffle):
    repo = REPO.model_copy(update=fields)
    last_transitions = [
        asyncio.run(live_through(deeds, repo, between))
        for between in (nothing, thrice(shuffle), a_restart, an_outage)
    ]

    assert all(life == last_transitions[0] for life in last_transitions)


async def live_through(deeds, repo, between):
    """Return what went on record, task by task, when people did these things."""
    scene = Scene()
    scene.push(*[reviewed(name) for name in NAMES], repo=repo)
    await scene.start()
    minutes = timedelta(minutes=2)
    await scene.pass_time(minutes, step=timedelta(seconds=20))
    for deed, name in deeds:
        do(scene.site, deed, scene.site.newest(f"task/{name}"))
        await between(scene)
        await scene.pass_time(minutes, step=timedelta(seconds=20))
    await scene.stop()
    # What is seen at a look only: that a forge does not answer, and what a merge waits for by then.
    log = [step for step in scene.state.log if step.after and not is_of_a_look(step)]
    steps = [(step.task, type(step.event), step.after.phase) for step in log]
    return {name: [step for step in steps if step[0] == name] for name in NAMES}


def is_of_a_look(step):
    waits = [status.waiting for status in (step.before, step.after) if status and status.waiting]
    seen = {Reason.RETRYING, *MERGE_REASONS}
    return isinstance(step.event, WaitingChanged) and not seen.isdisjoint(wait.reason for wait in waits)


def do(site, deed, pull):
    """Let somebody do something to a pull request, if it can be done."""
    is_open = pull.state == "open"
    if deed == "red":
        site.set_status(pull.head, "failure")
    elif deed == "reopen" and not is_open and not pull.is_merged:
        site.reopen(pull.number)
    elif is_open and deed == "push":
        site.push(pull.branch)
    elif is_open and deed in {"close", "merge"}:
        {"close": site.close, "merge": site.merge}[deed](pull.number)
    elif is_open and deed != "reopen":
        site.review(pull.number, deed, "I say so.")


async def nothing(_):
    """Let every webhook be lost."""


def thrice(shuffle):
    """Return webhooks that come three times each, in any order, those of before among them."""
    sent = []

    async def hint(scene):
        sent.extend((number, f"d-{len(sent)}") for number in scene.site.pulls)
        late = sent * 3
        shuffle.shuffle(late)
        for number, delivery in late:
            scene.webhooks(number, delivery=delivery)
            await turns(3)

    return hint


async def a_restart(scene):
    await scene.restart()


async def an_outage(scene):
    scene.forges.away = True
    await scene.pass_time(timedelta(minutes=10), step=timedelta(minutes=1))
    scene.forges.away = False
