"""
An agent CLI as data: how to call it, how to read what it says.

A new kind of agent needs a YAML file of this shape and no code.
"""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from reconciler.core.egress import check_network
from reconciler.core.fields import MOST, Duration, Env, EnvName, Frozen, Names, Period, Strings, Text, Total
from reconciler.core.names import check_file_path, check_host_path
from reconciler.core.patterns import check_pattern


class Version(Frozen):
    """How to ask the CLI for its version, and which ones will do."""

    command: Strings
    """Arguments that print the version, the program first."""
    pattern: Text = r"(\d+\.\d+\.\d+)"
    """Regular expression whose first group is the version."""
    range: Text | None = None
    """Required range, such as `>=2.1,<3`."""
    timeout: Period = timedelta(seconds=20)
    """Longest time to wait for the answer."""


class HealthCheck(Frozen):
    """A command that exits 0 when the CLI is ready to work (logged in, say)."""

    command: Strings
    """Arguments, the program first."""
    timeout: Period = timedelta(seconds=60)
    """Longest time to wait for the answer."""


class Secret(Frozen):
    """Where a secret is found; exactly one source. It is resolved late and never stored."""

    env: EnvName | None = None
    """Environment variable of the reconciler's process."""
    file: Text | None = None
    """File whose content, without the last line end, is the secret."""
    command: Strings = ()
    """Command whose output, without the last line end, is the secret."""
    credential: Text | None = None
    """Name of a systemd credential (`LoadCredential=`)."""
    on: Literal["reconciler", "host"] = "reconciler"
    """Where the source is looked up."""


class FileTemplate(Frozen):
    """A file that is written before a run and removed after it: settings of a CLI, an MCP configuration."""

    template: Annotated[str, Field(min_length=1, max_length=65536)]
    """
    What stands in it (Jinja2). It sees `secrets`, `workspace` (the folder), `files` (the folder of files
    outside of it), `task`, `run`, `round`, `branch` and `repo` (names).
    """
    secrets: dict[EnvName, Secret] = Field(default_factory=dict)
    """Secrets that the template names, as `{{ secrets.NAME }}`; looked up when the file is written."""


FilePath = Annotated[str, AfterValidator(check_file_path)]
Files = dict[FilePath, FileTemplate]
"""Files to be written before a run, by path: in the workspace, or outside of it with `{files}/`."""


