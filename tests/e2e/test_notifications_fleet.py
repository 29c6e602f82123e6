"""
Notifications of a real fleet: a served process that is killed, Apprise, and a target on loopback.
"""

import json

import pytest

from tests.e2e.served import eventually
from tests.notifications.receiver import SECRET, receiving

FLEET = """\
notify:
  targets:
    phone: {env: NOTIFY_PHONE}
  rules:
    - {to: phone, resolved: true}
  hold: 1s
"""
GPU = "address: 127.0.0.1\nport: 1\nlabels: [gpu]\n"
WAITS = "goal: Wait.\nadapter: script\nscript: 'true'\nrequires: gpu\n"
FAILS = """\
goal: Fail.
adapter: script
retries: 0
script: echo '[x](https://evil.example) <!channel>' >&2; exit 3
"""


@pytest.fixture
def receiver(monkeypatch):
    pytest.importorskip("apprise", reason="the extra `notify` is not installed")
    with receiving() as receiver:
        monkeypatch.setenv("NOTIFY_PHONE", receiver.url)
        yield receiver


@pytest.fixture
def fleet(playground):
    playground.write("specs/fleet.yaml", FLEET)
    playground.task("calm", "goal: Rest.\nadapter: script\nscript: 'true'\n")
    playground.commit()
    return playground


@pytest.mark.slow
async def test_a_host_that_is_down_is_one_message_and_a_kill_loses_and_repeats_none(fleet, receiver):
    served = fleet.served()
    await served.start()
    try:
        fleet.write("specs/hosts/gpu1.yaml", GPU)
        for number in range(40):
            fleet.task(f"web/t{number:02}", WAITS)
        fleet.commit()
        await eventually(receiver.titles)

        receiver.status = 500
        fleet.task("bad", FAILS)
        fleet.commit()
        await eventually(lambda: receiver.refused)

        def needs():
            shown = json.loads(fleet.reconciler("status", "-o", "json", code=7))["needs"]
            return [need["message"] for need in shown if need["what"] == "notifications"]

        await eventually(needs)
        shown = needs()
        async with served.client() as nobody:
            problems, metrics = (await nobody.get("/problems")).text, (await nobody.get("/metrics")).text
        served.kill()
        receiver.status = 200
        await served.start()
        await eventually(lambda: len(receiver.taken) > 1)
        await served.stop()
    finally:
        served.end()

    assert [title.partition(": ")[2] for title in receiver.titles()] == [
        "host gpu1 is down, 40 tasks",
        "task bad has failed",
    ]
    assert "Next: reconciler host check gpu1" in receiver.taken[0]["message"]
    assert "(x)(https: //evil.example) (!channel)" in receiver.taken[1]["message"]
    assert shown == [
        "phone: 1 message waits, and cannot be sent: it answered with HTTP 500 (Internal Server Error)"
    ]
    assert "HTTP 500" in problems
    assert 'reconciler_notifications_waiting{target="phone"} 1.0' in metrics
    _nowhere(SECRET, fleet, served.talk)


def _nowhere(secret, fleet, talk):
    """See that a secret is in no log, no file of the data folder and no commit."""
    assert secret.encode() not in talk
    for folder in (fleet.root / "data", fleet.fleet):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert secret not in fleet.sh("git log --all -p")


def test_notify_test_says_what_each_target_answers(fleet, receiver):
    fleet.write("specs/fleet.yaml", FLEET.replace("phone: {", "gone: {env: NOTIFY_GONE}\n    phone: {"))

    taken = fleet.reconciler("notify", "test", "phone")
    receiver.status = 404
    refused = fleet.reconciler("notify", "test", code=1)
    fleet.reconciler("notify", "test", "fone", code=3)

    assert taken == "phone: sent\n"
    assert receiver.titles() == ["reconciler: test of phone"]
    assert refused.splitlines() == [
        "gone: not sent: its URL cannot be had: the environment of the reconciler has no NOTIFY_GONE",
        "phone: not sent: it answered with HTTP 404 (Not Found)",
    ]
