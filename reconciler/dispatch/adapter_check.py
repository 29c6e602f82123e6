"""
Adapter check: tries an adapter on a host with its version probe, its health command, and a short prompt.

What is tried goes the way of a real run: the same transport, job, secrets and
verdict; only the folder it works in is another one, and is gone afterwards.
"""

import asyncio
import shlex
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Literal

from reconciler.core.adapter import Adapter, HealthCheck
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.masking import Mask
from reconciler.core.model.runs import FailureClass, RunRequest, Verdict, run_key
from reconciler.core.model.specs import Desired, Host, Task
from reconciler.core.model.status import HostCli, OnHost, Phase, Run, Status
from reconciler.core.runs.command import build_run_request
from reconciler.core.text import one_line, tail
from reconciler.dispatch.dry_run import DryRun, dry_run
from reconciler.dispatch.logs import LogFolder, read_end
from reconciler.dispatch.paths import local_folder
from reconciler.dispatch.probe import HostFacts, host_problems, needed_sandboxes, probe
from reconciler.dispatch.proofs import Proofs
from reconciler.dispatch.protocol import agent_id, folder_name, validation_id
from reconciler.dispatch.retrying import StepFailed
from reconciler.dispatch.round import ReadOutput, Round
from reconciler.dispatch.session import open_session, usual_pace
from reconciler.dispatch.transport import Transport

