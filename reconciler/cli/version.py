"""
`reconciler version`.
"""

import platform

import click

from reconciler import __version__
from reconciler.cli.help import examples
from reconciler.cli.output import Output, output_option, print_document


@click.command(epilog=examples("reconciler version", "reconciler version -o json"))
@output_option("text")
def version(output: Output) -> None:
    """Print the version."""
    if not print_document({"version": __version__, "python": platform.python_version()}, output):
        click.echo(f"reconciler {__version__}")
