"""Webhooks of GitLab: bodies with the fields that its documentation gives them, through the receiver."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime

import pytest

from reconciler.core.adapter import Secret
from reconciler.core.errors import Refused, UsageError
from reconciler.core.model.specs import Desired, Forge, Repo
from reconciler.forge.journal import Journal
from reconciler.forge.webhook_receiver import WebhookReceiver
from tests.fakes import FakeClock

REPO, SECRET, HEAD = "acme/tools/widgets", "s3cret", "da1560886d4f094c3e6c9ef40349f7d38b5d27d7"
KEY = "f5e5f430-f57b-4e6e-9fac-d9128cd7232f"
AT = "2026-05-17 18:21:36 UTC"
NOWHERE = dict.fromkeys(("pull", "issue", "branch", "commit"))
USER = {"id": 1, "name": "Ann", "username": "ann", "avatar_url": None, "email": "[REDACTED]"}


def body(kind, *, user=USER, **more):
    project = {"id": 15, "name": "Widgets", "path_with_namespace": REPO, "default_branch": "main"}
    whole = {"object_kind": kind, "event_type": kind, "project": project, "repository": {"name": "Widgets"}}
    return {**whole, **({"user": user} if user else {}), **more}


def ticket(**more):
    return {"id": 301, "iid": 23, "title": "Mend it", "state": "opened", "updated_at": AT, **more}


def note(kind, **more):
    fields = {"id": 1244, "note": "Needs work.", "noteable_type": kind, "noteable_id": 7, "system": False}
    return body("note", object_attributes={**fields, "created_at": AT, "updated_at": AT}, **more)


def push(ref, **more):
    by = {"user_id": 4, "user_name": "Ann", "user_username": "ann"}
    return body("push", user=None, event_name="push", ref=ref, before="0" * 40, after=HEAD, **by, **more)


def pipeline(**more):
    fields = {"id": 31, "iid": 3, "ref": "task/a", "tag": False, "sha": HEAD, "status": "success"}
    return body("pipeline", object_attributes=fields, builds=[], **more)


CASES = {
    "a push": ("Push Hook", push("refs/heads/task/a", checkout_sha=HEAD), {"branch": "task/a"}),
    "a branch that goes": ("Push Hook", push("refs/heads/task/a", checkout_sha=None), {"branch": "task/a"}),
    "a tag": ("Tag Push Hook", {**push("refs/tags/v1"), "object_kind": "tag_push"}, None),
    "a merge request": (
        "Merge Request Hook",
        body("merge_request", object_attributes=ticket(action="approved"), labels=[], reviewers=[USER]),
        {"pull": 23},
    ),
    "an issue": ("Issue Hook", body("issue", object_attributes=ticket(action="open")), {"issue": 23}),
    "a task, which is a work item": (
        "Issue Hook",
        body("work_item", object_attributes=ticket(action="update")),
        {"issue": 23},
    ),
    "a confidential issue": (
        "Confidential Issue Hook",
        body("issue", object_attributes=ticket(confidential=True)),
        {"issue": 23},
    ),
    "a note on a merge request": ("Note Hook", note("MergeRequest", merge_request=ticket()), {"pull": 23}),
    "a note on an issue": ("Note Hook", note("Issue", issue=ticket()), {"issue": 23}),
    "an internal note": ("Confidential Note Hook", note("Issue", issue=ticket()), {"issue": 23}),
    "a note on a commit": ("Note Hook", note("Commit", commit={"id": HEAD}), None),
    "a note on a snippet": ("Note Hook", note("Snippet", snippet={"id": 53}), None),
    "a pipeline of a branch": ("Pipeline Hook", pipeline(merge_request=None), {"commit": HEAD}),
    "a pipeline of a merge request": ("Pipeline Hook", pipeline(merge_request=ticket()), {"pull": 23}),
    "a job": ("Job Hook", {"object_kind": "build", "sha": HEAD, "project_id": 15}, None),
    "an emoji": ("Emoji Hook", body("emoji", object_attributes={"id": 1}), None),
    "another project's": (
        "Issue Hook",
        {**body("issue", object_attributes=ticket()), "project": {"path_with_namespace": "acme/tools"}},
        None,
    ),
}
"""Header, body, and where to look."""


def sent(event, raw, *, token=SECRET, key=None, stamp="1764000000"):
    """Return the headers of a delivery, with the token or with a signature by a key."""
    uuid = {"x-gitlab-event-uuid": "13792a34-cac6-4fda-95a8-c58e00a3954e"}
    known = {"x-gitlab-event": event, "idempotency-key": KEY, **uuid}
    if key is None:
        return {**known, "x-gitlab-token": token}
    made = hmac.new(key, f"{KEY}.{stamp}.".encode() + raw, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(b'old')} v1,{base64.b64encode(made).decode()}"
    return {**known, "webhook-id": KEY, "webhook-timestamp": stamp, "webhook-signature": signature}


class Fleet:
    """A fleet with one project on GitLab, and the hints that it gets."""

    def __init__(self, folder, secret=SECRET) -> None:
        self.hints, self.value = [], secret
        self.journal = Journal(folder, FakeClock())
        self.receiver = WebhookReceiver(
            self, self._secret, self.journal, lambda hint, *_: self.hints.append(hint)
        )

    @property
    def desired(self) -> Desired:
        place = Secret(env="HOOK")
        api = "https://gitlab.example.org/api/v4"
        forge = Forge(kind="gitlab", api=api, repo=REPO, token=place, webhook_secret=place)
        return Desired(revision="1" * 40, repos={"widgets": Repo(name="widgets", url="x", forge=forge)})

    async def _secret(self, _: Secret) -> str:
        return self.value

    async def take(self, event, value, **more):
        raw = json.dumps(value).encode()
        await self.receiver.receive(sent(event, raw, **more), raw)


@pytest.mark.parametrize("case", CASES)
async def test_every_event_leads_to_what_it_is_about(tmp_path, case):
    event, value, place = CASES[case]
    fleet = Fleet(tmp_path)

    await fleet.take(event, value)

    hints = [{name: getattr(hint, name) for name in NOWHERE} for hint in fleet.hints]
    assert hints == ([{**NOWHERE, **place}] if place else [])
    assert {(hint.delivery, hint.sender) for hint in fleet.hints} <= {(KEY, "ann")}


async def test_when_it_happened_is_read_as_gitlab_writes_times(tmp_path):
    fleet = Fleet(tmp_path)

    await fleet.take("Issue Hook", body("issue", object_attributes=ticket()))

    assert fleet.hints[0].happened_at == datetime(2026, 5, 17, 18, 21, 36, tzinfo=UTC)


async def test_a_delivery_that_is_sent_again_is_known_by_its_key(tmp_path):
    fleet = Fleet(tmp_path)

    await fleet.take("Push Hook", push("refs/heads/main"))
    await fleet.take("Push Hook", push("refs/heads/main", total_commits_count=1))

    assert len(fleet.hints) == 1


@pytest.mark.parametrize("token", ["another", "", "s3cret "])
async def test_another_token_is_refused(tmp_path, token):
    with pytest.raises(Refused):
        await Fleet(tmp_path).take("Push Hook", push("refs/heads/main"), token=token)


async def test_each_line_of_a_secret_is_good_while_it_is_exchanged(tmp_path):
    fleet = Fleet(tmp_path, "new-one\ns3cret\n")

    await fleet.take("Push Hook", push("refs/heads/main"))

    assert len(fleet.hints) == 1


@pytest.mark.parametrize(
    ("secret", "key"),
    [("s3cret", b"s3cret"), (f"whsec_{base64.b64encode(b'k' * 32).decode()}", b"k" * 32)],
)
async def test_a_signing_token_is_good_too(tmp_path, secret, key):
    fleet = Fleet(tmp_path, secret)

    await fleet.take("Push Hook", push("refs/heads/main"), key=key)

    assert len(fleet.hints) == 1


async def test_a_signature_of_another_body_is_refused_whatever_else_comes_with_it(tmp_path):
    raw = json.dumps(push("refs/heads/main")).encode()
    headers = {**sent("Push Hook", raw + b" ", key=b"s3cret"), "x-gitlab-token": SECRET}

    with pytest.raises(Refused):
        await Fleet(tmp_path).receiver.receive(headers, raw)


@pytest.mark.parametrize(
    ("event", "value", "why"),
    [
        ("Issue Hook", CASES["a merge request"][1], "it says that it is merge_request"),
        ("Merge Request Hook", push("refs/heads/main"), "object_attributes is missing"),
        ("Push Hook", {"object_kind": "push"}, "project, ref is missing"),
        ("Note Hook", [], "not an object"),
    ],
)
async def test_a_body_that_is_not_what_its_header_says_is_refused(tmp_path, event, value, why):
    with pytest.raises(UsageError, match=why):
        await Fleet(tmp_path).take(event, value)
