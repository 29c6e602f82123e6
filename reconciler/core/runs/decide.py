"""
What a finished round means for its task.

The agent's verdict, the validation and what the spec wants now decide; the
answer is an event of the lifecycle.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from reconciler.core.adapter import overspent
from reconciler.core.events import (
    BranchTouched,
    Cancelled,
    Completed,
    Escalated,
    Event,
    Failed,
    FixRequested,
    Origin,
    QuestionAsked,
    Released,
    Retried,
    RunEnded,
    Submitted,
    VariantChosen,
)
from reconciler.core.model.runs import Declaration, FailureClass, Report, RunMode, Verdict
from reconciler.core.model.specs import DesiredState, FleetSpec, Task, TaskDefaults
from reconciler.core.model.status import Failure, Run, Status, VariantChoice
from reconciler.core.plans import MOST_PLANS
from reconciler.core.runs.accounts import quota_end
from reconciler.core.runs.judging import read_choice
from reconciler.core.text import one_line
from reconciler.core.times import format_time
from reconciler.core.variants import choice_question

MOST_FAILED_STARTS = 10
"""Starts in a row that may fail by a fault of hosts before the next one counts as a failed attempt."""

UNCOUNTED = 20
"""
Most attempts in a row that may end without counting as a failure. With waits
that nobody named that is four days of a quota that is never full again.
"""

MOST_QUESTIONS = 10
"""Questions that an agent may ask about one piece of work before a person must look at it."""

_NO_PLAN = "the agent was to make a plan, and its last words hold none"
_FORGOTTEN = TaskDefaults(retries=0, fix_attempts=0)
"""Terms of a run whose spec is lost: nothing is started for it any more."""


def next_event(
    task: Task | None,
    status: Status,
    ended: RunEnded,
    now: datetime,
    fleet: FleetSpec,
    *,
    account: str | None = None,
) -> Event | None:
    """
    Return what the end of a round means; None if the round is not the task's current one.

    `task` is what the spec wants now, or wanted last; None if that is lost. `account` is that of
    the run, if it has one: a quota is a limit of the account, and the task may take another.
    """
    run = status.live_run
    if run is None or run.round_key != (ended.run, ended.round):
        return None
    case = _EndedRound(task, status, run, ended, now, fleet, account)
    if is_unwanted(task, status):
        return Cancelled(
            task=case.name,
            origin=case.origin("the run ended after its task was cancelled or removed"),
            report=case.report,
        )
    if status.review.pull_request and case.report.touched:
        return _touched(case, case.report.touched)
    if declared := case.report.declared:
        return _DECLARED[declared.kind](case, declared)
    if failure := case.failure():
        return _DECISIONS[failure.kind](case, failure)
    return _SUCCESSES[case.live.mode](case)


def is_unwanted(task: Task | None, status: Status) -> bool:
    """Return whether whatever the run brings comes too late."""
    if status.removed:
        return status.on_delete == "cancel"
    return task is not None and task.desired is DesiredState.CANCELLED


def may_declare(verdict: Verdict) -> bool:
    """Return whether what the agent of a round declared counts: not if something else ended the round."""
    return verdict.outcome == "success" or verdict.kind is FailureClass.AGENT


def host_lost(task: Task, status: Status, message: str, now: datetime, fleet: FleetSpec) -> Event:
    """
    Return what it means that the host of a live run is given up.

    Nothing is known of the run, so nothing of it is recorded. Should it bring
    something after all, that is not the task's current run any more.
    """
    origin = Origin(now, one_line(message), "clock")
    run, failure = status.last_run.key, Failure(kind=FailureClass.HOST, message=one_line(message))
    if is_unwanted(task, status):
        return Cancelled(task=task.name, origin=origin)
    if task.disconnect == "fail" or status.failures >= task.retries:
        return Failed(task=task.name, origin=origin, run=run, failure=failure)
    until = now + _wait(status.failures + 1, run, fleet)
    return Retried(task=task.name, origin=origin, run=run, failure=failure, report=None, not_before=until)


def bounded(event: Retried | Released, status: Status) -> Event:
    """Return an end that counts as no failure, or a failure if there were too many in a row."""
    if status.uncounted < UNCOUNTED:
        return event
    message = (
        f"{event.origin.reason}; {UNCOUNTED + 1} attempts in a row ended in ways that count as no failure, "
        f"and there are no more: see what keeps it, then `reconciler retry {event.task}`"
    )
    kind = event.failure.kind if isinstance(event, Retried) else FailureClass.CANCELLED
    return Failed(
        task=event.task,
        origin=replace(event.origin, reason=one_line(message)),
        run=event.run,
        failure=Failure(kind=kind, message=one_line(message)),
        report=event.report,
    )


def backoff(attempt: int, *, base: timedelta, cap: timedelta, key: str) -> timedelta:
    """
    Return how long to wait before the given attempt (1 is the first retry).

    Doubles from `base` and never exceeds `cap`. Up to half of it is taken away
    again, by a hash of `key`, so that tasks that failed together do not come
    back together; the same key gives the same wait, in whole milliseconds.
    Raises ValueError if `attempt` < 1.
    Source: AWS Architecture Blog, "Exponential Backoff And Jitter" (2015), equal jitter.
    """
    if attempt < 1:
        raise ValueError(f"attempt must be at least 1, not {attempt}")
    doublings = min(attempt - 1, 64)  # far beyond any cap
    longest = min(base.total_seconds() * 2**doublings, cap.total_seconds())
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) / 2**32
    return timedelta(milliseconds=round(longest * (500 + 500 * share)))


# --- The case --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _EndedRound:
    """Everything a decision looks at."""

    task: Task | None
    status: Status
    live: Run
    ended: RunEnded
    now: datetime
    fleet: FleetSpec
    account: str | None

    @property
    def report(self) -> Report:
        return self.ended.report

    @property
    def terms(self) -> TaskDefaults:
        if self.task is None or not self.status.removed:
            return self.task or _FORGOTTEN
        return self.task.model_copy(update={"retries": 0, "fix_attempts": 0, "review_by": None})

    @property
    def name(self) -> str:
        return self.ended.task

    @property
    def run(self) -> str:
        return self.ended.run

    def origin(self, reason: str) -> Origin:
        """Return where an event comes from: the agent that reported, or the host that was asked."""
        at, message, agent = self.ended.at, one_line(reason), self.status.assigned_agent
        return Origin(at, message, "agent", agent) if agent else Origin(at, message, "host")

    def failure(self) -> Failure | None:
        """Return why the round did not succeed; None if it did."""
        verdict = self.report.verdict
        if verdict.outcome == "failed":
            kind = verdict.kind or FailureClass.AGENT
            return Failure(kind=kind, message=one_line(verdict.message) or f"the run failed ({kind})")
        if self.live.mode != "work":
            return self.no_choice() if self.live.mode == "judge" else self.no_plan()
        return self.unfit()

    def no_plan(self) -> Failure | None:
        """Return that there is no plan; None if there is one."""
        is_there = self.report.verdict.text.strip()
        return None if is_there else Failure(kind=FailureClass.AGENT, message=_NO_PLAN)

    def unfit(self) -> Failure | None:
        """Return why work that its agent ended well is not good; None if it is."""
        check = self.report.failed_check
        if check is not None:
            message = one_line(check.summary or f"validation {check.ending}: {check.command}")
            return Failure(kind=FailureClass.VALIDATION, message=message)
        if opinion := self.report.objection:
            return Failure(kind=FailureClass.VALIDATION, message=one_line(opinion.summary))
        if why := self.nothing_new():
            return Failure(kind=FailureClass.AGENT, message=why)
        return None

    def choice(self) -> VariantChoice:
        """Return what the judge chose. Raises ValueError if that is nothing."""
        return read_choice(self.live.adapter or "", self.report.verdict, self.live.predecessors)

    def no_choice(self) -> Failure | None:
        """Return why the judge chose nothing; None if it did."""
        try:
            self.choice()
        except ValueError as error:
            return Failure(kind=FailureClass.AGENT, message=f"the judge chose nothing: {error}")
        return None

    def may_fix(self) -> bool:
        """Return whether the agent gets another round; a second opinion has a cap of its own."""
        status = self.status
        if opinion := self.report.objection:
            most = self.terms.review_by.max_rounds if self.terms.review_by else 0
            return opinion.verdict == "changes" and status.opinion_rounds < most
        questions = sum(question.id.startswith(f"q{status.attempt}-") for question in status.questions)
        return self.live.round - questions - status.opinion_rounds <= self.terms.fix_attempts

    @property
    def is_variant(self) -> bool:
        """Whether its task waits for a choice among variants when it has passed."""
        return self.task is not None and self.task.variant_of is not None

    def nothing_new(self) -> str | None:
        """Return, in words, that there is nothing to show for the round; None if there is, or need not be."""
        head = self.status.head_commit or ""
        has_review = self.terms.review != "none" or self.is_variant
        if has_review and self.status.review.count and self.report.head_commit in {None, head}:
            return f"changes were requested, but the agent made none: the branch is still at {head[:8]}"
        if self.report.commits or self.terms.allow_empty:
            return None
        if has_review:
            return "the agent changed nothing: there is nothing to review"
        if self.live.repo and not self.report.checks:
            return (
                "the agent changed nothing, and there is no validation to say that nothing was to be done; "
                "give the task a `validation`, or `allow_empty: true` if it need not change anything "
                "and `reconciler retry` it"
            )
        return None


# --- Decisions -------------------------------------------------------------


def _touched(case: _EndedRound, head: str) -> Event:
    """Leave the branch to whoever pushed to it meanwhile."""
    message = (
        f"somebody pushed {head[:8]} to {case.live.branch} while the agent worked; what it did is "
        "not delivered, and it pauses until a review asks for changes"
    )
    return BranchTouched(task=case.name, origin=case.origin(message), head=head, report=case.report)


def _done(case: _EndedRound) -> Event:
    report = case.report
    waits_for = "the choice among the variants" if case.is_variant else "review"
    checked = "validated" if report.checks else "no validation asked for"
    checked += f", {report.opinion.summary}" if report.opinion else ""
    has_review = case.terms.review != "none" or case.is_variant
    if has_review and (report.commits or case.status.review.count):
        return Submitted(
            task=case.name,
            origin=case.origin(f"delivered, {checked}; waits for {waits_for}"),
            run=case.run,
            report=report,
        )
    changed = ", nothing changed" if case.live.repo and not report.commits else ""
    return Completed(
        task=case.name, origin=case.origin(f"done{changed}: {checked}, no review asked for"), report=report
    )


def _fix_or_retry(case: _EndedRound, failure: Failure) -> Event:
    """Hand a failed validation back to the same session as often as the task allows, if it is still there."""
    if case.status.assigned_agent or not case.may_fix():
        return _retry_later(case, failure)
    spent = overspent(case.terms.budget, case.status.usage + case.report.verdict.usage)
    if spent is not None:
        return _a_person(case, Failure(kind=FailureClass.BUDGET, message=f"{spent}; {failure.message}"))
    return FixRequested(task=case.name, origin=case.origin(failure.message), run=case.run, report=case.report)


def _retry_later(case: _EndedRound, failure: Failure) -> Event:
    """Try again after a while as often as the task allows; placement goes elsewhere if it can."""
    if case.status.failures >= case.terms.retries:
        return _given_up(case, failure)
    return Retried(
        task=case.name,
        origin=case.origin(failure.message),
        run=case.run,
        failure=failure,
        report=case.report,
        not_before=case.now + _wait(case.status.failures + 1, case.run, case.fleet),
    )


def _elsewhere(case: _EndedRound, failure: Failure) -> Event:
    """Try again where a run can start: that a host is broken is no failure of the task, but not for ever."""
    starts = case.status.failed_starts
    if case.report.started or starts >= MOST_FAILED_STARTS:
        return _retry_later(case, failure)
    reason = f"the run could not start, which counts as no attempt: {failure.message}"
    return _uncounted(case, failure, reason, case.now + _wait(starts + 1, case.run, case.fleet))


def _later(case: _EndedRound, failure: Failure) -> Event:
    """Wait for a quota; that is nobody's failure and counts as none."""
    if case.account:
        return _uncounted(case, failure, f"{failure.message}; account {case.account} is at its limit", None)
    until = quota_end(case.report.verdict, case.status.uncounted + 1, case.now)
    return _uncounted(case, failure, f"{failure.message}; waits until {format_time(until)}", until)


