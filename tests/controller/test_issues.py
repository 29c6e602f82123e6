"""Issues and comments end up in the specs once, whatever fails in between."""

import asyncio
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from reconciler import clock
from reconciler.controller.issues import IssueController
from reconciler.core.adapter import Secret
from reconciler.core.errors import Conflict, ReconcilerError, Unavailable
from reconciler.core.events import Origin, PullRequestOpened
from reconciler.core.lifecycle import Transition, transition
from reconciler.core.model.forge import Issue, ManagedComment, PullRequestSnapshot
from reconciler.core.model.specs import Desired, FleetSpec, Forge, Host, IssueRules, Repo, TaskSpec
from reconciler.core.model.status import Phase, PullRequest, Status
from reconciler.git.objects import GitTree
from reconciler.git.repository import Repository
from reconciler.specs.edit import edit
from reconciler.specs.parse import read_task
from reconciler.specs.source import SpecSource
from reconciler.store.bot_commits import BotCommitter
from tests.fakes import START, FakeForges, make_task
from tests.statuses import make_status

SEVEN = "specs/tasks/issues/calc-7.yaml"
NAME = "issues/calc-7"


def url(number: int) -> str:
    return f"https://forge.example.org/tools/calc/issues/{number}"


def issue(number: int = 7, **fields: object) -> Issue:
    known = {"url": url(number), "title": "Add", "body": "Add.", "author": "ann", "labels": ("agent",)}
    return Issue(**{"number": number, "updated_at": START, **known, **fields})


@dataclass
class Board(FakeForges):
    """Forges of which some conversations take no answers."""

    locked: set[int] = field(default_factory=set)

    async def upsert_comment(self, forge: Forge, number: int, note: ManagedComment, *, on_pull: bool) -> bool:
        if number in self.locked:
            raise Unavailable("the conversation is locked")
        return await super().upsert_comment(forge, number, note, on_pull=on_pull)


@dataclass
class Branch:
    """A branch with specs in memory."""

    content: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    touched: dict[str, datetime] = field(default_factory=dict)
    """When people last changed files."""
    is_down: bool = False
    meanwhile: list[dict[str, str]] = field(default_factory=list)
    """What somebody else commits just before the next writes."""

    async def files(self, under: str) -> tuple[str, Mapping[str, str]]:
        found = {path: text for path, text in self.content.items() if path.startswith(under)}
        return str(len(self.log)), found

    async def put(
        self,
        files: Mapping[str, str | None],
        message: str,
        *,
        made_from: str | None = None,
        branch: str | None = None,
    ) -> str:
        if self.is_down:
            raise Unavailable("disk full")
        if self.meanwhile:
            self.content |= self.meanwhile.pop(0)
            raise Conflict("somebody was first")
        assert made_from == str(len(self.log))
        assert files.items() - self.content.items()
        self.content |= files
        self.log.append(message)
        return str(len(self.log))

    async def has_told(self, trailer: str, value: str, since: datetime) -> bool:
        return any(f"{trailer}: {value}" in message.split("\n") for message in self.log)

    async def touched_at(self, path: str, *, apart_from: str) -> datetime | None:
        return self.touched.get(path)


@dataclass
class Office:
    """What the intake sees of the loop."""

    desired: Desired
    statuses: dict[str, Status] = field(default_factory=dict)


def fleet(*authors: str, **repos: str) -> Desired:
    secret = Secret(env="TOKEN")
    places = repos or {"calc": "tools/calc"}
    return Desired(
        revision="1" * 40,
        fleet=FleetSpec(issues=IssueRules(authors=authors or ("Ann",))),
        repos={
            name: Repo(
                name=name,
                url="https://x",
                forge=Forge(api="https://forge.example.org/api/v1", repo=place, token=secret),
            )
            for name, place in places.items()
        },
        hosts={"local": Host(name="local"), "gpu-1": Host(name="gpu-1")},
    )