PROMPT = "Reply with the one word: ready. Use no tools and change no files."
ADAPTER_CHECK_FOLDER = "adapter-test"
"""Folder of checks on a host; the folders of fleets beside it are named by their ids."""
LIMIT = timedelta(minutes=5)
"""Timeout of the prompt."""
_MOST_OUTPUT = 64 * 1024
"""Bytes of the health command's output that are read."""
_PATIENCE = 60.0
"""Seconds for everything but the CLI itself: connecting, reading the result, cleaning up."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of one step of a check."""

    name: Literal["host", "version", "health", "prompt"]
    ok: bool | None
    """None: the adapter has nothing for this step."""
    message: str
    cli: HostCli | None = None
    """What the version probe found."""
    verdict: Verdict | None = None
    """Verdict on the prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCheck:
    """A check of one adapter on one host."""

    adapter: Adapter
    host: Host
    transport: Transport
    data: Path
    """A folder for logs; a local host without a `workdir` works in it too."""
    token: str
    """Random, so that two checks never collide."""
    clock: Callable[[], datetime]
    read_output: ReadOutput

    async def results(self, *, with_prompt: bool) -> AsyncGenerator[CheckResult, None]:
        """Yield the result of each step; stops after the first if the host does not answer."""
        workdir = str(local_folder(self.host, self.data)) if self.host.is_local else None
        try:
            adapters = {self.adapter.name: self.adapter}
            facts = await probe(
                self.transport,
                self.host,
                adapters,
                workdir=workdir,
                sandboxes=needed_sandboxes(self.host, adapters),
            )
        except (Unavailable, Refused) as error:
            yield CheckResult("host", ok=False, message=str(error))
            return
        tried = await dry_run(self.host, self.transport, token=self.token)
        yield self._host(facts, tried)
        yield self._version(facts)
        yield await self._health()
        if with_prompt:
            yield await self._prompt()

    def _host(self, facts: HostFacts, tried: DryRun) -> CheckResult:
        wrong = "; ".join((*host_problems(facts, self.clock()), *tried.problems))
        summary = f"{facts.os} {facts.arch}, answers within {facts.latency * 1000:.0f} ms"
        return CheckResult("host", ok=not wrong, message=wrong or summary)

    def _version(self, facts: HostFacts) -> CheckResult:
        host, name = self.host, self.adapter.name
        if host.adapters is not None and name not in host.adapters:
            return CheckResult(
                "version",
                ok=False,
                message=f"host {host.name} does not offer {name}; name it under its `adapters`",
            )
        if self.adapter.version is None:
            return CheckResult("version", ok=None, message="the adapter has no version probe")
        cli = (facts.clis or {})[name].cli
        return CheckResult("version", ok=cli.ok, message=cli.message, cli=cli)

    async def _health(self) -> CheckResult:
        health = self.adapter.health
        if health is None:
            return CheckResult("health", ok=None, message="the adapter has no health command")
        verdict = await self._carry_out(self._health_order(health), _believe_exit_code)
        if verdict.outcome == "success":
            return CheckResult("health", ok=True, message=f"`{shlex.join(health.command)}` ended with 0")
        return CheckResult("health", ok=False, message=verdict.message)

    async def _prompt(self) -> CheckResult:
        verdict = await self._carry_out(self._order(), self.read_output)
        if verdict.outcome == "success":
            return CheckResult("prompt", ok=True, message=_what_it_took(verdict), verdict=verdict)
        return CheckResult("prompt", ok=False, message=f"{verdict.kind}: {verdict.message}", verdict=verdict)

    def _health_order(self, health: HealthCheck) -> RunRequest:
        """Return an order like any other whose agent is the health command."""
        limits = {"timeout": health.timeout, "stall_timeout": health.timeout}
        run = run_key(f"{ADAPTER_CHECK_FOLDER}-health", self.token, 1)
        return self._order().model_copy(update={"run": run, "argv": health.command, "prompt": "", **limits})

    def _order(self) -> RunRequest:
        adapter, host, now = self.adapter, self.host, self.clock()
        task = Task(
            name=ADAPTER_CHECK_FOLDER,
            generation=self.token,
            work="",
            goal=PROMPT,
            template=PROMPT,
            script="cat" if adapter.runs_scripts else None,
            adapter=adapter.name,
            timeout=LIMIT,
            stall_timeout=LIMIT,
        )
        status = Status(
            phase=Phase.ASSIGNED,
            since=now,
            created_at=now,
            generation=self.token,
            work="",
            attempt=1,
            run=Run(
                key=run_key(ADAPTER_CHECK_FOLDER, self.token, 1),
                round=1,
                holder=OnHost(host=host.name),
                adapter=adapter.name,
                model=task.model,
                branch=task.branch,
                title=task.headline,
            ),
        )
        return build_run_request(
            task, status, Desired(hosts={host.name: host}, adapters={adapter.name: adapter})
        )

    async def _carry_out(self, order: RunRequest, read_output: ReadOutput) -> Verdict:
        try:
            check_round = self._round(order, read_output)
        except StepFailed as error:
            return Verdict(outcome="failed", kind=error.kind, message=str(error))
        try:
            async with asyncio.timeout(order.timeout.total_seconds() + _PATIENCE):
                return (await check_round.carry_out(lambda: None)).verdict
        except TimeoutError:
            message = "the host fell silent, so how it ended is not known; try again"
            return Verdict(outcome="failed", kind=FailureClass.HOST, message=message)
        finally:
            with suppress(TimeoutError, Unavailable, Refused, StepFailed):
                async with asyncio.timeout(_PATIENCE):
                    await _clean(check_round)
            await check_round.host_session.runs.close()

    def _round(self, order: RunRequest, read_output: ReadOutput) -> Round:
        logs = LogFolder(self.data / "logs")
        proofs = Proofs(self.data / ADAPTER_CHECK_FOLDER / "proofs")
        pace = usual_pace(self.host)
        host_session = open_session(
            self.host, self.transport, fleet=ADAPTER_CHECK_FOLDER, logs=logs, pace=pace, proofs=proofs
        )
        return Round(
            order=order,
            host_session=host_session,
            repository=None,
            logs=logs,
            read_output=read_output,
            clock=self.clock,
            patience=_PATIENCE / 2,
        )


async def _clean(check_round: Round) -> None:
    """End what still runs, and remove all files."""
    order, host_session = check_round.order, check_round.host_session
    await check_round.cancel()
    await host_session.runs.remove([agent_id(order.run, order.round), validation_id(order.run, order.round)])
    await host_session.workspaces.remove([folder_name(order.run)])


def _believe_exit_code(
    adapter: Adapter,  # noqa: ARG001  ReadOutput's, as those below
    *,
    stdout: BinaryIO,
    stderr: BinaryIO,
    exit_code: int,
    order: RunRequest,
    now: datetime,  # noqa: ARG001
    mask: Mask,
) -> Verdict:
    if exit_code == 0:
        return Verdict(outcome="success")
    printed = read_end(stderr, _MOST_OUTPUT) or read_end(stdout, _MOST_OUTPUT)
    output = one_line(tail(mask.hide(printed), lines=2, characters=300))
    message = f"`{shlex.join(order.argv)}` ended with {exit_code}: {output}"
    return Verdict(outcome="failed", kind=FailureClass.AGENT, message=message)


def _what_it_took(verdict: Verdict) -> str:
    usage = verdict.usage
    tokens = usage.input_tokens + usage.output_tokens
    paid = f", {tokens} tokens, {usage.cost_usd:.4f} USD" if tokens else ""
    return f"{one_line(verdict.text, 80)!r} after {usage.seconds:.1f} s{paid}"
