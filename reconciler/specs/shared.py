"""
Shared specs: the fleet's settings, hosts, adapters, agents, repos, and mistakes between them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TypeVar

from reconciler.core.adapter import Adapter, AdapterSpec
from reconciler.core.errors import Problem
from reconciler.core.fields import Frozen
from reconciler.core.model.specs import (
    LOCAL,
    Account,
    AccountSpec,
    Agent,
    AgentSpec,
    FleetSpec,
    Host,
    HostSpec,
    Kind,
    Repo,
    RepoSpec,
    Task,
    TaskDefaults,
)
from reconciler.core.prices import Price, PricesSpec
from reconciler.core.references import remedy
from reconciler.specs import layers
from reconciler.specs.layers import default_task, with_name
from reconciler.specs.parse import Parsed, locate_mistakes, nearest
from reconciler.specs.rules import Mistake
from reconciler.specs.shards import host_mistakes
from reconciler.specs.yaml import Path

Model = TypeVar("Model", bound=Frozen)


@dataclass(frozen=True, slots=True)
class SharedSpecs:
    """Everything but the tasks, of one revision."""

    fleet: FleetSpec = field(default_factory=FleetSpec)
    hosts: Mapping[str, Host] = field(default_factory=dict)
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    accounts: Mapping[str, Account] = field(default_factory=dict)
    agents: Mapping[str, Agent] = field(default_factory=dict)
    repos: Mapping[str, Repo] = field(default_factory=dict)
    prices: Mapping[str, Price] = field(default_factory=dict)
    blanks: Mapping[str | None, Task] = field(default_factory=dict)
    """What each repo's tasks inherit; None: tasks without a repo."""
    faults: Mapping[str | None, tuple[Problem, ...]] = field(default_factory=dict)
    """Problems of inherited adapters; they break the tasks that inherit them."""
    broken: Mapping[tuple[Kind, str], Problem] = field(default_factory=dict)
    """Objects without even a last good version, and their first problem."""
    problems: tuple[Problem, ...] = ()

    def missing(self, kind: Kind, name: str, among: Iterable[str]) -> tuple[str, str]:
        """Return message and hint for a reference to a missing object."""
        if problem := self.broken.get((kind, name)):
            return f"{kind} {name!r} is broken, see {problem.path}:{problem.line}:{problem.column}", ""
        names = sorted(among)
        hint = nearest(name, names)
        return f"no {kind} {name!r}{'' if hint else remedy(kind, name, names)}", hint

    def account_mistakes(
        self, names: Sequence[str], path: Path, adapter: str | None = None
    ) -> Iterator[Mistake]:
        """Yield the accounts that are not there, or do not serve an adapter if one is named."""
        for at, name in enumerate(names):
            account = self.accounts.get(name)
            if account is None:
                yield Mistake((*path, at), *self.missing("account", name, self.accounts))
            elif adapter is not None and adapter not in account.adapters:
                served = ", ".join(account.adapters)
                yield Mistake((*path, at), f"account {name!r} serves {served}, not adapter {adapter!r}")

    def fallback_mistakes(self, spec: TaskDefaults) -> Iterator[Mistake]:
        """Yield what of a fallback is not there."""
        fallback = spec.fallback
        if fallback is None:
            return
        adapter = fallback.adapter
        if adapter is not None and adapter not in self.adapters:
            yield Mistake(("fallback", "adapter"), *self.missing("adapter", adapter, self.adapters))
        yield from self.account_mistakes(fallback.accounts, ("fallback", "accounts"), adapter)

    def reviewer_mistakes(self, spec: TaskDefaults) -> Iterator[Mistake]:
        """Yield what a second opinion needs and is not there, or cannot give one."""
        if (reviewer := spec.review_by) is None:
            return
        adapter, where = self.adapters.get(reviewer.adapter), ("review_by", "adapter")
        if adapter is None:
            yield Mistake(where, *self.missing("adapter", reviewer.adapter, self.adapters))
        elif adapter.runs_scripts:
            yield Mistake(where, f"adapter {reviewer.adapter!r} runs the task's own `script`, and no review")
        if reviewer.account is not None:
            accounts = self.account_mistakes([reviewer.account], (), reviewer.adapter)
            yield from (replace(each, path=("review_by", "account")) for each in accounts)


def shared_specs(files: Iterable[Parsed]) -> SharedSpecs:
    """Return the shared specs made from all files but tasks."""
    by_kind = _by_kind(files)
    fleet = next(iter(_good(by_kind, "fleet").values()), None)
    settings = fleet.spec if fleet and isinstance(fleet.spec, FleetSpec) else FleetSpec()
    repos = _named(Repo, _good(by_kind, "repo"))
    shared = SharedSpecs(
        fleet=settings,
        hosts=_hosts(by_kind),
        adapters=_adapters(by_kind),
        accounts=_named(Account, _good(by_kind, "account")),
        agents=_named(Agent, _good(by_kind, "agent")),
        repos=repos,
        prices=_prices(by_kind),
        blanks={None: default_task(settings, None)}
        | {name: default_task(settings, repo) for name, repo in repos.items()},
        broken=_broken(by_kind),
    )
    return _checked(shared, by_kind)