@dataclass
class Scene:
    forges: Board = field(default_factory=Board)
    branch: Branch = field(default_factory=Branch)
    office: Office = field(default_factory=lambda: Office(fleet()))

    def __post_init__(self) -> None:
        self.site = self.forges.at(self.office.desired.repos["calc"].forge)
        self.restart()

    def restart(self) -> None:
        """Forget everything that is only in memory."""
        self.issue_controller = IssueController(
            self.forges, self.branch, self.office, clock.now, read_task, edit
        )

    def add(self, *issues: Issue) -> None:
        self.site.issues |= {each.number: each for each in issues}

    def write(self, body: str, number: int = 7, *, ago: timedelta = timedelta(0), **fields: str) -> None:
        """Write a comment."""
        self.site.comment(number, body, **fields)
        self.site.comments[-1] = replace(self.site.comments[-1], created_at=self.site.now - ago)

    @property
    def answers(self) -> list[str]:
        return [comment.body for comment in self.site.comments if comment.key]

    async def look(self) -> None:
        with suppress(ReconcilerError):  # the poller says so in the log
            await self.issue_controller.poll(self.office.desired.repos["calc"])

    def is_on_record(self, phase: Phase, name: str = NAME, **fields: object) -> None:
        known = {"since": START, "created_at": START, "generation": "a" * 40, "work": "b" * 12}
        self.office.statuses[name] = make_status(phase, **{"repo": "calc", **known, **fields})

    def spec(self, path: str = SEVEN) -> TaskSpec:
        return read_task(path, self.branch.content[path])


@pytest.fixture
def scene() -> Scene:
    return Scene()


# --- Issues ----------------------------------------------------------------


async def test_labelled_issues_of_allowed_people_become_tasks_in_one_commit(scene):
    scene.add(
        issue(7, title="Add\nForge-Comment: calc/1"),
        issue(8, author="ANN"),
        issue(9, author="eve"),
        issue(10, labels=("bug",)),
        issue(11, state="closed"),
    )

    await scene.look()

    assert sorted(scene.branch.content) == [SEVEN, "specs/tasks/issues/calc-8.yaml"]
    assert scene.spec().issue == url(7)
    assert scene.branch.log == [
        f"""\
Follow 2 issues of calc

Take up issues/calc-7: Add Forge-Comment: calc/1
Take up issues/calc-8: Add

Issue: {url(7)}
Issue-Author: ann
Issue: {url(8)}
Issue-Author: ANN
"""
    ]


async def test_a_quiet_forge_makes_no_commit_and_an_edited_issue_makes_one(scene):
    scene.add(issue())
    await scene.look()
    await scene.look()
    scene.restart()
    await scene.look()
    assert len(scene.branch.log) == 1

    scene.add(issue(body="Subtract."))
    await scene.look()

    assert scene.spec().goal == "Subtract."
    assert scene.branch.log[1] == f"Update {NAME}: Add\n\nIssue: {url(7)}\nIssue-Author: ann\n"


@pytest.mark.parametrize("gone", ["closed", "unlabelled", "deleted"])
async def test_an_issue_that_is_gone_cancels_its_task_and_brings_it_back(scene, gone):
    scene.add(issue())
    await scene.look()
    before = scene.branch.content[SEVEN]
    left = {"closed": issue(state="closed"), "unlabelled": issue(labels=())}.get(gone)
    scene.site.issues = {7: left} if left else {}
    scene.is_on_record(Phase.RUNNING)

    await scene.look()
    await scene.look()
    assert scene.spec().desired == "cancelled"
    assert scene.branch.log[1:] == [f"Cancel {NAME}: its issue is gone\n\nIssue: {url(7)}\n"]

    scene.add(issue())
    await scene.look()
    assert scene.branch.content[SEVEN] == before


async def test_a_label_that_was_deleted_or_renamed_cancels_no_task(scene):
    scene.add(issue())
    await scene.look()
    scene.site.issues = {7: issue(labels=())}
    scene.is_on_record(Phase.RUNNING)
    scene.forges.deleted_labels = {"agent"}
    await scene.look()
    before = scene.spec().desired

    scene.forges.deleted_labels = set()
    await scene.look()

    assert before != "cancelled"
    assert scene.spec().desired == "cancelled"


