"""
Webhooks of GitLab: its headers, its bodies, and where each says to look.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator

from reconciler.core.fields import Id
from reconciler.forge.answers import ForgeAnswer, ForgeTime, JsonLine

EVENT, DELIVERIES = "x-gitlab-event", ("idempotency-key", "x-gitlab-event-uuid")
"""Headers with the event, and with what is the same when a delivery is sent again; the first of them."""
TOKEN, SIGNATURE = "x-gitlab-token", "webhook-signature"
_VERSION = "v1,"
_MADE = re.compile(r"v1,[A-Za-z0-9+/]{43}=")
_PREFIX = "whsec_"
_HEADS = "refs/heads/"


def is_signed_with(raw: bytes, headers: Mapping[str, str], secret: str) -> bool:
    """
    Return whether a delivery brings the secret, as its token or by a signature of Standard Webhooks.

    A signature counts alone where there is one: the token beside it may be that of another time.
    """
    if sent := headers.get(SIGNATURE, ""):
        if not _MADE.search(sent):
            return False
        signed = b".".join([headers.get("webhook-id", "").encode(), _time(headers), raw])
        made = base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode()
        return any(hmac.compare_digest(each.encode(), f"{_VERSION}{made}".encode()) for each in sent.split())
    token = headers.get(TOKEN, "")
    return bool(token) and hmac.compare_digest(token.encode(), secret.encode())


def _time(headers: Mapping[str, str]) -> bytes:
    return headers.get("webhook-timestamp", "").encode()


def _key(secret: str) -> bytes:
    """Return the key of a secret: behind the prefix of Standard Webhooks it is in base64."""
    if secret.startswith(_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            pass
    return secret.encode()


def _spelled(value: object) -> object:
    """Return a time as others write it: GitLab ends some with ` UTC`."""
    return f"{value.removesuffix(' UTC')}Z" if isinstance(value, str) and value.endswith(" UTC") else value


_Time = Annotated[ForgeTime, BeforeValidator(_spelled)]


class _Project(ForgeAnswer):
    path_with_namespace: JsonLine


class _User(ForgeAnswer):
    username: JsonLine = ""


class _Attributes(ForgeAnswer):
    iid: Id | None = None
    action: JsonLine = ""
    sha: JsonLine = ""
    noteable_type: str = ""
    updated_at: _Time | None = None


class _Ticket(ForgeAnswer):
    iid: Id | None = None


class GitLabBody(ForgeAnswer):
    """Every body that is read; which fields must be there depends on the event."""

    object_kind: str = ""
    project: _Project | None = None
    user: _User | None = None
    user_username: JsonLine = ""
    ref: JsonLine | None = None
    object_attributes: _Attributes | None = None
    merge_request: _Ticket | None = None
    issue: _Ticket | None = None

    @property
    def kind(self) -> str:
        """What it says it is."""
        return self.object_kind

    @property
    def action(self) -> str:
        """What happened, if it says so."""
        return self.object_attributes.action if self.object_attributes else ""

    @property
    def place(self) -> str | None:
        """The project it is from."""
        return self.project.path_with_namespace if self.project else None

    @property
    def by(self) -> str:
        """Who did it."""
        return self.user_username or (self.user.username if self.user else "")

    @property
    def happened_at(self) -> datetime | None:
        """When it happened; None if it does not say so."""
        return self.object_attributes.updated_at if self.object_attributes else None


Place = dict[str, Any]


def _pushed(body: GitLabBody) -> Place | None:
    ref = body.ref or ""
    return {"branch": ref.removeprefix(_HEADS)} if ref.startswith(_HEADS) else None


def _pull(body: GitLabBody) -> Place | None:
    return {"pull": body.object_attributes.iid} if body.object_attributes else None


def _issue(body: GitLabBody) -> Place | None:
    return {"issue": body.object_attributes.iid} if body.object_attributes else None


def _noted(body: GitLabBody) -> Place | None:
    """Find what a note is on; one on a commit or a snippet leads nowhere."""
    if body.merge_request:
        return {"pull": body.merge_request.iid}
    return {"issue": body.issue.iid} if body.issue else None


def _checked(body: GitLabBody) -> Place | None:
    """Find what a pipeline is of: its merge request, if it is of one, for its commit may be another."""
    if body.merge_request and body.merge_request.iid is not None:
        return {"pull": body.merge_request.iid}
    return {"commit": body.object_attributes.sha} if body.object_attributes else None


PLACES: Mapping[str, Callable[[GitLabBody], Place | None]] = {
    "Push Hook": _pushed,
    "Merge Request Hook": _pull,
    "Issue Hook": _issue,
    "Confidential Issue Hook": _issue,
    "Note Hook": _noted,
    "Confidential Note Hook": _noted,
    "Pipeline Hook": _checked,
}
_TICKET = ("project", "object_attributes")
NEEDED: Mapping[str, tuple[str, ...]] = {
    "Push Hook": ("project", "ref"),
    **dict.fromkeys(("Merge Request Hook", "Issue Hook", "Confidential Issue Hook"), _TICKET),
    **dict.fromkeys(("Note Hook", "Confidential Note Hook", "Pipeline Hook"), _TICKET),
}
"""Fields that a body of the event has; the header with the event is not signed."""
_TICKETS = frozenset({"issue", "work_item"})
KINDS: Mapping[str, frozenset[str]] = {
    "Push Hook": frozenset({"push"}),
    "Merge Request Hook": frozenset({"merge_request"}),
    "Issue Hook": _TICKETS,
    "Confidential Issue Hook": _TICKETS,
    "Note Hook": frozenset({"note"}),
    "Confidential Note Hook": frozenset({"note"}),
    "Pipeline Hook": frozenset({"pipeline"}),
}
"""What a body of the event says it is."""
