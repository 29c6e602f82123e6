"""
`explain error`: what a code means, what to do about it, and what to type.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from reconciler.cli.output import OutputFormat, print_document, print_table
from reconciler.cli.terminal import value_block
from reconciler.core.catalogue import ENTRIES, CatalogueEntry, codes, lookup, similar
from reconciler.core.errors import NotFound

if TYPE_CHECKING:
    from reconciler.cli.shapes import CatalogueShape

WORD = "error"
"""Kind before a code, on the command line."""


def explain_error(text: str, output: OutputFormat) -> None:
    """Print the entries of a code or message; of all codes if there is none. Raises NotFound."""
    entries = lookup(text) if text else ENTRIES
    if not entries:
        raise NotFound(f"no code is {text!r}{_suggestion(text)}; `reconciler explain error` lists all")
    if print_document([_document(each) for each in entries], output):
        return
    if text:
        click.echo("\n\n".join(map(_block, entries)))
    else:
        print_table(("CODE", "WHAT", "CAUSE"), [(each.code, each.family, each.cause) for each in entries])


def complete_codes(incomplete: str) -> Sequence[str]:
    """Return the codes that begin so, whatever their case."""
    return [code for code in codes() if code.casefold().startswith(incomplete.casefold())]


def _suggestion(text: str) -> str:
    near = " or ".join(map(repr, similar(text)))
    return f" (did you mean {near}?)" if near else ""


def _block(entry: CatalogueEntry) -> str:
    head = f"{entry.code} ({entry.family})"
    rows = [("cause", entry.cause), ("remedy", entry.remedy), ("type", entry.command)]
    return f"{head}\n{value_block(rows)}"


def _document(entry: CatalogueEntry) -> "CatalogueShape":
    return {
        "kind": "error",
        "family": entry.family,
        "code": entry.code,
        "cause": entry.cause,
        "remedy": entry.remedy,
        "command": entry.command,
    }
