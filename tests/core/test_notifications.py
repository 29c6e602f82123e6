"""Notifications, decided: what is told of what, to whom, when, once; with a clock that a test moves."""

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.errors import Problem
from reconciler.core.model.specs import FleetSpec, Forge, Host, NotifySpec, Repo
from reconciler.core.model.status import HostStatus, Phase, Reason, Waiting
from reconciler.core.notifications.book import (
    GIVE_UP,
    MOST_WAITING,
    Book,
    Situation,
    advance,
    begin_book,
    delivered,
    next_change,
    target_reports,
    to_send,
    undelivered,
    unsent,
)
from reconciler.core.notifications.messages import inert
from reconciler.core.notifications.quiet import timezone_of
from reconciler.core.notifications.rules import can_happen, match_signals, read_change
from reconciler.core.notifications.signals import (
    FleetSnapshot,
    current_signals,
    step_signals,
    task_signal,
)
from reconciler.core.transitions import TransitionRecord
from tests.fakes import make_desired, make_task
from tests.statuses import changed, make_status

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
PHONE = {"targets": {"phone": {"env": "PHONE"}, "boss": {"env": "BOSS"}}}


@dataclass
class World:
    """A fleet of some tasks, and a book that is brought up to date as time goes by."""

    rules: list[dict[str, object]]
    settings: dict[str, object] = field(default_factory=dict)
    now: datetime = NOON
    book: Book = field(default_factory=Book)
    statuses: dict[str, object] = field(default_factory=dict)
    hosts: dict[str, HostStatus] = field(default_factory=dict)
    steps: list[TransitionRecord] = field(default_factory=list)
    others: dict[str, object] = field(default_factory=dict)
    tasks: dict[str, dict[str, object]] = field(default_factory=dict)
    url: str = ""

    def __post_init__(self) -> None:
        self.book = begin_book(self.book, "", self.now)
        self.now += SECOND

    @property
    def spec(self) -> NotifySpec:
        return NotifySpec.model_validate({**PHONE, **self.settings, "rules": self.rules}, strict=False)

    @property
    def fleet(self) -> FleetSnapshot:
        named = {*self.statuses, *self.tasks}
        tasks = [make_task(name, **{"requires": "gpu", **self.tasks.get(name, {})}) for name in sorted(named)]
        hosts = {name: Host(name=name, address=name, labels=("gpu",)) for name in self.hosts}
        others = {name: value for name, value in self.others.items() if name not in {"repos", "problems"}}
        desired = make_desired(
            *tasks,
            fleet=FleetSpec(notify=self.spec),
            hosts=hosts,
            repos=self.others.get("repos", {}),
            problems=self.others.get("problems", ()),
        )
        return FleetSnapshot(desired=desired, statuses=self.statuses, hosts=self.hosts, **others)

    def look(self, after: timedelta = SECOND) -> list[str]:
        """Let time pass and look; return `target: title` of what goes into the outbox."""
        self.now += after
        fleet, before = self.fleet, self.book.numbered
        current = [*current_signals(fleet)]
        steps = [*step_signals(self.steps, current, fleet.desired)]
        self.steps = []
        situation = Situation(
            spec=self.spec,
            timezone=timezone_of(fleet.desired.fleet),
            now=self.now,
            current=current,
            matches=match_signals(self.spec, current, steps),
            fleet="",
            url=self.url,
        )
        self.book = Book.model_validate_json(advance(self.book, situation).model_dump_json())
        return [f"{e.target}: {e.title}" for e in self.book.outbox if e.number > before]

    def told(self, *pauses: timedelta) -> list[str]:
        return [title for pause in pauses for title in self.look(pause)]

    def body(self) -> str:
        return self.book.outbox[-1].body

    def waits(self, name: str, reason: Reason, message: str = "no host fits") -> None:
        waiting = Waiting(reason=reason, message=message, since=self.now)
        self.statuses[name] = _status(Phase.CREATED, self.now, waiting=waiting)

    def fails(self, name: str, kind: str = "agent", message: str = "gave up", **more: object) -> None:
        failure = {"kind": kind, "message": message}
        self.statuses[name] = _status(Phase.FAILED, self.now, failure=failure, adapter="codex", **more)

    def goes(self, name: str, before: str | None, after: str, **more: object) -> None:
        """Have a step on record, and the task stand there."""
        self.statuses[name] = _status(Phase(after), self.now, **more)
        record = TransitionRecord(at=self.now, task=name, before=before, after=after, reason="so it is")
        self.steps.append(replace(record, commit=f"{len(self.book.causes)}{name}"))

    def goes_down(self, host: str) -> None:
        self.hosts[host] = HostStatus(reachable=False, since=self.now, message="Connection refused")

    def comes_up(self, host: str) -> None:
        self.hosts[host] = HostStatus(reachable=True, since=self.now)


