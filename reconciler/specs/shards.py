"""
Rules of shards: what belongs to one reconciler must not be counted or planned by two.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from reconciler.core.adapter import Adapter
from reconciler.core.model.specs import (
    Account,
    Campaign,
    FleetSpec,
    Host,
    HostSpec,
    Repo,
    Task,
)
from reconciler.core.names import DEFAULT_SHARD
from reconciler.core.shards import LIMITS, home_shard
from reconciler.specs.parse import FLEET_FILE
from reconciler.specs.rules import Mistake

if TYPE_CHECKING:
    from reconciler.specs.shared import SharedSpecs

_LONGEST = 40
ISSUE_TASKS = "issues/"
"""Folder of the tasks that are made of issues."""
_OWN = "each shard counts for itself"


def shards_mistakes(spec: FleetSpec) -> Iterator[Mistake]:
    """Yield what is wrong with `shards` of fleet.yaml by itself."""
    folders: dict[str, str] = {}
    for name, shard in spec.shards.items():
        where = ("shards", name)
        if name == DEFAULT_SHARD:
            yield Mistake(where, "is the shard of what no other one has; give it another name", at_key=True)
        elif "/" in name or len(name) > _LONGEST:
            why = f"is part of the name of a branch: no '/', at most {_LONGEST} characters"
            yield Mistake(where, why, at_key=True)
        for at, folder in enumerate(shard.tasks):
            other = folders.setdefault(folder, name)
            if other != name:
                yield Mistake((*where, "tasks", at), f"folder {folder!r} is that of shard {other!r} too")
            if spec.issues and f"{folder}/".startswith(ISSUE_TASKS):
                why = "has the tasks made of issues, which the reconciler without `--shard` follows"
                yield Mistake((*where, "tasks", at), why)
        for limit in LIMITS:
            if getattr(spec, limit) and not getattr(shard, limit):
                why = f"the fleet has `{limit}`, and {_OWN}: give it a `{limit}` of its own"
                yield Mistake(where, why, at_key=True)


def host_mistakes(shared: "SharedSpecs", host: HostSpec) -> Iterator[Mistake]:
    """Yield why a host cannot be of its shard."""
    if host.shard != DEFAULT_SHARD and host.shard not in shared.fleet.shards:
        there = ", ".join(shared.fleet.shards) or "none"
        yield Mistake(("shard",), f"no shard {host.shard!r} in specs/fleet.yaml; there: {there}")
    through = shared.hosts.get(host.jump or "")
    if through is not None and through.shard != host.shard:
        why = f"host {through.name!r} is of shard {through.shard!r}: write it as `user@address:port`"
        yield Mistake(("jump",), why)


def other_shard(fleet: FleetSpec, task: str, other: str) -> str:
    """Return why a task cannot wait for another one; empty if the same shard has both."""
    own, theirs = home_shard(fleet.shards, task), home_shard(fleet.shards, other)
    if own == theirs:
        return ""
    return f"task {other!r} is of shard {theirs!r}, not of {own!r}: tasks of one shard follow each other"


def shared_by_shards(
    shared: "SharedSpecs", tasks: Mapping[str, Task], campaigns: Mapping[str, Campaign]
) -> Iterator[tuple[str, Mistake]]:
    """Yield the path and what is wrong of limits and campaigns that tasks of several shards would share."""
    shards = shared.fleet.shards
    for name, shard in shards.items():
        for at, folder in enumerate(shard.tasks):
            if campaign := next((each for each in campaigns if folder.startswith(f"{each}/")), None):
                why = f"is within campaign {campaign!r}, whose tasks follow each other: name {campaign!r}"
                yield FLEET_FILE, Mistake(("shards", name, "tasks", at), why)
    by_repo, by_adapter = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for task in tasks.values():
        home = home_shard(shards, task.name)
        by_repo[task.repo or ""].add(home)
        for adapter in _adapters(task):
            by_adapter[adapter].add(home)
    for repo in shared.repos.values():
        path = f"specs/repos/{repo.name}.yaml"
        yield from _split(path, repo, by_repo[repo.name])
        if repo.merge == "queue" and len(by_repo[repo.name]) > 1:
            why = f"is one line, and tasks of {', '.join(sorted(by_repo[repo.name]))} would wait in one each"
            yield path, Mistake(("merge",), f"{why}: give the repo to one shard, or take `when_approved`")
    for each in shared.adapters.values():
        yield from _split(f"specs/adapters/{each.name}.yaml", each, by_adapter[each.name])
    for account in shared.accounts.values():
        homes = set[str]().union(*(by_adapter[each] for each in account.adapters))
        homes &= {host.shard for host in _hosts(shared, account)}
        yield from _split(f"specs/accounts/{account.name}.yaml", account, homes)


def _adapters(task: Task) -> Iterator[str]:
    yield task.adapter
    if task.fallback and task.fallback.adapter:
        yield task.fallback.adapter
    for other in (task.review_by, task.judge):
        if other and other.adapter:
            yield other.adapter


def _hosts(shared: "SharedSpecs", account: Account) -> Iterator[Host]:
    for host in shared.hosts.values():
        if account.hosts is None or host.name in account.hosts:
            yield host


def _split(path: str, spec: Repo | Adapter | Account, shards: set[str]) -> Iterator[tuple[str, Mistake]]:
    """Yield the limits of something that tasks of several shards use."""
    for limit in ("max_running", "daily_budget", "weekly_budget"):
        if len(shards) > 1 and getattr(spec, limit, None) is not None:
            why = f"{_OWN}, and tasks of {', '.join(sorted(shards))} use this: make one for each"
            yield path, Mistake((limit,), why, at_key=True)
