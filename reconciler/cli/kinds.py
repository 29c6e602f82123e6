"""
Kinds of objects in a fleet, and how each is found and shown.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reconciler.cli.details import host_details, spec_details, task_details
from reconciler.cli.output import Column, Document
from reconciler.cli.render import (
    ADAPTER_COLUMNS,
    AGENT_COLUMNS,
    REPO_COLUMNS,
    host_columns,
    host_document,
    spec_document,
    task_columns,
    task_document,
)
from reconciler.cli.selectors import Selector, selects
from reconciler.core.errors import NotFound, UsageError
from reconciler.core.references import no_such
from reconciler.core.views import ReadModel


@dataclass(frozen=True, slots=True)
class ShownKind:
    """How the objects of one kind are found and shown."""

    name: str
    find: Callable[[ReadModel], Mapping[str, Any]]
    columns: Callable[[datetime], Sequence[Column]]
    document: Callable[[Any], Document]
    details: Callable[[Any, datetime], str]
    labels: Callable[[Any], Collection[str]] | None = None
    """What `-l` selects by; None: things of this kind have no labels."""

    def pick(self, model: ReadModel, names: Sequence[str] = ()) -> list[Any]:
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


SHOWN_KINDS: Mapping[str, ShownKind] = {
    kind.name: kind
    for kind in (
        ShownKind(
            "task",
            ReadModel.tasks,
            task_columns,
            task_document,
            task_details,
            lambda view: view.spec.labels if view.spec else (),
        ),
        ShownKind(
            "host", ReadModel.hosts, host_columns, host_document, host_details, lambda view: view.spec.labels
        ),
        ShownKind(
            "agent",
            ReadModel.workers,
            lambda _: AGENT_COLUMNS,
            spec_document,
            spec_details,
            lambda view: view.spec.capabilities,
        ),
        ShownKind(
            "adapter",
            lambda model: model.desired.adapters,
            lambda _: ADAPTER_COLUMNS,
            spec_document,
            spec_details,
        ),
        ShownKind(
            "repo",
            lambda model: model.desired.repos,
            lambda _: REPO_COLUMNS,
            spec_document,
            spec_details,
            lambda repo: repo.labels,
        ),
    )
}
