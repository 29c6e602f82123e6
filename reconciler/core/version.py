"""
Whether the version of a CLI will do.
"""

import re
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion
from packaging.version import Version as Number

from reconciler.core.adapter import Version
from reconciler.core.text import one_line


@dataclass(frozen=True, slots=True)
class VersionCheck:
    """What came of asking a CLI for its version."""

    version: str | None
    """As the CLI says it; None if it says none."""
    ok: bool
    message: str
    """For people: what was found and what was asked for."""


def check_version(program: Version, printed: str, required: str | None = None) -> VersionCheck:
    """
    Return whether a printed version is in the required range.

    `required` is the range of one host, in place of the adapter's.
    """
    wanted = required or program.range
    match = re.search(program.pattern, printed)
    if match is None:
        return VersionCheck(None, ok=False, message=f"no version in {one_line(printed, 100)!r}")
    version = match[1]
    if wanted is None:
        return VersionCheck(version, ok=True, message=f"{version}, any will do")
    try:
        is_in = SpecifierSet(wanted, prereleases=True).contains(Number(version))
    except InvalidVersion:
        return VersionCheck(version, ok=False, message=f"{version!r} is no version that can be compared")
    verb = "is" if is_in else "is not"
    return VersionCheck(version, ok=is_in, message=f"{version} {verb} in {wanted}")
