"""GitHub's examples of its webhooks, each of them through the receiver."""

import hashlib
import hmac
import json

import pytest

from reconciler.core.adapter import Secret
from reconciler.core.errors import Refused
from reconciler.core.model.specs import Desired, Forge, Repo
from reconciler.forge.journal import Journal
from reconciler.forge.webhook_receiver import WebhookReceiver
from tests.fakes import FakeClock
from tests.forge.description import PACKAGES
from tests.forge.webhook_schemas import webhook_schemas

PATH = PACKAGES / "@octokit/webhooks-examples/api.github.com/index.json"
SECRET, REPO = "s3cret", "Codertocat/Hello-World"
NOWHERE = dict.fromkeys(("pull", "issue", "branch", "commit"))


def ticket(body):
    """Return the issue that it is about, or the pull request, which is one too."""
    return {"pull" if "pull_request" in body["issue"] else "issue": body["issue"]["number"]}


LEADS_TO = {
    "check_run": lambda body: {"commit": body["check_run"]["head_sha"]},
    "check_suite": lambda body: {"commit": body["check_suite"]["head_sha"]},
    "create": lambda body: {"branch": body["ref"]} if body["ref_type"] == "branch" else None,
    "delete": lambda body: {"branch": body["ref"]} if body["ref_type"] == "branch" else None,
    "issue_comment": ticket,
    "issues": ticket,
    "pull_request": lambda body: {"pull": body["pull_request"]["number"]},
    "pull_request_review": lambda body: {"pull": body["pull_request"]["number"]},
    "pull_request_review_comment": lambda body: {"pull": body["pull_request"]["number"]},
    "pull_request_review_thread": lambda body: {"pull": body["pull_request"]["number"]},
    "push": lambda body: (
        {"branch": body["ref"].removeprefix("refs/heads/")} if body["ref"].startswith("refs/heads/") else None
    ),
    "status": lambda body: {"commit": body["sha"]},
    "workflow_run": lambda body: {"commit": body["workflow_run"]["head_sha"]},
}
"""Where each event that is of use to us says to look; every other one is to be passed over."""


def examples():
    kinds = json.loads(PATH.read_bytes()) if PATH.exists() else []
    return [pytest.param(kind["name"], kind["examples"], id=kind["name"]) for kind in kinds] or [
        pytest.param("", [], marks=pytest.mark.skip("npm install --prefix tests/forge, for the examples"))
    ]


def sent(event: str, raw: bytes, secret: str = SECRET) -> dict[str, str]:
    """Return the headers with which GitHub sends it."""
    signature = hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()
    return {
        "x-github-event": event,
        "x-github-delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "x-github-hook-id": "292430182",
        "x-hub-signature-256": f"sha256={signature}",
    }


class Fleet:
    """A fleet with one repository on GitHub, and the hints that it gets."""

    def __init__(self, folder) -> None:
        self.hints: list = []
        self.journal = Journal(folder, FakeClock())
        self.receiver = WebhookReceiver(
            self, self._secret, self.journal, lambda hint, *_: self.hints.append(hint)
        )

    @property
    def desired(self) -> Desired:
        secret = Secret(env="HOOK")
        forge = Forge(
            kind="github", api="https://api.github.com", repo=REPO, token=secret, webhook_secret=secret
        )
        return Desired(revision="1" * 40, repos={"hello": Repo(name="hello", url="x", forge=forge)})

    async def _secret(self, _: Secret) -> str:
        return SECRET


@pytest.mark.parametrize(("event", "bodies"), examples())
async def test_every_example_is_taken_and_leads_to_what_it_is_about(tmp_path, event, bodies):
    find = LEADS_TO.get(event, lambda _: None)
    for number, body in enumerate(bodies):
        fleet, raw = Fleet(tmp_path / str(number)), json.dumps(body).encode()

        await fleet.receiver.receive(sent(event, raw), raw)

        is_ours = body.get("repository", {}).get("full_name") == REPO
        place = find(body) if is_ours else None
        hints = [{name: getattr(hint, name) for name in NOWHERE} for hint in fleet.hints]
        assert hints == ([{**NOWHERE, **place}] if place else []), f"{event} {number}"
        assert {hint.sender for hint in fleet.hints} <= {body.get("sender", {}).get("login")}


async def test_a_body_of_github_under_another_secret_is_refused(tmp_path):
    fleet, raw = Fleet(tmp_path), b'{"action": "opened"}'

    with pytest.raises(Refused):
        await fleet.receiver.receive(sent("issues", raw, "another"), raw)


@pytest.mark.skipif(webhook_schemas() is None, reason="npm install --prefix tests/forge, for the schemas")
class TestSchemas:
    """GitHub's schemas of webhooks, by which the bodies of the double are judged."""

    @pytest.mark.parametrize("event", sorted(LEADS_TO))
    def test_every_example_that_is_of_use_is_as_described(self, event):
        [bodies] = [case.values[1] for case in examples() if case.id == event]
        schemas = webhook_schemas()

        # The first of each was written by hand long ago, and is of another time.
        assert [schemas.mismatches(event, body, is_whole=True) for body in bodies[1:]] == [[]] * len(
            bodies[1:]
        )

    @pytest.mark.parametrize(
        ("event", "body", "why"),
        [
            ("pull_request", {"action": "synchronized"}, "there is no action synchronized"),
            ("pull_request_approved", {}, "there is no such event"),
            ("push", {"ref": 7}, "is not of type 'string'"),
            ("push", {"branch": "main"}, "'branch' was unexpected"),
            ("pull_request", {"action": "opened", "pull_request": {"state": "merged"}}, "is not one of"),
        ],
    )
    def test_what_is_not_described_is_noticed(self, event, body, why):
        [mismatch, *_] = webhook_schemas().mismatches(event, body)

        assert why in mismatch