async def test_an_issue_that_only_slipped_out_of_the_list_cancels_nothing(scene, monkeypatch):
    scene.add(issue())
    await scene.look()

    async def nothing(forge: Forge, label: str) -> list[Issue]:
        return []

    monkeypatch.setattr(scene.forges, "issues", nothing)
    await scene.look()

    assert len(scene.branch.log) == 1


@pytest.mark.parametrize("phase", [Phase.COMPLETED, Phase.FAILED, Phase.ESCALATED])
async def test_a_settled_task_does_not_care_about_its_issue(scene, phase):
    scene.add(issue())
    await scene.look()
    scene.add(issue(state="closed"))
    scene.is_on_record(phase)

    await scene.look()

    assert len(scene.branch.log) == 1


async def test_a_task_that_somebody_asked_for_after_its_issue_was_closed_goes_on(scene):
    scene.add(issue())
    await scene.look()
    scene.add(issue(state="closed", closed_at=START, updated_at=START + timedelta(hours=9)))
    scene.is_on_record(Phase.RUNNING)
    scene.branch.touched[SEVEN] = START + timedelta(hours=1)

    await scene.look()

    assert len(scene.branch.log) == 1


@pytest.mark.parametrize(
    ("pull", "is_merged", "is_cancelled"), [(9, True, False), (9, False, True), (None, False, False)]
)
async def test_a_merge_that_closes_the_issue_does_not_cancel_the_task(scene, pull, is_merged, is_cancelled):
    scene.add(issue())
    await scene.look()
    scene.add(issue(state="closed"))
    request = {"number": pull, "url": "u"} if pull else None
    scene.is_on_record(Phase.REVIEW_PENDING, branch_name="task/x", pull_request=request)
    scene.site.pulls[9] = PullRequestSnapshot(
        number=9,
        url="u",
        title="t",
        body="",
        author="bot",
        branch="task/x",
        base="main",
        head="c" * 40,
        state="closed",
        is_merged=is_merged,
        updated_at=START,
    )

    await scene.look()

    assert (scene.spec().desired == "cancelled") == is_cancelled


async def test_an_edit_of_a_person_at_the_same_time_is_kept(scene):
    scene.add(issue())
    await scene.look()
    scene.add(issue(body="Subtract."))
    scene.branch.meanwhile.append({SEVEN: f"{scene.branch.content[SEVEN]}priority: 5\n"})

    await scene.look()

    assert (scene.spec().goal, scene.spec().priority) == ("Subtract.", 5)


async def test_a_file_that_is_broken_keeps_no_other_issue_waiting(scene):
    scene.add(issue(7), issue(8))
    await scene.look()
    scene.branch.content[SEVEN] += "][\n"
    scene.add(issue(7, body="New."), issue(8, body="New."))

    await scene.look()

    assert scene.spec("specs/tasks/issues/calc-8.yaml").goal == "New."
    assert scene.branch.content[SEVEN].endswith("][\n")


async def test_nothing_is_lost_in_an_outage_of_the_forge_or_of_the_branch(scene):
    scene.add(issue())
    scene.write("/agent model m")
    scene.forges.away = True
    await scene.look()
    scene.forges.away, scene.branch.is_down = False, True
    await scene.look()
    assert (scene.branch.log, scene.answers) == ([], [])
    scene.branch.is_down = False

    await scene.look()

    assert scene.spec().model == "m"
    assert len(scene.answers) == 1


# --- Comments --------------------------------------------------------------


@pytest.fixture
async def taken_up(scene) -> Scene:
    scene.add(issue())
    await scene.look()
    scene.is_on_record(Phase.FAILED)
    return scene


async def test_a_command_edits_the_task_once_and_is_answered_once(taken_up):
    taken_up.write("/agent retry\nit was the network")

    for _ in range(3):
        await taken_up.look()
    taken_up.restart()
    await taken_up.look()

    assert taken_up.spec().rerun == 1
    assert taken_up.branch.log[1:] == [
        f"""\
Retry {NAME}

ann asks for it in a comment on calc#7.

Forge-Comment: calc/1
Forge-Author: ann
"""
    ]
    assert taken_up.answers == [f"Task `{NAME}` is asked for once more."]


