"""
What came of the validation commands: from the account of their job to checks.
"""

import re
from collections.abc import Sequence

from reconciler.core.model import STOPPED, Check
from reconciler.core.text import tail

_LINE = re.compile(
    rb"^(?:begin \d+ (?P<begin>\d{1,18})|"
    rb"end \d+ (?P<code>\d{1,3}) (?P<hundredths>\d{1,12}) (?P<end>\d{1,18}))\n",
    re.MULTILINE,
)
"""A whole line of the account; one that is cut counts as not there."""
_LINES = 60
_CHARACTERS = 4000


def read_checks(
    commands: Sequence[str], account: bytes, output: bytes, *, seconds: float
) -> tuple[Check, ...]:
    """
    Return the commands that were run, in order.

    One that has no end, though all before it passed, was stopped, be it before
    it was begun: what is not known to have passed has not. The rest of
    `seconds`, the time all of them took, was its.
    """
    checks: list[Check] = []
    begun = -1
    for line in _LINE.finditer(account):
        if line["begin"]:
            begun = int(line["begin"])
        elif begun >= 0 and len(checks) < len(commands):
            printed = output[begun : int(line["end"])]
            checks.append(
                _check(commands[len(checks)], int(line["code"]), int(line["hundredths"]) / 100, printed)
            )
            begun = -1
    if len(checks) < len(commands) and not any(check.exit_code for check in checks):
        rest = max(0.0, round(seconds - sum(check.seconds for check in checks), 2))
        printed = output[begun:] if begun >= 0 else b""
        checks.append(_check(commands[len(checks)], STOPPED, rest, printed))
    return tuple(checks)


def _check(command: str, code: int, seconds: float, output: bytes) -> Check:
    text = tail(output.decode(errors="replace"), lines=_LINES, characters=_CHARACTERS)
    return Check(command=command, exit_code=code, seconds=seconds, output=text)
