"""
`reconciler version`.
"""

import json
import platform

import click

from reconciler import __version__


@click.command()
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print it.")
def version(output: str) -> None:
    """Print the version."""
    if output == "json":
        click.echo(json.dumps({"version": __version__, "python": platform.python_version()}))
    else:
        click.echo(f"reconciler {__version__}")
