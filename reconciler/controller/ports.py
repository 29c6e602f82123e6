"""
What the loop and the rooms need from the outside, as protocols.

The rooms beside it (specs, store, dispatch) provide these; tests provide fakes
that pass the same contract tests.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from reconciler.core.adapter import Adapter, Usage
from reconciler.core.events import HostSeen, MergeSeen, RunEnded, RunSeen
from reconciler.core.hosts import HostChange
from reconciler.core.lifecycle import Transition
from reconciler.core.model import Desired, Host, HostStatus, Order, Purse, Repo, Status, Task
from reconciler.core.needs import Needs

Clock = Callable[[], datetime]
Fact = RunSeen | RunEnded | MergeSeen | HostSeen
Step = Transition | HostChange
Emit = Callable[[Fact], None]


class Entry(NamedTuple):
    """A file in a commit, as `git ls-tree` prints it."""

    mode: str
    """`100644`, `100755`; `120000` a symbolic link, `160000` a submodule."""
    blob: str
    """Id of its content."""


class Tree(Protocol):
    """A branch in a git repository, read by commit. Every method raises Unavailable if it cannot tell."""

    async def head(self) -> str:
        """Return the commit that the branch points at now."""

    async def files(self, commit: str, under: str) -> Mapping[str, Entry]:
        """Return every file below a folder such as `specs`, by path."""

    async def changed(self, old: str, new: str, under: str) -> Mapping[str, Entry | None]:
        """Return the files below a folder that differ between commits; None: gone."""

    async def blobs(self, ids: Collection[str], *, limit: int) -> Mapping[str, bytes]:
        """
        Return contents by blob id; one that is larger than `limit` bytes is cut to `limit` + 1.

        Raises Gone if one of them is not in the repository.
        """

    async def versions(self, commit: str, path: str, most: int) -> Sequence[str]:
        """Return the blob ids of earlier versions of a file, newest first."""


class Specs(Protocol):
    """Desired state: the specs of one revision at a time."""

    async def read(self, statuses: Mapping[str, Status]) -> Desired:
        """
        Return what the newest revision asks for; the same object if it has not moved.

        `statuses` names the generations in force, so that a file that is broken
        now can be answered with its last good version after a restart.
        Raises Unavailable if the revision cannot be read as a whole.
        """

    async def recall(self, name: str, generation: str) -> Task | None:
        """
        Return a task as it was in an earlier generation, with today's defaults.

        A live run goes on by the spec it was assigned with. None if that
        generation is not in the repository any more.
        """


class State(Protocol):
    """Observed state on record: the state branch, with one writer."""

    async def load(self) -> tuple[Mapping[str, Status], Mapping[str, HostStatus]]:
        """
        Return every status on record, of tasks and of hosts, at the newest commit.

        Raises Unavailable, or SpecError for a state branch that is damaged.
        """

    def has_moved(self) -> bool:
        """Return whether somebody else wrote since, as far as can be told without asking a remote."""

    async def commit(self, steps: Sequence[Step]) -> None:
        """
        Put the steps on record, in order, a commit each; durable when it returns.

        Nothing of them is recorded if it raises: Conflict if somebody else
        wrote first (load again and think again), Unavailable.
        """

    async def past_attempts(self, names: Collection[str]) -> Mapping[str, int]:
        """
        Return the last attempt on record by name, of those that ever had a run.

        Asked for new tasks: one that had the same name before may have left run
        folders behind, and results in them. Raises Unavailable.
        """

    async def spent(self, since: datetime) -> Mapping[Purse, Usage]:
        """Return what was spent since a time, and from whose money. Raises Unavailable."""


class Prober(Protocol):
    """Asks hosts what they are and have."""

    async def probe(
        self, host: Host, adapters: Mapping[str, Adapter], before: HostStatus | None
    ) -> tuple[HostStatus, float | None]:
        """
        Return what is known of the host now, and its load per core if it said.

        `adapters` are those it may be asked for. A host that does not answer is
        an answer too; nothing is raised.
        """


class Dispatch(Protocol):
    """Hosts that carry out orders."""

    @property
    def followed(self) -> frozenset[tuple[str, int]]:
        """(run key, round) of every order that is being followed."""

    def follow(self, order: Order, emit: Emit) -> None:
        """
        Carry out the order, or take it up where it stands; return at once.

        The same run and round is started once on its host, however often this
        is called. Ends in a `RunEnded`; the agent's first sign of life is a
        `RunSeen`. Failures arrive as events too.
        """

    def stop(self, order: Order, why: str, emit: Emit) -> None:
        """
        End the run of the order, started or not, followed or not; return at once.

        It will not start afterwards. Ends in a `RunEnded` whose verdict is of
        class `cancelled` (or the true one, if the run was quicker).
        """

    async def sweep(self, host: Host, needs: Callable[[], Needs]) -> None:
        """
        Relieve the host of what this fleet has there and does not need.

        Live runs that are stale are stopped; any other live run is left alone.
        Workspaces and run folders go, but for those of live, open and freshly
        failed runs. `needs` is asked after the host was: what is there by then
        was on record before. Raises Unavailable.
        """

    async def merged(self, repo: Repo, heads: Collection[str]) -> frozenset[str]:
        """Return those of the delivered commits that are on the base branch by now. Raises Unavailable."""

    async def close(self) -> None:
        """Stop following; runs go on."""
