"""
Actions: what a form asks for becomes a commit on the specs branch, in the name of who is logged in.
"""

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from reconciler.api.pages.handlers import Visit
from reconciler.api.pages.rendering import View
from reconciler.api.pages.services import ActionOutcome
from reconciler.core.edits import FieldChanges
from reconciler.core.errors import Problem, ReconcilerError, UsageError
from reconciler.core.model.specs import DesiredState
from reconciler.core.text import one_line
from reconciler.core.views import HostView, TaskView

LINES = ("validation", "constraints", "requires", "depends_on")
"""Fields of the form with an item on each line."""
TEXTS = ("goal", "title", "repo", "adapter", "model", "priority", "script")


def task_verbs(view: TaskView) -> Sequence[str]:
    """Return what can be asked for a task, as it stands."""
    if view.spec is None:
        return ()
    if view.spec.desired is DesiredState.CANCELLED or (view.status and view.status.phase.is_settled):
        return ("retry",)
    return ("resume", "cancel") if view.spec.desired is DesiredState.SUSPENDED else ("suspend", "cancel")


def host_verbs(view: HostView) -> Sequence[str]:
    """Return what can be asked for a host, as it stands."""
    if view.spec.drain:
        return ("uncordon",)
    return ("uncordon", "drain") if view.spec.cordon else ("cordon", "drain")


async def act_on_task(visit: Visit) -> str | View:
    """Suspend, resume, cancel or retry a task, or answer its question."""
    verb, steering = visit.form.get("verb", ""), visit.fleet.services.steering
    if verb == "answer":
        text = visit.form.get("text", "").replace("\r\n", "\n")
        answered = await steering.answer(visit.name, text, visit.form.get("question"), visit.caller.agent)
        return _after(answered, f"/tasks/{quote(visit.name)}")
    outcome = await steering.edit("task", verb, visit.name, visit.caller.agent, _reason(visit))
    return _after(outcome, f"/tasks/{quote(visit.name)}")


async def act_on_host(visit: Visit) -> str | View:
    """Cordon, uncordon or drain a host."""
    verb = visit.form.get("verb", "")
    outcome = await visit.fleet.services.steering.edit(
        "host", verb, visit.name, visit.caller.agent, _reason(visit)
    )
    return _after(outcome, f"/hosts/{quote(visit.name)}")


async def approve_removal(visit: Visit) -> str | View:
    """Allow a large removal of tasks."""
    digest = visit.form.get("digest", "")
    outcome = await visit.fleet.services.steering.approve(digest, visit.caller.agent, _reason(visit))
    return _after(outcome, "/")


def _reason(visit: Visit) -> str:
    return one_line(visit.form.get("reason", ""))


def _after(outcome: ActionOutcome, path: str) -> str | View:
    if outcome.commit:
        return f"{path}?committed={outcome.commit}"
    return View("outcome.html", "Nothing to do", {"message": outcome.message, "back": path})


# --- A new task --------------------------------------------------------------


async def new_task_page(visit: Visit) -> View:
    """Show the form for a new task."""
    return _form(visit, {}, "", ())


async def submit_task(visit: Visit) -> str | View:
    """Check a new task, and commit it if that is asked for and nothing is wrong with it."""
    steering, form = visit.fleet.services.steering, visit.form
    text, problems = "", list[Problem | str]()
    try:
        text = steering.compose(fields_of(form), form.get("more", ""))
        name = form.get("name", "")
        if not name:
            raise UsageError("the task needs a name, such as web/fix-login")
        problems += await steering.check(name, text)
        if form.get("do") == "submit" and not problems:
            outcome = await steering.submit(name, text, visit.caller.agent, _reason(visit))
            return _after(outcome, f"/tasks/{quote(name)}")
    except ReconcilerError as error:
        problems += getattr(error, "problems", ()) or [str(error)]
    return _form(visit, form, text, problems)


def fields_of(form: Mapping[str, str]) -> FieldChanges:
    """Return the fields of a task that a form gives."""
    texts: dict[str, object] = {key: form[key].replace("\r\n", "\n") for key in TEXTS if key in form}
    if "priority" in texts:
        texts["priority"] = _whole(form["priority"])
    lists = {
        key: [line.strip() for line in form[key].splitlines() if line.strip()] for key in LINES if key in form
    }
    if form.get("pull"):
        texts["execution_mode"] = "http_pull"
    return {**texts, **lists}


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"priority: {text[:40]!r} is no whole number") from None


def _form(visit: Visit, form: Mapping[str, str], text: str, problems: Sequence[Problem | str]) -> View:
    desired = visit.fleet.view.desired
    values = {
        "form": form,
        "text": text,
        "problems": [str(problem) for problem in problems],
        "is_checked": bool(form) and not problems,
        "repos": sorted(desired.repos),
        "adapters": sorted(desired.adapters),
        "default_adapter": desired.fleet.adapter,
    }
    return View("new_task.html", "New task", values)
