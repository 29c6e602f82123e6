"""Where webhooks are taken: who signed, for which repository, and once."""

import hmac
import json
import threading
from datetime import timedelta

import pytest

from reconciler.core.adapter import Secret
from reconciler.core.errors import Refused, Unavailable, UsageError
from reconciler.core.model.specs import Desired, Forge, Repo
from reconciler.forge.journal import Journal
from reconciler.forge.webhook_receiver import WebhookReceiver
from tests.fakes import FakeClock
from tests.forge.samples import SECRET, sample, signed

WIDGETS, OTHERS = Secret(env="WIDGETS"), Secret(env="OTHERS")


def forge(repo: str, secret: Secret | None) -> Forge:
    return Forge(
        api="https://code.example.org/api/v1", repo=repo, token=Secret(env="T"), webhook_secret=secret
    )


class Door:
    """Hooks over a fleet of two repositories, and what came through."""

    def __init__(self, folder) -> None:
        self.forges = {"widgets": forge("Acme/Widgets", WIDGETS), "others": forge("acme/others", OTHERS)}
        self.values: dict[Secret, str] = {WIDGETS: SECRET, OTHERS: "0ther"}
        self.asked: list[Secret] = []
        self.revision = "1" * 40
        self.hints: list = []
        self.journal = Journal(folder, FakeClock())
        self.time = 0.0
        self.dones: list = []
        self.hooks = WebhookReceiver(self, self.secret, self.journal, self.take, lambda: self.time)

    def take(self, hint, done) -> None:
        self.hints.append(hint)
        self.dones.append(done)

    @property
    def desired(self) -> Desired:
        repos = {name: Repo(name=name, url="x", forge=forge) for name, forge in self.forges.items()}
        return Desired(revision=self.revision, repos=repos)

    async def secret(self, secret: Secret) -> str:
        self.asked.append(secret)
        if secret not in self.values:
            raise Unavailable("the vault is closed")
        return self.values[secret]


@pytest.fixture
def admission(tmp_path):
    return Door(tmp_path)


async def test_a_signed_webhook_is_kept_and_handed_on_once(admission):
    headers, raw = sample("pull_request.opened")

    await admission.hooks.receive(headers, raw)
    await admission.hooks.receive(headers, raw)
    await admission.hooks.receive({**headers, "x-forgejo-delivery": "replayed"}, raw)

    [hint] = admission.hints
    assert (hint.repos, hint.pull, hint.delivery) == (("widgets",), 13, headers["x-forgejo-delivery"])
    assert [each.outcome for each in admission.journal.recent()] == ["duplicate", "duplicate", "taken"]
    assert admission.journal.counts == {("pull_request", "taken"): 1, ("pull_request", "duplicate"): 2}


async def test_a_delivery_is_on_disk_before_it_is_handed_on_and_answered(admission, tmp_path):
    on_disk = []
    admission.hooks = WebhookReceiver(
        admission,
        admission.secret,
        admission.journal,
        lambda hint, _: on_disk.append(Journal(tmp_path, FakeClock()).recent()[0].hint == hint),
    )

    await admission.hooks.receive(*sample("pull_request.opened"))

    assert on_disk == [True]


@pytest.mark.parametrize("name", ["push.commits.unsigned"])
async def test_an_unsigned_webhook_is_refused_and_nothing_is_kept(admission, name):
    with pytest.raises(Refused):
        await admission.hooks.receive(*sample(name))

    assert (admission.hints, admission.journal.recent()) == ([], ())
    assert admission.journal.counts == {("push", "refused"): 1}


async def test_the_secret_of_one_repository_vouches_for_no_other(admission):
    raw = json.dumps({"ref": "refs/heads/x", "repository": {"full_name": "acme/widgets"}}).encode()

    await admission.hooks.receive(signed("push", raw, secret="0ther"), raw)

    assert (admission.hints, admission.journal.counts) == ([], {("push", "ignored"): 1})


async def test_whatever_happens_at_the_forge_is_hinted_at(admission, double, forges, receiver):
    url, kept = receiver
    admission.forges = {"widgets": double.spec("acme/widgets", WIDGETS, WIDGETS)}
    await forges.install_hook(admission.forges["widgets"], url, SECRET)
    issue = double.open_issue("acme/widgets", "Mend it")
    double.comment("acme/widgets", issue, "/agent retry")
    double.push_as_person("acme/widgets", "task/a", {"a.txt": "1\n"})
    pull = double.open_pull("acme/widgets", "task/a", "Mend it")
    double.review("acme/widgets", pull, "rejected", "Not yet.")
    double.merge_pull("acme/widgets", pull)
    double.delete_branch("acme/widgets", "task/a")
    double.settle()

    for headers, body in kept:
        await admission.hooks.receive(headers, body)

    places = [(hint.event, hint.pull or hint.issue or hint.branch) for hint in admission.hints]
    assert places == [
        ("issues", issue),
        ("issue_comment", issue),
        ("create", "task/a"),
        ("push", "task/a"),
        ("pull_request", pull),
        ("pull_request_rejected", pull),
        ("pull_request", pull),
        ("push", "main"),
        ("delete", "task/a"),
    ]


