"""
Desired state: what people write, resolved.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from reconciler.core.adapter import Adapter, Budget, Files, Sandbox, Secret
from reconciler.core.errors import Problem
from reconciler.core.fields import (
    LARGEST_ID,
    Branch,
    Count,
    Duration,
    Env,
    EnvName,
    Frozen,
    Name,
    Names,
    Period,
    Strings,
    Text,
    Time,
    Total,
    Word,
)
from reconciler.core.names import DEFAULT_SHARD
from reconciler.core.prices import Price
from reconciler.core.requesters import Requester

FLEET_FORGE = ".fleet"
"""What the fleet's own repository is called among those with a forge: no repo can have that name."""


class ExecutionMode(StrEnum):
    """Who starts the agent: the reconciler, or a worker."""

    SSH_CLI = "ssh_cli"
    HTTP_PULL = "http_pull"


class DesiredState(StrEnum):
    """What should be true of a task."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    CANCELLED = "cancelled"


ANSWER_LENGTH = 4_000
"""Most characters of an answer: it stands on record and in prompts."""

AnswerText = Annotated[str, Field(min_length=1, max_length=ANSWER_LENGTH)]


class Ask(Frozen):
    """How the questions of an agent are answered if no person does."""

    default: AnswerText
    """The answer."""
    after: Duration
    """How long a person has to answer first."""


class Answer(Frozen):
    """A person's answer to a question of the agent."""

    to: Text
    """Id of the question, such as `q1-1`; an answer to any other is none."""
    text: AnswerText
    """The answer: the agent goes on with it."""


class Fallback(Frozen):
    """What runs a task in place of its adapter while none of its accounts can be had. In `fallback`."""

    adapter: Name | None = None
    """Adapter; that of the task if left out."""
    model: Text | None = None
    """Model; the default of the adapter's CLI if left out."""
    accounts: Names = ()
    """Accounts, by preference; any that serves the adapter, if left out."""


class ByName(Frozen):
    """A mapping with an `adapter` that may be written as the name of that alone."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"adapter": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = super().__get_pydantic_json_schema__(core_schema, handler)
        return {"anyOf": [{"type": "string"}, schema]}


class ReviewBy(ByName):
    """A second opinion: another agent that reviews finished work before people do. In `review_by`."""

    adapter: Name
    """Adapter of the agent that reviews; `review_by: codex` is this alone."""
    model: Text | None = None
    """Model it is asked to use; the default of its CLI if left out."""
    account: Name | None = None
    """Account whose credential it uses; that which the adapter has by itself, if left out."""
    max_rounds: Count = 2
    """How often in one attempt it may send the work back to its agent; then people decide."""
    timeout: Period = timedelta(minutes=30)
    """Longest time for one review."""


class Judge(ByName):
    """Who chooses among variants that passed validation. In `judge`."""

    adapter: Name
    """Adapter of the agent that chooses, or `person`; `judge: codex` is this alone."""
    model: Text | None = None
    """Model it is asked to use; the default of its CLI if left out."""
    account: Name | None = None
    """Account whose credential it uses; any that serves its adapter, if left out."""
    timeout: Period = timedelta(minutes=30)
    """Longest time that it may take."""

    @property
    def is_person(self) -> bool:
        """Whether a person chooses."""
        return self.adapter == "person"


class Variant(ByName):
    """One of several ways to do the same task. In `variants`."""

    adapter: Name | None = None
    """Adapter; that of the task if left out. `[claude-code, codex]` are these alone."""
    model: Text | None = None
    """Model; that of the task, or the default of another adapter's CLI, if left out."""
    accounts: Names = ()
    """Accounts, by preference; those of the task, or any that serves another adapter, if left out."""
    desired: Annotated[DesiredState, Field(strict=False)] = DesiredState.ACTIVE
    """As in a task, for this one alone."""
    answer: Answer | None = None
    """Answer to what its agent asked last; `reconciler answer` writes it."""
    held: bool = False
    """Whether a person has taken it over; `reconciler attach` and `reconciler release` write it."""


MOST_VARIANTS = 10


