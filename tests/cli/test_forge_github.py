"""
Repositories on GitHub connected to a fleet by one command.
"""

import pytest

from tests.cli.test_forge import TOKEN, have_queue, results, steps
from tests.forge.github import GitHubDouble

CODE = "acme/code"
STEP = f"{CODE} protection"


@pytest.fixture
def github(tmp_path, monkeypatch):
    with GitHubDouble(tmp_path / "github") as double:
        double.webhooks = "dropped"
        double.add_repo(CODE)
        monkeypatch.setenv("FORGE_TOKEN", double.token)
        yield double
    assert double.mismatches == []


@pytest.fixture
def connect(fleet, github):
    root = github.api.removesuffix("/api/v3")

    def call(*more):
        return fleet.run("forge", "connect", root, CODE, "--kind", "github", *TOKEN, "--no-webhooks", *more)

    return call


def ruleset(kind, **parameters):
    info = {"ruleset_source_type": "Organization", "ruleset_source": "acme", "ruleset_id": 1}
    return {"type": kind, "parameters": parameters, **info}


def test_a_base_that_nothing_protects_is_protected_if_that_is_wanted(connect, github):
    assert steps(connect())[STEP] == ("skipped", "nothing protects main")
    assert steps(connect("--protect", "--dry-run"))[STEP][0] == "would"
    assert github.repos[CODE].protections == []

    done = connect("--protect")

    assert done.exit_code == 0, done.output
    assert steps(done)[STEP] == ("done", "main: changes by pull requests alone, and 1 approval to merge")
    (rule,) = github.repos[CODE].protections
    assert (rule["branch"], rule["enforce_admins"]) == ("main", True)
    assert steps(connect("--protect"))[STEP] == ("already so", "main: approvals required: 1")


def test_a_ruleset_protects_too_and_is_left_as_it_is(connect, github):
    rule = {
        "dismiss_stale_reviews_on_push": True,
        "require_code_owner_review": False,
        "require_last_push_approval": False,
        "required_review_thread_resolution": False,
    }
    github.rulesets["main"] = [ruleset("pull_request", required_approving_review_count=2, **rule)]

    assert steps(connect("--protect"))[STEP] == ("already so", "main: approvals required: 2")
    assert github.repos[CODE].protections == []


def test_a_ruleset_that_requires_our_own_check_is_told(connect, github):
    checks = [{"context": "ci/test"}, {"context": "reconciler/task"}]
    more = {"strict_required_status_checks_policy": False}
    github.rulesets["main"] = [ruleset("required_status_checks", required_status_checks=checks, **more)]

    done = connect()

    assert done.exit_code == 5
    assert "main requires the check reconciler/task" in steps(done)[STEP][1]


@pytest.mark.parametrize(
    ("rule", "result"),
    [
        ({"required_pull_request_reviews": {"required_approving_review_count": 1}}, "failed"),
        (
            {"required_pull_request_reviews": {"bypass_pull_request_allowances": {"users": ["bot"]}}},
            "already so",
        ),
        ({"required_status_checks": {"contexts": ["ci"]}}, "failed"),
    ],
)
def test_a_base_that_takes_pull_requests_alone_is_told_where_a_queue_pushes(
    fleet, connect, github, rule, result
):
    have_queue(fleet)
    github.repos[CODE].protections.append({"branch": "main", **rule})

    assert steps(connect())[STEP][0] == result


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"required_status_checks": {"contexts": ["reconciler/task"]}}, "requires the check reconciler/task"),
        ({"restrictions": {"users": ["ann"]}}, "bot is not among those who may merge into main"),
    ],
)
def test_protection_that_keeps_tasks_from_being_merged_is_told(connect, github, rule, message):
    github.repos[CODE].protections.append({"branch": "main", **rule})

    done = connect()

    assert done.exit_code == 5
    assert message in steps(done)[STEP][1]


@pytest.mark.parametrize(("more", "result", "code"), [((), "skipped", 0), (("--protect",), "failed", 5)])
def test_protection_that_may_not_be_seen_fails_only_who_wants_it(connect, github, more, result, code):
    github.lacking[f"GET /repos/{CODE}/branches/main/protection"] = "administration=read"

    done = connect(*more)

    assert (done.exit_code, results(done)[STEP]) == (code, result)
    assert "it lacks `Administration: read`" in steps(done)[STEP][1]


def test_a_protection_that_the_forge_does_not_keep_is_no_success(connect, github):
    class Forgetful(list):
        def __setitem__(self, *_):
            pass

    github.repos[CODE].protections = Forgetful()

    done = connect("--protect")

    assert (done.exit_code, results(done)[STEP]) == (5, "failed")
