"""
Builder: from the files of one revision to the desired state.

A mistake stalls the object it is in and what refers to it, nothing else. What
did not change is not looked at again: the cost of a revision is that of its
changed files and of the tasks they are related to.
"""

import gc
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from reconciler.core.adapter import Adapter
from reconciler.core.errors import Problem
from reconciler.core.faults import fault_message
from reconciler.core.model.specs import (
    Campaign,
    CampaignSpec,
    Desired,
    DesiredState,
    ExecutionMode,
    Judge,
    Repo,
    Task,
    TaskSpec,
)
from reconciler.core.references import remedy
from reconciler.core.runs.accounts import fallback_task
from reconciler.core.variants import variants_of
from reconciler.specs.campaigns import as_campaign
from reconciler.specs.doubts import doubts, doubts_of_fleet, doubts_of_hosts, doubts_of_task
from reconciler.specs.graph import Index, cycles
from reconciler.specs.layers import resolve
from reconciler.specs.parse import (
    FLEET_FILE,
    ROOT,
    File,
    Parsed,
    Parser,
    locate_mistakes,
    nearest,
    tasks_of,
)
from reconciler.specs.rules import Mistake, template_mistake
from reconciler.specs.shards import other_shard, shared_by_shards
from reconciler.specs.shared import shared_specs
from reconciler.specs.yaml import Path

MAX_FILES = 250_000


def build(
    files: Mapping[str, File], *, revision: str = "", last_good: Mapping[str, File] | None = None
) -> Desired:
    """
    Return the desired state of a whole set of files, with every mistake in it.

    `last_good` has earlier versions, by path, to stand in for files that are broken now.
    """
    if problem := too_many(files):
        return Desired(revision, problems=(problem,))
    parser, files_by_path = Parser(), {}
    with gc_paused():
        for path, file in files.items():
            if parsed := parser.parse(path, file):
                earlier = (last_good or {}).get(path)
                standin = parser.parse(path, earlier) if earlier and parsed.spec is None else None
                files_by_path[path] = last_good_version(parsed, standin)
        return Builder().update(files_by_path, revision=revision)