async def test_a_comment_of_an_allowed_person_answers_a_question_and_the_second_is_told(taken_up):
    question = {"id": "q1-1", "text": "Which one?", "asked_at": START}
    taken_up.is_on_record(Phase.CREATED, questions=[question])
    taken_up.write("/agent answer q1-1 Drop it all", author="eve")
    taken_up.write("/agent answer q1-1 B,\nbecause <!-- hidden --> it is new")
    taken_up.write("/agent answer A")
    taken_up.write("/agent answer q0-1 A")

    await taken_up.look()

    assert taken_up.spec().answer.text == "B,\nbecause  it is new"
    assert [message.split("\n")[0] for message in taken_up.branch.log[1:]] == [
        f"Answer {NAME}: B, because it is new"
    ]
    done, second, stale = taken_up.answers
    assert done == f"Task `{NAME}` goes on with the answer."
    assert "is answered already: B, because it is new; the first answer counts" in second
    assert "asks q1-1 by now, and not q0-1" in stale


async def test_a_crash_between_commit_and_answer_follows_nothing_twice(taken_up):
    taken_up.write("/agent retry")
    taken_up.forges.locked.add(7)
    await taken_up.look()
    assert taken_up.answers == []

    taken_up.restart()
    taken_up.forges.locked.clear()
    await taken_up.look()

    assert taken_up.spec().rerun == 1
    assert taken_up.answers == [f"Task `{NAME}` is asked for once more."]


async def test_a_conversation_that_takes_no_answer_keeps_no_other_waiting(taken_up):
    taken_up.forges.locked.add(7)
    taken_up.write("/agent retry", 7)
    taken_up.add(issue(8))
    taken_up.write("/agent model m", 8)

    await taken_up.look()
    await taken_up.look()
    taken_up.forges.locked.clear()
    await taken_up.look()

    assert taken_up.spec("specs/tasks/issues/calc-8.yaml").model == "m"
    assert len(taken_up.answers) == 2
    assert len(taken_up.branch.log) == 4


async def test_several_commands_are_followed_in_order(taken_up):
    for line in ("cancel", "retry", "model a", "model b", "host gpu-1"):
        taken_up.write(f"/agent {line}")

    await taken_up.look()

    spec = taken_up.spec()
    assert (spec.desired, spec.rerun, spec.model, spec.prefer) == ("active", 1, "b", ("gpu-1",))
    assert len(taken_up.answers) == 5


async def test_others_are_not_followed_and_counted_once(taken_up):
    taken_up.write("/agent cancel", author="eve")
    taken_up.write("/agent cancel", author="bot", key="plan")
    taken_up.write("what about /agent cancel ?")

    await taken_up.look()
    await taken_up.look()

    assert len(taken_up.branch.log) == 1
    assert len(taken_up.answers) == 1  # the one that was there
    assert taken_up.issue_controller.ignored == 1


@pytest.mark.parametrize("author", ["\u212aate", "Kat\u0435", "kate "])
async def test_a_name_that_looks_like_an_allowed_one_is_another(author):
    scene = Scene(office=Office(fleet("Kate")))
    scene.add(issue(7, author="kate"), issue(8, author=author))
    scene.write("/agent cancel", author=author)

    await scene.look()

    assert list(scene.branch.content) == [SEVEN]
    assert (scene.spec().desired, scene.issue_controller.ignored) == ("active", 1)


async def test_a_comment_of_the_future_keeps_no_later_one_from_being_followed(taken_up):
    taken_up.write("hello", ago=timedelta(days=-3650))
    await taken_up.look()
    taken_up.write("/agent model a")

    await taken_up.look()

    assert taken_up.spec().model == "a"


