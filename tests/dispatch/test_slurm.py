"""
What only a queue brings: waits, the site's hand in ends, and a controller that forgets.
"""

import asyncio
import contextlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from reconciler.core.errors import Refused, Unavailable
from reconciler.core.events import RunEnded, RunQueued, RunSeen
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import Host
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.probe import faults, probe
from reconciler.dispatch.prober import HostProber
from reconciler.dispatch.proofs import Proofs
from reconciler.dispatch.protocol import Stage
from reconciler.dispatch.session import open_session
from tests import processes
from tests.dispatch.contract_runs import Place
from tests.dispatch.slurm import Cluster, cluster, needs_slurm
from tests.dispatch.world import BRISK, QUICK, World, git, until

pytestmark = needs_slurm
RUN = "t.g1.a1.r1"
QUIET, LATE, AGAIN = "quiet.g1.a1.r1", "late.g1.a1.r1", "again.g1.a1.r1"
HELD = ("--hold",)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory):
    settings = {"TaskPlugin": "task/cgroup", "SelectTypeParameters": "CR_Core_Memory", "DefMemPerCPU": "50"}
    with cluster(tmp_path_factory.mktemp("slurm") / "cluster", **settings) as made:
        yield made


def host_of(made: Cluster, folder: Path, **slurm: object) -> Host:
    """Return the machine itself as the login node of a cluster."""
    env = {"PATH": f"{folder}/bin:{os.environ['PATH']}"} | made.env
    scheduler = {"slurm": {"partition": "agents"} | slurm}
    return Host.model_validate({"name": "cluster", "env": env, "scheduler": scheduler})


@contextlib.asynccontextmanager
async def place_on(host: Host, folder: Path):
    logs = LogFolder(folder / "logs")
    proofs = Proofs(folder / "proofs")
    transport = LocalTransport(folder / "host")
    session = open_session(host, transport, fleet="f1", logs=logs, pace=BRISK, proofs=proofs)
    yield Place(session, logs)
    await session.runs.close()


@pytest.fixture
async def place(slurm: Cluster, tmp_path: Path):
    async with place_on(host_of(slurm, tmp_path), tmp_path) as made:
        yield made


@pytest.fixture
async def held(slurm: Cluster, tmp_path: Path):
    """Give a place whose jobs wait until somebody releases them."""
    async with place_on(host_of(slurm, tmp_path, options=HELD), tmp_path) as made:
        yield made


# --- Waiting -----------------------------------------------------------------


async def test_a_job_asks_for_what_the_host_and_the_labels_of_its_task_say(slurm: Cluster, tmp_path: Path):
    options = {
        "time": "4h",
        "requires": {"big": ["--mem=70M", "--comment=for a big one"], "far": ["--partition=second"]},
    }
    async with place_on(host_of(slurm, tmp_path, options=HELD, **options), tmp_path) as made:
        head = made.session.scheduler.job_head(("big", "far", "linux"), timedelta(minutes=1))
        await made.session.runs.start(RUN, f"{head}exit 0\n", timeout=60, ending=QUICK)
        shown = slurm.command("scontrol", "show", "job", slurm.command("squeue", "-h", f"-n{RUN}", "-o%i"))
        await made.session.runs.cancel(RUN, "cancelled", QUICK)

    assert f"JobName={RUN}" in shown
    assert "TimeLimit=04:00:00" in shown
    assert "Partition=second" in shown
    assert "MinMemoryNode=70M" in shown
    assert "Comment=for a big one" in shown
    assert "Requeue=0" in shown


async def test_silence_counts_from_the_moment_the_job_begins(held: Place, slurm: Cluster):
    looks, state = [], await held.start(QUIET, "sleep 1; echo said")
    following = asyncio.create_task(held.finish(QUIET, state, silence=2, on_look=looks.append))
    await until(lambda: looks and looks[-1].seconds >= 3)
    slurm.command("scontrol", "release", f"JobName={QUIET}")

    ended = await following

    assert (ended.stage, ended.exit_code, ended.why) == (Stage.DONE, 0, "exit")
    assert "JobHeldUser" in {look.why for look in looks}


async def test_what_waits_for_too_long_is_taken_back_and_never_starts(
    held: Place, slurm: Cluster, tmp_path: Path
):
    state = await held.start(LATE, f"touch {tmp_path}/started")

    ended = await held.finish(LATE, state, queue=1)

    assert (ended.stage, ended.why) == (Stage.DONE, "queue")
    assert slurm.state(LATE) == "CANCELLED"
    assert not (tmp_path / "started").exists()


async def test_all_runs_of_a_host_are_one_question_to_slurm(held: Place, tmp_path: Path):
    ids = [f"t{number}.g1.a1.r1" for number in range(5)]
    for run_id in ids:
        await held.start(run_id, "exit 0")
    asked = tmp_path / "asked"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "squeue").write_text(f'#!/bin/sh\necho x >>{asked}\nexec /usr/bin/squeue "$@"\n')
    (tmp_path / "bin" / "squeue").chmod(0o755)

    states = (await held.session.runs.stat(ids)).states

    assert {state.stage for state in states.values()} == {Stage.QUEUED}
    assert asked.read_text() == "x\n"
    for run_id in ids:
        await held.session.runs.cancel(run_id, "cancelled", QUICK)


