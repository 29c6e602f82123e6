"""
From a task and where it stands to everything a host needs for one round.
"""

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce

from reconciler.core.adapter import OF_EVENTS, RULES, Adapter, Output, Usage
from reconciler.core.errors import Problem, SpecError
from reconciler.core.forge.pull_request import NOTICES
from reconciler.core.model.runs import Assignment, Reviewer, ReviewNote, RunMode, RunRequest
from reconciler.core.model.specs import Desired, ExecutionMode, Host, Repo, RunHooks, Task
from reconciler.core.model.status import Status, question_id
from reconciler.core.patterns import check_pattern
from reconciler.core.runs.judging import judge_prompt
from reconciler.core.runs.opinion import opinion_prompt
from reconciler.core.runs.prompt import Quote, render, try_template
from reconciler.core.variants import as_run

PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
GROUPS = frozenset({"model", "turns", "session", "mode"})
"""Alone in an element of `command`, they stand for any number of arguments."""

VALUES: Mapping[str, frozenset[str]] = {
    "command": frozenset({"workdir", "prompt_file", "declared", "files", "prompt", "shell", "script"}),
    "model": frozenset({"model"}),
    "turns": frozenset({"turns"}),
    "work": frozenset({"declared"}),
    "plan": frozenset({"declared"}),
    "fresh": frozenset({"session_id"}),
    "resume": frozenset({"session_id"}),
    "attach": frozenset({"session_id"}),
}
EXTRA_VALUES = frozenset({"session_id", "workdir"})
"""What may stand in the elements of `output.extra_command`."""

"""What may stand in the elements of each field."""

WORKDIR = "\0workdir\0"
PROMPT_FILE = "\0prompt_file\0"
DECLARED = "\0declared\0"
FILES = "\0files\0"
"""
Places in an argv or an environment that only the host knows. Neither can hold a NUL, so that
nothing a person wrote is ever taken for one of them.
"""

ANSWER_VARIABLE = "RECONCILER_ANSWER"
"""Environment variable with the answer to the last question."""

_SESSIONS = uuid.UUID("5e3c1a9e-0c9b-5d0e-9a53-0e5f3f1f6f11")
"""Namespace of the ids made for new sessions."""


def build_run_request(task: Task, status: Status, desired: Desired) -> RunRequest:
    """
    Return what to carry out for the round of a task that its status names.

    The same arguments give the same order, so that it may be given again after
    a restart.
    Raises SpecError if the host or the adapter is gone, or a template is wrong.
    """
    run, host = status.last_run, _host(status, desired)
    adapter = _with_account(_adapter(task, status, desired), run.account, status, desired)
    session, is_judge = resumed_session(adapter, status), run.mode == "judge"
    task = as_run(task, status) if is_judge else task
    prompt, repo = build_prompt(task, status, desired), _repo(task, desired)
    return RunRequest(
        run=run.key,
        round=run.round,
        task=task.name,
        host=host,
        adapter=adapter.model_copy(update={"env": _placed(adapter.env)}),
        repo=repo,
        argv=_argv(
            adapter,
            run.model,
            host,
            prompt,
            session=_session(adapter, status),
            script=task.script or "",
            mode=run.mode,
        ),
        prompt=prompt,
        mode=run.mode,
        candidates=tuple(each.commit for each in run.predecessors if each.commit) if is_judge else (),
        env=_placed(task.env) | answer_environment(status),
        branch=run.branch,
        start_from=_start_from(status),
        stack=run.start_from,
        expected_head=status.head_commit,
        session_id=session,
        chosen_session=fresh_session(status) if adapter.fresh and not session else None,
        session_totals=status.session.totals if session and status.session else Usage(),
        validation=task.validation,
        reviewer=_reviewer(task, status, desired) if repo else None,
        keeps_work=_waited_for_a_person(status),
        outputs=task.outputs,
        hooks=host.hooks.followed_by(repo.hooks) if repo else host.hooks,
        files={**adapter.files, **task.files},
        requires=task.requires,
        timeout=min(task.timeout, adapter.limits.time or task.timeout),
        timeout_field="judge.timeout" if is_judge else "timeout",
        stall_timeout=task.stall_timeout,
        commit_message=_commit_message(task, status),
    )


