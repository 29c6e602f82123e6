from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reconciler.core import events
from reconciler.core.adapter import Usage
from reconciler.core.errors import IllegalTransition
from reconciler.core.events import (
    Assigned,
    BranchTouched,
    Cancelled,
    ChangesRequested,
    Completed,
    Created,
    Escalated,
    Event,
    Failed,
    FixRequested,
    Origin,
    PullRequestOpened,
    Released,
    Removed,
    Renamed,
    Renewed,
    Reopened,
    Reported,
    Restored,
    Retried,
    RunEvent,
    Scheduled,
    SpecChanged,
    SpecRemoved,
    Started,
    Submitted,
    WaitingChanged,
)
from reconciler.core.lifecycle import TRANSITIONS, diagram, fold, step, transition
from reconciler.core.model.runs import Check, Claim, FailureClass, Report, ReviewNote, Verdict
from reconciler.core.model.specs import Task
from reconciler.core.model.status import Failure, OnHost, Phase, PullRequest, Reason, Status, Waiting
from tests.fakes import make_task
from tests.statuses import make_status
from tests.strategies import NOW, PULL, RED, SUCCESS, sample_events

LATER = NOW + timedelta(minutes=1)
SPEC = Task(name="web/a", goal="Do it.\nWell.", generation="1" * 40, work="w1", on_delete="finish")
RUN = "web/a.g11111111.a1"
USAGE = Usage(input_tokens=10, cost_usd=0.5)
PULL_SAYS = {Completed, Cancelled, Reopened}
NOTE = ReviewNote(author="alice", text="Rename it.")
FAILURE = Failure(kind=FailureClass.AGENT, message="no")
KINDS = list(sample_events("x", None))
EVERYWHERE = {WaitingChanged, Renamed, SpecRemoved, Restored, Removed}

# --- The table -------------------------------------------------------------


def test_the_table_knows_every_event_and_every_phase():
    abstract = {Event, RunEvent}
    declared = {
        kind
        for kind in vars(events).values()
        if isinstance(kind, type) and issubclass(kind, Event) and kind not in abstract
    }

    known = {kind for row in TRANSITIONS.values() for kind in row}

    assert known == declared == set(KINDS)
    assert set(TRANSITIONS) == {None, *Phase}


@pytest.mark.parametrize("phase", [None, *Phase])
@pytest.mark.parametrize("kind", KINDS)
def test_an_event_happens_where_the_table_says_and_nowhere_else(phase, kind):
    removed = kind is Removed
    held = {"assigned_host": None, "assigned_agent": "jeeves", "request_key": "k1"}
    asked = {"questions": [{"id": "q1-1", "text": "Which one?", "asked_at": NOW}]}
    fields = {"removed": removed, "pull_request": PULL, **asked, **(held if kind is Reported else {})}
    status = None if phase is None else status_in(phase, **fields)
    event = sample_events("web/a", status)[kind]

    if kind in TRANSITIONS[phase]:
        after = transition(status, event)
        assert (after.phase if after else None) == TRANSITIONS[phase][kind]
    else:
        with pytest.raises(IllegalTransition, match=kind.__name__):
            transition(status, event)


def test_only_of_a_run_that_a_worker_has_there_is_a_report():
    reported = Reported(**head(), run=RUN, claim=Claim(outcome="completed"))

    with pytest.raises(IllegalTransition, match="no worker has it"):
        transition(status_in(Phase.RUNNING), reported)


def test_a_run_is_on_a_host_or_at_a_worker_and_never_both():
    with pytest.raises(ValidationError, match="holder"):
        status_in(Phase.RUNNING, assigned_agent="jeeves", request_key="k1")


def without_a_run(phase):
    return {"phase": phase, "since": NOW, "created_at": NOW, "generation": "1" * 40, "work": "w"}


