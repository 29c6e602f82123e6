"""
Slurm: runs are jobs in its queue, under their ids as names. `slurm.sh` is its part on the host.
"""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path

from reconciler.core.errors import Unavailable
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.specs import SlurmSpec
from reconciler.core.text import one_line
from reconciler.dispatch.schedulers.base import JobEnd, Scheduler, SchedulerFacts

_SLACK = timedelta(minutes=5)
"""What a job may take beyond the task's time limit: to end the agent, and all it started."""

_SUBMITTED = "Submitted"
"""What `slurm.sh` says of a job before Slurm was asked."""
WAITS: Mapping[str, str] = {
    "None": "Slurm has not looked at it yet",
    "Starting": "its node is being prepared",
    "Priority": "jobs of higher priority are before it",
    "Resources": "it is next, as soon as enough is free",
    "ReqNodeNotAvail": "a node that it needs is down, drained or reserved",
    "Nodes_required": "the nodes that could take it are down, drained or reserved",
    "NodeDown": "a node that it needs is down",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is inactive",
    "PartitionNodeLimit": "it asks for more nodes than its partition gives; correct `scheduler` of the host",
    "PartitionTimeLimit": "it asks for more time than its partition gives; lower `time` of the `scheduler`",
    "BadConstraints": "no node has what it asks for; correct `options` in `scheduler` of the host",
    "Licenses": "a licence that it asks for is in use",
    "Reservation": "its reservation has not begun",
    "ReservationDeleted": "its reservation is gone; correct `options` in `scheduler` of the host",
    "Dependency": "a job that it depends on is not over",
    "DependencyNeverSatisfied": "what it depends on cannot happen any more; cancel the task",
    "BeginTime": "it may not begin yet",
    "JobHeldUser": "somebody holds it back; `scontrol release` lets it go",
    "JobHeldAdmin": "the site's people hold it back; ask them",
    "InvalidAccount": "its account is not valid; correct `account` in `scheduler` of the host",
    "InvalidQOS": "its quality of service is not valid; correct `options` in `scheduler` of the host",
    "Prolog": "its node is being prepared",
    "Cleaning": "its last start is being cleaned up",
    "QOSUsageThreshold": "its quality of service has used up what it may",
    "QOS": "a limit of its quality of service is reached",
    "Assoc": "a limit of its account is reached",
    "MaxMemPerLimit": "it asks for more memory than it may; correct `options` in `scheduler` of the host",
}
"""Beginning of Slurm's reason → what it means; the longest beginning counts."""

_DISTURBED = "; that is the site's doing and counts as no attempt"
ENDS: Mapping[str, JobEnd] = {
    "TIMEOUT": JobEnd(
        FailureClass.TIMEOUT,
        "the job took longer than its time limit in Slurm and was ended there; raise `time` in `scheduler` "
        "of the host, or ask for less at once",
    ),
    "DEADLINE": JobEnd(
        FailureClass.TIMEOUT, "the job passed its deadline in Slurm and was ended there; see `options`"
    ),
    "OUT_OF_MEMORY": JobEnd(
        FailureClass.AGENT,
        "the job ran out of memory and was ended by Slurm; ask for more with `--mem` in `options` of "
        "`scheduler`, for all tasks of the host or for those with a label",
    ),
    "CANCELLED": JobEnd(
        FailureClass.HOST, "the job was cancelled in Slurm (scancel), and not by us; ask who did it"
    ),
    "PREEMPTED": JobEnd(
        FailureClass.CANCELLED, f"the job was preempted: others had a better right to its node{_DISTURBED}"
    ),
    "REQUEUED": JobEnd(
        FailureClass.CANCELLED,
        f"the job was ended and put into the queue again, where nothing of it starts twice{_DISTURBED}",
    ),
    "NODE_FAIL": JobEnd(FailureClass.HOST, "the node of the job failed; see `sinfo -R` there"),
    "BOOT_FAIL": JobEnd(FailureClass.HOST, "the node of the job did not boot; see `sinfo -R` there"),
    "REVOKED": JobEnd(FailureClass.HOST, "the job was revoked by Slurm; another cluster took it"),
    "FAILED": JobEnd(
        FailureClass.HOST,
        "the job ended without a record: it could not begin on its node, or was killed there; see that "
        "`workdir` is a folder that all nodes share, and `supervisor.log` in the folder of the run",
    ),
    "COMPLETED": JobEnd(
        FailureClass.HOST,
        "the job ended without a record; see that `workdir` is a folder that all nodes share",
    ),
    "Forgotten": JobEnd(
        FailureClass.HOST, "Slurm knows nothing of the job that it had accepted; its controller lost it"
    ),
    "Unknown": JobEnd(
        FailureClass.HOST,
        "the job is over and how it ended is not known, neither from its record nor from Slurm; see "
        "`sacct --name` there",
    ),
}
"""State of a job → what it means for its run."""
_CONTAINERS = frozenset({"cgroup", "cray_aries"})
"""Plugins of `proctrack` that know a process by more than its group or its parents."""

