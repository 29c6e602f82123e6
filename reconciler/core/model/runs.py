"""
Runs: what a host or a worker is asked to carry out, and what came of it.
"""

import re
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from reconciler.core.adapter import Adapter, Files, Usage
from reconciler.core.fields import (
    Branch,
    Duration,
    Env,
    Frozen,
    Id,
    Time,
    Total,
)
from reconciler.core.model.specs import Host, Repo, RunHooks
from reconciler.core.text import one_line


class FailureClass(StrEnum):
    """Why a run failed; it decides what happens next."""

    AGENT = "agent"
    VALIDATION = "validation"
    TIMEOUT = "timeout"
    STALL = "stall"
    HOST = "host"
    QUOTA = "quota"
    AUTH = "auth"
    BUDGET = "budget"
    CONFIG = "config"
    CANCELLED = "cancelled"


RunMode = Literal["work", "plan", "judge"]
"""What a round is for: the work itself, a plan of it, or a choice among variants of it."""

STOPPED = 124
"""Exit code of a command that was stopped, as timeout(1) has it."""


class Check(Frozen):
    """One validation command that was run."""

    command: str
    exit_code: Annotated[int, Field(ge=-(2**31), lt=2**31)]
    """As the shell reports it; 124 if it was stopped for taking too long."""
    seconds: Annotated[float, Field(strict=False)]
    output: str = ""
    """The end of what it printed."""
    summary: str = ""
    """What it found, in one line, where its name does not say it."""

    @property
    def ending(self) -> str:
        """How it ended, in words that follow its name."""
        if self.exit_code == STOPPED:
            return f"was stopped after {self.seconds:g} s"
        return f"failed with exit code {self.exit_code}"


class Declaration(Frozen):
    """What an agent says in place of a result: it has a question, is blocked, or gives the task back."""

    kind: Literal["question", "blocked", "released"]
    text: str
    """The question, or why; masked, and of limited length."""


OUTPUT_LENGTH = 8_000
"""Most characters of an output: it stands on record and in the prompts of other tasks."""


class NamedOutput(Frozen):
    """What an agent hands down to the tasks that depend on its own."""

    name: str
    text: str
    """Masked; whole."""


class Claim(Frozen):
    """What a pull agent says came of its work: a claim until it is checked."""

    outcome: Literal["review_pending", "completed", "failed", "released", "asks"]
    result: str = ""
    """Its last words: what was done, or why not; or what it asks."""
    branch: Branch | None = None
    """Branch it pushed, if not the one it was given."""
    pull_request: Id | None = None
    """Number of the pull request it opened."""
    usage: Usage = Usage.model_construct()


class ReviewNote(Frozen):
    """What somebody wrote in a review; it stands in the prompt of the round that answers it."""

    author: str
    text: str
    path: str | None = None
    """File that an inline comment is about."""
    line: Id | None = None
    """Its line there, 1-based."""

    @property
    def place(self) -> str:
        """The file and line that it is about, before its text; empty if it is about none."""
        return f"{self.path}{f':{self.line}' if self.line else ''}: " if self.path else ""


class Opinion(Frozen):
    """What a second agent made of finished work: recorded like a validation."""

    adapter: str
    """Of the agent that reviewed."""
    model: str | None = None
    account: str | None = None
    """Account whose credential it used; None for the adapter's own."""
    commit: str
    """Head of the work that it is about."""
    verdict: Literal["approve", "changes", "failed"]
    """`failed`: it came to no verdict, so nothing was approved."""
    findings: tuple[ReviewNote, ...] = ()
    message: str = ""
    """Why it failed, in one line."""
    kind: Annotated[FailureClass, Field(strict=False)] | None = None
    """Failure class of its run; None if that succeeded."""
    retry_at: Time | None = None
    """When the quota that it met is full again, if its output says so."""
    usage: Usage = Usage.model_construct()
    """What it took; part of the usage of the round."""

    @property
    def mark(self) -> str:
        """What stands for it on record: adapter, verdict, commit."""
        return f"{self.adapter} {self.verdict} {self.commit}"

    @property
    def summary(self) -> str:
        """What came of it, in one line."""
        who = f"the second opinion ({self.adapter})"
        if self.verdict == "approve":
            return f"{who} approves"
        if self.verdict == "failed":
            return f"{who} came to no verdict: {self.message}"
        more = f", and {len(self.findings) - 1} more" if len(self.findings) > 1 else ""
        return f"{who} asks for changes: {one_line(self.findings[0].text, 200)}{more}"


class Verdict(Frozen):
    """What the agent's CLI made of one round, as far as its output and exit code can be believed."""

    outcome: Literal["success", "failed"]
    kind: Annotated[FailureClass, Field(strict=False)] | None = None
    """Failure class; None for a success."""
    message: str = ""
    """Why it failed, in one line."""
    session_id: str | None = None
    text: str = ""
    """The agent's last words."""
    usage: Usage = Usage.model_construct()
    model: str | None = None
    """Model that the CLI says it used."""
    session_totals: Usage = Usage.model_construct()
    """The CLI's running totals of the session; what `usage` of its next run is counted from."""
    retry_at: Time | None = None
    """When a quota is full again, if the output says so."""
    notes: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    """Destinations that the egress list of its sandbox kept it from."""