_ByKind = Mapping[Kind, Mapping[str, Parsed]]


def _by_kind(files: Iterable[Parsed]) -> _ByKind:
    by_kind: dict[Kind, dict[str, Parsed]] = {}
    for parsed in sorted(files, key=lambda parsed: parsed.path):
        if parsed.kind:
            by_kind.setdefault(parsed.kind, {})[parsed.name] = parsed
    return by_kind


def _good(by_kind: _ByKind, kind: Kind) -> Mapping[str, Parsed]:
    return {name: good for name, parsed in by_kind.get(kind, {}).items() if (good := parsed.in_force)}


def _named(model: type[Model], good: Mapping[str, Parsed]) -> Mapping[str, Model]:
    return {name: with_name(model, parsed.spec, name) for name, parsed in good.items() if parsed.spec}


def _hosts(by_kind: _ByKind) -> Mapping[str, Host]:
    hosts = _named(Host, _good(by_kind, "host"))
    return hosts if LOCAL in by_kind.get("host", {}) else {LOCAL: Host(name=LOCAL), **hosts}


def _adapters(by_kind: _ByKind) -> Mapping[str, Adapter]:
    """Return the built-in adapters and the fleet's; a broken one is not replaced by the built-in one."""
    written = by_kind.get("adapter", {})
    adapters = {
        name: layers.resolve_adapter(name, None) for name in layers.builtin_adapters() if name not in written
    }
    for name, parsed in _good(by_kind, "adapter").items():
        if isinstance(parsed.spec, AdapterSpec):
            adapters[name] = layers.resolve_adapter(name, parsed.spec, parsed.file.blob)
    return adapters


def _prices(by_kind: _ByKind) -> Mapping[str, Price]:
    """Return the built-in prices with the fleet's own over them."""
    own = next(iter(_good(by_kind, "prices").values()), None)
    models = own.spec.models if own and isinstance(own.spec, PricesSpec) else {}
    return {**layers.builtin_prices().models, **models}


def _broken(by_kind: _ByKind) -> Mapping[tuple[Kind, str], Problem]:
    return {
        (kind, name): parsed.problems[0]
        for kind, files in by_kind.items()
        for name, parsed in files.items()
        if not parsed.in_force
    }


def _checked(shared: SharedSpecs, by_kind: _ByKind) -> SharedSpecs:
    """Return the specs with the mistakes between files."""
    problems = [*_case_clashes(by_kind)]
    for parsed in by_kind.get("host", {}).values():
        if isinstance(parsed.spec, HostSpec):
            own = _host_mistakes(shared, parsed.name, parsed.spec)
            problems += locate_mistakes(
                [*own, *host_mistakes(shared, parsed.spec)], parsed.path, parsed.file.data
            )
    for kind, mistakes_of in _REFERENCES.items():
        for parsed in by_kind.get(kind, {}).values():
            if parsed.spec is not None:
                mistakes = mistakes_of(shared, parsed)
                problems += locate_mistakes(mistakes, parsed.path, parsed.file.data)
    problems += _shared_tokens(by_kind)
    faults = {name: tuple(_faults(shared, name, by_kind)) for name in shared.blanks}
    problems += [problem for problems_of_one in faults.values() for problem in problems_of_one]
    return replace(shared, faults=faults, problems=tuple(problems))


def _case_clashes(by_kind: _ByKind) -> Iterator[Problem]:
    for kind, files in by_kind.items():
        names = sorted(files, key=lambda name: (name.casefold(), name))
        for _, group in groupby(names, str.casefold):
            for name, other in zip(same := list(group), reversed(same), strict=True):
                if name != other:
                    yield Problem(files[name].path, 1, 1, f"differs only in case from {kind} {other!r}")


def _shared_tokens(by_kind: _ByKind) -> Iterator[Problem]:
    """Yield the tokens by which two agents would be one."""
    owners: dict[str, str] = {}
    for name, parsed in by_kind.get("agent", {}).items():
        if not isinstance(parsed.spec, AgentSpec):
            continue
        for at, digest in enumerate(parsed.spec.token_hash):
            owner = owners.setdefault(digest, name)
            if owner != name:
                mistake = Mistake(
                    ("token_hash", at), f"is that of agent {owner!r} too: see `reconciler token`"
                )
                yield from locate_mistakes([mistake], parsed.path, parsed.file.data)


