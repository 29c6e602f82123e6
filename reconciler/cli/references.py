"""
Names of tasks, hosts and all else on the command line: `web/fix-login`, `task/web/fix-login`, `host gpu1`.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from reconciler.core.references import NamesOf, Reference, ReferenceKind, references, split


class NameParam(click.ParamType[str]):
    """The name of an object of one kind, with or without a prefix such as `host/`."""

    name = "name"

    def __init__(self, kind: ReferenceKind) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name alone."""
        kind, name = split(str(value))
        if kind and kind != self.kind:
            self.fail(f"{value!r} is no {self.kind}", param, ctx)
        return name if kind else str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete a name of this kind."""
        from reconciler.cli.completion import names_of

        names = sorted(names_of(self.kind, ctx))
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion of kinds and names, as a callback of click; looked up by a module imported late."""
    from reconciler.cli.completion import complete_references

    return complete_references(ctx, param, incomplete)


def _names_or_codes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion of tasks, and of codes after `error`."""
    from reconciler.cli.errors import WORD, complete_codes

    before = tuple(ctx.params.get(param.name or "") or ())
    if before[:1] == (WORD,):
        return [*complete_codes(incomplete)]
    kinds = [] if before or not WORD.startswith(incomplete) else [WORD]
    return [*_names(ctx, param, incomplete), *kinds]


def reference_argument(metavar: str, *, required: bool = True) -> Callable[[Any], Any]:
    """Return the argument of a command that takes objects by kind and name."""
    return click.argument("args", metavar=metavar, nargs=-1, required=required, shell_complete=_names)


one_task = reference_argument("[task/]NAME")
"""The argument of a command about one task."""
explained_argument = click.argument(
    "args",
    metavar="[task/]NAME | campaign/NAME | error [CODE]",
    nargs=-1,
    required=True,
    shell_complete=_names_or_codes,
)
"""The argument of `explain`."""
tasks_argument = reference_argument("[task/]NAME...")
"""The argument of a command about tasks."""


def resolve_references(
    args: Sequence[str], names_of: NamesOf, only: ReferenceKind | None = None
) -> Sequence[Reference]:
    """Resolve arguments of the command line to references; see `core.references`."""
    try:
        return references(args, names_of, only)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def task_names(args: Sequence[str], names: Collection[str]) -> Sequence[str]:
    """Return the names of the tasks that arguments refer to."""
    return [each.name for each in resolve_references(args, lambda _: names, "task")]


def task_name(args: Sequence[str], existing: Collection[str]) -> str:
    """Return the name of the one task that arguments refer to."""
    names = task_names(args, existing)
    if len(names) != 1:
        raise click.UsageError(f"one task at a time, not {len(names)}: {' '.join(names)}")
    return names[0]
