"""
Output on stdout, in the format of `-o`.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, Generic, NamedTuple, TypeVar

import click
from click.shell_completion import CompletionItem

from reconciler.cli.jsonpath import Template, parse_path, parse_template, values
from reconciler.cli.streams import can_write
from reconciler.cli.terminal import did_you_mean, fitted, table, terminal_size, widths_of
from reconciler.core.text import harmless

Document = Mapping[str, object]
"""What `-o json` prints of one thing; its shape, in `cli/shapes.py`, is a promise."""
T = TypeVar("T")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

COLOURS = {
    "running": "cyan",
    "assigned": "cyan",
    "review_pending": "magenta",
    "completed": "green",
    "up": "green",
    "failed": "red",
    "warning": "yellow",
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

PROGRAMS = ("json", "yaml")
"""Forms of every command that looks; `jsonpath=TEMPLATE` is the third."""
JSONPATH = "jsonpath="


class OutputFormat(NamedTuple):
    """What `-o` says."""

    form: str
    template: Template | None = None
    """Of `jsonpath=`."""

    @property
    def is_for_programs(self) -> bool:
        """Whether a document is printed, and not words for people."""
        return self.form in PROGRAMS or self.template is not None


class OutputParam(click.ParamType[OutputFormat]):
    """A form of output, one of those that a command has."""

    name = "output"

    def __init__(self, *forms: str) -> None:
        self._forms = (*forms, *PROGRAMS, JSONPATH)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what the help shows of it."""
        return f"[{'|'.join(self._forms)}TEMPLATE]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> OutputFormat:
        """Return the form; a template is read here, so that a wrong one costs no look."""
        if isinstance(value, OutputFormat):
            return value
        if value.startswith(JSONPATH):
            try:
                return OutputFormat("jsonpath", parse_template(value.removeprefix(JSONPATH)))
            except ValueError as error:
                self.fail(str(error), param, ctx)
        if value not in self._forms or value == JSONPATH:
            forms = ", ".join(self._forms)
            self.fail(f"{value!r} is not one of {forms}{did_you_mean(value, self._forms)}", param, ctx)
        return OutputFormat(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete a form."""
        return [CompletionItem(form) for form in self._forms if form.startswith(incomplete)]


def output_option(*forms: str, help: str = "How to print it.") -> Decorator:  # noqa: A002 - as click has it
    """Return the option `-o` of a command with these forms for people, the first if it is left out."""
    return click.option("-o", "--output", type=OutputParam(*forms), default=forms[0], help=help)


class Listing(NamedTuple):
    """How a list is printed."""

    output: OutputFormat
    has_head: bool = True
    sort_by: str | None = None

    @property
    def is_wide(self) -> bool:
        """Whether a table has all of its columns."""
        return self.output.form == "wide"

    def sorted(self, items: Sequence[T], document: Callable[[T], Document]) -> Sequence[T]:
        """Return things in the order that `--sort-by` asks for. Raises UsageError."""
        if self.sort_by is None:
            return items
        by = self.sort_by.removeprefix("-")
        try:
            path = parse_path(by if by[:1] in {".", "$", "[", "{"} else f".{by}")
        except ValueError as error:
            raise click.UsageError(f"--sort-by {error}") from error
        keys = [values(path, document(item)) for item in items]
        if items and not any(keys):
            raise click.UsageError(f"--sort-by {by}: {_no_field(by, document(items[0]))}")
        order = sorted(range(len(items)), key=lambda at: _order(keys[at]), reverse=self.sort_by[:1] == "-")
        return [items[at] for at in sorted(order, key=lambda at: not any(_has_value(keys[at])))]


def list_options(*forms: str) -> Decorator:
    """Let a command take `-o`, `--no-headers` and `--sort-by`, as one argument `listing`."""

    def decorate(callback: Callable[..., Any]) -> Callable[..., Any]:
        @output_option(*(forms or ("table", "wide", "name")))
        @click.option("--no-headers", is_flag=True, help="Leave the head of a table out.")
        @click.option(
            "--sort-by",
            metavar="FIELD",
            help="Field of `-o json` to sort by, such as name or .status.attempt; -FIELD: the last first.",
        )
        @wraps(callback)
        def with_listing(
            *args: Any, output: OutputFormat, no_headers: bool, sort_by: str | None, **options: Any
        ) -> Any:
            return callback(*args, listing=Listing(output, not no_headers, sort_by), **options)

        return with_listing

    return decorate


def _has_value(key: Sequence[Any]) -> Iterator[bool]:
    return (each is not None for each in key)


def _order(key: Sequence[Any]) -> tuple[tuple[bool, float, str], ...]:
    """Return a key by which values of any kind can be sorted: numbers first, then words."""
    return tuple(
        (False, float(each), "") if isinstance(each, int | float) else (True, 0.0, str(each))
        for each in key
        if each is not None
    )


def _no_field(name: str, document: Document) -> str:
    """Return what to say of a field that nothing has: where one of that name is, or which there are."""
    word = name.strip(".$").rpartition(".")[2]
    parts = [(part, fields) for part, fields in document.items() if isinstance(fields, dict)]
    below = [f".{part}.{word}" for part, fields in parts if word in fields]
    if below:
        return f"nothing has that field; did you mean {below[0]}?"
    return f"nothing has that field; there are {', '.join(document)}{did_you_mean(word, document)}"


class Column(NamedTuple):
    """One column of a table."""

    title: str
    cell: Callable[[Any], str]
    is_wide: bool = False
    """Whether it is left out unless `-o wide` asks for it."""
    least: int = 0
    """Width of it to begin with, where rows come one after the other."""
    is_optional: bool = False
    """Whether it is left out where no row has anything in it."""


def print_list(
    items: Sequence[T],
    columns: Sequence[Column],
    document: Callable[[T], Document],
    listing: Listing,
    *,
    empty: str = "nothing to show",
) -> None:
    """Print the items as `-o` says; without any, a table says so on stderr."""
    items, output = listing.sorted(items, document), listing.output
    if output.is_for_programs:
        print_document([document(item) for item in items], output)
    elif output.form == "name":
        for item in items:
            click.echo(document(item)["name"])
    else:
        shown = _shown(columns, items, is_wide=listing.is_wide)
        rows = [[c.cell(item) for c in shown] for item in items]
        print_table([c.title for c in shown], rows, empty=empty, has_head=listing.has_head)


def _shown(columns: Sequence[Column], items: Sequence[T], *, is_wide: bool) -> Sequence[Column]:
    return [
        column
        for column in columns
        if (is_wide or not column.is_wide) and (not column.is_optional or any(map(column.cell, items)))
    ]


class ListWriter(Generic[T]):
    """Writes things of a list as they come: a table whose columns go on, or a document a line."""

    def __init__(
        self,
        columns: Sequence[Column],
        document: Callable[[T], Document],
        listing: Listing,
        *,
        is_stream: bool = True,
    ) -> None:
        """Begin; unless it is a stream, the first things are all of them."""
        self._columns: Sequence[Column] = ()
        self._all_columns = columns
        self._document = document
        self._listing = listing
        self._is_stream = is_stream
        self._widths: Sequence[int] = ()

    def write(self, items: Sequence[T]) -> None:
        """Write some more."""
        form, has_begun = self._listing.output.form, bool(self._widths)
        if not has_begun:
            self._columns = _shown(self._all_columns, items, is_wide=self._listing.is_wide)
        if not self._is_stream:
            print_list(items, self._columns, self._document, self._listing)
        elif form == "json":
            for item in items:
                click.echo(_line(versioned(self._document(item))))
        elif form == "yaml":
            for item in items:
                click.echo("---")
                print_yaml(self._document(item))
        elif form in {"table", "wide"} and items:
            head = [column.title for column in self._columns]
            rows = [[column.cell(item) for column in self._columns] for item in items]
            least = self._widths or [column.least for column in self._columns]
            self._widths = widths_of([head, *rows], least)
            has_head = self._listing.has_head and not has_begun
            print_table(head, rows, has_head=has_head, widths=self._widths)
        elif items:
            print_list(items, self._columns, self._document, self._listing)
        sys.stdout.flush()


def _line(document: object) -> str:
    text = json.dumps(document, ensure_ascii=False)
    return text if _is_plain(text) else json.dumps(document)


def print_document(value: Document | Sequence[Document], output: OutputFormat) -> bool:
    """Print what a program asked for; return False, and print nothing, if people are to read it."""
    if output.template:
        for each in [value] if isinstance(value, Mapping) else value:
            click.echo(output.template.fill(versioned(each)))
    elif output.form == "yaml":
        print_yaml(value)
    elif output.form == "json":
        print_json(value)
    return output.is_for_programs


FORMAT = 3
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
    return {"format": FORMAT, **value} if isinstance(value, Mapping) else value


def print_yaml(value: object) -> None:
    """Print the same as YAML, in block style."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.representer.sort_base_mapping_type_on_output = False
    text = json.dumps(versioned(value), ensure_ascii=False)
    yaml.allow_unicode = _is_plain(text)
    yaml.dump(json.loads(text), sys.stdout)  # words of an enumeration are plain words then


def _is_plain(text: str) -> bool:
    """Return whether a text can be printed unescaped on stdout."""
    return harmless(text) == text and can_write(text, sys.stdout)


def print_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    empty: str = "nothing to show",
    has_head: bool = True,
    widths: Sequence[int] = (),
) -> None:
    """Print a table, with colours on a terminal and plain anywhere else; if it is empty, a notice."""
    if not rows:
        click.echo(empty, err=True)
    elif sys.stdout.isatty():
        _print_with_colours(head, rows, has_head=has_head, widths=widths)
    else:
        text = table(head, rows, widths)
        click.echo(text if has_head else text.partition("\n")[2])


def _print_with_colours(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, has_head: bool, widths: Sequence[int]
) -> None:
    """Print a table as wide as the terminal."""
    first, *lines = fitted(head, rows, terminal_size().columns, widths)
    has_colours = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    titles = [click.style(title, bold=True) for title in first]
    for line in (*([titles] if has_head else []), *(list(map(_coloured, line)) for line in lines)):
        text = "  ".join(line).rstrip()
        click.echo(text if has_colours else click.unstyle(text))


def _coloured(cell: str) -> str:
    colour = COLOURS.get(cell.strip())
    return click.style(cell, fg=colour) if colour else cell
