"""
Shown kinds: how the objects of one kind are found, picked and shown, whatever they are read from.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.cli.output import Column, Document
from reconciler.cli.selectors import Selector, selects
from reconciler.core.errors import NotFound, UsageError
from reconciler.core.references import no_such
from reconciler.core.times import Age


@dataclass(frozen=True, slots=True)
class ShownKind:
    """How the objects of one kind are found and shown."""

    name: str
    find: Callable[[Any], Mapping[str, Any]]
    """Return them by name: of a read model, or of a look."""
    columns: Callable[[Age], Sequence[Column]]
    document: Callable[[Any], Document]
    details: Callable[[Any, Age], str]
    labels: Callable[[Any], Collection[str]] | None = None
    """What `-l` selects by; None: things of this kind have no labels."""

    def pick(self, model: Any, names: Sequence[str] = ()) -> list[Any]:
        """Return the objects of those names, all of them if none is given. Raises NotFound."""
        things = self.find(model)
        for name in names:
            if name not in things:
                raise NotFound(no_such(self.name, name, things))
        return [things[name] for name in names or sorted(things)]

    def select(self, things: Sequence[Any], selectors: Sequence[Selector]) -> list[Any]:
        """Return the things whose labels are as the selectors require. Raises UsageError."""
        if selectors and self.labels is None:
            raise UsageError(f"{self.name}s have no labels to select them by (-l); tasks and hosts have")
        return [each for each in things if self.labels is None or selects(selectors, self.labels(each))]
