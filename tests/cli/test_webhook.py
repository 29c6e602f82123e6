"""
Webhooks set up on a forge, and what arrives of them.
"""

import asyncio
import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reconciler import clock
from reconciler.cli.exits import ExitCode
from reconciler.cli.serving import Serving
from reconciler.core.adapter import Secret
from reconciler.core.errors import Refused, Unavailable, UsageError
from reconciler.core.model.forge import Hint
from reconciler.core.model.specs import Desired, Repo
from reconciler.dispatch.secrets import forge_secret
from reconciler.forge.journal import Journal
from reconciler.forge.webhook_check import PATH
from reconciler.forge.webhook_receiver import WebhookReceiver
from reconciler.store.presence import Presence
from tests.forge.double import ForgejoDouble

URL = "https://reconciler.example.org"
NOWHERE = "http://127.0.0.1:1"
"""Nobody listens there."""


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


def test_a_file_that_holds_no_secrets_is_left_as_it_is(fleet, forge, person):
    know(fleet, forge, {"file": "~/code"})
    (person / "code").write_bytes(b"\x96\x00\xff")

    done = fleet.run("webhook", "install", "code", "--url", URL)

    assert (done.exit_code, hooks(forge)) == (ExitCode.USAGE, [])
    assert f"{person}/code is not UTF-8" in done.stderr
    assert (person / "code").read_bytes() == b"\x96\x00\xff"


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
    monkeypatch.setattr("reconciler.forge.webhook_check.PATIENCE", 0.1)
    fleet.run("webhook", "install", "code", "--url", NOWHERE)
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
    assert "no test delivery came in" in done.stderr
    assert ("POST", f"/repos/acme/code/hooks/{hooks(forge)[0].id}/tests") in forge.requests


def test_without_a_hook_there_is_nothing_to_try(fleet, forge):
    know(fleet, forge, {"env": "HOOK"})

    done = fleet.run("webhook", "test", "code")

    assert done.exit_code == 3
    assert "webhook install" in done.stderr


