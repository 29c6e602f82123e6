"""
The shapes of what `-o json` prints: a promise, whose version is `format`.

Fields may come with any release; when one goes, or means something else, the version grows.
Imported by those who check: mypy, the tests, and the program that writes the documentation.
"""

from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

CLOSED = ConfigDict(use_attribute_docstrings=True, extra="forbid", strict=True)


@with_config(CLOSED)
class ConditionShape(TypedDict):
    """A condition of a task."""

    type: str
    """Ready, Progressing or Stalled."""
    status: bool
    """Whether it is so."""
    reason: str
    """Why, in a word."""
    message: str
    """Why, in a sentence."""
    since: str | None
    """When it last changed."""


@with_config(CLOSED)
class CauseShape(TypedDict):
    """Why a task's last run failed."""

    summary: str
    """In one line."""
    output: list[str]
    """Last lines of what failed."""
    workspace: str | None
    """Where its files are, as host:path."""
    kept_until: str | None
    """Until when they are kept."""
    next: list[str]
    """What to type next."""


@with_config(CLOSED)
class LiveShape(TypedDict):
    """Figures of a run that goes on, where it is followed."""

    last_output_at: str | None
    """When it printed last."""
    turns: int | None
    """Turns of its agent so far."""
    input_tokens: int | None
    """Tokens it read, as its agent counts them."""
    output_tokens: int | None
    """Tokens it wrote."""
    cached_tokens: int | None
    """Of those it read: those that were cached."""


@with_config(CLOSED)
class TaskShape(TypedDict):
    """`get tasks`, `describe TASK`: what is asked for and where it stands."""

    kind: Literal["task"]
    """What it is."""
    name: str
    """Its name, such as web/fix-login."""
    phase: str
    """Where it stands; `created` if it is not on record yet."""
    since: str | None
    """When it entered the phase."""
    reason: str
    """Why it is not further, in a sentence; empty for nothing."""
    cause: CauseShape | None
    """Why its last run failed, if it did."""
    conditions: list[ConditionShape]
    """Ready, Progressing, Stalled."""
    problems: list[str]
    """Mistakes of its spec, or of its file on record, each with path, line and column."""
    spec: dict[str, Any] | None
    """Fields of [a task](task.md), defaults filled in; null if its file is gone or cannot be read."""
    status: dict[str, Any] | None
    """Fields of its [status](#status-of-a-task); null if it is not on record."""
    live: NotRequired[LiveShape]
    """Figures of its live run; left out where none are known here."""
    shard: NotRequired[str]
    """Shard that has it, or is to take it; left out where the fleet has one reconciler."""


@with_config(CLOSED)
class SlotsShape(TypedDict):
    """Slots of a host."""

    used: int
    """Those that live runs take."""
    free: int
    """Those to be had."""


@with_config(CLOSED)
class HostShape(TypedDict):
    """`get hosts`, `describe host/NAME`."""

    kind: Literal["host"]
    """What it is."""
    name: str
    """Its name."""
    state: str
    """up, unready, down, unknown, suspended, cordoned, draining or drained."""
    since: str | None
    """Since when."""
    slots: SlotsShape
    """Its slots."""
    runs: list[str]
    """Keys of the live runs on it."""
    spec: dict[str, Any]
    """Fields of [a host](host.md), defaults filled in."""
    status: dict[str, Any] | None
    """Fields of its [status](#status-of-a-host), what the last probe found; null if it was not asked yet."""
    shard: NotRequired[str]
    """Shard whose tasks run on it; left out where the fleet has one reconciler."""


@with_config(CLOSED)
class AccountShape(TypedDict):
    """`get accounts`, `describe account/NAME`."""

    kind: Literal["account"]
    """What it is."""
    name: str
    """Its name."""
    state: str
    """usable, at limit, failing (out of service) or suspended."""
    runs: list[str]
    """Keys of the live runs with it."""
    spec: dict[str, Any] | None
    """Fields of [an account](account.md), defaults filled in; null for one that an adapter has by itself."""
    status: dict[str, Any] | None
    """Fields of its [status](#status-of-an-account); null if it is not at its limit, as far as is known."""