def _status(phase: Phase, at: datetime, **fields: object) -> object:
    fixed = {"since": at, "created_at": at, "generation": "1" * 40, "work": "w"}
    return make_status(phase, **{**fixed, **fields})


# --- One message for one cause ---------------------------------------------------------------


def test_a_host_that_is_down_is_one_message_whatever_waits_for_it():
    world = World([{"to": "phone"}], url="https://fleet.example.org")
    world.goes_down("gpu1")
    for number in range(40):
        world.waits(f"web/t{number:02}", Reason.HOST)

    first = world.told(SECOND, 10 * SECOND)
    world.waits("web/late", Reason.HOST)
    later = world.told(MINUTE, HOUR, 24 * HOUR)

    assert first == ["phone: host gpu1 is down, 40 tasks"]
    assert later == []
    assert world.body() == (
        "host gpu1 is down, since 2030-01-01T12:00:01Z (11s)\n"
        "Why: Connection refused\n"
        "Touches 40 tasks: web/t00, web/t01, web/t02, web/t03, web/t04 and 35 more\n"
        "Page: https://fleet.example.org/hosts/gpu1\n"
        "Next: reconciler host check gpu1"
    )


@pytest.mark.parametrize(
    ("reason", "message", "headline"),
    [
        (Reason.APPROVAL, "the spec was removed", "the removal of tasks waits for approval"),
        (Reason.FAULT, "thinking about it failed", "a fault of the reconciler holds up tasks"),
        (Reason.HOST, "no host fits: a lacks gpu", "no host takes a task that waits for one"),
        (Reason.BUDGET, "the fleet has spent its daily budget of $5; new runs", "the fleet has spent its"),
        (Reason.QUOTA, "until 3 o'clock", "the quota of"),
        (Reason.REPO, "does not answer", "repo code does not answer"),
    ],
)
def test_what_many_tasks_wait_for_is_one_message(reason, message, headline):
    world = World([{"to": "phone", "reasons": [reason.value]}])
    world.tasks = {f"t{n}": {"repo": "code"} for n in range(12)}
    for name in world.tasks:
        world.waits(name, reason, message if reason is not Reason.QUOTA else f"{message} {name}")

    told = world.told(SECOND, 2 * MINUTE, HOUR)

    assert len(told) == 1
    assert told[0].startswith(f"phone: {headline}")
    assert told[0].endswith("12 tasks")


@pytest.mark.parametrize("kind", ["auth", "quota", "host", "config"])
def test_failures_that_are_no_matter_of_their_tasks_are_one_message(kind):
    world = World([{"to": "phone"}])
    for number in range(12):
        world.fails(f"t{number}", kind, "Invalid API key")

    told = world.told(SECOND, 10 * SECOND, HOUR)

    assert len(told) == 1
    assert "12 tasks" in told[0]
    assert ("adapter test codex --host local" in world.body()) is (kind in {"auth", "config"})


