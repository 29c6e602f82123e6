"""
One task that a pull agent holds: its folder, its command, its log, its report.
"""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from reconciler.core.adapter import Usage
from reconciler.core.errors import LeaseLost, NotFound, NotNow, Refused, Unavailable, UsageError
from reconciler.core.fields import Branch, Frozen
from reconciler.core.runs.command import ANSWER_VARIABLE
from reconciler.core.text import harmless, one_line, tail
from reconciler.wire import MOST_TEXT, Lease, Limited, Number, StatusRequest, Used
from reconciler.worker.checkout import TaskCheckout, check_out
from reconciler.worker.client import LOG_CHUNK, ApiClient
from reconciler.worker.process import end_left_over, environment, mask, records_beside, run_command
from reconciler.worker.slot import HeldTask, Slot

JobOutcome = Literal["completed", "failed", "released", "asks"]

LAST_REPORT = 10.0
"""Seconds to give a task back when the worker stops; else its next start does."""
MOST_OUTPUT = 64 * 1024 * 1024
"""Bytes; a command that prints more is stopped."""
_TICK = 0.5
"""Seconds between looks at what the command printed."""
_LINES, _CHARACTERS = 80, 8000
_WINDOW = 64 * 1024
"""Bytes of the end that are looked at: what is masked may be longer than what is kept."""
_MOST_RESULT = 1024 * 1024

_NOT_OURS = (LeaseLost, NotNow, NotFound)
"""Errors which mean that the task is not, or no longer, held by this agent."""


class ResultFile(Frozen):
    """What a command may write, as JSON, to the file that RECONCILER_RESULT_FILE names."""

    outcome: Literal["completed", "failed", "released"] | None = None
    """Result; derived from the exit code if left out."""
    result: Limited = ""
    """Final message; the end of the output if left out."""
    branch: Branch | None = None
    """Branch that was pushed, if not the requested one."""
    pull_request: Number | None = None
    usage: Used = Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobConfig:
    """Settings of a job: the command, and how its checkout is made."""

    command: str
    """Shell text, run for each task."""
    clones: bool
    """Whether a task's repository is cloned before, and its branch pushed after the command."""
    say: Callable[[str], None]
    """Called with a line for each step."""


