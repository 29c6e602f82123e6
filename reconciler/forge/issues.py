"""
The issues of a repository on a forge.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from reconciler.controller.ports import Clock
from reconciler.core.bounded import BoundedDict
from reconciler.core.model.forge import Issue
from reconciler.forge.answers import IssueAnswer, LabelAnswer
from reconciler.forge.client import GONE_CODES, Declined, Forbidden, ForgeClient
from reconciler.forge.dialect import Dialect
from reconciler.forge.forge_clock import ForgeClock

_RECHECKED = timedelta(minutes=10)
"""For so long it is believed that a label stands in one place, or in two."""

_MOST_LABELS = 100


class IssueReader:
    """Reads issues; remembers only how they have to be asked for."""

    def __init__(self, client: ForgeClient, dialect: Dialect, owner: str, clock: Clock) -> None:
        self._client = client
        self._dialect = dialect
        self._owner = owner
        self._clock = clock
        self._twins: MutableMapping[str, tuple[datetime, bool]] = BoundedDict(_MOST_LABELS)
        """By label: whether there are two of it, and until when that is believed."""

    async def open(self, label: str) -> Sequence[Issue] | None:
        """Return every open issue with a label, oldest first; None if the repository takes no issues."""
        query = self._dialect.open_issues
        try:
            issues = await self._listed(label, {**query, "labels": label})
            if not issues and self._dialect.has_owner_labels and await self._has_twin(label):
                issues = await self._listed(label, query)
        except Declined as declined:
            if declined.status in GONE_CODES:
                return None
            raise
        return issues

    async def _listed(self, label: str, query: Mapping[str, str]) -> Sequence[Issue]:
        answers = [answer async for answer in self._client.pages("issues", IssueAnswer, query)]
        clock = self._client.forge_clock
        issues = [by_our_clock(answer.issue, clock) for answer in answers if answer.pull_request is None]
        # A filter by a label that does not exist is none.
        return sorted((issue for issue in issues if issue.has(label)), key=lambda issue: issue.number)

    async def _has_twin(self, label: str) -> bool:
        """
        Return whether the organisation has, or may have, a label of that name beside the repository's.

        Forgejo and Gitea then ask for issues that have both, and list none. A
        token without the scope `read:organization` cannot tell: then it may.
        """
        until, has_twin = self._twins.get(label, (None, False))
        if until is None or until < self._clock():
            has_twin = await self._is_in("labels", label) and await self._may_be_of_owner(label)
            self._twins[label] = self._clock() + _RECHECKED, has_twin
        return has_twin

    async def _may_be_of_owner(self, label: str) -> bool:
        try:
            return await self._is_in(f"/orgs/{self._owner}/labels", label)
        except Forbidden:
            return True

    async def _is_in(self, path: str, label: str) -> bool:
        try:
            names = [answer.name async for answer in self._client.pages(path, LabelAnswer)]
            return label.lower() in map(str.lower, names)
        except Declined:  # the owner is a person
            return False


def by_our_clock(issue: Issue, clock: ForgeClock) -> Issue:
    """Return an issue with its times by our clock."""
    closed = issue.closed_at and clock.ours(issue.closed_at)
    return replace(issue, closed_at=closed, updated_at=clock.ours(issue.updated_at))