@pytest.mark.parametrize("phase", Phase)
def test_a_phase_that_only_a_run_leads_to_is_no_status_without_one(phase):
    reached = {Phase.ASSIGNED, Phase.RUNNING, Phase.REVIEW_PENDING, Phase.COMPLETED, Phase.FAILED}

    if phase in reached:
        with pytest.raises(ValidationError, match="no run"):
            Status(**without_a_run(phase))
    else:
        assert Status(**without_a_run(phase)).run is None


@pytest.mark.parametrize(
    "part",
    [
        {"round": 2},
        {"assigned_host": "alpha"},
        {"assigned_agent": "jeeves", "request_key": "k1"},
        {"branch_name": "task/a"},
        {"run": "a.g1.a1"},
        {"run": "a.g1.a1", "round": 1, "branch_name": "task/a", "pr_title": "Do it."},
    ],
)
def test_what_belongs_to_a_run_is_no_status_without_the_rest_of_it(part):
    with pytest.raises(ValidationError, match="run"):
        Status(**without_a_run(Phase.CREATED), **part)


def test_every_phase_can_be_reached_and_left():
    reached = {phase for row in TRANSITIONS.values() for phase in row.values()}

    assert reached == {None, *Phase}
    assert all(set(TRANSITIONS[phase].values()) - {phase} for phase in TRANSITIONS)


def test_what_is_settled_moves_only_when_it_is_asked_for_again_or_its_pull_request_says_so():
    for phase in Phase:
        if phase.is_settled:
            moves = {kind for kind, to in TRANSITIONS[phase].items() if to not in {phase, None}}
            assert Renewed in moves
            assert moves <= {Renewed, *PULL_SAYS}


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase.is_settled or phase is Phase.CREATED])
@pytest.mark.parametrize("kind", [Completed, Cancelled, Reopened, BranchTouched])
def test_without_a_pull_request_there_is_nobody_to_say_so(phase, kind):
    status = status_in(phase)
    is_by_spec = phase is Phase.CREATED and kind is Cancelled

    if kind in TRANSITIONS[phase] and not is_by_spec:
        with pytest.raises(IllegalTransition, match="no pull request"):
            transition(status, sample_events("web/a", status)[kind])


def test_the_diagram_shows_every_edge_of_the_table():
    picture = diagram()

    assert picture.startswith("stateDiagram-v2\n")
    assert "[*] --> created: Created" in picture
    assert "running --> created: QuestionAsked, Released, Retried" in picture
    for phase, row in TRANSITIONS.items():
        for kind, target in row.items():
            if kind not in EVERYWHERE and target is not phase:
                edge = f"{phase or '[*]'} --> {target}: "
                assert any(kind.__name__ in line for line in picture.splitlines() if edge in line)


# --- One step --------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 90)), max_size=30))
def test_whatever_happens_attempts_and_usage_never_go_back_and_since_moves_with_the_phase(line):
    status = None
    for kind, minutes in line:
        at = NOW + timedelta(minutes=minutes)
        event = replace(sample_events("web/a", status)[kind], origin=Origin(at, "it happened"))
        before, status = status, step_if_legal(status, event)
        if before and status:
            assert status.attempt >= before.attempt
            assert status.usage.input_tokens >= before.usage.input_tokens
            assert (status.since == before.since) or status.phase is not before.phase
            assert status.created_at == before.created_at


@given(st.sampled_from(Phase), st.sampled_from([k for k in KINDS if issubclass(k, RunEvent)]))
def test_what_happened_to_another_run_is_illegal(phase, kind):
    status = status_in(phase)
    stale = replace(sample_events("web/a", status)[kind], run="web/a.g11111111.a0")

    with pytest.raises(IllegalTransition):
        transition(status, stale)


def test_a_task_is_born_with_what_it_waits_for():
    waiting = Waiting(reason=Reason.SUSPENDED, message="suspended in the spec", since=NOW)

    status = transition(None, Created(**head(), spec=SPEC, waiting=waiting))

    assert status == make_status(
        phase=Phase.CREATED,
        since=LATER,
        created_at=LATER,
        generation=SPEC.generation,
        work="w1",
        waiting=waiting,
        on_delete="finish",
    )


