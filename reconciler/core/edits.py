"""
Edits behind commands and pages: which fields of a spec change, or why none needs to.
"""

from collections.abc import Callable, Mapping
from datetime import datetime

from reconciler.core.errors import UsageError
from reconciler.core.model.specs import ANSWER_LENGTH, DesiredState, HostSpec, Kind, TaskSpec
from reconciler.core.model.status import Status
from reconciler.core.plans import APPROVAL, REJECTION
from reconciler.core.text import harmless, one_line
from reconciler.core.times import format_time
from reconciler.core.variants import is_usable

FieldChanges = Mapping[str, object]
"""New values by field; None removes the field."""


def edit_message(subject: str, reason: str) -> str:
    """Return the message of the commit that makes an edit."""
    return f"{subject}\n\n{reason}\n" if reason else f"{subject}\n"


def edit_subject(verb: str, kind: Kind, name: str) -> str:
    """Return the first line of it; it speaks of a task by its name alone."""
    return f"{verb} {name if kind == 'task' else f'{kind} {name}'}"


def removal_subject(count: int) -> str:
    """Return the first line of the commit that allows so many tasks to be removed."""
    return f"Allow the removal of {count} task{'s' * (count != 1)}"


def archive_subject(count: int) -> str:
    """Return the first line of the commit that removes the specs of so many tasks that are done."""
    return f"Archive {count} task{'s' * (count != 1)}"


# --- Tasks -----------------------------------------------------------------


def suspending(name: str, spec: TaskSpec, _: Status | None) -> FieldChanges | str:
    """Suspend a task that is active."""
    if spec.desired is DesiredState.ACTIVE:
        return {"desired": "suspended"}
    return f"{name} is {spec.desired} already"


def resuming(name: str, spec: TaskSpec, _: Status | None) -> FieldChanges | str:
    """Resume a task that is suspended."""
    if spec.desired is DesiredState.CANCELLED:
        raise UsageError(f"{name} is cancelled: `reconciler retry {name}` asks for it again")
    return {"desired": "active"} if spec.desired is DesiredState.SUSPENDED else f"{name} is active already"


def cancelling(name: str, spec: TaskSpec, _: Status | None) -> FieldChanges | str:
    """Cancel a task that is not cancelled."""
    if spec.desired is DesiredState.CANCELLED:
        return f"{name} is cancelled already"
    return {"desired": "cancelled"}


def retrying(name: str, spec: TaskSpec, status: Status | None) -> FieldChanges | str:
    """Run a task once more that is settled or cancelled."""
    if spec.desired is DesiredState.CANCELLED:
        return {"desired": "active", "rerun": spec.rerun + 1}
    if status is None or not status.phase.is_settled:
        return (
            f"{name} is {status.phase if status else 'new'}: it is not settled, so there is nothing to retry"
        )
    return {"rerun": spec.rerun + 1}


def answering(
    name: str, spec: TaskSpec, status: Status | None, text: str, question: str | None = None
) -> FieldChanges | str:
    """
    Answer the question of a task; `question` is the id of the one that is meant, the open one if None.

    Raises UsageError if it waits for no answer, or for one to another question.
    """
    waiting = status.question if status else None
    text = harmless(text).strip()
    if waiting is None or spec.desired is DesiredState.CANCELLED:
        where = status.phase if status else "new"
        raise UsageError(f"{name} asks nothing: it is {where}{_last_answer(status)}")
    if question not in {None, waiting.id}:
        raise UsageError(f"{name} asks {waiting.id} by now, and not {question}: {one_line(waiting.text)}")
    if spec.answer and spec.answer.to == waiting.id:
        message = f"{waiting.id} of {name} is answered already: {one_line(spec.answer.text)}"
        if spec.answer.text != text:
            raise UsageError(f"{message}; the first answer counts")
        return message
    if not text:
        raise UsageError(f"the answer is empty; {name} asks ({waiting.id}): {one_line(waiting.text)}")
    if not is_usable(waiting, text):
        options = ", ".join(waiting.options)
        raise UsageError(
            f"{name} asks which variant to choose, one of {options}: `reconciler choose {name} 1`"
        )
    if len(text) > ANSWER_LENGTH:
        raise UsageError(
            f"the answer has {len(text)} characters, and {ANSWER_LENGTH} are the most; put the rest "
            f"into a file of the repository, and name that"
        )
    return {"answer": {"to": waiting.id, "text": text}}


