"""
One round of a run, from order to report.

Every step is idempotent and may be repeated after a crash at any moment: what
was done is found on the host under its name, and is not done twice.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import BinaryIO, Literal, NamedTuple, Protocol, TypeVar

from reconciler.core.adapter import Adapter, Secret, Usage
from reconciler.core.errors import Unavailable
from reconciler.core.fields import format_duration
from reconciler.core.masking import Mask
from reconciler.core.model.runs import (
    OUTPUT_LENGTH,
    STOPPED,
    Check,
    Declaration,
    FailureClass,
    NamedOutput,
    Opinion,
    Report,
    Reviewer,
    RunRequest,
    Verdict,
)
from reconciler.core.runs.command import FILES, extra_argv, localize, review_request
from reconciler.core.runs.decide import may_declare
from reconciler.core.runs.files import FileValues, render_file
from reconciler.core.runs.judging import with_diffs
from reconciler.core.runs.opinion import is_deliverable, is_worth_a_retry, read_opinion
from reconciler.core.runs.sandbox import sandbox_of
from reconciler.core.text import head, one_line
from reconciler.dispatch.live import FigureCounter
from reconciler.dispatch.logs import LogFolder, StreamName
from reconciler.dispatch.merging import MergeConflict
from reconciler.dispatch.output import give_up_verdict
from reconciler.dispatch.protocol import (
    EXTRA,
    OUTPUTS,
    RunState,
    Stage,
    agent_id,
    agent_job,
    commands_job,
    declared_folder,
    extra_hook,
    files_folder,
    hook_id,
    opinion_key,
    validation_id,
)
from reconciler.dispatch.repos import CodeRepository
from reconciler.dispatch.retrying import StepFailed, retry_until_reachable
from reconciler.dispatch.runs import DECLARED_BYTES, GAVE_UP, QUEUE, Bounds, RunEnding
from reconciler.dispatch.sandbox import Confinement, denied_egress
from reconciler.dispatch.schedulers.base import Scheduler
from reconciler.dispatch.scripts import Following
from reconciler.dispatch.secret_gate import LeaksFound
from reconciler.dispatch.secrets import WITHHELD, InjectedSecrets, find_known, find_secrets
from reconciler.dispatch.session import HostSession
from reconciler.dispatch.validation import read_checks
from reconciler.dispatch.workspace import Collected, Prepared, Unfinished

log = logging.getLogger(__name__)

T = TypeVar("T")
_MEBIBYTE = 2**20
DELIVERY_PATIENCE = 1800.0
"""Seconds for which the repository may be unreachable at delivery before the round fails."""
_MOST_EXTRA = 4 * _MEBIBYTE
"""Bytes of what a CLI tells beside its output that are read."""
DECLARED_CHARACTERS = 4_000
"""Most that is kept of what an agent declares."""
CANCELLED = "cancelled"
"""Reason in the wrapper's records of a run that was ended on request."""
_UNSTARTED = "unstarted"
"""The same, when it was unknown whether it had started."""
TAMPERED = "tampered"
"""The same, when somebody else wrote its records."""
FOLDER_GONE = "gone"
"""The same, when its folder was removed while it went on."""
_REMOVED = "see who removes files below `workdir`"
_ENDED: Mapping[str, tuple[FailureClass, str]] = {
    "timeout": (
        FailureClass.TIMEOUT,
        "the agent took longer than {timeout} and was stopped; raise `{field}`, or ask for less at once",
    ),
    "stall": (
        FailureClass.STALL,
        "the agent printed nothing for {stall} and was stopped; raise `stall_timeout` if that is its way",
    ),
    "output": (
        FailureClass.AGENT,
        "the agent printed more than {output} MiB and was stopped; see its log, or raise `limits.output_mb`",
    ),
    CANCELLED: (FailureClass.CANCELLED, "the run was stopped"),
    FOLDER_GONE: (FailureClass.HOST, f"host {{host}}: the run's folder was removed under it; {_REMOVED}"),
    QUEUE: (
        FailureClass.HOST,
        "host {host}: the run waited in the queue for {queue} (`queue_timeout`) and was taken back",
    ),
    "workspace": (FailureClass.HOST, f"host {{host}}: the workspace was gone before the start; {_REMOVED}"),
    "shell": (
        FailureClass.HOST,
        "host {host}: under its `env` no `sh` can be started; correct `env` in its spec (PATH)",
    ),
    "sandbox": (
        FailureClass.HOST,
        "host {host}: its sandbox cannot be made, so nothing was started; see `reconciler host check {host}`",
    ),
    "unseen": (
        FailureClass.CONFIG,
        "host {host}: {program} is not to be seen in its sandbox; name its folder in `sandbox.readable`",
    ),
    "cli": (
        FailureClass.CONFIG,
        "host {host}: {program} is not there; install it, or name its `path` under the host's `adapters`",
    ),
}
_NOT_BEGUN = frozenset({"workspace", "shell", "sandbox", QUEUE})
"""Those of them for which the host kept the agent from its start."""
_UNKNOWN: Mapping[Stage, str] = {
    Stage.LOST: "the run is over and how it ended was not recorded: its processes were killed from outside, "
    "or the disk is full; see `dmesg` and `df` there",
    Stage.REBOOTED: "the host was started anew while the run went on; see why in its log",
}


_REVIEW_TRIES = (1, 2)
"""Numbers of the runs that review the work of a round: another follows one that came to no verdict."""
_NAMED = 3
"""Most leaks that a message names."""


class ReadOutput(Protocol):
    """Reads the output of an agent's CLI into a verdict."""

    def __call__(
        self,
        adapter: Adapter,
        *,
        stdout: BinaryIO,
        stderr: BinaryIO,
        exit_code: int,
        order: RunRequest,
        now: datetime,
        mask: Mask,
    ) -> Verdict:
        """Return the verdict."""