def test_an_assignment_names_the_run_and_keeps_the_story_of_the_last_failure():
    failure = Failure(kind=FailureClass.STALL, message="silent")
    before = status_in(Phase.CREATED, attempt=1, failure=failure, not_before=NOW, failures=1)

    after = transition(before, assigned(host="beta", run="web/a.g11111111.a2"))

    assert (after.attempt, after.run.round, after.run.key) == (2, 1, "web/a.g11111111.a2")
    assert (after.assigned_host, after.run.adapter) == ("beta", "script")
    assert (after.run.branch, after.run.title) == ("task/web/a", "Do it.")
    assert (after.failure, after.not_before, after.waiting) == (failure, None, None)


@pytest.mark.parametrize(("host", "session"), [("alpha", "s-1"), ("beta", None)])
def test_a_session_is_gone_on_with_only_where_it_is(host, session):
    before = status_in(Phase.CREATED, session_id="s-1", session_totals=USAGE)

    after = transition(before, assigned(host=host))

    assert session_id(after) == session
    assert (after.session.totals if after.session else Usage()) == (USAGE if session else Usage())


def test_a_sign_of_life_is_on_record_with_the_prompt():
    after = transition(status_in(Phase.ASSIGNED), Started(**head(), run=RUN, prompt_sha256="ab"))

    assert (after.phase, after.since, after.last_activity_at) == (Phase.RUNNING, LATER, LATER)
    assert after.prompt_sha256 == "ab"


def test_a_validation_handed_back_is_another_round_of_the_same_run():
    before = status_in(Phase.RUNNING)

    after = transition(before, FixRequested(**head(), run=RUN, report=report(RED)))

    assert (after.run.round, after.run.key, session_id(after)) == (2, RUN, "s-2")
    assert after.checks == RED.checks
    assert after.failure.kind is FailureClass.VALIDATION
    assert after.usage == USAGE


@pytest.mark.parametrize("kind", [Submitted, Completed])
def test_a_success_brings_commits_usage_and_session_and_clears_the_failure(kind):
    before = status_in(Phase.RUNNING, failure=Failure(kind=FailureClass.AGENT, message="no"), base_commit="b")
    run = {"run": RUN} if kind is Submitted else {}

    after = transition(before, kind(**head(), **run, report=report(SUCCESS)))

    assert (after.head_commit, after.base_commit) == ("f" * 40, "b")
    assert (after.usage, session_id(after), after.failure) == (USAGE, "s-2", None)
    assert after.last_activity_at == LATER


def test_a_merge_completes_without_a_report():
    before = status_in(Phase.REVIEW_PENDING, head_commit="h")

    after = transition(before, Completed(**head()))

    assert (after.phase, after.head_commit) == (Phase.COMPLETED, "h")


def test_a_retry_counts_and_does_not_go_on_with_the_session():
    before = status_in(Phase.RUNNING, session_id="s-1")

    after = transition(before, retried())

    assert (after.phase, after.failures, session_id(after)) == (Phase.CREATED, 1, None)
    assert (after.not_before, after.assigned_host) == (LATER, "alpha")


def test_a_quota_counts_as_no_failure_and_keeps_the_session():
    before = status_in(Phase.RUNNING)

    after = transition(before, replace(retried(), counts=False, report=report(SUCCESS)))

    assert (after.failures, session_id(after)) == (0, "s-2")


def test_after_a_quota_the_next_prompt_still_knows_what_validation_had_against_the_work():
    red = (Check(command="make test", exit_code=2, seconds=1.0),)
    before = status_in(Phase.RUNNING).model_copy(update={"checks": red})

    after = transition(before, replace(retried(), counts=False, report=report(SUCCESS)))

    assert after.checks == red