class _OrCount:
    """Lets the schema take a number of variants in place of the list."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        count = {"type": "integer", "minimum": 2, "maximum": MOST_VARIANTS}
        return {"anyOf": [count, handler(core_schema)]}


def _counted(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 < value <= MOST_VARIANTS:
            raise ValueError(f"from 2 to {MOST_VARIANTS}, not {value}")
        return ({},) * value
    return tuple(value) if isinstance(value, list) else value


Variants = Annotated[
    tuple[Variant, ...], Field(max_length=MOST_VARIANTS), BeforeValidator(_counted), _OrCount()
]


class TaskDefaults(Frozen):
    """
    Fields a task may leave out.

    They may stand in a repo and in fleet.yaml too, where they are the defaults
    of that repo's tasks and of all tasks: first the task, then its repo, then
    the fleet, then what stands here.
    """

    adapter: Name = "script"
    """Which agent CLI does the work: a built-in adapter or one of `specs/adapters/`."""
    model: Text | None = None
    """Model the agent's CLI is asked to use; its own default if left out."""
    accounts: Names = ()
    """
    Accounts whose credential may be used (`specs/accounts/`), by preference; if left out, those of the
    adapter, else any that serves it.
    """
    fallback: Fallback | None = None
    """
    `{adapter: codex}` or `{model: haiku}`: what runs it while its accounts are at their limits or have
    spent their budgets. One that is only busy is waited for.
    """
    execution_mode: Annotated[ExecutionMode, Field(strict=False)] = ExecutionMode.SSH_CLI
    """`ssh_cli`: run on a host. `http_pull`: handed out to an outside agent over HTTP."""
    mode: Literal["work", "plan"] = "work"
    """
    `plan`: first only a plan, which waits for a person's yes; then the same session does it. See
    [plan first](task.md#plan-first).
    """
    constraints: Strings = ()
    """Rules the agent must keep, one sentence each; they stand in the prompt."""
    validation: Strings = ()
    """Shell commands that must exit 0 in the workspace, run in order after the agent ends."""
    context: Strings = ()
    """Files of the repository (or addresses) the agent should read first."""
    requires: Strings = ()
    """Labels a host must have, such as `gpu` or `arm64`."""
    prefer: Strings = ()
    """Hosts or labels to prefer among those that fit."""
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    """Higher starts first; equal ones in turns by repo, in the order in which they came."""
    timeout: Period = timedelta(hours=2)
    """Longest time the agent may take for one round; it is stopped after that."""
    deadline: Period | None = None
    """
    Longest time for the whole task, from its first start until its work is delivered: all attempts and
    what is waited for between them. Then a live run is stopped and a person must act; each review
    round begins anew.
    """
    stall_timeout: Period = timedelta(minutes=15)
    """Longest silence: without any output for so long the agent is stopped."""
    retries: Count = 1
    """New attempts after a failed one, with backoff in between."""
    fix_attempts: Count = 2
    """How often a failed validation is handed back to the agent within one attempt."""
    max_reviews: Count = 3
    """How often changes may be requested before a person must act."""
    review: Literal["none", "merge", "pull_request"] = "none"
    """
    `none`: completed when validation passes. `merge`: completed when the branch is
    on the base branch. `pull_request`: the reconciler opens a pull request on the
    repo's `forge` and follows it until it is merged.
    """
    review_by: ReviewBy | None = None
    """
    `codex`, or `{adapter: codex, model: …}`: an agent that reviews the work before it is delivered; what it
    finds goes back to the task's agent. See [second opinion](task.md#second-opinion).
    """
    allow_empty: bool = False
    """
    Whether a task with a `repo` may be completed by a run that changed nothing. Without it such a run is
    completed only by a `validation` that passes (and with `review`, not at all): else it has failed.
    """
    validate_on: Name | None = None
    """
    With `http_pull`: the host on which `validation` is run on what an agent says it finished. Of a repo
    with `merge: queue`, where its merge queue is validated, too (`local` if left out).
    """
    budget: Budget | None = None
    """What one task may spend, all of its runs together; a person must raise it then."""
    over_budget: Literal["finish", "stop"] = "finish"
    """
    What a spent budget does to a live run: let it end, or stop it. A CLI that
    tells its usage only at the end of a round can be stopped by what others spent.
    """
    window: Strings = ()
    """Hours in which runs may start, such as `mon-fri 09:00-17:30` or `22:00-06:00`; any, if left out."""
    timezone: Text = "UTC"
    """Time zone of `schedule` and `window`, such as `Europe/Berlin`."""
    disconnect: Literal["wait", "retry", "fail"] = "wait"
    """
    What becomes of a live run whose host has not answered for `lost_after`: wait
    for it, try again elsewhere (the old run is stopped when it shows up again,
    and its result refused), or fail.
    """
    ask: Ask | None = None
    """
    `{default: "…", after: 4h}`: the answer that a question of the agent gets if nobody
    answered it in that time. Without it a question waits for a person.
    """
    env: Env = Field(default_factory=dict)
    """Environment of the agent and of the validation commands; not for secrets. `{files}` is filled in."""
    files: Files = Field(default_factory=dict)
    """
    Files written before a run and removed after it, such as an MCP configuration, by path, beside those of
    the adapter; see [files](adapter.md#files).
    """
    template: Text | None = None
    """Prompt template (Jinja2) in place of the adapter's and the built-in one."""
    on_change: Literal["continue", "restart"] = "continue"
    """What a changed spec does to a live run."""
    on_delete: Literal["cancel", "finish", "orphan"] = "cancel"
    """What a removed spec does to a live run: stop it, let it end, or let go of it."""