@with_config(CLOSED)
class SpecShape(TypedDict):
    """`get agents|adapters|repos`: things without a status."""

    kind: Literal["agent", "adapter", "repo"]
    """What it is."""
    name: str
    """Its name."""
    spec: dict[str, Any]
    """Fields of [an agent](agent.md), [an adapter](adapter.md) or [a repo](repo.md), defaults filled in."""
    held: NotRequired[list[str]]
    """Of an agent: the tasks in its hands."""
    forge_fault: NotRequired[str | None]
    """
    Of a repo: why its forge cannot be worked with, such as a right that the token lacks, as who reconciles
    says; null if nothing is known to be wrong.
    """
    failing: NotRequired[list[str]]
    """Of an adapter: the accounts with which it is out of service."""


@with_config(CLOSED)
class TransitionShape(TypedDict):
    """`history`, `events`: one transition of a task, or news of a host or an account."""

    at: str
    """When."""
    task: str | None
    """The task; null for news of a host or an account."""
    before: str | None
    """
    Phase before; null at the first transition. Of a host: up, unready, down or unknown; of an account:
    usable, at limit or failing.
    """
    after: str | None
    """Phase since; null when the task went. Of a host, as above."""
    reason: str
    """Why, in a sentence."""
    host: str | None
    """Where the run is; of news of a host, which one."""
    account: str | None
    """Whose credential the run has, if one is described; of news of an account, which one."""
    run: str | None
    """Key of the run."""
    actor: str
    """Who did it."""
    cause: str
    """What kind of thing led to it: spec, host, agent, webhook, person, clock."""
    revision: str | None
    """Commit of the specs that were in force."""
    commit: str
    """Commit of the state branch that has it."""


@with_config(CLOSED)
class ActionShape(TypedDict):
    """One thing that a look would do."""

    action: str
    """start, stop, record or remove."""
    task: str
    """The task."""
    host: str | None
    """Where."""
    reason: str
    """Why."""


@with_config(CLOSED)
class WaitingShape(TypedDict):
    """One task that waits."""

    task: str
    """The task."""
    reason: str
    """What for, in a word."""
    message: str
    """What for, in a sentence."""


@with_config(CLOSED)
class CandidateShape(TypedDict):
    """A host that would do."""

    host: str
    """The host."""
    score: float
    """The highest is chosen."""
    why: str
    """What the score is made of."""


@with_config(CLOSED)
class PlacementShape(TypedDict):
    """Where a task would run."""

    chosen: str | None
    """The host; null if none will do."""
    account: str | None
    """Account that the run would use there; null for what the adapter has by itself."""
    ranked: list[CandidateShape]
    """Hosts that would do, the best first."""
    rejected: dict[str, str]
    """Hosts that will not do → why."""


@with_config(CLOSED)
class PlanShape(TypedDict):
    """`plan`: what a look would do now."""

    revision: str
    """Commit of the specs; `work tree` for those that are not committed."""
    changes: bool
    """Whether anything would be done."""
    actions: list[ActionShape]
    """What would be done."""
    waiting: list[WaitingShape]
    """What would wait."""
    placements: dict[str, PlacementShape]
    """Task → where it would run."""
    problems: list[str]
    """Mistakes of the specs."""


@with_config(CLOSED)
class OriginShape(TypedDict):
    """A field of a task."""

    field: str
    """Its name."""
    value: Any
    """Its value."""
    origin: str
    """Where that comes from: file and line, or `default`."""


@with_config(CLOSED)
class WaitsForShape(TypedDict):
    """What a task waits for."""

    reason: str
    """What for, in a word."""
    message: str
    """What for, in a sentence."""
    since: str
    """Since when the reason is this one."""


@with_config(CLOSED)
class CampaignShape(TypedDict):
    """`get campaigns`, `describe campaign/NAME`."""

    kind: Literal["campaign"]
    """What it is."""
    name: str
    """Its name."""
    state: str
    """in pilot, under way, halted, done, ended (not all of it well) or broken."""
    counts: dict[str, int]
    """How many of its tasks are completed, failed (or escalated), cancelled, live, in_review, waiting."""
    waiting: WaitsForShape | None
    """What keeps more of its tasks from beginning; null for nothing."""
    tasks: list[str]
    """Its tasks, in the order of its matrix."""
    spec: dict[str, Any]
    """`pilot`, `width` and `stop_after` of [a campaign](campaign.md)."""