@contextmanager
def gc_paused() -> Iterator[None]:
    """
    Pause the garbage collector during a build.

    Nothing in it is garbage and little of it has cycles; this saves a tenth of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def too_many(files: Collection[str]) -> Problem | None:
    """Return the problem of a revision that is too large to be read at all."""
    if len(files) <= MAX_FILES:
        return None
    return Problem(ROOT, 1, 1, f"more than {MAX_FILES} files; nothing of this revision is in force")


def last_good_version(parsed: Parsed, earlier: Parsed | None) -> Parsed:
    """Return a parsed file with its last good version, which stands in for it."""
    return replace(parsed, standin=earlier) if earlier and earlier.spec else parsed


class Builder:
    """Builds the desired state of a revision incrementally from the one before."""

    def __init__(self) -> None:
        self._files: dict[str, Parsed] = {}
        self._others: dict[str, Parsed] = {}
        """Files that are no tasks, by path."""
        self._specs: dict[str, Parsed] = {}
        """Task files, and tasks of campaigns, by name of the task."""
        self._claims: dict[str, dict[str, Parsed]] = {}
        """The same with all that would be called so, by path."""
        self._cells: dict[str, Sequence[Parsed]] = {}
        """Tasks of each campaign's file, by path: they are made once."""
        self._campaigns: dict[str, Campaign] = {}
        self._unreadable = set[str]()
        """Campaigns without any good version."""
        self._shared = shared_specs(())
        self._index = Index()
        self._cycles: dict[str, str] = {}
        """Tasks in a cycle of dependencies, with the cycle as text."""
        self._dangling: set[str] = set()
        """Tasks that depend on one that is not there."""
        self._tasks: dict[str, Task] = {}
        self._broken: dict[str, tuple[Problem, ...]] = {}
        self._bad_files: dict[str, tuple[Problem, ...]] = {}
        self._variants: dict[str, Sequence[str]] = {}
        """Names of the variants of tasks that have any."""
        self._doubts: dict[str, tuple[Problem, ...]] = {}
        """Warnings about single files, by path."""
        self._task_doubts: dict[str, tuple[Problem, ...]] = {}
        """Warnings about tasks in relation to other files, by name."""

    @property
    def files(self) -> Mapping[str, Parsed]:
        """The parsed files, by path."""
        return self._files

    def update(self, changes: Mapping[str, Parsed | None], *, revision: str) -> Desired:
        """Return the desired state after some files changed; None: the file was removed."""
        touched = [each for path, parsed in changes.items() for each in self._file(path, parsed)]
        tasks = [parsed for parsed in touched if parsed.kind == "task"]
        changed = {parsed.name for parsed in tasks}
        cyclic = self._find_cycles(changed)
        if any(parsed.kind not in {"task", "campaign", None} for parsed in touched):
            self._shared = shared_specs(self._others.values())
            names = changed | self._specs.keys()
        else:
            keys = {key for parsed in tasks for key in _related_keys(parsed)}
            names = changed.union(cyclic, self._dangling, *map(self._index.names, keys))
        for name in names:
            self._check(name)
        for name in names.union(*(self._index.names(("needs", name)) for name in names)):
            self._doubt(name)
        return self._desired(revision)

    def _doubt(self, name: str) -> None:
        """Find the warnings about a task that is not broken."""
        self._task_doubts.pop(name, None)
        task, parsed = self._tasks.get(name), self._specs.get(name)
        if task is None or parsed is None or name in self._broken:
            return
        own = parsed.spec.model_fields_set if parsed.spec else frozenset()
        mistakes = doubts_of_task(task, own, self._tasks, self._shared)
        if warnings := [replace(each, is_doubt=True) for each in mistakes]:
            self._task_doubts[name] = tuple(
                locate_mistakes(warnings, parsed.path, parsed.file.data, parsed.cell)
            )

    def _shard_problems(self) -> Iterator[Problem]:
        """Yield what several reconcilers would each count or plan for themselves."""
        if self._shared.fleet.shards:
            for path, mistake in shared_by_shards(self._shared, self._tasks, self._campaigns):
                if parsed := self._others.get(path):
                    yield from locate_mistakes([mistake], parsed.path, parsed.file.data)

    def _fleet_doubts(self) -> Iterator[Problem]:
        parsed = self._others.get(FLEET_FILE)
        if parsed and parsed.spec:
            mistakes = doubts_of_fleet(self._shared, self._tasks)
            warnings = [replace(each, is_doubt=True) for each in mistakes]
            yield from locate_mistakes(warnings, parsed.path, parsed.file.data)

    def _host_doubts(self) -> Iterator[Problem]:
        for name, mistake in doubts_of_hosts(self._shared):
            if parsed := self._others.get(f"specs/hosts/{name}.yaml"):
                doubt = replace(mistake, is_doubt=True)
                yield from locate_mistakes([doubt], parsed.path, parsed.file.data)

    def _file(self, path: str, parsed: Parsed | None) -> Iterator[Parsed]:
        """Replace a file; yield the old and the new one."""
        self._bad_files.pop(path, None)
        self._doubts.pop(path, None)
        self._others.pop(path, None)
        if (old := self._files.get(path)) and old.kind == "campaign":
            self._campaigns.pop(old.name, None)
            self._unreadable.discard(old.name)
        if before := self._files.pop(path, None):
            for task in self._tasks_at(before):
                self._claim(task.name, path, None)
                yield task
            self._cells.pop(path, None)
            yield before
        if parsed:
            self._files[path] = parsed
            if parsed.problems:
                self._bad_files[path] = parsed.problems
            elif parsed.spec and (warnings := doubts(parsed.spec)):
                self._doubts[path] = tuple(locate_mistakes(warnings, path, parsed.file.data))
            if parsed.kind == "campaign":
                self._file_campaign(parsed)
            elif parsed.kind != "task":
                self._others[path] = parsed
            for task in self._tasks_at(parsed):
                self._claim(task.name, path, task)
                yield task
            yield parsed

    def _tasks_at(self, parsed: Parsed) -> Sequence[Parsed]:
        """Return the tasks that a file asks for."""
        return (parsed,) if parsed.kind == "task" else self._cells.get(parsed.path, ())

    def _file_campaign(self, parsed: Parsed) -> None:
        good = parsed.in_force
        self._cells[parsed.path] = tasks_of(parsed)
        if good and isinstance(good.spec, CampaignSpec):
            names = [task.name for task in self._cells[parsed.path]]
            self._campaigns[parsed.name] = as_campaign(parsed.name, good.spec, names)
        else:
            self._unreadable.add(parsed.name)

    def _claim(self, name: str, path: str, parsed: Parsed | None) -> None:
        """Let a file have a task of this name, or no longer; of several, a file of its own comes first."""
        claims = self._claims.setdefault(name, {})
        claims.pop(path, None)
        if parsed:
            claims[path] = parsed
        if before := self._specs.pop(name, None):
            self._index.remove(name, _keys(before))
        if claims:
            first = self._specs[name] = claims[max(claims)]
            self._index.add(name, _keys(first))
        else:
            del self._claims[name]

    def _find_cycles(self, changed: set[str]) -> set[str]:
        """Update the cycles; return the tasks that were or are in one."""
        before = set(self._cycles)
        # A new cycle goes through a changed task; a remaining one, through a task that was in it before.
        starts = sorted(name for name in changed | before if name in self._specs)
        self._cycles = {name: _in_print(cycle) for name, cycle in cycles(starts, self._needs).items()}
        return before | self._cycles.keys()

    def _needs(self, name: str) -> Iterable[str]:
        spec = _spec(self._specs[name])
        return [other for other in _needed(spec) if other in self._specs] if spec else ()

    def _check(self, name: str) -> None:
        """Resolve a task and find its problems, or drop it if its file was removed."""
        self._dangling.discard(name)
        self._broken.pop(name, None)
        for each in (name, *self._variants.pop(name, ())):
            self._tasks.pop(each, None)
            self._broken.pop(each, None)
        parsed = self._specs.get(name)
        if parsed is None:
            return
        try:
            self._resolve(name, parsed)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told of the task it is about
            self._broken[name] = (Problem(parsed.path, 1, 1, fault_message(error, "reading it")),)

    def _resolve(self, name: str, parsed: Parsed) -> None:
        good = parsed.in_force
        if good and isinstance(good.spec, TaskSpec):
            blank = self._shared.blanks.get(good.spec.repo, self._shared.blanks[None])
            self._tasks[name] = resolve(
                name,
                good.spec,
                generation=good.file.blob,
                blank=blank,
                campaign=parsed.cell and name.removesuffix(f"/{parsed.cell.name}"),
                is_pilot=parsed.is_pilot,
            )
        variants = variants_of(self._tasks[name]) if name in self._tasks else ()
        if variants:
            self._variants[name] = [each.name for each in variants]
            self._tasks |= {each.name: each for each in variants}
        if problems := parsed.problems or self._problems(parsed):
            self._broken |= dict.fromkeys((name, *self._variants.get(name, ())), problems)

    def _problems(self, parsed: Parsed) -> tuple[Problem, ...]:
        """Return the problems of a valid task file in relation to the other files."""
        task, shared = self._tasks[parsed.name], self._shared
        problems = locate_mistakes(self._mistakes(task), parsed.path, parsed.file.data, parsed.cell)
        if fleet := shared.broken.get(("fleet", "fleet")):
            problems.append(fleet)
        if not _names_adapter(parsed):
            problems += shared.faults.get(task.repo, ())
        return tuple(sorted(problems))

    def _mistakes(self, task: Task) -> Iterator[Mistake]:
        shared = self._shared
        if len(claims := self._claims[task.name]) > 1:
            yield Mistake((), f"task {task.name!r} is in {' and in '.join(sorted(claims))}; rename one")
        if task.repo is not None and task.repo not in shared.repos:
            yield Mistake(("repo",), *shared.missing("repo", task.repo, shared.repos))
        is_of_others = task.variants and all(variant.adapter for variant in task.variants)
        if (adapter := shared.adapters.get(task.adapter)) and not is_of_others:
            yield from _script_mistakes(task, adapter)
            yield from _template_mistakes(task, adapter, shared.repos.get(task.repo or ""))
        elif _names_adapter(self._specs[task.name]):
            yield Mistake(("adapter",), *shared.missing("adapter", task.adapter, shared.adapters))
        if task.mode == "plan" and task.execution_mode is ExecutionMode.HTTP_PULL:
            is_own = "mode" in self._own_fields(task.name)
            why = "plan is for runs on hosts, and this task is `http_pull`: set `mode: work` in it"
            yield Mistake(("mode",) if is_own else (), why)
        yield from self._variant_mistakes(task)
        yield from self._account_mistakes(task)
        yield from self._dependency_mistakes(task)
        if other := self._index.other(("folded", task.name.casefold()), task.name):
            yield Mistake((), f"differs only in case from task {other!r}")
        repo = shared.repos.get(task.repo or "")
        if repo and task.desired is not DesiredState.CANCELLED:
            yield from self._branch_mistakes(task, repo)
        if task.review == "pull_request" and (task.repo is None or (repo and repo.forge is None)):
            lacks = f"a `forge` in repo {repo.name!r}" if repo else "a `repo`"
            yield Mistake(("review",), f"pull_request needs {lacks}")

    def _account_mistakes(self, task: Task) -> Iterator[Mistake]:
        """Yield what is wrong with a task's accounts, fallback and reviewer; of inherited ones others say."""
        shared, own = self._shared, self._own_fields(task.name)
        if "accounts" in own and task.adapter in shared.adapters:
            yield from shared.account_mistakes(task.accounts, ("accounts",), task.adapter)
        if "fallback" in own:
            yield from shared.fallback_mistakes(task)
        if "review_by" in own:
            yield from shared.reviewer_mistakes(task)
        if task.review_by and (why := _no_review(task, is_own="review_by" in own)):
            yield Mistake(("review_by",), why, at_key="review_by" in own)
        other = fallback_task(task)
        adapter = shared.adapters.get(other.adapter) if other else None
        takes_script = adapter and adapter.runs_scripts
        if task.script is None and takes_script:
            message = (
                f"adapter {task.fallback and task.fallback.adapter!r} runs a `script`, and there is none"
            )
            yield Mistake(("fallback",), message, at_key=True)

    def _variant_mistakes(self, task: Task) -> Iterator[Mistake]:
        """Yield why a task cannot be done in several ways, or nobody can choose among them."""
        shared = self._shared
        repo = shared.repos.get(task.repo or "")
        if task.variants and (why := _no_variants(task, repo)):
            yield Mistake(("variants",), why, at_key=True)
        for number, variant in enumerate(variants_of(task)):
            where: Path = ("variants", number)
            adapter = shared.adapters.get(variant.adapter)
            if adapter is None and variant.adapter != task.adapter:
                yield Mistake(
                    (*where, "adapter"), *shared.missing("adapter", variant.adapter, shared.adapters)
                )
            elif adapter and variant.adapter != task.adapter:
                yield from (replace(each, path=where) for each in _script_mistakes(variant, adapter))
            if task.variants[number].accounts and adapter:
                yield from shared.account_mistakes(variant.accounts, (*where, "accounts"), variant.adapter)
        if task.judge and not task.judge.is_person:
            yield from self._judge_mistakes(task.judge)
        elif task.judge:
            for field in sorted(task.judge.model_fields_set - {"adapter"}):
                yield Mistake(("judge", field), "is for an agent, and here a person chooses", at_key=True)

    def _judge_mistakes(self, judge: Judge) -> Iterator[Mistake]:
        shared = self._shared
        if judge.adapter not in shared.adapters:
            yield Mistake(("judge",), *shared.missing("adapter", judge.adapter, shared.adapters))
        elif shared.adapters[judge.adapter].runs_scripts:
            yield Mistake(
                ("judge",), f"adapter {judge.adapter!r} runs the task's own `script`, and chooses nothing"
            )
        elif judge.account:
            yield from shared.account_mistakes((judge.account,), ("judge", "account"), judge.adapter)

    def _own_fields(self, name: str) -> Collection[str]:
        """Return the fields that the task itself sets."""
        parsed = self._specs[name]
        return parsed.spec.model_fields_set if parsed.spec else ()

    def _dependency_mistakes(self, task: Task) -> Iterator[Mistake]:
        for at, name in enumerate(task.depends_on):
            if name not in self._specs:
                yield self._no_task(task, name, ("depends_on", at))
            elif self._shared.fleet.shards and (why := other_shard(self._shared.fleet, task.name, name)):
                yield Mistake(("depends_on", at), why)
        if task.start_from is not None:
            yield from self._stack_mistakes(task, task.start_from)
        if cycle := self._cycles.get(task.name):
            field = "depends_on" if task.depends_on else "start_from"
            yield Mistake((field,), f"goes in a circle: {cycle}", at_key=True)

    def _stack_mistakes(self, task: Task, name: str) -> Iterator[Mistake]:
        """Yield why a task cannot begin on the branch of another."""
        if name not in self._specs:
            yield self._no_task(task, name, ("start_from",))
            return
        before = _spec(self._specs[name])
        if task.repo is None:
            yield Mistake(("start_from",), "needs a `repo`: there is no branch without one")
        elif before is not None and before.repo != task.repo:
            theirs = f"repo {before.repo!r}" if before.repo else "no repo"
            yield Mistake(("start_from",), f"task {name!r} works in {theirs}, not in {task.repo!r}")
        if self._shared.fleet.shards and (why := other_shard(self._shared.fleet, task.name, name)):
            yield Mistake(("start_from",), why)

    def _no_task(self, task: Task, name: str, where: Path) -> Mistake:
        """Return the problem that a task refers to a missing one, which blocks the task."""
        self._dangling.add(task.name)
        hint = self._meant(task.name, name)
        return Mistake(where, f"no task {name!r}{'' if hint else remedy('task', name)}", hint)

    def _meant(self, task: str, name: str) -> str:
        """Return the task that was probably meant where the folder was left out or mistyped."""
        if other := self._index.other(("last", _last(name)), task):
            return other
        siblings = self._index.names(("folder", _folder(name)))
        return nearest(name, siblings - {task}) if len(siblings) <= _FEW else ""

    def _branch_mistakes(self, task: Task, repo: Repo) -> Iterator[Mistake]:
        branch, base = task.branch, repo.base
        where: Path = ("branch_name",) if task.branch_name else ()
        if branch == base:
            yield Mistake(where, f"{branch!r} is the base branch of repo {repo.name!r}")
        elif base in _parents(branch) or branch in _parents(base):
            yield Mistake(where, f"git cannot have both {branch!r} and the base branch {base!r}")
        for key in _conflicting_keys(repo.name, branch):
            if other := self._index.other(key, task.name):
                theirs = _branch(self._specs[other])
                same = f"task {other!r} has the branch {branch!r} too"
                both = f"git cannot have both {branch!r} and {theirs!r} of task {other!r}"
                yield Mistake(where, same if theirs == branch else both)

    def _desired(self, revision: str) -> Desired:
        shared = self._shared
        problems = {*shared.problems, *self._shard_problems()}.union(
            *self._bad_files.values(), *self._broken.values()
        )
        doubtful = {*self._fleet_doubts(), *self._host_doubts()}.union(
            *self._doubts.values(), *self._task_doubts.values()
        )
        return Desired(
            revision=revision,
            fleet=shared.fleet,
            tasks=dict(self._tasks),
            hosts=shared.hosts,
            adapters=shared.adapters,
            accounts=shared.accounts,
            agents=shared.agents,
            repos=shared.repos,
            campaigns=dict(self._campaigns),
            unreadable_campaigns=frozenset(self._unreadable),
            is_bare=not self._files,
            prices=shared.prices,
            broken=dict(self._broken),
            problems=tuple(sorted(problems)),
            warnings=tuple(sorted(doubtful)),
        )