async def test_a_job_that_slurm_does_not_take_is_refused_with_its_reason(slurm: Cluster, tmp_path: Path):
    async with place_on(host_of(slurm, tmp_path, partition="nowhere"), tmp_path) as made:
        with pytest.raises(Refused, match="invalid partition specified: nowhere"):
            await made.start(RUN, "exit 0")


# --- Ends by other hands -------------------------------------------------------


async def test_a_job_that_somebody_cancels_says_so(place: Place, slurm: Cluster):
    state = await place.start(RUN, "sleep 1007")
    await place.begun(RUN)
    slurm.command("scancel", f"--name={RUN}")

    ended = await place.finish(RUN, state)

    assert ended.why == "CANCELLED"


async def test_a_job_that_somebody_cancels_in_the_queue_was_never_begun(held: Place, slurm: Cluster):
    state = await held.start(RUN, "sleep 1007")
    slurm.command("scancel", f"--name={RUN}")

    ended = await held.finish(RUN, state)

    assert (ended.stage, ended.why) == (Stage.DROPPED, "CANCELLED")


async def test_a_job_that_the_site_requeues_does_not_run_twice(place: Place, slurm: Cluster, tmp_path: Path):
    state = await place.start(AGAIN, f"echo x >>{tmp_path}/starts; sleep 1007")
    await until((tmp_path / "starts").exists)
    number = slurm.command("squeue", "-h", f"--name={AGAIN}", "-o", "%i")
    slurm.command("scontrol", "update", f"JobId={number}", "Requeue=1")
    slurm.command("scontrol", "requeue", number)

    ended = await place.finish(AGAIN, state)
    slurm.command("scontrol", "update", f"JobId={number}", "StartTime=now")
    slurm.wait_until(lambda: slurm.state(AGAIN) == "COMPLETED")

    assert ended.why == "REQUEUED"
    assert (tmp_path / "starts").read_text() == "x\n"


# --- A Slurm that is away, or forgets -------------------------------------------


async def test_a_slurm_that_does_not_answer_is_a_host_that_cannot_be_reached(
    place: Place, slurm: Cluster, tmp_path: Path
):
    host = host_of(slurm, tmp_path)
    prober = HostProber(
        lambda _: place.session.transport, data=tmp_path, clock=lambda: datetime(2030, 1, 1, tzinfo=UTC)
    )
    state = await place.start(RUN, f"until [ -e {tmp_path}/go ]; do sleep 0.1; done; exit 4")
    await place.begun(RUN)
    following = asyncio.create_task(place.finish(RUN, state))
    slurm.kill("slurmctld")
    (tmp_path / "go").touch()

    with pytest.raises(Unavailable, match="Slurm does not answer"):
        await place.session.runs.stat([RUN])
    status, _ = await prober.probe(host, {}, None)
    slurm.start_daemon("slurmctld")

    assert not status.reachable
    assert "Slurm does not answer" in status.message
    assert (await following).exit_code == 4


