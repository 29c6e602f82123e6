"""
Schedulers: what starts the runs of a host, knows which are there, and ends them.

A plain host has processes; a cluster has jobs in a queue. The wrapper on the host
is the same for both, but for the shell functions that its scheduler brings.
"""

from reconciler.core.model.specs import Host
from reconciler.dispatch.schedulers.base import Scheduler
from reconciler.dispatch.schedulers.plain import PlainScheduler
from reconciler.dispatch.schedulers.slurm import SlurmScheduler


def scheduler_of(host: Host) -> Scheduler:
    """Return the scheduler of a host by its spec."""
    return SlurmScheduler(host.scheduler.slurm) if host.scheduler else PlainScheduler()
