"""
Webhooks set up on a forge, and what arrives of them.
"""

import json

import pytest

from reconciler import clock
from reconciler.core.model.forge import Hint
from reconciler.forge.journal import Journal
from tests.forge.double import ForgejoDouble

URL = "https://reconciler.example.org"


@pytest.fixture
def forge(tmp_path, monkeypatch):
    with ForgejoDouble(tmp_path / "forge") as double:
        double.webhooks = "dropped"
        double.add_repo("acme/code")
        monkeypatch.setenv("FORGE_TOKEN", double.token)
        yield double


def know(fleet, forge, secret, *names):
    """Let the fleet know repos of those names, all at the one place of the forge."""
    for name in names or ("code",):
        at = {"api": forge.api, "repo": "acme/code", "token": {"env": "FORGE_TOKEN"}}
        at |= {"webhook_secret": secret} if secret else {}
        fleet.write(f"specs/repos/{name}.yaml", json.dumps({"url": "../code", "forge": at}))
    fleet.commit()


def hooks(forge):
    return list(forge.repos["acme/code"].hooks.values())


def test_a_hook_is_made_with_a_fresh_secret_in_a_file_of_ones_own(fleet, forge, person):
    know(fleet, forge, {"file": "~/secrets/code"})

    done = fleet.run("webhook", "install", "code", "--url", f"{URL}/")

    assert done.exit_code == 0, done.stderr
    [hook] = hooks(forge)
    file = person / "secrets/code"
    assert (hook.url, hook.active) == (f"{URL}/hooks/forgejo", True)
    assert {"push", "issues", "pull_request"} <= set(hook.events)
    assert file.read_text() == f"{hook.secret}\n"
    assert (len(hook.secret), file.stat().st_mode & 0o777) == (64, 0o600)
    assert hook.secret not in done.output


def test_to_install_once_more_renews_the_secret_of_the_hook_that_is_there(fleet, forge, person):
    know(fleet, forge, {"file": "~/code"})
    fleet.run("webhook", "install", "code", "--url", URL)
    [before] = [hook.secret for hook in hooks(forge)]

    fleet.run("webhook", "install", "code", "--url", URL)

    [hook] = hooks(forge)
    assert hook.secret != before
    assert (person / "code").read_text().split() == [hook.secret]


def test_what_other_repos_sign_with_stays_in_a_file_that_they_share(fleet, forge, person):
    know(fleet, forge, {"file": "~/shared"}, "code", "twin")
    (person / "shared").write_text("of-the-twin\n")

    fleet.run("webhook", "install", "code", "--url", URL)

    [hook] = hooks(forge)
    assert (person / "shared").read_text().split() == [hook.secret, "of-the-twin"]


def test_a_forge_that_refuses_leaves_the_secret_that_counted(fleet, forge, person):
    know(fleet, forge, {"file": "~/code"})
    (person / "code").write_text("old\n")
    forge.broken["POST /repos/acme/code/hooks"] = (403, {})

    done = fleet.run("webhook", "install", "code", "--url", URL)

    assert done.exit_code == 69
    assert "old" in (person / "code").read_text().split()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"env": "HOOK"}, "environment variable HOOK"),
        ({"credential": "hook"}, "credential hook"),
        ({"command": ["pass", "hook"]}, "`pass hook`"),
    ],
)
def test_a_secret_that_cannot_be_put_where_it_belongs_is_shown_once(fleet, forge, source, message):
    know(fleet, forge, source)

    done = fleet.run("webhook", "install", "code", "--url", URL)

    assert message in done.stderr
    assert [line for line in done.stdout.splitlines() if ":" not in line] == [hooks(forge)[0].secret]


@pytest.mark.parametrize(
    ("name", "url", "told"),
    [
        ("code", URL, (64, "specs/repos/code.yaml: `forge` says nowhere")),
        ("code", "reconciler.example.org", (64, "such as https://")),
        ("cod", URL, (3, "did you mean 'code'")),
        ("draft", URL, (3, "specs/repos/draft.yaml is not on main yet; commit it first")),
        ("fleet", URL, (3, "specs/fleet.yaml has no `forge`")),
    ],
)
def test_what_cannot_be_set_up_is_told_with_what_to_do(fleet, forge, name, url, told):
    know(fleet, forge, None)
    fleet.write("specs/repos/draft.yaml", "url: ../draft\n")

    done = fleet.run("webhook", "install", name, "--url", url)

    assert (done.exit_code, hooks(forge)) == (told[0], [])
    assert told[1] in done.stderr


def test_what_arrived_is_shown_newest_first(fleet, forge, monkeypatch):
    know(fleet, forge, {"env": "HOOK"})
    monkeypatch.setattr("reconciler.cli.webhook.PATIENCE", 0.1)
    fleet.run("webhook", "install", "code", "--url", URL)
    journal = Journal(fleet.data / "hooks", clock.now)
    for number, name in enumerate(["code", "other", "code"]):
        hint = Hint(
            delivery=f"d-{number}", event="issues", action="opened", place="x", repos=(name,), issue=number
        )
        journal.add(hint, f"{number}")

    done = fleet.run("webhook", "test", "code")

    assert done.exit_code == 5
    assert [line.split()[-1] for line in done.stdout.splitlines()[1:]] == ["d-2", "d-0"]
    assert "issues opened" in done.stdout
    assert "taken" in done.stdout
    assert "issue #2" in done.stdout
    assert "nothing new arrived" in done.stderr
    assert ("POST", f"/repos/acme/code/hooks/{hooks(forge)[0].id}/tests") in forge.requests


def test_without_a_hook_there_is_nothing_to_try(fleet, forge):
    know(fleet, forge, {"env": "HOOK"})

    done = fleet.run("webhook", "test", "code")

    assert done.exit_code == 3
    assert "webhook install" in done.stderr
