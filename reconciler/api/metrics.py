"""
Metrics: what Prometheus is told of a fleet, and of the reconciler's own work.

Every metric stands in one table. Durations and counts come from steps as they
go on record and from the meter of the loop; how things stand is counted when it
is asked for. Labels have few values: phases, reasons, and the names of hosts,
repos, adapters and campaigns in the specs; never those of tasks.
"""

import asyncio
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from reconciler.api.views import own_model
from reconciler.controller.ports import (
    Clock,
    CommitOutcome,
    FleetView,
    LookOutcome,
    PushRefusal,
    Step,
    ValidationOutcome,
)
from reconciler.core.counts import FleetCounts, fleet_counts
from reconciler.core.events import ChangesRequested, Completed, Escalated, Event
from reconciler.core.forge.pull_request import QUEUE
from reconciler.core.lifecycle import TRANSITIONS as TRANSITIONS_TABLE
from reconciler.core.lifecycle import Transition
from reconciler.core.model.status import QUEUE_REASONS, BudgetScope, Phase, Status
from reconciler.core.notifications.book import TargetReport
from reconciler.core.views import ReadModel

disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each, and no dashboard asks for it

LAG_SECONDS = 1.0
"""Between two measurements of the event loop's lag."""


class Definition(NamedTuple):
    """A metric: what it is called, and what it says."""

    name: str
    """As it is exposed, with the unit and, of a counter, `_total`."""
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper edges in seconds, of a histogram."""


_QUICK = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LONG = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0, 86400.0)

# How things stand, counted when it is asked for.
BUILD = Definition(
    "reconciler_build_info", "gauge", "Always 1; the labels say what runs", ("version", "python")
)
TASKS = Definition(
    "reconciler_tasks",
    "gauge",
    "Tasks by phase and by what they wait for (`none`: for nothing)",
    ("phase", "reason"),
)
QUEUE_AGE = Definition(
    "reconciler_queue_age_seconds",
    "gauge",
    "How long the first of the tasks in `created` has waited, by what for",
    ("reason",),
)
NEEDS = Definition("reconciler_needs_person", "gauge", "What needs a person, by why", ("why",))
NEEDS_AGE = Definition(
    "reconciler_needs_person_age_seconds",
    "gauge",
    "How long the first task or host that needs a person has; 0 if none does",
)
SLOTS = Definition("reconciler_slots", "gauge", "Slots of a host", ("host",))
SLOTS_USED = Definition("reconciler_slots_used", "gauge", "Slots that live runs take", ("host",))
HOST_UP = Definition("reconciler_host_up", "gauge", "Whether a host that is not suspended answers", ("host",))
HOST_READY = Definition(
    "reconciler_host_ready", "gauge", "Whether new runs can start on a host, slots apart", ("host",)
)
FORGE_UP = Definition("reconciler_forge_up", "gauge", "Whether the forge of a repo answers", ("repo",))
BUDGET = Definition(
    "reconciler_budget_used_ratio",
    "gauge",
    "Share of a daily budget that is spent today (UTC), by whose it is",
    ("scope", "name"),
)
MERGE_QUEUE = Definition(
    "reconciler_merge_queue_depth", "gauge", "Approved branches in the merge queue of a repo", ("repo",)
)
LEADER = Definition("reconciler_leader", "gauge", "Whether this process holds the fleet's leader lease")
READY = Definition("reconciler_ready", "gauge", "Whether tasks are looked after, as /readyz says it")
WEBHOOKS = Definition(
    "reconciler_webhook_deliveries_total",
    "counter",
    "Deliveries of webhooks, by what came of them",
    ("outcome",),
)

ACCOUNT_USABLE = Definition(
    "reconciler_account_usable",
    "gauge",
    "Whether new runs may take an account: not if it is at its limit, out of service or suspended",
    ("account", "state"),
)
CAMPAIGN_TASKS = Definition(
    "reconciler_campaign_tasks", "gauge", "Tasks of a campaign, by where they stand", ("campaign", "state")
)
UNSENT = Definition(
    "reconciler_notifications_waiting", "gauge", "Messages that wait to be sent, by target", ("target",)
)
NOTIFICATIONS = Definition(
    "reconciler_notifications_total",
    "counter",
    "Messages by target and what came of them; one that `failed` is tried again until it is `dropped`",
    ("target", "outcome"),
)

# What happens, counted as it does.
TRANSITIONS = Definition(
    "reconciler_transitions_total",
    "counter",
    "Transitions of tasks on record; a phase before or after that is `none` has no status",
    ("from", "to"),
)
QUEUE_WAIT = Definition(
    "reconciler_queue_wait_seconds",
    "histogram",
    "From `created` to `assigned`",
    ("mode",),
    _LONG,
)
DISPATCH = Definition(
    "reconciler_dispatch_duration_seconds",
    "histogram",
    "From `assigned` to `running`: until the agent was seen alive",
    ("mode",),
    (*_QUICK[3:], 60.0, 300.0, 900.0),
)
RUN = Definition(
    "reconciler_run_duration_seconds",
    "histogram",
    "From `running` to the end of the run, by the phase that it ended in",
    ("adapter", "outcome"),
    _LONG,
)
ROUND = Definition(
    "reconciler_round_duration_seconds",
    "histogram",
    "Wall clock of the agent's process in one round",
    ("adapter",),
    _LONG,
)
TOKENS = Definition("reconciler_tokens_total", "counter", "Tokens of ended rounds", ("adapter", "kind"))
COST = Definition(
    "reconciler_cost_dollars_total",
    "counter",
    "US dollars of ended rounds, as reported by CLIs or reckoned by prices",
    ("adapter", "source"),
)
UNPRICED = Definition(
    "reconciler_unpriced_tokens_total",
    "counter",
    "Tokens of ended rounds whose model has no price: no budget of US dollars counts them",
    ("adapter",),
)
MERGE_VALIDATIONS = Definition(
    "reconciler_merge_queue_validations_total",
    "counter",
    "Commits that merge queues validated, each of one branch or several; a `fault` came to no end",
    ("repo", "outcome"),
)
MERGE_WAIT = Definition(
    "reconciler_merge_queue_wait_seconds",
    "histogram",
    "How long approved branches were in a merge queue, by what came of them: `landed`, `sent_back` to the "
    "agent (it breaks the base, or conflicts), or `left` (merged by others, no longer approved)",
    ("repo", "outcome"),
    _LONG,
)
COMMITS = Definition(
    "reconciler_state_commits_total", "counter", "Steps that were put on record, a commit each"
)
COMMIT_TIME = Definition(
    "reconciler_state_commit_duration_seconds",
    "histogram",
    "Time to put a batch of steps on record, push included, by how it ended",
    ("outcome",),
    _QUICK,
)
REFUSED = Definition(
    "reconciler_state_push_refusals_total",
    "counter",
    "Pushes of the record that the remote did not take, by why",
    ("why",),
)
LOOK = Definition(
    "reconciler_look_duration_seconds",
    "histogram",
    "Time of a look of the loop: read, plan, record, act; by how it ended",
    ("outcome",),
    _QUICK,
)
LAST_LOOK = Definition(
    "reconciler_last_look_timestamp_seconds", "gauge", "When a look last ended well; at least once a minute"
)
LAG = Definition(
    "reconciler_event_loop_lag_seconds", "histogram", "How late the event loop wakes a sleeper", (), _QUICK
)
REQUESTS = Definition(
    "reconciler_http_requests_total",
    "counter",
    "Answers of the HTTP API, by operation (`none`: no such address) and status",
    ("operation", "status"),
)
REQUEST_TIME = Definition(
    "reconciler_http_request_duration_seconds",
    "histogram",
    "Time to an answer's header, waiting of long polls included",
    ("operation",),
    _QUICK,
)

SAMPLED: tuple[Definition, ...] = (
    BUILD, TASKS, QUEUE_AGE, NEEDS, NEEDS_AGE, SLOTS, SLOTS_USED, HOST_UP, HOST_READY, FORGE_UP, BUDGET,
    ACCOUNT_USABLE, CAMPAIGN_TASKS, MERGE_QUEUE, LEADER, READY, WEBHOOKS, UNSENT, NOTIFICATIONS,
)  # fmt: skip
"""Counted when they are asked for."""
COUNTED: tuple[Definition, ...] = (
    TRANSITIONS, QUEUE_WAIT, DISPATCH, RUN, ROUND, TOKENS, COST, UNPRICED, MERGE_VALIDATIONS,
    MERGE_WAIT, COMMITS, COMMIT_TIME, REFUSED, LOOK, LAST_LOOK, LAG, REQUESTS, REQUEST_TIME,
)  # fmt: skip
"""Counted as things happen, from 0 at the start of the process."""
TABLE = (*SAMPLED, *COUNTED)
"""Every metric of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSources:
    """Where the samples come from; each is asked when the metrics are."""

    view: FleetView
    clock: Clock
    version: str
    unready: Callable[[], str] = lambda: ""
    """Return why tasks are not looked after now; empty if they are."""
    is_leader: Callable[[], bool] = lambda: True
    forges: Callable[[], Mapping[str, bool]] = dict
    """Return whether forges answer, by repo."""
    budgets: Callable[[], Mapping[BudgetScope, float]] = dict
    """Return which share of daily budgets is spent."""
    deliveries: Callable[[], Mapping[str, int]] = dict
    """Return how many webhooks came, by outcome."""
    notifications: Callable[[], Mapping[str, TargetReport]] = dict
    """Return how the targets of notifications are served, by name."""


