"""
Webhook parsing: check the signature, and read the hint.

The body is signed, the headers are not: an event that the body does not look
like is refused. The bodies of GitLab are its own; all others are alike.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import AliasChoices, Field, ValidationError

from reconciler.core.errors import UsageError
from reconciler.core.fields import Id
from reconciler.core.model.forge import Hint
from reconciler.core.text import one_line
from reconciler.forge import gitlab_webhook as gitlab
from reconciler.forge.answers import OWN_CONTEXTS, ForgeAnswer, ForgeTime, ForgeUser, JsonLine, name_of

_FAMILIES = ("forgejo", "gitea", "github")
_SIGNATURES = ("x-hub-signature-256", "x-forgejo-signature", "x-gitea-signature")
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_HEADS = "refs/heads/"


def has_valid_signature(raw: bytes, headers: Mapping[str, str], secrets: Collection[str]) -> frozenset[str]:
    """
    Return those of the secrets that the body is signed with (names of headers in lower case).

    SHA-256 only; an empty signature, which forges send where no secret is set,
    is none. What is no signature at all costs nothing. GitLab may send the
    secret itself: that says nothing of the body, which is a hint at most anyway.
    """
    if gitlab.EVENT in headers:
        return frozenset(each for each in secrets if each and gitlab.is_signed_with(raw, headers, each))
    sent = next((headers[name] for name in _SIGNATURES if headers.get(name)), "")
    signature = sent.removeprefix("sha256=").lower()
    if not _HEX_SHA256.fullmatch(signature):
        return frozenset()
    wanted = {
        secret: hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest() for secret in secrets if secret
    }
    return frozenset(secret for secret, each in wanted.items() if hmac.compare_digest(each, signature))


def ping(secret: str) -> tuple[Mapping[str, str], bytes]:
    """Return headers and body of a signed delivery that says nothing: no event has such a body."""
    body = b'{"ping": "reconciler"}'
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "content-type": "application/json",
        "x-forgejo-event": "ping",
        "x-hub-signature-256": f"sha256={signature}",
    }
    return headers, body


def read_hint(headers: Mapping[str, str], raw: bytes) -> Hint | None:
    """
    Return the hint in a webhook; None for an event that is not handled.

    Raises UsageError if it is not what it says it is.
    """
    form, event = _form_of(headers), _event(headers)
    if (find := form.places.get(event)) is None:  # whatever it looks like
        return None
    body = _body(event, raw, form)
    place, hint = body.place, find(body)
    if place is None or hint is None:
        return None
    return Hint(
        delivery=delivery_of(headers, raw),
        event=event,
        action=body.action,
        place=place,
        sender=body.by,
        happened_at=body.happened_at,
        **hint,
    )


def event_of(headers: Mapping[str, str]) -> str:
    """Return the name of the event, for counters: `?` for one that is not handled."""
    event = _event(headers)
    return event if event in _form_of(headers).places else "?"


def delivery_of(headers: Mapping[str, str], raw: bytes) -> str:
    """Return the id of a delivery; a malformed or missing one is replaced by a digest of the body."""
    sent = (headers[name] for name in gitlab.DELIVERIES if headers.get(name))
    named = next(sent, "") if gitlab.EVENT in headers else _header(headers, "delivery")
    return named if _ID.fullmatch(named) else digest(raw)[:32]


def digest(raw: bytes) -> str:
    """Return the identity of a body."""
    return hashlib.sha256(raw).hexdigest()


def _event(headers: Mapping[str, str]) -> str:
    return headers.get(gitlab.EVENT) or _header(headers, "event")


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((sent for family in _FAMILIES if (sent := headers.get(f"x-{family}-{name}"))), "")


class _Repository(ForgeAnswer):
    full_name: JsonLine


class _Numbered(ForgeAnswer):
    number: Id
    pull_request: dict[str, Any] | None = None
    updated_at: ForgeTime | None = None


class _Run(ForgeAnswer):
    commit_sha: JsonLine
    repository: _Repository


class _Commit(ForgeAnswer):
    id: JsonLine = Field(validation_alias=AliasChoices("id", "sha"))


class _Checked(ForgeAnswer):
    """What ran for a commit on GitHub."""

    head_sha: JsonLine


class _Body(ForgeAnswer):
    """Every body that is read; which fields must be there depends on the event."""

    action: JsonLine = ""
    repository: _Repository | None = None
    sender: ForgeUser | None = None
    ref: JsonLine | None = None
    ref_type: str | None = None
    pull_request: _Numbered | None = None
    review: dict[str, Any] | None = None
    issue: _Numbered | None = None
    comment: dict[str, Any] | None = None
    is_pull: bool = False
    run: _Run | None = None
    commit: _Commit | None = None
    context: JsonLine = ""
    """Of a commit status."""
    check_run: _Checked | None = None
    check_suite: _Checked | None = None
    workflow_run: _Checked | None = None

    @property
    def by(self) -> str:
        """Who did it."""
        return name_of(self.sender)

    @property
    def happened_at(self) -> datetime | None:
        """When it happened; None if it does not say so, as for a push."""
        ticket = self.pull_request or self.issue
        return ticket.updated_at if ticket else None

    @property
    def place(self) -> str | None:
        """The repository it is from."""
        if self.repository:
            return self.repository.full_name
        return self.run.repository.full_name if self.run else None


@dataclass(frozen=True, slots=True)
class _Form:
    """What the bodies of a family of forges look like."""

    shape: type[Any]
    places: Mapping[str, Callable[[Any], dict[str, Any] | None]]
    """Where each event that is handled says to look."""
    needed: Mapping[str, tuple[str, ...]]
    """Fields that a body of the event has."""
    kinds: Mapping[str, Collection[str]] = field(default_factory=dict)
    """What a body of the event says it is, where bodies say so."""


def _form_of(headers: Mapping[str, str]) -> _Form:
    return _GITLAB if gitlab.EVENT in headers else _SHARED


def _body(event: str, raw: bytes, form: _Form) -> Any:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise UsageError("the body is not JSON; set the webhook's content type to application/json") from None
    name = one_line(event, 50) or "without an event"
    try:
        body = form.shape.model_validate(value)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, each["loc"])) for each in error.errors()[:3])
        raise UsageError(f"this is no webhook {name}: {one_line(fields, 200) or 'not an object'}") from None
    if missing := [each for each in form.needed.get(event, ()) if getattr(body, each) is None]:
        raise UsageError(f"this is no webhook {name}: {', '.join(missing)} is missing")
    if (kinds := form.kinds.get(event)) and body.kind not in kinds:
        raise UsageError(
            f"this is no webhook {name}: it says that it is {one_line(body.kind, 50) or 'nothing'}"
        )
    return body


_REVIEW = ("pull_request", "review")
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "push": ("ref", "repository"),
    "create": ("ref", "ref_type", "repository"),
    "delete": ("ref", "ref_type", "repository"),
    "pull_request": ("pull_request", "repository"),
    "pull_request_approved": _REVIEW,
    "pull_request_rejected": _REVIEW,
    "pull_request_comment": _REVIEW,
    "pull_request_review": _REVIEW,
    "pull_request_review_comment": ("pull_request", "comment"),
    "pull_request_review_thread": ("pull_request",),
    "issues": ("issue", "repository"),
    "issue_comment": ("issue", "comment", "repository"),
    "status": ("commit", "repository"),
    "action_run_failure": ("run",),
    "action_run_success": ("run",),
    "action_run_recover": ("run",),
    "check_run": ("check_run", "repository"),
    "check_suite": ("check_suite", "repository"),
    "workflow_run": ("workflow_run", "repository"),
}

_Match = dict[str, Any]


def _pushed(body: _Body) -> _Match | None:
    ref = body.ref or ""
    return {"branch": ref.removeprefix(_HEADS)} if ref.startswith(_HEADS) else None


def _made(body: _Body) -> _Match | None:
    """Return the branch that was created or deleted; the name is full or short, by the kind of hook."""
    return {"branch": (body.ref or "").removeprefix(_HEADS)} if body.ref_type == "branch" else None


def _pull(body: _Body) -> _Match | None:
    return {"pull": body.pull_request.number} if body.pull_request else None


def _issue(body: _Body) -> _Match | None:
    """Find the issue; a pull request is one too, and comments on either look alike."""
    if body.issue is None:
        return None
    is_pull = body.is_pull or body.issue.pull_request is not None
    return {"pull" if is_pull else "issue": body.issue.number}


def _checked(body: _Body) -> _Match | None:
    if body.run:
        return {"commit": body.run.commit_sha}
    if checked := body.check_run or body.check_suite or body.workflow_run:
        return {"commit": checked.head_sha}
    if body.context.startswith(OWN_CONTEXTS):  # no check
        return None
    return {"commit": body.commit.id} if body.commit else None


_PLACES: Mapping[str, Callable[[_Body], _Match | None]] = {
    "push": _pushed,
    "create": _made,
    "delete": _made,
    "pull_request": _pull,
    "pull_request_approved": _pull,
    "pull_request_rejected": _pull,
    "pull_request_comment": _pull,
    "pull_request_review": _pull,  # GitHub's
    "pull_request_review_comment": _pull,  # GitHub's
    "pull_request_review_thread": _pull,  # GitHub's
    "issues": _issue,
    "issue_comment": _issue,
    "status": _checked,
    "action_run_failure": _checked,
    "action_run_success": _checked,
    "action_run_recover": _checked,
    "check_run": _checked,  # GitHub's
    "check_suite": _checked,  # GitHub's
    "workflow_run": _checked,  # GitHub's
}

_SHARED = _Form(_Body, _PLACES, _NEEDED)
_GITLAB = _Form(gitlab.GitLabBody, gitlab.PLACES, gitlab.NEEDED, gitlab.KINDS)