def test_a_released_run_leaves_the_task_as_it_was_but_for_what_it_took():
    before = status_in(Phase.RUNNING)

    after = transition(before, Released(**head(), run=RUN, report=report(SUCCESS)))

    assert (after.phase, after.failures, after.usage) == (Phase.CREATED, 0, USAGE)


def test_a_failure_is_on_record_with_its_class():
    failure = Failure(kind=FailureClass.AUTH, message="log in again")

    after = transition(status_in(Phase.RUNNING), Failed(**head(), run=RUN, failure=failure))

    assert (after.phase, after.failure, after.failures) == (Phase.FAILED, failure, 1)


def test_changes_requested_count_and_resume_the_session():
    before = status_in(Phase.REVIEW_PENDING, session_id="s-1", head_commit="h")

    after = transition(before, ChangesRequested(**head()))

    assert (after.phase, after.review.count) == (Phase.CREATED, 1)
    assert (session_id(after), after.head_commit) == ("s-1", "h")


def test_a_round_of_changes_has_retries_of_its_own_and_knows_what_it_answers():
    before = status_in(Phase.REVIEW_PENDING, failures=1, reviewed=(1,), head_commit="h")

    asked = transition(before, ChangesRequested(**head(), reviewed=(1, 2), head="i", reviews=(NOTE,)))
    by_checks = transition(before, ChangesRequested(**head()))

    assert (asked.failures, asked.review.answered, asked.head_commit, asked.review.notes) == (
        0,
        (1, 2),
        "i",
        (NOTE,),
    )
    assert (by_checks.review.answered, by_checks.head_commit) == ((1,), "h")


def test_what_led_to_a_person_does_not_lead_there_again():
    before = status_in(Phase.REVIEW_PENDING, reviewed=(1,))

    assert transition(before, Escalated(**head(), reviewed=(1, 2))).review.answered == (1, 2)
    assert transition(before, Escalated(**head())).review.answered == (1,)


def test_the_pull_request_is_on_record_until_other_work_is_asked_for():
    opened = transition(status_in(Phase.REVIEW_PENDING), PullRequestOpened(**head(), pull=PULL))

    failed = opened.model_copy(update={"phase": Phase.FAILED, "summary": "done"})
    renewed = transition(failed, Renewed(**head(), spec=SPEC))

    assert (opened.review.pull_request, opened.last_activity_at) == (PULL, LATER)
    assert (renewed.review.pull_request, renewed.summary) == (None, "")


@pytest.mark.parametrize("phase", [Phase.CREATED, Phase.RUNNING, Phase.REVIEW_PENDING])
def test_a_branch_that_somebody_else_pushed_to_waits_for_people(phase):
    before = status_in(phase, pull_request=PULL, head_commit="h")

    after = transition(before, BranchTouched(**head(), head="i", report=report(RED)))

    assert (after.phase, after.head_commit, after.usage) == (Phase.REVIEW_PENDING, "i", USAGE)
    assert after.waiting == waiting(Reason.PERSON, "it happened", LATER)


def test_a_pull_request_that_is_open_again_is_in_review_again():
    before = status_in(Phase.CANCELLED, pull_request=PULL, head_commit="h")

    after = transition(before, Reopened(**head(), head="i"))

    assert (after.phase, after.head_commit) == (Phase.REVIEW_PENDING, "i")


def test_a_closed_pull_request_answers_the_spec_as_it_is_now_but_no_other_work():
    before = status_in(Phase.REVIEW_PENDING, generation="0" * 40)

    same = transition(before, Cancelled(**head(), spec=SPEC))
    other = transition(before, Cancelled(**head(), spec=SPEC.model_copy(update={"work": "w2"})))

    assert (same.generation, same.on_delete) == (SPEC.generation, "finish")
    assert (other.generation, other.work) == ("0" * 40, "w1")


