"""
Variants in a plan: what becomes of them once one is chosen, and what their task does until then.
"""

from collections.abc import Mapping

from reconciler.core.events import (
    Cancelled,
    ChoiceRequested,
    Completed,
    Escalated,
    Event,
    Origin,
    VariantChosen,
)
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import DesiredState, Task
from reconciler.core.model.status import Failure, Phase, Reason, Status
from reconciler.core.planning.context import PlanContext, Wait
from reconciler.core.text import one_line
from reconciler.core.variants import (
    all_failed,
    answered_choice,
    choice_question,
    clear_choice,
    not_chosen,
    open_variants,
    survivors,
    variant_names,
)


def statuses_of_variants(context: PlanContext, spec: Task) -> Mapping[str, Status | None]:
    """Return where the variants of a task stand."""
    return {name: context.status(name) for name in variant_names(spec)}


# --- A variant -------------------------------------------------------------


def variant_event(context: PlanContext, spec: Task, status: Status) -> Event | None:
    """Return what the choice, or new work, means for a variant that is not settled; None for nothing."""
    if status.phase not in {Phase.CREATED, Phase.REVIEW_PENDING}:
        return None
    parent, now = context.status(spec.variant_of or ""), context.now
    if parent and parent.choice and status.phase is Phase.REVIEW_PENDING:
        return None  # it ends once its branch is closed
    why = why_dropped(context, spec)
    if why is None and status.phase is Phase.REVIEW_PENDING and status.work != spec.work:
        why = "its task asks for other work by now"
    return Cancelled(task=spec.name, origin=Origin(now, why), spec=spec) if why else None


def why_dropped(context: PlanContext, spec: Task) -> str | None:
    """Return why a variant is not wanted any more: another was chosen, or their task is over without it."""
    parent = context.status(spec.variant_of or "")
    if parent is None or spec.name == (parent.choice.variant if parent.choice else None):
        return None
    if parent.choice:
        return not_chosen(parent.choice)
    is_over = parent.phase.is_settled and parent.work == spec.work
    return f"its task is {parent.phase}" if is_over else None


def is_decided(context: PlanContext, spec: Task) -> bool:
    """Return whether nothing more is begun of a variant, whatever its spec asks for."""
    parent = context.status(spec.variant_of or "")
    return parent is not None and (parent.choice is not None or parent.phase.is_settled)


# --- Its task --------------------------------------------------------------


def choice_event(context: PlanContext, spec: Task, status: Status) -> Event | None:
    """Return the next step of a task towards the choice among its variants, or after it; None for none."""
    if not spec.variants or spec.desired is not DesiredState.ACTIVE:
        return None
    if status.phase is Phase.REVIEW_PENDING and spec.review == "none":
        reason = "done: its chosen variant is validated, no review asked for"
        return Completed(task=spec.name, origin=Origin(context.now, reason))
    if status.phase is not Phase.CREATED or status.choice is not None:
        return None
    return (
        _chosen(context, spec, status)
        or _without_any(context, spec)
        or _put_to_a_person(context, spec, status)
    )


def _chosen(context: PlanContext, spec: Task, status: Status) -> Event | None:
    """Return the choice that a person made, or that needs nobody."""
    variants = statuses_of_variants(context, spec)
    choice = answered_choice(status) or (None if status.question else clear_choice(spec, variants))
    if choice is None:
        return None
    reason = one_line(f"{choice.variant} is chosen by {choice.by}: {choice.reason}")
    return VariantChosen(task=spec.name, origin=Origin(context.now, reason), choice=choice)


def _without_any(context: PlanContext, spec: Task) -> Event | None:
    if (why := all_failed(spec, statuses_of_variants(context, spec))) is None:
        return None
    message = f"{why}; see why, then `reconciler retry {spec.name}`"
    failure = Failure(kind=FailureClass.AGENT, message=message)
    return Escalated(task=spec.name, origin=Origin(context.now, one_line(message)), failure=failure)


def _put_to_a_person(context: PlanContext, spec: Task, status: Status) -> Event | None:
    variants = statuses_of_variants(context, spec)
    is_wanted = spec.judge is not None and spec.judge.is_person and status.question is None
    if not is_wanted or open_variants(spec, variants):
        return None
    passed = survivors(spec, variants)
    question, text = choice_question(passed)
    return ChoiceRequested(
        task=spec.name,
        origin=Origin(context.now, "several variants passed validation: a person chooses"),
        question=question,
        text=text,
        options=tuple(each.task for each in passed),
    )


def choice_wait(context: PlanContext, spec: Task, status: Status) -> Wait | None:
    """Return what a task with variants waits for before it runs itself; None if that can be done."""
    if not spec.variants or status.question:
        return None
    if status.choice:
        message = f"{status.choice.variant} is chosen; its work is taken over to {spec.branch}"
        return None if status.choice.is_taken else Wait(Reason.VARIANTS, message)
    if names := open_variants(spec, statuses_of_variants(context, spec)):
        return Wait(Reason.VARIANTS, f"waits for its variants: {', '.join(names)}")
    return None


def variant_wait(spec: Task | None, status: Status) -> Wait | None:
    """Return what a variant waits for that has passed; None for every other task."""
    if spec is None or spec.variant_of is None or status.phase is not Phase.REVIEW_PENDING:
        return None
    return Wait(
        Reason.VARIANTS, f"passed validation; waits for the choice among the variants of {spec.variant_of}"
    )
