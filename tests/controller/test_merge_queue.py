"""
Merge queues with real git and real validations: what lands, what goes back, and what survives a crash.

The forge is a fake, whose branches are those of a real repository.
"""

import asyncio
from dataclasses import dataclass, field

import pytest

from reconciler.api.metrics import Metrics
from reconciler.controller.merge_queue import AGAIN
from reconciler.core.errors import Unavailable
from reconciler.core.model.specs import DesiredState
from reconciler.core.model.status import Phase, Reason
from tests.controller.forging import FORGE, Pushing, Scene, reviewed
from tests.dispatch.world import World, git, until
from tests.fakes import FakeState

TEN = [f"t{number:02}" for number in range(1, 11)]


@dataclass
class Queueing(Pushing):
    """Hosts whose finished work is in a real repository, and that validate for real."""

    world: World = None
    validated: list[str] = field(default_factory=list)
    """Commits whose validation was asked for."""
    passed: set[str] = field(default_factory=set)
    """Those whose validation has ended."""
    before_landing: list = field(default_factory=list)
    """What happens before a push, in order."""
    while_merging: list = field(default_factory=list)
    """What happens while a chain is made of which all was validated, in order."""
    dies: bool = False
    """Whether the reconciler dies after a push, before it says so."""
    is_away: bool = False

    def __post_init__(self):
        self.real = self.world.dispatcher()

    async def merge_chain(self, repo, heads):
        chain = await self.real.merge_chain(repo, heads)
        if self.while_merging and chain.commits and self.passed.issuperset(chain.commits):
            self.while_merging.pop(0)()
        return chain

    async def validate(self, request):
        if self.is_away:
            raise Unavailable("host local: no answer")
        self.validated.append(request.commit)
        checks = await self.real.validate(request)
        self.passed.add(request.commit)
        return checks

    async def end_validation(self, request):
        await self.real.end_validation(request)

    async def land(self, repo, commit, base):
        if self.before_landing:
            self.before_landing.pop(0)()
        is_landed = await self.real.land(repo, commit, base)
        if self.dies:
            await asyncio.Event().wait()
        return is_landed


class QueueScene(Scene):
    """A fleet with a merge queue; `validation` runs in the shell, in the merged files."""

    def __init__(self, folder, validation):
        super().__init__()
        self.meter = Metrics(self.clock)
        self.world = World(folder)
        self.dispatch = Queueing(push=self.deliver, world=self.world)
        values = {"name": "web", "url": "code.git", "forge": FORGE, "merge": "queue"}
        note = self.world.note("$(ls t* | wc -l)")
        self.repo = self.world.repo.model_copy(update={**values, "validation": (note, validation)})
        self.clone = folder / "clone"
        git(folder, "clone", "-q", str(self.world.code), str(self.clone))
        self.files = {}
        """What a branch brings, by name, if it is not a file of its own."""

    def deliver(self, branch):
        """Push a commit on top of main; return it."""
        name = branch.rpartition("/")[2]
        path, text = self.files.get(name, (name, name))
        git(self.clone, "checkout", "-q", "-B", branch, "origin/main")
        commit = self.commit(path, text, f"HEAD:refs/heads/{branch}")
        return self.site.push(branch, pusher="bot", commit=commit)

    def commit(self, path, text, ref):
        (self.clone / path).write_text(f"{text}\n")
        git(self.clone, "add", ".")
        git(self.clone, "commit", "-q", "--allow-empty", "-m", f"Write {path}")
        git(self.clone, "push", "-q", "-f", "origin", ref)
        return git(self.clone, "rev-parse", "HEAD")

    def push_as_person(self, path, text="yes"):
        """Push a commit to main as somebody does who does not wait for the queue."""
        git(self.clone, "fetch", "-q", "origin")
        git(self.clone, "checkout", "-q", "-B", "other", "origin/main")
        return self.commit(path, text, "HEAD:refs/heads/main")

    def gated(self):
        """Return the file that the validation is about."""
        gate = self.world.folder / "gate"
        commands = tuple(command.format(gate=gate) for command in self.repo.validation)
        self.repo = self.repo.model_copy(update={"validation": commands})
        return gate

    async def begin(self, *names):
        """Have tasks delivered and their pull requests open."""
        self.push(*map(reviewed, names), repo=self.repo)
        await self.start()
        self.loop.listeners.steps.append(self.meter.step)
        await until(lambda: all(self.number(name) for name in names))

    def number(self, name):
        status = self.state.statuses.get(name)
        return status.review.pull_request.number if status and status.review.pull_request else 0

    def approve(self, *names):
        """Approve pull requests, in this order, before anybody looks again."""
        for name in names:
            self.site.review(self.number(name), "approved")
        self.look()

    def look(self):
        self.webhooks(delivery=f"d-{self.site.next()}")

    async def becomes(self, name, phase):
        await until(lambda: self.status(name).phase is phase)

    async def says(self, name, part):
        await until(lambda: self.waits(name) and part in self.waits(name).message)

    async def rests(self):
        """Wait for the end of a visit that goes on."""
        await until(self.loop.controllers.pulls.poller.is_idle)

    def waits(self, name):
        return self.status(name).waiting

    def main(self, *args):
        return git(self.world.code, "log", "--first-parent", "--format=%s", *args, "main").splitlines()

    def reasons(self, name):
        return [step.event.origin.reason for step in self.state.log if getattr(step, "task", "") == name]

    def counted(self, metric):
        """Return the samples of a metric of the merge queue, by outcome."""
        samples = self.meter.registry.collect()
        named = [each for family in samples for each in family.samples if each.name == metric]
        return {sample.labels["outcome"]: sample.value for sample in named}

    async def end(self):
        await self.stop()
        await self.dispatch.real.close()


