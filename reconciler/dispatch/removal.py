"""
Hooks before a workspace is removed: started like agents, once, and never in the way of its removal.
"""

import asyncio
import logging
from dataclasses import dataclass

from reconciler.core.errors import Refused
from reconciler.core.masking import Mask
from reconciler.core.model.runs import STOPPED, Check
from reconciler.core.model.specs import Host, RunHooks
from reconciler.core.runs.retention import task_of_run
from reconciler.core.text import one_line
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.protocol import RunState, commands_job, folder_name, hook_id
from reconciler.dispatch.runs import Bounds, RunEnding
from reconciler.dispatch.session import HostSession
from reconciler.dispatch.validation import read_checks

log = logging.getLogger(__name__)

_MOST_OUTPUT = 16 * 2**20
"""Bytes that the hooks of one workspace may print."""


@dataclass(frozen=True, slots=True)
class RemovalHooks:
    """The hooks before the removal of a run's workspace."""

    session: HostSession
    host: Host
    run: str
    hooks: RunHooks

    @property
    def run_id(self) -> str:
        """Id under which they are run."""
        return hook_id(self.run, 1, "d")

    async def carry_out(self, logs: LogFolder, mask: Mask) -> None:
        """
        Run them, and log one that failed; those of a process before this one are taken up.

        Raises Unavailable.
        """
        try:
            state = await self._run()
        except Refused as error:
            log.warning("%s: before_remove cannot be run: %s", self.run, error)
            return
        for check in await asyncio.to_thread(self._failures, state, logs, mask):
            last = one_line(check.output.splitlines()[-1]) if check.output else "it printed nothing"
            log.warning("%s: before_remove %s: %s (%s)", self.run, check.ending, check.command, last)

    async def _run(self) -> RunState:
        runs, timeout, ending = self.session.runs, self.hooks.timeout, RunEnding()
        root = (await runs.stat([self.run_id])).root
        folder = f"{root.removesuffix('/runs')}/work/{folder_name(self.run)}"
        env = {**self.host.env, "RECONCILER_TASK": task_of_run(self.run) or "", "RECONCILER_RUN": self.run}
        job = commands_job(self.hooks.before_remove, env=env, folder=folder, shell=self.host.shell)
        head, seconds = self.session.scheduler.job_head((), timeout), timeout.total_seconds()
        state = await runs.start(self.run_id, head + job, b"", timeout=seconds, ending=ending)
        return await runs.follow(self.run_id, state, Bounds(output=_MOST_OUTPUT, time=seconds), ending)

    def _failures(self, state: RunState, logs: LogFolder, mask: Mask) -> list[Check]:
        commands, seconds = self.hooks.before_remove, state.seconds
        code = STOPPED if state.exit_code is None or state.why != "exit" else state.exit_code
        with logs.open(self.run_id, "err") as account, logs.open(self.run_id, "out") as output:
            checks = read_checks(commands, account, output, seconds=seconds, mask=mask, exit_code=code)
        return [check for check in checks if check.exit_code]
