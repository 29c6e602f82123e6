import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.adapter import Secret, Usage
from reconciler.core.forge.presentation import MOST_CHECKS, desired_view, is_shown, issue_number
from reconciler.core.model.forge import PullRequestSnapshot
from reconciler.core.model.runs import Check, FailureClass
from reconciler.core.model.specs import Forge, Repo, Task
from reconciler.core.model.status import (
    Failure,
    HostCli,
    HostStatus,
    Phase,
    PullRequest,
    Reason,
    Waiting,
)
from tests.statuses import make_status

NOW = datetime(2030, 1, 1, 9, 0, tzinfo=UTC)
HEAD = "a" * 40
FORGE = Forge(api="https://code.example.org/api/v1", repo="tools/shop", token=Secret(env="TOKEN"))
REPO = Repo(
    name="shop",
    url="r.git",
    base="trunk",
    forge=FORGE,
    labels=("bot",),
    reviewers=("alice",),
    draft=True,
    merge="when_green",
    merge_style="squash",
)
KNOWN = PullRequest(number=12, url="https://code.example.org/tools/shop/pulls/12")
PAUSED = Waiting(reason=Reason.PERSON, message="alice pushed bbbbbbbb", since=NOW)
WHY = Failure(kind=FailureClass.AGENT, message="too many rounds, @all")
GREEN = PullRequestSnapshot(
    number=12,
    url=KNOWN.url,
    title="",
    body="",
    author="bot",
    branch="task/a",
    base="trunk",
    head=HEAD,
    mergeable=True,
    checks="success",
    updated_at=NOW,
)


# --- The pull request ------------------------------------------------------


def test_delivered_work_wants_a_pull_request():
    shown = wanted(a_status(pull_request=None))

    assert shown.opens
    assert (shown.branch, shown.base, shown.title) == ("task/a", "trunk", "Mend it")
    assert (shown.is_draft, shown.labels, shown.reviewers) == (True, ("bot",), ("alice",))
    assert (shown.phase, shown.merge_style, shown.merges) == ("review_pending", "squash", None)
    assert (shown.issue, shown.issue_notes, shown.closes_issue) == (None, (), False)


@pytest.mark.parametrize("phase", Phase)
def test_a_pull_request_is_opened_only_for_what_waits_for_review_without_one(phase):
    assert not wanted(a_status(phase)).opens
    without = wanted(a_status(phase, pull_request=None))
    assert (without is not None and without.opens) is (phase is Phase.REVIEW_PENDING)


def test_what_is_shown_is_the_same_as_long_as_the_record_is():
    assert wanted(a_status()) == wanted(a_status())


def test_the_body_says_what_was_asked_what_was_done_and_how():
    status = a_status(
        attempt=2,
        review_count=1,
        summary="I mended it.",
        checks=(Check(command="make test", exit_code=0, seconds=1.0),),
        adapter="claude-code",
        model="opus",
        assigned_host="alpha",
        usage=Usage(input_tokens=12345, cached_tokens=9, output_tokens=67, cost_usd=0.123),
    )
    host = HostStatus(reachable=True, since=NOW, adapters={"claude-code": HostCli(ok=True, version="2.1.0")})

    body = wanted(status, a_task(issue="7"), host=host, address="https://fleet.example.org/tasks/a").body

    for text in (
        "## Goal\n\n```text\nMend it.\n\nAll of it.\n```",
        "It answers issue #7.",
        "The agent says:\n\n```text\nI mended it.\n```",
        "- `make test` passed",
        "- Adapter: `claude-code 2.1.0`",
        "- Model: `opus`",
        "- Host: `alpha`",
        "- Attempt: 2; review rounds: 1 of 3",
        "- Tokens: 12,345 in, 9 cached, 67 out; cost: 0.12 USD",
        "[Task a](https://fleet.example.org/tasks/a)",
    ):
        assert text in body


NO_RUN = dict.fromkeys(("run", "round", "assigned_host", "adapter", "branch_name", "pr_title"))


def test_a_body_without_facts_has_no_empty_parts():
    body = wanted(a_status(Phase.ESCALATED, **NO_RUN)).body

    for text in ("What was done", "Validation", "issue", "Adapter", "Model", "Host", "[Task"):
        assert text not in body


def test_an_outside_agent_is_named_in_place_of_an_adapter():
    body = wanted(a_status(assigned_agent="jeeves", request_key="k1", assigned_host=None)).body

    assert "- Agent: `jeeves`" in body
    assert "Adapter" not in body


def test_a_failed_validation_is_shown_with_the_end_of_its_output():
    green = Check(command="true", exit_code=0, seconds=1.0)
    red = Check(command="make test", exit_code=2, seconds=1.0, output="boom")

    body = wanted(a_status(checks=(red, *[green] * MOST_CHECKS))).body

    assert "- `make test` failed with exit code 2" in body
    assert "- and 1 more" in body
    assert "```text\nboom\n```" in body