HostPath = Annotated[str, AfterValidator(check_host_path)]
_NETWORK_SCHEMA = {
    "anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}
Network = Annotated[bool | tuple[str, ...], BeforeValidator(check_network), WithJsonSchema(_NETWORK_SCHEMA)]
"""Whether there is a network, or the destinations that alone can be reached."""


class Sandbox(Frozen):
    """What runs may reach on their host, by bubblewrap. In `sandbox` of a host or an adapter."""

    network: Network = True
    """
    `true`: that of the host. `false`: none, but a loopback of its own. A list: none but what is listed,
    by a proxy: `[api.example.org, "*.example.org:8443", "10.1.0.0/16:443", "localhost:11434"]`.
    """
    writable: tuple[HostPath, ...] = ()
    """
    What may be written beside the workspace: caches, such as `~/.cache/pip`, or a device, such as
    `/dev/nvidia0`. What is not there is made, as a folder.
    """
    readable: tuple[HostPath, ...] = ()
    """What may be read beside the system's programs, such as `~/.nvm`."""
    hidden: tuple[HostPath, ...] = ()
    """What is not to be seen although it lies in what may be: it counts over all the others."""

    @property
    def destinations(self) -> tuple[str, ...]:
        """What may be reached, where not all or nothing is."""
        return () if isinstance(self.network, bool) else self.network


class StopSignal(Frozen):
    """Signal and grace period that end the CLI."""

    signal: Literal["TERM", "INT", "HUP"] = "TERM"
    """First signal, to the whole process tree."""
    grace: Duration = timedelta(seconds=15)
    """Time between the first signal and KILL."""


class RoundLimits(Frozen):
    """Limits of one round: turns, output, time."""

    turns: Annotated[int, Field(gt=0, le=10**9)] | None = None
    """Most turns, for a CLI that can count them (see `turns` of the adapter)."""
    time: Period | None = None
    """Longest time, where a task allows more."""
    output_mb: Annotated[int, Field(gt=0, le=2**20)] = 64
    """Most output kept, in MiB; a run that writes more is stopped."""


Meaning = Literal["agent", "timeout", "host", "quota", "auth", "budget", "config", "cancelled"]
"""Failure classes that a CLI can tell; `core.model.FailureClass` has them all."""


Pattern = Annotated[Text, AfterValidator(check_pattern)]
"""A regular expression that cannot backtrack without bound; see `core.patterns`."""


class Streamed(Frozen):
    """
    Where a CLI that prints events tells of a turn as it goes, for the figures of live runs.

    JMESPath expressions, each asked of one event alone. What a run took is on
    record by the rules of its whole output, and not by these.
    """

    turn: Text
    """Name of the turn that an event is of, null for none. Of several events of a turn the last counts."""
    input_tokens: Text | None = None
    """Input tokens of the turn, cached ones not counted."""
    output_tokens: Text | None = None
    """Output tokens of the turn."""
    cached_tokens: Text | None = None
    """Input tokens of the turn that came from a cache."""


class Output(Frozen):
    """
    How to read what the CLI printed.

    The rules are JMESPath expressions, evaluated over the list of all events
    (`[-1].result`). With `format: text` they are regular expressions, matched at
    the beginning of each line of stdout and then of stderr: the last line that
    fits counts, and of it the first group, or all that fits. Without any rule a
    text is judged by its exit code.
    """

    format: Literal["text", "json", "json_lines"] = "text"
    """`json_lines`: one JSON value a line. `json`: one JSON value. `text`: anything."""
    reader: Literal["claude", "codex", "gemini", "qwen", "stderr_json"] | None = None
    """Built-in function that prepares the events where expressions do not carry (`dispatch/output.py`)."""
    session_id: Text | None = None
    """Session to resume."""
    text: Text | None = None
    """The agent's final message."""
    terminal: Text | None = None
    """True when the output is whole: the last event is there."""
    success: Text | None = None
    """True when the agent says that it succeeded."""
    error: Text | None = None
    """Error message, if there is one."""
    error_class: Text | None = None
    """Failure class, if the output says it itself."""
    error_status: Text | None = None
    """HTTP status of the model's server, if a call to it failed."""
    denials: Text | None = None
    """Names of the tools whose use was denied, when the agent had to give up for that."""
    structured: Text | None = None
    """The structured answer, if the task asked for one."""
    schema_flag: Text | None = None
    """Argument that requests a structured answer; with it, a run without one has failed."""
    exit_codes: dict[Annotated[str, Field(pattern=r"^[0-9]{1,3}$")], Meaning] = Field(default_factory=dict)
    """Failure classes of this CLI's exit codes."""
    input_tokens: Text | None = None
    """Input tokens, cached ones not counted."""
    output_tokens: Text | None = None
    """Output tokens."""
    cached_tokens: Text | None = None
    """Input tokens that came from a cache."""
    cost_usd: Text | None = None
    """Cost in US dollars; without this rule it is reckoned from the tokens, by the price of the model."""
    model: Text | None = None
    """Model that was used, for its price; that of the task if left out."""
    turns: Text | None = None
    """Turns the agent took."""
    notes: Text | None = None
    """Remarks for people: a list of texts."""
    error_lines: tuple[Pattern, ...] = ()
    """
    Where the CLI writes its errors on stderr, for those that `error` does not find: regular expressions
    of how such a line begins. If left out, lines that begin with `Error:` and the like.
    """
    error_patterns: dict[Meaning, Pattern] = Field(default_factory=dict)
    """Phrases in its errors: a regular expression by failure class, tried before the built-in ones."""
    give_up: Pattern | None = None
    """
    How a line of its output (stdout or stderr) begins that announces yet another retry of a model call
    after several failed: the run is ended and fails with that line (its first group) as its error.
    """
    give_up_after: Annotated[int, Field(ge=1, le=10**6)] = 1
    """
    How many such lines end it, one after the other on the same stream with two others between them at most:
    for a CLI that does not count its calls.
    """
    extra_file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")] | None = None
    """
    Name of a file that the CLI writes in the folder `{declared}`, such as its usage: it is read after what
    the CLI printed, as further events, or (`format: text`) as further lines of stderr.
    """
    extra_command: Strings = ()
    """
    Command that is run in the workspace once the CLI has ended, with `{session_id}` and `{workdir}`, such as
    one that prints the usage of a session: what it prints is read in the same way. It has none of the
    secrets, and what it says on stderr is in the log of the hooks after the agent.
    """
    added_up: tuple[Literal["tokens", "cost", "turns"], ...] = ()
    """What a CLI with `format: text` tells of each message and not of the run: all matches are added up."""
    streamed: Streamed | None = None
    """Turns and tokens of a run that goes on, if its events tell; with `format: json_lines`."""
    cumulative: tuple[Literal["tokens", "cost"], ...] = ()
    """What the CLI reports as a running total of the session and not of the run."""


RULES = (
    *("session_id", "text", "terminal", "success", "error", "error_class", "error_status", "denials"),
    *("structured", "input_tokens", "output_tokens", "cached_tokens", "cost_usd", "model", "turns", "notes"),
)
"""Fields of `Output` that are evaluated over the output: JMESPath on events, patterns on text."""

OF_EVENTS = frozenset({"error_class", "denials", "structured", "notes"})
"""Rules that apply to events only, not to `format: text`."""


class Budget(Frozen):
    """What may be spent; a missing limit is no limit."""

    cost_usd: Annotated[float, Field(gt=0, le=10**9)] | None = None
    """Most US dollars: as the agent's CLI reports them, else by the [prices](prices.md) of its tokens."""
    tokens: Annotated[int, Field(gt=0, le=10**15)] | None = None
    """Most input and output tokens together, cached ones not counted."""


class AdapterSpec(Frozen):
    """An agent CLI. `specs/adapters/*.yaml`, laid over the built-in one of the same name."""

    command: Strings = ()
    """
    Arguments, the program first. `{model}`, `{turns}`, `{session}` and `{mode}` alone in an element
    stand for the arguments under `model` and `turns`, `fresh` or `resume`, and `work` or `plan`;
    `{workdir}`, `{prompt_file}`, `{prompt}`, `{shell}`, `{script}`, `{files}` (the folder of
    `files` outside of the workspace) and `{declared}` (the folder with the file for questions,
    for CLIs with a sandbox) are filled in.
    """
    model: Strings = ()
    """Arguments that choose a model, with `{model}`; used when the task names one."""
    turns: Strings = ()
    """Arguments that limit the turns, with `{turns}`; used when `limits` has them."""
    work: Strings = ()
    """Arguments for a round that works; used wherever `plan` is not."""
    plan: Strings = ()
    """Arguments for a round that only makes a plan (`mode: plan`): those by which the CLI changes nothing."""
    fresh: Strings = ()
    """Arguments of a new session; `{session_id}` is an id made for it."""
    resume: Strings = ()
    """Arguments that continue a session, with `{session_id}`; empty if the CLI cannot."""
    attach: Strings = ()
    """Command with which a person goes on with a session in a terminal, with `{session_id}`."""
    prompt: Literal["stdin", "file", "argument"] = "stdin"
    """How the prompt reaches the CLI."""
    template: Text | None = None
    """Prompt template in place of the built-in one."""
    env: Env = Field(default_factory=dict)
    """Environment of the CLI; `{files}` is filled in."""
    secrets: dict[EnvName, Secret] = Field(default_factory=dict)
    """Environment variables whose values are looked up when a run starts."""
    files: Files = Field(default_factory=dict)
    """Files written before its runs and removed after them; see [files](#files)."""
    version: Version | None = None
    """Version probe."""
    health: HealthCheck | None = None
    """Health probe."""
    output: Output = Output.model_construct()
    """How to read what it prints."""
    limits: RoundLimits = RoundLimits.model_construct()
    """Limits of one round."""
    stop: StopSignal = StopSignal.model_construct()
    """How a run is stopped."""
    sandbox: Sandbox | None = None
    """The sandbox that its runs need: they start on no host without one. See [sandbox](sandbox.md)."""
    sessions: tuple[HostPath, ...] = ()
    """Where the CLI keeps its sessions on a host; in a sandbox it may write there."""
    cleanup: Strings = ()
    """Paths in the workspace that the CLI leaves behind; they are not committed."""
    accounts: Names = ()
    """Accounts its runs may use, by preference; any that serves it, if left out."""
    max_running: Total | None = None
    """Most live runs of this CLI in the whole fleet."""
    daily_budget: Budget | None = None
    """What its runs may spend on one day (UTC); after that, new ones wait for the next."""


class Adapter(AdapterSpec):
    """An adapter with its name; every field of the built-in one filled in."""

    name: str
    blob: str = ""
    """Git blob id of the fleet's file; of the built-in one, if there is none."""

    @property
    def runs_scripts(self) -> bool:
        """Whether what it runs is the `script` of the task."""
        return any("{script}" in argument for argument in self.command)


def _bounded(value: object) -> object:
    """Return the number, capped at `MOST` so that sums stay finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if value != value:  # noqa: PLR0124 - NaN is for the type to refuse; math.isnan cannot bear a huge int
        return value
    return max(-MOST, min(MOST, value))


def _number(value: object) -> object:
    bounded = _bounded(value)
    return float(bounded) if isinstance(bounded, int) and not isinstance(bounded, bool) else bounded


Whole = Annotated[int, BeforeValidator(_bounded)]
Fraction = Annotated[float, BeforeValidator(_number)]


class Usage(Frozen):
    """What a run, or all runs of a task, consumed."""

    input_tokens: Whole = 0
    """Cached ones not counted."""
    output_tokens: Whole = 0
    cached_tokens: Whole = 0
    cost_usd: Fraction = 0.0
    """As the CLI reports it, or reckoned from its tokens."""
    reckoned_usd: Fraction = 0.0
    """How much of `cost_usd` was reckoned by prices."""
    unpriced_tokens: Whole = 0
    """Tokens of every kind for which there is neither report nor price: no budget of money counts them."""
    turns: Whole = 0
    seconds: Fraction = 0.0
    """Wall clock of the agent's process."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cost_usd=round(self.cost_usd + other.cost_usd, 6),
            reckoned_usd=round(self.reckoned_usd + other.reckoned_usd, 6),
            unpriced_tokens=self.unpriced_tokens + other.unpriced_tokens,
            turns=self.turns + other.turns,
            seconds=round(self.seconds + other.seconds, 3),
        )

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens - other.input_tokens,
            output_tokens=self.output_tokens - other.output_tokens,
            cached_tokens=self.cached_tokens - other.cached_tokens,
            cost_usd=round(self.cost_usd - other.cost_usd, 6),
            reckoned_usd=round(self.reckoned_usd - other.reckoned_usd, 6),
            unpriced_tokens=self.unpriced_tokens - other.unpriced_tokens,
            turns=self.turns - other.turns,
            seconds=round(self.seconds - other.seconds, 3),
        )


def overspent(budget: Budget | None, usage: Usage) -> str | None:
    """Return a message naming the budget limit that is reached; None if none is."""
    limit = reached(budget, usage)
    return f"budget spent: {limit[0]} of {limit[1]}" if limit else None


def reached(budget: Budget | None, usage: Usage) -> tuple[str, str] | None:
    """Return what was spent and the first limit that is reached, in words."""
    if budget is None:
        return None
    if budget.cost_usd is not None and usage.cost_usd >= budget.cost_usd:
        return f"{usage.cost_usd:g}", f"{budget.cost_usd:g} US dollars"
    tokens = usage.input_tokens + usage.output_tokens
    if budget.tokens is not None and tokens >= budget.tokens:
        return f"{tokens}", f"{budget.tokens} tokens"
    return None
