"""
Repositories on a forge connected to a fleet by one command.
"""

import pytest

from reconciler.cli import forge as forge_command
from tests.forge.double import ForgejoDouble


@pytest.fixture
def forge(tmp_path, monkeypatch):
    with ForgejoDouble(tmp_path / "forge") as double:
        double.webhooks = "dropped"
        double.add_repo("acme/code")
        double.add_repo("acme/fleet")
        monkeypatch.setenv("FORGE_TOKEN", double.token)
        yield double


@pytest.fixture
def root(forge):
    return forge.api.removesuffix("/api/v1")


TOKEN = ("--token-from", "env:FORGE_TOKEN")


def steps(done):
    """Return the results with their messages, by the place and the step."""
    rows = [(line[:28].strip(), line[29:39].strip(), line[40:]) for line in done.stdout.splitlines()]
    return {subject: (result, message) for subject, result, message in rows}


def have_queue(fleet):
    fleet.write("specs/repos/code.yaml", "url: ../code.git\nmerge: queue\nvalidation: [make]\n")
    fleet.git("add", ".")
    fleet.git("commit", "-qm", "Have a queue")


def results(done):
    return {subject: result for subject, (result, _) in steps(done).items()}


def test_one_command_connects_a_repository_and_says_of_each_step_what_it_came_to(fleet, forge, root):
    done = fleet.run("forge", "connect", root, "acme/code", *TOKEN, "--webhook-url", "http://127.0.0.1:1")

    assert done.exit_code == 0, done.output
    assert results(done) == {
        "token": "already so",
        "forge": "already so",
        "acme/code account": "already so",
        "acme/code rights": "already so",
        "acme/code specs": "done",
        "acme/code labels": "done",
        "acme/code protection": "skipped",
        "acme/code webhook": "done",
    }
    repo = forge.repos["acme/code"]
    assert {"agent", "agent/running"} <= {label.name for label in repo.labels.values()}
    assert [hook.active for hook in repo.hooks.values()] == [True]
    assert fleet.run("validate").exit_code == 0
    assert fleet.git("log", "-1", "--format=%s") == "Connect code to acme/code"
    assert forge.token not in done.output + fleet.git("log", "-p", "--all")


@pytest.mark.parametrize("path", ["/git", "/git/acme/code", "/git/api/v1"])
def test_one_below_a_path_is_found_too(fleet, forge, root, path):
    forge.root = "/git"

    done = fleet.run("forge", "connect", f"{root}{path}", "acme/code", *TOKEN, "--no-webhooks", "--protect")

    assert done.exit_code == 0, done.output
    assert steps(done)["forge"] == ("already so", f"gitea at {root}/git/api/v1")
    assert len(forge.repos["acme/code"].protections) == 1


def test_to_connect_once_more_changes_nothing_and_says_so(fleet, forge, root):
    call = ("forge", "connect", root, "acme/code", *TOKEN, "--webhook-url", "http://127.0.0.1:1", "--protect")
    fleet.run(*call)
    head, hooks = fleet.git("rev-parse", "HEAD"), dict(forge.repos["acme/code"].hooks)

    done = fleet.run(*call)

    assert set(results(done).values()) == {"already so"}
    assert (fleet.git("rev-parse", "HEAD"), forge.repos["acme/code"].hooks) == (head, hooks)
    assert len(forge.repos["acme/code"].protections) == 1


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(fleet, forge, root):
    head = fleet.git("rev-parse", "HEAD")

    done = fleet.run("forge", "connect", root, "acme/code", *TOKEN, "--protect", "--dry-run")

    would = {subject for subject, result in results(done).items() if result == "would"}
    assert would == {f"acme/code {step}" for step in ("specs", "labels", "protection", "webhook")}
    assert (fleet.git("rev-parse", "HEAD"), fleet.git("status", "--porcelain")) == (head, "")
    repo = forge.repos["acme/code"]
    assert (repo.labels, repo.hooks, repo.protections) == ({}, {}, [])
    assert not [method for method, _ in forge.requests if method == "POST"]


@pytest.mark.parametrize(
    ("scopes", "missing"),
    [
        ({"write:repository", "read:user"}, ["read:issue", "write:issue"]),
        ({"read:repository", "read:issue", "read:user"}, ["write:repository", "write:issue"]),
        ({"write:issue", "read:user"}, None),
    ],
)
def test_each_right_that_is_missing_is_named_and_nothing_is_written(fleet, forge, root, scopes, missing):
    forge.scopes = scopes
    head = fleet.git("rev-parse", "HEAD")

    done = fleet.run("forge", "connect", root, "acme/code", *TOKEN)

    lines = [line for line in done.stdout.splitlines() if " failed " in line]
    told = [line.partition("missing: ")[2] for line in lines]
    assert (done.exit_code, fleet.git("rev-parse", "HEAD")) == (5, head)
    if missing is None:
        assert "it lacks read:repository" in lines[0]
    else:
        assert told == missing


def test_a_token_that_may_not_say_whose_it_is_needs_its_account_named(fleet, forge, root):
    forge.tokens_are_limited = True

    without = fleet.run("forge", "connect", root, "acme/code", *TOKEN, "--no-webhooks")
    named = fleet.run("forge", "connect", root, "acme/code", *TOKEN, "--no-webhooks", "--account", "bot")

    assert "--account NAME" in steps(without)["acme/code account"][1]
    assert named.exit_code == 0
    assert "account: bot" in (fleet.folder / "specs/repos/code.yaml").read_text()


