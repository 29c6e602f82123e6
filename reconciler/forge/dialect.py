"""
Dialects: where the APIs of the forges differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from reconciler.core.model.forge import ForgeView


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Parameters of one kind of forge; the defaults are Forgejo's."""

    newest_first: Mapping[str, str] = field(default_factory=lambda: {"sort": "recentupdate"})
    """Parameters that list pull requests by their last change."""
    label_key: Literal["id", "name"] = "id"
    """Field of a label by which it is removed from an issue."""
    has_drafts: bool = False
    """Whether drafts have a flag of their own; if not, the title begins with `WIP:`."""
    is_sure_of_conflicts: bool = False
    """Whether `mergeable: false` always means a conflict; if not, it may still be being computed."""
    hook_type: Mapping[str, str] = field(default_factory=lambda: {"type": "forgejo"})
    hook_events: tuple[str, ...]
    """Events that a webhook is made for."""
    listed_events: tuple[str, ...]
    """Events that such a webhook lists at the least; some names bring others with them."""
    lists_deliveries: bool = False
    """Whether its API tells what the deliveries of a webhook were answered."""

    def merge(self, want: ForgeView) -> tuple[str, Mapping[str, Any]]:
        """Return method and body of the request that merges."""
        if self.has_drafts:
            return "PUT", {"merge_method": want.merge_style, "sha": want.merges}
        return "POST", {"Do": want.merge_style, "head_commit_id": want.merges}


_COMMON = ("push", "create", "delete", "issues", "pull_request")

_LISTED = (*_COMMON, "issue_comment", "pull_request_comment", "pull_request_sync")

FORGEJO = Dialect(
    hook_events=(*_COMMON, "action_run_failure", "action_run_success", "action_run_recover"),
    listed_events=_LISTED,
)
"""Written from the sources of Forgejo 15, and tried on 15.0.3."""

GITEA = Dialect(
    hook_type={"type": "gitea"},
    hook_events=(*_COMMON, "status"),
    listed_events=(*_LISTED, "pull_request_review", "status"),
)
"""Written from the sources of Gitea 1.27, and tried on 1.26.3."""

_GITHUB_EVENTS = (
    *_COMMON,
    "issue_comment",
    "pull_request_review",
    "pull_request_review_comment",
    "status",
)

GITHUB = Dialect(
    newest_first={"sort": "updated", "direction": "desc"},
    label_key="name",
    has_drafts=True,
    is_sure_of_conflicts=True,
    lists_deliveries=True,
    hook_type={"name": "web"},
    hook_events=_GITHUB_EVENTS,
    listed_events=_GITHUB_EVENTS,
)
"""
As far as the same calls carry, and never tried against GitHub itself.

Its check runs (those of Actions among them) are not commit statuses and are
not seen; labels there are not exclusive, so ours are exchanged one by one.
"""

DIALECTS: Mapping[str, Dialect] = {"forgejo": FORGEJO, "gitea": GITEA, "github": GITHUB}