@pytest.mark.parametrize("kind", [Submitted, Completed])
def test_what_the_agent_says_of_its_work_is_on_record_as_far_as_there_is_room(kind):
    before = status_in(Phase.RUNNING, summary="before")
    run = {"run": RUN} if kind is Submitted else {}
    said = SUCCESS.model_copy(update={"verdict": Verdict(outcome="success", text="a\x1b[1m" + "b" * 5000)})

    after = transition(before, kind(**head(), **run, report=said))

    assert after.summary.startswith("abb")
    assert after.summary.endswith("[… 1001 characters left out]")
    assert transition(before, Failed(**head(), run=RUN, failure=FAILURE, report=said)).summary == "before"


def test_an_escalation_may_say_why():
    old, new = (Failure(kind=kind, message="m") for kind in (FailureClass.AGENT, FailureClass.BUDGET))
    before = status_in(Phase.RUNNING, failure=old)

    assert transition(before, Escalated(**head())).failure == old
    assert transition(before, Escalated(**head(), failure=new)).failure == new


def test_a_cancelled_run_still_says_what_it_took():
    after = transition(status_in(Phase.RUNNING), Cancelled(**head(), report=report(SUCCESS)))

    assert (after.phase, after.usage) == (Phase.CANCELLED, USAGE)


def test_a_renewed_task_begins_afresh_but_never_repeats_a_run_key():
    before = status_in(
        Phase.FAILED, attempt=3, failures=2, review_count=1, usage=USAGE, session_id="s", head_commit="h"
    )

    after = transition(before, Renewed(**head(), spec=SPEC.model_copy(update={"work": "w2"})))

    assert (after.phase, after.work, after.failures, after.review.count) == (Phase.CREATED, "w2", 0, 0)
    assert (after.attempt, after.usage, after.head_commit) == (3, USAGE, "h")
    assert (session_id(after), after.failure, after.checks) == (None, None, ())


def test_a_task_goes_on_counting_where_an_earlier_one_of_its_name_ended():
    born = transition(None, Created(**head(), spec=SPEC, attempt=4))
    behind = transition(status_in(Phase.FAILED, attempt=1), Renamed(**head(), old="old", attempt=4))
    ahead = transition(status_in(Phase.FAILED, attempt=7), Renamed(**head(), old="old", attempt=4))

    assert (born.attempt, behind.attempt, ahead.attempt) == (4, 4, 7)


def test_an_assignment_puts_on_record_what_it_takes():
    spec = SPEC.model_copy(update={"slots": 3, "repo": "shop"})
    event = Assigned(**head(), run=RUN, holder=OnHost(host="alpha"), spec=spec)

    after = transition(status_in(Phase.CREATED), event)

    assert (after.run.slots, after.run.repo) == (3, "shop")


@pytest.mark.parametrize("phase", [Phase.CREATED, Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED])
def test_a_due_time_is_on_record_with_the_wait_for_it(phase):
    wait = waiting(Reason.SCHEDULE, "due later", NOW)
    before = status_in(phase, waiting=waiting(Reason.SLOT, "no free slot", NOW))

    after = transition(before, Scheduled(**head(), due_at=LATER, waiting=wait))
    silent = transition(before, Scheduled(**head(), due_at=LATER))

    assert after == before.model_copy(update={"due_at": LATER, "waiting": wait})
    assert silent.waiting == before.waiting


@pytest.mark.parametrize(("due_at", "then"), [(None, None), (LATER + timedelta(days=1), LATER), (NOW, NOW)])
def test_a_task_that_is_asked_for_again_need_not_wait_for_its_due_time(due_at, then):
    before = status_in(Phase.FAILED, due_at=due_at)

    after = transition(before, Renewed(**head(), spec=SPEC))

    assert after.due_at == then


def test_a_new_generation_of_the_same_work_keeps_the_story():
    before = status_in(Phase.CREATED, failures=1, session_id="s", generation="0" * 40)

    after = transition(before, SpecChanged(**head(), spec=SPEC))

    assert (after.generation, after.failures, session_id(after)) == (SPEC.generation, 1, "s")
    assert after.since == before.since