class _Hook(NamedTuple):
    """A command around the agent of a round."""

    command: str
    is_of_host: bool = False
    """Whether it stands in the spec of the host: it is the operator's, and in no sandbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Carries out one order."""

    order: RunRequest
    host_session: HostSession
    repository: CodeRepository | None
    logs: LogFolder
    read_output: ReadOutput
    clock: Callable[[], datetime]
    patience: float
    """Seconds for which a host or repository may be unreachable before the agent was started."""
    delivery_patience: float = DELIVERY_PATIENCE
    may_adopt: bool = False
    """Whether a run without a proof may be adopted: the data folder was lost."""
    on_agent_over: Callable[[], None] = lambda: None
    """Called when the agent and the hooks after it are over: what is left needs none of what it held."""
    secrets: InjectedSecrets = field(default_factory=InjectedSecrets)
    """Secrets that the rounds of the task were given."""

    async def carry_out(
        self, seen: Callable[[], None], queued: Callable[[str], None] = lambda _: None
    ) -> Report:
        """
        Return the report on the round; `seen` is called when the agent is seen alive.

        `queued` is called with each reason for which a part of it waits in a
        queue, and with an empty one when that is over.
        """
        try:
            if self.order.candidates:
                return await replace(self, order=await self._with_diffs()).carry_out(seen, queued)
            prepared, state = await self._begin()
        except StepFailed as error:
            await self._discard_files()
            # Of a later round the agent may have damaged its workspace; and the attempt began before it.
            began = self.order.round > 1 or not error.on_host
            checks = (error.check,) if isinstance(error, HookFailed) else ()
            report = Report(verdict=failed(Verdict(outcome="failed"), error), checks=checks, started=began)
            return masked(report, self.secrets.mask)
        begin = _Beginning(seen, queued, self.host_session.scheduler)
        begin.look(state)
        try:
            state = await self._settled(self._agent, await self._follow_agent(state, begin))
            notes = await self._take_over_scripts("while the agent was at work")
            notes += await self._after_run(prepared)
            await self._read_extra(state)
            await self._discard_files()
            if self.order.reviewer is None:  # else the review needs the slot
                self.on_agent_over()
        except StepFailed as error:
            await self._discard_files()
            return masked(Report(verdict=failed(Verdict(outcome="failed"), error)), self.secrets.mask)
        mask = await self._mask(prepared)
        verdict = await asyncio.to_thread(self._judge, state, mask)  # much to read, perhaps
        verdict = verdict.model_copy(update={"notes": (*verdict.notes, *notes)})
        try:
            report = await self._report(prepared, verdict, mask, queued)
        except StepFailed as error:
            report = Report(verdict=failed(verdict, error), base_commit=prepared.base, touched=error.touched)
        if state.why in _NOT_BEGUN or state.stage is Stage.DROPPED:
            report = report.model_copy(update={"started": False})
        return masked(report, mask)

    async def _with_diffs(self) -> RunRequest:
        """Return the order with what each of its candidates changes."""
        diffs, repository = dict[str, str](), self.repository
        if repository is None:  # there are no variants without one
            return with_diffs(self.order, diffs)
        for commit in self.order.candidates:
            step = partial(_diff_of, repository, commit)
            diffs[commit] = await retry_until_reachable(
                step, patience=self.patience, doing=self._works_on(_COMPARES)
            )
        return with_diffs(self.order, diffs)

    async def validate(self) -> tuple[Check, ...]:
        """
        Run the validation alone, once, on the commit that the order starts from; return what came of it.

        Raises StepFailed, Refused and Unavailable.
        """
        await self.host_session.runs.install_scripts()
        prepared = await self.host_session.workspaces.prepare(self.order, self.repository)
        host_runs = await self.host_session.runs.stat([self._validation])
        if await self._clear(self._validation, host_runs.states[self._validation]):
            prepared = await self.host_session.workspaces.prepare(self.order, self.repository)
        return await self._validate(prepared, Mask(), lambda _: None)

    async def forget_validation(self) -> None:
        """End the validation and remove its record, so that it may be run anew."""
        await self._forget(self._validation)

    async def cancel(self) -> None:
        """End agent and validation, and prevent them from starting later."""
        runs = self.host_session.runs
        for run_id in (*self._hooks, self._agent, self._validation, *self._review):
            await retry_until_reachable(partial(runs.cancel, run_id, CANCELLED, self._ending))
        await self._discard_files()

    # --- The agent ----------------------------------------------------------

    async def _begin(self, *, delivers: bool = True) -> tuple[Prepared, RunState]:
        """
        Start the agent in its workspace, unless it was started before.

        The host is asked that first, as long as it takes: only of an agent that
        was not started may we say after a while that it cannot be.
        """
        workspaces = self.host_session.workspaces
        runs, preparation = self.host_session.runs, self._preparation
        was_changed, state, answer = await retry_until_reachable(
            lambda: runs.install_scripts_then_stat(self._agent, preparation)
        )
        self._note_scripts("before the start", was_changed=was_changed)
        if state.stage not in {Stage.ABSENT, Stage.UNSTARTED}:
            await self._require_own_start(state)
            doing = self._works_on("finds the workspace")
            return await retry_until_reachable(lambda: workspaces.find(self.order), doing=doing), state
        if delivers and self.repository is not None and self.order.round == 1:  # before an agent is paid
            way_back = partial(self.repository.see_way_back, self.order.branch, self.order.expected_head)
            await retry_until_reachable(way_back, patience=self.patience, doing=_waits_for(self.repository))
        # Beside each other: the one waits for the disk here, the other for the host.
        prepared, _ = await asyncio.gather(
            self._prepare(workspaces.read_prepared(answer)), runs.draw_seal(self._agent)
        )
        await self._before_run(prepared)
        stdin = b"" if self.order.adapter.prompt == "argument" else self.order.prompt.encode()
        return prepared, await self._start_agent(await self._agent_job(prepared), stdin)

    @property
    def _preparation(self) -> Following | None:
        """What the host goes on to if the agent was not started: where nothing is to be known before."""
        if self.repository is not None or self._before:
            return None
        lines = [f"{self._agent} {stage}" for stage in (Stage.ABSENT, Stage.UNSTARTED)]
        return self.host_session.workspaces.preparation(self.order, lines)

    async def _prepare(self, made: Prepared | None) -> Prepared:
        """Make the workspace, or clean it; one in which hooks were begun is left as it is."""
        workspaces, hook = self.host_session.workspaces, self._hook("b")
        state = await self._stat(hook) if self._before else None
        if state and state.stage not in {Stage.ABSENT, Stage.UNSTARTED}:
            await self._require_own_record(hook, state)
            return await retry_until_reachable(lambda: workspaces.find(self.order))
        if made is None:
            made = await retry_until_reachable(
                lambda: workspaces.prepare(self.order, self.repository),
                patience=self.patience,
                doing=self._works_on(f"prepares the workspace{self._from_repo()}"),
            )
        await self._write_files(made)
        return made

    async def _write_files(self, prepared: Prepared) -> None:
        """Write the files of the round; their secrets are remembered for masking."""
        order = self.order
        if not order.files:
            return
        values = FileValues(
            workspace=prepared.folder,
            files=files_folder(prepared.run_folder),
            task=order.task,
            run=order.run,
            round=order.round,
            branch=order.branch,
            repo=order.repo.name if order.repo else None,
        )
        texts = dict[str, str]()
        for path, file in order.files.items():
            secrets = await self._look_up(f"file {path}", file.secrets, prepared)
            try:
                texts[path] = render_file(path, file, values, secrets)
            except ValueError as error:
                raise StepFailed(FailureClass.CONFIG, str(error)) from None
        await retry_until_reachable(
            lambda: self.host_session.workspaces.write(order, texts), patience=self.patience
        )

    async def _discard_files(self) -> None:
        """
        Remove the files of the round from its host.

        If that does not answer, they go when the work is taken up, or at the next sweep.
        """
        if not self.order.files:
            return
        discard = partial(self.host_session.workspaces.discard, [self._agent])
        try:
            await retry_until_reachable(discard, patience=0)
        except StepFailed as error:
            log.warning("%s round %d: its files stay for now: %s", self.order.run, self.order.round, error)

    async def _before_run(self, prepared: Prepared) -> None:
        """Run the hooks before the agent. Raises HookFailed: without what they set up nothing can work."""
        checks = await self._run_hooks("b", self._before, prepared, "runs the hooks before the agent")
        if check := next((check for check in checks if check.exit_code), None):
            raise HookFailed(self.order, check)

    async def _after_run(self, prepared: Prepared) -> tuple[str, ...]:
        """Run the hooks after the agent; return a note for what failed, and log it."""
        hooks = (*self._extra_hooks(prepared), *self._hooks_of("after_run"))
        checks = await self._run_hooks("e", hooks, prepared, "runs the hooks after the agent")
        failures = [check for check in checks if check.exit_code]
        notes = tuple(f"after_run {check.ending}: {one_line(check.command)}" for check in failures)
        for note in notes:
            log.warning("%s round %d: %s", self.order.run, self.order.round, note)
        return notes

    def _extra_hooks(self, prepared: Prepared) -> tuple[_Hook, ...]:
        """Return what asks the CLI for more than it printed; nothing if its adapter does not."""
        argv = extra_argv(self.order, prepared.folder)
        return (_Hook(extra_hook(argv, prepared.run_folder, self._cli_path)),) if argv else ()

    async def _read_extra(self, state: RunState) -> None:
        """
        Add what the CLI told elsewhere to its log, as if it had been printed last; once.

        Where its output is text, on stderr: what it printed is the agent's last words.
        """
        output = self.order.adapter.output
        name = EXTRA if output.extra_command else output.extra_file
        stream: StreamName = "err" if output.format == "text" else "out"
        size = state.err_bytes if stream == "err" else state.out_bytes
        if name is None or self.logs.size(self._agent, stream) > size:
            return
        read = partial(self.host_session.runs.output, self._agent, name, _MOST_EXTRA)
        if text := await retry_until_reachable(read):
            lines = b"\n" + text.rstrip(b"\n") + b"\n"
            await asyncio.to_thread(self.logs.append, self._agent, stream, lines)

    async def _run_hooks(
        self, part: Literal["b", "e"], hooks: tuple[_Hook, ...], prepared: Prepared, doing: str
    ) -> tuple[Check, ...]:
        """Run hooks, once in this round; return what came of each. Those of the host are in no sandbox."""
        if not hooks:
            return ()
        run_id, timeout = self._hook(part), self.order.hooks.timeout
        await self._clear(run_id, await self._stat(run_id))
        mask = await self._mask(prepared, is_agent_started=part == "e")
        commands = tuple(hook.command for hook in hooks)
        of_host = {number for number, hook in enumerate(hooks, 1) if hook.is_of_host}
        return await self._run_commands(
            run_id, commands, prepared, timeout, mask=mask, doing=doing, unconfined=of_host
        )

    async def _start_agent(self, job: str, stdin: bytes) -> RunState:
        """
        Start the agent; if the start keeps failing, cancel it for good on the host first.

        Until the host has confirmed that, it may have started, so nothing may be begun in its place.
        """
        try:
            return await self._start(self._agent, job, stdin, patience=self.patience)
        except StepFailed as error:
            if not isinstance(error.__cause__, Unavailable):
                raise
        runs = self.host_session.runs
        # As long as the host is away altogether, nothing is known; and then it may well start the run.
        host_runs = await retry_until_reachable(lambda: runs.stat([self._agent]))
        if host_runs.states[self._agent].stage not in {Stage.ABSENT, Stage.UNSTARTED}:
            return host_runs.states[self._agent]
        try:
            return await self._start(self._agent, job, stdin, patience=0)
        except StepFailed:
            state = await retry_until_reachable(lambda: runs.cancel(self._agent, _UNSTARTED, self._ending))
            if state.stage in {Stage.ABSENT, Stage.UNSTARTED} or state.why == _UNSTARTED:
                raise
            return state  # it was started after all

    async def _agent_job(self, prepared: Prepared) -> str:
        order, adapter = self.order, self.order.adapter
        prompt_file, declared = f"{prepared.run_folder}/prompt", declared_folder(prepared.run_folder)
        return agent_job(
            localize(
                order.argv,
                workdir=prepared.folder,
                prompt_file=prompt_file,
                declared=declared,
                files=files_folder(prepared.run_folder),
            ),
            env=self._environment(prepared) | await self._find_secrets(prepared),
            folder=prepared.folder,
            declared=declared,
            path=self._cli_path,
            prompt_file=prompt_file if adapter.prompt == "file" else None,
            confinement=self._confinement(prepared),
        )

    async def _find_secrets(self, prepared: Prepared) -> dict[str, str]:
        """Look up the agent's secrets, and remember them for masking."""
        adapter = self.order.adapter
        return await self._look_up(f"adapter {adapter.name}", adapter.secrets, prepared)

    async def _look_up(
        self, what: str, references: Mapping[str, Secret], prepared: Prepared
    ) -> dict[str, str]:
        host, transport = self.order.host, self.host_session.transport
        secrets = await retry_until_reachable(
            lambda: find_secrets(what, references, host, transport, self._environment(prepared)),
            patience=self.patience,
            doing=f"looks up the secrets of {what}" if references else None,
        )
        await asyncio.to_thread(self.secrets.keep, self._agent, secrets.values(), self.logs)
        return secrets

    async def _mask(self, prepared: Prepared, *, is_agent_started: bool = True) -> Mask:
        """
        Return the mask of the secrets that this and earlier rounds were given.

        What a process before this one gave is looked up again; if that is
        something else by now, texts are withheld. Before the agent is started
        its files alone hold secrets.
        """
        order = self.order
        agents = [agent_id(order.run, number) for number in range(1, order.round + 1)]
        given = [each for file in order.files.values() for each in file.secrets.values()]
        if is_agent_started:
            given += order.adapter.secrets.values()
        unproven = partial(self.secrets.unproven, agents, self.logs, must=self._agent if given else "")
        if await asyncio.to_thread(unproven):
            self.secrets.values |= await find_known(
                given, order.host, self.host_session.transport, self._environment(prepared)
            )
            if await asyncio.to_thread(unproven):
                return replace(self.secrets.mask, withheld=WITHHELD)
        return self.secrets.mask

    async def _follow_agent(self, state: RunState, begin: "_Beginning") -> RunState:
        streamed = self.order.adapter.output.streamed
        bounds = Bounds(
            silence=self.order.stall_timeout.total_seconds(),
            time=self.order.timeout.total_seconds(),
            output=self._most_output,
            give_up=self.order.adapter.output.give_up,
            give_up_after=self.order.adapter.output.give_up_after,
            counter=FigureCounter(streamed, self.logs, self._agent) if streamed else None,
            queue=self._longest_wait,
            on_look=begin.look,
        )
        return await self._follow(self._agent, state, bounds)

    def _judge(self, state: RunState, mask: Mask) -> Verdict:
        """Return the agent's verdict, corrected by what the host knows."""
        if state.exit_code is None:
            return failed(Verdict(outcome="failed"), self._unknown(state))
        with suppress(OSError):  # only a recording of it needs that
            self.logs.write_exit_code(self._agent, state.exit_code)
        with self.logs.open(self._agent, "out") as stdout, self.logs.open(self._agent, "err") as stderr:
            verdict = self.read_output(
                self.order.adapter,
                stdout=stdout,
                stderr=stderr,
                exit_code=state.exit_code,
                order=self.order,
                now=self.clock(),
                mask=mask,
            )
            was_done = verdict.outcome == "success" and state.why != CANCELLED
            if state.why == GAVE_UP and not was_done:
                why = give_up_verdict(self.order.adapter.output, stdout, stderr, self.clock(), mask)
                verdict = verdict.model_copy(update=why)
            denied = denied_egress(stderr) if self._has_egress_list else ()
        verdict = verdict.model_copy(update={"denied": denied})
        verdict = withheld(verdict, mask)
        verdict = verdict.model_copy(
            update={"usage": verdict.usage.model_copy(update={"seconds": state.seconds})}
        )
        if state.why == GAVE_UP:
            return verdict
        if was_done or state.why == "exit":
            return self._interrupted(verdict) if verdict.kind is FailureClass.CANCELLED else verdict
        return failed(verdict, self._ended(state.why))

    def _interrupted(self, verdict: Verdict) -> Verdict:
        """Return the verdict for a CLI that says it was cancelled, though not by us."""
        return failed(verdict, self._at_fault(f"the run was ended there by somebody else: {verdict.message}"))

    # --- What can be believed -----------------------------------------------

    async def _stat(self, run_id: str) -> RunState:
        return (await retry_until_reachable(lambda: self.host_session.runs.stat([run_id]))).states[run_id]

    async def _settled(self, run_id: str, state: RunState) -> RunState:
        """
        Return the end of a run, once all its processes are gone and its record is authentic.

        The seal on it says both. Raises StepFailed for an end that somebody else wrote.
        """
        if state.stage in {
            Stage.LOST,
            Stage.ORPHAN,
            Stage.DROPPED,
        }:  # there was no supervisor to end the other processes
            await retry_until_reachable(
                lambda: self.host_session.runs.cancel(run_id, CANCELLED, self._ending)
            )
        await self._require_own_record(run_id, state)
        return state

    async def _require_own_start(self, state: RunState) -> None:
        """
        Raise StepFailed for a run of this name that was not started from here.

        It fails until a person looks: another attempt would only do the same work again.
        """
        try:
            await self._require_own_record(self._agent, state)
        except StepFailed as error:
            raise StepFailed(FailureClass.CONFIG, f"{error}; or {self._restored(state)}") from error
        if state.stage is Stage.PAST:
            raise StepFailed(
                FailureClass.CONFIG,
                f"host {self.order.host.name}: {self._restored(state)} (`runs/past` there)",
            )

    def _restored(self, state: RunState) -> str:
        return (
            f"the fleet and its data folder were restored from an older copy: {self._agent} ran there before "
            f"({state.stage}), so nothing was started; restore the newer copy, or "
            f"`reconciler retry {self.order.task}` does it again under another attempt"
        )

    async def _require_own_record(self, run_id: str, state: RunState) -> None:
        """Raise StepFailed for a record that no start of ours made; log an error, and end that run."""
        runs = self.host_session.runs
        if await asyncio.to_thread(runs.proofs.is_ours, run_id, state):
            return
        if state.stage is Stage.PAST:
            return  # it has no record
        if self._may_adopt and state.stage is not Stage.STRANGE:
            log.warning("%s: taken up without a proof that it is ours: the data folder was lost", run_id)
            await asyncio.to_thread(runs.proofs.adopt, run_id, state)
            return
        root = (await retry_until_reachable(lambda: runs.stat([]))).root
        await retry_until_reachable(lambda: runs.cancel(run_id, TAMPERED, self._ending))
        error = StepFailed(
            FailureClass.AGENT,
            f"host {self.order.host.name}: tampered: the record in {root}/{run_id} ({state.stage}) was "
            "not made by a start from here, so nothing of it is believed; see who can write there "
            "(docs/security.md)",
        )
        log.error("%s round %d: %s", self.order.run, self.order.round, error)
        raise error

    async def _clear(self, run_id: str, state: RunState) -> bool:
        """
        Remove the run of the validation, or of hooks, of this round if it was not started from here.

        One that has no proof since the data folder was lost is removed, to be
        run anew; return whether there was one.
        """
        runs = self.host_session.runs
        if self._may_adopt and not await asyncio.to_thread(runs.proofs.is_ours, run_id, state):
            await self._forget(run_id)
            return True
        await self._require_own_record(run_id, state)
        return False

    async def _forget(self, run_id: str) -> None:
        """End a run and remove its record: its name is free again."""
        runs = self.host_session.runs
        await retry_until_reachable(lambda: runs.cancel(run_id, CANCELLED, self._ending))
        await retry_until_reachable(lambda: runs.remove([run_id]))
        await asyncio.to_thread(runs.proofs.forget, run_id)

    async def _take_over_scripts(self, when: str) -> tuple[str, ...]:
        """Reinstall our scripts on the host; return a note if they had been changed."""
        was_changed = await retry_until_reachable(self.host_session.runs.install_scripts)
        return self._note_scripts(when, was_changed=was_changed)

    def _note_scripts(self, when: str, *, was_changed: bool) -> tuple[str, ...]:
        if not was_changed:
            return ()
        message = (
            f"host {self.order.host.name}: tampered: a script of the reconciler was changed there {when}; "
            "it was put right, see who can write below `workdir` (docs/security.md)"
        )
        log.error("%s round %d: %s", self.order.run, self.order.round, message)
        return (message,)

    # --- What it leaves -----------------------------------------------------

    async def _report(
        self, prepared: Prepared, verdict: Verdict, mask: Mask, queued: Callable[[str], None]
    ) -> Report:
        await self._clear(self._validation, await self._stat(self._validation))
        declared = await self._declared(mask) if may_declare(verdict) else None
        if self.order.mode == "plan" and self.repository is not None:
            undo = partial(self.host_session.workspaces.undo, self.order, self.repository)
            await retry_until_reachable(undo, doing=self._works_on("takes back what a plan left"))
        if self.order.mode != "work":
            return Report(verdict=verdict, base_commit=prepared.base, declared=declared)
        if declared or verdict.outcome == "failed":
            verdict = await self._keep_work(prepared, verdict, mask)
            return Report(verdict=verdict, base_commit=prepared.base, declared=declared)
        taken = await self._take_up(prepared)
        if isinstance(taken, Unfinished):  # a round for the agent, as below; nothing of it is validated
            check = taken.withheld(mask).check()
            return Report(verdict=verdict, checks=(check,), base_commit=prepared.base)
        checks = await self._validate(prepared, mask, queued)
        report = Report(verdict=verdict, checks=checks, base_commit=prepared.base)
        if self.order.outputs and not report.failed_check:
            report = await self._with_outputs(report, mask)
        if report.failed_check or taken is None or self.repository is None:
            return report
        return await self._hand_over(report, taken, prepared, self.repository, mask)

    async def _hand_over(
        self, report: Report, taken: Collected, prepared: Prepared, repository: CodeRepository, mask: Mask
    ) -> Report:
        """Have validated work searched for secrets, reviewed and pushed; return the report on that."""
        stands = report.model_copy(update={"head_commit": self.order.start_from})
        if taken.head == taken.base:  # nothing new: after a review, the reviewed head stays
            return stands
        try:
            head, commits = await self._receive(taken, prepared, repository, mask)
            if not commits:  # it changes nothing, and is not pushed
                return stands
            report = await self._reviewed(report, head, repository)
            if report.objection and not self._goes_on(report.objection):
                return report
            head = await self._push(head, repository)
        except (MergeConflict, LeaksFound) as clash:  # a round for the agent, as if its validation had failed
            check = clash.check(repository.repo.base)
            return report.model_copy(update={"checks": (*report.checks, check)})
        return report.model_copy(update={"head_commit": head, "commits": commits})

    async def _reviewed(self, report: Report, head: str, repository: CodeRepository) -> Report:
        """Return the report with the second opinion on the work, and what that took; the same without one."""
        order, reviewer = self.order, self.order.reviewer
        if reviewer is None:
            return report
        base = order.stack
        if base is None:
            base = await retry_until_reachable(lambda: repository.fork(head))
        diff = await retry_until_reachable(partial(repository.diff, base, head))
        opinion = await self._consulted(reviewer, head, diff)
        spent = report.verdict.model_copy(update={"usage": report.verdict.usage + opinion.usage})
        log.info("%s round %d: %s", order.run, order.round, opinion.summary)
        return report.model_copy(update={"verdict": spent, "opinion": opinion})

    async def _consulted(self, reviewer: Reviewer, head: str, diff: str) -> Opinion:
        """Return the second opinion, of another run if the first came to none."""
        used = Usage()
        for number in _REVIEW_TRIES:
            request = review_request(self.order, reviewer, (self._review_key, number), head, diff)
            answer = await replace(self, order=request).consult()
            if answer.kind is FailureClass.CANCELLED:
                raise StepFailed(FailureClass.CANCELLED, answer.message)
            used += answer.usage
            opinion = read_opinion(reviewer, head, answer)
            if not is_worth_a_retry(opinion, answer):
                break
        return opinion.model_copy(update={"usage": used})

    def _goes_on(self, opinion: Opinion) -> bool:
        return self.order.reviewer is not None and is_deliverable(self.order.reviewer, opinion)

    async def consult(self) -> Verdict:
        """
        Run the agent alone, once, and return its verdict, masked; nothing that it leaves is taken up.

        A failure of the host is one of the verdict. Whatever it does in its workspace stays there.
        """
        verdict = Verdict(outcome="failed")
        try:
            prepared, state = await self._begin(delivers=False)
            begin = _Beginning(lambda: None, lambda _: None, self.host_session.scheduler)
            state = await self._settled(self._agent, await self._follow_agent(state, begin))
            await self._read_extra(state)
            await self._discard_files()
            mask = await self._mask(prepared)
            verdict = await asyncio.to_thread(self._judge, state, mask)
        except StepFailed as error:
            await self._discard_files()
            mask, verdict = self.secrets.mask, failed(verdict, error)
        return masked(Report(verdict=verdict), mask).verdict

    async def _declared(self, mask: Mask) -> Declaration | None:
        """Return what the agent declared in place of a result, masked; None if nothing that shows."""
        declared = await retry_until_reachable(lambda: self.host_session.runs.declared(self._agent))
        if declared is None:
            return None
        text = await asyncio.to_thread(mask.withhold, declared.text)
        # Cut after masking, far before the end of what was read: no half of a secret is left.
        text = head(text, characters=DECLARED_CHARACTERS)
        return declared.model_copy(update={"text": text}) if text else None

    async def _with_outputs(self, report: Report, mask: Mask) -> Report:
        """Return the report with what the agent wrote for other tasks; what is lacking is a failed check."""
        outputs, lacks = list[NamedOutput](), list[str]()
        for name in self.order.outputs:
            read = partial(self.host_session.runs.output, self._agent, name, DECLARED_BYTES)
            text = await asyncio.to_thread(_as_output, await retry_until_reachable(read), mask)
            if text is None or len(text) > OUTPUT_LENGTH:
                lacks.append(f"{name} {'was not written' if text is None else 'is too long'}")
            else:
                outputs.append(NamedOutput(name=name, text=text))
        checks = (*report.checks, *([_lacking(lacks)] if lacks else []))
        return report.model_copy(update={"outputs": tuple(outputs), "checks": checks})

    async def _keep_work(self, prepared: Prepared, verdict: Verdict, mask: Mask) -> Verdict:
        """Commit, on the host, what an agent left without a result; a failure to do so is only noted."""
        try:
            taken = await self._take_up(prepared)
        except StepFailed as error:
            return verdict.model_copy(update={"notes": (*verdict.notes, str(error))})
        left = taken.withheld(mask).lines if isinstance(taken, Unfinished) else ()
        return verdict.model_copy(update={"notes": (*verdict.notes, *left)})

    async def _take_up(self, prepared: Prepared) -> Collected | Unfinished | None:
        if (repository := self.repository) is None:
            return None
        if prepared.base is None:
            raise StepFailed(
                FailureClass.AGENT,
                f"host {self.order.host.name}: the repository in the workspace {prepared.folder} is gone or "
                "damaged; tell the agent to leave `.git` alone",
            )
        workspaces = self.host_session.workspaces
        taken = await retry_until_reachable(
            lambda: workspaces.take_up(self.order, repository),
            doing=self._works_on("takes up what the agent left"),
        )
        return taken if isinstance(taken, Unfinished) else replace(taken, base=prepared.base)

    async def _validate(
        self, prepared: Prepared, mask: Mask, queued: Callable[[str], None]
    ) -> tuple[Check, ...]:
        commands, timeout = self.order.validation, self.order.timeout
        if not commands:
            return ()
        return await self._run_commands(
            self._validation, commands, prepared, timeout, mask=mask, queued=queued
        )

    async def _run_commands(
        self,
        run_id: str,
        commands: tuple[str, ...],
        prepared: Prepared,
        timeout: timedelta,
        *,
        mask: Mask,
        queued: Callable[[str], None] = lambda _: None,
        doing: str | None = None,
        unconfined: Container[int] = (),
    ) -> tuple[Check, ...]:
        """Run commands in the workspace, up to the first that fails; return what came of each."""
        order = self.order
        job = commands_job(
            commands,
            env=self._environment(prepared),
            folder=prepared.folder,
            shell=order.host.shell,
            confinement=self._confinement(prepared),
            unconfined=unconfined,
        )
        state = await self._start(run_id, job, timeout=timeout)
        begin = _Beginning(lambda: None, queued, self.host_session.scheduler)
        bounds = Bounds(output=self._most_output, time=timeout.total_seconds(), on_look=begin.look)
        followed = await retry_until_reachable(lambda: self._follow(run_id, state, bounds), doing=doing)
        state = await self._settled(run_id, followed)
        if state.exit_code is None:
            raise self._unknown(state)
        if state.why not in {"exit", "timeout", "output"}:
            raise self._ended(state.why)
        return await asyncio.to_thread(self._checks, run_id, commands, state, mask)

    def _checks(
        self, run_id: str, commands: tuple[str, ...], state: RunState, mask: Mask
    ) -> tuple[Check, ...]:
        code = state.exit_code
        exit_code = code if code is not None and state.why == "exit" else STOPPED
        with self.logs.open(run_id, "err") as account, self.logs.open(run_id, "out") as output:
            return read_checks(
                commands, account, output, seconds=state.seconds, mask=mask, exit_code=exit_code
            )

    async def _receive(
        self, taken: Collected, prepared: Prepared, repository: CodeRepository, mask: Mask
    ) -> tuple[str, int]:
        """Fetch the work and check it; return its head and the number of commits, 0 if it changes nothing."""
        base, order = taken.base, self.order
        there = f"{taken.head} in {prepared.folder}, on host {order.host.name}"
        await self._reach(repository, lambda: repository.check_base(base, order.start_from), there)
        bundle = await retry_until_reachable(
            lambda: self.host_session.workspaces.bundle(order, repository, base),
            doing=self._works_on("sends the work"),
        )
        head = await retry_until_reachable(lambda: repository.receive(bundle, self._agent))
        if head != taken.head:
            raise self._at_fault(
                f"it spoke of {taken.head} and sent {head}; see what changes the workspace after the agent"
            )
        commits = await retry_until_reachable(lambda: repository.check(base, head))
        if not commits:
            return head, 0
        await self._require_no_leaks(repository, base, head, mask)
        return head, commits

    async def _push(self, head: str, repository: CodeRepository) -> str:
        """Push the work to its branch; return the head of that."""
        order = self.order
        self.on_agent_over()
        push = (
            partial(self.host_session.workspaces.push, order, repository)
            if repository.repo.push == "host"
            else None
        )
        here = f"{head} in {repository.folder}, on the machine of the reconciler"
        return await self._reach(
            repository,
            lambda: repository.deliver(head, order.branch, order.expected_head, push, stack=order.stack),
            here,
        )

    async def _require_no_leaks(self, repository: CodeRepository, base: str, head: str, mask: Mask) -> None:
        """
        Raise for secrets in the work: StepFailed for the run's own, LeaksFound for what looks like a token.

        Of its own nothing is given back to the agent: it might only try another form.
        """
        leaks = await retry_until_reachable(lambda: repository.leaks(base, head, mask, self._agent))
        own = [leak for leak in leaks if leak.is_own]
        if own:
            more = f" and {len(own) - _NAMED} more" if len(own) > _NAMED else ""
            raise StepFailed(
                FailureClass.AGENT,
                f"repo {repository.repo.name}: secret gate: {', '.join(map(str, own[:_NAMED]))}{more}; "
                f"nothing was delivered, the work is kept: commit {head} in {repository.folder}",
            )
        if leaks:
            raise LeaksFound(leaks)

    async def _reach(self, repository: CodeRepository, step: Callable[[], Awaitable[T]], kept: str) -> T:
        """Run a step that needs the forge; its error names where the work is kept."""
        try:
            return await retry_until_reachable(
                step, patience=self.delivery_patience, doing=_waits_for(repository)
            )
        except StepFailed as error:
            message = f"{error}; the work is kept: commit {kept}"
            raise StepFailed(error.kind, message, touched=error.touched) from error

    # --- Common to both -----------------------------------------------------

    def _from_repo(self) -> str:
        return f" from {self.repository.place}" if self.repository is not None else ""

    def _works_on(self, step: str) -> str:
        """Return, in words, that the host has not ended a step yet: one that hangs may take half an hour."""
        return f"host {self.order.host.name}: {step}, and has not ended yet"

    async def _start(
        self,
        run_id: str,
        job: str,
        stdin: bytes = b"",
        *,
        timeout: timedelta | None = None,
        patience: float | None = None,
    ) -> RunState:
        timeout = timeout or self.order.timeout
        head = self.host_session.scheduler.job_head(self.order.requires, timeout)
        return await retry_until_reachable(
            lambda: self.host_session.runs.start(
                run_id, head + job, stdin, timeout=timeout.total_seconds(), ending=self._ending
            ),
            patience=patience,
        )

    async def _follow(self, run_id: str, state: RunState, bounds: Bounds) -> RunState:
        """Wait for the end of a run; one that goes on without its folder is ended, as it cannot be found."""
        runs = self.host_session.runs
        state = await runs.follow(run_id, state, bounds, self._ending)
        if state.stage in {Stage.ABSENT, Stage.UNSTARTED, Stage.PAST}:
            state = await retry_until_reachable(lambda: runs.cancel(run_id, FOLDER_GONE, self._ending))
        return state

    def _environment(self, prepared: Prepared) -> dict[str, str]:
        order, files = self.order, files_folder(prepared.run_folder)
        env = {name: value.replace(FILES, files) for name, value in (order.adapter.env | order.env).items()}
        return {
            **order.host.env,
            **env,
            "RECONCILER_TASK": order.task,
            "RECONCILER_RUN": order.run,
            "RECONCILER_ROUND": str(order.round),
            "RECONCILER_MODE": order.mode,
            "RECONCILER_BRANCH": order.branch,
        }

    def _confinement(self, prepared: Prepared) -> Confinement | None:
        """Return the sandbox of the agent, and of what is run in its workspace; None if there is none."""
        order, run_folder = self.order, prepared.run_folder
        # What a worker finished is validated without an adapter of ours.
        sandbox = sandbox_of(order.host, order.adapter)
        if sandbox is None:
            return None
        mirror = self.repository and self.host_session.workspaces.mirror(self.repository, prepared)
        return Confinement(
            sandbox=sandbox,
            work=prepared.folder,
            fleet=prepared.fleet,
            writable=(declared_folder(run_folder), files_folder(run_folder)),
            readable=(f"{run_folder}/prompt", *([f"{mirror}/objects"] if mirror else [])),
            forwards_agent=order.host.agent_forwarding,
        )

    @property
    def _has_egress_list(self) -> bool:
        sandbox = sandbox_of(self.order.host, self.order.adapter)
        return sandbox is not None and bool(sandbox.destinations)

    def _ended(self, why: str) -> StepFailed:
        if end := self.host_session.scheduler.ends.get(why):
            return StepFailed(end.kind, f"host {self.order.host.name}: {end.message}")
        kind, message = _ENDED.get(why, (FailureClass.HOST, "host {host}: the run was ended there: {why}"))
        text = message.format(
            host=self.order.host.name,
            program=next(iter(self.order.argv), "sh"),
            why=why,
            field=self.order.timeout_field,
            timeout=format_duration(self.order.timeout),
            stall=format_duration(self.order.stall_timeout),
            output=self.order.adapter.limits.output_mb,
            queue=format_duration(self.host_session.scheduler.queue_timeout or timedelta()),
        )
        return StepFailed(kind, text)

    def _unknown(self, state: RunState) -> StepFailed:
        if state.why in self.host_session.scheduler.ends:
            return self._ended(state.why)
        message = f"the run is {state.stage}, and how it ended is not known"
        return self._at_fault(_UNKNOWN.get(state.stage, message))

    def _at_fault(self, message: str) -> StepFailed:
        return StepFailed(FailureClass.HOST, f"host {self.order.host.name}: {message}")

    @property
    def _cli_path(self) -> str | None:
        offered = (self.order.host.adapters or {}).get(self.order.adapter.name)
        return offered.path if offered else None

    @property
    def _may_adopt(self) -> bool:
        return self.may_adopt and not self.host_session.runs.proofs.has_drawn(self._agent)

    @property
    def _agent(self) -> str:
        return agent_id(self.order.run, self.order.round)

    @property
    def _before(self) -> tuple[_Hook, ...]:
        created = self._hooks_of("after_create") if self.order.round == 1 else ()
        return (*created, *self._hooks_of("before_run"))

    def _hooks_of(self, name: Literal["after_create", "before_run", "after_run"]) -> tuple[_Hook, ...]:
        """Return the hooks of a name, of which those of the host come first."""
        of_host = len(getattr(self.order.host.hooks, name))
        commands = getattr(self.order.hooks, name)
        return tuple(_Hook(command, at < of_host) for at, command in enumerate(commands))

    @property
    def _hooks(self) -> tuple[str, ...]:
        """Ids of the hooks that this round has."""
        before = (self._hook("b"),) if self._before else ()
        has_after = self.order.hooks.after_run or self.order.adapter.output.extra_command
        return (*before, self._hook("e")) if has_after else before

    def _hook(self, part: Literal["b", "e"]) -> str:
        return hook_id(self.order.run, self.order.round, part)

    @property
    def _review_key(self) -> str:
        return opinion_key(self.order.run, self.order.round)

    @property
    def _review(self) -> tuple[str, ...]:
        """Ids of the runs that may review the work, if any does."""
        tries = _REVIEW_TRIES if self.order.reviewer else ()
        return tuple(agent_id(self._review_key, number) for number in tries)

    @property
    def _validation(self) -> str:
        return validation_id(self.order.run, self.order.round)

    @property
    def _ending(self) -> RunEnding:
        stop = self.order.adapter.stop
        return RunEnding(signal=stop.signal, grace=stop.grace.total_seconds())

    @property
    def _longest_wait(self) -> float | None:
        """Seconds that the run may wait in the queue of its host, where it has one."""
        most = self.host_session.scheduler.queue_timeout
        return None if most is None else most.total_seconds()

    @property
    def _most_output(self) -> int:
        return self.order.adapter.limits.output_mb * _MEBIBYTE