def _account_mistakes(shared: SharedSpecs, parsed: Parsed) -> Iterator[Mistake]:
    if not isinstance(parsed.spec, AccountSpec):
        return
    for at, adapter in enumerate(parsed.spec.adapters):
        if adapter not in shared.adapters:
            yield Mistake(("adapters", at), *shared.missing("adapter", adapter, shared.adapters))
    for at, host in enumerate(parsed.spec.hosts or ()):
        if host not in shared.hosts:
            yield Mistake(("hosts", at), *shared.missing("host", host, shared.hosts))


def _adapter_mistakes(shared: SharedSpecs, parsed: Parsed) -> Iterator[Mistake]:
    if isinstance(parsed.spec, AdapterSpec):
        yield from shared.account_mistakes(parsed.spec.accounts, ("accounts",), parsed.name)


def _default_mistakes(shared: SharedSpecs, parsed: Parsed) -> Iterator[Mistake]:
    """Yield what is wrong with accounts, fallback and reviewer that a repo or the fleet gives to tasks."""
    if isinstance(parsed.spec, TaskDefaults):
        yield from shared.account_mistakes(parsed.spec.accounts, ("accounts",))
        yield from shared.fallback_mistakes(parsed.spec)
        yield from shared.reviewer_mistakes(parsed.spec)


def _repo_mistakes(shared: SharedSpecs, parsed: Parsed) -> Iterator[Mistake]:
    yield from _default_mistakes(shared, parsed)
    host = parsed.spec.validate_on if isinstance(parsed.spec, RepoSpec) else None
    if host is not None and host not in shared.hosts:
        yield Mistake(("validate_on",), *shared.missing("host", host, shared.hosts))


_REFERENCES: Mapping[Kind, Callable[[SharedSpecs, Parsed], Iterator[Mistake]]] = {
    "account": _account_mistakes,
    "adapter": _adapter_mistakes,
    "repo": _repo_mistakes,
    "fleet": _default_mistakes,
}
"""What is wrong with the names of other things in files of a kind."""


def _host_mistakes(shared: SharedSpecs, name: str, host: HostSpec) -> Iterator[Mistake]:
    for adapter in host.adapters or {}:
        if adapter not in shared.adapters:
            message, hint = shared.missing("adapter", adapter, shared.adapters)
            yield Mistake(("adapters", adapter), message, hint, at_key=True)
    for at, repo in enumerate(host.repos or ()):
        if repo not in shared.repos:
            yield Mistake(("repos", at), *shared.missing("repo", repo, shared.repos))
    if host.jump != name and (why := _not_a_way(shared, host)) is not None:
        yield Mistake(("jump",), why)
    way = [name]
    while (jump := _jump(host)) is not None:
        if jump not in shared.hosts:
            if len(way) == 1:
                yield Mistake(("jump",), *shared.missing("host", jump, shared.hosts))
            return
        if jump in way:
            yield Mistake(("jump",), f"goes in a circle: {' → '.join([*way, jump])}")
            return
        way.append(jump)
        host = shared.hosts[jump]


def _not_a_way(shared: SharedSpecs, host: HostSpec) -> str | None:
    """Return why a host that is there, or an address, cannot be gone through."""
    jump = host.jump or ""
    if jump in shared.hosts:
        is_this = shared.hosts[jump].address is None
        return f"host {jump!r} has no `address`: it is this machine" if is_this else None
    match = _INLINE.fullmatch(jump)
    if match is None or not set("@:") & set(jump):
        return None
    place = (match["address"].strip("[]"), int(match["port"] or DEFAULT_PORT))
    if any((other.address, other.port) == place for other in shared.hosts.values()):
        return None
    return "is no host of this fleet, so its key is pinned nowhere; describe it in specs/hosts/ (`slots: 0`)"


_INLINE = re.compile(r"(?:[^@\s]+@)?(?P<address>\[[0-9A-Fa-f:.]+\]|[^@:\s]+)(?::(?P<port>\d{1,9}))?")
DEFAULT_PORT = HostSpec.model_fields["port"].default


def _jump(host: HostSpec) -> str | None:
    """Return the name of the host to go through; an address is none."""
    return host.jump if host.jump and not set("@:") & set(host.jump) else None


def _faults(shared: SharedSpecs, repo: str | None, by_kind: _ByKind) -> Iterator[Problem]:
    """Yield problems of the adapter that tasks inherit from this repo or the fleet."""
    adapter = shared.blanks[repo].adapter
    if adapter in shared.adapters:
        return
    files = [by_kind.get("repo", {}).get(repo or ""), by_kind.get("fleet", {}).get("fleet")]
    for parsed in filter(None, files):
        good = parsed.in_force
        if good and good.spec and "adapter" in good.spec.model_fields_set:
            mistake = Mistake(("adapter",), *shared.missing("adapter", adapter, shared.adapters))
            yield from locate_mistakes([mistake], parsed.path, good.file.data)
            return