@given(st.text(alphabet="`~<!->@#\n aCloses1\x1b"))
def test_nothing_that_others_wrote_has_an_effect_in_markdown(text):
    status = a_status(summary=f"x{text}", model=f"x{text}", failure=WHY.model_copy(update={"message": text}))
    status = status.model_copy(
        update={"checks": (Check(command=f"x{text}", exit_code=1, seconds=1.0, output=text),)}
    )
    task = a_task(goal=f"x{text}")

    shown = wanted(status.model_copy(update={"phase": Phase.ESCALATED}), task)

    for written in (shown.body, shown.notes[0].text):
        outside = without_code(written)
        assert "@" not in outside
        assert "#1" not in outside
        assert "<!--" not in written


@pytest.mark.parametrize(
    ("phase", "state"),
    [
        (Phase.CREATED, "pending"),
        (Phase.ASSIGNED, "pending"),
        (Phase.RUNNING, "pending"),
        (Phase.REVIEW_PENDING, "pending"),
        (Phase.COMPLETED, "success"),
        (Phase.FAILED, "failure"),
        (Phase.CANCELLED, "failure"),
        (Phase.ESCALATED, "failure"),
    ],
)
def test_a_light_on_the_head_says_how_it_is_going(phase, state):
    shown = wanted(a_status(phase), address="https://fleet.example.org")

    assert (shown.commit_status.commit, shown.commit_status.state) == (HEAD, state)
    assert (shown.commit_status.url, shown.phase) == ("https://fleet.example.org", phase)


@pytest.mark.parametrize(
    ("status", "key", "text"),
    [
        ({"phase": Phase.ESCALATED, "failure": WHY}, "escalated:1.0", "too many rounds"),
        ({"phase": Phase.ESCALATED}, "escalated:1.0", "a person must act"),
        ({"phase": Phase.FAILED, "failure": WHY}, "failed:1.0", "`reconciler retry a`"),
        ({"waiting": PAUSED}, "paused:aaaaaaaaaaaa", "alice pushed bbbbbbbb"),
    ],
)
def test_people_at_the_pull_request_are_told_what_they_must_know(status, key, text):
    (note,) = wanted(a_status(**{"phase": Phase.REVIEW_PENDING, **status})).notes

    assert note.key == key
    assert text in note.text
    assert re.fullmatch(r"[A-Za-z0-9._/:-]+", note.key)


def test_what_people_are_told_leads_to_the_page_of_the_task_where_there_is_one():
    address = "https://fleet.example.org/tasks/a"

    shown = wanted(a_status(Phase.FAILED, failure=WHY), a_task(issue="7"), address=address)

    assert [note.text.endswith(f"[Task a]({address})") for note in (*shown.notes, *shown.issue_notes)] == [
        True,
        True,
    ]


@pytest.mark.parametrize("phase", [Phase.REVIEW_PENDING, Phase.RUNNING, Phase.COMPLETED, Phase.CANCELLED])
def test_there_is_nothing_to_tell_while_it_goes_as_it_should(phase):
    assert wanted(a_status(phase)).notes == ()


def test_what_may_be_merged_is_merged_as_it_was_delivered():
    assert wanted(a_status(), pull=GREEN).merges == HEAD
    assert wanted(a_status(waiting=PAUSED), pull=GREEN).merges is None
    assert wanted(a_status(), a_task(review="merge", issue="7"), pull=GREEN).merges is None


# --- Issues ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("issue", "number"),
    [
        (None, None),
        ("12", 12),
        ("#12", 12),
        ("https://code.example.org/tools/shop/issues/12", 12),
        ("https://code.example.org/tools/shop/issues/12/", 12),
        ("https://code.example.org/tools/other/issues/12", None),
        ("https://code.example.org/tools/shop/pulls/12", None),
        ("twelve", None),
        ("0", None),
    ],
)
def test_an_issue_is_named_by_number_or_address(issue, number):
    assert issue_number(a_task(issue=issue), REPO) == number
    assert issue_number(a_task(issue=issue), REPO.model_copy(update={"forge": None})) is None


@pytest.mark.parametrize("phase", [Phase.CREATED, Phase.ASSIGNED, Phase.RUNNING, Phase.REVIEW_PENDING])
def test_an_issue_shows_the_phase_of_its_task_before_there_is_a_pull_request(phase):
    shown = wanted(a_status(phase, pull_request=None, head_commit=None), a_task(review="none", issue="7"))

    assert (shown.issue, shown.phase, shown.issue_notes, shown.closes_issue) == (7, phase, (), False)
    assert (shown.opens, shown.commit_status, shown.notes) == (False, None, ())


