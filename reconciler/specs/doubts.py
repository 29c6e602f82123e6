"""
Warnings: specs that are valid but probably not what was meant.

A field that nothing reads, a task that nobody can ever take. Files may be on
their way that make it right, so nothing is kept back for it.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import singledispatch

from reconciler.core.adapter import Adapter, AdapterSpec, Budget
from reconciler.core.fields import Frozen
from reconciler.core.model.specs import (
    AccountSpec,
    AgentSpec,
    DesiredState,
    ExecutionMode,
    FleetSpec,
    Host,
    HostSpec,
    RepoSpec,
    Task,
    TaskDefaults,
    TaskSpec,
)
from reconciler.core.prices import price_of, reports_money
from reconciler.core.runs.accounts import fallback_task
from reconciler.core.text import one_line
from reconciler.core.variants import judging, variants_of
from reconciler.specs.parse import nearest
from reconciler.specs.rules import Mistake
from reconciler.specs.shared import SharedSpecs
from reconciler.specs.yaml import Path

# --- In one file -----------------------------------------------------------


def doubts(spec: Frozen) -> list[Mistake]:
    """Return the warnings about a spec that do not depend on other files."""
    return [replace(each, is_doubt=True) for each in (*_doubts(spec), *_twice(spec))]


def _twice(spec: Frozen) -> Iterator[Mistake]:
    """Yield what stands twice in a list of names."""
    for field in _NAMES & spec.model_fields_set:
        values = getattr(spec, field)
        if not isinstance(values, tuple):
            continue
        for at, value in enumerate(values):
            if value in values[:at]:
                yield Mistake((field, at), f"stands twice: {value!r}")


_NAMES = frozenset(
    {
        "labels",
        "requires",
        "prefer",
        "capabilities",
        "scopes",
        "reviewers",
        "token_hash",
        "depends_on",
        "accounts",
        "adapters",
        "hosts",
        "repos",
    }
)


@singledispatch
def _doubts(_: Frozen) -> Iterator[Mistake]:
    yield from ()


@_doubts.register
def _host(spec: HostSpec) -> Iterator[Mistake]:
    if spec.address is None:
        for field in ("port", "user", "host_key", "identity", "jump", "agent_forwarding", "ssh_config"):
            yield from _idle(spec, field, "without `address` runs are local subprocesses")
    elif spec.scheduler:
        yield from _idle(
            spec, "agent_forwarding", "the nodes of a cluster do not reach the login node's agent"
        )
    if not spec.drain:
        yield from _idle(spec, "drain_until", "it needs `drain: true`")
    else:
        yield from _idle(spec, "cordon", "`drain` takes no new runs either")
    if spec.adapters == {}:
        yield Mistake(("adapters",), "names none, so that no agent runs here; leave it out for any")
    yield from _env(spec.env)
    if spec.repos == ():
        yield Mistake(("repos",), "names none, so that no task with a repo runs here; leave it out for any")
    yield from _budgets(spec)


@_doubts.register
def _adapter(spec: AdapterSpec) -> Iterator[Mistake]:
    yield from _env(spec.env)
    yield from _budgets(spec)


@_doubts.register
def _account(spec: AccountSpec) -> Iterator[Mistake]:
    if spec.hosts == ():
        yield Mistake(("hosts",), "names none, so that no run may use it; leave it out for any")
    yield from _budgets(spec)


@_doubts.register
def _agent(spec: AgentSpec) -> Iterator[Mistake]:
    if not spec.token_hash:
        yield Mistake((), "has no `token_hash`, so nobody can join as this agent: see `reconciler token`")
    if not spec.scopes:
        yield Mistake(("scopes",), "is empty: the token may do nothing")
    elif "agent" not in spec.scopes:
        for field in ("capabilities", "slots"):
            yield from _idle(spec, field, "without the scope `agent` it takes no tasks")


@_doubts.register
def _repo(spec: RepoSpec) -> Iterator[Mistake]:
    if spec.forge is None:
        for field in (
            "labels",
            "reviewers",
            "draft",
            "merge",
            "merge_style",
            "comments_from",
            "failed_checks",
        ):
            yield from _idle(spec, field, "it needs a `forge`")
    elif spec.merge == "never":
        yield from _idle(spec, "merge_style", "it needs `merge`")
    yield from _settings(spec)


@_doubts.register
def _fleet(spec: FleetSpec) -> Iterator[Mistake]:
    if spec.backoff_cap < spec.backoff:
        yield Mistake(("backoff_cap",), "is shorter than `backoff`, which has no effect then")
    if spec.lost_after < 2 * spec.poll_interval:
        yield Mistake(
            ("lost_after",),
            "is less than two looks (`poll_interval`): a host that misses one is taken for lost",
        )
    if spec.issues is not None and not spec.issues.authors:
        yield _no_effect(("issues",), "without `authors` nobody's issues become tasks")
    yield from _settings(spec)


@_doubts.register
def _task(spec: TaskSpec) -> Iterator[Mistake]:
    yield from _env(spec.env)
    if spec.repo is None:
        yield from _idle(spec, "branch_name", "it needs a `repo`")
    if spec.schedule is None and not spec.window:
        yield from _idle(spec, "timezone", "it needs a `schedule` or a `window`")
    yield from _settings(spec)


def _env(env: Mapping[str, str]) -> Iterator[Mistake]:
    """Yield the variables that cannot mean what they seem to."""
    for name, value in env.items():
        if name.startswith("RECONCILER_"):
            yield Mistake(
                ("env", name), "is a name of the reconciler's own variables, which win", at_key=True
            )
        elif name == "PATH" and not value.strip():
            yield Mistake(("env", name), "is empty: no program is found")


def _settings(spec: TaskDefaults) -> Iterator[Mistake]:
    if {"timeout", "stall_timeout"} <= spec.model_fields_set and spec.stall_timeout > spec.timeout:
        yield _no_effect(("stall_timeout",), "`timeout` ends the agent before")
    if spec.template is not None and "{" not in spec.template:
        yield Mistake(("template",), "is the same for every task: it has no `{{ task.goal }}`")
    for field in sorted(spec.model_fields_set - {"template"}):
        yield from _variables((field,), getattr(spec, field))
    yield from _budgets(spec)


_VARIABLE = re.compile(r"\{\{-?\s*([A-Za-z_]\w*)[^{}]*\}\}")


def _variables(path: Path, value: object) -> Iterator[Mistake]:
    """Yield the texts with a variable of templates, which nothing fills in where it stands."""
    if isinstance(value, tuple):
        for at, each in enumerate(value):
            yield from _variables((*path, at), each)
    elif isinstance(value, str) and "{{" in value:
        from reconciler.core.runs.prompt import VARIABLES  # noqa: PLC0415 - few texts need it

        if meant := next((each for each in _VARIABLE.finditer(value) if each[1] in VARIABLES), None):
            message = f"`{one_line(meant[0])}` stays as it is written: variables are filled in by `template`"
            yield Mistake(path, message)


def _budgets(spec: Frozen) -> Iterator[Mistake]:
    if getattr(spec, "max_running", None) == 0:
        yield Mistake(("max_running",), "is 0: no run starts as long as it is")
    for field in ("budget", "daily_budget", "weekly_budget"):
        if getattr(spec, field, None) == Budget():
            yield Mistake((field,), "limits nothing: give it `cost_usd` or `tokens`")


def _idle(spec: Frozen, field: str, why: str) -> Iterator[Mistake]:
    default = type(spec).model_fields[field].default
    if field in spec.model_fields_set and getattr(spec, field) != default:
        yield _no_effect((field,), why)


def _no_effect(path: Path, why: str) -> Mistake:
    return Mistake(path, f"has no effect: {why}", at_key=True)


# --- Between files ---------------------------------------------------------


def doubts_of_fleet(shared: SharedSpecs, tasks: Mapping[str, Task]) -> Iterator[Mistake]:
    """Yield warnings about fleet.yaml in relation to the other files."""
    for label, most in shared.fleet.limits.items():
        if most == 0:
            yield Mistake(("limits", label), f"is 0: no task that requires {label!r} starts as long as it is")
        if not _somebody_has(shared, label):
            yield _no_effect(("limits", label), f"no host and no agent has the label {label!r}")
    if shared.fleet.issues is not None and not any(repo.forge for repo in shared.repos.values()):
        yield _no_effect(("issues",), "no repo has a `forge`")
    if shared.fleet.notify is not None:
        from reconciler.specs.notifications import notify_doubts  # noqa: PLC0415 - few fleets need it

        yield from notify_doubts(shared.fleet.notify, shared, tasks)
    if shared.fleet.forge is None and not any(repo.forge for repo in shared.repos.values()):
        yield from _idle(shared.fleet, "forge_interval", "nothing has a `forge`")


def doubts_of_hosts(shared: SharedSpecs) -> Iterator[tuple[str, Mistake]]:
    """Yield the hosts that are where another one is, with a warning."""
    places: dict[tuple[object, ...], str] = {}
    for name, host in sorted(shared.hosts.items()):
        if host.is_local and host.workdir is None:
            continue  # each has a folder of its own
        first = places.setdefault((host.address, host.port, host.user, host.jump, host.workdir), name)
        if first != name:
            field = "workdir" if host.is_local else "address"
            message = (
                f"is where host {first!r} is, with the same user and `workdir`: each counts its slots for "
                "itself, and what is found there belongs to both; make one of them, or give each a `workdir`"
            )
            yield name, Mistake((field,), message)


def doubts_of_task(
    task: Task, own: Collection[str], tasks: Mapping[str, Task], shared: SharedSpecs
) -> Iterator[Mistake]:
    """Yield warnings about a task, whose file sets `own` fields, in relation to everything else."""
    if task.desired is DesiredState.CANCELLED:
        return
    is_pulled = task.execution_mode is ExecutionMode.HTTP_PULL
    if task.validate_on is not None and task.validate_on not in shared.hosts:
        yield Mistake(("validate_on",), *shared.missing("host", task.validate_on, shared.hosts))
    elif task.validate_on is not None and not is_pulled and "validate_on" in own:
        yield _no_effect(("validate_on",), "it is for `execution_mode: http_pull`")
    elif task.validate_on is not None and not task.validation:
        yield _no_effect(("validate_on",), "there is no `validation`")
    if is_pulled:
        yield from _nobody(task, shared)
    else:
        yield from _nowhere(task, shared)
        yield from _no_model(task, shared)
        yield from _no_price(task, shared)
    for preference in task.prefer:
        if not _somebody_has(shared, preference):
            yield Mistake(("prefer",), f"no host and no agent has the label or name {preference!r}")
    yield from _dependencies(task, tasks)
    yield from _below(task, tasks)
    yield from _uncounted(task, shared) if "budget" in own else ()
    for field, why in _unused(task, shared):
        if field in own and getattr(task, field) != TaskSpec.model_fields[field].default:
            yield _no_effect((field,), why)


def _unused(task: Task, shared: SharedSpecs) -> Iterator[tuple[str, str]]:
    """Yield the fields that nothing asks for in a task as it is, and why."""
    if task.execution_mode is ExecutionMode.HTTP_PULL:
        for field in (
            "adapter",
            "model",
            "script",
            "stall_timeout",
            "disconnect",
            "fix_attempts",
            "outputs",
            "files",
        ):
            yield field, "an agent that takes tasks over HTTP runs its own CLI, and is heard by its lease"
    if task.review == "none":
        yield "max_reviews", "it needs a `review`"
    if not task.validation:
        yield "fix_attempts", "there is no `validation` that could fail"
    if task.repo is None:
        yield "allow_empty", "it needs a `repo`: without one nothing is expected to change"
    if task.budget is None and not _limits_a_day(shared):
        yield "over_budget", "there is no `budget`"


def _limits_a_day(shared: SharedSpecs) -> bool:
    of_hosts = any(host.daily_budget for host in shared.hosts.values())
    of_adapters = any(adapter.daily_budget for adapter in shared.adapters.values())
    of_repos = any(repo.daily_budget for repo in shared.repos.values())
    return bool(shared.fleet.daily_budget or of_hosts or of_adapters or of_repos)


def _uncounted(task: Task, shared: SharedSpecs) -> Iterator[Mistake]:
    """Yield the limits of a budget that nothing is counted against."""
    adapter = shared.adapters.get(task.adapter)
    if task.budget is None or adapter is None or task.execution_mode is ExecutionMode.HTTP_PULL:
        return
    rules = adapter.output
    tokens = rules.input_tokens or rules.output_tokens
    counts = {"cost_usd": rules.cost_usd or tokens, "tokens": tokens}
    for limit, rule in counts.items():
        if getattr(task.budget, limit) is not None and rule is None:
            why = f"adapter {task.adapter!r} has no rule that finds what a run took of it"
            yield _no_effect(("budget", limit), why)


def _below(task: Task, tasks: Mapping[str, Task]) -> Iterator[Mistake]:
    """Yield why the work that a task begins on never comes to where its own can be merged."""
    other = tasks.get(task.start_from or "")
    if other is None:
        return
    if other.desired is DesiredState.CANCELLED:
        yield Mistake(("start_from",), f"{other.name!r} is cancelled, so that its branch will never be there")
    elif task.review == "pull_request" and other.review == "none":
        yield Mistake(
            ("start_from",),
            f"{other.name!r} is completed without being merged (`review: none`), so that this pull request "
            "stays against its branch until a person merges that; give it `review: pull_request`",
        )


def _dependencies(task: Task, tasks: Mapping[str, Task]) -> Iterator[Mistake]:
    for at, name in enumerate(task.depends_on):
        other = tasks.get(name)
        if other is None or getattr(task, "start_from", None) == name:
            continue
        if other.desired is DesiredState.CANCELLED:
            yield Mistake(("depends_on", at), f"{name!r} is cancelled, so that it will never be completed")
        elif task.repo is not None and task.repo == other.repo and other.review == "none":
            yield Mistake(
                ("depends_on", at),
                f"brings order, not work: {name!r} is completed without being merged (`review: none`), and "
                f"this one starts from the base branch, without its commits; to go on from its branch say "
                f"`start_from: {name}`",
            )


def _nobody(task: Task, shared: SharedSpecs) -> Iterator[Mistake]:
    for at, label in enumerate(task.requires):
        if shared.agents and not any(
            label in _labels(a.capabilities, a.name) for a in shared.agents.values()
        ):
            yield Mistake(("requires", at), f"no agent has the label {label!r}")


def _nowhere(task: Task, shared: SharedSpecs) -> Iterator[Mistake]:
    """Yield why no host can ever take a task, one of its variants, or the judge of these."""
    if not task.variants:
        yield from _no_host(task, shared)
        return
    seen = dict[Mistake, None]()
    for number, variant in enumerate(variants_of(task)):
        is_own = variant.adapter != task.adapter
        for each in _no_host(variant, shared):
            seen[
                replace(each, path=("variants", number)) if is_own and each.path == ("adapter",) else each
            ] = None
    if task.judge and not task.judge.is_person:
        seen |= {replace(each, path=("judge",)): None for each in _no_host(judging(task), shared)}
    yield from seen


def _no_host(task: Task, shared: SharedSpecs) -> Iterator[Mistake]:
    """Yield why no host can ever take a task: the first requirement that no host meets, or not together."""
    hosts = list(shared.hosts.values())
    if not hosts:
        return  # none of them can be read, and that is told
    wanted = {*task.requires}
    if any(wanted <= _labels(host.capabilities, host.name) and _fits(host, task) for host in hosts):
        return
    for at, label in enumerate(task.requires):
        if not any(label in _labels(host.capabilities, host.name) for host in hosts):
            yield Mistake(("requires", at), f"no host has the label {label!r}", _near_label(shared, label))
            return
    fitting = [host for host in hosts if wanted <= _labels(host.capabilities, host.name)]
    for field, message, fits in (
        ("requires", "no host has all of these labels", lambda _: True),
        ("adapter", f"no host that fits offers the adapter {task.adapter!r}", lambda h: _offers(h, task)),
        ("repo", f"no host that fits may work on the repo {task.repo!r}", lambda h: _may_work_on(h, task)),
        ("review_by", "no host that fits offers the adapter of the review", lambda h: _reviews(h, task)),
        ("slots", f"no host that fits has {task.slots} slots", lambda host: host.slots >= task.slots),
    ):
        fitting = [host for host in fitting if fits(host)]
        if not fitting:
            yield Mistake((field,), message)
            return


def _no_model(task: Task, shared: SharedSpecs) -> Iterator[Mistake]:
    adapter = shared.adapters.get(task.adapter)
    if task.model is not None and adapter is not None and adapter.command and not adapter.model:
        yield _no_effect(("model",), f"adapter {task.adapter!r} has no arguments that choose a model")


def _no_price(task: Task, shared: SharedSpecs) -> Iterator[Mistake]:
    """Yield why a budget of US dollars does not count what a task takes: its tokens have no price."""
    for each in filter(None, (task, fallback_task(task))):
        adapter = shared.adapters.get(each.adapter)
        if adapter is None or not _is_reckoned(adapter) or not _limits_money(each, shared):
            continue
        if price_of(each.model, shared.prices) or (each.model is None and adapter.output.model):
            continue
        why = (
            f"model {each.model!r} has no price: give it one in specs/prices.yaml"
            if each.model
            else f"adapter {each.adapter!r} reports no money, and no `model` says by which price to reckon it"
        )
        message = f"{why}; without that its tokens are in no budget of US dollars"
        yield Mistake(("model",) if each is task else ("fallback",), message)


def _is_reckoned(adapter: Adapter) -> bool:
    """Return whether a CLI counts tokens and reports no money."""
    rules = adapter.output
    return not reports_money(adapter) and bool(rules.input_tokens or rules.output_tokens)


def _limits_money(task: Task, shared: SharedSpecs) -> bool:
    """Return whether a budget of US dollars bounds a task, or may."""
    repo, adapter = shared.repos.get(task.repo or ""), shared.adapters.get(task.adapter)
    accounts = [account for account in shared.accounts.values() if task.adapter in account.adapters]
    budgets = (
        task.budget,
        shared.fleet.daily_budget,
        *(spec.daily_budget for spec in (repo, adapter) if spec),
        *(host.daily_budget for host in shared.hosts.values()),
        *(budget for each in accounts for budget in (each.daily_budget, each.weekly_budget)),
    )
    return any(budget is not None and budget.cost_usd is not None for budget in budgets)


def _fits(host: Host, task: Task) -> bool:
    is_able = _offers(host, task) and _may_work_on(host, task) and _reviews(host, task)
    return is_able and host.slots >= task.slots


def _offers(host: Host, task: Task) -> bool:
    return host.adapters is None or task.adapter in host.adapters


def _reviews(host: Host, task: Task) -> bool:
    if task.review_by is None or task.repo is None or host.adapters is None:
        return True
    return task.review_by.adapter in host.adapters


def _may_work_on(host: Host, task: Task) -> bool:
    return task.repo is None or host.repos is None or task.repo in host.repos


def _labels(labels: Collection[str], name: str) -> set[str]:
    return {*labels, name}


def _somebody_has(shared: SharedSpecs, label: str) -> bool:
    hosts = (_labels(host.capabilities, host.name) for host in shared.hosts.values())
    agents = (_labels(agent.capabilities, agent.name) for agent in shared.agents.values())
    return any(label in labels for labels in (*hosts, *agents))


def _near_label(shared: SharedSpecs, label: str) -> str:
    labels = {each for host in shared.hosts.values() for each in _labels(host.capabilities, host.name)}
    return nearest(label, labels)
