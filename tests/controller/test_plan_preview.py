"""A pull request against the specs shows what it would do, once for each change of that."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from reconciler.controller import plan_preview
from reconciler.controller.plan_preview import PlanPreview
from reconciler.core.adapter import Secret
from reconciler.core.errors import Conflict, NotFound, Problem, Unavailable
from reconciler.core.model.forge import PullRequestSnapshot
from reconciler.core.model.specs import FLEET_FORGE, Desired, FleetSpec, Forge
from reconciler.core.model.status import Phase, Status
from reconciler.core.planning.preview import difference
from tests.fakes import START, FakeForges, make_desired, make_task
from tests.statuses import make_status

FORGE = Forge(api="https://forge.example.org/api/v1", repo="ops/fleet", token=Secret(env="TOKEN"))
FLEET = FleetSpec(forge=FORGE)
HEAD, BASE = "c" * 40, "1" * 40


@dataclass
class Scene:
    forges: FakeForges = field(default_factory=FakeForges)
    desired: Desired = field(default_factory=lambda: make_desired(make_task("a"), fleet=FLEET, revision=BASE))
    statuses: dict[str, Status] = field(default_factory=dict)
    hosts: dict[str, object] = field(default_factory=dict)
    damaged: dict[str, Problem] = field(default_factory=dict)
    heads: dict[str, Desired | Exception] = field(default_factory=dict)
    fetched: list[list[int]] = field(default_factory=list)
    reads: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.site = self.forges.at(FORGE)
        self.restart()

    def restart(self) -> None:
        self.preview = PlanPreview(self.forges, self.read, self.fetch, self, "main", lambda: START)

    async def look(self) -> None:
        """Take a look, if it is time for one, as it always is here."""
        self.preview.poller.notify([FLEET_FORGE])
        self.preview.poller.poll_due(START)
        await asyncio.gather(*self.preview.poller.running.values())

    async def fetch(self, pulls: Sequence[PullRequestSnapshot]) -> None:
        self.fetched.append([pull.number for pull in pulls])

    async def read(self, pull: PullRequestSnapshot, base: str) -> Desired:
        self.reads.append((pull.head, base))
        found = self.heads[pull.head]
        if isinstance(found, Exception):
            raise found
        return found

    def open(self, number: int, head: str, specs: Desired | Exception, base: str = "main") -> None:
        self.heads[head] = specs
        self.site.pulls[number] = PullRequestSnapshot(
            number=number,
            url="u",
            title="t",
            body="",
            author="ann",
            branch=f"side-{number}",
            base=base,
            head=head,
            updated_at=START,
        )

    @property
    def shown(self) -> dict[int, str]:
        return {comment.number: comment.body for comment in self.site.comments if comment.key == "plan"}

    @property
    def lights(self) -> dict[str, tuple[str, str]]:
        return {
            commit: said
            for (commit, context), said in self.site.lights.items()
            if context == "reconciler/plan"
        }


@pytest.fixture
def scene() -> Scene:
    return Scene()


def specs(*names: str, revision: str = "2" * 40, **fields: object) -> Desired:
    return make_desired(*(make_task(name) for name in names), fleet=FLEET, revision=revision, **fields)


async def test_what_a_pull_request_would_do_is_a_comment_and_a_status_of_its_head(scene):
    scene.open(4, HEAD, specs("a", "b"))
    scene.open(5, "d" * 40, specs("x"), base="release")

    await scene.look()

    assert list(scene.shown) == [4]
    assert "start  b  local" in scene.shown[4]
    assert scene.lights == {HEAD: ("success", "start 1")}
    assert scene.reads == [(HEAD, BASE)]


async def test_nothing_is_said_again_while_it_stays_the_same(scene, monkeypatch):
    said = []
    say = scene.forges.upsert_comment

    async def counted(forge, number, note, *, on_pull):
        said.append(number)
        return await say(forge, number, note, on_pull=on_pull)

    monkeypatch.setattr(scene.forges, "upsert_comment", counted)
    scene.open(4, HEAD, specs("a", "b"))
    await scene.look()
    await scene.look()
    assert (said, len(scene.reads)) == ([4], 1)

    scene.open(4, "d" * 40, specs("a", "b", "c"))
    await scene.look()

    assert (said, len(scene.reads)) == ([4, 4], 2)
    assert len(scene.shown) == 1
    assert "wait   c" in scene.shown[4]


async def test_plans_do_not_wait_for_each_other_at_the_forge(scene, monkeypatch):
    heads = [f"{number:040x}" for number in range(10, 19)]
    for number, head in enumerate(heads):
        scene.open(number, head, specs("a", f"b{number}"))
    under_way, most, say = set(), 0, scene.forges.upsert_comment

    async def slow(forge, number, note, *, on_pull):
        nonlocal most
        under_way.add(number)
        for _ in range(5):  # so that others may come
            await asyncio.sleep(0)
        most = max(most, len(under_way))
        under_way.discard(number)
        return await say(forge, number, note, on_pull=on_pull)

    monkeypatch.setattr(scene.forges, "upsert_comment", slow)
    await scene.look()

    assert sorted(scene.shown) == list(range(len(heads)))
    assert scene.fetched == [list(range(len(heads)))]
    assert 1 < most <= plan_preview.AT_ONCE  # how many meet depends on threads that read


async def test_it_follows_what_happens_meanwhile(scene):
    scene.open(4, HEAD, specs("b"))
    await scene.look()
    assert "**Not any more:**" in scene.shown[4]

    scene.desired = replace(scene.desired, revision="3" * 40, tasks={})
    await scene.look()

    assert "**Not any more:**" not in scene.shown[4]
    assert scene.reads == [(HEAD, BASE), (HEAD, "3" * 40)]


async def test_a_live_run_that_would_be_stopped_is_named(scene):
    running = make_task("a")
    scene.statuses["a"] = make_status(
        phase=Phase.RUNNING,
        since=START,
        created_at=START,
        generation=running.generation,
        work=running.work,
        attempt=1,
        round=1,
        run="a.gx.a1",
        assigned_host="local",
    )
    gone = make_desired(make_task("a", desired="cancelled"), fleet=FLEET, revision="2" * 40)
    scene.open(4, HEAD, gone)

    await scene.look()

    assert "stop  a" in scene.shown[4]
    assert scene.statuses["a"].phase is Phase.RUNNING


async def test_what_cannot_be_merged_has_no_plan_and_says_why(scene):
    scene.open(4, HEAD, Conflict("it changes the same as others did meanwhile: specs/tasks/a.yaml"))

    await scene.look()
    await scene.look()

    assert "There is none: `it changes the same" in scene.shown[4]
    assert scene.lights == {HEAD: ("failure", "no plan: conflicts")}


async def test_one_that_cannot_be_read_now_keeps_no_other_waiting_and_is_shown_later(scene):
    scene.open(3, "d" * 40, Unavailable("the remote does not answer"))
    scene.open(4, HEAD, specs("a", "b"))
    await scene.look()
    assert list(scene.shown) == [4]

    scene.heads["d" * 40] = specs("a")
    await scene.look()

    assert "No task is touched." in scene.shown[3]


async def test_a_forge_that_is_away_is_asked_again(scene):
    scene.open(4, HEAD, specs("a", "b"))
    scene.forges.away = True
    await scene.look()
    assert scene.shown == {}

    scene.forges.away = False
    await scene.look()

    assert list(scene.shown) == [4]


async def test_after_a_start_what_is_there_already_stays_one_comment(scene):
    scene.open(4, HEAD, specs("a", "b"))
    await scene.look()
    before = list(scene.site.comments)

    scene.restart()
    await scene.look()

    assert scene.site.comments == before


async def test_nothing_is_asked_without_a_forge_or_before_the_specs_were_read(scene):
    scene.open(4, HEAD, specs("a", "b"))
    for fields in ({"fleet": FleetSpec()}, {"revision": ""}):
        full = scene.desired
        scene.desired = replace(full, **fields)
        await scene.look()
        scene.desired = full

    assert (scene.shown, scene.reads) == ({}, [])


async def test_it_looks_from_time_to_time_and_at_once_when_notified(scene):
    waits: asyncio.Queue[timedelta] = asyncio.Queue()

    async def pause(news: asyncio.Event, longest: timedelta) -> None:
        waits.put_nowait(longest)
        await news.wait()

    poller = scene.preview.poller
    work = asyncio.create_task(poller.run(pause))
    assert await waits.get() == FLEET.forge_interval

    scene.open(4, HEAD, specs("a", "b"))
    poller.notify([FLEET_FORGE])
    while not scene.shown:
        await waits.get()
    work.cancel()

    assert list(scene.shown) == [4]


async def test_a_pull_request_that_nobody_can_read_keeps_no_other_waiting(scene, caplog):
    scene.open(1, "a" * 40, RecursionError("too deep"))
    scene.open(2, HEAD, make_desired(make_task("a"), make_task("b"), fleet=FLEET))

    await scene.look()

    assert "There is none: `a bug of the reconciler" in scene.shown[1]
    assert scene.lights["a" * 40] == ("failure", "no plan: a bug of the reconciler")
    assert "start  b" in scene.shown[2]
    assert "there is no plan on pull request 1" in caplog.text


async def test_a_mistake_at_one_look_is_told_and_the_next_look_is_taken(scene, caplog):
    looks = []

    async def open_pulls(*_):
        looks.append(1)
        raise ZeroDivisionError("oddly")

    async def pause(news: asyncio.Event, _: timedelta) -> None:
        await news.wait()

    scene.forges.open_pulls = open_pulls
    poller = scene.preview.poller
    work = asyncio.create_task(poller.run(pause))
    for _ in range(10):
        await asyncio.sleep(0)
    poller.notify([FLEET_FORGE])
    for _ in range(10):
        await asyncio.sleep(0)
    work.cancel()

    assert len(looks) == 2
    assert "ZeroDivisionError: oddly" in caplog.text


async def test_the_specs_of_an_open_pull_request_are_to_be_had_by_its_number(scene):
    scene.open(4, HEAD, specs("a", "b"))
    await scene.look()

    assert {*(await scene.preview.specs_of(4)).tasks} == {"a", "b"}
    assert scene.reads == [(HEAD, BASE)]
    with pytest.raises(NotFound, match="#5"):
        await scene.preview.specs_of(5)


async def test_a_revert_of_the_last_tasks_says_that_it_waits_for_approval(scene):
    names = [f"t{number}" for number in range(4)]
    scene.desired = specs(*names, revision=BASE)
    for name in names:
        task = scene.desired.tasks[name]
        scene.statuses[name] = make_status(
            phase=Phase.COMPLETED, since=START, created_at=START, generation=task.generation, work=task.work
        )
    scene.open(4, HEAD, specs())

    await scene.look()

    state, description = scene.lights[HEAD]
    assert (state, description) == ("success", "4 removals would wait for approve-prune, wait 4")
    assert (
        "**The removal of 4 tasks would wait** for a person: `reconciler approve-prune` (" in scene.shown[4]
    )


async def test_the_errors_of_broken_specs_are_there_with_file_and_line_and_go_when_they_are_fixed(scene):
    wrong = Problem("specs/tasks/a.yaml", 3, 7, "unknown field", "gaol", "goal")
    scene.open(4, HEAD, specs("a", problems=(wrong,)))
    await scene.look()
    assert "specs/tasks/a.yaml:3:7: error: gaol: unknown field" in scene.shown[4]
    assert scene.lights[HEAD][0] == "failure"

    scene.open(4, "d" * 40, specs("a"))
    await scene.look()

    assert "Wrong in the specs" not in scene.shown[4]
    assert scene.lights["d" * 40] == ("success", "no task is touched")


async def test_when_the_base_moves_every_plan_is_made_anew_and_the_comment_stays_one(scene):
    for number in range(1, 21):
        scene.open(number, f"{number:040x}", specs("a", f"b{number}"))
    await scene.look()
    assert len(scene.reads) == 20
    before = len(scene.site.comments)

    scene.desired = replace(scene.desired, revision="9" * 40, tasks={})
    await scene.look()

    assert len(scene.reads) == 40
    assert {base for _, base in scene.reads[20:]} == {"9" * 40}
    assert len(scene.site.comments) == before == 20


async def test_of_many_that_do_not_move_a_few_are_made_anew_at_each_look_in_turn(scene, monkeypatch):
    for number in range(1, 21):
        scene.open(number, f"{number:040x}", specs("a", f"b{number}"))
    await scene.look()
    made = []
    monkeypatch.setattr(
        plan_preview, "difference", lambda base, head: made.append(head) or difference(base, head)
    )

    for _ in range(3):
        await scene.look()

    seen = [key[1] for head in made for key in head.lines if key[1].startswith("b")]
    assert (len(seen), len(set(seen))) == (24, 20)


async def test_text_of_specs_is_no_markdown_and_nobody_is_mentioned(scene):
    evil = "``` @ann closes #1 <!-- reconciler:plan --> [x](http://evil) \u202e"
    wrong = Problem(f"specs/tasks/{evil}.yaml", 1, 1, evil)
    scene.open(4, HEAD, specs("a", problems=(wrong,)))

    await scene.look()

    text = scene.shown[4]
    fences = [line for line in text.splitlines() if line.startswith("```")]
    assert fences == ["````text", "````"]
    outside = text[: text.index("````text")] + text[text.rindex("````") :]
    assert "@ann" not in outside
    assert "#1" not in outside
    assert "<!--" not in text
    assert "\u202e" not in text
