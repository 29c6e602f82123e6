"""The notifier beside the loop: what goes on record is told once, whatever fails or is killed meanwhile."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.controller.notifications import MOST_STEPS, Notifier
from reconciler.core.errors import NotFound, Unavailable
from reconciler.core.model.specs import FleetSpec, NotifySpec
from reconciler.core.model.status import Phase
from reconciler.core.notifications.book import Book
from reconciler.core.notifications.signals import FleetSnapshot
from reconciler.core.transitions import TransitionRecord
from reconciler.store.book_file import BookFile
from tests.fakes import FakeClock, FakeSender, make_desired, make_task
from tests.statuses import make_status

TOLD = [{"to": "phone", "transitions": "*"}]


@dataclass
class Record:
    """A record that grows, with what stands on it now."""

    clock: FakeClock
    rules: Sequence[dict[str, object]] = field(default_factory=lambda: TOLD)
    steps: list[TransitionRecord] = field(default_factory=list)
    fleet: FleetSnapshot | None = None
    error: Exception | None = None

    def goes(self, name: str, after: str, before: str = "created") -> None:
        """Put a step on record."""
        at = self.clock()
        record = TransitionRecord(
            at=at, task=name, before=before, after=after, commit=f"{len(self.steps):040x}"
        )
        self.steps.append(record)
        fixed = {"since": at, "created_at": at, "generation": "1" * 40, "work": "w"}
        status = make_status(Phase(after), **fixed)
        statuses = {**(self.fleet.statuses if self.fleet else {}), name: status}
        self.fleet = replace(self.snapshot(), statuses=statuses, head=record.commit)

    def snapshot(self) -> FleetSnapshot:
        if self.fleet is None:
            spec = {"targets": {"phone": {"env": "P"}, "team": {"env": "T"}}, "rules": self.rules}
            notify = NotifySpec.model_validate({**spec, "hold": "0s"}, strict=False) if self.rules else None
            tasks = [make_task(name) for name in "abc"]
            self.fleet = FleetSnapshot(desired=make_desired(*tasks, fleet=FleetSpec(notify=notify)))
        return self.fleet

    async def read(self, head: str, after: str, limit: int) -> Sequence[TransitionRecord]:
        if self.error:
            raise self.error
        commits = [step.commit for step in self.steps]
        begin = commits.index(after) + 1 if after else 0
        return self.steps[begin : commits.index(head) + 1][:limit]


@dataclass
class Stand:
    """A notifier that can be killed and started anew on the same file."""

    file: Path
    clock: FakeClock = field(default_factory=FakeClock)
    sender: FakeSender = field(default_factory=FakeSender)
    record: Record = None
    notifier: Notifier = None

    def __post_init__(self) -> None:
        self.record = self.record or Record(self.clock)
        self.start()

    def start(self) -> None:
        """Start a process: what the one before had in memory only is gone."""
        self.notifier = Notifier(
            snapshot=self.record.snapshot,
            steps=self.record.read,
            sender=self.sender,
            store=BookFile(self.file),
            clock=self.clock,
        )
        head = self.record.fleet.head if self.record.fleet else ""
        self.notifier.begin(head, has_rules=bool(self.record.rules))

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            await self.notifier.look()
            for _ in range(5):
                await asyncio.sleep(0)

    @property
    def titles(self) -> list[str]:
        return [message.title for _, message in self.sender.sent]


@pytest.fixture
def stand(tmp_path):
    return Stand(tmp_path / "notifications/book.json")


async def test_a_step_is_told_once_however_often_it_is_looked_at(stand):
    stand.record.goes("a", "completed")

    await stand.look(5)

    assert stand.titles == ["task a is completed"]
    assert stand.notifier.reports()["phone"].counts.sent == 1


async def test_steps_while_no_notifier_runs_are_told_by_the_next_one(stand):
    await stand.look()
    stand.record.goes("a", "completed")
    stand.record.goes("b", "cancelled")

    stand.start()
    await stand.look(2)

    assert stand.titles == ["2 things: task a is completed; task b is cancelled"]


async def test_a_new_book_tells_nothing_that_is_on_record_already(stand):
    stand.record.goes("a", "completed")
    stand.file.unlink(missing_ok=True)

    stand.start()
    await stand.look(3)

    assert stand.titles == []


async def test_a_kill_between_two_messages_loses_none_and_repeats_none(stand):
    stand.sender.refuses["team"] = "it answered with HTTP 500"
    stand.record.rules = [{"to": ["phone", "team"], "transitions": "*"}]
    stand.record.fleet = None
    await stand.look()
    stand.record.goes("a", "completed")
    await stand.look(2)

    stand.start()  # the message to the phone was noted, that to the team was not sent
    stand.sender.refuses.clear()
    stand.clock.time += timedelta(seconds=20)
    await stand.look(3)

    assert [target for target, _ in stand.sender.sent] == ["phone", "team"]


async def test_a_kill_before_an_answer_is_noted_sends_that_message_again_and_no_other(stand):
    stand.record.goes("a", "completed")
    await stand.look(2)
    stand.record.goes("b", "completed")
    await stand.look()  # taken by its target; the kill comes before the next look notes that

    stand.start()
    await stand.look(3)

    assert stand.titles == ["task a is completed", "task b is completed", "task b is completed"]


async def test_nothing_is_sent_before_it_is_in_the_file(stand):
    seen = []

    async def send(target: str, *_: object) -> None:
        seen.append([entry.title for entry in BookFile(stand.file).read().outbox])

    stand.sender.send = send
    stand.record.goes("a", "completed")
    await stand.look()

    assert seen == [["task a is completed"]]


async def test_what_is_not_taken_is_tried_again_and_shown_until_it_is(stand):
    stand.sender.refuses["phone"] = "it answered with HTTP 404"
    stand.record.goes("a", "completed")
    await stand.look(4)
    early, reports = stand.sender.tries, stand.notifier.reports()

    stand.sender.refuses.clear()
    stand.clock.time += timedelta(seconds=10)
    await stand.look(2)

    assert early == 1
    assert (reports["phone"].waiting, reports["phone"].error) == (1, "it answered with HTTP 404")
    assert stand.titles == ["task a is completed"]
    assert stand.notifier.reports()["phone"].error == ""


async def test_a_target_that_takes_its_time_keeps_no_other_waiting_and_gets_one_at_a_time(stand):
    release, begun = asyncio.Event(), []

    async def send(target: str, secret: object, message: object) -> None:
        begun.append(target)
        if target == "phone":
            await release.wait()

    stand.sender.send = send
    stand.record.rules = [{"to": ["phone", "team"], "transitions": "*"}]
    stand.record.fleet = None
    for name in ("a", "b"):
        stand.record.goes(name, "completed")
        await stand.look(3)

    assert sorted(begun) == ["phone", "team", "team"]
    release.set()
    await stand.look(3)
    assert sorted(begun) == ["phone", "phone", "team", "team"]


async def test_more_steps_than_are_read_at_once_are_all_read(stand):
    for number in range(MOST_STEPS + 7):
        stand.record.goes("abc"[number % 3], "running" if number < MOST_STEPS else "completed", before="x")

    await stand.look(3)

    assert stand.notifier._book.cursor == stand.record.steps[-1].commit
    assert [title.partition(":")[0] for title in stand.titles] == [f"{MOST_STEPS} things", "7 things"]


async def test_a_record_that_cannot_be_read_now_is_read_later_and_one_that_went_back_is_not(stand, caplog):
    stand.record.goes("a", "completed")
    stand.record.error = Unavailable("git does not answer")
    await stand.look(2)
    assert stand.titles == []

    stand.record.error = None
    stand.clock.time += timedelta(seconds=1)
    stand.record.goes("b", "completed")
    await stand.look(2)
    assert stand.titles == ["2 things: task a is completed; task b is completed"]

    stand.record.error = NotFound("no such commit")
    stand.record.goes("c", "completed")
    await stand.look(2)
    assert len(stand.titles) == 1
    assert "went back" in caplog.text


async def test_rules_that_come_later_are_about_what_comes_after_them(stand):
    stand.record.rules = []
    stand.record.goes("a", "completed")
    await stand.look()
    stand.record.rules, stand.record.fleet = TOLD, replace(stand.record.fleet, desired=_with_rules(TOLD))
    stand.clock.time += timedelta(seconds=1)

    await stand.look()
    stand.clock.time += timedelta(seconds=1)
    stand.record.goes("b", "completed")
    await stand.look(2)

    assert stand.titles == ["task b is completed"]


def _with_rules(rules: Sequence[dict[str, object]]) -> object:
    return Record(FakeClock(), rules).snapshot().desired


async def test_a_fleet_without_rules_leaves_nothing_on_disk_and_tells_nothing_of_that_time_later(stand):
    stand.record.goes("a", "completed")
    await stand.look(2)
    with_rules, without = stand.record.fleet.desired, _with_rules([])
    stand.record.rules, stand.record.fleet = [], replace(stand.record.fleet, desired=without)
    await stand.look(2)
    on_disk = BookFile(stand.file).read()
    stand.record.goes("b", "completed")
    stand.clock.time += timedelta(seconds=5)

    stand.record.rules, stand.record.fleet = TOLD, replace(stand.record.fleet, desired=with_rules)
    stand.start()
    await stand.look(2)

    assert on_disk == Book()
    assert stand.titles == ["task a is completed"]


async def test_a_fault_in_a_sender_is_an_attempt_that_failed(stand, caplog):
    async def send(*_: object) -> None:
        raise RuntimeError("boom")

    stand.sender.send = send
    stand.record.goes("a", "completed")
    await stand.look(2)

    assert "bug" in stand.notifier.reports()["phone"].error
    assert "unexpected error" in caplog.text


async def test_a_file_that_cannot_be_written_keeps_no_message_back(stand, monkeypatch, caplog):
    def write(self: BookFile, book: Book) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BookFile, "write", write)
    stand.record.goes("a", "completed")
    await stand.look(2)

    assert stand.titles == ["task a is completed"]
    assert "No space left on device" in caplog.text


async def test_a_damaged_file_keeps_no_notifier_from_starting(stand, caplog):
    stand.record.goes("a", "completed")
    await stand.look(2)
    stand.file.write_text('{"cursor": 5')

    stand.start()
    await stand.look(2)
    stand.record.goes("b", "completed")
    await stand.look(2)

    assert stand.titles == ["task a is completed", "task b is completed"]
    assert "begin anew" in caplog.text


async def test_at_an_orderly_end_what_was_sent_is_noted(stand):
    async with asyncio.timeout(60):
        work = asyncio.create_task(stand.notifier.run(stand.clock.pause))
        stand.record.goes("a", "completed")
        while not stand.titles:  # noqa: ASYNC110 - the clock passes by itself
            await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    stand.start()
    await stand.look(3)

    assert stand.titles == ["task a is completed"]


async def test_it_runs_until_it_is_cancelled_and_wakes_at_once(stand):
    async with asyncio.timeout(60):
        work = asyncio.create_task(stand.notifier.run(stand.clock.pause))
        stand.record.goes("a", "completed")
        stand.notifier.wake()
        while not stand.titles:  # noqa: ASYNC110 - the clock passes by itself
            await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["step", "look", "kill", "refuse", "take", "later"]), max_size=30))
def test_whenever_it_is_killed_each_step_is_told_and_only_what_was_under_way_twice(
    tmp_path_factory, happenings
):
    stand = Stand(tmp_path_factory.mktemp("book") / "notifications/book.json")

    def step() -> None:
        if len(stand.record.steps) < 10:  # a message describes no more
            stand.record.goes(f"t{len(stand.record.steps)}", "completed")

    happen = {
        "step": step,
        "kill": stand.start,
        "refuse": lambda: stand.sender.refuses.update(phone="it answered with HTTP 500"),
        "take": stand.sender.refuses.clear,
    }

    async def everything() -> None:
        for what in happenings:
            if what in happen:
                happen[what]()
            else:
                stand.clock.time += timedelta(minutes=15) * (what == "later")
                await stand.look()
        stand.sender.refuses.clear()
        for _ in range(40):
            stand.clock.time += timedelta(minutes=15)
            await stand.look()

    asyncio.run(everything())

    kills = happenings.count("kill")
    bodies = [message.body for _, message in stand.sender.sent]
    for step in stand.record.steps:
        times = sum(f"task {step.task} is completed" in body for body in bodies)
        assert 1 <= times <= 1 + kills
    assert len(bodies) - len(set(bodies)) <= kills
    assert stand.notifier._book.outbox == ()
