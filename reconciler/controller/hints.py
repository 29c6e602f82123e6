"""
Hints: what webhooks spoke of and nobody has looked at yet, by repo.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

MOST_HINTS = 100
"""Most hints that are kept per repo; a look finds the rest by itself."""

Subject = TypeVar("Subject")


class Hints(Generic[Subject]):
    """Subjects of hints (numbers of pull requests, branches), each with the delivery that named it last."""

    def __init__(self) -> None:
        self._by_repo: dict[str, dict[Subject, str]] = {}

    @property
    def repos(self) -> Iterable[str]:
        """Return the repos that have any."""
        return self._by_repo.keys()

    def add(self, repo: str, subject: Subject, delivery: str) -> None:
        """Keep a hint, in place of an older one about the same; of too many the oldest goes."""
        hints = {**self._by_repo.get(repo, {}), subject: delivery}
        self._by_repo[repo] = dict(list(hints.items())[-MOST_HINTS:])

    @contextmanager
    def taken(self, repo: str) -> Iterator[Mapping[Subject, str]]:
        """Take a repo's hints; whatever goes wrong in the block, they are back after it."""
        hints = self._by_repo.pop(repo, {})
        try:
            yield hints
        except BaseException:
            if restored := {**hints, **self._by_repo.get(repo, {})}:
                self._by_repo[repo] = restored
            raise