class TaskSpec(TaskDefaults):
    """One piece of work for an agent. `specs/tasks/**.yaml`; its name is its path."""

    goal: Text
    """What should be true when the work is done; the heart of the prompt."""
    title: Text | None = None
    """One line for people; the first line of the goal if left out."""
    repo: Name | None = None
    """Code repository to work in (`specs/repos/`); an empty folder if left out."""
    script: Text | None = None
    """The agent itself, for adapter `script`: shell text run in the workspace, prompt on stdin."""
    labels: Strings = ()
    """Words to select tasks by, such as `team=web`: `reconciler get -l`. They say nothing of hosts."""
    issue: Text | None = None
    """Issue of the forge that this task answers: its address, or its number in quotes ("12")."""
    depends_on: Names = ()
    """
    Tasks that must be completed first; the prompt tells branch, commit, last words and `outputs` of
    each. The task still starts from the base branch; see `start_from`.
    """
    start_from: Name | None = None
    """
    Task of the same repo whose branch this one begins on, once that is delivered.
    Its pull request is against that branch until that one is merged.
    """
    branch_name: Branch | None = None
    """Branch the work goes to; `task/<name>` if left out."""
    pr_title: Text | None = None
    """Title of the pull request and of commits made in the agent's name; the title if left out."""
    outputs: Strings = ()
    """
    Names of files that the agent is to write to the folder in `RECONCILER_OUTPUT_DIR`, such as
    `api.json`: five at most, of 8000 characters. They stand in the prompts of tasks that depend on
    this one; a round without them has failed, as by its validation.
    """
    desired: Annotated[DesiredState, Field(strict=False)] = DesiredState.ACTIVE
    """`active`: do it. `suspended`: not now. `cancelled`: never."""
    answer: Answer | None = None
    """
    `{to: q1-1, text: "…"}`: the answer to the question that the agent asked last;
    `reconciler answer` writes it.
    """
    held: bool = False
    """
    Whether a person has taken the task over: its run is ended, its workspace and session stay, and it
    starts no other. `reconciler attach` and `reconciler release` write it.
    """
    rerun: Count = 0
    """Raise it to run a settled task once more; `reconciler retry` does."""
    not_before: Time | None = None
    """Earliest time to start."""
    schedule: Text | None = None
    """
    Cron expression of a task that comes again, such as `0 3 * * mon-fri`. One that is
    missed is caught up once; one that comes due while the task runs is skipped.
    """
    slots: Annotated[int, Field(ge=1, le=1000)] = 1
    """How many slots of a host it takes."""
    variants: Variants = ()
    """
    `3`, or a list such as `[claude-code, codex]` or `[{model: opus}, {model: haiku}]`: it is done so many
    times, each as a task of its own (`NAME@1`, …), and one is chosen. See [best of n](task.md#best-of-n).
    """
    judge: Judge | None = None
    """
    Who chooses among the variants that passed validation: `codex` (or `{adapter: codex, model: …}`), or
    `person`. Without it the first that passes is chosen, and the others are stopped.
    """


class StopAfter(Frozen):
    """When a campaign begins no more tasks. In `stop_after` of a campaign."""

    failures: Annotated[int, Field(ge=1, le=1000)]
    """So many of its tasks have failed, were escalated, or had their pull request closed unmerged."""


