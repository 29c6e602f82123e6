"""
Graphs of names: reverse references, and cycles.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from heapq import nsmallest


class Index:
    """Reverse index: names by any number of keys."""

    def __init__(self) -> None:
        self._names: dict[Hashable, str | set[str]] = {}
        """Of a key with one name, as most are, that name: a set takes five times as much memory."""
        self._first: dict[Hashable, Sequence[str]] = {}

    def add(self, name: str, keys: Iterable[Hashable]) -> None:
        """Add a name under keys."""
        for key in keys:
            names = self._names.setdefault(key, name)
            if isinstance(names, set):
                names.add(name)
            elif names != name:
                self._names[key] = {names, name}
            self._first.pop(key, None)

    def remove(self, name: str, keys: Iterable[Hashable]) -> None:
        """Remove a name from under keys."""
        for key in keys:
            names = self._names[key]
            if isinstance(names, set):
                names.discard(name)
            if not names or names == name:
                del self._names[key]
            self._first.pop(key, None)

    def names(self, key: Hashable) -> AbstractSet[str]:
        """Return the names under a key."""
        names = self._names.get(key, frozenset[str]())
        return {names} if isinstance(names, str) else names

    def other(self, key: Hashable, name: str) -> str | None:
        """Return the first name under the key but for this one, in order of the alphabet."""
        names = self.names(key)
        if not names or (len(names) == 1 and name in names):
            return None
        if key not in self._first:
            # A thousand names may ask this of one key.
            self._first[key] = nsmallest(2, names)
        return next(other for other in self._first[key] if other != name)


def cycles(starts: Iterable[str], edges: Callable[[str], Iterable[str]]) -> Mapping[str, Sequence[str]]:
    """Return a cycle for each name in one that can be reached; a cycle begins and ends with the same name."""
    cycles_by_name: dict[str, Sequence[str]] = {}
    for component in _components(starts, edges):
        first = min(component)
        if len(component) > 1 or first in edges(first):
            cycles_by_name |= _cycle_of_each(component, edges)
    return cycles_by_name


def _cycle_of_each(component: set[str], edges: Callable[[str], Iterable[str]]) -> Mapping[str, Sequence[str]]:
    """Walk inside the component until a name recurs; each name on the cycle gets it rotated to itself."""
    way: dict[str, int] = {}
    name = min(component)
    while name not in way:
        way[name] = len(way)
        name = min(component.intersection(edges(name)))
    cycle = list(way)[way[name] :]
    lowest = cycle.index(min(cycle))
    cycle = cycle[lowest:] + cycle[:lowest]
    views = {each: [*cycle[at:], *cycle[:at], each] for at, each in enumerate(cycle[:_VIEWS])}
    whole = views[cycle[0]]
    return {each: views.get(each, whole) for each in component}


_VIEWS = 20
"""Most rotations: rotating a cycle of ten thousand names for each of them would take a minute."""


def _components(starts: Iterable[str], edges: Callable[[str], Iterable[str]]) -> Iterable[set[str]]:
    """
    Yield the strongly connected components that can be reached.

    Source: R. Tarjan, "Depth-first search and linear graph algorithms" (1972);
    with a stack of its own, since a chain of tasks may be longer than Python's.
    """
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    open_names: dict[str, None] = {}
    for start in starts:
        if start in order:
            continue
        order[start] = low[start] = len(order)
        open_names[start] = None
        work = [(start, iter(edges(start)))]
        while work:
            name, children = work[-1]
            child = next(children, None)
            if child is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == order[name]:
                    yield _close(open_names, name)
            elif child not in order:
                order[child] = low[child] = len(order)
                open_names[child] = None
                work.append((child, iter(edges(child))))
            elif child in open_names:
                low[name] = min(low[name], order[child])


def _close(open_names: dict[str, None], root: str) -> set[str]:
    """Take the names of a finished component off the stack: the root and all that came after it."""
    component = set()
    while root not in component:
        component.add(open_names.popitem()[0])
    return component
