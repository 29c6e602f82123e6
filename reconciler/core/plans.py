"""
Plan first: whether a task may be worked on yet, and what the answer to a plan means.

A plan is a question of the agent: it waits for its answer as any other, and the answer is a person's.
"""

import re
from typing import Literal

from reconciler.core.model.specs import Task
from reconciler.core.model.status import Question, Status

MOST_PLANS = 5
"""Plans that an agent may make for one piece of work before a person must look at it."""

APPROVAL, REJECTION = "approve", "reject"
"""Answers that commands write."""

_YES = frozenset({APPROVAL, "approved", "go", "go ahead", "lgtm", "ok", "okay", "yes"})
_NO = frozenset({REJECTION, "rejected", "no", "stop"})
_ENDS = re.compile(r"^\W+|\W+$")

PlanAnswer = Literal["yes", "no", "change"]


def plan_answer(text: str) -> PlanAnswer:
    """Return what an answer says of a plan: yes or no where it is that alone, else what to change."""
    plain = " ".join(_ENDS.sub("", text).casefold().split())
    if plain in _YES:
        return "yes"
    return "no" if plain in _NO else "change"


def is_planning(task: Task, status: Status) -> bool:
    """Return whether the next round of a task makes a plan, because none was approved."""
    return task.mode == "plan" and not any(map(is_approved, status.answers))


def is_approved(question: Question) -> bool:
    """Return whether a question is a plan that somebody said yes to."""
    return question.kind == "plan" and plan_answer(question.answer or "") == "yes"


def rejected_plan(status: Status) -> Question | None:
    """Return the plan that was answered with a no; None if the last answer is to something else."""
    last = status.questions[-1] if status.questions else None
    is_rejected = last and last.kind == "plan" and last.answer and plan_answer(last.answer) == "no"
    return last if is_rejected else None
