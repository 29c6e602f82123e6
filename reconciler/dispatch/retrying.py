"""
Retries of the steps of a round, and their failures.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TypeVar

from reconciler.core.errors import ReconcilerError, Refused, Unavailable
from reconciler.core.model.runs import FailureClass

log = logging.getLogger(__name__)

T = TypeVar("T")
OnRetry = Callable[[str | None], None]
"""Called with what a step waits for or why it is tried again, and with None once it has succeeded."""
ON_RETRY: ContextVar[OnRetry] = ContextVar("ON_RETRY")
"""Callback for steps that are tried again; set by whoever began the work they are part of."""
_PAUSE = 0.2
_PAUSE_CAP = 15.0


class StepFailed(ReconcilerError):
    """
    A step failed for good; `kind` decides what happens next.

    `touched` is the head that somebody else pushed to the branch, if that is
    why; `on_host` says that it was the host that could not do its part.
    """

    def __init__(
        self, kind: FailureClass, message: str, *, touched: str | None = None, on_host: bool = False
    ) -> None:
        self.kind = kind
        self.touched = touched
        self.on_host = on_host
        super().__init__(message)


async def retry_until_reachable(
    step: Callable[[], Awaitable[T]], *, patience: float | None = None, doing: str | None = None
) -> T:
    """
    Run a step, with retries while a host or repository cannot be reached.

    `doing` says of a step that may wait long for somebody else what it waits for.
    Without `patience` (seconds since it first failed) it never gives up: a run that
    may have started must not be forgotten. Raises StepFailed.
    """
    pause, failing_since = _PAUSE, None
    tell = ON_RETRY.get(_nobody)
    clock = asyncio.get_running_loop().time
    if doing is not None:
        tell(doing)
    while True:
        try:
            done = await step()
        except Refused as error:
            raise StepFailed(FailureClass.HOST, str(error), on_host=error.on_host) from error
        except Unavailable as error:
            if failing_since is None:
                failing_since = clock()
                tell(str(error))  # the first error: each other message would be a commit
            waited = clock() - failing_since
            if patience is not None and waited >= patience:
                message = f"{error} (tried for {waited:.0f} s)"
                raise StepFailed(FailureClass.HOST, message, on_host=error.on_host) from error
            log.warning("%s; trying again in %.1f s", error, pause)
        else:
            if doing is not None or failing_since is not None:
                tell(None)
            return done
        await asyncio.sleep(pause)
        pause = min(pause * 2, _PAUSE_CAP)


def _nobody(_: str | None) -> None:
    """Ignore retries."""