@with_config(CLOSED)
class ExplainShape(TypedDict):
    """`explain TASK`."""

    kind: Literal["task"]
    """What it is."""
    name: str
    """Its name."""
    cause: CauseShape | None
    """Why its last run failed, if it did."""
    waiting: WaitsForShape | None
    """What it waits for, as it is on record."""
    fields: list[OriginShape]
    """Every field, and where its value comes from."""
    placement: PlacementShape
    """Where it would run now."""


@with_config(CLOSED)
class CatalogueShape(TypedDict):
    """`explain error`: a list of these."""

    kind: Literal["error"]
    """What it is."""
    family: str
    """What it is a code of, such as a failure class or an exit code."""
    code: str
    """As it stands on record, or is shown."""
    cause: str
    """What leads to it."""
    remedy: str
    """What to do about it."""
    command: str
    """What to type; names in capitals are to be replaced."""


@with_config(CLOSED)
class ReconcilerShape(TypedDict):
    """The process that reconciles; what is not known is null."""

    mode: str | None
    """run or serve."""
    pid: int | None
    """Its process id."""
    machine: str | None
    """The machine it runs on."""
    since: str | None
    """When it began."""
    address: str | None
    """Where it serves HTTP."""
    specs: str | None
    """Commit of the specs that it acts on."""
    state: str | None
    """Commit that it put on record last."""
    error: str | None
    """Why it cannot go on now."""


@with_config(CLOSED)
class SpecsLineShape(TypedDict):
    """The branch with the specs."""

    branch: str
    """Its name."""
    commit: str | None
    """Its newest commit."""


@with_config(CLOSED)
class StateLineShape(TypedDict):
    """The state branch."""

    branch: str
    """Its name."""
    commit: str | None
    """Its newest commit; null if nothing is on record."""
    at: str | None
    """When that was made."""
    remote: str | None
    """In a clone: the remote it was fetched from."""
    fetched_at: str | None
    """In a clone: when."""


@with_config(CLOSED)
class NeedShape(TypedDict):
    """One thing that needs a person."""

    what: str
    """`task NAME`, `host NAME`, a file, `record`, `specs`, `disk` or `reconciler`."""
    why: str
    """Escalated, Failed, Stalled, Question, Approval, Broken, Down, Rewound, Full, Error or Unsent."""
    message: str
    """A sentence."""


@with_config(CLOSED)
class LiveTaskShape(TypedDict):
    """Figures of a task's live run."""

    task: str
    """The task."""
    last_output_at: str | None
    """When it printed last."""
    turns: int | None
    """Turns of its agent so far."""
    input_tokens: int | None
    """Tokens it read, as its agent counts them."""
    output_tokens: int | None
    """Tokens it wrote."""
    cached_tokens: int | None
    """Of those it read: those that were cached."""


@with_config(CLOSED)
class ShardShape(TypedDict):
    """The reconciler of a shard."""

    running: bool | None
    """Whether it runs; null if that cannot be told from here."""
    pid: int | None
    """Its process."""
    machine: str | None
    """Where it runs."""


@with_config(CLOSED)
class StatusShape(TypedDict):
    """`status`: the fleet as a whole."""

    running: bool | None
    """Whether a reconciler runs; null if that cannot be told from here."""
    reconciler: ReconcilerShape | None
    """Which; null if none runs."""
    ended_at: str | None
    """When the last one ended, or was last heard of."""
    specs: SpecsLineShape
    """What is asked for."""
    state: StateLineShape
    """What is on record."""
    tasks: dict[str, int]
    """Phase → how many tasks."""
    hosts: dict[str, int]
    """State → how many hosts."""
    live: list[LiveTaskShape]
    """Figures of live runs."""
    needs: list[NeedShape]
    """What needs a person."""
    advice: list[str]
    """What should be set, each with the command that does it."""
    shards: NotRequired[dict[str, ShardShape]]
    """Shard → its reconciler, for all but the one above; left out where the fleet has one."""


@with_config(CLOSED)
class ProblemShape(TypedDict):
    """`validate`: one mistake or warning."""

    path: str
    """File."""
    line: int
    """Line, 1-based."""
    column: int
    """Column, 1-based."""
    field: str
    """The field it is about."""
    message: str
    """What is wrong."""
    hint: str
    """What was probably meant; may be empty."""
    severity: Literal["error", "warning"]
    """error: the task keeps its last good version. warning: it works, but hardly as meant."""