@pytest.fixture
async def make_scene(tmp_path):
    scenes = []

    def make(validation="true"):
        scenes.append(QueueScene(tmp_path, validation))
        return scenes[-1]

    yield make
    for scene in scenes:
        await scene.end()


async def test_of_ten_approved_branches_the_fourth_red_nine_land_in_six_validations(make_scene):
    scene = make_scene("test ! -e t04 || test ! -e strict")
    await scene.begin(*TEN)
    scene.push_as_person("strict")

    scene.approve(*TEN)
    for name in TEN:
        await scene.becomes(name, Phase.REVIEW_PENDING if name == "t04" else Phase.COMPLETED)

    assert scene.world.noted == ["10", "5", "2", "3", "4", "9"]
    landed = [f"Merge branch 'task/{name}' into main" for name in TEN if name != "t04"]
    assert scene.main("--reverse")[2:] == landed
    assert scene.status("t04").review.count == 1
    [note] = scene.status("t04").review.notes
    assert "`test ! -e t04 || test ! -e strict` failed with exit code 1" in note.text
    assert scene.counted("reconciler_merge_queue_validations_total") == {"passed": 3, "failed": 3}
    assert scene.counted("reconciler_merge_queue_wait_seconds_count") == {"landed": 9, "sent_back": 1}
    validated = [scene.status(name).review.validated for name in ("t01", "t02", "t03", "t05", "t10")]
    heads = git(scene.world.code, "log", "--first-parent", "--format=%H", "main").splitlines()
    assert validated == [heads[7], heads[7], heads[6], heads[0], heads[0]]


async def test_a_reconciler_that_dies_between_push_and_record_lands_nothing_twice(make_scene):
    scene = make_scene()
    await scene.begin("t01", "t02")
    scene.dispatch.dies = True

    scene.approve("t01", "t02")
    await until(lambda: len(scene.main()) == len(["Begin", "t01", "t02"]))
    before = scene.status("t01")
    scene.dispatch.dies = False
    await scene.restart()
    await scene.becomes("t02", Phase.COMPLETED)

    assert (before.phase, before.review.validated) == (
        Phase.REVIEW_PENDING,
        git(scene.world.code, "rev-parse", "main"),
    )
    assert [scene.status(name).phase for name in ("t01", "t02")] == [Phase.COMPLETED] * 2
    assert "the merge queue brought it to main" in scene.reasons("t01")[-1]
    assert scene.world.noted == ["2"]
    assert len(scene.main()) == len(["Begin", "t01", "t02"])


async def test_a_validation_outlives_the_reconciler_and_is_run_once(make_scene):
    scene = make_scene("while [ ! -e '{gate}' ]; do sleep 0.02; done")
    gate = scene.gated()
    await scene.begin("t01")
    scene.approve("t01")
    await until(lambda: scene.world.noted)

    await scene.stop()
    scene.dispatch.real = scene.world.dispatcher()
    await scene.start()
    gate.touch()
    await scene.becomes("t01", Phase.COMPLETED)

    assert scene.world.noted == ["1"]
    assert len(scene.dispatch.validated) == 2


async def test_a_base_that_is_moved_just_before_the_push_is_validated_anew_with_the_rest(make_scene):
    scene = make_scene()
    await scene.begin("t01", "t02")
    scene.dispatch.before_landing = [lambda: scene.push_as_person("other")]

    scene.approve("t01", "t02")
    await scene.becomes("t01", Phase.COMPLETED)
    await scene.becomes("t02", Phase.COMPLETED)

    assert scene.world.noted == ["2", "2"]
    assert scene.main("--reverse")[1] == "Write other"


async def test_an_approval_that_is_taken_back_during_the_validation_keeps_the_branch_out(make_scene):
    scene = make_scene("while [ ! -e '{gate}' ]; do sleep 0.02; done")
    gate = scene.gated()
    await scene.begin("t01", "t02")
    scene.approve("t01", "t02")
    await until(lambda: scene.world.noted)

    scene.site.review(scene.number("t01"), "changes_requested", "Not like that.")
    gate.touch()
    await scene.becomes("t02", Phase.COMPLETED)

    assert scene.main("--reverse")[1:] == ["Merge branch 'task/t02' into main"]
    assert scene.world.noted == ["2", "1"]


