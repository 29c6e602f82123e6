"""
Output on stdout, in the format of `-o`.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from shutil import get_terminal_size
from typing import Any, NamedTuple

import click

from reconciler.cli.streams import can_write
from reconciler.cli.terminal import fitted, table
from reconciler.core.text import harmless

Document = dict[str, Any]
"""What `-o json` prints of one object; its shape is stable."""

COLOURS = {
    "running": "cyan",
    "assigned": "cyan",
    "review_pending": "magenta",
    "completed": "green",
    "up": "green",
    "failed": "red",
    "escalated": "red",
    "cordoned": "yellow",
    "draining": "yellow",
    "drained": "yellow",
    "down": "red",
    "unready": "red",
    "broken": "red",
    "cancelled": "bright_black",
    "start": "green",
    "stop": "red",
    "remove": "red",
    "wait": "yellow",
}
"""Colours of words in a table on a terminal."""

list_output = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "wide", "json", "yaml", "name"]),
    default="table",
    help="How to print it.",
)


class Column(NamedTuple):
    """One column of a table."""

    title: str
    cell: Callable[[Any], str]
    is_wide: bool = False
    """Whether it is shown only with `-o wide`."""


def print_list(
    items: Sequence[Any],
    columns: Sequence[Column],
    document: Callable[[Any], Document],
    output: str,
) -> None:
    """Print the items as `-o` says; instead of an empty table, print a notice on stderr."""
    if output == "json":
        print_json([document(item) for item in items])
    elif output == "yaml":
        print_yaml([document(item) for item in items])
    elif output == "name":
        for item in items:
            click.echo(document(item)["name"])
    else:
        shown = [column for column in columns if output == "wide" or not column.is_wide]
        print_table([c.title for c in shown], [[c.cell(item) for c in shown] for item in items])


FORMAT = 2
"""Version of the `-o json` format; raised when a field is removed or changes its meaning."""


def print_json(value: object) -> None:
    """
    Print JSON; every object has the version of the format.

    Control characters are escaped.
    """
    document = versioned(value)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    click.echo(text if _is_plain(text) else json.dumps(document, indent=2))


def versioned(value: object) -> object:
    """Return an object, or each of a list, with the version of the format before its own fields."""
    if isinstance(value, list):
        return [versioned(each) for each in value]
    return {"format": FORMAT, **value} if isinstance(value, dict) else value


def print_yaml(value: object) -> None:
    """Print the same as YAML, in block style."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.representer.sort_base_mapping_type_on_output = False
    yaml.allow_unicode = _is_plain(json.dumps(value, ensure_ascii=False, default=str))
    yaml.dump(versioned(value), sys.stdout)


def _is_plain(text: str) -> bool:
    """Return whether a text can be printed unescaped on stdout."""
    return harmless(text) == text and can_write(text, sys.stdout)


def print_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str = "nothing to show"
) -> None:
    """Print a table, with colours on a terminal and plain anywhere else; if it is empty, a notice."""
    if not rows:
        click.echo(empty, err=True)
    elif sys.stdout.isatty():
        _print_with_colours(head, rows)
    else:
        click.echo(table(head, rows))


def _print_with_colours(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as wide as the terminal."""
    first, *lines = fitted(head, rows, get_terminal_size().columns)
    has_colours = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    titles = [click.style(title, bold=True) for title in first]
    for line in (titles, *(list(map(_coloured, line)) for line in lines)):
        text = "  ".join(line).rstrip()
        click.echo(text if has_colours else click.unstyle(text))


def _coloured(cell: str) -> str:
    colour = COLOURS.get(cell.strip())
    return click.style(cell, fg=colour) if colour else cell