class Served:
    """What `serve` does with webhooks, on the loopback: the real receiver and the real log."""

    def __init__(self, fleet, forge):
        self.fleet, self.forge = fleet, forge
        self.acts = True
        """Whether deliveries are acted upon at once."""
        served = self

        class Take(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(served.take(headers, body) if self.path == PATH else 404)
                self.end_headers()

            def log_message(self, *_):
                """Keep the output clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Take)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def desired(self):
        at = self.forge.spec("acme/code", Secret(env="FORGE_TOKEN"), Secret(file="~/code"))
        return Desired(revision="1" * 40, repos={"code": Repo(name="code", url="x", forge=at)})

    def take(self, headers, body):
        journal = Journal(self.fleet.data / "hooks", clock.now)
        receiver = WebhookReceiver(self, forge_secret, journal, self.notify)
        try:
            asyncio.run(receiver.receive(headers, body))
        except (Refused, UsageError, Unavailable) as error:
            return {Refused: 401, UsageError: 400, Unavailable: 503}[type(error)]
        return 202

    def notify(self, _, done):
        if self.acts:
            done()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def served(fleet, forge, monkeypatch):
    forge.webhooks = "normal"
    monkeypatch.setattr("reconciler.forge.webhook_check.PATIENCE", 60)
    monkeypatch.setattr("reconciler.forge.webhook_check.SETTLES", 60)
    monkeypatch.setattr("reconciler.forge.webhook_check.RENEWAL", 0)
    know(fleet, forge, {"file": "~/code"})
    served = Served(fleet, forge)
    yield served
    served.close()


@pytest.fixture
def in_vain(served, monkeypatch):
    """Let nobody wait long for what will not come."""
    monkeypatch.setattr("reconciler.forge.webhook_check.PATIENCE", 0.1)
    monkeypatch.setattr("reconciler.forge.webhook_check.SETTLES", 0.1)


def check(fleet, *repos):
    """Return the exit code of a check, and the results with their messages."""
    done = fleet.run("webhook", "check", *repos)
    return done.exit_code, [line.split(None, 2)[1:] for line in done.stdout.splitlines()[1:]]


def test_a_webhook_that_works_is_told_with_how_late_it_comes(fleet, forge, served):
    fleet.run("webhook", "install", "code", "--url", served.url)

    code, [(result, message)] = check(fleet)

    assert (code, result) == (0, "ok")
    assert message.startswith("a test delivery came in after ")
    assert message.endswith(" s, and was acted upon")


def test_a_delivery_that_is_not_acted_upon_is_told_so(fleet, forge, served, monkeypatch):
    fleet.run("webhook", "install", "code", "--url", served.url)
    served.acts = False
    monkeypatch.setattr("reconciler.forge.webhook_check.SETTLES", 0.1)

    _, [(_, message)] = check(fleet)

    assert message.endswith("and is not acted upon yet")


def test_to_install_anew_works_at_once_and_again(fleet, forge, served):
    for _ in range(3):
        fleet.run("webhook", "install", "code", "--url", served.url)
        assert (check(fleet)[0], len(hooks(forge))) == (0, 1)


def switch_off(hook):
    hook.active = False


def forget_comments(hook):
    hook.events.remove("issue_comment")


def send_forms(hook):
    hook.content_type = "form"


def tell_of_releases(hook):
    hook.branch_filter = "release/*"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (switch_off, "is switched off"),
        (forget_comments, "does not tell of issue_comment"),
        (send_forms, "sends form, not application/json"),
        (tell_of_releases, "tells of the branches release/* alone"),
    ],
)
def test_what_somebody_changed_on_the_forge_is_named_and_installing_repairs_it(
    fleet, forge, served, change, message
):
    fleet.run("webhook", "install", "code", "--url", served.url)
    change(hooks(forge)[0])

    code, [(result, text)] = check(fleet, "code")

    assert (code, result) == (5, "failed")
    assert message in text
    fix = text.partition("; reconciler ")[2].split()
    fleet.run(*fix)
    assert (check(fleet)[0], len(hooks(forge))) == (0, 1)


def test_another_secret_is_told_by_what_the_forge_was_answered(fleet, forge, served):
    fleet.run("webhook", "install", "code", "--url", served.url)
    hooks(forge)[0].secret = "another"

    code, [(result, message)] = check(fleet)

    assert (code, result) == (5, "failed")
    assert "a delivery (push) at " in message
    assert "was answered 401" in message


def test_a_forge_that_does_not_send_to_private_addresses_is_told_as_the_likely_cause(
    fleet, forge, served, in_vain
):
    fleet.run("webhook", "install", "code", "--url", served.url)
    forge.webhooks = "dropped"

    code, [(result, message)] = check(fleet)

    assert (code, result) == (5, "failed")
    assert "`ALLOWED_HOST_LIST` of [webhook] in their app.ini names this one" in message


def test_an_address_where_nobody_listens_is_told_so(fleet, forge, served, in_vain):
    fleet.run("webhook", "install", "code", "--url", NOWHERE)

    code, [(result, message)] = check(fleet)

    assert (code, result) == (5, "failed")
    assert f"{NOWHERE}/hooks/forgejo is not reached: Connection refused" in message
    assert f"/acme/code/settings/hooks/{hooks(forge)[0].id}" in message


def test_an_address_of_somebody_else_is_told_so(fleet, forge, served, in_vain):
    fleet.run("webhook", "install", "code", "--url", f"{served.url}/elsewhere")

    code, [(_, message)] = check(fleet)

    assert code == 5
    assert "answers 404: is that the address of `reconciler serve`?" in message


def test_webhooks_to_the_same_address_are_told_and_installing_leaves_one(fleet, forge, served):
    fleet.run("webhook", "install", "code", "--url", served.url)
    [hook] = hooks(forge)
    forge.repos["acme/code"].hooks[99] = type(hook)(**{**vars(hook), "id": 99, "url": f"HTTP{hook.url[4:]}"})

    code, found = check(fleet)

    assert (code, found[0][0]) == (0, "warning")
    assert "2 webhooks go to" in found[0][1]
    fleet.run("webhook", "install", "code", "--url", served.url)
    assert len(hooks(forge)) == 1


def test_repos_without_a_secret_and_tokens_that_see_no_webhooks_are_told_so(fleet, forge, served):
    forge.broken["GET /repos/acme/code/hooks"] = (403, {})
    assert check(fleet)[1][0][1].startswith("its webhooks are seen only by a token whose account")

    know(fleet, forge, None)
    code, [(result, message)] = check(fleet)
    assert (code, result) == (0, "warning")
    assert "names no webhook_secret" in message


def test_how_late_events_come_is_told_with_them(fleet, forge, served):
    fleet.run("webhook", "install", "code", "--url", served.url)
    at = datetime(2030, 1, 1, 9, tzinfo=UTC)
    hint = Hint(delivery="d", event="issues", place="x", repos=("code",), issue=1, happened_at=at)
    Journal(fleet.data / "hooks", lambda: at.replace(second=42)).add(hint, "1")

    done = fleet.run("webhook", "test", "code")

    assert done.exit_code == 0
    [late] = [line for line in done.stdout.splitlines() if line.endswith(" d")]
    assert "  42s " in late


def test_a_webhook_that_is_wrong_beside_one_that_works_is_only_a_warning(fleet, forge, served):
    fleet.run("webhook", "install", "code", "--url", URL)
    switch_off(hooks(forge)[0])
    fleet.run("webhook", "install", "code", "--url", served.url)

    code, [(first, message), (second, _)] = check(fleet)

    assert (code, first, second) == (0, "warning", "ok")
    assert message.endswith("is switched off; another one works: delete this one there")


@pytest.mark.parametrize("address", ["http://127.0.0.1:8420", "http://localhost:8420", "http://[::1]:8420"])
def test_an_address_of_this_machine_alone_is_not_given_to_a_forge_elsewhere(fleet, monkeypatch, address):
    at = {"api": "https://forge.example.org/api/v1", "repo": "acme/code", "token": {"env": "FORGE_TOKEN"}}
    at["webhook_secret"] = {"file": "~/code"}
    fleet.write("specs/repos/code.yaml", json.dumps({"url": "../code", "forge": at}))
    fleet.commit()

    async def running(*_):
        presence = Presence(mode="serve", pid=1, host="here", since="", address=address)
        return Serving(is_running=True, presence=presence)

    monkeypatch.setattr("reconciler.cli.serving.serving", running)

    done = fleet.run("webhook", "install", "code")

    assert done.exit_code == 64
    assert "--public-url" in done.stderr