class Job:
    """A held task, as recorded in its slot on disk."""

    def __init__(self, client: ApiClient, means: JobConfig, slot: Slot, folder: Path, held: HeldTask) -> None:
        if held.lease is None:
            raise ValueError("nothing is held")
        self._client, self._means, self._slot, self._folder = client, means, slot, folder
        self._held = held
        self._lease: Lease = held.lease
        self._every = held.lease.heartbeat_seconds
        self._sent = 0
        """Bytes of output that the reconciler has stored."""
        self._is_log_full = False
        """Whether it keeps no more of it."""

    async def run(self) -> bool:
        """
        Run the command and report the result; return whether it succeeded.

        When this is cancelled, the command is ended and the task given back.
        """
        self._say(f"taken as {self._lease.lease}")
        try:
            report = await self._work_on_it()
        except asyncio.CancelledError:
            self._keep(report=self._report("released", "the agent was told to stop"))
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_REPORT):
                    await self.report()
            raise
        except _NOT_OURS as error:
            self._say(f"lost: {error}")
            self._slot.clear()
            return True
        self._keep(report=report)
        await self.report()
        return report.status != "failed"

    async def take_up(self) -> None:
        """Finish a job left by an earlier process: end the command, send the report."""
        if self._held.report is None:
            if self._held.process:
                await end_left_over(self._held.process, records_beside(self._output))
            self._keep(report=self._report("released", "the agent was started anew"))
        await self.report()

    async def report(self) -> None:
        """Send the rest of the log and the report that is on disk; then forget the task."""
        report = self._held.report
        if report is None:
            raise ValueError("nothing is to be reported")
        pulse = asyncio.create_task(self._pulse())
        try:
            await self._send_log()
            await self._client.status(self._lease.task, report)
            text = one_line(report.result or report.question, 200)
            self._say(f"reported {report.status}{f': {text}' if text else ''}")
        except (*_NOT_OURS, UsageError) as error:
            self._say(f"not reported as {report.status}: {error}")
        finally:
            await _end([pulse])
        self._slot.clear()

    # --- The work ----------------------------------------------------------

    async def _work_on_it(self) -> StatusRequest:
        """Return the report on the work, or on why it was stopped. Raises the errors in _NOT_OURS."""
        await asyncio.to_thread(self._make_folder)
        tasks = [asyncio.create_task(each) for each in (self._work(), self._pulse(), self._stream())]
        seconds = self._lease.timeout_seconds
        try:
            await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            ended = next((task for task in tasks if task.done()), None)
            return ended.result() if ended else self._report("failed", f"it took longer than {seconds:g} s")
        finally:
            await _end(tasks)

    async def _work(self) -> StatusRequest:
        await self._client.start(self._lease.task, self._lease.epoch)
        try:
            checkout = await self._check_out()
        except Unavailable as error:
            return self._report("failed", f"the repository could not be cloned: {error}")
        place = checkout.folder if checkout else self._work_folder
        async with run_command(
            self._means.command,
            folder=place,
            env=self._environment(),
            output=self._output,
            record=lambda process: self._keep(process=process),
        ) as process:
            code = await process.wait()
        return await self._judged(code, checkout)

    def _make_folder(self) -> None:
        """Recreate the folder; the previous task's files were kept for inspection until now."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._prompt.write_text(self._lease.prompt, encoding="utf-8")
        self._output.touch()

    async def _check_out(self) -> TaskCheckout | None:
        repo = self._lease.repo
        if repo is None or not self._means.clones:
            self._work_folder.mkdir()
            return None
        return await check_out(self._lease, repo, self._work_folder)

    def _environment(self) -> dict[str, str]:
        lease, repo = self._lease, self._lease.repo
        return environment() | {
            "RECONCILER_TASK": lease.task,
            "RECONCILER_RUN": lease.lease,
            "RECONCILER_EPOCH": str(lease.epoch),
            "RECONCILER_BRANCH": lease.branch,
            "RECONCILER_START_FROM": lease.start_from or "",
            "RECONCILER_REPO_URL": repo.url if repo else "",
            "RECONCILER_BASE": repo.base if repo else "",
            "RECONCILER_PROMPT_FILE": str(self._prompt),
            "RECONCILER_RESULT_FILE": str(self._result),
            "RECONCILER_QUESTION_FILE": str(self._question),
            **({ANSWER_VARIABLE: lease.answer} if lease.answer else {}),
        }

    async def _judged(self, code: int, checkout: TaskCheckout | None) -> StatusRequest:
        """Return the report on the ended command, and push its branch if it succeeded."""
        if question := self._read_question():
            return self._report("asks", question)
        try:
            result = self._read_result()
        except ValueError as error:
            return self._report("failed", str(error))
        outcome = result.outcome or ("failed" if code else "completed")
        message = result.result or self._end_of_output(code)
        if outcome == "completed" and checkout:
            if unwanted := await self._unwanted():
                return unwanted
            try:
                if unfinished := await checkout.unfinished():
                    message = (
                        f"the work was left unfinished, and is not pushed: {'; '.join(unfinished)}\n{message}"
                    )
                    return self._report("failed", message, result)
                await checkout.push()
                message += "\n(Files were left uncommitted.)" if await checkout.left() else ""
            except Unavailable as error:
                outcome, message = "failed", f"the branch could not be pushed: {error}"
        return self._report(outcome, message, result)

    def _read_question(self) -> str:
        """Return what the command asks a person; empty if nothing."""
        with suppress(FileNotFoundError):
            if self._question.is_file():  # a pipe would block
                with self._question.open("rb") as file:
                    return file.read(_MOST_RESULT).decode(errors="replace").strip()
        return ""

    def _read_result(self) -> ResultFile:
        """Return the result file that the command wrote. Raises ValueError if it is malformed."""
        if not self._result.is_file():  # a pipe would block
            return ResultFile()
        try:
            with self._result.open("rb") as file:
                return ResultFile.model_validate_json(file.read(_MOST_RESULT))
        except FileNotFoundError:
            return ResultFile()
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ValueError(f"what the command wrote to RECONCILER_RESULT_FILE is wrong: {wrong}") from None

    def _end_of_output(self, code: int) -> str:
        with self._output.open("rb") as file:
            file.seek(max(0, self._output.stat().st_size - _WINDOW))
            end = tail(
                mask().hide(file.read().decode(errors="replace")), lines=_LINES, characters=_CHARACTERS
            )
        how = f"exit code {code}" if code >= 0 else f"ended by signal {-code}"
        return f"{how}\n{end}".rstrip() if code else end

    def _report(self, outcome: JobOutcome, message: str, result: ResultFile | None = None) -> StatusRequest:
        result = result or ResultFile()
        is_for_review = outcome == "completed" and self._lease.review != "none"
        text = harmless(mask().hide(message)).strip()[:MOST_TEXT]
        return StatusRequest(
            epoch=self._lease.epoch,
            status="review_pending" if is_for_review else outcome,
            question=(text or "(nothing that can be shown)") if outcome == "asks" else "",
            result="" if outcome == "asks" else text,
            branch=result.branch,
            pull_request=result.pull_request,
            usage=result.usage,
        )

    # --- Meanwhile ---------------------------------------------------------

    async def _pulse(self) -> StatusRequest:
        """Send heartbeats until told to stop; return the report for that case."""
        while True:
            await asyncio.sleep(self._every)
            if unwanted := await self._unwanted():
                return unwanted

    async def _unwanted(self) -> StatusRequest | None:
        """Ask whether to go on; return the report if not. Raises the errors in _NOT_OURS."""
        answer = await self._client.heartbeat(self._lease.task, self._lease.epoch)
        self._every = answer.heartbeat_seconds
        if answer.desired == "lost":
            raise LeaseLost(answer.message or "it is not ours any more")
        return self._report("released", answer.message) if answer.desired == "cancel" else None

    async def _stream(self) -> StatusRequest:
        """Send the output as it grows; return the report if there is too much of it."""
        while not self._output.exists() or self._output.stat().st_size <= MOST_OUTPUT:
            await self._send_log()
            await asyncio.sleep(_TICK)
        return self._report("failed", f"it printed more than {MOST_OUTPUT // 2**20} MiB")

    async def _send_log(self) -> None:
        """Send what the reconciler does not keep yet, for as long as it takes more."""
        while not self._is_log_full and (piece := self._piece()):
            try:
                kept = await self._client.log(self._lease.task, self._lease.epoch, self._sent, piece)
            except _NOT_OURS:
                raise
            except Refused as error:  # of a token that is not good any more other calls tell
                self._say(f"the rest of the log stays in {self._output}: {error}")
                self._is_log_full = True
                return
            if kept == self._sent:
                return
            self._sent = kept

    def _piece(self) -> bytes:
        try:
            with self._output.open("rb") as file:
                file.seek(self._sent)
                return file.read(LOG_CHUNK)
        except FileNotFoundError:
            return b""

    # --- What is kept ------------------------------------------------------

    def _keep(self, *, process: str | None = None, report: StatusRequest | None = None) -> None:
        changes = {"process": process or self._held.process, "report": report or self._held.report}
        self._held = self._held.model_copy(update=changes)
        self._slot.write(self._held)

    def _say(self, text: str) -> None:
        self._means.say(one_line(mask().hide(f"{self._lease.task}: {text}")))

    @property
    def _prompt(self) -> Path:
        return self._folder / "prompt.md"

    @property
    def _output(self) -> Path:
        return self._folder / "output.log"

    @property
    def _result(self) -> Path:
        return self._folder / "result.json"

    @property
    def _question(self) -> Path:
        return self._folder / "question.txt"

    @property
    def _work_folder(self) -> Path:
        return self._folder / "work"


async def _end(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    """Cancel tasks and wait until they have cleaned up; their results are ignored."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