class CampaignSpec(Frozen):
    """One change to many places: a task for each of them. `specs/campaigns/*.yaml`."""

    task: TaskSpec
    """What its tasks have in common: fields of [a task](task.md); `{{NAME}}` is a value of the matrix."""
    matrix: Annotated[dict[EnvName, Strings], Field(min_length=1)]
    """
    `{repo: [web, shop], file: [a.py, b.py]}`: a task for each combination, such as `CAMPAIGN/web/a.py`;
    `repo` is the repo it works in, other names are its own.
    """
    tasks: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """Fields of single tasks, by their names below the campaign: `{web/a.py: {timeout: 4h}}`."""
    pilot: Annotated[int, Field(ge=0, le=1000)] = 1
    """So many, the first of the matrix, are completed before any other begins."""
    width: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Most of its tasks that are begun and not settled; those in review count."""
    stop_after: StopAfter | None = None
    """`{failures: 3}`: begin no more once so many have failed."""


class Campaign(Frozen):
    """A campaign as the planner sees it: how its tasks, which are tasks as any other, follow each other."""

    name: str
    tasks: tuple[str, ...] = ()
    """Names of its tasks, in the order of the matrix."""
    pilot: Count = 1
    width: Annotated[int, Field(ge=1, le=1000)] | None = None
    stop_after: StopAfter | None = None


class Task(TaskSpec):
    """A task as the planner sees it: defaults filled in, with its name and identity."""

    name: str
    generation: str
    """Git blob id of the spec file."""
    work: str
    """See `work_id`: what is asked for, whoever wrote the defaults."""
    campaign: str | None = None
    """Campaign that it is of."""
    variant_of: str | None = None
    """Task that it is a variant of."""
    is_pilot: bool = False
    """Whether the others of its campaign wait until it is completed."""

    @property
    def headline(self) -> str:
        """The title, or the first line of the goal."""
        return self.title or self.goal.strip().splitlines()[0]

    @property
    def branch(self) -> str:
        """Where the work goes: the branch that was named, or `task/<name>`."""
        return self.branch_name or default_branch(self.name)


def default_branch(task: str) -> str:
    """Return the branch of a task that names none."""
    return f"task/{task}"


def work_id(spec: TaskSpec) -> str:
    """
    Return the identity of what a task's own file asks for, 12 hex digits.

    A settled task runs again when this changes. A new priority, a fixed
    comment or another default of the fleet leaves it alone.
    """
    fields = (spec.goal, spec.script, spec.repo, spec.issue, spec.constraints, spec.validation, spec.rerun)
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:12]


class HostAdapter(Frozen):
    """An agent CLI that a host offers."""

    path: Text | None = None
    """Folder or file of the CLI on that host, if it is not on the PATH."""
    version: Text | None = None
    """Required range on this host, in place of the adapter's."""


_RESERVED_OPTION = re.compile(
    r"--(?:array|chdir|clusters|error|help|input|job-name|(?:no-)?requeue|open-mode|output|parsable|test-only"
    r"|usage|version|wait|wrap)\Z"
)
"""Options of sbatch that are ours, or with which it would not submit one job here."""


def _job_option(option: str) -> str:
    """Return an option of sbatch. Raises ValueError for one that is no option, or not to be had."""
    if not re.fullmatch(r"--[a-z][a-z0-9-]*(=.+)?", option):
        raise ValueError(f"{option!r} is no long option of sbatch with its value, such as `--gres=gpu:1`")
    name = option.partition("=")[0]
    if _RESERVED_OPTION.match(name):
        raise ValueError(f"{name} cannot be set: each run is one job under its own name, started once")
    return option


JobOptions = Annotated[Strings, AfterValidator(lambda options: tuple(map(_job_option, options)))]


class SlurmSpec(Frozen):
    """A Slurm cluster, whose queue takes the runs of a host. In `scheduler` of a host."""

    partition: Text | None = None
    """Partition of the jobs, or several with commas between; the site's default if left out."""
    account: Text | None = None
    """Account that the jobs are charged to; the user's default if left out."""
    time: Period | None = None
    """Time limit of a job in Slurm; the `timeout` of the task and five minutes if left out."""
    options: JobOptions = ()
    """More options of sbatch for each job, one each, such as `--mem=8G`."""
    requires: dict[Name, JobOptions] = Field(default_factory=dict)
    """Options for jobs of tasks that require a label: `{gpu: ["--gres=gpu:1"]}`; the host has them."""
    queue_timeout: Period | None = None
    """How long a job may wait in the queue before it is placed elsewhere; as long as it takes if left out."""


class SchedulerSpec(Frozen):
    """What starts the runs of a host in place of the host itself. In `scheduler` of a host."""

    slurm: SlurmSpec
    """Slurm: each run is a job in its queue; the host is a login node. See [Slurm](slurm.md)."""