def test_a_login_that_fails_again_the_next_day_is_told_again_and_counts_the_new_tasks_only():
    world = World([{"to": "phone"}])
    world.fails("old1", "auth")
    world.fails("old2", "auth")
    first = world.told(SECOND, MINUTE)
    world.now += 24 * HOUR
    world.fails("new1", "auth")
    world.fails("new2", "auth")
    world.fails("new3", "auth")

    again = world.told(SECOND, MINUTE, HOUR)

    assert first == ["phone: tasks fail at codex (auth), 2 tasks"]
    assert again == ["phone: tasks fail at codex (auth), 3 tasks"]


def test_all_repos_of_a_forge_that_does_not_answer_are_one_message_and_only_if_it_lasts():
    forge = Forge(api="https://code.example.org/api/v1", repo="a/b", token={"env": "T"})
    repos = {n: Repo(name=n, url=f"https://code.example.org/{n}", forge=forge) for n in ("one", "two")}
    world = World([{"to": "phone"}])
    world.others = {"repos": repos, "forges": dict.fromkeys(repos, "HTTP 502")}
    world.tasks = {"a": {"repo": "one"}, "b": {"repo": "two"}, "c": {}}
    for name in world.tasks:
        world.statuses[name] = _status(Phase.RUNNING, world.now)

    early = world.told(SECOND, 9 * MINUTE)
    late = world.told(2 * MINUTE, HOUR)

    assert early == []
    assert late == ["phone: the forge code.example.org does not answer, 2 tasks"]


def test_a_forge_that_was_not_asked_since_a_restart_is_neither_news_nor_over():
    forge = Forge(api="https://code.example.org/api/v1", repo="a/b", token={"env": "T"})
    repos = {"one": Repo(name="one", url="https://code.example.org/one", forge=forge)}
    unasked, failing = {"unasked": frozenset({"one"})}, {"forges": {"one": "HTTP 502"}}
    world = World([{"to": "phone", "resolved": True}])

    world.others = {"repos": repos, **unasked}
    assert world.told(SECOND, HOUR) == []
    world.others = {"repos": repos, **failing}
    assert len(world.told(SECOND, HOUR)) == 1
    world.others = {"repos": repos, **unasked}
    assert world.told(SECOND, HOUR) == []
    world.others = {"repos": repos}
    assert world.told(SECOND, MINUTE) == ["phone: over: the forge code.example.org does not answer"]


def test_that_nobody_looks_after_the_tasks_is_told_if_it_lasts():
    world = World([{"to": "phone"}, {"to": "boss", "reasons": "Reconciler"}])
    world.others["unready"] = "the remote does not answer"

    assert world.told(SECOND, 9 * MINUTE) == []
    assert world.told(2 * MINUTE) == [
        "boss: the fleet is not looked after",
        "phone: the fleet is not looked after",
    ]


def test_that_messages_do_not_reach_a_target_is_told_to_the_others_if_it_lasts():
    world = World([{"to": ["phone", "boss"], "escalate_after": "1h"}])
    world.others["unsent"] = {"phone": "1 message waits, and cannot be sent: it answered with HTTP 404"}

    assert world.told(SECOND, 9 * MINUTE) == []
    assert world.told(2 * MINUTE, 2 * HOUR) == [
        "boss: messages do not reach phone",
        "boss: not over after 2h: messages do not reach phone",
    ]


def test_a_file_with_mistakes_is_one_message_that_names_the_first():
    world = World([{"to": "phone"}])
    world.others["problems"] = tuple(Problem("specs/fleet.yaml", n, 1, f"wrong {n}") for n in (3, 4))

    assert world.told(SECOND, MINUTE, HOUR) == ["phone: specs/fleet.yaml has a mistake"]
    assert "specs/fleet.yaml:3:1: error: wrong 3" in world.body()


def test_siblings_within_the_hold_are_one_message_and_what_comes_soon_after_is_one_more():
    world = World([{"to": "phone"}])
    world.fails("a")
    world.look()
    world.fails("b")

    first = world.told(8 * SECOND, 2 * SECOND)
    world.fails("c")
    world.told(SECOND)
    world.fails("d")
    then = world.told(11 * SECOND, 20 * SECOND, 40 * SECOND)

    assert first == ["phone: 2 things: task a has failed; task b has failed"]
    assert then == ["phone: 2 things: task c has failed; task d has failed"]


