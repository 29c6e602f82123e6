"""
Branch protection on GitHub: what protects a branch, and how one is protected.

A branch may have a protection of its own, and rulesets of the repository or of
the organisation that hold for it; both are read, the first is written.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from reconciler.core.fields import Id
from reconciler.forge.answers import ForgeAnswer, JsonLine, ProtectionRule
from reconciler.forge.client import GONE_CODES, Declined, ForgeClient


class _Checks(ForgeAnswer):
    contexts: tuple[JsonLine, ...] = ()


class _Account(ForgeAnswer):
    """A user, a team or an App: each is told by another field."""

    login: JsonLine = ""
    slug: JsonLine = ""


class _Accounts(ForgeAnswer):
    """Those to whom something is allowed."""

    users: tuple[_Account, ...] = ()
    teams: tuple[_Account, ...] = ()
    apps: tuple[_Account, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (*(each.login for each in self.users), *(f"{each.slug}[bot]" for each in self.apps))

    @property
    def team_names(self) -> tuple[str, ...]:
        return tuple(each.slug for each in self.teams)


class _Reviews(ForgeAnswer):
    required_approving_review_count: Id = 0
    bypass_pull_request_allowances: _Accounts = _Accounts()
    """Who may push all the same."""


class _Protection(ForgeAnswer):
    required_status_checks: _Checks | None = None
    required_pull_request_reviews: _Reviews | None = None
    restrictions: _Accounts | None = None
    """Who may push to the branch, and so merge into it."""

    def rule(self, base: str) -> ProtectionRule:
        checks = self.required_status_checks.contexts if self.required_status_checks else ()
        reviews, who = self.required_pull_request_reviews or _Reviews(), self.restrictions or _Accounts()
        pushers = reviews.bypass_pull_request_allowances if self.required_pull_request_reviews else who
        return ProtectionRule(
            rule_name=base,
            required_approvals=reviews.required_approving_review_count,
            enable_push=not checks,
            enable_push_whitelist=bool(self.required_pull_request_reviews or self.restrictions),
            push_whitelist_usernames=pushers.names,
            push_whitelist_teams=pushers.team_names,
            enable_merge_whitelist=self.restrictions is not None,
            merge_whitelist_usernames=who.names,
            merge_whitelist_teams=who.team_names,
            enable_status_check=bool(checks),
            status_check_contexts=checks,
        )


class _Check(ForgeAnswer):
    context: JsonLine


class _Parameters(ForgeAnswer):
    required_approving_review_count: Id = 0
    required_status_checks: tuple[_Check, ...] = ()


_NO_PUSHES = frozenset({"pull_request", "required_status_checks", "merge_queue", "update"})
"""Rules under which a branch takes nothing but merges of pull requests, or of what was checked as it is."""


class _RulesetRule(ForgeAnswer):
    """One rule of a ruleset, as it holds for a branch."""

    type: JsonLine
    parameters: _Parameters = _Parameters()

    def rule(self, base: str) -> ProtectionRule:
        contexts = tuple(each.context for each in self.parameters.required_status_checks)
        return ProtectionRule(
            rule_name=base,
            required_approvals=self.parameters.required_approving_review_count,
            enable_push=self.type not in _NO_PUSHES,
            enable_status_check=bool(contexts),
            status_check_contexts=contexts,
        )


async def protection_rules(client: ForgeClient, base: str) -> Sequence[ProtectionRule]:
    """Return the rules that a branch is under: of its own protection, and of rulesets."""
    place = quote(base, safe="/")
    rulesets = [each.rule(base) async for each in client.pages(f"rules/branches/{place}", _RulesetRule)]
    try:
        own = await client.get(f"branches/{place}/protection", _Protection)
    except Declined as declined:
        if declined.status not in GONE_CODES:
            raise
        return rulesets
    return [own.rule(base), *rulesets]


async def protect(client: ForgeClient, base: str) -> None:
    """Let changes come to a branch by pull requests with one approval alone, those of administrators too."""
    body: dict[str, Any] = {
        "required_status_checks": None,
        "enforce_admins": True,
        "required_pull_request_reviews": {
            "dismiss_stale_reviews": True,
            "required_approving_review_count": 1,
        },
        "restrictions": None,
    }
    await client.send("PUT", f"branches/{quote(base, safe='/')}/protection", body)