_PROBE = r"""
tell_slurm() {
  command -v sbatch >/dev/null 2>&1 || { fact slurm_missing sbatch; return; }
  fact slurm_version "$(sbatch --version 2>/dev/null)"
  said=$(scontrol show config 2>&1) || { fact slurm_silent "$(printf %s "$said" | tr '\n' ' ')"; return; }
  of_config() { printf '%s\n' "$said" | sed -n "s/^$1 *= *//p" | head -n 1; }
  fact slurm_proctrack "$(of_config ProctrackType)"
  said=$(sinfo --noheader --format='%R|%a' 2>&1) ||
    { fact slurm_silent "$(printf %s "$said" | tr '\n' ' ')"; return; }
  fact slurm_partitions "$(printf '%s\n' "$said" | sort -u | tr '\n' ' ')"
}
(set_env; tell_slurm)
"""


class SlurmScheduler(Scheduler):
    """Jobs in the queue of a Slurm cluster; the host is its login node."""

    name = "Slurm"
    has_queue = True
    ends = ENDS
    probe = _PROBE

    def __init__(self, spec: SlurmSpec) -> None:
        self._spec = spec

    @property
    def functions(self) -> str:
        """Shell functions of `slurm.sh`."""
        return _functions()

    @property
    def queue_timeout(self) -> timedelta | None:
        """How long a job may wait before it is taken back."""
        return self._spec.queue_timeout

    def job_head(self, requires: Sequence[str], timeout: timedelta) -> str:
        """Return the options as `#SBATCH` lines: `sbatch` itself reads them."""
        return "".join(f"#SBATCH {shlex.quote(option)}\n" for option in self._options(requires, timeout))

    def _options(self, requires: Sequence[str], timeout: timedelta) -> Iterator[str]:
        spec = self._spec
        minutes = math.ceil((spec.time or timeout + _SLACK) / timedelta(minutes=1))
        yield f"--time={minutes}"
        yield from (f"--partition={spec.partition}",) if spec.partition else ()
        yield from (f"--account={spec.account}",) if spec.account else ()
        yield from spec.options
        for label in requires:  # of options that are there twice the last counts
            yield from spec.requires.get(label, ())

    def wait_message(self, reason: str) -> str:
        """Return what a job waits for, Slurm's own word behind it; empty for one that may begin at once."""
        known = max((word for word in WAITS if reason.startswith(word)), key=len, default="")
        shown = one_line(reason.replace("_", " ") if "_" in reason else reason, 200)
        if reason == _SUBMITTED:
            return ""
        return f"in Slurm's queue: {WAITS[known]} ({shown})" if known else f"in Slurm's queue: {shown}"

    def facts(self, values: Mapping[str, str]) -> SchedulerFacts | None:
        """Return what Slurm said to a probe. Raises Unavailable if it does not answer."""
        if silent := values.get("slurm_silent"):
            raise Unavailable(
                f"Slurm does not answer: {silent}; see `scontrol ping` there, and ask the site's people"
            )
        partitions = dict(pair.split("|", 1) for pair in values.get("slurm_partitions", "").split())
        proctrack = values.get("slurm_proctrack", "").removeprefix("proctrack/")
        return SchedulerFacts(
            name=self.name,
            version=values.get("slurm_version", "").removeprefix("slurm-wlm ").removeprefix("slurm "),
            partitions=tuple(sorted(name for name, state in partitions.items() if state == "up")),
            proctrack=proctrack,
            ends_detached=proctrack in _CONTAINERS,
            faults=tuple(self._faults(values, partitions)),
        )

    def _faults(self, values: Mapping[str, str], partitions: Mapping[str, str]) -> Iterator[str]:
        if "slurm_missing" in values:
            yield "sbatch is not there; set PATH in `env` of the host to where Slurm has its commands"
            return
        for name in filter(None, (self._spec.partition or "").split(",")):
            if name not in partitions:
                yield f"Slurm has no partition {name}; there are: {', '.join(sorted(partitions))}"
            elif partitions[name] != "up":
                yield f"the partition {name} is {partitions[name]}"


@cache
def _functions() -> str:
    return Path(__file__).with_name("slurm.sh").read_text(encoding="utf-8")
