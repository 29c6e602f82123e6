"""
Best of n: the variants of a task, and which of them is chosen.

Each variant is a task of its own, with its own runs, branch and history. Their task only chooses: it runs
the judge, takes over the chosen work, and has it reviewed and merged.
"""

import hashlib
from collections.abc import Mapping, Sequence

from reconciler.core.adapter import Usage
from reconciler.core.model.runs import RunMode
from reconciler.core.model.specs import DesiredState, Task
from reconciler.core.model.status import Phase, Predecessor, Question, Status, VariantChoice
from reconciler.core.names import variant_name, variant_of
from reconciler.core.plans import is_planning
from reconciler.core.text import one_line

Statuses = Mapping[str, Status | None]


def variants_of(task: Task) -> Sequence[Task]:
    """Return the tasks that are the variants of a task: as it is, but for who does it."""
    variants = []
    for number, own in enumerate(task.variants, 1):
        is_other = own.adapter not in {None, task.adapter}
        changes = {
            "name": variant_name(task.name, number),
            "variant_of": task.name,
            "variants": (),
            "judge": None,
            "adapter": own.adapter or task.adapter,
            "model": own.model or (None if is_other else task.model),
            "accounts": own.accounts or (() if is_other else task.accounts),
            "fallback": None,
            "review": "none",
            "issue": None,
            "branch_name": variant_name(task.branch, number),
            "desired": own.desired if task.desired is DesiredState.ACTIVE else task.desired,
            "answer": own.answer,
            "held": own.held,
        }
        variants.append(task.model_copy(update=changes))
    return variants


def variant_names(task: Task) -> Sequence[str]:
    """Return the names of the variants of a task."""
    return [variant_name(task.name, number) for number in range(1, len(task.variants) + 1)]


def family(task: Task) -> frozenset[str]:
    """Return the tasks at whose changes one is to be looked at again because of variants; empty for most."""
    if task.variant_of is not None:
        return frozenset({task.variant_of})
    return frozenset(variant_names(task))


def round_mode(task: Task, status: Status) -> RunMode:
    """Return what the next round of a task is for."""
    if task.variants and status.choice is None:
        return "judge"
    return "plan" if is_planning(task, status) else "work"


def as_run(task: Task, status: Status) -> Task:
    """Return a task as its next run has it: by the judge of its variants, or as the chosen one had it."""
    if not task.variants:
        return task
    if status.choice is None:
        return judging(task)
    return next(
        (_as_chosen(task, each) for each in variants_of(task) if each.name == status.choice.variant), task
    )


def judging(task: Task) -> Task:
    """Return a task as an agent chooses among its variants; as it is if none does."""
    judge = task.judge
    if judge is None or judge.is_person:
        return task
    accounts = (judge.account,) if judge.account else ()
    changes = {"adapter": judge.adapter, "model": judge.model, "accounts": accounts, "timeout": judge.timeout}
    return task.model_copy(
        update={**changes, "fallback": None, "review_by": None, "requires": (), "slots": 1, "validation": ()}
    )


def _as_chosen(task: Task, variant: Task) -> Task:
    fields = ("adapter", "model", "accounts", "fallback")
    return task.model_copy(update={field: getattr(variant, field) for field in fields})


# --- The choice ------------------------------------------------------------


def open_variants(task: Task, statuses: Statuses) -> Sequence[str]:
    """Return the variants of which it is not known yet whether they pass."""
    return [name for name in variant_names(task) if not _is_over(task, statuses.get(name))]


def survivors(task: Task, statuses: Statuses) -> tuple[Predecessor, ...]:
    """Return the variants that passed validation and were delivered, the first to pass first."""
    passed = [(name, status) for name in variant_names(task) if (status := statuses.get(name))]
    passed = [(name, status) for name, status in passed if _has_passed(task, status)]
    passed.sort(key=lambda each: each[1].since)
    return tuple(
        Predecessor(
            task=name,
            repo=task.repo,
            branch=status.last_run.branch,
            commit=status.head_commit,
            summary=status.summary,
        )
        for name, status in passed
    )


def clear_choice(task: Task, statuses: Statuses) -> VariantChoice | None:
    """Return the choice that needs nobody: of the first that passes without a judge, of the only one with."""
    passed, is_open = survivors(task, statuses), bool(open_variants(task, statuses))
    if passed and task.judge is None:
        return VariantChoice(
            variant=passed[0].task, by="validation", reason="it was the first that passed validation"
        )
    if len(passed) == 1 and not is_open:
        return VariantChoice(variant=passed[0].task, by="validation", reason="only it passed validation")
    return None


def answered_choice(status: Status) -> VariantChoice | None:
    """Return the choice that a person made; None if nobody did."""
    last = status.questions[-1] if status.questions else None
    if last is None or last.kind != "choice" or last.answer is None:
        return None
    option = chosen_option(last, last.answer)
    return (
        VariantChoice(variant=option, by=last.answered_by, reason=f"answer to {last.id}") if option else None
    )


def chosen_option(question: Question, text: str) -> str | None:
    """Return the variant that an answer names, as `2`, `@2` or by its name; None if it names none."""
    answer = text.strip()
    for option in question.options:
        variant = variant_of(option)
        if variant and answer in {option, str(variant[1]), f"@{variant[1]}"}:
            return option
    return None


def not_chosen(choice: VariantChoice) -> str:
    """Return why a variant is dropped, in words: another was chosen."""
    return one_line(f"not chosen: {choice.variant} was, by {choice.by}: {choice.reason}")


def is_usable(question: Question, text: str) -> bool:
    """Return whether a text can answer a question: one that asks for a choice needs one of its options."""
    return question.kind != "choice" or chosen_option(question, text) is not None


def choice_question(passed: Sequence[Predecessor]) -> tuple[str, str]:
    """Return id and text of the question by which a person is asked to choose; both of these commits."""
    digest = hashlib.sha256(" ".join(f"{each.task} {each.commit}" for each in passed).encode()).hexdigest()
    lines = [
        f"- {each.task} ({(each.commit or '')[:10]}, {each.branch}): {one_line(each.summary, 300)}"
        for each in passed
    ]
    names = ", ".join(str(variant[1]) for each in passed if (variant := variant_of(each.task)))
    return f"c-{digest[:8]}", "\n".join([f"Which variant is the best: {names}?", *lines])


def all_failed(task: Task, statuses: Statuses) -> str | None:
    """Return, in words, that no variant is left to choose; None if one is, or may be."""
    if open_variants(task, statuses) or survivors(task, statuses):
        return None
    ends = [f"{name} ({status.phase})" for name in variant_names(task) if (status := statuses.get(name))]
    return f"no variant passed: {', '.join(ends)}"


def family_usage(task: Task, statuses: Statuses) -> Usage:
    """Return what all variants of a task have taken together."""
    every = (status.usage for name in variant_names(task) if (status := statuses.get(name)))
    return sum(every, start=Usage())


def _is_over(task: Task, status: Status | None) -> bool:
    """Return whether it is known whether a variant passes."""
    if status is None or status.work != task.work:
        return False
    return status.phase.is_settled or status.phase is Phase.REVIEW_PENDING


def _has_passed(task: Task, status: Status) -> bool:
    is_delivered = status.phase is Phase.REVIEW_PENDING and status.head_commit is not None
    return is_delivered and status.work == task.work