def test_an_issue_is_told_how_its_task_ended_and_closed_when_it_is_done():
    task = a_task(issue="7")
    ends = {
        phase: wanted(a_status(phase, failure=WHY, summary="I mended it."), task)
        for phase in Phase
        if phase.is_settled
    }

    assert [phase for phase, shown in ends.items() if shown.closes_issue] == [Phase.COMPLETED]
    assert {shown.issue_notes[0].key for shown in ends.values()} == {f"{phase}:1.0" for phase in ends}
    done, failed = (ends[phase].issue_notes[0].text for phase in (Phase.COMPLETED, Phase.FAILED))
    assert "completed in pull request #12" in done
    assert "```text\nI mended it.\n```" in done
    assert "```text\ntoo many rounds, @all\n```" in failed


def test_without_a_pull_request_and_without_words_the_end_is_told_all_the_same():
    shown = wanted(a_status(Phase.COMPLETED, pull_request=None), a_task(review="none", issue="7"))

    assert [note.text for note in shown.issue_notes] == ["Task `a` is completed."]


# --- Nothing to show -------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "status", "expected"),
    [
        ({}, {}, True),
        ({}, {"phase": Phase.RUNNING}, True),
        ({}, {"phase": Phase.RUNNING, "pull_request": None}, False),
        ({}, {"removed": True}, False),
        ({"review": "merge"}, {}, False),
        ({"review": "merge", "issue": "7"}, {}, True),
        ({"issue": "7"}, {"phase": Phase.CREATED, "pull_request": None, "head_commit": None}, True),
    ],
)
def test_a_task_is_shown_if_it_has_a_pull_request_or_an_issue(task, status, expected):
    task, status = a_task(**task), a_status(**{"phase": Phase.REVIEW_PENDING, **status})

    assert is_shown(task, status) is expected
    if not status.removed:
        assert (wanted(status, task) is not None) is expected


def test_a_repo_without_a_forge_shows_nothing():
    repo = REPO.model_copy(update={"forge": None})

    assert desired_view(a_task(), a_status(), repo, bot="bot") is None


# --- Words -----------------------------------------------------------------


def wanted(status, task=None, **more):
    pull = more.pop("pull", None)
    return desired_view(task or a_task(), status, REPO, pull, bot="bot", **more)


def without_code(markdown):
    """Return what stands outside of blocks and spans of code, as CommonMark reads them."""
    lines, fence = [], ""
    for line in markdown.split("\n"):
        if fence:
            fence = "" if line == fence else fence
        elif opened := re.match(r"`{3,}(?=text$)", line):
            fence = opened[0]
        else:
            lines.append(line)
    return re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", "\n".join(lines))


def a_task(**fields):
    spec = {
        "name": "a",
        "generation": "1" * 40,
        "work": "w1",
        "goal": "Mend it.\n\nAll of it.",
        "repo": "shop",
    }
    return Task(**{**spec, "review": "pull_request", **fields})


def a_status(phase=Phase.REVIEW_PENDING, **fields):
    return make_status(
        **{
            "phase": phase,
            "since": NOW,
            "created_at": NOW,
            "generation": "1" * 40,
            "work": "w1",
            "attempt": 1,
            "round": 1,
            "run": "a.g11111111.a1",
            "assigned_host": "alpha",
            "adapter": "script",
            "branch_name": "task/a",
            "pr_title": "Mend it",
            "head_commit": HEAD,
            "pull_request": KNOWN,
            **fields,
        }
    )


# --- Questions -------------------------------------------------------------

ASKED = {"questions": [{"id": "q1-1", "text": "Which one, @all?", "asked_at": NOW}]}


def test_a_question_stands_on_the_pull_request_where_there_is_one():
    waiting = Waiting(reason=Reason.PERSON, message="asks (q1-1): Which one, @all?", since=NOW)

    shown = wanted(a_status(Phase.CREATED, pull_request=KNOWN, waiting=waiting, **ASKED), a_task(issue="7"))

    [note] = shown.notes
    assert note.key == "question:q1-1"
    assert "```text\nWhich one, @all?\n```" in note.text
    assert "/agent answer q1-1" in note.text
    assert shown.issue_notes == ()


def test_a_question_stands_on_the_issue_before_there_is_a_pull_request():
    shown = wanted(a_status(Phase.CREATED, pull_request=None, head_commit=None, **ASKED), a_task(issue="7"))

    assert [note.key for note in shown.issue_notes] == ["question:q1-1"]
    assert shown.notes == ()


def test_an_answered_question_is_posted_nowhere_anew():
    done = {"questions": [{**ASKED["questions"][0], "answer": "B", "answered_by": "ann", "answered_at": NOW}]}

    shown = wanted(a_status(Phase.CREATED, pull_request=KNOWN, **done), a_task(issue="7"))

    assert (shown.notes, shown.issue_notes) == ((), ())
