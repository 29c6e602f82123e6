"""
Completion of commands and names in shells.
"""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from reconciler.cli.context import Context
from reconciler.cli.help import examples
from reconciler.core.errors import ReconcilerError
from reconciler.core.references import REFERABLE, ReferenceKind, kind_of

SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog=examples(
        "reconciler completion bash > ~/.local/share/bash-completion/completions/reconciler",
        "reconciler completion fish > ~/.config/fish/completions/reconciler.fish",
        "reconciler completion zsh > ~/.zfunc/_reconciler   # with it in $fpath",
    )
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """
    Print what makes a shell complete commands and names.

    Names are those of the fleet around the current folder: its tasks, hosts,
    agents, adapters and repos.
    """
    root = ctx.find_root()
    made = get_completion_class(shell)
    if made is None:  # click has all three
        raise click.UsageError(f"no completion for {shell}")
    click.echo(made(root.command, {}, "reconciler", "_RECONCILER_COMPLETE").source())


def names_of(kind: ReferenceKind, ctx: click.Context) -> Collection[str]:
    """Return the names of a kind in the fleet that is meant; none if it cannot be read quickly."""
    from reconciler.git.repository import is_url

    given = ctx.find_root().params
    data = given.get("data_dir")
    context = Context(repo=given.get("repo"), branch=given.get("branch"), data=Path(data) if data else None)
    builtin = _builtin_adapters() if kind == "adapter" else frozenset[str]()
    with suppress(ReconcilerError, OSError, click.ClickException):
        if not is_url(context.place):
            return builtin | asyncio.run(_names(kind, context))
    return builtin


async def _names(kind: ReferenceKind, context: Context) -> frozenset[str]:
    from reconciler.cli.session import open_fleet

    async with open_fleet(context) as fleet:
        return await fleet.names(kind)


def _builtin_adapters() -> frozenset[str]:
    from importlib.resources import files

    names = (each.name for each in (files("reconciler.specs") / "builtin").iterdir())
    return frozenset(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def complete_references(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete `task/web/fix-login`, `hosts gpu1`, a task's name alone, and kinds."""
    before = tuple(ctx.params.get(param.name or "") or ())
    kind = kind_of(before[0]) if before else None
    if kind:
        return _beginning(names_of(kind, ctx), incomplete)
    word, slash, rest = incomplete.partition("/")
    kinds = [] if before else [f"{each}s" for each in REFERABLE if each.startswith(incomplete)]
    own = _beginning(names_of("task", ctx), incomplete)
    if slash and (kind := kind_of(word)):
        own += [f"{word}/{name}" for name in _beginning(names_of(kind, ctx), rest)]
    return [*own, *kinds]


def _beginning(names: Collection[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