def approving(
    name: str, spec: TaskSpec, status: Status | None, question: str | None = None
) -> FieldChanges | str:
    """Say yes to the plan of a task. Raises UsageError if it has none that waits."""
    return answering(name, spec, _with_plan(name, status), APPROVAL, question)


def rejecting(
    name: str, spec: TaskSpec, status: Status | None, question: str | None = None
) -> FieldChanges | str:
    """Say no to the plan of a task, which ends it. Raises UsageError if it has none that waits."""
    return answering(name, spec, _with_plan(name, status), REJECTION, question)


def _with_plan(name: str, status: Status | None) -> Status | None:
    """Return a status, unless what waits is no plan. Raises UsageError then."""
    if status and status.question and status.question.kind != "plan":
        raise UsageError(f"{name} has no plan, but a question: {status.question.line}; answer that")
    return status


def choosing(name: str, spec: TaskSpec, status: Status | None, variant: str) -> FieldChanges | str:
    """Choose among the variants of a task. Raises UsageError if it asks for no choice, or for another."""
    if status and status.question and status.question.kind != "choice":
        raise UsageError(f"{name} asks for no choice, but {status.question.line}; answer that")
    return answering(name, spec, status, variant)


GIVEN_BACK = (
    "A person took this task over and worked in your workspace, perhaps in your session too. It is yours "
    "again: look at what changed there, and finish the task."
)


def attaching(name: str, spec: TaskSpec, status: Status | None) -> FieldChanges | str:
    """Hold a task for a person, whose run on a host can be gone on with. Raises UsageError if it cannot."""
    if status is None or status.run is None or status.assigned_host is None:
        raise UsageError(f"{name} has no run on a host, so that there is nothing to take over")
    if spec.held:
        return f"{name} is held already"
    return {"held": True}


def releasing(name: str, spec: TaskSpec, status: Status | None, text: str = "") -> FieldChanges | str:
    """
    Give a task back to its agent, with a text that says what was done.

    A plan or a choice that waits goes on waiting: neither is decided by what is said in passing.
    """
    if not spec.held:
        return f"{name} is not held"
    question = status.question if status else None
    if question is None or question.kind != "question":
        return {"held": None}
    answer = harmless(text).strip()[:ANSWER_LENGTH] or GIVEN_BACK
    return {"held": None, "answer": {"to": question.id, "text": answer}}


def _last_answer(status: Status | None) -> str:
    """Return how the last question was answered, to be added to a sentence; empty if none was."""
    if status is None or not status.answers:
        return ""
    last = status.answers[-1]
    return f"; {last.id} was answered by {last.answered_by}: {one_line(last.answer or '')}"


TASK_EDITS: Mapping[str, Callable[[str, TaskSpec, Status | None], FieldChanges | str]] = {
    "suspend": suspending,
    "resume": resuming,
    "cancel": cancelling,
    "retry": retrying,
    "approve": approving,
    "reject": rejecting,
}
"""What can be asked for a task, by the verb."""


# --- Hosts -----------------------------------------------------------------


def cordoning(name: str, spec: HostSpec) -> FieldChanges | str:
    """Cordon a host that is not cordoned."""
    return f"{name} is cordoned already" if spec.cordon else {"cordon": True}


def uncordoning(name: str, spec: HostSpec) -> FieldChanges | str:
    """Open a host that is cordoned or draining."""
    changes = {
        **({"cordon": False} if spec.cordon else {}),
        **({"drain": False} if spec.drain else {}),
        **({"drain_until": None} if spec.drain_until else {}),
    }
    return changes or f"{name} takes runs already"


def draining(name: str, spec: HostSpec, until: datetime | None) -> FieldChanges | str:
    """Drain a host; one that is draining may get a new deadline, or keeps the one it has."""
    wanted = until or (spec.drain_until if spec.drain else None)
    changes = {
        **({} if spec.drain else {"drain": True}),
        **({} if wanted == spec.drain_until else {"drain_until": format_time(wanted) if wanted else None}),
    }
    return changes or f"{name} is draining already"


HOST_EDITS: Mapping[str, Callable[[str, HostSpec], FieldChanges | str]] = {
    "cordon": cordoning,
    "uncordon": uncordoning,
    "drain": lambda name, spec: draining(name, spec, None),
}
"""What can be asked for a host, by the verb."""