async def test_a_signed_body_that_is_no_webhook_is_refused_and_not_kept(admission):
    raw = b"ref=refs/heads/x"

    with pytest.raises(UsageError):
        await admission.hooks.receive(signed("push", raw), raw)

    assert (admission.hints, admission.journal.recent()) == ([], ())


async def test_two_lines_of_a_secret_are_both_good(admission):
    admission.values[WIDGETS] = f"new-one\n{SECRET}\n"

    await admission.hooks.receive(*sample("push.commits"))

    assert len(admission.hints) == 1


async def test_strangers_who_send_much_do_not_make_us_look_up_secrets_each_time(admission):
    for _ in range(5):
        with pytest.raises(Refused):
            await admission.hooks.receive({"x-forgejo-event": "push"}, b"{}")

    assert len(admission.asked) == len(set(admission.asked))


@pytest.mark.parametrize("before", ["an-old-one", None])
async def test_a_secret_that_was_renewed_a_moment_ago_counts_at_once(admission, before):
    if before is None:
        del admission.values[WIDGETS]
    else:
        admission.values[WIDGETS] = before
    with pytest.raises((Refused, Unavailable)):
        await admission.hooks.receive(*sample("push.commits"))

    admission.values[WIDGETS] = SECRET
    admission.time += 5
    await admission.hooks.receive(*sample("push.commits"))

    assert len(admission.hints) == 1


async def test_a_secret_that_cannot_be_had_is_an_outage_of_its_own_repository_only(admission):
    del admission.values[OTHERS]

    await admission.hooks.receive(*sample("push.commits"))
    with pytest.raises(Unavailable, match="vault"):
        await admission.hooks.receive({"x-forgejo-event": "push"}, b"{}")

    assert len(admission.hints) == 1


async def test_without_a_secret_no_webhook_is_accepted(admission):
    admission.forges = {"widgets": forge("acme/widgets", None)}

    with pytest.raises(Refused, match="webhook install"):
        await admission.hooks.receive(*sample("push.commits"))


async def test_a_body_is_digested_once_for_each_secret_however_many_repos_share_it(admission, monkeypatch):
    admission.forges = {f"repo{number}": forge(f"acme/repo{number}", WIDGETS) for number in range(50)}
    admission.forges["widgets"] = forge("Acme/Widgets", WIDGETS)
    digested, threads = [], set()
    made = hmac.new

    def count(key, *rest):
        digested.append(key)
        threads.add(threading.get_ident())
        return made(key, *rest)

    monkeypatch.setattr(hmac, "new", count)
    with pytest.raises(Refused):
        await admission.hooks.receive(*signed_by_a_stranger())
    await admission.hooks.receive(*sample("pull_request.opened"))

    assert digested == [SECRET.encode()] * 2
    assert threading.get_ident() not in threads
    assert admission.hints[0].repos == ("widgets",)


def signed_by_a_stranger():
    headers, raw = sample("pull_request.opened")
    return headers, raw + b" "


async def test_secrets_that_no_forge_has_any_more_are_forgotten(admission):
    for number in range(20):
        admission.forges = {"widgets": forge("Acme/Widgets", Secret(env=f"W{number}"))}
        admission.values = {Secret(env=f"W{number}"): SECRET}
        await admission.hooks.receive(*sample("pull_request.opened"))

    assert len(admission.hooks._secrets) == 1


async def test_what_was_not_acted_upon_when_the_process_was_killed_is_acted_upon_by_the_next(tmp_path):
    killed = Door(tmp_path)
    await killed.hooks.receive(*sample("pull_request.opened"))
    await killed.hooks.receive(*sample("issues.opened"))
    killed.dones[0]()

    after = Door(tmp_path)
    after.hooks.resume()

    assert [hint.event for hint in after.hints] == ["issues"]
    after.dones[0]()
    assert (after.journal.pending(), Door(tmp_path).journal.pending()) == ([], [])


async def test_what_was_not_accepted_is_kept_with_the_reason_and_never_grows(admission, tmp_path):
    raw = json.dumps({"ref": "refs/heads/x", "repository": {"full_name": "acme/WIDGETS"}}).encode()
    with pytest.raises(Refused):
        await admission.hooks.receive(signed("push", raw, secret="old"), raw)
    admission.journal._clock.time += timedelta(seconds=2)
    with pytest.raises(UsageError):
        await admission.hooks.receive(signed("push", b"payload=x"), b"payload=x")

    form, stranger = Journal(tmp_path, FakeClock()).rejections()

    assert (stranger.status, stranger.place, stranger.event) == (401, "Acme/Widgets", "push")
    assert (form.status, form.place) == (400, "")
    assert "application/json" in form.why
    for _ in range(100):
        with pytest.raises(Refused):
            await admission.hooks.receive({}, b"x")
    assert len(admission.journal.rejections()) == 20
    assert len(Journal(tmp_path, FakeClock()).rejections()) == 2
