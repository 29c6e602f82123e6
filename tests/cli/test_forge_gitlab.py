"""
Repositories on a GitLab connected to a fleet by one command.
"""

import pytest

from reconciler import clock
from tests.cli.test_forge import TOKEN, results, steps
from tests.forge.gitlab import DEVELOPER, GitLabDouble, Rules

CODE = "acme/tools/code"
"""A project in a group within a group."""
ADMIN = 60
ANYWHERE = ("--webhook-url", "http://127.0.0.1:1")


@pytest.fixture
def gitlab(tmp_path, monkeypatch):
    with GitLabDouble(tmp_path / "gitlab") as double:
        double.webhooks = "dropped"
        double.add_repo(CODE)
        monkeypatch.setenv("FORGE_TOKEN", double.token)
        yield double
    assert double.mismatches == []


@pytest.fixture
def root(gitlab):
    return gitlab.api.removesuffix("/api/v4")


def rule(level):
    levels = [{"access_level": level, "access_level_description": "Somebody"}]
    return {"id": 1, "name": "main", "push_access_levels": levels, "merge_access_levels": levels}


@pytest.mark.parametrize("path", [f"/{CODE}", f"/{CODE}.git", f"/{CODE}/-/merge_requests/7"])
def test_the_address_of_a_project_is_enough(fleet, gitlab, root, path):
    done = fleet.run("forge", "connect", f"{root}{path}", *TOKEN, *ANYWHERE)

    assert done.exit_code == 0, done.output
    assert steps(done)["forge"] == ("already so", f"gitlab at {gitlab.api}")
    assert results(done) == {
        "token": "already so",
        "forge": "already so",
        f"{CODE} account": "already so",
        f"{CODE} rights": "already so",
        f"{CODE} specs": "done",
        f"{CODE} labels": "done",
        f"{CODE} protection": "skipped",
        f"{CODE} webhook": "done",
    }
    assert fleet.run("validate").exit_code == 0
    assert "kind: gitlab" in fleet.git("show", "HEAD:specs/repos/code.yaml")
    assert gitlab.token not in done.output + fleet.git("log", "-p", "--all")


def test_one_below_a_path_is_found_too(fleet, gitlab, root):
    gitlab.root = "/git/lab"

    done = fleet.run("forge", "connect", f"{root}/git/lab/{CODE}", *TOKEN, "--no-webhooks")

    assert done.exit_code == 0, done.output
    assert steps(done)["forge"] == ("already so", f"gitlab at {root}/git/lab/api/v4")
    assert f"{CODE} rights" in results(done)


@pytest.mark.parametrize("address", ["", "/api/v4"])
def test_called_again_it_changes_nothing(fleet, gitlab, root, address):
    gitlab.protected[CODE] = [rule(DEVELOPER)]
    fleet.run("forge", "connect", f"{root}{address}", CODE, *TOKEN, *ANYWHERE)
    asked = len(gitlab.requests)

    again = fleet.run("forge", "connect", f"{root}{address}", CODE, *TOKEN, *ANYWHERE)

    assert set(results(again).values()) == {"already so"}
    assert {method for method, _ in gitlab.requests[asked:]} == {"GET", "PUT"}  # a right is tried by use


def test_when_the_token_expires_is_told(fleet, gitlab, root):
    gitlab.expires_on = "2099-05-01"

    done = fleet.run("forge", "connect", root, CODE, *TOKEN, "--no-webhooks")

    assert steps(done)[f"{CODE} account"] == ("already so", "bot; its token expires on 2099-05-01")


def test_a_token_that_expires_soon_is_told_by_doctor(fleet, gitlab, root):
    fleet.run("forge", "connect", root, CODE, *TOKEN, "--no-webhooks")
    gitlab.expires_on = str(clock.now().date())

    done = fleet.run("doctor")

    assert f"code: its token expires on {gitlab.expires_on}" in done.output


def test_a_base_that_nothing_protects_is_protected_if_that_is_wanted(fleet, gitlab, root):
    done = fleet.run("forge", "connect", root, CODE, *TOKEN, "--protect", "--no-webhooks")

    assert steps(done)[f"{CODE} protection"] == ("done", "main: no pushes, and Developers may merge")
    assert [each["name"] for each in gitlab.protected[CODE]] == ["main"]


def test_a_base_into_which_the_account_may_not_merge_is_told(fleet, gitlab, root):
    gitlab.protected[CODE] = [rule(ADMIN)]

    done = fleet.run("forge", "connect", root, CODE, *TOKEN, "--no-webhooks")

    assert done.exit_code == 5
    assert "bot is not among those who may merge into main" in steps(done)[f"{CODE} protection"][1]


@pytest.mark.parametrize(
    ("lack", "missing"),
    [
        ({"scopes": {"read_api"}}, "missing: api"),
        ({"levels": {"bot": 20}}, "missing: write access of its account to the repository"),
    ],
)
def test_a_right_that_is_missing_is_named_and_nothing_is_written(fleet, gitlab, root, lack, missing):
    vars(gitlab).update(lack)

    done = fleet.run("forge", "connect", root, CODE, *TOKEN, "--no-webhooks")

    assert done.exit_code == 5
    assert steps(done)[f"{CODE} rights"] == ("failed", missing)
    assert f"{CODE} specs" not in results(done)


def test_what_is_asked_of_a_forge_by_its_project_settings_is_no_matter_here(fleet, gitlab, root):
    gitlab.rules[CODE] = Rules(pipeline=True, threads=True, approvals=2, merge_method="ff")

    assert fleet.run("forge", "connect", root, CODE, *TOKEN, "--no-webhooks").exit_code == 0


def test_groups_within_groups_are_for_gitlab_alone(fleet):
    spec = (
        "url: ../code\nforge: {{kind: {}, api: 'http://127.0.0.1/api', repo: a/b/c, token: {{env: TOKEN}}}}\n"
    )
    fleet.write("specs/repos/good.yaml", spec.format("gitlab"))
    fleet.write("specs/repos/bad.yaml", spec.format("gitea"))

    done = fleet.run("validate")

    assert "specs/repos/bad.yaml:2:" in done.output
    assert "expected owner and name" in done.output
    assert "good.yaml:2:" not in done.output