class Report(Frozen):
    """What came of one round: the agent's verdict, the validation, the branch."""

    verdict: Verdict
    checks: tuple[Check, ...] = ()
    base_commit: str | None = None
    """Commit the work started from."""
    head_commit: str | None = None
    """Head of the delivered branch; None if there is none. What it was if a review round changed nothing."""
    commits: Total = 0
    """Commits on the branch that the base does not have; 0 if together they change nothing."""
    outputs: tuple[NamedOutput, ...] = ()
    """What the task's `outputs` name, of a round that succeeded."""
    touched: str | None = None
    """Head that somebody else pushed to the branch meanwhile; nothing was delivered."""
    opinion: Opinion | None = None
    """What the second agent made of it; None if there is none."""
    declared: Declaration | None = None
    """What the agent said in place of a result; nothing was validated or delivered then."""
    started: bool = True
    """False if the agent was never started, by a fault of its host: nothing of the task was tried."""

    @property
    def failed_check(self) -> Check | None:
        """The first validation command that failed."""
        return next((check for check in self.checks if check.exit_code != 0), None)

    @property
    def objection(self) -> Opinion | None:
        """The second opinion that kept the work from its delivery."""
        is_held = self.opinion and self.opinion.verdict != "approve" and self.head_commit is None
        return self.opinion if is_held else None


class Reviewer(Frozen):
    """Who reviews finished work, and by what terms."""

    adapter: Adapter
    """With the secrets of its account."""
    account: str | None = None
    model: str | None
    brief: str
    """What the work was to do: goal and constraints."""
    is_last: bool
    """Whether its agent has had all rounds that a second opinion may cost."""
    has_people: bool
    """Whether people review the work after it."""
    timeout: Duration


class RunRequest(Frozen):
    """Everything a host needs to carry out one round of a run; carrying it out twice is once."""

    run: str
    round: int
    task: str
    host: Host
    adapter: Adapter
    repo: Repo | None
    argv: tuple[str, ...]
    """The agent's command; the host's own paths are still to be filled in (`command.localize`)."""
    prompt: str
    mode: RunMode = "work"
    """Not `work`: only the agent's last words are wanted; nothing is validated, taken up or delivered."""
    candidates: tuple[str, ...] = ()
    """Commits of the variants to choose from; their diffs are still to be filled in (`with_diffs`)."""
    env: dict[str, str]
    branch: str
    start_from: str | None = None
    """Commit to go on from (a later round or attempt, or another task's work); the base branch if None."""
    stack: str | None = None
    """Commit of another task's work that this one is on top of, if it is."""
    expected_head: str | None = None
    """What the branch in the code repository was when it was last delivered; None: never."""
    session_id: str | None = None
    """Session that is resumed."""
    chosen_session: str | None = None
    """Id that was made for a new session; None where the CLI makes its own."""
    session_totals: Usage = Usage.model_construct()
    """The CLI's running totals of that session before this round."""
    validation: tuple[str, ...] = ()
    reviewer: Reviewer | None = None
    """Who reviews the work before it is delivered."""
    keeps_work: bool = False
    """Whether what lies uncommitted in the workspace stays: a person may have worked in it."""
    outputs: tuple[str, ...] = ()
    """Names of the files that the agent is to write for other tasks."""
    hooks: RunHooks = RunHooks.model_construct()
    """Those of the host, and then those of the repo."""
    files: Files = Field(default_factory=dict)
    """Those of the adapter, and over them those of the task."""
    requires: tuple[str, ...] = ()
    """Labels that the task requires; the scheduler of its host may have options for them."""
    timeout: Duration
    timeout_field: str = "timeout"
    """Field of the task's spec that `timeout` comes from."""
    stall_timeout: Duration
    commit_message: str
    """Of the commit that takes up what the agent left uncommitted."""

    @property
    def key(self) -> tuple[str, int]:
        """(run key, round): the name under which it is started once."""
        return self.run, self.round


class Assignment(Frozen):
    """What an outside agent is to carry out, and what its work is held against."""

    run: str
    epoch: int
    """Number of the attempt: every report names it, so that one from a lease that is lost is refused."""
    task: str
    title: str
    prompt: str
    repo: Repo | None
    branch: str
    """Branch to push the work to."""
    start_from: str | None = None
    """Commit to go on from (after a review); the base branch if None."""
    validation: tuple[str, ...] = ()
    answer: str | None = None
    """Answer to what was asked last; None if nothing was."""
    validate_on: Host | None = None
    """Where that is run on what the agent finished; None: nowhere, its word is taken."""
    env: Env = Field(default_factory=dict)
    """Environment of the validation commands."""
    review: str
    allow_empty: bool = False
    """Whether it may be finished without a branch, or by one that changes nothing."""
    timeout: Duration


class ValidationRequest(Frozen):
    """A commit whose validation a host runs alone, without an agent; asking again is asking once."""

    run: str
    """Run in whose name it is kept on the host, and with which it goes."""
    task: str
    host: Host
    repo: Repo | None
    branch: str
    commit: str
    validation: tuple[str, ...]
    env: Env = Field(default_factory=dict)
    timeout: Duration


def run_key(task: str, generation: str, attempt: int) -> str:
    """Return the name of a run: it names the folder on the host, the log, the commit trailer."""
    return f"{task}.g{generation[:8]}.a{attempt}"


_RUN_KEY = re.compile(r"(?P<task>.+)\.g[^.]*\.a(?P<attempt>\d{1,18})\Z")


def read_run_key(key: str) -> tuple[str, int] | None:
    """Return the task and the attempt that a run key names; None if it is no run key."""
    match = _RUN_KEY.match(key)
    return (match["task"], int(match["attempt"])) if match else None
