"""What forges say is read as it is, or not at all."""

import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from reconciler.forge.answers import CommentAnswer, ForgeUser, Side


@pytest.mark.parametrize("login", ["al\u200eice", "alice\x07", "alice ", "al\u202ei\u202cce", "alice\n"])
def test_a_name_that_looks_like_another_is_not_taken_for_it(login):
    assert "alice" not in ForgeUser(login=login).login.split("'")
    assert "alice" in ForgeUser(login="alice").login


def comment(**fields):
    told = {"id": 1, "created_at": "2030-01-01T00:00:00Z", "issue_url": "https://x/issues/7", **fields}
    return CommentAnswer.model_validate(json.loads(json.dumps(told)))


def test_every_time_can_be_compared_with_every_other():
    naive, zoned = comment(created_at="2030-01-01T01:00:00"), comment(created_at="2030-01-01T01:00:00+01:00")

    assert zoned.created_at == datetime(2030, 1, 1, tzinfo=UTC)
    assert zoned.created_at < naive.created_at


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_a_time_that_is_none_is_refused(time):
    with pytest.raises(ValidationError, match="out of range"):
        comment(created_at=time)


@pytest.mark.parametrize(
    ("address", "number"),
    [("https://x/issues/7", 7), ("https://x/issues/" + "9" * 5000, 0), ("https://x/issues/٣", 0), ("7", 0)],
)
def test_the_number_of_an_issue_is_the_end_of_its_address(address, number):
    assert comment(issue_url=address).number == number


@pytest.mark.parametrize("sha", ["main", "dead", "--upload-pack=x", "a" * 41, "A" * 40])
def test_a_commit_is_one_and_neither_a_branch_nor_an_option(sha):
    assert Side(ref="a", sha="a" * 40).sha
    with pytest.raises(ValidationError):
        Side(ref="a", sha=sha)