class RunHooks(Frozen):
    """Commands around the rounds of runs, in their workspaces. In `hooks` of a host or a repo."""

    after_create: Strings = ()
    """Run once in each new workspace, before the agent: to install what the work needs."""
    before_run: Strings = ()
    """Run before the agent in each round."""
    after_run: Strings = ()
    """Run after the agent in each round, however it ended, before its work is taken up."""
    before_remove: Strings = ()
    """Run once before a workspace is removed: to put away what belongs to it. A failure is only logged."""
    timeout: Period = timedelta(minutes=10)
    """Longest time for the commands before the agent, for those after it, and for those at the removal."""

    def commands(self) -> Iterator[tuple[tuple[str, int], str]]:
        """Yield every command, with its field and its place in that."""
        for name in ("after_create", "before_run", "after_run", "before_remove"):
            for at, command in enumerate(getattr(self, name)):
                yield (name, at), command

    def followed_by(self, other: "RunHooks") -> "RunHooks":
        """Return these hooks and then others, with the longer of their timeouts."""
        return RunHooks(
            after_create=self.after_create + other.after_create,
            before_run=self.before_run + other.before_run,
            after_run=self.after_run + other.after_run,
            before_remove=self.before_remove + other.before_remove,
            timeout=max(self.timeout, other.timeout),
        )


class HostSpec(Frozen):
    """A machine that runs agents. `specs/hosts/*.yaml`; without `address` it is this machine."""

    address: Text | None = None
    """Name or IP address; left out, runs are local subprocesses."""
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    """Port of sshd."""
    user: Text | None = None
    """User to log in as."""
    host_key: Strings = ()
    """Pinned public key or keys of the host, as in known_hosts: `ssh-ed25519 AAAA…`."""
    identity: Text | None = None
    """File of the private key; the SSH agent if left out."""
    jump: Text | None = None
    """Another host by name, or `user@address:port`, to go through."""
    agent_forwarding: bool = False
    """Whether the runs may use the reconciler's SSH agent."""
    ssh_config: bool = False
    """Whether the service user's own `~/.ssh/config` is read for this host."""
    labels: Strings = ()
    """What the host has: `linux`, `gpu`, `arm64`, …"""
    slots: Annotated[int, Field(ge=0, le=1000)] = 2
    """How many runs at once."""
    weight: Annotated[float, Field(ge=0.001, le=1000)] = 1.0
    """How much a free slot here counts against one elsewhere."""
    workdir: Text | None = None
    """Folder for runs and workspaces; `~/.local/state/reconciler` if left out."""
    shell: Word = "sh"
    """POSIX shell that runs the wrapper, the `script` adapter and the validation commands."""
    env: Env = Field(default_factory=dict)
    """Environment of every run on this host."""
    adapters: dict[Name, HostAdapter] | None = None
    """Which agent CLIs are there; any, if left out."""
    scheduler: SchedulerSpec | None = None
    """What starts runs in its place: `{slurm: {…}}`. Left out, they are processes of the host."""
    hooks: RunHooks = RunHooks.model_construct()
    """Commands around the rounds of its runs: `{before_run: ["docker compose up -d"]}`."""
    sandbox: Sandbox | None = None
    """The sandbox that its runs are in, never without; `{}` has all defaults. See [sandbox](sandbox.md)."""
    desired: Literal["active", "suspended"] = "active"
    """`suspended`: takes no new runs and is not probed; live ones go on."""
    cordon: bool = False
    """Take no new runs."""
    drain: bool = False
    """Take no new runs and let the live ones end."""
    drain_until: Time | None = None
    """With `drain`: what still runs at this time is stopped and goes on elsewhere."""
    repos: Names | None = None
    """Repos whose tasks may run here; any, if left out."""
    daily_budget: Budget | None = None
    """What runs here may spend on one day (UTC); after that, new ones wait for the next."""
    shard: Name = DEFAULT_SHARD
    """Shard whose tasks run here, of those in fleet.yaml; left out, those that no shard has."""


class Host(HostSpec):
    """A host with its name."""

    name: str

    @property
    def is_local(self) -> bool:
        """Whether runs there are subprocesses of this machine."""
        return self.address is None

    @property
    def capabilities(self) -> frozenset[str]:
        """What tasks may require of it: its labels, and those that its scheduler has options for."""
        return frozenset(self.labels).union(self.scheduler.slurm.requires if self.scheduler else ())


class AgentSpec(Frozen):
    """An outside agent that pulls over HTTP. `specs/agents/*.yaml`."""

    capabilities: Strings = ()
    """Labels it has, as those of a host."""
    token_hash: Strings = ()
    """SHA-256 of its token, in hex; two during a rotation."""
    slots: Annotated[int, Field(ge=1, le=1000)] = 1
    """How many tasks it may hold at once."""
    expires: Time | None = None
    """When its token stops being good."""
    scopes: Annotated[tuple[Literal["agent", "read", "admin"], ...], Field(strict=False)] = ("agent",)
    """What the token may do."""
    desired: Literal["active", "suspended"] = "active"
    """`suspended`: gets no new task."""


