"""
Pull request controller: reads pull requests into facts, and shows the status of tasks on the forge.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from reconciler.controller.hints import Hints
from reconciler.controller.inbox import Inbox
from reconciler.controller.merge_queue import MergeQueues
from reconciler.controller.merge_turns import MERGE_TURN, MergeTurns
from reconciler.controller.poller import Latch, Poller
from reconciler.controller.ports import Clock, Dispatch, FleetView, Forges, Meter
from reconciler.core.errors import Unavailable
from reconciler.core.events import PullRequestSeen
from reconciler.core.forge.presentation import desired_view, is_shown
from reconciler.core.forge.pull_request import is_followed, may_merge
from reconciler.core.model.forge import ForgeView, Hint, MergeRefusal, PullRequestSnapshot
from reconciler.core.model.specs import Forge, Repo, Task
from reconciler.core.model.status import Status
from reconciler.core.runs.start_point import pull_bases

log = logging.getLogger(__name__)

MEMORY = timedelta(days=1)
"""After a restart, tasks that settled within this time are shown on the forge once more."""

AT_ONCE = 4
"""Tasks of a repo that are shown at a time."""
SHOW_TURN = timedelta(seconds=10)
"""For so long at most a visit shows one task after another: after a restart all have to be."""

SOON = timedelta(seconds=5)
"""First delay before a merge is retried that the forge was not ready for; doubles each time."""

SETTLES = timedelta(seconds=5)
"""Delay of the look after a deed of our own account: what it did is known, and mostly not the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _MergeTurn:
    """Merges that a repo is in the middle of: its forge computes before it takes the next one."""

    repo: Repo
    pulls: Mapping[str, PullRequestSnapshot | Unavailable | None]
    bot: str
    began: datetime
    at: datetime
    """When the forge is asked again."""

    def lasts(self, now: datetime) -> bool:
        """Return whether nothing else is done in the repo now."""
        return self.began <= now < self.until

    @property
    def until(self) -> datetime:
        """When other things have their turn."""
        return self.began + MERGE_TURN


@dataclass(frozen=True, slots=True)
class _ShowTurn:
    """What the parts of a visit share that show tasks."""

    first: Collection[str]
    """Tasks that the last visit had no time for."""
    left: set[str] = field(default_factory=set)
    """Tasks that this one has no time for."""
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))


_Visit = tuple[object, ...]
"""What is shown of a task follows from: specs and statuses, repo, host, pull request, our name."""