def test_what_is_over_within_the_hold_is_never_told():
    world = World([{"to": "phone", "resolved": True}])
    world.goes_down("gpu1")
    world.look()
    world.comes_up("gpu1")

    assert world.told(5 * SECOND, MINUTE, HOUR) == []
    assert world.book.causes == {}


def test_a_host_that_flaps_is_told_once():
    world = World([{"to": "phone"}])
    told = []
    for _ in range(20):
        world.goes_down("gpu1")
        told += world.told(SECOND, 20 * SECOND)
        world.comes_up("gpu1")
        told += world.told(SECOND, 3 * SECOND)

    assert told == ["phone: host gpu1 is down"]


def test_a_task_that_cannot_be_judged_costs_no_other_its_news(monkeypatch):
    world = World([{"to": "phone"}])
    world.fails("a")
    world.fails("b")

    def judge(view, out):
        if view.name == "a":
            raise RuntimeError("boom")
        return task_signal(view, out)

    monkeypatch.setattr("reconciler.core.notifications.signals.task_signal", judge)

    told = world.told(SECOND, MINUTE, HOUR)

    assert told == ["phone: 2 things: task b has failed; a fault of the reconciler holds up tasks"]


def test_a_question_of_an_agent_is_told_with_the_command_that_answers_it():
    world = World([{"to": "phone"}])
    world.waits("a", Reason.PERSON, "asks (q1-1): Which cookie?")
    question = {"id": "q1-1", "text": "Which cookie?", "asked_at": world.now}
    world.statuses["a"] = changed(world.statuses["a"], questions=[question])

    assert world.told(SECOND, MINUTE) == ["phone: task a asks a question"]
    assert "Why: asks (q1-1): Which cookie?" in world.body()
    assert "Next: reconciler answer a TEXT" in world.body()


def test_each_failure_of_a_task_is_told():
    world = World([{"to": "phone"}])
    told = []
    for _ in range(3):
        world.fails("a")
        told += world.told(SECOND, 2 * MINUTE)

    assert told == ["phone: task a has failed"] * 3


# --- Its end, and escalation --------------------------------------------------------------------


def test_the_end_is_told_to_whom_the_beginning_was_if_asked_for():
    world = World([{"to": "phone", "resolved": True}, {"to": "boss"}])
    world.goes_down("gpu1")
    began = world.told(SECOND, 10 * SECOND)
    world.comes_up("gpu1")

    ended = world.told(HOUR, MINUTE, HOUR)

    assert began == ["boss: host gpu1 is down", "phone: host gpu1 is down"]
    assert ended == ["phone: over: host gpu1 is down"]
    assert world.book.causes == {}


def test_what_is_not_over_after_a_time_is_told_to_others_once():
    world = World([{"to": "phone", "escalate_after": "1h", "escalate_to": "boss"}])
    world.goes_down("gpu1")

    told = world.told(SECOND, 59 * MINUTE, 2 * MINUTE, 5 * HOUR)

    assert told == ["phone: host gpu1 is down", "boss: not over after 1h: host gpu1 is down"]


def test_what_is_over_in_time_is_not_escalated():
    world = World([{"to": "phone", "escalate_after": "1h", "escalate_to": "boss"}])
    world.goes_down("gpu1")
    world.told(SECOND, MINUTE)
    world.comes_up("gpu1")

    assert world.told(MINUTE, 2 * HOUR) == []


def test_without_others_the_same_target_is_reminded():
    world = World([{"to": "phone", "escalate_after": "1h"}])
    world.goes_down("gpu1")

    assert len(world.told(SECOND, MINUTE, 2 * HOUR, 9 * HOUR)) == 2


# --- Quiet hours ----------------------------------------------------------------------------------