_FEW = 200
"""Most names that are compared for a hint."""


def _spec(parsed: Parsed) -> TaskSpec | None:
    """Return the task spec that is in force."""
    good = parsed.in_force
    return good.spec if good and isinstance(good.spec, TaskSpec) else None


def _needed(spec: TaskSpec) -> Iterable[str]:
    return (*spec.depends_on, spec.start_from) if spec.start_from else spec.depends_on


def _names_adapter(parsed: Parsed) -> bool:
    """Return whether the task itself names an adapter; one from its repo or the fleet is their mistake."""
    return parsed.spec is not None and "adapter" in parsed.spec.model_fields_set


def _branch(parsed: Parsed) -> str:
    spec = _spec(parsed)
    return spec.branch_name if spec and spec.branch_name else f"task/{parsed.name}"


def _keys(parsed: Parsed) -> Iterator[Hashable]:
    """Yield the index keys of a task."""
    yield "folded", parsed.name.casefold()
    yield "last", _last(parsed.name)
    yield "folder", _folder(parsed.name)
    spec = _spec(parsed)
    if spec is None:
        return
    for name in _needed(spec):
        yield "needs", name
    if spec.repo and spec.desired is not DesiredState.CANCELLED:
        branch = _branch(parsed)
        yield "branch", spec.repo, branch
        for parent in _parents(branch):
            yield "below", spec.repo, parent