def assignment(task: Task, status: Status, desired: Desired) -> Assignment:
    """
    Return what the outside agent that holds a task is to carry out; the same arguments give the same.

    Raises SpecError if a template is wrong, or the repo or the host that validates is gone.
    """
    run = status.last_run
    if task.validate_on and task.validate_on not in desired.hosts:
        raise _missing("host", task.validate_on, status)
    if task.repo and task.repo not in desired.repos:
        raise _missing("repo", task.repo, status)
    return Assignment(
        run=run.key,
        epoch=status.attempt,
        task=task.name,
        title=run.title,
        prompt=build_prompt(task, status, desired),
        repo=_repo(task, desired),
        branch=run.branch,
        start_from=_start_from(status),
        validation=task.validation,
        answer=status.answers[-1].answer if status.answers else None,
        validate_on=desired.hosts.get(task.validate_on or "") if task.repo else None,
        env=task.env,
        review=task.review,
        allow_empty=task.allow_empty,
        timeout=task.timeout,
    )


def answer_environment(status: Status) -> dict[str, str]:
    """Return the environment that tells a script the last answer; empty if nothing was asked."""
    return {ANSWER_VARIABLE: status.answers[-1].answer or ""} if status.answers else {}


def build_prompt(task: Task, status: Status, desired: Desired) -> str:
    """
    Return the prompt of the round of a task that its status names.

    Raises SpecError if the adapter is gone or a template is wrong.
    """
    if task.execution_mode is ExecutionMode.HTTP_PULL:
        return render(task, status, _repo(task, desired), template=task.template, quotes=_quotes(status))
    if status.last_run.mode == "judge":
        return judge_prompt(task, status.last_run.predecessors)
    adapter = _adapter(task, status, desired)
    is_resumed = resumed_session(adapter, status) is not None
    template = task.template or adapter.template
    repo = _repo(task, desired)
    return render(task, status, repo, template=template, resumed=is_resumed, quotes=_quotes(status))


def _quotes(status: Status) -> Sequence[Quote]:
    """Return what reviewers wrote, and what a second agent found, as data."""
    notes = [_quote(note) for note in status.review.notes] if status.review.count else []
    opinion = status.opinion
    if opinion is None or opinion.verdict != "changes":
        return notes
    return [*notes, *(_quote(note, "Second opinion of") for note in opinion.findings)]


def _quote(note: ReviewNote, what: str = "Review by") -> Quote:
    """Return a note as data; the path is the reviewer's too, so words in it do not stand in a heading."""
    if note.author in NOTICES:
        return Quote(NOTICES[note.author], note.text)
    if not note.path:
        return Quote(f"{what} {note.author}", note.text)
    where = f"{note.path}, line {note.line}" if note.line else note.path
    if any(map(str.isspace, note.path)):
        return Quote(f"{what} {note.author}", f"On {where}:\n{note.text}")
    return Quote(f"{what} {note.author} on {where}", note.text)


def _start_from(status: Status) -> str | None:
    """Return the commit to go on from: that of a branch that was in review, or of another task's."""
    return status.head_commit if status.review.count else status.last_run.start_from


