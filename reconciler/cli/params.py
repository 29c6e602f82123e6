"""
Option types for values with the same syntax as in specs.
"""

from datetime import timedelta

import click

from reconciler.core.fields import parse_duration


def duration(_: click.Context, param: click.Parameter, value: str | None) -> timedelta | None:
    """Return the time span that `90s`, `30m`, `1h30m` or `7d` means; a callback of options."""
    try:
        return parse_duration(value) if value is not None else None
    except ValueError as error:
        raise click.BadParameter(str(error), param=param) from error
