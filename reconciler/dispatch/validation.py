"""
What came of the validation commands: from the account of their job to checks.
"""

import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from reconciler.core.masking import Mask
from reconciler.core.model import STOPPED, Check
from reconciler.core.text import tail
from reconciler.dispatch.logs import read_end

_LINE = re.compile(
    rb"(?:begin \d+ (?P<begin>\d{1,18})|"
    rb"end \d+ (?P<code>\d{1,3}) (?P<hundredths>\d{1,12}) (?P<end>\d{1,18}))\n"
)
"""A whole line of the account; one that is cut counts as not there."""
_LONGEST_LINE = 1024
_LINES = 60
_CHARACTERS = 4000
_WINDOW = 256 * 1024
"""Bytes of a command's output that are looked at; only the end of them is shown."""


def read_checks(
    commands: Sequence[str], account: BinaryIO, output: BinaryIO, *, seconds: float, mask: Mask
) -> tuple[Check, ...]:
    """
    Return the commands that were run, in order.

    One that has no end, though all before it passed, was stopped, be it before
    it was begun: what is not known to have passed has not. The rest of
    `seconds`, the time all of them took, was its.
    """
    checks: list[Check] = []
    begun = -1
    for line in _account(account):
        if line["begin"]:
            begun = int(line["begin"])
        elif begun >= 0 and len(checks) < len(commands):
            code, took = int(line["code"]), int(line["hundredths"]) / 100
            printed = _printed(output, begun, int(line["end"]), mask)
            checks.append(Check(command=commands[len(checks)], exit_code=code, seconds=took, output=printed))
            begun = -1
    if len(checks) < len(commands) and not any(check.exit_code for check in checks):
        rest = max(0.0, round(seconds - sum(check.seconds for check in checks), 2))
        printed = _printed(output, begun, None, mask) if begun >= 0 else ""
        checks.append(Check(command=commands[len(checks)], exit_code=STOPPED, seconds=rest, output=printed))
    return tuple(checks)


def _account(lines: BinaryIO) -> Iterator[re.Match[bytes]]:
    is_whole = True
    while line := lines.readline(_LONGEST_LINE):
        match = _LINE.fullmatch(line) if is_whole else None
        is_whole = line.endswith(b"\n")
        if match:
            yield match


def _printed(output: BinaryIO, begin: int, end: int | None, mask: Mask) -> str:
    """Return the end of what stands between two places, masked."""
    text = read_end(output, _WINDOW, begin=begin, end=end)
    return tail(mask.withhold(text), lines=_LINES, characters=_CHARACTERS)
