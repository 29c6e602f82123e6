"""Webhooks: whether one is from the forge, and where it says to look."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.errors import UsageError
from reconciler.core.model.forge import Hint
from reconciler.forge.webhook import event_of, has_valid_signature, read_hint
from tests.forge.samples import FOLDER, SECRET, sample, signed

SAMPLES = sorted(path.name.removesuffix(".headers.json") for path in FOLDER.glob("*.headers.json"))
STRANGE = {"push.commits.unsigned", "push.commits.form"}


# --- Signatures ------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in STRANGE])
def test_what_a_forge_signs_is_accepted_and_not_under_another_secret(name):
    headers, raw = sample(name)

    assert has_valid_signature(raw, headers, [SECRET])
    assert not has_valid_signature(raw, headers, ["another"])
    assert not has_valid_signature(raw + b" ", headers, [SECRET])


@pytest.mark.parametrize("header", ["x-hub-signature-256", "x-forgejo-signature", "x-gitea-signature"])
def test_each_header_of_a_signature_will_do_alone(header):
    headers, raw = sample("push.commits")

    assert has_valid_signature(raw, {header: headers[header]}, [SECRET])


def test_either_secret_will_do_during_a_rotation():
    headers, raw = sample("push.commits")

    assert has_valid_signature(raw, headers, ["new", SECRET])


def test_without_a_signature_nothing_is_accepted():
    headers, raw = sample("push.commits")
    unsigned, same = sample("push.commits.unsigned")
    sha1_alone = {"x-hub-signature": headers["x-hub-signature"]}

    assert not has_valid_signature(same, unsigned, [SECRET, ""])
    assert not has_valid_signature(raw, {}, [SECRET])
    assert not has_valid_signature(raw, sha1_alone, [SECRET])
    assert not has_valid_signature(raw, headers, [])


def test_an_empty_secret_signs_nothing():
    raw = b"{}"

    assert not has_valid_signature(raw, signed("push", raw, secret=""), [""])


# --- Where to look ---------------------------------------------------------

PLACES = {
    "push.commits": {"branch": "agent/task-42"},
    "push.branch_create": {"branch": "agent/task-42"},
    "create.branch": {"branch": "agent/task-42"},
    "create.branch.hooktype_gitea": {"branch": "agent/task-42"},
    "delete.branch": {"branch": "agent/task-42"},
    "pull_request.opened": {"pull": 13},
    "pull_request.synchronized": {"pull": 13},
    "pull_request.closed_merged": {"pull": 13},
    "pull_request_approved.reviewed": {"pull": 13},
    "pull_request_rejected.reviewed": {"pull": 13},
    "pull_request_comment.reviewed": {"pull": 13},
    "issue_comment.created_on_pull": {"pull": 13},
    "issue_comment.created": {"issue": 12},
    "issues.opened": {"issue": 12},
    "issues.label_updated": {"issue": 12},
}


@pytest.mark.parametrize(("name", "place"), PLACES.items())
def test_a_webhook_says_where_to_look(name, place):
    headers, raw = sample(name)

    hint = read_hint(headers, raw)

    assert {key: getattr(hint, key) for key in ("pull", "issue", "branch", "commit")} == {
        **dict.fromkeys(("pull", "issue", "branch", "commit")),
        **place,
    }
    assert (hint.place, hint.event) == ("acme/widgets", name.partition(".")[0])
    assert hint.delivery == headers["x-forgejo-delivery"]


@pytest.mark.parametrize("name", ["action_run_success.success", "status.gitea"])
def test_checks_say_which_commit(name):
    headers, raw = sample(name)

    hint = read_hint(headers, raw)

    assert hint.place == "acme/widgets"
    assert len(hint.commit) == 40


def test_our_own_commit_status_is_no_check():
    headers, raw = sample("status.gitea")
    body = json.loads(raw) | {"context": "reconciler/task"}

    assert read_hint(headers, json.dumps(body).encode()) is None


@pytest.mark.parametrize("name", ["push.tag_create", "create.tag", "repository.created"])
def test_what_nobody_here_cares_for_is_no_hint(name):
    headers, raw = sample(name)

    assert read_hint(headers, raw) is None


def test_an_unknown_event_has_no_name_in_a_count():
    assert event_of({"x-forgejo-event": "workflow_job_of_tomorrow"}) == "?"
    assert event_of({"x-github-event": "push"}) == "push"


@pytest.mark.parametrize(
    ("event", "body", "what"),
    [
        ("push", b"payload=%7B%7D", "not JSON"),
        ("push", b"[" * 100_000, "not JSON"),
        ("push", b"[]", "not an object"),
        ("push", b"{}", "ref"),
        ("pull_request", b'{"pull_request": {"number": "x"}}', "pull_request.number"),
        ("pull_request_approved", b'{"pull_request": {"number": 1}}', "review is missing"),
        ("issue_comment", b'{"issue": {"number": 1}}', "comment"),
    ],
)
def test_a_body_that_is_not_what_its_header_says_is_refused(event, body, what):
    with pytest.raises(UsageError, match=what):
        read_hint(signed(event, body), body)


def test_a_form_is_refused_with_what_to_do():
    headers, raw = sample("push.commits.form")

    with pytest.raises(UsageError, match="application/json"):
        read_hint(headers, raw)


def test_a_strange_id_of_a_delivery_is_not_taken_over():
    headers, raw = sample("push.commits")

    hint = read_hint({**headers, "x-forgejo-delivery": "../../x\nEvil: yes"}, raw)

    assert hint.delivery.isalnum()


def test_a_hint_is_short_however_long_its_webhook_is():
    headers, raw = sample("push.commits")
    body = {**json.loads(raw), "ref": "refs/heads/" + "x" * 1_000_000}

    hint = read_hint(headers, json.dumps(body).encode())

    assert len(hint.branch) < 1000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
FIELDS = ("action", "repository", "ref", "ref_type", "pull_request", "review", "issue", "run", "commit")
EVENTS = ("push", "create", "pull_request", "pull_request_comment", "issues", "issue_comment", "status", "")


@given(event=st.sampled_from(EVENTS), body=st.dictionaries(st.sampled_from(FIELDS), JSON) | JSON)
def test_whatever_comes_is_a_hint_or_nothing_or_refused(event, body):
    raw = json.dumps(body).encode()

    try:
        hint = read_hint(signed(event, raw), raw)
    except UsageError:
        return

    assert hint is None or isinstance(hint, Hint)