def _placed(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with the place of files, which only the host knows."""
    return {name: value.replace("{files}", FILES) for name, value in env.items()}


def localize(
    argv: Iterable[str], *, workdir: str, prompt_file: str, declared: str, files: str
) -> tuple[str, ...]:
    """Return the arguments of an order with the paths of its host filled in."""
    paths = {WORKDIR: workdir, PROMPT_FILE: prompt_file, DECLARED: declared, FILES: files}
    return tuple(reduce(lambda text, name: text.replace(name, paths[name]), paths, arg) for arg in argv)


def resumed_session(adapter: Adapter, status: Status) -> str | None:
    """Return the session that the round goes on with; None for a new one."""
    return status.session.id if adapter.resume and status.session else None


def check_adapter(adapter: Adapter) -> list[str]:
    """Return what is wrong with the command, the rules and the template of an adapter, a line each."""
    problems = [] if adapter.command else ["command: missing: the program and its arguments"]
    for field in VALUES:
        problems += [f"{field}: {problem}" for problem in _wrong_elements(adapter, field)]
    for element in adapter.output.extra_command:
        problems += [
            f"output.extra_command: {_unknown_placeholder(name, EXTRA_VALUES)}"
            for name in PLACEHOLDER.findall(element)
            if name not in EXTRA_VALUES
        ]
    if adapter.template is not None:
        problems += [f"template: {problem}" for problem in try_template(adapter.template)]
    return [*problems, *_wrong_text_rules(adapter.output)]


def _wrong_text_rules(output: Output) -> Iterator[str]:
    """Yield what is wrong with rules for text: they are patterns, and not all rules have one."""
    if output.format != "text":
        return
    if output.reader is not None:
        yield "output.reader: reads events, not `format: text`"
    for field in RULES:
        rule = getattr(output, field)
        if rule is not None and field in OF_EVENTS:
            yield f"output.{field}: can be asked of events only, not of `format: text`"
        elif rule is not None:
            try:
                check_pattern(rule)
            except ValueError as error:
                yield f"output.{field}: {error}"


def _wrong_elements(adapter: Adapter, field: str) -> Iterator[str]:
    groups = GROUPS if field == "command" else frozenset[str]()
    for element in getattr(adapter, field):
        for name in PLACEHOLDER.findall(element):
            if name in groups:
                if element != f"{{{name}}}":
                    yield f"{{{name}}} must stand alone in an element, not in {element!r}"
            elif name not in VALUES[field]:
                yield _unknown_placeholder(name, VALUES[field] | groups)


def _unknown_placeholder(name: str, values: Iterable[str]) -> str:
    return (
        f"unknown placeholder {{{name}}}; known here: {', '.join(f'{{{each}}}' for each in sorted(values))}"
    )


def _repo(task: Task, desired: Desired) -> Repo | None:
    return desired.repos.get(task.repo) if task.repo else None


def _adapter(task: Task, status: Status, desired: Desired) -> Adapter:
    return _usable(status.last_run.adapter or task.adapter, status, desired)


def _usable(name: str, status: Status, desired: Desired) -> Adapter:
    adapter = desired.adapters.get(name)
    if adapter is None:
        raise _missing("adapter", name, status)
    problems = check_adapter(adapter)
    if problems:
        raise SpecError(Problem(f"specs/adapters/{name}.yaml", 1, 1, problem) for problem in problems)
    return adapter


def _with_account(adapter: Adapter, name: str | None, status: Status, desired: Desired) -> Adapter:
    """Return the adapter with the secrets of an account. Raises SpecError if that is gone."""
    if name is None:
        return adapter
    if name not in desired.accounts:
        raise _missing("account", name, status)
    return adapter.model_copy(update={"secrets": {**adapter.secrets, **desired.accounts[name].secrets}})


def _host(status: Status, desired: Desired) -> Host:
    host = desired.hosts.get(status.assigned_host or "")
    if host is None:
        raise _missing("host", status.assigned_host or "", status)
    return host


def _missing(kind: str, name: str, status: Status) -> SpecError:
    message = f"run {status.run_key} needs {kind} {name!r}, which is not there any more; restore the file"
    return SpecError([Problem(f"specs/{kind}s/{name}.yaml", 1, 1, message)])


def _reviewer(task: Task, status: Status, desired: Desired) -> Reviewer | None:
    """Return who reviews the work of a run. Raises SpecError if its adapter or account is gone."""
    if (spec := task.review_by) is None:
        return None
    adapter = _with_account(_usable(spec.adapter, status, desired), spec.account, status, desired)
    return Reviewer(
        adapter=adapter,
        account=spec.account,
        model=spec.model,
        brief="\n".join([task.goal.strip(), *(f"- {rule}" for rule in task.constraints)]),
        is_last=status.opinion_rounds >= spec.max_rounds,
        has_people=task.review != "none",
        timeout=spec.timeout,
    )


def review_request(
    order: RunRequest, reviewer: Reviewer, key: tuple[str, int], head: str, diff: str
) -> RunRequest:
    """
    Return the run, under a key with the number of the try, in which the work of an order is reviewed.

    It has a workspace of its own at the work's head, and nothing of that is taken up.
    """
    (run, number), adapter = key, reviewer.adapter
    prompt = opinion_prompt(reviewer.brief, head, diff)
    session = _fill(adapter.fresh, {"session_id": str(uuid.uuid5(_SESSIONS, f"{run} {number} {head}"))})
    changes = {
        "run": run,
        "round": number,
        "adapter": adapter.model_copy(update={"env": _placed(adapter.env)}),
        "files": adapter.files,
        "argv": _argv(adapter, reviewer.model, order.host, prompt, session=session),
        "prompt": prompt,
        "start_from": head,
        "expected_head": None,
        "session_id": None,
        "chosen_session": None,
        "session_totals": Usage(),
        "validation": (),
        "reviewer": None,
        "hooks": RunHooks(),
        "timeout": min(reviewer.timeout, adapter.limits.time or reviewer.timeout),
        "timeout_field": "review_by.timeout",
    }
    return order.model_copy(update=changes)


def _argv(
    adapter: Adapter,
    model: str | None,
    host: Host,
    prompt: str,
    *,
    session: Iterable[str],
    script: str = "",
    mode: RunMode = "work",
) -> tuple[str, ...]:
    groups = {
        "mode": tuple(_fill(adapter.work if mode == "work" else adapter.plan, {"declared": DECLARED})),
        "model": tuple(_fill(adapter.model, {"model": model})) if model else (),
        "turns": tuple(_fill(adapter.turns, {"turns": str(adapter.limits.turns)}))
        if adapter.limits.turns
        else (),
        "session": tuple(session),
    }
    values = {
        "workdir": WORKDIR,
        "prompt_file": PROMPT_FILE,
        "declared": DECLARED,
        "files": FILES,
        "prompt": prompt,
        "shell": host.shell,
        "script": script,
    }
    return tuple(_fill(adapter.command, values, groups))


def _session(adapter: Adapter, status: Status) -> Iterator[str]:
    session = resumed_session(adapter, status)
    if session:
        return _fill(adapter.resume, {"session_id": session})
    return _fill(adapter.fresh, {"session_id": fresh_session(status)})


def extra_argv(order: RunRequest, workdir: str) -> tuple[str, ...]:
    """Return the command that tells more of a round that is over; empty if its CLI needs none."""
    values = {"session_id": order.session_id or order.chosen_session or "", "workdir": workdir}
    return tuple(_fill(order.adapter.output.extra_command, values))


def attach_argv(adapter: Adapter, session: str | None) -> tuple[str, ...]:
    """Return the command with which a person goes on with a session; empty if the CLI has none."""
    return tuple(_fill(adapter.attach, {"session_id": session})) if session else ()


def fresh_session(status: Status) -> str:
    """
    Return the id of a new session, for a CLI that takes one.

    It is derived from the run, so that starting the round twice names the same
    session, and from the task's birth, so that another fleet's run of the same
    name on the same host does not.
    """
    run = status.last_run
    return str(uuid.uuid5(_SESSIONS, f"{run.key} {run.round} {status.created_at.isoformat()}"))


def _waited_for_a_person(status: Status) -> bool:
    """
    Return whether the round before this one ended with a question, or with a person who took it over.

    What the agent had done by then is committed, and no validation was run: what lies there is a person's.
    """
    before = question_id(status.attempt, status.last_run.round - 1)
    return any(each.id == before for each in status.answers)


def _fill(
    template: Iterable[str], values: Mapping[str, str], groups: Mapping[str, Iterable[str]] | None = None
) -> Iterator[str]:
    """Yield the elements with their placeholders filled in, each once: a value is never looked into."""
    for element in template:
        name = element[1:-1]
        if groups and name in groups and element == f"{{{name}}}":
            yield from groups[name]
        else:
            yield PLACEHOLDER.sub(lambda match: values[match[1]], element)


def _commit_message(task: Task, status: Status) -> str:
    subject = " ".join(status.last_run.title.split())
    return f"{subject}\n\nTask: {task.name}\nRun: {status.run_key}\n"
