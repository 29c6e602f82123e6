"""
Whether code repositories answer: asked before a slot is given to a run that needs one.

In memory. A repository that was never asked is asked first if it is far away;
one that does not answer is asked again and again, and its tasks wait meanwhile
without a slot of others.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from reconciler.core.model.specs import Repo

GOOD_FOR = timedelta(minutes=5)
"""How long a repository that answered counts as one that does, while tasks wait to start on it."""
_FAR = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]*://|[^/:\s]+:(?!//)")


@dataclass(frozen=True, slots=True)
class _Contact:
    repo: Repo
    at: datetime
    """When it last answered, or first did not."""
    trouble: str = ""
    """Why it did not, in the words of the first try; others would be a commit for each."""


class RepoHealth:
    """What is known of the repositories that tasks wait to start on."""

    def __init__(self) -> None:
        self._repos: dict[str, _Contact] = {}

    def keep(self, repos: Mapping[str, Repo]) -> None:
        """Forget all but these, and those whose spec is another."""
        self._repos = {
            name: contact for name, contact in self._repos.items() if repos.get(name) == contact.repo
        }

    def to_ask(self, repos: Mapping[str, Repo], now: datetime) -> Mapping[str, Repo]:
        """Return those that are to be asked now, of those that are needed."""
        return {name: repo for name, repo in repos.items() if self._due(repo) <= now}

    def next(self, repos: Iterable[Repo], now: datetime) -> datetime | None:
        """Return when one that answered is to be asked again."""
        return min((due for repo in repos if (due := self._due(repo)) > now), default=None)

    def answered(self, repo: Repo, at: datetime) -> None:
        """Take note that it did."""
        self._repos[repo.name] = _Contact(repo, at)

    def failed(self, repo: Repo, why: str, at: datetime) -> None:
        """Take note that it did not."""
        contact = self._repos.get(repo.name)
        is_old = contact is not None and contact.repo == repo and contact.trouble
        self._repos[repo.name] = (
            replace(contact, repo=repo) if contact and is_old else _Contact(repo, at, why)
        )

    def unready(self, repos: Mapping[str, Repo]) -> Mapping[str, str]:
        """Return why no run may start on a repository, by name; empty if it was not asked yet."""
        reasons = {}
        for name, repo in repos.items():
            contact = self._repos.get(name)
            if contact is None or contact.repo != repo:
                if _FAR.match(repo.url):
                    reasons[name] = ""
            elif contact.trouble:
                reasons[name] = contact.trouble
        return reasons

    def _due(self, repo: Repo) -> datetime:
        contact = self._repos.get(repo.name)
        if contact is None or contact.repo != repo or contact.trouble:
            return _AT_ONCE
        return contact.at + GOOD_FOR


_AT_ONCE = datetime.min.replace(tzinfo=UTC)