class Metrics:
    """
    The metrics of one reconciler, in a registry of their own.

    Implements `controller.ports.Meter`; `step` takes what goes on record.
    """

    def __init__(self, clock: Clock) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._clock = clock
        self._counters = {each: _counter(each, self.registry) for each in COUNTED if each.kind == "counter"}
        self._histograms = {
            each: Histogram(each.name, each.help, each.labels, buckets=each.buckets, registry=self.registry)
            for each in COUNTED
            if each.kind == "histogram"
        }
        for edge in _edges():  # an alert on what never happened needs to see that it did not
            self._counters[TRANSITIONS].labels(*edge)
        self._last_look = Gauge(LAST_LOOK.name, LAST_LOOK.help, registry=self.registry)

    def sample(self, sources: MetricSources) -> None:
        """Let how things stand be asked there from now on."""
        self.registry.register(_Samples(sources))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that an Accept header asks for, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type

    # --- Meter -------------------------------------------------------------

    def look(self, seconds: float, outcome: LookOutcome) -> None:
        """Take note of a look of the loop."""
        self._histograms[LOOK].labels(outcome).observe(seconds)
        if outcome == "ok":
            self._last_look.set(self._clock().timestamp())

    def commit(self, steps: int, seconds: float, outcome: CommitOutcome) -> None:
        """Take note of a batch of steps that was to go on record."""
        self._histograms[COMMIT_TIME].labels(outcome).observe(seconds)
        if outcome == "recorded":
            self._counters[COMMITS].inc(steps)

    def push_refused(self, why: PushRefusal) -> None:
        """Take note of a push of the record that the remote did not take."""
        self._counters[REFUSED].labels(why).inc()

    def queue_validated(self, repo: str, outcome: ValidationOutcome) -> None:
        """Take note of a commit of a repo's merge queue that was validated."""
        self._counters[MERGE_VALIDATIONS].labels(repo, outcome).inc()

    # --- Requests, and the loop itself -------------------------------------

    def request(self, operation: str, status: int, seconds: float) -> None:
        """Take note of an answer."""
        self._counters[REQUESTS].labels(operation, str(status)).inc()
        self._histograms[REQUEST_TIME].labels(operation).observe(seconds)

    async def watch_loop(self) -> None:
        """Measure how late the event loop is, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            self._histograms[LAG].observe(max(0.0, loop.time() - due))

    # --- Steps -------------------------------------------------------------

    def step(self, step: Step) -> None:
        """Take note of a step that is on record now."""
        if not isinstance(step, Transition):
            return
        before, after = step.before, step.after
        phases = (str(status.phase) if status else "none" for status in (before, after))
        self._counters[TRANSITIONS].labels(*phases).inc()
        if before is not None:
            self._time_in_queue(before, step)
        if before is not None and after is not None:
            self._time(before, after, step.event.origin.at)
            self._spend(before, after)

    def _time(self, before: Status, after: Status, at: datetime) -> None:
        """Observe how long a task was in the phase that it left."""
        seconds = max(0.0, (at - before.since).total_seconds())
        mode = "http_pull" if after.assigned_agent else "ssh_cli"
        match before.phase, after.phase:
            case Phase.CREATED, Phase.ASSIGNED:
                self._histograms[QUEUE_WAIT].labels(mode).observe(seconds)
            case Phase.ASSIGNED, Phase.RUNNING:
                self._histograms[DISPATCH].labels(mode).observe(seconds)
            case Phase.RUNNING, ended if ended is not Phase.RUNNING:
                self._histograms[RUN].labels((after.run and after.run.adapter) or "none", str(ended)).observe(
                    seconds
                )

    def _time_in_queue(self, before: Status, step: Transition) -> None:
        """Observe how long a branch was in the merge queue that it left."""
        waiting, now = before.waiting, step.after.waiting if step.after else None
        if waiting is None or waiting.reason not in QUEUE_REASONS or before.run is None:
            return
        if now is None or now.reason not in QUEUE_REASONS:
            seconds = max(0.0, (step.event.origin.at - waiting.since).total_seconds())
            labels = (before.run.repo or "none", _left_queue(step.event))
            self._histograms[MERGE_WAIT].labels(*labels).observe(seconds)

    def _spend(self, before: Status, after: Status) -> None:
        if after.usage == before.usage:  # most steps: no difference is reckoned
            return
        usage = after.usage - before.usage
        adapter = _adapter(after)
        kinds = {"input": usage.input_tokens, "output": usage.output_tokens, "cached": usage.cached_tokens}
        for kind, tokens in kinds.items():
            self._counters[TOKENS].labels(adapter, kind).inc(max(0, tokens))
        money = {"reported": usage.cost_usd - usage.reckoned_usd, "reckoned": usage.reckoned_usd}
        for source, dollars in money.items():
            self._counters[COST].labels(adapter, source).inc(max(0.0, dollars))
        self._counters[UNPRICED].labels(adapter).inc(max(0, usage.unpriced_tokens))
        if usage.seconds > 0:
            self._histograms[ROUND].labels(adapter).observe(usage.seconds)


def _left_queue(event: Event) -> str:
    """Return what came of a branch with which its task left the merge queue."""
    if isinstance(event, Completed) and event.landed:
        return "landed"
    notes = event.reviews if isinstance(event, ChangesRequested | Escalated) else ()
    return "sent_back" if any(note.author == QUEUE for note in notes) else "left"


def _edges() -> Iterator[tuple[str, str]]:
    """Yield the phases before and after that a transition can have, where they are not the same."""
    for before, row in TRANSITIONS_TABLE.items():
        for after in dict.fromkeys(row.values()):
            if after is not before:
                yield str(before or "none"), str(after or "none")


def _counter(definition: Definition, registry: CollectorRegistry) -> Counter:
    return Counter(definition.name, definition.help, definition.labels, registry=registry)


# --- Samples ---------------------------------------------------------------

_Sample = tuple[tuple[str, ...], float]


def _adapter(status: Status) -> str:
    """Return the adapter of the last run; `none` where a worker has it."""
    return (status.run and status.run.adapter) or "none"


class _Samples(Collector):
    """Collector of how things stand."""

    def __init__(self, sources: MetricSources) -> None:
        self._sources = sources
        self._counts: tuple[tuple[object, ...], FleetCounts] | None = None

    def describe(self) -> Iterable[Metric]:
        """Yield every metric, without a sample."""
        return [_family(each, ()) for each in SAMPLED]

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with its samples."""
        model = own_model(self._sources.view)
        counts = self._counted(model)
        for definition, samples in self._samples(model, counts).items():
            yield _family(definition, samples)

    def _samples(self, model: ReadModel, counts: FleetCounts) -> Mapping[Definition, Iterable[_Sample]]:
        sources, hosts, now = self._sources, model.hosts().values(), self._sources.clock()
        targets = sources.notifications()
        probed = [host for host in hosts if host.spec.desired == "active" and host.state != "unknown"]
        return {
            BUILD: [((sources.version, platform.python_version()), 1)],
            TASKS: counts.tasks.items(),
            QUEUE_AGE: [((reason,), _age(now, at)) for reason, at in counts.waiting_since.items()],
            NEEDS: [((why,), count) for why, count in counts.needs.items()],
            NEEDS_AGE: [((), _age(now, counts.needs_since))],
            SLOTS: [((host.name,), host.spec.slots) for host in hosts],
            SLOTS_USED: [((host.name,), host.used) for host in hosts],
            HOST_UP: [((host.name,), host.state != "down") for host in probed],
            HOST_READY: [((host.name,), host.state == "up") for host in hosts],
            FORGE_UP: [((repo,), is_up) for repo, is_up in sources.forges().items()],
            BUDGET: sources.budgets().items(),
            ACCOUNT_USABLE: [
                ((name, account.state), account.state == "usable")
                for name, account in model.accounts().items()
            ],
            CAMPAIGN_TASKS: counts.campaigns.items(),
            MERGE_QUEUE: [((repo,), count) for repo, count in counts.queued.items()],
            LEADER: [((), sources.is_leader())],
            READY: [((), not sources.unready())],
            WEBHOOKS: [((outcome,), count) for outcome, count in sources.deliveries().items()],
            UNSENT: [((name,), report.waiting) for name, report in targets.items()],
            NOTIFICATIONS: [
                ((name, outcome), getattr(report.counts, outcome))
                for name, report in targets.items()
                for outcome in ("sent", "failed", "dropped")
            ],
        }

    def _counted(self, model: ReadModel) -> FleetCounts:
        """Return the counts; those of the last time while nothing moved."""
        seen = (model.desired, model.observed.statuses, model.observed.hosts, model.planned)
        if self._counts is None or any(a is not b for a, b in zip(seen, self._counts[0], strict=True)):
            self._counts = seen, fleet_counts(model)
        return self._counts[1]


def _age(now: datetime, since: datetime | None) -> float:
    return max(0.0, (now - since).total_seconds()) if since else 0.0


def _family(definition: Definition, samples: Iterable[_Sample]) -> Metric:
    kind = CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily
    family = kind(definition.name.removesuffix("_total"), definition.help, labels=definition.labels)
    for labels, value in samples:
        family.add_metric(labels, float(value))
    return family
