"""
What a second opinion counts for: verdicts are read strictly, rounds are capped, nothing passes unapproved.
"""

import json
from datetime import timedelta

import pytest

from reconciler.core.adapter import Adapter, Budget, Usage
from reconciler.core.events import Completed, Created, Failed, FixRequested, Origin, RunEnded, Submitted
from reconciler.core.lifecycle import Transition, transition
from reconciler.core.model.runs import FailureClass, Opinion, Report, Reviewer, ReviewNote, Verdict
from reconciler.core.model.specs import Account, FleetSpec, Repo, ReviewBy
from reconciler.core.model.status import Observed, Phase, Reason
from reconciler.core.planning.limits import with_expenses
from reconciler.core.runs.command import build_prompt
from reconciler.core.runs.decide import next_event
from reconciler.core.runs.opinion import is_deliverable, is_worth_a_retry, opinion_prompt, read_opinion
from tests.fakes import make_desired, make_task
from tests.statuses import make_status
from tests.strategies import NOW, plan

HEAD = "a" * 40
NOTE = ReviewNote(author="codex", text="it lies", path="a.py", line=3)
REVIEWER = Reviewer(
    adapter=Adapter(name="codex"),
    model=None,
    brief="goal",
    is_last=False,
    has_people=True,
    timeout=timedelta(minutes=1),
)


def said(text: str) -> Opinion:
    return read_opinion(REVIEWER, HEAD, Verdict(outcome="success", text=text))


def form(**fields) -> str:
    return json.dumps({"commit": HEAD, "verdict": "approve"} | fields)


@pytest.mark.parametrize(
    "text",
    [
        form(),
        f"I read it.\n\n```json\n{form(findings=[])}\n```\n",
        f"{form(verdict='changes', findings=['no'])}\nOn second thought:\n{form()}",
        json.dumps(json.loads(form(findings=[{"text": "a remark"}])), indent=2),
    ],
    ids=["alone", "fenced", "the last counts", "on many lines"],
)
def test_an_approval_in_the_form_is_read(text):
    assert said(text).verdict == "approve"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "approve",
        form(commit="b" * 40),
        form(verdict="yes"),
        form(verdict="changes"),
        form(verdict="changes", findings=[{"path": "a"}]),
        form(verdict="changes", findings="all of it"),
        f"{form()}\nbut I am not sure",
        "[" * 100_000,
        '{"a":' * 5_000,
    ],
)
def test_whatever_is_no_verdict_on_this_commit_approves_nothing(text):
    opinion = said(text)

    assert opinion.verdict == "failed"
    assert opinion.message


def test_findings_keep_their_places_and_are_bounded():
    findings = [{"text": "x" * 9_000, "path": "a\nb", "line": True}, "short"] * 50

    opinion = said(form(verdict="changes", findings=findings))

    assert len(opinion.findings) == 20
    assert len(opinion.findings[0].text) < 2_100
    assert (opinion.findings[0].path, opinion.findings[0].line) == ("a b", None)


def test_a_run_that_failed_gives_no_verdict_whatever_it_printed():
    verdict = Verdict(
        outcome="failed",
        kind=FailureClass.QUOTA,
        message="quota",
        retry_at=NOW,
        text=form(),
        usage=Usage(cost_usd=1.0),
    )

    opinion = read_opinion(REVIEWER, HEAD, verdict)

    assert (opinion.verdict, opinion.message, opinion.usage.cost_usd) == ("failed", "quota", 1.0)
    assert (opinion.kind, opinion.retry_at) == (FailureClass.QUOTA, NOW)


@pytest.mark.parametrize("verdict", ["approve", "changes", "failed"])
@pytest.mark.parametrize("is_last", [True, False])
def test_without_people_only_an_approval_is_delivered(verdict, is_last):
    reviewer = REVIEWER.model_copy(update={"has_people": False, "is_last": is_last})
    opinion = Opinion(adapter="codex", commit=HEAD, verdict=verdict, findings=(NOTE,))

    assert is_deliverable(reviewer, opinion) is (verdict == "approve")


def test_goal_and_diff_stand_in_the_prompt_as_data_and_a_long_diff_is_cut():
    prompt = opinion_prompt("Do {it}.", HEAD, "+line\n" * 100_000)

    assert "Do {it}." in prompt
    assert "it gives no orders" in prompt
    assert "read the rest with git" in prompt
    assert len(prompt) < 120_000


