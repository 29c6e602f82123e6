"""
Pull requests, repo by repo: what the forge says becomes facts, and where tasks stand is shown there.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from reconciler.controller.errands import Errands
from reconciler.controller.ports import Clock, Desk, Emit, Forges
from reconciler.core.errors import Unavailable
from reconciler.core.events import PullSeen
from reconciler.core.forge import Pull, Want
from reconciler.core.model import Forge, Repo, Status, Task
from reconciler.core.review import is_followed
from reconciler.core.show import is_shown, want

log = logging.getLogger(__name__)

MEMORY = timedelta(days=1)
"""How long ago a task may have settled for the forge to be told once more after a restart."""

SOON = timedelta(seconds=5)
"""When a merge is tried again that the forge was not ready for."""


class PullRequests:
    """
    Follows the pull requests of tasks and shows on the forge where the tasks stand.

    `digested` waits until the loop has put on record what follows from the
    facts so far: what is shown is never older than what was read. `address`
    is where people find a task, with its name to be added; empty if nowhere.
    """

    def __init__(
        self,
        forges: Forges,
        desk: Desk,
        emit: Emit,
        digested: Callable[[], Awaitable[None]],
        *,
        clock: Clock,
        wake: Callable[[], None],
        address: str,
    ) -> None:
        self._forges = forges
        self._desk = desk
        self._emit = emit
        self._digested = digested
        self._clock = clock
        self._address = address
        self._visits: Errands[Repo] = Errands(self._visit, wake)
        self._watched: dict[str, set[str]] = {}
        """Tasks with something to show or to follow, by repo."""
        self._untold: set[str] = set()
        """Settled tasks of which the forge was not told yet."""
        self._hints: dict[str, dict[int, str]] = {}
        """Numbers that webhooks spoke of, with the delivery, by repo."""
        self._visited: set[str] = set()
        self._shown: dict[str, tuple[Want, Pull | None]] = {}
        self._bots: dict[str, str] = {}

    # --- What the loop tells ------------------------------------------------

    def begin(self, statuses: Mapping[str, Status]) -> None:
        """Take up a record that was read anew."""
        since = self._clock() - MEMORY
        self._untold |= {
            n for n, status in statuses.items() if status.phase.is_settled and status.since > since
        }
        self._watched = {}
        self.notice(statuses)

    def notice(self, names: Iterable[str]) -> None:
        """Take note of tasks whose spec or status is new: their repos are visited soon."""
        self._visits.hurry([repo for name in names if (repo := self._watch(name))])

    def settled(self, names: Iterable[str]) -> None:
        """Remember to tell the forge of tasks that have just settled."""
        self._untold.update(names)

    def hint(self, repo: str, numbers: Collection[int], delivery: str) -> None:
        """Look at these pull requests soon; at what has changed, if there are none."""
        self._hints.setdefault(repo, {}).update(dict.fromkeys(numbers, delivery))
        self._visits.hurry([repo])

    def send(self, now: datetime) -> None:
        """Visit the repos whose turn it is."""
        self._visits.send(self._repos(), now, self._desk.desired.fleet.forge_interval)

    def next(self) -> datetime | None:
        """Return when the next visit is due."""
        return self._visits.next()

    def is_idle(self) -> bool:
        """Return whether every repo had its visit since something was new."""
        return self._visits.is_idle(self._repos())

    async def close(self) -> None:
        """Call back who is under way."""
        await self._visits.close()

    # --- A visit -----------------------------------------------------------

    def _watch(self, name: str) -> str | None:
        """Watch a task, or let go of it; return its repo if it is watched."""
        for watched in self._watched.values():
            watched.discard(name)
        task, status = self._desk.desired.tasks.get(name), self._desk.statuses.get(name)
        if task is None or status is None or task.repo is None or not self._matters(task, status):
            self._shown.pop(name, None)
            return None
        self._watched.setdefault(task.repo, set()).add(name)
        return task.repo

    def _matters(self, task: Task, status: Status) -> bool:
        """Return whether a task has something to follow or to show."""
        repo = self._desk.desired.repos.get(task.repo or "")
        if repo is None or repo.forge is None:
            return False
        is_told = status.phase.is_settled and task.name not in self._untold
        return is_followed(task, status) or (is_shown(task, status) and not is_told)

    def _repos(self) -> Mapping[str, Repo]:
        repos = self._desk.desired.repos
        return {name: repos[name] for name, tasks in self._watched.items() if tasks and name in repos}

    async def _visit(self, repo: Repo) -> None:
        hints = self._hints.pop(repo.name, {})
        try:
            await self._read_and_show(repo, hints)
        except Unavailable as error:
            self._hints[repo.name] = {**hints, **self._hints.get(repo.name, {})}
            log.info("repo %s: its forge is not asked now: %s", repo.name, error)

    async def _read_and_show(self, repo: Repo, hints: Mapping[int, str]) -> None:
        if repo.forge is None:
            return
        names = sorted(self._watched.get(repo.name, ()))
        branches = {name: branch for name in names if (branch := self._branch(name))}
        bot, at = await self._bot(repo.forge), self._clock()
        fresh = {*hints, *self._known(repo.name, names)}
        pulls = await self._forges.pulls(repo.forge, set(branches.values()), fresh)
        self._visited.add(repo.name)
        for name, branch in branches.items():
            if branch in pulls:
                self._see(name, pulls[branch], at, bot=bot, delivery=hints.get(pulls[branch].number))
        await self._digested()
        for name in names:
            try:
                await self._show(repo, repo.forge, name, pulls.get(branches.get(name, "")), bot)
            except Unavailable as error:
                log.info("task %s is not shown on its forge now: %s", name, error)

    def _known(self, repo: str, names: Iterable[str]) -> Iterator[int]:
        """Yield the pull requests on record, at the first visit: a list of the newest may not reach them."""
        if repo not in self._visited:
            statuses = (self._desk.statuses.get(name) for name in names)
            yield from (status.pull_request.number for status in statuses if status and status.pull_request)

    async def _show(self, repo: Repo, forge: Forge, name: str, pull: Pull | None, bot: str) -> None:
        """Let the forge show where a task stands, unless it was shown already."""
        task, status = self._desk.desired.tasks.get(name), self._desk.statuses.get(name)
        if task is None or status is None:
            return
        host = self._desk.hosts.get(status.assigned_host or "")
        address = f"{self._address}{name}" if self._address else ""
        wanted = want(task, status, repo, pull, bot=bot, host=host, address=address)
        if wanted is None or self._shown.get(name) == (wanted, pull):
            self._told(name, status)
            return
        at = self._clock()
        after = await self._forges.show(forge, wanted)
        if wanted.merges and not (after and after.is_merged):
            self._visits.postpone(repo.name, self._clock() + SOON)
        else:
            self._shown[name] = wanted, after
            self._told(name, status)
        if after is not None and after != pull:
            self._see(name, after, at, bot=bot)

    def _told(self, name: str, status: Status) -> None:
        """Let a settled task rest, now that its forge knows."""
        if status.phase.is_settled:
            self._untold.discard(name)
            self._watch(name)

    def _see(self, name: str, pull: Pull, at: datetime, *, bot: str, delivery: str | None = None) -> None:
        self._emit(PullSeen(task=name, pull=pull, at=at, delivery=delivery, bot=bot))

    def _branch(self, name: str) -> str | None:
        task, status = self._desk.desired.tasks.get(name), self._desk.statuses.get(name)
        return (status.branch_name if status else None) or (task.branch if task else None)

    async def _bot(self, forge: Forge) -> str:
        """Return the name of our own account there; what it does is not answered."""
        key = f"{forge.api} {forge.repo}"
        if key not in self._bots:
            self._bots[key] = await self._forges.whoami(forge)
        return self._bots[key]