def test_quiet_hours_keep_messages_for_one_after_them_and_tell_of_what_is_over_by_then():
    world = World([{"to": "phone"}], {"quiet": ["22:00-07:00"]})
    world.now = NOON.replace(hour=23)
    world.goes_down("gpu1")
    world.fails("a")
    in_quiet = world.told(MINUTE, MINUTE)
    world.comes_up("gpu1")
    in_quiet += world.told(HOUR, MINUTE, 4 * HOUR)

    due = next_change(world.book, world.spec, "UTC", world.now)
    after = world.told(due - world.now)

    assert in_quiet == []
    assert due == datetime(2030, 1, 2, 7, tzinfo=UTC)
    assert after == ["phone: 2 things: over: host gpu1 is down; task a has failed"]
    assert world.body().startswith("Held back in quiet hours.")


def test_what_fails_again_and_again_in_quiet_hours_is_one_message_that_counts_all_of_it():
    world = World([{"to": "phone"}], {"quiet": ["22:00-07:00"]})
    world.now = NOON.replace(hour=23)
    told = []
    for number in range(3):
        world.fails(f"t{number}", "auth")
        told += world.told(SECOND, 2 * HOUR)

    told += world.told(3 * HOUR, HOUR)

    assert told == ["phone: tasks fail at codex (auth), 3 tasks"]


def test_what_is_urgent_is_told_in_quiet_hours():
    world = World([{"to": "phone", "urgent": True}, {"to": "boss"}], {"quiet": ["00:00-24:00"]})
    world.goes_down("gpu1")

    assert world.told(SECOND, MINUTE) == ["phone: host gpu1 is down"]


def test_quiet_hours_are_those_of_their_time_zone():
    world = World([{"to": "phone"}], {"quiet": ["22:00-07:00"], "timezone": "Asia/Tokyo"})
    world.now = NOON.replace(hour=14)  # 23:00 there
    world.goes_down("gpu1")

    assert world.told(MINUTE, MINUTE) == []


# --- Rules ------------------------------------------------------------------------------------------


def test_a_rule_on_transitions_is_about_steps_and_tells_those_that_were_passed_too():
    world = World([{"to": "phone", "transitions": ["completed", "assigned -> running"]}])
    world.goes("a", "created", "assigned")
    world.goes("a", "assigned", "running")
    world.goes("a", "running", "completed")

    told = world.told(SECOND, 10 * SECOND, HOUR)

    assert told == ["phone: 2 things: task a is running; task a is completed"]
    assert world.book.causes == {}


def test_two_rules_that_fit_are_one_message_to_the_same_target():
    world = World([{"to": "phone"}, {"to": ["phone"], "transitions": "failed"}])
    world.goes("a", "running", "failed", failure={"kind": "agent", "message": "gave up"})

    assert world.told(SECOND, MINUTE, HOUR) == ["phone: task a has failed"]


def test_a_step_into_something_that_lasts_can_be_escalated_and_ends():
    rule = {"to": "phone", "transitions": "review_pending", "escalate_after": "4h", "resolved": True}
    world = World([rule])
    world.goes("a", "running", "review_pending")
    told = world.told(SECOND, MINUTE, 5 * HOUR)
    world.statuses["a"] = _status(Phase.COMPLETED, world.now)

    assert len(told) == 2
    assert world.told(MINUTE, MINUTE) == ["phone: over: task a is review pending"]


@pytest.mark.parametrize(
    ("rule", "is_told"),
    [
        ({"labels": "team=web"}, True),
        ({"labels": "gpu"}, True),
        ({"labels": "arm"}, False),
        ({"repos": "code"}, True),
        ({"repos": "docs"}, False),
        ({"tasks": "web/*"}, True),
        ({"tasks": "api/*"}, False),
        ({"reasons": "agent"}, True),
        ({"reasons": "auth"}, False),
        ({"transitions": "running -> failed"}, True),
        ({"transitions": "created -> failed"}, False),
        ({"transitions": "failed", "reasons": "agent"}, True),
        ({"transitions": "failed", "reasons": "auth"}, False),
        ({"transitions": "*"}, True),
    ],
)
def test_a_rule_is_about_what_it_names(rule, is_told):
    world = World([{"to": "phone", **rule}])
    world.tasks["web/a"] = {"labels": "team=web", "repo": "code"}
    world.goes("web/a", "running", "failed", failure={"kind": "agent", "message": "gave up"})

    assert bool(world.told(SECOND, MINUTE)) is is_told


