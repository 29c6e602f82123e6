"""
Host prober: implements `controller.ports.Prober`; a failed probe is a result, too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from reconciler.core.adapter import Adapter, Sandbox
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.model.specs import Host
from reconciler.core.model.status import HostStatus
from reconciler.dispatch.dry_run import DRY_RUN_FOLDER
from reconciler.dispatch.paths import local_folder
from reconciler.dispatch.probe import (
    HostFacts,
    faults,
    needed_sandboxes,
    offered_adapters,
    probe,
    reachable,
    unreachable,
)
from reconciler.dispatch.retrying import StepFailed
from reconciler.dispatch.session import host_scripts, workdir
from reconciler.dispatch.transport import Transport

ASK_VERSIONS = timedelta(minutes=10)
"""How often CLIs are asked for their versions; they start slowly and change rarely."""


class HostProber:
    """Probes hosts; see `controller.ports.Prober`."""

    def __init__(
        self, transports: Callable[[Host], Transport], *, data: Path, clock: Callable[[], datetime]
    ) -> None:
        self._transports = transports
        self._data = data
        self._clock = clock
        self._asked_at: dict[str, datetime] = {}

    async def probe(
        self, host: Host, adapters: Mapping[str, Adapter], before: HostStatus | None
    ) -> tuple[HostStatus, float | None]:
        """Return the status of the host, and its load per core if known."""
        asks = self._asks(host, adapters, before)
        try:
            facts = await self._facts(
                host, adapters if asks else None, sandboxes=needed_sandboxes(host, adapters)
            )
            if asks or (before and before.fault):
                facts = await self._with_scripts(host, facts)
        except (Unavailable, Refused) as error:
            return unreachable(Unavailable(str(error)), before, self._clock()), None
        if asks:
            self._asked_at[host.name] = self._clock()
        return reachable(facts, before, self._clock()), facts.load_per_core

    async def _facts(
        self, host: Host, adapters: Mapping[str, Adapter] | None, *, sandboxes: Sequence[Sandbox]
    ) -> HostFacts:
        """
        Probe the host, with one retry. Raises Unavailable, Refused.

        Without the retry, a lost connection would be recorded as down and up again.
        """
        transport = self._transports(host)
        workdir = str(local_folder(host, self._data)) if host.is_local else None
        once = partial(probe, transport, host, adapters, workdir=workdir, sandboxes=sandboxes)
        try:
            return await once()
        except Unavailable:
            return await once()

    async def _with_scripts(self, host: Host, facts: HostFacts) -> HostFacts:
        """
        Return the facts with why our scripts cannot be called there, as every run calls them.

        A way in may let a probe pass, which comes over stdin, and nothing else.
        """
        if any(faults(facts)):
            return facts
        try:
            scripts = host_scripts(host, self._transports(host))
            await scripts.call("workspace", "ls", f"{workdir(host)}/{DRY_RUN_FOLDER}")
        except (Unavailable, Refused, StepFailed) as error:
            return replace(facts, scripts_fault=str(error))
        return facts

    def _asks(self, host: Host, adapters: Mapping[str, Adapter], before: HostStatus | None) -> bool:
        """Return whether it is time to ask the CLIs for their versions."""
        last = self._asked_at.get(host.name)
        wanted = {adapter.name for adapter in offered_adapters(host, adapters) if adapter.version}
        versions = before.adapters.keys() if before else set[str]()
        return last is None or self._clock() - last >= ASK_VERSIONS or not wanted <= versions