@with_config(CLOSED)
class CostShape(TypedDict):
    """`cost`: usage, summed up."""

    by: str
    """What it is summed up by."""
    since: str | None
    """From when on."""
    sums: list[dict[str, Any]]
    """
    Per thing: its name, under the word in `by` (null: none), the fields of `total`, and of variants how many
    ended with it (tries) and were chosen (wins).
    """
    total: dict[str, Any]
    """
    input_tokens, output_tokens, cached_tokens, turns, seconds, cost_usd; how much of that was reckoned
    by prices (reckoned_usd), and tokens without report or price (unpriced_tokens).
    """


@with_config(CLOSED)
class SchedulerShape(TypedDict):
    """What starts the runs of a host in its place, asked now."""

    name: str
    """Its name, such as `Slurm`."""
    version: str
    """Its version."""
    partitions: list[str]
    """Those that take jobs."""
    proctrack: str
    """Its plugin that knows the processes of a job."""
    ends_detached: bool
    """Whether it ends with a job all that the job started; if not, marks in the environment do."""
    shared_folder: bool | None
    """Whether its nodes have the working folder of the host; null if no run could be tried."""


@with_config(CLOSED)
class HostCheckShape(TypedDict):
    """`host check`: one host, asked now."""

    host: str
    """Its name."""
    usable: bool
    """Whether runs can start there."""
    reachable: bool
    """Whether it answers; if not, the figures below are left out."""
    problems: list[str]
    """What is wrong, and what to do."""
    adapters: dict[str, Any]
    """Adapter → path, version, ok, message."""
    latency_ms: NotRequired[float]
    """Time of an answer."""
    os: NotRequired[str | None]
    """What `uname -s` says."""
    arch: NotRequired[str | None]
    """What `uname -m` says."""
    cores: NotRequired[int | None]
    """Its cores."""
    load: NotRequired[float | None]
    """Load of the last minute."""
    memory_mb: NotRequired[int | None]
    """Its memory, in MiB."""
    memory_free_mb: NotRequired[int | None]
    """What of that is free."""
    disk_free_mb: NotRequired[int | None]
    """Room for runs, in MiB."""
    boot_id: NotRequired[str | None]
    """Changes when it is started anew."""
    scheduler: NotRequired[SchedulerShape]
    """What starts runs there, if it is not the host itself."""
    shell: NotRequired[str | None]
    """Its shell."""
    git: NotRequired[str | None]
    """Version of its git."""
    sandbox: NotRequired[str | None]
    """Why no run can be in a sandbox there; empty if it can, null if no spec needs one."""
    egress: NotRequired[str | None]
    """Why no run whose sandbox has an egress list can; as `sandbox`."""
    ends_runs_by: NotRequired[list[str]]
    """How all that a run started is ended."""
    warnings: NotRequired[list[str]]
    """What is not kept from agents there."""


@with_config(CLOSED)
class TokenShape(TypedDict):
    """`token list`: one agent and its tokens."""

    name: str
    """The agent."""
    tokens: int
    """How many it has; two during a rotation."""
    expires: str | None
    """When they stop being good."""
    scopes: list[str]
    """What they may do."""
    desired: str
    """active or suspended."""


@with_config(CLOSED)
class VersionShape(TypedDict):
    """`version`."""

    version: str
    """Of the program."""
    python: str
    """Of Python."""


@with_config(CLOSED)
class CheckShape(TypedDict):
    """One thing that was tried of an adapter."""

    check: str
    """version, health or prompt."""
    ok: bool | None
    """Whether it works; null: it was not tried."""
    message: str
    """What came of it."""
    version: NotRequired[str | None]
    """Version that was found."""
    path: NotRequired[str | None]
    """Where the CLI is."""
    verdict: NotRequired[dict[str, Any]]
    """What the CLI's output means, as `adapter parse` prints it."""


@with_config(CLOSED)
class AdapterTestShape(TypedDict):
    """`adapter test`."""

    adapter: str
    """The adapter."""
    host: str
    """Where it was tried."""
    ok: bool
    """Whether all works."""
    checks: list[CheckShape]
    """What was tried."""