def test_the_phases_that_a_step_names_are_checked_against_the_lifecycle():
    assert read_change("running -> failed") == ("running", "failed")
    assert read_change("* → down") == read_change("down")
    assert can_happen(read_change("running -> completed"))
    assert can_happen(read_change("up -> down"))
    assert not can_happen(read_change("completed -> running"))
    assert not can_happen(read_change("running -> down"))
    for text in ("", "runing", "a -> b -> c", "running ->", "Failed"):
        with pytest.raises(ValueError, match=r"expected|did you mean"):
            read_change(text)


def test_a_new_fleet_tells_nothing_of_what_was_before():
    world = World([{"to": "phone"}])
    world.now -= 24 * HOUR
    world.goes_down("gpu1")
    world.fails("a")
    world.now += 25 * HOUR

    assert world.told(SECOND, MINUTE, HOUR) == []
    assert world.book.causes == {}


def test_a_task_that_comes_to_wait_for_what_was_before_says_since_when_that_is_so():
    world = World([{"to": "phone"}])
    world.now -= HOUR
    world.goes_down("gpu1")
    world.now += 2 * HOUR
    world.waits("a", Reason.HOST)

    assert world.told(SECOND, MINUTE) == ["phone: host gpu1 is down"]
    assert "since 2030-01-01T11:00:01Z" in world.body()
    assert "Touches 1 task: a" in world.body()


def test_a_new_rule_tells_nothing_of_what_was_before_it():
    world = World([{"to": "phone", "reasons": "auth"}])
    world.fails("old")
    world.told(SECOND, MINUTE)
    world.rules = [{"to": "phone"}]
    world.told(HOUR)
    world.fails("new")

    assert world.told(MINUTE, MINUTE) == ["phone: task new has failed"]


def test_what_is_for_a_target_that_is_gone_is_dropped():
    world = World([{"to": "phone"}, {"to": "boss"}])
    world.goes_down("gpu1")
    world.told(SECOND, MINUTE)
    world.settings = {"targets": {"boss": {"env": "B"}}}
    world.rules = [{"to": "boss"}]

    world.look(HOUR)

    assert {entry.target for entry in world.book.outbox} == {"boss"}


# --- What cannot be sent ------------------------------------------------------------------------------


def test_what_is_not_taken_is_tried_again_ever_later_and_given_up_after_a_day():
    world = World([{"to": "phone"}])
    world.fails("a")
    world.told(SECOND, MINUTE)
    book, now, waits = world.book, world.now, []
    while entries := to_send(book, now):
        book = undelivered(book, entries[0].number, "it answered with HTTP 404", now)
        if book.outbox:
            waits.append(book.outbox[0].due - now)
            now = book.outbox[0].due

    assert waits[:4] == [10 * SECOND, 20 * SECOND, 40 * SECOND, 80 * SECOND]
    assert max(waits) == 10 * MINUTE
    assert GIVE_UP <= now - world.now <= GIVE_UP + 10 * MINUTE
    reports = target_reports(book, ["phone"])
    assert reports["phone"].counts.dropped == 1
    assert unsent(reports) == {"phone": "messages were given up (1 so far): it answered with HTTP 404"}


def test_a_target_that_takes_nothing_keeps_the_newest_messages_only():
    world = World([{"to": "phone"}])
    for number in range(MOST_WAITING + 5):
        world.fails(f"t{number}")
        world.told(SECOND, 2 * MINUTE)

    titles = [entry.title for entry in world.book.outbox]
    assert len(titles) == MOST_WAITING
    assert titles[0] == "task t5 has failed"
    assert target_reports(world.book, ["phone"])["phone"].counts.dropped == 5