def _related_keys(parsed: Parsed) -> Iterator[Hashable]:
    """Yield the index keys of tasks whose validity may depend on this one."""
    yield "folded", parsed.name.casefold()
    yield "needs", parsed.name
    spec = _spec(parsed)
    if spec and spec.repo:
        yield from _conflicting_keys(spec.repo, _branch(parsed))


def _conflicting_keys(repo: str, branch: str) -> Iterator[Hashable]:
    """Yield the index keys of tasks whose branch conflicts with this one's."""
    yield "branch", repo, branch
    yield "below", repo, branch
    for parent in _parents(branch):
        yield "branch", repo, parent


def _parents(branch: str) -> Iterator[str]:
    """Yield the folders that a branch is in: git keeps a branch as a file."""
    while "/" in branch:
        branch = branch.rpartition("/")[0]
        yield branch


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _in_print(cycle: Sequence[str]) -> str:
    names = cycle if len(cycle) <= _SHOWN else [*cycle[: _SHOWN - 1], "…", cycle[-1]]
    return " → ".join(names)


_SHOWN = 8


def _script_mistakes(task: Task, adapter: Adapter) -> Iterator[Mistake]:
    if task.script is not None and not adapter.runs_scripts:
        message = f"adapter {task.adapter!r} takes no script; say in `goal` what is to be done"
        yield Mistake(("script",), message, at_key=True)
    elif task.script is None and adapter.runs_scripts and task.execution_mode is ExecutionMode.SSH_CLI:
        message = (
            f"is missing: adapter {task.adapter!r} runs it; or name an agent's adapter, such as "
            "`adapter: claude-code`, here or for all tasks in specs/fleet.yaml"
        )
        yield Mistake(("script",), message)