class Agent(AgentSpec):
    """An agent with its name."""

    name: str


class AccountSpec(Frozen):
    """A credential of a provider that agents work with. `specs/accounts/*.yaml`."""

    provider: Text
    """Whose it is, such as `anthropic`: for people, and to tell accounts apart."""
    adapters: Names
    """Adapters it serves."""
    secrets: dict[EnvName, Secret] = Field(default_factory=dict)
    """Environment variables of its runs whose values are looked up when a run starts, over the adapter's."""
    max_running: Total | None = None
    """Most live runs with it."""
    daily_budget: Budget | None = None
    """What its runs may spend on one day (UTC); after that, new ones wait for the next."""
    weekly_budget: Budget | None = None
    """What its runs may spend from one Monday to the next (UTC)."""
    pace: Literal["free", "even"] = "free"
    """`even`: a seventh of `weekly_budget` on the first day, two by the end of the second, and so on."""
    hosts: Names | None = None
    """Hosts where it may be used; any, if left out."""
    desired: Literal["active", "suspended"] = "active"
    """`suspended`: no new run takes it."""
    renewed: Count = 0
    """Raise it to have an account that is at its limit tried at once, such as after credit was bought."""


class Account(AccountSpec):
    """An account with its name."""

    name: str


ForgeKind = Literal["forgejo", "gitea", "github", "gitlab"]
NESTED: frozenset[ForgeKind] = frozenset({"gitlab"})
"""Kinds of forges whose repositories may be in groups within groups."""


class ForgeApp(Frozen):
    """A GitHub App that is installed where the repository is; it takes the place of a token."""

    id: Annotated[int, Field(gt=0, le=LARGEST_ID)]
    """Id of the App, from its page of settings."""
    key: Secret
    """Private key of the App, as the PEM file that GitHub gave out."""
    installation: Annotated[int, Field(gt=0, le=LARGEST_ID)] | None = None
    """Id of its installation; looked up by the repository if left out."""


class Forge(Frozen):
    """A repository on a forge: where pull requests and issues are."""

    kind: ForgeKind = "forgejo"
    """Whose API it speaks."""
    api: Text
    """Base address of the API, such as `https://code.example.org/api/v1`."""
    repo: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)+$")]
    """Owner and name there, such as `tools/calculator`; on GitLab with all its groups."""
    token: Secret | None = None
    """Token of the bot account; every forge has either this or `app`."""
    app: ForgeApp | None = None
    """GitHub App in place of a bot account: it is given tokens for this repository, for an hour each."""
    account: Text | None = None
    """Name of the bot account, for a token that may not read it, such as one limited to repositories."""
    webhook_secret: Secret | None = None
    """What its webhooks are signed with; without it they are refused."""
    ca: Text | None = None
    """File on the reconciler's machine with the certificate of a private authority that it is trusted by."""

    @property
    def secrets(self) -> Mapping[tuple[str, ...], Secret]:
        """Its secrets, by the path of the field."""
        named = {
            ("token",): self.token,
            ("app", "key"): self.app.key if self.app else None,
            ("webhook_secret",): self.webhook_secret,
        }
        return {path: secret for path, secret in named.items() if secret is not None}

    @property
    def credential(self) -> Secret | None:
        """Where what lets it in is found: its token, or the key of its App."""
        return self.app.key if self.app else self.token


class IssueRules(Frozen):
    """Which issues become tasks, and whose word counts. In `specs/fleet.yaml`."""

    label: Text = "agent"
    """Issues with this label, in repos with a `forge`, become tasks."""
    authors: Strings = ()
    """Whose issues become tasks and whose `/agent` comments are followed, by their names on the forge."""


class NotifyRule(Frozen):
    """Which news is sent to whom. In `notify` of `specs/fleet.yaml`."""

    to: Names
    """Targets, by name."""
    transitions: Strings = ()
    """
    Phases that tasks come to, or states of hosts (`up`, `unready`, `down`), such as `completed`,
    `running -> failed` or `* -> down`. Without these and `reasons`: whatever needs a person.
    """
    reasons: Strings = ()
    """
    What tasks wait for, such as `Host` or `Quota`, the class of their failure, such as `auth`, `Forge`,
    `Reconciler` or `Unsent`. With `transitions` too, both must fit.
    """
    labels: Strings = ()
    """Only tasks and hosts that have one of these labels, or tasks that require one; any, if left out."""
    repos: Names = ()
    """Only tasks of these repos; any, if left out."""
    tasks: Strings = ()
    """Only tasks whose name is like one of these, such as `web/*`; any, if left out."""
    urgent: bool = False
    """Whether it is sent in quiet hours, too."""
    resolved: bool = False
    """Whether its end is sent as well."""
    escalate_after: Period | None = None
    """If it is not over after this time, `escalate_to` gets it as well."""
    escalate_to: Names = ()
    """Targets, by name; those of `to` once more, if left out."""