def test_new_work_begins_afresh():
    before = status_in(Phase.CREATED, failures=1, session_id="s", work="older")

    after = transition(before, SpecChanged(**head(), spec=SPEC))

    assert (after.work, after.failures, session_id(after)) == ("w1", 0, None)


@pytest.mark.parametrize("phase", [Phase.ASSIGNED, Phase.RUNNING, Phase.REVIEW_PENDING])
def test_a_live_run_goes_on_answering_the_generation_it_was_made_from(phase):
    before = status_in(phase, generation="0" * 40, work="older", on_delete="cancel")

    after = transition(before, SpecChanged(**head(), spec=SPEC))

    assert after == before.model_copy(update={"on_delete": "finish"})


def test_the_time_of_waiting_moves_only_with_the_reason():
    before = status_in(Phase.CREATED, waiting=waiting(Reason.SLOT, "no free slot on a", NOW))

    same = transition(before, WaitingChanged(**head(), waiting=waiting(Reason.SLOT, "on b", LATER)))
    other = transition(before, WaitingChanged(**head(), waiting=waiting(Reason.HOST, "none", LATER)))
    nothing = transition(before, WaitingChanged(**head(), waiting=None))

    assert same.waiting == waiting(Reason.SLOT, "on b", NOW)
    assert other.waiting.since == LATER
    assert nothing.waiting is None


@pytest.mark.parametrize("reason", [Reason.APPROVAL, Reason.SLOT])
def test_only_a_removal_that_waits_for_a_person_outlives_a_change_of_phase(reason):
    before = status_in(Phase.RUNNING, waiting=waiting(reason, "wait", NOW))

    after = transition(before, Completed(**head()))

    assert after.waiting == (before.waiting if reason is Reason.APPROVAL else None)


@pytest.mark.parametrize("phase", Phase)
def test_a_removed_task_leaves_a_tombstone_that_a_revert_takes_away(phase):
    before = status_in(phase)

    tombstone = transition(before, SpecRemoved(**head()))

    assert tombstone == before.model_copy(update={"removed": True, "waiting": None})
    assert transition(tombstone, Restored(**head())).removed is False
    assert transition(tombstone, Removed(**head())) is None


@pytest.mark.parametrize("kind", [Assigned, Renewed, Scheduled])
def test_nothing_new_begins_on_a_tombstone(kind):
    phase = Phase.FAILED if kind is Renewed else Phase.CREATED
    tombstone = status_in(phase, removed=True)

    with pytest.raises(IllegalTransition, match="removed"):
        transition(tombstone, sample_events("web/a", tombstone)[kind])


@pytest.mark.parametrize("kind", [kind for kind in TRANSITIONS[Phase.COMPLETED] if kind is not Restored])
def test_in_the_archive_nothing_happens_but_that_the_spec_comes_back(kind):
    archived = status_in(Phase.COMPLETED, removed=True, archived=True)

    with pytest.raises(IllegalTransition):
        transition(archived, sample_events("web/a", archived)[kind])
    assert transition(archived, Restored(**head())) == status_in(Phase.COMPLETED)


def test_a_status_whose_spec_is_there_is_not_removed():
    with pytest.raises(IllegalTransition, match="not recorded as removed"):
        transition(status_in(Phase.COMPLETED), Removed(**head()))


# --- Many steps ------------------------------------------------------------


def test_fold_returns_every_step_and_leaves_what_it_was_given_alone():
    before = {"other": status_in(Phase.COMPLETED)}

    after, steps = fold(before, [Created(**head(), spec=SPEC), assigned()])

    assert list(before) == ["other"]
    assert after.keys() == {"other", "web/a"}
    assert [(s.before and s.before.phase, s.after.phase) for s in steps] == [
        (None, Phase.CREATED),
        (Phase.CREATED, Phase.ASSIGNED),
    ]
    assert steps[1].old == steps[1].task == "web/a"