_COMPARES = "reads what the variants change"


async def _diff_of(repository: CodeRepository, commit: str) -> str:
    """Return what a delivered commit changes, fetched if it is not here."""
    await repository.starting_point(commit)
    return await repository.diff(await repository.fork(commit), commit)


def _as_output(data: bytes | None, mask: Mask) -> str | None:
    """Return what an agent wrote as text without secrets; None if it wrote nothing."""
    return None if data is None else mask.withhold(data.decode(errors="replace"))


def _lacking(lacks: Sequence[str]) -> Check:
    """Return the failed check by which an agent is told what other tasks still need of it."""
    need = f"each with at most {OUTPUT_LENGTH} characters, to the folder that {OUTPUTS} names"
    text = "; ".join(lacks)
    return Check(
        command="outputs",
        exit_code=1,
        seconds=0.0,
        output=f"{text}; write them, {need}",
        summary=f"outputs: {text}",
    )


class HookFailed(StepFailed):
    """A hook before the agent failed; a person must mend it, or what it needs."""

    def __init__(self, order: RunRequest, check: Check) -> None:
        last = one_line(check.output.splitlines()[-1]) if check.output else "it printed nothing"
        message = f"a hook before the agent {check.ending}: {one_line(check.command)} ({last})"
        self.check = check.model_copy(update={"summary": message})
        super().__init__(FailureClass.CONFIG, f"host {order.host.name}: {message}")