class NotifySpec(Frozen):
    """Notifications: who is sent what. In `specs/fleet.yaml`."""

    targets: dict[Name, Secret] = Field(default_factory=dict)
    """Where messages go: for each name, where the URL of a service is found, as Apprise writes those."""
    rules: tuple[NotifyRule, ...] = ()
    """Which news goes to which targets; every rule that fits counts."""
    quiet: Strings = ()
    """Quiet hours, such as `22:00-07:00` or `sat,sun 00:00-24:00`: what comes up is sent together after."""
    timezone: Text | None = None
    """Time zone of `quiet` and of times in messages; `timezone` of the fleet if left out."""
    hold: Duration = timedelta(seconds=10)
    """
    How long news is held back, so that what belongs together is one message, and what is over by then is
    none. Messages to one target are six times as far apart, unless they are urgent.
    """


class SecretGate(Frozen):
    """What is looked for in finished work before it is delivered. In `secret_gate` of a repo."""

    own: bool = True
    """Whether the secrets that the run itself was given are looked for, in every form that masks know."""
    formats: bool = True
    """Whether tokens and private keys of others are looked for, by their well-known formats."""
    allow: Strings = ()
    """Patterns of files (as in .gitignore) that may have such tokens, as test fixtures do; no own secrets."""


class RepoSpec(TaskDefaults):
    """A code repository the tasks work on, and defaults for them. `specs/repos/*.yaml`."""

    url: Text
    """Where it is: `https://…`, `ssh://…`, `user@host:path`, or a path (relative to the fleet's)."""
    base: Branch = "main"
    """Branch the work starts from and goes back to."""
    forge: Forge | None = None
    """Where its pull requests and issues are."""
    labels: Strings = ()
    """Labels of its pull requests."""
    reviewers: Strings = ()
    """Who is asked to review its pull requests."""
    draft: bool = False
    """Whether its pull requests begin as drafts."""
    merge: Literal["never", "when_approved", "when_green", "queue"] = "never"
    """
    When the reconciler merges. `when_approved`: approved, and no check fails or is
    awaited. `when_green`: checks are there and all succeed, and nobody asks for changes.
    `queue`: as `when_approved`, but merged in order with the others that are, and landed once
    `validation` has passed on just that; see [merge queue](how-to/merge-queue.md).
    """
    merge_style: Literal["merge", "rebase", "squash"] = "merge"
    """How it merges."""
    comments_from: Literal["members", "anyone"] = "members"
    """
    Whose comments are quoted in prompts: of those who may write, or of anyone.

    Members are those to whom the forge lets issues of the repository be
    assigned, those whose reviews count for it, and the `issues.authors` of the fleet.
    """
    failed_checks: Literal["wait", "fix"] = "wait"
    """What failing checks (CI) of a pull request do: nothing, or a review round for the agent."""
    base_moved: Literal["leave", "merge", "rebase"] = "leave"
    """What is done with work whose base branch has moved meanwhile; a conflict is a round for the agent."""
    paths: Strings = ()
    """Patterns of the files agents may touch (as in .gitignore); all, if left out."""
    secret_gate: SecretGate = SecretGate()
    """`{allow: [tests/fixtures/]}`: what keeps work from its delivery; see [secrets](#secrets)."""
    max_running: Total | None = None
    """Most live runs for this repo."""
    daily_budget: Budget | None = None
    """What runs for this repo may spend on one day (UTC); after that, new ones wait for the next."""
    push: Literal["reconciler", "host"] = "reconciler"
    """Who pushes finished branches: the reconciler, or the run's host with the access its user has."""
    hooks: RunHooks = RunHooks.model_construct()
    """Commands around the rounds of runs in it: `{after_create: [npm ci]}`; after those of the host."""


class Repo(RepoSpec):
    """A repo with its name."""

    name: str


class ShardSpec(Frozen):
    """
    A part of the fleet with a reconciler of its own. In `shards` of `specs/fleet.yaml`.

    What it leaves out of the limits is unlimited, as it is for the fleet.
    """

    tasks: Annotated[Names, Field(min_length=1)]
    """Folders of its tasks, such as `web` or `web/shop`; of several that fit, the deepest counts."""
    max_running: Total | None = None
    """Most live runs of its tasks."""
    limits: dict[Text, Total] = Field(default_factory=dict)
    """Most live runs of those of its tasks that require a label: `{gpu: 2}`."""
    daily_budget: Budget | None = None
    """What its tasks may spend on one day (UTC); after that, new runs wait for the next."""


