"""
Folders on the command line.
"""

import os
from pathlib import Path

import click


class NamedFolder(click.Path):
    """A folder that has a name: an empty one, of a variable that is not set, is not the current folder."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Return the folder. Raises BadParameter for an empty name."""
        if not os.fspath(value).strip():
            self.fail("the name is empty; leave it out, or write `.`, for the current folder", param, ctx)
        return super().convert(value, param, ctx)