async def test_a_run_that_its_controller_forgot_is_alive_and_can_be_ended(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    with cluster(tmp_path_factory.mktemp("slurm") / "cluster", ProctrackType="proctrack/linuxproc") as made:
        async with place_on(host_of(made, tmp_path), tmp_path) as place:
            await place.start(RUN, f"echo x >>{tmp_path}/starts; setsid env -i sleep 1008 & sleep 1008")
            await until((tmp_path / "starts").exists)
            made.kill("slurmd")
            made.kill("slurmctld")
            made.forget()
            made.start_daemon("slurmctld")

            stage = await place.stage(RUN)
            again = await place.start(RUN, f"echo x >>{tmp_path}/starts")
            ended = await place.session.runs.cancel(RUN, "cancelled", QUICK)

    assert stage is Stage.RUNNING
    assert again.stage is Stage.RUNNING
    assert (ended.stage, ended.why) == (Stage.DONE, "cancelled")
    assert not [pid for pid in processes.with_word("1008") if processes.is_alive(pid)]
    assert (tmp_path / "starts").read_text() == "x\n"


@pytest.mark.parametrize("code", [0, 5])
async def test_a_run_of_which_its_controller_forgot_that_it_began_goes_on(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, code: int
):
    with cluster(tmp_path_factory.mktemp("slurm") / "cluster") as made:
        async with place_on(host_of(made, tmp_path, options=HELD), tmp_path) as place:
            state = await place.start(RUN, f"until [ -e {tmp_path}/go ]; do sleep 0.1; done; exit {code}")
            with made.going_back():
                made.wait_until(lambda: made.state(RUN) == "PENDING")
                made.command("scontrol", "release", f"JobName={RUN}")
                await place.begun(RUN)
                made.kill("slurmd")
            shown, stage = made.state(RUN), await place.stage(RUN)
            (tmp_path / "go").touch()
            ended = await place.finish(RUN, state)

    assert (shown, stage) == ("PENDING", Stage.RUNNING)
    assert (ended.stage, ended.exit_code, ended.why) == (Stage.DONE, code, "exit")


async def test_a_job_that_was_forgotten_before_it_began_is_dropped(held: Place, slurm: Cluster):
    state = await held.start(RUN, "exit 0")
    slurm.kill("slurmctld")
    slurm.forget()
    slurm.start_daemon("slurmctld")

    ended = await held.finish(RUN, state)

    assert (ended.stage, ended.why) == (Stage.DROPPED, "Forgotten")


# --- A probe, and a whole order ---------------------------------------------------


async def test_a_probe_says_what_the_cluster_is(slurm: Cluster, tmp_path: Path):
    transport = LocalTransport(tmp_path / "host")

    facts = await probe(transport, host_of(slurm, tmp_path), workdir=str(tmp_path / "host"))
    lacking = await probe(transport, host_of(slurm, tmp_path, partition="nowhere"), workdir=str(tmp_path))

    assert facts.scheduler
    assert facts.scheduler.version
    assert facts.scheduler.partitions == ("agents", "second", "urgent")
    assert (facts.scheduler.proctrack, facts.scheduler.ends_detached) == ("cgroup", True)
    assert (facts.boot_id, facts.load, list(faults(facts))) == (None, None, [])
    assert list(faults(lacking)) == ["Slurm has no partition nowhere; there are: agents, second, urgent"]


class ClusterWorld(World):
    """The small world, its host a cluster."""

    def __init__(self, folder: Path, host: Host) -> None:
        super().__init__(folder)
        self.host = host

    def order(self, script: str, **fields):
        return super().order(script, **{"host": self.host} | fields)


async def carry_out(world: World, order) -> list:
    """Return all facts of an order, its end the last."""
    dispatcher, facts = world.dispatcher(patience=30), []
    dispatcher.follow(order, facts.append)
    await until(lambda: facts and isinstance(facts[-1], RunEnded))
    await dispatcher.close()
    return facts


async def test_an_order_waits_begins_is_validated_and_delivered(slurm: Cluster, tmp_path: Path):
    world = ClusterWorld(tmp_path / "world", host_of(slurm, tmp_path))
    order = world.order("echo more >>README", validation=("grep -q more README", '[ -n "$SLURM_JOB_ID" ]'))

    *before, end = await carry_out(world, order)

    kinds = [type(fact) for fact in before]
    assert end.report.verdict.outcome == "success"
    assert [check.exit_code for check in end.report.checks] == [0, 0]
    assert git(world.code, "show", "task/web/fix:README").endswith("more")
    assert kinds[0] is RunQueued
    assert kinds.count(RunSeen) == 1
    assert [fact.message for fact in before if isinstance(fact, RunQueued)][-1] == ""


@pytest.mark.parametrize(
    ("script", "limit", "ending"),
    [
        ("head -c 400000000 /dev/zero | tail; exit 9", {}, (FailureClass.AGENT, "ran out of memory")),
        (
            "sleep 1007",
            {"stall_timeout": timedelta(seconds=1)},
            (FailureClass.STALL, "printed nothing for 1s"),
        ),
        ("exit 3", {}, (FailureClass.AGENT, "exit 3")),
    ],
)
async def test_each_end_has_its_class(slurm: Cluster, tmp_path: Path, script, limit, ending):
    world = ClusterWorld(tmp_path / "world", host_of(slurm, tmp_path))

    *_, end = await carry_out(world, world.order(script, **limit))

    kind, message = ending
    assert (end.report.verdict.outcome, end.report.verdict.kind) == ("failed", kind)
    assert message in end.report.verdict.message
    assert end.report.started


async def test_a_run_that_waited_for_too_long_was_not_started(slurm: Cluster, tmp_path: Path):
    host = host_of(slurm, tmp_path, options=HELD, queue_timeout="1s")
    world = ClusterWorld(tmp_path / "world", host)

    *before, end = await carry_out(world, world.order("exit 0"))

    assert RunSeen not in {type(fact) for fact in before}
    assert (end.report.verdict.kind, end.report.started) == (FailureClass.HOST, False)
    assert "waited in the queue for 1s" in end.report.verdict.message


async def test_a_node_that_fails_is_told_from_a_task_that_does(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    with cluster(tmp_path_factory.mktemp("slurm") / "cluster", SlurmdTimeout="2") as made:
        world = ClusterWorld(tmp_path / "world", host_of(made, tmp_path))
        dispatcher, facts = world.dispatcher(patience=30), []
        dispatcher.follow(world.order(f"touch {tmp_path}/up; sleep 1009"), facts.append)
        await until((tmp_path / "up").exists)
        made.kill("slurmd")
        made.kill_steps()
        await until(lambda: isinstance(facts[-1], RunEnded))
        await dispatcher.close()

    verdict = facts[-1].report.verdict
    assert (verdict.kind, facts[-1].report.started) == (FailureClass.HOST, True)
    assert "the node of the job failed" in verdict.message