class FleetSpec(TaskDefaults):
    """Settings of this fleet, and defaults for all of its tasks. `specs/fleet.yaml`."""

    state_branch: Branch = "fleet-state"
    """Branch on which the reconciler records what happened."""
    poll_interval: Period = timedelta(seconds=30)
    """How often to look without being told. Hints make it quicker; this makes it certain."""
    max_running: Total | None = None
    """Most live runs in the whole fleet."""
    limits: dict[Text, Total] = Field(default_factory=dict)
    """Most live runs, in the whole fleet, of tasks that require a label: `{gpu: 2}`."""
    daily_budget: Budget | None = None
    """What the whole fleet may spend on one day (UTC); after that, new runs wait for the next."""
    shards: dict[Name, ShardSpec] = Field(default_factory=dict)
    """
    Parts of the fleet with a reconciler each: `{web: {tasks: [web, shop]}}`; see [scale](scale.md#shards).
    The three settings above then count for what no shard has.
    """
    lost_after: Period = timedelta(minutes=30)
    """How long a host may be silent before its live runs follow their `disconnect`."""
    keep_failed: Duration = timedelta(days=7)
    """How long the workspace of a failed run is kept."""
    keep_failed_mb: Total = 10_240
    """Most disk for such workspaces on one host, in MiB; the oldest go first."""
    backoff: Period = timedelta(seconds=10)
    """Wait before the first retry; doubles with each."""
    backoff_cap: Period = timedelta(minutes=10)
    """Longest wait between retries."""
    lease: Period = timedelta(seconds=60)
    """How long a pull agent may be silent before its task is given to others."""
    forge: Forge | None = None
    """Where the fleet's own repository is: pull requests against its specs get the plan as a comment."""
    forge_interval: Period = timedelta(minutes=1)
    """How often forges are asked without a webhook's hint."""
    issues: IssueRules | None = None
    """Which issues become tasks; none, if left out."""
    notify: NotifySpec | None = None
    """Who is sent what needs a person, and other news; see [notifications](notifications.md)."""
    require_signed: bool = False
    """Refuse to reconcile without `--allowed-signers`; see [signed specs](record.md#signed-specs)."""
    prune_approved: Text | None = None
    """Written by `reconciler approve-prune`: the removal that a person allowed."""


Kind = Literal["fleet", "task", "campaign", "host", "adapter", "account", "agent", "repo", "prices"]
LOCAL = "local"
"""The host that is there without a file: the machine of the reconciler, two slots."""


@dataclass(frozen=True, slots=True)
class Desired:
    """What the specs of one revision ask for. A broken file keeps its last good version here."""

    revision: str = ""
    """Commit the specs were read from; empty before the first read."""
    fleet: FleetSpec = field(default_factory=FleetSpec)
    tasks: Mapping[str, Task] = field(default_factory=dict)
    hosts: Mapping[str, Host] = field(default_factory=dict)
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    accounts: Mapping[str, Account] = field(default_factory=dict)
    agents: Mapping[str, Agent] = field(default_factory=dict)
    repos: Mapping[str, Repo] = field(default_factory=dict)
    campaigns: Mapping[str, Campaign] = field(default_factory=dict)
    unreadable_campaigns: frozenset[str] = frozenset()
    """Campaigns whose file is there, and of which no good version is: what their tasks are is not known."""
    is_bare: bool = False
    """Whether there is no spec file at all."""
    prices: Mapping[str, Price] = field(default_factory=dict)
    """Price by model: the fleet's over the built-in ones."""
    broken: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)
    """Tasks that a person must fix before they may start, by name; they may be absent in `tasks`."""
    problems: tuple[Problem, ...] = ()
    """Every problem of the revision, of all kinds, in order of path, line and column."""
    warnings: tuple[Problem, ...] = ()
    """What works, but hardly as it was meant; in the same order."""
    askers: Mapping[str, Requester] = field(default_factory=dict, compare=False)
    """Who asks for what the record does not answer yet, by task, as far as that is known."""

    @property
    def forges(self) -> Mapping[str, Forge]:
        """Where repos are on a forge, by name; the fleet's own repository as FLEET_FORGE."""
        named = {name: repo.forge for name, repo in self.repos.items()} | {FLEET_FORGE: self.fleet.forge}
        return {name: forge for name, forge in named.items() if forge is not None}