def test_an_account_that_only_reads_is_told_so(fleet, forge, root):
    forge.weak.add("bot")

    done = fleet.run("forge", "connect", root, "acme/code", *TOKEN)

    assert done.exit_code == 5
    assert "write access of its account" in steps(done)["acme/code rights"][1]


def test_what_a_spec_says_already_stays(fleet, forge, root):
    text = "# ours\nurl: ../elsewhere.git\nmerge: when_green  # it is\n"
    fleet.write("specs/repos/web.yaml", text)
    fleet.commit()

    done = fleet.run("forge", "connect", root, "acme/code=web", *TOKEN, "--no-webhooks")

    after = (fleet.folder / "specs/repos/web.yaml").read_text()
    assert done.exit_code == 0
    assert after.startswith(text)
    assert "webhook_secret" not in after


def test_the_address_of_a_repository_names_it_and_the_fleets_own_goes_into_its_settings(fleet, forge, root):
    done = fleet.run(
        "forge", "connect", f"{root}/acme/code", "--fleet", "acme/fleet", *TOKEN, "--no-webhooks", "--protect"
    )

    assert done.exit_code == 0, done.output
    assert results(done)["acme/code specs"] == results(done)["acme/fleet specs"] == "done"
    assert "acme/fleet" in (fleet.folder / "specs/fleet.yaml").read_text()
    assert forge.repos["acme/fleet"].protections == []  # commands push to it


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            {"enable_status_check": True, "status_check_contexts": ["ci/test", "reconciler/task"]},
            "requires the check reconciler/task",
        ),
        (
            {"enable_merge_whitelist": True, "merge_whitelist_usernames": ["ann"]},
            "bot is not among those who may merge into main",
        ),
    ],
)
def test_protection_that_keeps_tasks_from_being_merged_is_told(fleet, forge, root, rule, message):
    forge.repos["acme/code"].protections.append({"rule_name": "main", **rule})

    done = fleet.run("forge", "connect", root, "acme/code", *TOKEN, "--no-webhooks")

    assert done.exit_code == 5
    assert message in steps(done)["acme/code protection"][1]


@pytest.mark.parametrize(
    ("rule", "result"),
    [
        ({"enable_push": False}, "failed"),
        ({"enable_push_whitelist": True, "push_whitelist_usernames": ["ann"]}, "failed"),
        ({"enable_push_whitelist": True, "push_whitelist_usernames": ["bot"]}, "already so"),
        (None, "skipped"),
    ],
)
def test_a_base_that_takes_no_pushes_is_told_where_a_merge_queue_has_to_push(
    fleet, forge, root, rule, result
):
    have_queue(fleet)
    if rule:
        forge.repos["acme/code"].protections.append({"rule_name": "main", **rule})

    done = fleet.run("forge", "connect", root, "acme/code", *TOKEN, "--no-webhooks", "--protect")

    assert steps(done)["acme/code protection"][0] == result
    assert ("merge: queue" in steps(done)["acme/code protection"][1]) == (result != "already so")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("acme/code", "--token-from", "abc123"), "a token itself never stands in a command"),
        (("acme/code", "--token-from", "env:1X"), "env:NAME or file:PATH"),
        (("acme/code", "--token-from", "file:/nowhere/token"), "/nowhere/token is not there"),
        (("code", *TOKEN), "'code' is not a repository such as tools/web"),
        (TOKEN, "name at least one repository"),
    ],
)
def test_what_cannot_be_connected_is_told_with_what_to_do(fleet, forge, root, args, message):
    done = fleet.run("forge", "connect", root, *args)

    assert done.exit_code == 64
    assert message in done.stderr


@pytest.mark.parametrize(
    ("token", "message"),
    [("wrong", "the token is refused"), (None, "has no FORGE_TOKEN")],
)
def test_a_token_that_is_not_good_is_no_missing_forge(fleet, root, monkeypatch, token, message):
    if token:
        monkeypatch.setenv("FORGE_TOKEN", token)
    else:
        monkeypatch.delenv("FORGE_TOKEN")

    done = fleet.run("forge", "connect", root, "acme/code", *TOKEN)

    assert done.exit_code == 69
    assert message in done.stderr


def test_where_no_forge_answers_is_told(fleet, forge, root):
    done = fleet.run("forge", "connect", f"{root}/elsewhere/deep/down", "acme/code", *TOKEN)

    assert done.exit_code == 64
    assert "neither Forgejo nor Gitea nor GitLab answers there" in done.stderr


def test_a_token_that_is_typed_is_not_shown_and_goes_into_a_file_of_ones_own(
    fleet, forge, root, person, monkeypatch
):
    monkeypatch.setattr(forge_command, "_is_terminal", lambda: True)
    asked = []

    def prompt(text, *, hide_input, err):
        asked.append((hide_input, err))
        return f"{forge.token} "

    monkeypatch.setattr(forge_command.click, "prompt", prompt)
    done = fleet.run(
        "forge", "connect", root, "acme/code", "--token-from", "file:~/own/token", "--no-webhooks"
    )

    file = person / "own/token"
    assert done.exit_code == 0, done.output
    assert (file.read_text(), file.stat().st_mode & 0o777) == (f"{forge.token}\n", 0o600)
    assert asked == [(True, True)]
    assert forge.token not in done.output


def test_a_token_that_others_may_read_is_told(fleet, forge, root, person):
    file = person / "token"
    file.write_text(forge.token)
    file.chmod(0o644)

    done = fleet.run("forge", "connect", root, "acme/code", "--token-from", "file:~/token", "--dry-run")

    assert f"chmod 600 {file}" in steps(done)["token"][1]