async def test_the_standing_is_told_once_and_not_again_when_it_changes(taken_up):
    taken_up.write("/agent status")

    await taken_up.look()
    taken_up.is_on_record(Phase.COMPLETED)
    taken_up.restart()
    await taken_up.look()

    assert taken_up.answers == [f"Task `{NAME}` is **failed**.\n\n- last run on `local`"]
    assert len(taken_up.branch.log) == 1


async def test_a_comment_on_the_pull_request_of_a_task_is_about_that_task(taken_up):
    path = "specs/tasks/web/fix.yaml"
    taken_up.branch.content[path] = "goal: g  # mine\n"
    taken_up.is_on_record(Phase.REVIEW_PENDING, "web/fix", pull_request={"number": 12, "url": "u"})
    taken_up.write("/agent cancel", 12)

    await taken_up.look()

    assert taken_up.branch.content[path] == "goal: g  # mine\ndesired: cancelled\n"


@pytest.mark.parametrize(
    ("line", "number", "why"),
    [
        ("retry", 99, "no task belongs to this"),
        ("dance", 7, "'/agent dance' is no command"),
        ("host cpu", 7, "there is no host 'cpu'; there are: gpu-1, local"),
    ],
)
async def test_what_cannot_be_done_is_answered_with_why_and_with_what_can(taken_up, line, number, why):
    taken_up.write(f"/agent {line}", number)

    await taken_up.look()

    assert len(taken_up.branch.log) == 1
    assert taken_up.answers[0].startswith(f"Nothing was changed: `{why}`")
    assert "/agent status" in taken_up.answers[0]


async def test_a_command_on_a_pull_request_that_is_being_opened_waits_until_that_is_on_record(taken_up):
    path = "specs/tasks/web/fix.yaml"
    taken_up.branch.content[path] = "goal: g\n"
    taken_up.is_on_record(Phase.REVIEW_PENDING, "web/fix")
    taken_up.write("/agent cancel", 12)

    await taken_up.look()
    before = list(taken_up.answers)
    taken_up.is_on_record(Phase.REVIEW_PENDING, "web/fix", pull_request={"number": 12, "url": "u"})
    await taken_up.look()

    assert before == []
    assert taken_up.branch.content[path] == "goal: g\ndesired: cancelled\n"
    assert len(taken_up.answers) == 1


async def test_such_a_command_is_followed_as_soon_as_that_is_on_record(taken_up):
    controller, request = taken_up.issue_controller, PullRequest(number=12, url="u")
    taken_up.is_on_record(Phase.REVIEW_PENDING, "web/fix")
    before = taken_up.office.statuses["web/fix"]
    opened = PullRequestOpened(task="web/fix", origin=Origin(START, "opened", cause="webhook"), pull=request)
    step = Transition("web/fix", before, transition(before, opened), opened)
    controller.poller.due["calc"] = later = START + timedelta(hours=1)
    controller.on_step(step)
    idle = controller.poller.due.get("calc")
    taken_up.write("/agent cancel", 12)
    await taken_up.look()

    controller.on_step(step)

    assert idle == later
    assert "calc" not in controller.poller.due  # one that is missing is polled at once


async def test_a_command_of_yesterday_is_followed_after_a_start_and_an_older_one_is_not(scene):
    scene.add(issue())
    scene.write("/agent model old", ago=timedelta(hours=30))
    scene.write("/agent model new", ago=timedelta(hours=20))

    await scene.look()

    assert scene.spec().model == "new"
    assert len(scene.answers) == 1


async def test_a_task_that_names_an_issue_is_commanded_there(taken_up):
    path = "specs/tasks/fix.yaml"
    taken_up.branch.content[path] = "goal: g\n"
    task = make_task("fix", repo="calc", issue="12")
    taken_up.office.desired = replace(taken_up.office.desired, tasks={"fix": task})
    taken_up.write("/agent model m", 12)

    await taken_up.look()

    assert taken_up.spec(path).model == "m"


# --- With a real branch ----------------------------------------------------


def git(*args: object) -> list[str]:
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", *who, *args], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


