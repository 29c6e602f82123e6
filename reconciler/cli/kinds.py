"""
The kinds of things in a fleet, and how those of each are found and shown.
"""

from collections.abc import Callable, Mapping, Sequence
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
from reconciler.cli.views import NEVER, hosts, tasks
from reconciler.core.errors import NotFound
from reconciler.core.model.specs import Desired
from reconciler.core.model.status import Observed
from reconciler.core.references import no_such


@dataclass(frozen=True, slots=True)
class ShownKind:
    """How the things of one kind are found and shown."""

    name: str
    find: Callable[[Desired, Observed, Mapping[str, datetime]], Mapping[str, Any]]
    """The last are times at which people closed or opened hosts."""
    columns: Callable[[datetime], Sequence[Column]]
    document: Callable[[Any], Document]
    details: Callable[[Any, datetime], str]

    def pick(
        self,
        desired: Desired,
        observed: Observed,
        names: Sequence[str] = (),
        closed: Mapping[str, datetime] = NEVER,
    ) -> list[Any]:
        """Return the things of those names, all of them if none is given. Raises NotFound."""
        found = self.find(desired, observed, closed)
        for name in names:
            if name not in found:
                raise NotFound(no_such(self.name, name, found))
        return [found[name] for name in names or sorted(found)]


SHOWN_KINDS: Mapping[str, ShownKind] = {
    kind.name: kind
    for kind in (
        ShownKind("task", lambda it, seen, _: tasks(it, seen), task_columns, task_document, task_details),
        ShownKind("host", hosts, host_columns, host_document, host_details),
        ShownKind("agent", lambda it, *_: it.agents, lambda _: AGENT_COLUMNS, spec_document, spec_details),
        ShownKind(
            "adapter", lambda it, *_: it.adapters, lambda _: ADAPTER_COLUMNS, spec_document, spec_details
        ),
        ShownKind("repo", lambda it, *_: it.repos, lambda _: REPO_COLUMNS, spec_document, spec_details),
    )
}