@with_config(CLOSED)
class FlawShape(TypedDict):
    """Something in a record that the reconciler would not have written."""

    commit: str
    """Commit of the state branch at which it shows."""
    what: str
    """What is wrong."""


@with_config(CLOSED)
class LinkShape(TypedDict):
    """One link of the chain from work to who asked for it."""

    name: str
    """`commit`, `delivered`, `run`, `spec` or `asked by`."""
    is_sound: bool | None
    """Whether it holds; null if it could not be looked at here."""
    message: str
    """What was found."""


@with_config(CLOSED)
class ProofShape(TypedDict):
    """The chain of one run."""

    run: str
    """Key of the run."""
    links: list[LinkShape]
    """From the work to who asked for it."""


@with_config(CLOSED)
class VerifyShape(TypedDict):
    """`verify`: the record held against itself, and the way from work to who asked for it."""

    is_sound: bool
    """Whether everything that was looked at holds."""
    head: str
    """Newest commit of the record."""
    commits: int
    """Commits that were looked at."""
    steps: int
    """Those that are steps of tasks."""
    runs: int
    """Runs that were started."""
    approvals: list[str]
    """Commits in which a person approved that the record goes on from an earlier one."""
    signed_since: str | None
    """Oldest commit of the record that a signature vouches for; null without one, or `--allowed-signers`."""
    signers: list[str]
    """Who signed the record, as the file of allowed signers names them."""
    flaws: list[FlawShape]
    """What is wrong, the oldest first."""
    proofs: list[ProofShape]
    """The chains that were asked for."""


@with_config(CLOSED)
class ReplayShape(TypedDict):
    """`replay`: a decision on record, made again from what it rested on."""

    commit: str
    """Of the record."""
    revision: str | None
    """Commit of the specs that were in force."""
    verdict: Literal["same", "differs", "fact", "open"]
    """`fact`: came from outside, and is no decision; `open`: not all that it rested on is on record."""
    message: str
    """What is decided now, or why nothing is."""
    differences: list[str]
    """Where the record says something else than what is decided now."""
    inputs: str | None
    """What it rested on beside specs and record, as the commit has it: JSON."""
    decisive: list[str]
    """Inputs without which somebody else would have been chosen, and who."""
    hosts: list[str]
    """How the hosts stood, the best first, then why not the others."""


@with_config(CLOSED)
class SpecCommitShape(TypedDict):
    """A commit that changed a task's spec."""

    commit: str
    """Its id."""
    subject: str
    """Its author and subject."""


@with_config(CLOSED)
class TraceShape(TypedDict):
    """`trace`: one run, who asked for it, and what came of it."""

    spec_commit: str | None
    """Commit that wrote the task's spec."""
    subject: str
    """Author and subject of that commit."""
    changes: list[SpecCommitShape]
    """Later commits to the spec while the run went on, such as an answer, the oldest first."""
    revision: str | None
    """Commit of the specs that was in force."""
    task: str
    """The task."""
    run: str
    """Key of the run."""
    host: str | None
    """Host or agent that had it."""
    began: str
    """When it was assigned."""
    ended: str | None
    """When it ended; null while it is live."""
    phase: str
    """Phase of the task after its last step."""
    reason: str
    """Why that."""
    branch: str | None
    """Branch of the work."""
    head: str | None
    """Commit that was delivered; of the last run."""
    pull_request: str | None
    """Address of the pull request; of the last run."""


@with_config(CLOSED)
class FindingShape(TypedDict):
    """`doctor`: what was found of one thing."""

    check: str
    """
    What was looked at: git, identity, data, repository, specs, record,
    reconciler, secrets, repos, forges, webhooks, hosts.
    """
    result: Literal["ok", "warning", "failed"]
    """Whether it works."""
    message: str
    """What was found."""
    fix: str | None
    """Command that puts it right."""


SHAPES = (
    TaskShape,
    HostShape,
    SpecShape,
    TransitionShape,
    TraceShape,
    PlanShape,
    ExplainShape,
    CatalogueShape,
    StatusShape,
    FindingShape,
    ProblemShape,
    CostShape,
    HostCheckShape,
    TokenShape,
    AdapterTestShape,
    VersionShape,
)
"""Of whole documents, in the order of the documentation."""