def _given_up(case: _EndedRound, failure: Failure) -> Event:
    if case.live.mode == "judge":
        return _put_to_a_person(case, failure)
    return Failed(
        task=case.name, origin=case.origin(failure.message), run=case.run, failure=failure, report=case.report
    )


def _a_person(case: _EndedRound, failure: Failure) -> Event:
    return Escalated(task=case.name, origin=case.origin(failure.message), failure=failure, report=case.report)


def _stopped(case: _EndedRound, failure: Failure) -> Event:
    """Let go of a run that was stopped; what the spec wants now decides how it goes on."""
    if case.status.removed:
        return Cancelled(task=case.name, origin=case.origin(failure.message), report=case.report)
    if case.status.claim:
        return _given_back(case, failure)
    if case.task is not None and case.task.held and not case.status.assigned_agent:
        return _taken_over(case)
    is_wanted = (
        case.task is None
        or case.task.desired is not DesiredState.ACTIVE
        or _is_changed(case.task, case.status)
    )
    released = Released(
        task=case.name,
        origin=case.origin(failure.message),
        run=case.run,
        report=case.report,
        is_wanted=is_wanted,
    )
    return released if is_wanted else bounded(released, case.status)


TAKEN_OVER = "A person has taken this task over, and works in its workspace."
"""What stands as the question while a person has a task; its answer gives it back."""


