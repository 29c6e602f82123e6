"""
What came of the validation commands: from the account of their job to checks.
"""

import re
from collections.abc import Sequence

from reconciler.core.model import STOPPED, Check
from reconciler.core.text import tail
from reconciler.dispatch.protocol import failed_command

_LINE = re.compile(
    rb"^(?:begin \d+ (?P<begin>\d{1,18})|"
    rb"end \d+ (?P<code>\d{1,3}) (?P<hundredths>\d{1,12}) (?P<end>\d{1,18}))\n",
    re.MULTILINE,
)
"""A whole line of the account; one that is cut counts as not there."""
_LINES = 60
_CHARACTERS = 4000


def read_checks(
    commands: Sequence[str], account: bytes, output: bytes, *, seconds: float, exit_code: int = STOPPED
) -> tuple[Check, ...]:
    """
    Return the commands that were run, in order.

    Which passed is known by `exit_code`, that of the job: what a command starts
    can write into the account, and so it is asked only how long each took, what
    it printed, and with what a failed one ended. Where the job was ended
    itself, the command was stopped that the account has no end of: what is not
    known to have passed has not. The rest of `seconds`, the time all of them
    took, was its.
    """
    told = _told(commands, account, output, seconds)
    last = failed_command(exit_code, len(commands))
    if exit_code == 0:
        last = len(commands)
    if last is not None:
        passed = last if exit_code == 0 else last - 1
        known = [*told, *(_check(command, 0, 0.0, b"") for command in commands[len(told) :])][:last]
        return tuple(
            check.model_copy(update={"exit_code": 0 if number < passed else check.exit_code or 1})
            for number, check in enumerate(known)
        )
    if not any(check.exit_code for check in told):  # the account of a job that was killed
        told[-1] = told[-1].model_copy(update={"exit_code": STOPPED})
    return tuple(told)


def _told(commands: Sequence[str], account: bytes, output: bytes, seconds: float) -> list[Check]:
    """Return what the account says; the first that it has no end of as stopped."""
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
    return checks


def _check(command: str, code: int, seconds: float, output: bytes) -> Check:
    text = tail(output.decode(errors="replace"), lines=_LINES, characters=_CHARACTERS)
    return Check(command=command, exit_code=code, seconds=seconds, output=text)