def _template_mistakes(task: Task, adapter: Adapter, repo: Repo | None) -> Iterator[Mistake]:
    """Yield why the prompt's template, wherever it comes from, cannot be printed for a task."""
    is_pulled = task.execution_mode is ExecutionMode.HTTP_PULL
    source = task.template or (None if is_pulled else adapter.template)
    if source is None or (repo is None) != (task.repo is None):
        return
    from reconciler.core.runs.prompt import try_for  # noqa: PLC0415 - few tasks have one, and it is heavy

    whose = "" if task.template else f"of adapter {adapter.name!r}: "
    yield from (template_mistake(("template",), each, whose) for each in try_for(source, task, repo))


def _no_variants(task: Task, repo: Repo | None) -> str:
    """Return why a task can have no variants; empty if it can."""
    reasons = {
        "need a `repo`: there is nothing to choose among without one": task.repo is None,
        "are for runs on hosts, and this task is `http_pull`": task.execution_mode is ExecutionMode.HTTP_PULL,
        "and `schedule` exclude each other": task.schedule is not None,
        "and `mode: plan` exclude each other: each would wait for a person": task.mode == "plan",
        "are for tasks with a file of their own, and not of a campaign": task.campaign is not None,
        "need a repo that the reconciler may push to, and not `push: host`": bool(
            repo and repo.push == "host"
        ),
        "are at least two": len(task.variants) == 1,
    }
    return next((why for why, is_so in reasons.items() if is_so), "")


def _no_review(task: Task, *, is_own: bool) -> str:
    """Return why no second agent can review the work of a task; empty if one can."""
    if task.execution_mode is ExecutionMode.HTTP_PULL:
        return "is for runs on hosts, and this task is `http_pull`: set `review_by: null` in it"
    return "" if task.repo or not is_own else "needs a `repo`: there is no diff to review without one"