def _taken_over(case: _EndedRound) -> Event:
    """Let the run wait for the person who goes on with it, as for an answer: it goes on where it was."""
    return QuestionAsked(
        task=case.name,
        origin=case.origin("its run was ended: a person takes it over"),
        run=case.run,
        question=TAKEN_OVER,
        report=case.report,
    )


def _is_changed(task: Task, status: Status) -> bool:
    return task.on_change == "restart" and task.generation != status.generation


def _given_back(case: _EndedRound, failure: Failure) -> Event:
    """Offer a task again that its agent gave back; not at once, or that agent takes it for ever."""
    who = f"agent {case.status.assigned_agent}" if case.status.assigned_agent else "the agent"
    reason = f"{who} gave it back: {failure.message}"
    return _uncounted(case, failure, reason, case.now + _wait(case.status.attempt, case.run, case.fleet))


def _uncounted(case: _EndedRound, failure: Failure, reason: str, not_before: datetime | None) -> Event:
    """Try again without counting a failure, unless too many in a row counted as none."""
    again = Retried(
        task=case.name,
        origin=case.origin(reason),
        run=case.run,
        failure=failure,
        report=case.report,
        not_before=not_before,
        counts=False,
    )
    return bounded(again, case.status)


def _wait(times: int, run: str, fleet: FleetSpec) -> timedelta:
    """Return how long to wait after so many in a row."""
    return backoff(times, base=fleet.backoff, cap=fleet.backoff_cap, key=run)