async def test_on_a_real_branch_issue_and_commands_become_commits_that_the_specs_are_read_from(
    scene, tmp_path
):
    place = tmp_path / "fleet"
    git("init", "-q", "-b", "main", place)
    git("-C", place, "commit", "-q", "--allow-empty", "-m", "x")
    scene.add(issue(body="Add.\n## Checks\n- `make test`\n"))
    scene.write("/agent cancel")
    scene.write("/agent retry")

    async with await Repository.open(str(place), tmp_path) as repository:
        for _ in range(2):
            bot = BotCommitter(repository, "main")
            scene.issue_controller = IssueController(
                scene.forges, bot, scene.office, clock.now, read_task, edit
            )
            await scene.look()
            scene.site.comments = [
                each for each in scene.site.comments if not each.key
            ]  # as if never answered
        desired = await SpecSource(GitTree(repository, "main")).read({})

    log = git("-C", place, "log", "--reverse", "--format=%s")
    assert log == ["x", f"Take up {NAME}: Add", f"Cancel {NAME}", f"Retry {NAME}"]
    task = desired.tasks[NAME]
    assert (task.goal, task.validation, task.desired, task.rerun) == ("Add.", ("make test",), "active", 1)


async def test_a_command_waits_for_an_edit_of_its_issue_that_came_before_it(scene):
    scene.add(issue())
    read = scene.forges.issues

    async def issues(forge: Forge, label: str) -> Sequence[Issue]:
        found = await read(forge, label)
        if not scene.site.comments:  # both come while the issues are read
            scene.add(issue(body="Multiply."))
            scene.write("/agent model small")
        return found

    scene.forges.issues = issues
    await scene.look()
    first = scene.spec()
    await scene.look()
    second = scene.spec()

    assert (first.goal, first.model) == ("Add.", None)
    assert (second.goal, second.model) == ("Multiply.", "small")


# --- When ------------------------------------------------------------------


async def test_repos_are_looked_at_from_time_to_time_and_at_once_when_notified(scene):
    looks: asyncio.Queue[None] = asyncio.Queue()
    waits: asyncio.Queue[timedelta] = asyncio.Queue()

    async def pause(news: asyncio.Event, longest: timedelta) -> None:
        waits.put_nowait(longest)
        await news.wait()

    async def issues(forge: Forge, label: str) -> list[Issue]:
        looks.put_nowait(None)
        return []

    scene.forges.issues = issues
    scene.office.desired = fleet(calc="tools/calc", twin="Tools/Calc")
    poller = scene.issue_controller.poller
    work = asyncio.create_task(poller.run(pause))
    await looks.get()
    while await waits.get() != timedelta(minutes=1):
        pass

    poller.notify(["calc"])
    await looks.get()
    poller.notify(poller.subjects())
    await looks.get()

    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert looks.empty()


async def test_repos_of_new_specs_are_looked_at_at_once(scene):
    waits, looks = asyncio.Queue[None](), asyncio.Queue[str]()

    async def pause(news: asyncio.Event, _: timedelta) -> None:
        waits.put_nowait(None)
        await news.wait()

    async def issues(forge: Forge, label: str) -> list[Issue]:
        looks.put_nowait(forge.repo)
        return []

    scene.forges.issues = issues
    scene.office.desired = Desired()  # nothing was read so far
    poller = scene.issue_controller.poller
    work = asyncio.create_task(poller.run(pause))
    await waits.get()

    scene.office.desired = fleet(calc="tools/calc")
    poller.notify()

    assert await looks.get() == "tools/calc"
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


async def test_without_rules_for_issues_no_forge_is_asked(scene):
    waits: asyncio.Queue[timedelta | None] = asyncio.Queue()

    async def pause(news: asyncio.Event, longest: timedelta | None) -> None:
        waits.put_nowait(longest)
        await asyncio.sleep(0)

    scene.add(issue())
    scene.office.desired = replace(scene.office.desired, fleet=FleetSpec())

    work = asyncio.create_task(scene.issue_controller.poller.run(pause))
    longest = [await waits.get() for _ in range(3)]
    await scene.look()
    work.cancel()

    assert longest == [timedelta(minutes=1)] * 3
    assert scene.branch.log == []