def test_messages_to_one_target_are_sent_in_order_and_one_at_a_time():
    world = World([{"to": ["phone", "boss"]}])
    for name in ("a", "b"):
        world.fails(name)
        world.told(SECOND, 2 * MINUTE)

    first = to_send(world.book, world.now)
    book = delivered(world.book, first[0].number)

    assert [(entry.target, entry.title) for entry in first] == [
        ("boss", "task a has failed"),
        ("phone", "task a has failed"),
    ]
    assert {entry.title for entry in to_send(book, world.now)} == {"task a has failed", "task b has failed"}


# --- Words ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[31mred\x1b[0m\a\r\n\x00 over two lines",
        "[click here](https://evil.example) <https://evil.example|bank>",
        "<!channel> @everyone <@U123> `code` **bold** ~struck~",
        "<script>alert(1)</script> &lt;b&gt;",
        "abc\u202edcba\u200b\ufeff \U000e0041",
        "https://user:hunter2@example.org/x",
    ],
)
def test_what_agents_say_does_nothing_in_a_message(text):
    world = World([{"to": "phone"}])
    world.fails("a", message=text)
    world.told(SECOND, MINUTE)
    why = next(line for line in world.body().splitlines() if line.startswith("Why: "))

    assert not set(why) & set("<>[]*`@|~\\\x1b\r\a\u202e\u200b\ufeff")
    assert "://" not in why
    assert "hunter2" not in why
    assert world.body().count("\n") == 3
    assert inert(text) in why


def test_a_message_about_much_is_short():
    world = World([{"to": "phone"}])
    for number in range(300):
        world.fails(f"t{number:03}", message="x" * 5000)

    [title] = world.told(SECOND, MINUTE)

    assert len(title) < 150
    assert len(world.body()) <= 3500
    assert "and 290 more: reconciler status" in world.body() or world.body().endswith("…")


# --- Whatever happens -------------------------------------------------------------------------------------

_EVENTS = st.sampled_from(["down", "up", "fails", "auth", "waits", "goes on", "nothing"])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(_EVENTS, st.sampled_from("ab"), st.integers(0, 90)), max_size=25),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_whatever_happens_no_beginning_is_told_twice_and_all_of_it_comes_to_rest(
    events, resolved, urgent, is_quiet
):
    world = World(
        [{"to": "phone", "resolved": resolved, "urgent": urgent, "escalate_after": "10m"}],
        {"quiet": ["12:05-12:20"] if is_quiet else []},
    )
    world.look()
    happen = {
        "down": lambda name: world.goes_down(f"host{name}"),
        "up": lambda name: world.comes_up(f"host{name}"),
        "fails": world.fails,
        "auth": lambda name: world.fails(name, "auth"),
        "goes on": lambda name: world.statuses.pop(name, None),
        "waits": lambda name: world.waits(name, Reason.HOST),
        "nothing": lambda _: None,
    }
    for event, name, seconds in events:
        happen[event](name)
        world.look(seconds * SECOND + SECOND)
        for key, cause in world.book.causes.items():
            kinds = Counter((notice.target, notice.kind) for notice in cause.notices)
            assert max(kinds.values(), default=0) <= 1, key

    # Everything that is so is told, and after that nothing happens any more.
    due = world.now
    for _ in range(50):
        due = next_change(world.book.model_copy(update={"outbox": ()}), world.spec, "UTC", world.now)
        if due is None:
            break
        world.look(max(due - world.now, timedelta()))
    assert due is None
    open_keys = {signal.cause.key for signal in current_signals(world.fleet) if signal.needs_person}
    assert open_keys == set(world.book.causes)
    assert all(notice.sent for cause in world.book.causes.values() for notice in cause.notices)
    still = world.book
    world.look(timedelta())
    assert world.book == still