class PullRequestController:
    """
    Follows the pull requests of tasks and shows on the forge where the tasks stand.

    What is shown is never older than what was read: it waits until that is on
    record. `address` is where people find a task, with its name to be added;
    empty if nowhere.
    """

    def __init__(
        self,
        forges: Forges,
        view: FleetView,
        inbox: Inbox,
        *,
        dispatch: Dispatch,
        clock: Clock,
        address: str,
        meter: Meter,
    ) -> None:
        self._forges = forges
        self._view = view
        self._inbox = inbox
        self._clock = clock
        self._address = address
        self.poller: Poller[Repo] = Poller(
            poll=self._poll,
            subjects=self._repos,
            interval=lambda: view.desired.fleet.forge_interval,
            clock=clock,
            failure="its forge is not asked now",
            done=inbox.wake,
        )
        """Polls of repos; driven by the loop."""
        self._watched: dict[str, set[str]] = {}
        """Tasks with something to show or to follow, by repo."""
        self._failing_since: dict[str, datetime] = {}
        """Times since which tasks are settled whose end is shown on the forge."""
        self._hints = Hints[int]()
        self._refreshed: dict[str, datetime] = {}
        """When pull requests were read last that gave no sign, by repo."""
        self._left: dict[str, Collection[str]] = {}
        """Tasks that the last visit had no time to show, by repo."""
        self._shown: dict[str, tuple[ForgeView, PullRequestSnapshot | None]] = {}
        self._last_facts: dict[str, tuple[Task | None, Status | None, Repo, PullRequestSnapshot]] = {}
        """
        What the last fact about a pull request told, where its task stood when the reading began, and the
        rules of its repo.
        """
        self._at_rest: dict[str, _Visit] = {}
        """Of tasks that are shown as they should be: what that followed from."""
        self._turns = MergeTurns(clock, lambda: view.desired.fleet.forge_interval)
        self._merging: dict[str, _MergeTurn] = {}
        """Turns under way, by repo."""
        self._hinted: dict[str, set[int]] = {}
        """Repos in which somebody else did something since the last look, and to which pull requests."""
        self._queues = MergeQueues(
            dispatch, view, inbox, clock, lambda repo: self.poller.notify([repo]), meter=meter
        )
        self._bots: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        """Tasks whose pull request could not be read, or not be written to, at the last visit, and why."""
        self._patience: dict[str, tuple[timedelta, datetime]] = {}
        """After a refused merge: the next delay, and when it is tried again, by task."""

    # --- What the loop tells ------------------------------------------------

    def begin(self, statuses: Mapping[str, Status]) -> None:
        """Forget what was known of tasks: a record was read anew, `notice` tells of each."""
        self._watched = {}
        self._failing_since = {name: since for name, since in self._failing_since.items() if name in statuses}

    def notice(self, names: Iterable[str]) -> None:
        """Watch tasks whose spec or status is new, and poll their repos soon."""
        self.poller.notify([repo for name in names if (repo := self._watch(name))])

    def notify(self, hint: Hint, latch: Latch | None = None) -> None:
        """
        Look soon at the pull request that a hint names, or at what has changed in its repos.

        `latch` is held until that was done.
        """
        repos = self._view.desired.repos.keys() & hint.repos
        is_ours = hint.sender in self.accounts
        is_known = is_ours and hint.commit is None  # of a commit CI may speak in our name
        for repo in repos:
            numbers = list(self._named_by(hint, repo))
            for number in numbers:
                self._hints.add(repo, number, hint.delivery)
            if not is_known:
                self._hinted.setdefault(repo, set()).update([] if is_ours else numbers)
        self.poller.notify(hint.repos, at=self._clock() + SETTLES if is_known else None, latch=latch)
        self._inbox.wake()

    def _named_by(self, hint: Hint, repo: str) -> Iterable[int]:
        """Yield the pull requests that a hint is about; our own deeds are known."""
        if hint.pull is not None and hint.sender not in self.accounts:
            yield hint.pull
        for name in self._watched.get(repo, ()) if hint.commit else ():
            status = self._view.statuses.get(name)
            if status and status.review.pull_request and status.head_commit == hint.commit:
                yield status.review.pull_request.number

    @property
    def accounts(self) -> Collection[str]:
        """Names of our own accounts on the forges, as far as they were asked."""
        return self._bots.values()

    def retry_reasons(self, now: datetime) -> Mapping[str, str]:
        """Return why the review of work cannot be followed, by run key."""
        lasting = self.poller.lasting_failures(now).items()
        failing = [
            (name, f"its forge does not answer: {why}")
            for repo, why in lasting
            for name in self._watched.get(repo, ())
        ]
        statuses = ((self._view.statuses.get(name), why) for name, why in [*self._failed.items(), *failing])
        return {status.run.key: why for status, why in statuses if status and status.run}

    @property
    def is_validating(self) -> bool:
        """Whether a merge queue has something validated."""
        return self._queues.is_validating

    async def close(self) -> None:
        """Cancel what is under way."""
        await self.poller.close()
        await self._queues.close()

    # --- A visit -----------------------------------------------------------

    def _watch(self, name: str) -> str | None:
        """Watch a task or stop watching it; return its repo if it is watched."""
        for watched in self._watched.values():
            watched.discard(name)
        task, status = self._view.desired.tasks.get(name), self._view.statuses.get(name)
        if task is None or status is None or task.repo is None or not self._matters(task, status):
            for memory in (self._shown, self._patience, self._failed, self._last_facts, self._at_rest):
                memory.pop(name, None)
            return None
        self._watched.setdefault(task.repo, set()).add(name)
        return task.repo

    def _matters(self, task: Task, status: Status) -> bool:
        """Return whether a task has something to follow or to show."""
        repo = self._view.desired.repos.get(task.repo or "")
        if repo is None or repo.forge is None:
            return False
        return is_followed(task, status) or (is_shown(task, status) and not self._is_told(task.name, status))

    def _is_told(self, name: str, status: Status) -> bool:
        """Return whether the forge shows how a task has ended; after a restart it is shown once more."""
        is_old = status.since <= self._clock() - MEMORY
        return status.phase.is_settled and (is_old or self._failing_since.get(name) == status.since)

    def _repos(self) -> Mapping[str, Repo]:
        repos = self._view.desired.repos
        return {name: repos[name] for name, tasks in self._watched.items() if tasks and name in repos}

    async def _poll(self, repo: Repo) -> None:
        turn = self._merging.pop(repo.name, None)
        if turn and turn.repo == repo and turn.lasts(self._clock()) and repo.name not in self._hinted:
            await self._go_on(turn)
            return
        self._hinted.pop(repo.name, None)  # before the look: what comes during it is news for the next
        with self._hints.taken(repo.name) as hints:
            await self._read_and_show(repo, hints)

    async def _read_and_show(self, repo: Repo, hints: Mapping[int, str]) -> None:
        if repo.forge is None:
            return
        names = sorted(self._watched.get(repo.name, ()))
        branches = {name: branch for name in names if (branch := self._branch(name))}
        bot, at = await self._bot(repo.forge), self._clock()
        before = {name: self._spec_and_status(name) for name in names}
        fresh = self._fresh(repo.name, names, hints)
        refreshes = self._is_refresh_due(repo.name, at)
        pulls = await self._forges.pulls(repo.forge, set(branches.values()), fresh, refreshes=refreshes)
        if refreshes:
            self._refreshed[repo.name] = at
        by_task = {name: pulls[branch] for name, branch in branches.items() if branch in pulls}
        for name, pull in by_task.items():
            if not isinstance(pull, PullRequestSnapshot):
                continue
            delivery, last = hints.get(pull.number), self._last_facts.get(name)
            # Most visits come of a hint about another pull request: of this one all was said.
            if refreshes or delivery or last is None or not _is_same(last, (*before[name], repo, pull)):
                self._inbox.emit(PullRequestSeen(task=name, pull=pull, at=at, delivery=delivery, bot=bot))
                self._last_facts[name] = *before[name], repo, pull
        shows = _ShowTurn(self._left.get(repo.name, frozenset()))
        unread = {name: None for name in names if name not in by_task}
        # What was not there to be read waits for no record: most of it is to be opened.
        await asyncio.gather(
            self._show_all(repo, unread, bot, shows),
            self._show_recorded(repo, by_task, bot, shows),
        )
        self._left[repo.name] = shows.left
        if shows.left:  # the next visit comes at once, and knows what people did meanwhile
            self._merging.pop(repo.name, None)
            self.poller.notify([repo.name])

    def _spec_and_status(self, name: str) -> tuple[Task | None, Status | None]:
        return self._view.desired.tasks.get(name), self._view.statuses.get(name)

    def _is_refresh_due(self, repo: str, at: datetime) -> bool:
        """Return whether pull requests are read that gave no sign: in its turn, however often hints come."""
        last = self._refreshed.get(repo)
        return last is None or not last <= at < last + self._view.desired.fleet.forge_interval / 2

    async def _show_recorded(
        self,
        repo: Repo,
        pulls: Mapping[str, PullRequestSnapshot | Unavailable],
        bot: str,
        shows: _ShowTurn,
    ) -> None:
        """Show tasks once what was read of them is on record, and merge beside that what is to be merged."""
        await self._inbox.wait_recorded(pulls)
        await self._queues.visit(repo, pulls, bot)
        await self._inbox.wait_recorded(pulls)
        merging, now = self._to_merge(repo, pulls, bot), self._clock()
        others = {name: pull for name, pull in pulls.items() if name not in merging}
        turn = _MergeTurn(
            repo=repo, pulls={name: pulls[name] for name in merging}, bot=bot, began=now, at=now
        )
        await asyncio.gather(self._show_all(repo, others, bot, shows), self._merge(turn))

    async def _show_all(
        self,
        repo: Repo,
        pulls: Mapping[str, PullRequestSnapshot | Unavailable | None],
        bot: str,
        shows: _ShowTurn,
    ) -> None:
        """Show tasks, some at a time, and for some time; those first that the last visit had no time for."""
        until = self._clock() + SHOW_TURN

        async def show(name: str) -> None:
            async with shows.gate:
                if self._clock() < until:
                    await self._try_to_show(repo, name, pulls[name], bot=bot)
                else:
                    shows.left.add(name)

        moving = [name for name in pulls if not self._rests(repo, name, pulls[name], bot)]
        await asyncio.gather(*map(show, sorted(moving, key=lambda name: (name not in shows.first, name))))

    async def _go_on(self, turn: _MergeTurn) -> None:
        """
        Go on with a turn once its time has come.

        Nothing is read meanwhile, and what was merged is not shown yet: the forge that
        would have to answer that is the one that computes.
        """
        if self._clock() >= turn.at:
            await self._merge(turn)
        else:
            self._await_turn(turn)
        if turn.repo.name not in self._merging:
            self.poller.notify([turn.repo.name])

    async def _merge(self, turn: _MergeTurn) -> None:
        """
        Merge in turn; what the forge has to compute before is asked for again after a time.

        What somebody else did something to since it was read waits for the next visit: a person may
        have withdrawn an approval.
        """
        repo, left, numbers = turn.repo, dict(turn.pulls), self._to_merge(turn.repo, turn.pulls, turn.bot)

        async def merge(name: str) -> MergeRefusal | None:
            if numbers[name] in self._hinted.get(repo.name, ()):
                left.pop(name)
                return None
            refusal = await self._try_to_show(repo, name, turn.pulls[name], bot=turn.bot)
            if refusal is None or refusal.kind != "computing":
                left.pop(name)
            return refusal

        pause = await self._turns.merge(repo.name, numbers, merge, turn.until)
        if pause is not None:
            self._await_turn(replace(turn, pulls=left, at=self._clock() + pause))

    def _await_turn(self, turn: _MergeTurn) -> None:
        if turn.lasts(turn.at):
            self._merging[turn.repo.name] = turn
        self.poller.notify([turn.repo.name], at=turn.at)

    def _rests(self, repo: Repo, name: str, pull: PullRequestSnapshot | Unavailable | None, bot: str) -> bool:
        """Return whether nothing of what is shown of a task can be other than at the last visit."""
        last = self._at_rest.get(name)
        return last is not None and _is_same(last, self._visit(repo, name, pull, bot))

    def _visit(
        self, repo: Repo, name: str, pull: PullRequestSnapshot | Unavailable | None, bot: str
    ) -> "_Visit":
        task, status = self._spec_and_status(name)
        host = self._view.hosts.get((status and status.assigned_host) or "")
        before = self._spec_and_status((task and task.start_from) or "")
        return task, status, *before, repo, host, pull, bot

    def _to_merge(
        self, repo: Repo, pulls: Mapping[str, PullRequestSnapshot | Unavailable | None], bot: str
    ) -> Mapping[str, int]:
        """Return the tasks whose pull requests are to be merged now, with their numbers."""
        numbers = {}
        for name, pull in pulls.items():
            task, status = self._view.desired.tasks.get(name), self._view.statuses.get(name)
            if task is None or status is None or not isinstance(pull, PullRequestSnapshot):
                continue
            try:
                is_due = may_merge(task, status, pull, repo, bot=bot)
            except Exception:
                log.exception("task %s: whether it is to be merged cannot be determined; others go on", name)
                continue
            if is_due:
                numbers[name] = pull.number
        return numbers

    async def _try_to_show(
        self,
        repo: Repo,
        name: str,
        pull: PullRequestSnapshot | Unavailable | None,
        *,
        bot: str,
    ) -> MergeRefusal | None:
        """Show a task; one that cannot be read or shown says why, and holds up no other."""
        self._failed.pop(name, None)
        self._at_rest.pop(name, None)
        try:
            if isinstance(pull, Unavailable):
                self._failed[name] = f"its pull request cannot be read: {pull}"
            else:
                return await self._show(repo, name, pull, bot=bot)
        except Unavailable as error:
            log.warning("task %s is not shown on its forge now: %s", name, error)
            self._failed[name] = f"it is not shown on its forge: {error}"
        except Exception as error:
            log.exception("task %s cannot be shown on its forge; the others are", name)
            self._failed[name] = f"showing it on its forge failed by a mistake of the reconciler: {error!r}"
        return None

    def _fresh(self, repo: str, names: Iterable[str], hints: Collection[int]) -> Collection[int]:
        """
        Return the pull requests of ours to read by their numbers, whether they have moved or not.

        Those that webhooks spoke of, and that may land now; at the first visit all on record, for
        a list of the newest may not reach them.
        """
        statuses = (self._view.statuses.get(name) for name in names)
        pulls = (status.review.pull_request for status in statuses if status)
        ours = {pull.number for pull in pulls if pull}
        landing = self._queues.landing(repo)
        return ours.intersection(hints).union(landing) if repo in self._refreshed else ours

    async def _show(
        self,
        repo: Repo,
        name: str,
        pull: PullRequestSnapshot | None,
        *,
        bot: str,
    ) -> MergeRefusal | None:
        """
        Show the status of a task on the forge, unless it is shown already; return why it is not merged.

        What is new of its pull request goes on record with what others have: each commit is a push,
        and the forge that takes it is the one that merges.
        """
        task, status = self._view.desired.tasks.get(name), self._view.statuses.get(name)
        if task is None or status is None or repo.forge is None:
            return None
        host = self._view.hosts.get(status.assigned_host or "")
        address = f"{self._address}{name}" if self._address else ""
        bases = pull_bases(task, repo, self._view.desired, self._view.statuses)
        wanted = desired_view(task, status, repo, pull, bot=bot, host=host, address=address, bases=bases)
        if wanted is None or self._is_done(repo.name, name, (wanted, pull)):
            if name not in self._patience:
                self._at_rest[name] = self._visit(repo, name, pull, bot)
            self._rest(name, status)
            return None
        at = self._clock()
        after = await self._forges.show(repo.forge, wanted)
        refusal = after.refusal if after else None
        if after and refusal and refusal.kind == "computing" and not self._turns.is_slow(repo.name):
            after = replace(after, refusal=None)  # it is over in moments
        if wanted.merges and not (after and after.is_merged):
            self._await_merge(repo, name, wanted, after, refusal)
        else:
            self._shown[name] = wanted, after
            self._patience.pop(name, None)
            self._rest(name, status)
        if after is not None and after != pull:
            self._inbox.emit_later(PullRequestSeen(task=name, pull=after, at=at, bot=bot))
        return refusal

    def _is_done(self, repo: str, name: str, shown: tuple[ForgeView, PullRequestSnapshot | None]) -> bool:
        """Return whether that is shown already; a merge that was refused is asked for again after a time."""
        if self._shown.get(name) != shown:
            return False
        if name not in self._patience:
            return True
        _, at = self._patience[name]
        self.poller.notify([repo], at=at)
        return at > self._clock()

    def _await_merge(
        self,
        repo: Repo,
        name: str,
        wanted: ForgeView,
        after: PullRequestSnapshot | None,
        refusal: MergeRefusal | None,
    ) -> None:
        """Schedule another poll with a growing delay: some merges are never allowed."""
        if refusal and refusal.kind == "computing":  # that is up to the repo
            return
        if after and refusal:
            self._shown[name] = wanted, replace(after, refusal=None)
        now = self._clock()
        wait, at = self._patience.get(name, (SOON, now))
        if at <= now:  # else it was tried sooner, as something else was new
            at = now + wait
            self._patience[name] = min(wait * 2, self._view.desired.fleet.forge_interval), at
        self.poller.notify([repo.name], at=at)

    def _rest(self, name: str, status: Status) -> None:
        """Stop watching a settled task, now that its forge shows the end."""
        if status.phase.is_settled:
            self._failing_since[name] = status.since
            self._watch(name)

    def _branch(self, name: str) -> str | None:
        task, status = self._view.desired.tasks.get(name), self._view.statuses.get(name)
        if status and status.run:
            return status.run.branch
        return task.branch if task else None

    async def _bot(self, forge: Forge) -> str:
        """Return the name of our own account there; its actions are ignored."""
        bot = self._bots[f"{forge.api} {forge.repo}"] = await self._forges.whoami(forge)
        return bot


def _is_same(one: Sequence[object], other: Sequence[object]) -> bool:
    """Return whether all parts are the same objects, or for a pull request equal ones."""
    pairs = zip(one, other, strict=True)
    return all(a is b or (isinstance(a, PullRequestSnapshot | str) and a == b) for a, b in pairs)