def _plan(case: _EndedRound) -> Event:
    """Put the plan to a person, unless there were too many."""
    text = case.report.verdict.text.strip()
    if sum(question.kind == "plan" for question in case.status.questions) >= MOST_PLANS:
        message = f"{MOST_PLANS} plans were made, none was approved, and there is another: {text}"
        return _a_person(case, Failure(kind=FailureClass.AGENT, message=one_line(message)))
    return QuestionAsked(
        task=case.name,
        origin=case.origin(f"the agent has a plan: {text}"),
        run=case.run,
        question=text,
        report=case.report,
        kind="plan",
    )


def _judged(case: _EndedRound) -> Event:
    choice = case.choice()
    origin = case.origin(f"{choice.variant} is chosen by {choice.by}: {choice.reason}")
    return VariantChosen(task=case.name, origin=origin, choice=choice, report=case.report)


def _put_to_a_person(case: _EndedRound, failure: Failure) -> Event:
    """Let a person choose in place of a judge that cannot."""
    passed = case.live.predecessors
    _, text = choice_question(passed)
    return QuestionAsked(
        task=case.name,
        origin=case.origin(f"the judge failed, so that a person chooses: {failure.message}"),
        run=case.run,
        question=text,
        report=case.report,
        kind="choice",
        options=tuple(each.task for each in passed),
    )


_SUCCESSES: Mapping[RunMode, Callable[[_EndedRound], Event]] = {
    "work": _done,
    "plan": _plan,
    "judge": _judged,
}
"""What a round was for → what its success means."""

# --- What the agent declares -----------------------------------------------


def _question(case: _EndedRound, declared: Declaration) -> Event:
    """Put the question to a person, unless there were too many."""
    if len(case.status.questions) >= MOST_QUESTIONS:
        message = f"the agent has asked {MOST_QUESTIONS} questions, and has another: {declared.text}"
        return _a_person(case, Failure(kind=FailureClass.AGENT, message=one_line(message)))
    return QuestionAsked(
        task=case.name,
        origin=case.origin(f"the agent asks: {declared.text}"),
        run=case.run,
        question=declared.text,
        report=case.report,
    )


def _blocked(case: _EndedRound, declared: Declaration) -> Event:
    message = one_line(f"the agent says that it is blocked: {declared.text}")
    return _a_person(case, Failure(kind=FailureClass.AGENT, message=message))


def _handed_back(case: _EndedRound, declared: Declaration) -> Event:
    return _given_back(case, Failure(kind=FailureClass.CANCELLED, message=one_line(declared.text)))


_DECLARED: Mapping[str, Callable[[_EndedRound, Declaration], Event]] = {
    "question": _question,
    "blocked": _blocked,
    "released": _handed_back,
}
"""What an agent declared → what to do next."""

_DECISIONS: Mapping[FailureClass, Callable[[_EndedRound, Failure], Event]] = {
    FailureClass.VALIDATION: _fix_or_retry,
    FailureClass.AGENT: _retry_later,
    FailureClass.TIMEOUT: _retry_later,
    FailureClass.STALL: _retry_later,
    FailureClass.HOST: _elsewhere,
    FailureClass.QUOTA: _later,
    FailureClass.AUTH: _given_up,
    FailureClass.CONFIG: _given_up,
    FailureClass.BUDGET: _a_person,
    FailureClass.CANCELLED: _stopped,
}
"""Failure class → what to do next."""