@pytest.mark.parametrize(
    ("task", "repo", "says"),
    [
        ({"desired": DesiredState.SUSPENDED}, {}, "the task is suspended"),
        ({}, {"merge": "never"}, "`merge: never`"),
        ({}, {"validation": ("exit 3",)}, "`exit 3` failed with exit code 3"),
    ],
)
async def test_an_edit_in_the_moment_before_the_push_keeps_it_back(make_scene, task, repo, says):
    scene = make_scene()
    await scene.begin("t01")

    def edit():
        scene.push(reviewed("t01", **task), repo=scene.repo.model_copy(update=repo))
        scene.loop.inbox.notify()

    scene.dispatch.while_merging = [edit]
    scene.approve("t01")
    await scene.says("t01", says)
    await scene.rests()

    assert scene.main() == ["Begin"]


async def test_a_host_that_does_not_answer_is_waited_for_and_sends_nobody_back(make_scene):
    scene = make_scene()
    scene.dispatch.is_away = True
    await scene.begin("t01")

    scene.approve("t01")
    await scene.says("t01", "is validated")
    scene.look()
    await scene.says("t01", "cannot be now: host local: no answer")
    scene.dispatch.is_away = False
    scene.look()
    await scene.becomes("t01", Phase.COMPLETED)

    assert scene.status("t01").review.count == 0


async def test_a_base_that_does_not_pass_is_tried_again_after_a_time_and_sends_nobody_back(make_scene):
    scene = make_scene("test -e '{gate}'")
    gate = scene.gated()
    await scene.begin("t01")

    scene.approve("t01")
    await scene.says("t01", "does not pass: `test -e")
    said = scene.waits("t01")
    gate.touch()
    scene.clock.time += AGAIN
    scene.look()
    await scene.becomes("t01", Phase.COMPLETED)

    assert said.reason is Reason.MERGE_QUEUE_HALTED
    assert scene.world.noted == ["1", "0", "1"]
    assert scene.status("t01").review.count == 0


async def test_a_protected_base_says_so_and_what_passed_lands_once_it_may_without_another_look(make_scene):
    scene = make_scene("test ! -e t02")
    scene.files = {"t02": ("t02", "red")}
    hook = scene.world.code / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'main takes pull requests only' >&2\nexit 1\n")
    await scene.begin("t01", "t02", "t03", "t04")
    hook.chmod(0o755)

    scene.approve("t01", "t02", "t03", "t04")
    await scene.says("t01", "passed, but cannot land")
    said = scene.waits("t01")
    scene.look()
    await until(scene.loop.controllers.pulls.poller.is_idle)
    hook.unlink()
    scene.look()
    for name in ("t01", "t03", "t04"):
        await scene.becomes(name, Phase.COMPLETED)

    assert said.reason is Reason.MERGE_QUEUE_HALTED
    assert "cannot push 'main' to" in said.message
    assert scene.world.noted == ["4", "2", "1", "3"]


async def test_what_a_person_merges_while_the_base_takes_no_pushes_did_not_land_with_what_was_validated(
    make_scene,
):
    scene = make_scene()
    hook = scene.world.code / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    await scene.begin("t01")
    hook.chmod(0o755)
    scene.approve("t01")
    await scene.says("t01", "passed, but cannot land")
    halted = scene.status("t01").review.validated

    scene.site.merge(scene.number("t01"))
    scene.look()
    await scene.becomes("t01", Phase.COMPLETED)

    assert halted is not None
    assert scene.status("t01").review.validated is None


async def test_a_conflict_goes_back_to_the_agent_of_the_later_branch_once_the_first_has_landed(make_scene):
    scene = make_scene()
    scene.files = {"t01": ("t_both", "one"), "t02": ("t_both", "two")}
    await scene.begin("t01", "t02")
    scene.files["t02"] = ("t_other", "two")  # what its agent makes of that

    scene.approve("t01", "t02")
    await until(lambda: scene.status("t02").review.count == 1)

    assert scene.status("t01").phase is Phase.COMPLETED
    [note] = scene.status("t02").review.notes
    assert (note.author, "t_both" in note.text) == ("queue", True)


async def test_what_the_record_says_of_a_queue_is_enough_to_go_on(make_scene):
    scene = make_scene()
    await scene.begin("t01")
    scene.approve("t01")
    await scene.becomes("t01", Phase.COMPLETED)

    reasons = scene.reasons("t01")
    number = scene.number("t01")

    head = git(scene.world.code, "rev-parse", "main")[:10]
    made_of = f"main with #{number} ({head})"
    assert isinstance(scene.state, FakeState)
    assert reasons[-4:] == [
        f"pull request #{number}: it is in the merge queue",
        f"pull request #{number}: place 1 in the merge queue; {made_of} is validated",
        f"pull request #{number}: place 1 in the merge queue; {made_of} passed, and lands",
        f"the merge queue brought it to main with {head}",
    ]
