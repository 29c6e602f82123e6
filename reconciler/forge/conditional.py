"""
Conditional requests: an answer that has not changed since is not sent again.

GitHub does not count such a request against its limit.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

R = TypeVar("R")

_MOST = 300
"""Answers that are kept; those of some dozens of open pull requests."""


class AnswerCache(Generic[R]):
    """Answers by request, each with its tag (ETag); the ones that were used last."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._answers: OrderedDict[Hashable, tuple[str, R]] = OrderedDict()

    def find(self, request: Hashable) -> tuple[str, R] | None:
        """Return the tag and the answer that is kept; None if there is none."""
        return self._answers.get(request)

    def keep(self, request: Hashable, tag: str, answer: R) -> None:
        """Keep an answer, and let go of the one that was not used for longest."""
        self._answers[request] = tag, answer
        self._answers.move_to_end(request)
        if len(self._answers) > self._most:
            self._answers.popitem(last=False)
