"""
Manual pages, made of the help.
"""

from collections.abc import Iterator
from pathlib import Path

import click

from reconciler import __version__
from reconciler.cli.exits import ExitCode
from reconciler.cli.help import examples


@click.command(
    epilog=examples("reconciler man ~/.local/share/man/man1", "reconciler man . && man ./reconciler-get.1")
)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.pass_context
def man(ctx: click.Context, folder: Path) -> None:
    """
    Write a manual page for every command into a folder.

    As reconciler.1, reconciler-get.1, reconciler-host-add.1 and so on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = ctx.find_root()
    pages = list(commands(root.command, ("reconciler",), root))
    for path, command in pages:
        (folder / f"{'-'.join(path)}.1").write_text(page(path, command), encoding="utf-8")
    click.echo(f"{len(pages)} pages in {folder}", err=True)


def commands(
    command: click.Command, path: tuple[str, ...], ctx: click.Context
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield a command and all below it, each with the way to call it."""
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            if below := command.get_command(ctx, name):
                yield from commands(below, (*path, name), ctx)


def page(path: tuple[str, ...], command: click.Command) -> str:
    """Return the manual page of a command, in roff."""
    ctx = click.Context(command, info_name=" ".join(path))
    summary, _, more = (command.help or "").strip().partition("\n\n")
    usage = " ".join(command.collect_usage_pieces(ctx))
    parts = [
        f'.TH "{"-".join(path).upper()}" "1" "" "reconciler {__version__}" "reconciler"',
        f".SH NAME\n{_roff('-'.join(path))} \\- {_roff(' '.join(summary.split()))}",
        f".SH SYNOPSIS\n.B {_roff(' '.join(path))}\n{_roff(usage)}",
    ]
    paragraphs = [_roff(" ".join(each.split())) for each in more.split("\n\n") if each.strip()]
    if paragraphs:
        parts.append(".SH DESCRIPTION\n" + "\n.PP\n".join(paragraphs))
    records = [record for param in command.get_params(ctx) if (record := param.get_help_record(ctx))]
    if records:
        parts.append(
            ".SH OPTIONS\n" + "\n".join(f".TP\n.B {_roff(name)}\n{_roff(text)}" for name, text in records)
        )
    if isinstance(command, click.Group):
        names = (f".BR {_roff('-'.join((*path, name)))} (1)" for name in command.list_commands(ctx))
        parts.append(".SH COMMANDS\n" + "\n.br\n".join(names))
    lines = (command.epilog or "").splitlines()[2:]
    if lines:
        parts.append(".SH EXAMPLES\n.nf\n" + "\n".join(map(_roff, lines)) + "\n.fi")
    codes = (f".TP\n.B {code.value}\n{_roff(code.meaning)}" for code in ExitCode)
    return "\n".join([*parts, ".SH EXIT STATUS", *codes]) + "\n"


def _roff(text: str) -> str:
    """Return a text as it is written in a manual page: a line that begins with a dot is no request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped
