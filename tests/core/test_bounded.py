"""A bounded mapping keeps what was set last, and nothing that lives as long as the process only grows."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reconciler
from reconciler.core.bounded import BoundedDict

ROOT = Path(reconciler.__file__).parent
CONTAINERS = {"dict", "set", "list", "defaultdict", "OrderedDict", "deque", "Counter"}
ROOMS = ("api", "controller", "dispatch", "forge", "git", "notifications", "serve", "store")
"""Those whose objects live as long as the process."""
ADDS = {"add", "append", "appendleft", "extend", "setdefault", "update"}
ENDS = {"pop", "popitem", "popleft", "clear", "remove", "discard", "difference_update", "intersection_update"}
GROWING = {
    "api/stream.py _open": "by agents that the specs name",
    "api/tokens.py _kept": "by agents that the specs name",
    "api/worker_protocol.py _waiting": "by agents that the specs name",
    "controller/hosts.py load": "by hosts that the specs name",
    "controller/hosts.py probed": "by hosts that the specs name",
    "controller/inbox.py facts": "emptied by the loop",
    "controller/issues.py _since": "by repos that the specs name",
    "controller/issues.py _worked": "by repos that the specs name",
    "controller/merge_turns.py _last": "by repos that the specs name",
    "controller/observe.py changes": "of one round",
    "controller/observe.py events": "of one round",
    "controller/observe.py recovered": "of one round",
    "controller/observe.py statuses": "of one round",
    "controller/pull_requests.py _bots": "by forges that the specs name",
    "controller/pull_requests.py _left": "by repos that the specs name",
    "controller/pull_requests.py _last_facts": "emptied with the tasks that it is of",
    "controller/pull_requests.py _refreshed": "by repos that the specs name",
    "controller/pull_requests.py _shown": "emptied with the tasks that it is of",
    "controller/pull_requests.py _visited": "by repos that the specs name",
    "controller/pull_requests.py left": "of one visit",
    "dispatch/dispatcher.py _repositories": "by repos that the specs name; each has locks",
    "dispatch/dispatcher.py _sites": "by hosts that the specs name",
    "dispatch/egress_proxy.py _denied": "`MOST_DENIED` of them",
    "dispatch/event_buffer.py _first": "bounded where it is added to",
    "dispatch/event_buffer.py _latest": "by the conditions of an adapter",
    "dispatch/live.py _offsets": "two at most",
    "dispatch/pool.py _locals": "by hosts that the specs name",
    "dispatch/prober.py _asked_at": "by hosts that the specs name",
    "dispatch/repos.py _bundling": "by bundles that are being made",
    "dispatch/secrets.py _proofs": "of one task, and tasks are bounded",
    "dispatch/secrets.py rounds": "of one task, and tasks are bounded",
    "dispatch/secrets.py values": "of one task, and tasks are bounded",
    "forge/journal.py counts": "by kinds of webhooks and of what became of them",
    "forge/forgejo.py _rests": "by forges that the specs name",
    "forge/operations.py _table": "of what a description names",
    "git/repository.py _elsewhere": "by branches that the settings name",
    "store/last_transitions.py attempts": "by tasks and hosts that ever were, a few hundred bytes each",
    "store/last_transitions.py hosts": "by tasks and hosts that ever were, a few hundred bytes each",
    "store/last_transitions.py transitions": "by tasks and hosts that ever were, a few hundred bytes each",
    "store/owners.py _past": "by tasks on the records of the fleet",
    "store/owners.py _past_heads": "by shards on record",
}
"""Containers that are never made smaller, and what bounds them."""


def fields(tree):
    """Yield the fields of classes that begin as empty containers that can be added to."""
    for each in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for node in ast.walk(each):
            if isinstance(node, ast.AnnAssign | ast.Assign) and is_empty_container(node.value):
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                    yield target.attr
                elif isinstance(target, ast.Name) and isinstance(node.value, ast.Call):
                    yield target.id


def is_empty_container(value):
    match value:
        case ast.Dict(keys=[]) | ast.List(elts=[]):
            return True
        case ast.Call(func=ast.Name("field"), keywords=keywords):
            return any(
                each.arg == "default_factory" and name_of(each.value) in CONTAINERS for each in keywords
            )
        case ast.Call(func=function, args=args, keywords=keywords):
            return name_of(function) in CONTAINERS and not (len(args) > 1 or keywords)
    return False


def name_of(node):
    return getattr(node.value if isinstance(node, ast.Subscript) else node, "id", None)


def growing(path):
    """Return the fields of classes in a file that are made larger somewhere, and smaller nowhere."""
    tree = ast.parse(path.read_text())
    begins = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name == "__init__"
        for node in ast.walk(function)
    }
    grown, shrunk = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Attribute(attr=name), attr=method) if method in ENDS | ADDS:
                (grown if method in ADDS else shrunk).add(name)
            case ast.Subscript(value=ast.Attribute(attr=name), ctx=ast.Store()):
                grown.add(name)
            case ast.Subscript(value=ast.Attribute(attr=name), ctx=ast.Del()):
                shrunk.add(name)
            case ast.AugAssign(target=ast.Attribute(attr=name), op=operator):
                (grown if isinstance(operator, ast.Add | ast.BitOr) else shrunk).add(name)
            case ast.Assign(targets=targets) if node not in begins:
                parts = (part for target in targets for part in getattr(target, "elts", [target]))
                shrunk |= {part.attr for part in parts if isinstance(part, ast.Attribute)}
    return set(fields(tree)) & grown - shrunk


def test_what_only_grows_is_bounded_by_something_that_is_named_here():
    """Where this fails, bound what only grows (`BoundedDict`), or say in the table what bounds it."""
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]

    found = {f"{path.relative_to(ROOT)} {name}" for path in files for name in growing(path)}

    assert sorted(found - GROWING.keys()) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("self._a = {}\n  def f(self): self._a[1] = 2", {"_a"}),
        ("self._a: dict[str, int] = {}\n  def f(self): self._a.setdefault(1, 2)", {"_a"}),
        ("self._a = set()\n  def f(self): self._a.add(1)", {"_a"}),
        ("self._a = set()\n  def f(self): self._a |= {1}", {"_a"}),
        ("self._a = {}\n  def f(self): self._a[1] = 2; del self._a[1]", set()),
        ("self._a = {}\n  def f(self): self._a[1] = 2; self._a.pop(1)", set()),
        ("self._a = {}\n  def f(self): self._a[1] = 2; self._a = {}", set()),
        ("self._a = deque(maxlen=3)\n  def f(self): self._a.append(1)", set()),
        ("self._a = BoundedDict(3)\n  def f(self): self._a[1] = 2", set()),
    ],
)
def test_a_field_that_only_grows_is_found(tmp_path, body, expected):
    path = tmp_path / "x.py"
    path.write_text(f"class A:\n  def __init__(self):\n    {body}\n".replace("\n  def f", "\n\n  def f"))

    assert growing(path) == expected


@given(st.lists(st.tuples(st.integers(0, 5), st.integers())), st.integers(1, 4))
def test_the_entries_that_were_set_last_are_kept(entries, most):
    cache = BoundedDict(most)
    for key, value in entries:
        cache[key] = value

    assert len(cache) <= most
    assert all(cache[key] == dict(entries)[key] for key in cache)
    order = list(dict.fromkeys(key for key, _ in reversed(entries)))
    assert set(cache) == set(order[:most])
