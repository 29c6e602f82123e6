"""Senders: the fake and Apprise pass the same tests; Apprise talks to a server on loopback."""

import asyncio
import logging
import threading
from dataclasses import dataclass

import pytest

from reconciler.controller.ports import NotificationSender
from reconciler.core.adapter import Secret
from reconciler.core.errors import Unavailable
from reconciler.core.notifications.messages import Message
from reconciler.notifications.sender import AppriseSender
from tests.fakes import FakeSender
from tests.notifications.receiver import SECRET, Receiver, receiving

# Apprise imports every plugin it has, and some of these import what is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
HELLO = Message(
    title="fleet: host gpu1 is down", body="Why: Connection refused\nNext: reconciler host check gpu1"
)
URL = Secret(env="NOTIFY")


@dataclass
class Bench:
    sender: NotificationSender
    receiver: Receiver | None = None

    def refuse(self) -> None:
        if self.receiver:
            self.receiver.status = 503
        else:
            self.sender.refuses["phone"] = "it answered with HTTP 503 (Service Unavailable)"

    def taken(self) -> list[tuple[str, str]]:
        if self.receiver:
            return [(message["title"], message["message"]) for message in self.receiver.taken]
        return [(message.title, message.body) for _, message in self.sender.sent]


def apprise_sender(url: str, **more: object) -> AppriseSender:
    async def lookup(_: Secret) -> str:
        return url

    return AppriseSender(lookup, **more)


@pytest.fixture
def receiver():
    with receiving() as receiver:
        yield receiver


@pytest.fixture(params=["fake", "apprise"])
def bench(request):
    if request.param == "fake":
        return Bench(FakeSender())
    pytest.importorskip("apprise", reason="the extra `notify` is not installed")
    receiver = request.getfixturevalue("receiver")
    return Bench(apprise_sender(f"{receiver.url}\n"), receiver)


async def test_a_message_comes_as_it_was_written(bench):
    await bench.sender.send("phone", URL, HELLO)

    assert bench.taken() == [(HELLO.title, HELLO.body)]


async def test_a_target_that_refuses_says_so_and_takes_the_next_once_it_does_not(bench):
    bench.refuse()

    with pytest.raises(Unavailable, match=r"it answered with HTTP 503 \(Service Unavailable\)"):
        await bench.sender.send("phone", URL, HELLO)

    assert bench.taken() == []


@pytest.fixture
def root_log(monkeypatch):
    """What comes to the handlers of the root logger, as those of the reconciler are; all levels are on."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    lines: list[str] = []
    handler, root = Lines(), logging.getLogger()
    root.addHandler(handler)
    for name in ("", "apprise", "urllib3"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    yield lines
    root.removeHandler(handler)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("json://user:{secret}@127.0.0.1:1/{secret}", "cannot be reached"),
        ("nonsense://{secret}", "not one URL that Apprise can read"),
        ("slack://{secret}", "not one URL that Apprise can read"),
        ("", "not one URL that Apprise can read"),
        ("{secret}", "not one URL that Apprise can read"),
        ("json://127.0.0.1:1/{secret}, json://127.0.0.1:1/other", "not one URL that Apprise can read"),
    ],
)
async def test_nothing_of_a_url_is_in_an_error_or_a_log(url, why, capfd, root_log):
    pytest.importorskip("apprise", reason="the extra `notify` is not installed")

    with pytest.raises(Unavailable, match=why) as error:
        await apprise_sender(url.format(secret=SECRET)).send("phone", URL, HELLO)

    said = [str(error.value), repr(error.value.__cause__), *root_log, *capfd.readouterr()]
    assert not [text for text in said if SECRET in text or "127.0.0.1" in text]


async def test_what_a_plugin_raises_is_not_repeated():
    def deliver(url: str, message: Message) -> None:
        raise RuntimeError(url)

    with pytest.raises(Unavailable, match=r"plugin failed \(RuntimeError\)") as error:
        await apprise_sender(f"json://{SECRET}", deliver=deliver).send("phone", URL, HELLO)

    assert SECRET not in str(error.value)


async def test_a_target_that_hangs_is_given_up_and_gets_no_second_thread_meanwhile():
    release, threads = threading.Event(), []

    def deliver(url: str, message: Message) -> None:
        threads.append(threading.current_thread())
        release.wait(60)

    sender = apprise_sender("json://x", deliver=deliver, limit=0.01)
    with pytest.raises(Unavailable, match="no answer within"):
        await sender.send("phone", URL, HELLO)
    with pytest.raises(Unavailable, match="earlier message still waits"):
        await sender.send("phone", URL, HELLO)
    with pytest.raises(Unavailable, match="no answer within"):
        await sender.send("other", URL, HELLO)

    assert len(threads) == 2
    assert all(thread.daemon for thread in threads)
    release.set()
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    await sender.send("phone", URL, HELLO)
    assert len(threads) == 3


async def test_without_the_package_it_is_said_which(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apprise", None)

    with pytest.raises(Unavailable, match="package apprise is not installed"):
        await apprise_sender("json://x").send("phone", URL, HELLO)