def test_an_event_that_changes_nothing_is_no_step():
    before = {"web/a": status_in(Phase.CREATED)}

    after, steps = fold(before, [WaitingChanged(**head(), waiting=None)])

    assert after == before
    assert steps == []


def test_a_rename_moves_the_status_and_says_from_where():
    status = status_in(Phase.RUNNING)

    after, (renamed,) = fold({"old": status}, [Renamed(**head(), old="old")])

    assert after == {"web/a": status}
    assert (renamed.old, renamed.task, renamed.before, renamed.after) == ("old", "web/a", status, status)


def test_a_rename_never_overwrites_another_task():
    statuses = {"old": status_in(Phase.RUNNING), "web/a": status_in(Phase.CREATED)}

    with pytest.raises(IllegalTransition, match="there is a status of web/a"):
        step(statuses, Renamed(**head(), old="old"))


def test_a_removal_takes_the_status_away():
    after, (removed,) = fold({"web/a": status_in(Phase.FAILED, removed=True)}, [Removed(**head())])

    assert after == {}
    assert removed.after is None


def test_an_illegal_event_among_others_changes_nothing():
    before = {"web/a": status_in(Phase.CREATED)}

    with pytest.raises(IllegalTransition):
        fold(before, [assigned(), Created(**head(), spec=SPEC)])

    assert before == {"web/a": status_in(Phase.CREATED)}


# --- Words -----------------------------------------------------------------


def status_in(phase, **fields):
    """Return a status in this phase, of the first run on alpha."""
    return make_status(
        **{
            "phase": phase,
            "since": NOW,
            "created_at": NOW,
            "generation": SPEC.generation,
            "work": "w1",
            "attempt": 1,
            "round": 1,
            "run": RUN,
            "assigned_host": "alpha",
            "adapter": "script",
            **fields,
        }
    )


def head():
    return {"task": "web/a", "origin": Origin(LATER, "it happened")}


def assigned(host="alpha", run="web/a.g11111111.a2"):
    return Assigned(**head(), run=run, holder=OnHost(host=host), spec=SPEC)


def retried():
    failure = Failure(kind=FailureClass.AGENT, message="did not work")
    return Retried(**head(), run=RUN, failure=failure, report=None, not_before=LATER)


def session_id(status):
    return status.session.id if status.session else None


def waiting(reason, message, since):
    return Waiting(reason=reason, message=message, since=since)


def report(like):
    """Return the report with what an agent's CLI tells of its session."""
    verdict = Verdict(outcome="success", session_id="s-2", usage=USAGE)
    return Report(verdict=verdict, checks=like.checks, head_commit=like.head_commit)


def step_if_legal(status, event):
    try:
        return transition(status, event)
    except IllegalTransition:
        return status


@pytest.mark.parametrize(
    ("again", "status", "goes_on"),
    [
        ({"rerun": 1}, {}, True),
        ({"rerun": 1, "goal": "Something else."}, {}, False),
        ({"rerun": 1}, {"phase": Phase.FAILED}, False),
        ({"rerun": 1}, {"pull_request": None}, False),
        ({"rerun": 1}, {"reviews": ()}, False),
    ],
)
def test_who_allows_more_review_rounds_lets_the_agent_go_on_with_what_was_asked_for(again, status, goes_on):
    spec = make_task("a")
    asked = (ReviewNote(author="reviewer", text="Mend it."),)
    pull = PullRequest(number=1, url="https://example.org/1")
    fields = {"phase": Phase.ESCALATED, "reviews": asked, "pull_request": pull, "review_count": 3, **status}
    before = make_status(
        since=NOW, created_at=NOW, generation=spec.generation, work=spec.work, session_id="s", **fields
    )

    after = transition(before, Renewed(**head(), spec=make_task("a", **again)))

    assert (after.review.count, session_id(after)) == ((1, "s") if goes_on else (0, None))
    assert (after.review.notes, after.review.pull_request) == ((asked, pull) if goes_on else ((), None))
