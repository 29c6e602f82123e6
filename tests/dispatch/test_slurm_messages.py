"""
Slurm's words in ours, and ours in Slurm's: what no cluster is needed for.
"""

from datetime import timedelta

import pytest
from pydantic import ValidationError

from reconciler.core.errors import Unavailable
from reconciler.core.model.specs import Host, SlurmSpec
from reconciler.dispatch.schedulers import scheduler_of
from reconciler.dispatch.schedulers.slurm import ENDS, SlurmScheduler

HOUR = timedelta(hours=1)
REQUEUED_OR_LOST = {"REQUEUED", "Forgotten", "Unknown"}
ENDED = "COMPLETED FAILED CANCELLED TIMEOUT NODE_FAIL PREEMPTED OUT_OF_MEMORY BOOT_FAIL DEADLINE REVOKED"


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("Resources", "it is next, as soon as enough is free (Resources)"),
        ("Priority", "jobs of higher priority are before it (Priority)"),
        ("QOSMaxJobsPerUserLimit", "a limit of its quality of service is reached (QOSMaxJobsPerUserLimit)"),
        ("AssocGrpCpuLimit", "a limit of its account is reached (AssocGrpCpuLimit)"),
        ("DependencyNeverSatisfied", "what it depends on cannot happen any more"),
        ("ReqNodeNotAvail,_Reserved_for_maintenance", "ReqNodeNotAvail, Reserved for maintenance"),
        ("SomethingNew", "in Slurm's queue: SomethingNew"),
    ],
)
def test_what_a_job_waits_for_is_said_with_slurms_own_word_behind_it(reason, message):
    assert message in SlurmScheduler(SlurmSpec()).wait_message(reason)


def test_every_end_that_slurm_knows_has_its_class():
    assert ENDS.keys() == {*ENDED.split(), *REQUEUED_OR_LOST}


def test_a_job_has_the_time_of_its_task_unless_the_host_names_one():
    assert "--time=65\n" in SlurmScheduler(SlurmSpec()).job_head((), HOUR)
    assert "--time=240\n" in SlurmScheduler(SlurmSpec(time=timedelta(hours=4))).job_head((), HOUR)


def test_a_plain_host_has_no_options_and_no_queue():
    plain = scheduler_of(Host(name="local"))

    assert (plain.job_head(("gpu",), HOUR), plain.has_queue, plain.functions) == ("", False, "")


@pytest.mark.parametrize(
    "option",
    [
        "--requeue",
        "--no-requeue",
        "--job-name=x",
        "--array=1-9",
        "--wrap=true",
        "--chdir=/",
        "--wait",
        "--test-only",
    ],
)
def test_what_would_make_it_more_or_less_than_one_job_under_its_name_is_refused(option):
    with pytest.raises(ValidationError, match="started once"):
        SlurmSpec(options=(option,))
    with pytest.raises(ValidationError, match="started once"):
        SlurmSpec(requires={"gpu": (option,)})


@pytest.mark.parametrize(
    "option", ["-p gpu", "gres=gpu:1", "--mem=1\n#SBATCH --requeue", "--", "--mem 8G", ""]
)
def test_what_is_no_long_option_is_refused(option):
    with pytest.raises(ValidationError):
        SlurmSpec(options=(option,))


def test_labels_with_options_are_labels_of_the_host():
    host = Host.model_validate(
        {"name": "c", "labels": ["linux"], "scheduler": {"slurm": {"requires": {"gpu": ["--gres=gpu:1"]}}}}
    )

    assert host.capabilities == {"linux", "gpu"}


def test_a_slurm_that_is_silent_is_unavailable_and_one_that_is_missing_a_fault():
    scheduler = SlurmScheduler(SlurmSpec())

    with pytest.raises(Unavailable, match="does not answer: connect failure"):
        scheduler.facts({"slurm_silent": "connect failure"})
    assert "sbatch is not there" in scheduler.facts({"slurm_missing": "sbatch"}).faults[0]