class _Beginning:
    """Tells when a run begins, and what it waits for until then; each once."""

    def __init__(self, seen: Callable[[], None], queued: Callable[[str], None], scheduler: Scheduler) -> None:
        self._seen = seen
        self._queued = queued
        self._scheduler = scheduler
        self._is_seen = False
        self._waits_for: str | None = None
        """None as long as nothing was told: what is on record may be of a process before this one."""

    def look(self, state: RunState) -> None:
        """Note the state of the run at a look."""
        if state.stage.has_begun and not self._is_seen:
            self._is_seen = True
            self._seen()
        if not self._scheduler.has_queue or not state.stage.is_alive:
            return
        message = self._scheduler.wait_message(state.why) if state.stage is Stage.QUEUED else ""
        if message != self._waits_for:
            self._waits_for = message
            self._queued(message)


def failed(verdict: Verdict, error: StepFailed) -> Verdict:
    """Return the verdict of a round in which a step failed."""
    return verdict.model_copy(update={"outcome": "failed", "kind": error.kind, "message": str(error)})


def masked(report: Report, mask: Mask) -> Report:
    """Return a report with secrets masked in all its texts."""
    hide, verdict = mask.hide, report.verdict
    lists = {"notes": tuple(map(hide, verdict.notes)), "denied": tuple(map(hide, verdict.denied))}
    clean = verdict.model_copy(update=_texts(verdict, hide) | lists)
    checks = tuple(check.model_copy(update=_texts(check, hide)) for check in report.checks)
    return report.model_copy(update={"verdict": clean, "checks": checks})


def _texts(value: Verdict | Check, change: Callable[[str], str]) -> dict[str, str]:
    """Return every text of a value, changed, by the name of its field."""
    kept = {"outcome", "kind"}
    return {name: change(text) for name, text in value if isinstance(text, str) and name not in kept}


def withheld(verdict: Verdict, mask: Mask) -> Verdict:
    """Return the verdict without its texts if they cannot be masked reliably."""
    if not mask.withheld:
        return verdict
    texts = {"message": mask.withhold(verdict.message), "text": mask.withhold(verdict.text)}
    notes = (mask.withheld,) if verdict.notes else ()
    return verdict.model_copy(update={**texts, "notes": notes, "denied": ()})


def _waits_for(repository: CodeRepository) -> str:
    return f"repo {repository.repo.name}: waits for an answer of {repository.place}"