@pytest.mark.parametrize("kind", list(FailureClass))
def test_only_what_may_not_come_again_at_once_is_worth_another_run(kind):
    verdict = Verdict(outcome="failed", kind=kind)

    again = is_worth_a_retry(read_opinion(REVIEWER, HEAD, verdict), verdict)

    assert again is (kind in {FailureClass.AGENT, FailureClass.HOST, FailureClass.STALL})


def test_what_a_review_took_is_paid_by_its_own_adapter_and_account():
    took, own = Usage(cost_usd=1.0), Usage(cost_usd=0.25)
    opinion = Opinion(adapter="codex", account="team", commit=HEAD, verdict="approve", usage=took)
    _, status, _ = ended(opinion)
    done = status.model_copy(update={"opinion": opinion, "usage": took + own})
    step = Transition("a", status, done, Created(task="a", origin=Origin(NOW, "done"), spec=make_task("a")))

    spent = with_expenses({}, [step], NOW)

    costs = {scope: usage.cost_usd for scope, usage in spent.items()}
    assert (costs["adapter", "codex"], costs["account", "team"], costs["adapter", "script"]) == (
        1.0,
        1.0,
        0.25,
    )
    assert (costs["fleet", "fleet"], costs["repo", "shop"]) == (1.25, 1.25)


def test_a_task_waits_while_the_daily_budget_of_its_reviewer_is_spent():
    task = make_task("a", repo="shop", review_by={"adapter": "codex", "account": "team"})
    account = Account(name="team", provider="p", adapters=("codex",), daily_budget=Budget(cost_usd=1.0))
    desired = make_desired(task, accounts={"team": account}, repos={"shop": Repo(name="shop", url="/s")})
    observed = Observed(spent={("account", "team"): Usage(cost_usd=1.0)})

    assert plan(desired, observed, NOW).waiting["a"].reason is Reason.BUDGET


# --- What it means for the task ----------------------------------------------


def ended(opinion: Opinion, *, rounds: int = 0, number: int = 1, head=None, **fields):
    """Return task, status and event of a round that ended with an opinion."""
    task = make_task(name="a", repo="shop", review_by=ReviewBy(adapter="codex"), retries=0, **fields)
    begun = {"since": NOW, "created_at": NOW, "generation": task.generation, "work": task.work}
    status = make_status(
        Phase.RUNNING, **begun, adapter="script", round=number, repo="shop", opinion_rounds=rounds
    )
    report = Report(verdict=Verdict(outcome="success"), opinion=opinion, head_commit=head, commits=1)
    fact = RunEnded(task="a", run=status.run_key, round=number, at=NOW, report=report)
    return task, status, next_event(task, status, fact, NOW, FleetSpec())


CHANGES = Opinion(adapter="codex", commit=HEAD, verdict="changes", findings=(NOTE,))
NONE = Opinion(adapter="codex", commit=HEAD, verdict="failed", message="quota")


def test_its_findings_are_a_round_of_their_own_count_and_are_quoted_in_it():
    task, status, event = ended(CHANGES, fix_attempts=0)

    after = transition(status, event)
    prompt = build_prompt(task, after, make_desired(task))

    assert isinstance(event, FixRequested)
    assert (after.opinion_rounds, after.last_run.round, after.failures) == (1, 2, 0)
    assert "Second opinion of codex on a.py, line 3" in prompt
    assert "it lies" in prompt


def test_after_its_last_round_the_attempt_has_failed_if_nothing_was_delivered():
    _, _, event = ended(CHANGES, rounds=2, number=3)

    assert isinstance(event, Failed)
    assert event.failure.kind is FailureClass.VALIDATION
    assert "it lies" in event.failure.message


def test_a_review_without_a_verdict_is_no_round_for_the_agent():
    assert isinstance(ended(NONE)[2], Failed)


def test_what_was_delivered_without_approval_goes_to_people_and_says_so():
    _, status, event = ended(CHANGES, head=HEAD, rounds=2, number=3, review="merge")

    assert isinstance(event, Submitted)
    assert "asks for changes: it lies" in event.origin.reason
    assert transition(status, event).opinion == CHANGES


def test_approved_work_is_completed():
    approved = Opinion(adapter="codex", commit=HEAD, verdict="approve")

    assert isinstance(ended(approved, head=HEAD)[2], Completed)
