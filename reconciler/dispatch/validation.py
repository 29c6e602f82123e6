"""
Validation results: from the account that the validation job writes to checks.
"""

import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from reconciler.core.masking import Mask
from reconciler.core.model.runs import STOPPED, Check
from reconciler.core.text import tail
from reconciler.dispatch.logs import read_end
from reconciler.dispatch.protocol import failed_command

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
    commands: Sequence[str],
    account: BinaryIO,
    output: BinaryIO,
    *,
    seconds: float,
    mask: Mask,
    exit_code: int = STOPPED,
) -> tuple[Check, ...]:
    """
    Return a check for each command that was run, in order.

    Which passed is known by `exit_code`, that of the job: what a command starts
    can write into the account, and so it is asked only how long each took, what
    it printed, and with what a failed one ended. Where the job was ended
    itself, the command was stopped that the account has no end of: what is not
    known to have passed has not. The rest of `seconds`, the time all of them
    took, was its.
    """
    checks = _checks(commands, account, output, seconds, mask)
    last = failed_command(exit_code, len(commands))
    if exit_code == 0:
        last = len(commands)
    if last is not None:
        passed = last if exit_code == 0 else last - 1
        results = [
            *checks,
            *(Check(command=command, exit_code=0, seconds=0.0) for command in commands[len(checks) :]),
        ][:last]
        return tuple(
            check.model_copy(update={"exit_code": 0 if number < passed else check.exit_code or 1})
            for number, check in enumerate(results)
        )
    if not any(check.exit_code for check in checks):  # the account of a job that was killed
        checks[-1] = checks[-1].model_copy(update={"exit_code": STOPPED})
    return tuple(checks)


def _checks(
    commands: Sequence[str], account: BinaryIO, output: BinaryIO, seconds: float, mask: Mask
) -> list[Check]:
    """Return the checks in the account; the first without an end counts as stopped."""
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
    return checks


def _account(lines: BinaryIO) -> Iterator[re.Match[bytes]]:
    is_whole = True
    while line := lines.readline(_LONGEST_LINE):
        match = _LINE.fullmatch(line) if is_whole else None
        is_whole = line.endswith(b"\n")
        if match:
            yield match


def _printed(output: BinaryIO, begin: int, end: int | None, mask: Mask) -> str:
    """Return the end of the output between two offsets, masked."""
    text = read_end(output, _WINDOW, begin=begin, end=end)
    return tail(mask.withhold(text), lines=_LINES, characters=_CHARACTERS)
