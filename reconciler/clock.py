"""
The only reader of the clock and the only source of randomness.

Everything else gets the time as an argument, so a test can bring its own.
"""

import random
import secrets
import time
from datetime import UTC, datetime


def now() -> datetime:
    """Return the time in UTC, to the millisecond: what is read back from the record is the same."""
    time = datetime.now(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def monotonic() -> float:
    """Return seconds of a monotonic clock, for durations."""
    return time.monotonic()


def since_boot() -> float:
    """Return seconds of a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def random_hex(size: int = 6) -> str:
    """Return `size` random bytes in hex."""
    return secrets.token_hex(size)


def jitter() -> float:
    """Return a number in [0, 1) that spreads what many would do at the same moment."""
    return random.random()  # noqa: S311 - no secret
