"""
Answers of the GitHub double: each whole, as GitHub's own description has it.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tests.forge import state
from tests.forge.state import Comment, Hook, Label, PullTicket, Review, Ticket

_OF_USER = "events followers following gists organizations received_events repos starred subscriptions"
_OF_REPO = (
    "archive assignees blobs branches collaborators comments commits compare contents contributors "
    "deployments downloads events forks git_commits git_refs git_tags hooks issue_comment issue_events "
    "issues keys labels languages merges milestones notifications pulls releases stargazers statuses "
    "subscribers subscription tags teams trees"
)
_NONE_OF_REPO = ("homepage", "language", "mirror_url", "license", "description")
_COUNTS_OF_REPO = (
    "forks forks_count open_issues open_issues_count size stargazers_count watchers watchers_count"
)
STATES = {"REQUEST_CHANGES": "CHANGES_REQUESTED", "COMMENT": "COMMENTED"}
"""GitHub's words for the states of reviews."""


def time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Shapes:
    """Makes the answers of one repository, whose addresses begin with that of the API."""

    def __init__(self, api: str, repo: str, now: datetime, people: Mapping[str, str]) -> None:
        self.api, self.repo_name, self.now = api, repo, now
        self.people = people
        """What people may do with the repository, by name: `read`, `write`, `admin`."""
        self.url = f"{api}/repos/{repo}"
        self.page = f"{api.removesuffix('/api/v3')}/{repo}"
        self.html = self.page

    def user(self, name: str) -> dict[str, Any]:
        at = f"{self.api}/users/{name}"
        return {
            **{f"{each}_url": f"{at}/{each}" for each in _OF_USER.split()},
            "id": state.user(name)["id"],
            "login": name,
            "node_id": f"U_{name}",
            "avatar_url": f"{at}/avatar",
            "gravatar_id": "",
            "html_url": f"{self.html}/{name}",
            "site_admin": False,
            "type": "Bot" if name.endswith("[bot]") else "User",
            "url": at,
        }

    def whole_user(self, name: str) -> dict[str, Any]:
        nothing = dict.fromkeys(("bio", "blog", "company", "email", "hireable", "location", "name"))
        counts = dict.fromkeys(("followers", "following", "public_gists", "public_repos"), 0)
        times = {"created_at": time(self.now), "updated_at": time(self.now)}
        return {**self.user(name), **nothing, **counts, **times, "user_view_type": "public"}

    def repo(self, *, minimal: bool = False) -> dict[str, Any]:
        owner, _, name = self.repo_name.partition("/")
        known = {
            **{f"{each}_url": f"{self.url}/{each}" for each in _OF_REPO.split()},
            "id": 1,
            "node_id": "R_1",
            "name": name,
            "full_name": self.repo_name,
            "owner": self.user(owner),
            "private": True,
            "fork": False,
            "description": None,
            "html_url": self.html,
            "url": self.url,
        }
        if minimal:
            return known
        flags = dict.fromkeys(("has_downloads", "has_issues", "has_projects", "has_wiki"), True)
        return {
            **known,
            **dict.fromkeys(_NONE_OF_REPO),
            **dict.fromkeys(_COUNTS_OF_REPO.split(), 0),
            **dict.fromkeys(("created_at", "updated_at", "pushed_at"), time(self.now)),
            **flags,
            "has_pages": False,
            "archived": False,
            "disabled": False,
            "default_branch": "main",
            "clone_url": f"{self.html}.git",
            "svn_url": self.html,
            "git_url": f"git://127.0.0.1/{self.repo_name}.git",
            "ssh_url": f"git@127.0.0.1:{self.repo_name}.git",
        }

    def whole_repo(self, role: str) -> dict[str, Any]:
        """Return the repository as it is answered by itself, to somebody of that role."""
        may = {"admin": role == "admin", "push": role != "read", "pull": True}
        counts = dict.fromkeys(("network_count", "subscribers_count"), 0)
        return {**self.repo(), **counts, "has_discussions": False, "permissions": may}

    def protection(self, branch: str, rule: Mapping[str, Any]) -> dict[str, Any]:
        """Return the protection of a branch, given the body that made it."""
        url = f"{self.url}/branches/{branch}/protection"
        answer: dict[str, Any] = {"url": url}
        if reviews := rule.get("required_pull_request_reviews"):
            flags = {"dismiss_stale_reviews": False, "require_code_owner_reviews": False}
            bypass = reviews.get("bypass_pull_request_allowances", {"users": []})
            people = {"users": [self.user(name) for name in bypass["users"]], "teams": [], "apps": []}
            rules = {**flags, **reviews, "bypass_pull_request_allowances": people}
            answer["required_pull_request_reviews"] = {"url": f"{url}/reviews", **rules}
        if checks := rule.get("required_status_checks"):
            each = [{"context": name, "app_id": None} for name in checks["contexts"]]
            answer["required_status_checks"] = {
                "strict": False,
                "contexts": checks["contexts"],
                "checks": each,
            }
        if (who := rule.get("restrictions")) is not None:
            urls = {f"{kind}_url": f"{url}/restrictions/{kind}" for kind in ("users", "teams", "apps")}
            users = [self.user(name) for name in who["users"]]
            answer["restrictions"] = {
                "url": f"{url}/restrictions",
                **urls,
                "users": users,
                "teams": [],
                "apps": [],
            }
        return answer | {
            "enforce_admins": {"url": f"{url}/admins", "enabled": rule.get("enforce_admins", False)}
        }

    def fork(self) -> dict[str, Any]:
        return {**self.repo(), "id": 2, "full_name": "mallory/fork", "owner": self.user("mallory")}

    def label(self, label: Label) -> dict[str, Any]:
        return {
            "id": label.id,
            "node_id": f"L_{label.id}",
            "url": f"{self.url}/labels/{label.id}",
            "name": label.name,
            "description": "",
            "color": label.color.removeprefix("#"),
            "default": False,
        }

    def association(self, name: str) -> str:
        return "COLLABORATOR" if self.people.get(name) in {"write", "admin"} else "NONE"

    # --- Pull requests -----------------------------------------------------

    def listed_pull(self, pull: PullTicket) -> dict[str, Any]:
        """Return a pull request as lists have it: not whether it can be merged, nor who did."""
        url, html = f"{self.url}/pulls/{pull.number}", f"{self.html}/pull/{pull.number}"
        issue = f"{self.url}/issues/{pull.number}"
        addresses = {
            "comments": f"{issue}/comments",
            "commits": f"{url}/commits",
            "statuses": f"{self.url}/statuses/{pull.head}",
            "html": html,
            "issue": issue,
            "review_comments": f"{url}/comments",
            "review_comment": f"{self.url}/pulls/comments{{/number}}",
            "self": url,
        }
        merged_at = time(pull.closed or pull.updated) if pull.merged else None
        return {
            "url": url,
            "id": 900 + pull.number,
            "node_id": f"PR_{pull.number}",
            "html_url": html,
            "diff_url": f"{html}.diff",
            "patch_url": f"{html}.patch",
            "issue_url": issue,
            "commits_url": f"{url}/commits",
            "review_comments_url": f"{url}/comments",
            "review_comment_url": f"{self.url}/pulls/comments{{/number}}",
            "comments_url": f"{issue}/comments",
            "statuses_url": f"{self.url}/statuses/{pull.head}",
            "number": pull.number,
            "state": pull.state,
            "locked": False,
            "title": pull.title,
            "user": self.user(pull.author),
            "body": pull.body or None,
            "labels": [self.label(label) for label in pull.labels],
            "milestone": None,
            "created_at": time(pull.created),
            "updated_at": time(pull.updated),
            "closed_at": merged_at or (time(pull.closed) if pull.closed else None),
            "merged_at": merged_at,
            "merge_commit_sha": pull.merge_commit,
            "assignee": None,
            "assignees": [],
            "requested_reviewers": [
                self.user(review.author) for review in pull.reviews if review.state == "REQUEST_REVIEW"
            ],
            "requested_teams": [],
            "head": self._side(pull.branch, pull.head, fork=pull.is_from_fork),
            "base": self._side(pull.base, pull.base_head),
            "_links": {name: {"href": address} for name, address in addresses.items()},
            "author_association": self.association(pull.author),
            "auto_merge": None,
            "draft": pull.draft,
        }

    def _side(self, branch: str, commit: str, *, fork: bool = False) -> dict[str, Any]:
        owner = "mallory" if fork else self.repo_name.partition("/")[0]
        repo = self.fork() if fork else self.repo()
        label = f"{owner}:{branch}"
        return {"label": label, "ref": branch, "sha": commit, "user": self.user(owner), "repo": repo}

    def pull(self, pull: PullTicket, mergeable: bool | None, merge_state: str) -> dict[str, Any]:
        return {
            **self.listed_pull(pull),
            "merged": pull.merged,
            "mergeable": mergeable,
            "rebaseable": mergeable,
            "mergeable_state": merge_state,
            "merged_by": self.user(pull.merged_by) if pull.merged_by else None,
            "comments": len(pull.comments),
            "review_comments": sum(len(review.comments) for review in pull.reviews),
            "maintainer_can_modify": False,
            **dict.fromkeys(("commits", "additions", "deletions", "changed_files"), 1),
        }

    def review(self, pull: PullTicket, review: Review) -> dict[str, Any]:
        url, html = f"{self.url}/pulls/{pull.number}", f"{self.html}/pull/{pull.number}"
        here = f"{html}#pullrequestreview-{review.id}"
        return {
            "id": review.id,
            "node_id": f"PRR_{review.id}",
            "user": self.user(review.author),
            "body": review.body,
            "state": "DISMISSED" if review.dismissed else STATES.get(review.state, review.state),
            "html_url": here,
            "pull_request_url": url,
            "author_association": self.association(review.author),
            "_links": {"html": {"href": here}, "pull_request": {"href": url}},
            "submitted_at": time(review.submitted),
            "commit_id": review.commit,
        }

    def inline(self, pull: PullTicket, review: Review, note: Mapping[str, Any]) -> dict[str, Any]:
        """Return a comment on a line; `position` is where it is in the diff, and no line of the file."""
        url, html = f"{self.url}/pulls/comments/{note['id']}", f"{self.html}/pull/{pull.number}"
        here = f"{html}#discussion_r{note['id']}"
        of_pull = f"{self.url}/pulls/{pull.number}"
        is_outdated = review.commit != pull.head
        return {
            "url": url,
            "id": note["id"],
            "node_id": f"PRRC_{note['id']}",
            "pull_request_review_id": review.id,
            "diff_hunk": "@@ -1 +1 @@",
            "path": note["path"],
            "commit_id": pull.head,
            "original_commit_id": review.commit,
            "user": self.user(review.author),
            "body": note["body"],
            "created_at": time(review.submitted),
            "updated_at": time(review.submitted),
            "html_url": here,
            "pull_request_url": of_pull,
            "author_association": self.association(review.author),
            "_links": {"self": {"href": url}, "html": {"href": here}, "pull_request": {"href": of_pull}},
            **({} if is_outdated else {"position": 1, "line": note["position"]}),
            "original_position": 1,
            "original_line": note["position"],
            "start_line": None,
            "original_start_line": None,
            "start_side": None,
            "side": "RIGHT",
            "subject_type": "line",
        }

    # --- Commits and what checks say of them -------------------------------

    def commit(self, sha: str, author: str) -> dict[str, Any]:
        url = f"{self.url}/commits/{sha}"
        known = self.user(author) if author in self.people else None
        person = {"name": author, "email": f"{author}@example.org", "date": time(self.now)}
        verification = {"verified": False, "reason": "unsigned", "signature": None, "payload": None}
        return {
            "url": url,
            "sha": sha,
            "node_id": f"C_{sha}",
            "html_url": f"{self.html}/commit/{sha}",
            "comments_url": f"{url}/comments",
            "commit": {
                "url": f"{self.url}/git/commits/{sha}",
                "author": person,
                "committer": person,
                "message": "Work",
                "comment_count": 0,
                "tree": {"sha": sha, "url": f"{self.url}/git/trees/{sha}"},
                "verification": {**verification, "verified_at": None},
            },
            "author": known,
            "committer": known,
            "parents": [],
        }

    def status(self, status: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "url": f"{self.url}/statuses/{status['sha']}",
            "avatar_url": None,
            "id": status["id"],
            "node_id": f"SC_{status['id']}",
            "state": status["status"],
            "description": status["description"] or None,
            "target_url": status["target_url"] or None,
            "context": status["context"],
            "created_at": time(self.now),
            "updated_at": time(self.now),
        }

    def check_run(self, run: Mapping[str, Any]) -> dict[str, Any]:
        url, html = f"{self.url}/check-runs/{run['id']}", f"{self.html}/runs/{run['id']}"
        is_done = run["status"] == "completed"
        return {
            "id": run["id"],
            "node_id": f"CR_{run['id']}",
            "head_sha": run["sha"],
            "name": run["name"],
            "external_id": "",
            "url": url,
            "html_url": html,
            "details_url": html,
            "status": run["status"],
            "conclusion": run["conclusion"] if is_done else None,
            "started_at": time(self.now),
            "completed_at": time(self.now) if is_done else None,
            "check_suite": {"id": 1},
            "output": {
                "title": run["title"],
                "summary": None,
                "text": None,
                "annotations_count": 0,
                "annotations_url": f"{url}/annotations",
            },
            "app": None,
            "pull_requests": [],
        }

    def workflow_run(self, run: Mapping[str, Any]) -> dict[str, Any]:
        url, html = f"{self.url}/actions/runs/{run['id']}", f"{self.html}/actions/runs/{run['id']}"
        of_run = ["jobs", "logs", "check_suite", "cancel", "rerun", "artifacts", "workflow"]
        return {
            **{f"{each}_url": f"{url}/{each}" for each in of_run},
            "id": run["id"],
            "node_id": f"WFR_{run['id']}",
            "name": run["name"],
            "head_branch": None,
            "run_number": 1,
            "display_title": "Work",
            "event": "push",
            "status": run["status"],
            "conclusion": run["conclusion"] if run["status"] == "completed" else None,
            "head_sha": run["sha"],
            "path": ".github/workflows/ci.yaml",
            "workflow_id": run.get("workflow", 7),
            "url": url,
            "html_url": html,
            "created_at": time(self.now),
            "updated_at": time(self.now),
            "head_commit": None,
            "head_repository": self.repo(minimal=True),
            "repository": self.repo(minimal=True),
            "pull_requests": [],
        }

    # --- Issues, comments, hooks -------------------------------------------

    def issue(self, ticket: Ticket) -> dict[str, Any]:
        url = f"{self.url}/issues/{ticket.number}"
        is_pull = isinstance(ticket, PullTicket)
        html = f"{self.html}/{'pull' if is_pull else 'issues'}/{ticket.number}"
        known = {
            "id": 900 + ticket.number,
            "node_id": f"I_{ticket.number}",
            "url": url,
            "repository_url": self.url,
            "labels_url": f"{url}/labels{{/name}}",
            "comments_url": f"{url}/comments",
            "events_url": f"{url}/events",
            "html_url": html,
            "number": ticket.number,
            "state": ticket.state,
            "title": ticket.title,
            "body": ticket.body or None,
            "user": self.user(ticket.author),
            "labels": [self.label(label) for label in ticket.labels],
            "assignee": None,
            "assignees": [],
            "milestone": None,
            "locked": False,
            "comments": len(ticket.comments),
            "created_at": time(ticket.created),
            "updated_at": time(ticket.updated),
            "closed_at": time(ticket.closed) if ticket.closed else None,
            "author_association": self.association(ticket.author),
        }
        if isinstance(ticket, PullTicket):
            url = f"{self.url}/pulls/{ticket.number}"
            of_pull = {"url": url, "html_url": html, "diff_url": f"{html}.diff", "patch_url": f"{html}.patch"}
            return {**known, "draft": ticket.draft, "pull_request": {**of_pull, "merged_at": None}}
        return known

    def comment(self, ticket: Ticket, comment: Comment) -> dict[str, Any]:
        url = f"{self.url}/issues/comments/{comment.id}"
        return {
            "id": comment.id,
            "node_id": f"IC_{comment.id}",
            "url": url,
            "html_url": f"{self.issue(ticket)['html_url']}#issuecomment-{comment.id}",
            "issue_url": f"{self.url}/issues/{ticket.number}",
            "user": self.user(comment.author),
            "body": comment.body,
            "created_at": time(comment.created),
            "updated_at": time(comment.updated),
            "author_association": self.association(comment.author),
        }

    def event(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return an entry in the timeline."""
        return {
            "id": entry["id"],
            "node_id": f"E_{entry['id']}",
            "url": f"{self.url}/issues/events/{entry['id']}",
            "actor": self.user(entry["user"]["login"]),
            "event": {"close": "closed", "reopen": "reopened"}[entry["type"]],
            "commit_id": None,
            "commit_url": None,
            "created_at": time(self.now),
            "performed_via_github_app": None,
        }

    def hook(self, hook: Hook) -> dict[str, Any]:
        url = f"{self.url}/hooks/{hook.id}"
        secret = {"secret": "********"} if hook.secret else {}
        return {
            "type": "Repository",
            "id": hook.id,
            "name": "web",
            "active": hook.active,
            "events": hook.events,
            "config": {"url": hook.url, "content_type": "json", "insecure_ssl": "0", **secret},
            "created_at": time(self.now),
            "updated_at": time(self.now),
            "url": url,
            "test_url": f"{url}/tests",
            "ping_url": f"{url}/pings",
            "deliveries_url": f"{url}/deliveries",
            "last_response": {"code": None, "status": "unused", "message": None},
        }


def pages(html: str, number: int, last: int) -> dict[str, str]:
    """Return the header that leads to the next page."""
    if number >= last:
        return {}
    return {"Link": f'<{re.sub(r"[?].*", "", html)}?page={number + 1}>; rel="next"'}
