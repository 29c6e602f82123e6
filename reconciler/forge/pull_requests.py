"""
Pull requests of one repository, read through a cache.

A look is one request when nothing moved: the list of what changed last, as far
back as the last look. Details are read of what moved. What changes without
moving anything (a commit status, a review that is dismissed, a base branch that
makes a conflict) is found by reading a few open ones anew, those first that
were not read for longest: such a look costs one request and at most three for
each of `REFRESHED` pull requests, however many there are.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import quote

from reconciler.controller.ports import Clock
from reconciler.core.bounded import BoundedDict
from reconciler.core.errors import Unavailable
from reconciler.core.model.forge import Checks, Comment, PullRequestSnapshot, Review
from reconciler.core.model.runs import ReviewNote
from reconciler.core.text import one_line
from reconciler.forge.answers import (
    OWN_CONTEXTS,
    BlobAnswer,
    CommentAnswer,
    CommitsAnswer,
    ComparisonAnswer,
    EntryAnswer,
    FilesAnswer,
    InlineAnswer,
    PullAnswer,
    ReviewAnswer,
    StatusAnswer,
    StatusesAnswer,
    name_of,
)
from reconciler.forge.client import ABOUT_ONE, GONE_CODES, PAGE, Declined, ForgeClient, Outage, page_of
from reconciler.forge.dialect import Dialect
from reconciler.forge.landed import rebase_of, squash_of
from reconciler.forge.members import MemberReader

log = logging.getLogger(__name__)

REFRESHED = 8
"""Open pull requests that are read anew at a look though they did not move."""
_LOOK_PAGES = 20
"""Most pages of a look; at the first it bounds the past: older pull requests are found by number only."""
_FEW = 5
"""Pull requests in a page of the looks after the first: a forge may compute a diff for each that it lists."""
_MOST_OUTAGES = 2
"""After so many pull requests in a row that got no answer, it is the forge that does not answer."""
_SETTLES = timedelta(seconds=30)
"""
After this time of "cannot be merged" with the same head and base it is called a conflict.

Forgejo says the same while it computes, which takes moments.
"""
_COMPUTED = 10
"""Open pull requests that a forge under load computes in that time, after their base has moved."""
_COMPARED = 20
"""Files that are compared, where commits look as if a pull request had been merged."""
_MOST_KEPT = 1000
"""Pull requests, commits and reviews of which something is kept that is read once."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PullRequestDetail:
    """A pull request as it was last read."""

    listed: PullAnswer
    """Its entry in the list at that time: if the entry differs, the pull request has changed."""
    answer: PullAnswer
    statuses: tuple[StatusAnswer, ...]
    """Of its head."""
    pull: PullRequestSnapshot


class PullRequestReader:
    """Reads and caches the pull requests of a repository."""

    def __init__(self, client: ForgeClient, dialect: Dialect, clock: Clock) -> None:
        self._client = client
        self._dialect = dialect
        self._clock = clock
        self._members = MemberReader(client, dialect, clock)
        self._listed: dict[int, PullAnswer] = {}
        self._looked_until = _LONG_AGO
        """Time of the last change that the last look saw."""
        self._details: dict[int, PullRequestDetail] = {}
        """In the order in which they were read."""
        self._current: set[int] = set()
        """Pull requests that are as they were read last, by the last look."""
        self._sought: frozenset[str] = frozenset()
        """Branches whose pull requests the last look was for."""
        self._unreadable: dict[int, Unavailable] = {}
        """Why a pull request could not be read the last time."""
        self._inline: MutableMapping[tuple[int, int | None], tuple[ReviewNote, ...]] = BoundedDict(_MOST_KEPT)
        """By id of the review and number of its comments."""
        self._pushers: MutableMapping[str, str] = BoundedDict(_MOST_KEPT)
        """By commit."""
        self._unmergeable: MutableMapping[int, tuple[tuple[str, str], datetime]] = BoundedDict(_MOST_KEPT)
        """Head and base that could not be merged, and since when."""
        self._computing: MutableMapping[int, tuple[str, datetime]] = BoundedDict(_MOST_KEPT)
        """Head whose merge was declined because the forge computes, and since when."""
        self._merged: MutableMapping[int, tuple[str, str]] = BoundedDict(_MOST_KEPT)
        """Head that is in the base branch though the forge does not call it merged, and with which commit."""
        self._doubtful: set[int] = set()
        """Open pull requests for which a merge may have been requested whose answer was not heard."""

    async def of(
        self, branches: Collection[str], fresh: Collection[int], *, refreshes: bool = True
    ) -> Mapping[str, PullRequestSnapshot | Unavailable]:
        """Return the newest pull request of each branch; see `Forges.pulls`."""
        await self.look()
        unknown = set(fresh) - self._listed.keys()
        await self._read_all(sorted(unknown))
        newest = self._newest(set(branches))
        rest = REFRESHED if refreshes else 0
        await self._read_all(self._due(newest.values(), set(fresh) - unknown, rest))
        self._sought = frozenset(branches)
        self._current = {answer.number for answer in newest.values() if answer.number in self._details}
        seen = {branch: self._last_seen(answer.number) for branch, answer in newest.items()}
        return {branch: pull for branch, pull in seen.items() if pull is not None}

    def _last_seen(self, number: int) -> PullRequestSnapshot | Unavailable | None:
        """Return a pull request as it was last read, or why it cannot be; None if it was not."""
        detail = self._details.get(number)
        return detail.pull if detail else self._unreadable.get(number)

    def was_sought(self, branch: str) -> bool:
        """Return whether the last look was for the pull request of a branch: the forge has no other."""
        return branch in self._sought

    async def look(self) -> None:
        """Read the list of pull requests, and which of them changed."""
        newest, is_first = self._looked_until, self._looked_until is _LONG_AGO
        async for answer in self._client.pages(
            "pulls",
            PullAnswer,
            {"state": "all", **self._dialect.newest_first},
            most=_LOOK_PAGES if is_first else _LOOK_PAGES * PAGE // _FEW,
            size=PAGE if is_first else _FEW,
        ):
            if answer.updated_at < self._looked_until:
                break
            self._listed[answer.number] = answer
            self._client.is_read_only = answer.is_read_only
            newest = max(newest, answer.updated_at)
        if is_first:  # the process before this one may have been killed in the middle of any merge
            self._doubtful = {answer.number for answer in self._listed.values() if answer.is_open}
        # One from the future, of a clock that was wrong, would hide all that happens until then.
        self._looked_until = min(newest, self._client.forge_clock.theirs(self._clock()))

    def newest(self, branch: str) -> PullAnswer | None:
        """Return the newest pull request of a branch as the last look found it, an open one first."""
        return self._newest({branch}).get(branch)

    async def find_open(self, branch: str) -> int | None:
        """Return the number of the open pull request of a branch, however old."""
        async for answer in self._client.pages("pulls", PullAnswer, {"state": "open"}):
            if answer.is_from_here and answer.head.branch == branch:
                return answer.number
        return None

    async def open(self, base: str) -> list[PullRequestSnapshot]:
        """Return the open pull requests against a base branch, those from forks too, without details."""
        answers = self._client.pages("pulls", PullAnswer, {"state": "open"})
        return [self._pull(answer) async for answer in answers if answer.base.ref == base]

    async def read(self, number: int) -> PullRequestDetail:
        """Return a pull request as it is now."""
        return await self._detail(await self._client.get(f"pulls/{number}", PullAnswer))

    def take_current(self, number: int) -> PullRequestDetail | None:
        """Return a pull request as it was by the last look, once: who changes it makes that old."""
        if number not in self._current:
            return None
        self._current.discard(number)
        return self._details.get(number)

    def keep_current(self, detail: PullRequestDetail) -> None:
        """Take a pull request for as current as before: nothing was changed after all."""
        if self._details.get(detail.pull.number) is detail:
            self._current.add(detail.pull.number)

    async def read_anew(self, detail: PullRequestDetail) -> PullRequestDetail:
        """
        Return a pull request as it is now, after a write of ours.

        What people and checks say of it is as in `detail`. It counts as not
        moved, and keeps its place in the queue of those that are read in turn.
        """
        return await self.renewed(detail, await self._client.get(f"pulls/{detail.pull.number}", PullAnswer))

    async def renewed(self, detail: PullRequestDetail, answer: PullAnswer) -> PullRequestDetail:
        """Return a pull request as the answer to a write of ours says that it is now; see `read_anew`."""
        if answer.head.sha != detail.pull.head:
            return await self._detail(answer)
        number, before = detail.pull.number, detail.pull
        pull = self._pull(
            answer,
            pusher=before.pusher or await self._pusher(answer.head.sha),
            by=await self._closer(answer),
            reviews=before.reviews,
            comments=before.comments,
            checks=before.checks,
            failed_checks=before.failed_checks,
        )
        self._listed[number] = answer
        self._details[number] = PullRequestDetail(answer, answer, detail.statuses, pull)
        return self._details[number]

    def new(self, answer: PullAnswer) -> PullRequestDetail:
        """Return a pull request that was opened this moment: nobody has said anything of it yet."""
        self._listed[answer.number] = answer
        return self.keep(PullRequestDetail(answer, answer, (), self._pull(answer)))

    def keep(self, detail: PullRequestDetail) -> PullRequestDetail:
        """Take a pull request for as it is now, after a write of ours whose answer said so; return it."""
        self._details[detail.pull.number] = detail
        return detail

    def is_ours(self, commit: str) -> None:
        """Remember that a commit is on record: nobody asks who pushed it."""
        self._pushers.setdefault(commit, "")

    async def statuses(self, commit: str) -> tuple[StatusAnswer, ...]:
        """Return the newest status of each context of a commit; none of none."""
        if not commit:
            return ()
        statuses: list[StatusAnswer] = []
        page = 1
        while True:
            try:
                query = page_of(page, PAGE, self._dialect.size_parameter)
                answer = await self._client.get(f"commits/{commit}/status", StatusesAnswer, query)
            except Declined:  # the commit is gone: its branch was rewritten
                return ()
            statuses += answer.statuses or ()
            if not answer.statuses or len(statuses) >= answer.total_count:
                return tuple(statuses)
            page += 1

    async def _checks(self, commit: str) -> tuple[StatusAnswer, ...]:
        """Return the statuses of a commit, and what else says something of it."""
        statuses = await self.statuses(commit)
        if self._dialect.more_checks is None or not commit:
            return statuses
        try:
            return (*statuses, *await self._dialect.more_checks(self._client, commit))
        except Declined:  # it is gone
            return statuses

    def saw_conflict(self, answer: PullAnswer) -> None:
        """Remember that a merge failed because of a conflict."""
        self._unmergeable[answer.number] = ((answer.head.sha, answer.base.sha), _LONG_AGO)

    async def is_in_base(self, answer: PullAnswer) -> bool:
        """
        Return whether a merge that is declined again and again was done, as far as git goes.

        Forgejo and Gitea do not notice that of a merge whose request was cut off: the commits
        are in the base branch, and the pull request is open for ever, and "computes".
        """
        number, head, now = answer.number, answer.head.sha, self._clock()
        before, since = self._computing.get(number, (head, now))
        if before != head:
            since = now
        self._computing[number] = head, since
        if self._dialect.notices_merges or now - since < self._settling_time():
            return False
        self._computing[number] = head, now  # looked up again after as long
        return await self.find_in_base(answer)

    async def find_in_base(self, answer: PullAnswer) -> bool:
        """Return whether the commits of a pull request are in its base branch, as far as git goes."""
        if not self.was_merged(answer):
            sides = f"{quote(answer.base.ref, safe='')}...{answer.head.sha}"
            comparison = await self._client.get(f"compare/{sides}", ComparisonAnswer)
            if comparison.total_commits == 0:
                self._merged[answer.number] = answer.head.sha, answer.head.sha
        return self.was_merged(answer)

    def doubt(self, number: int) -> None:
        """Remember that the answer to the request for a merge was not heard."""
        self._doubtful.add(number)

    async def has_landed(self, answer: PullAnswer) -> bool:
        """
        Return whether a merge whose answer was not heard was done, as far as git goes.

        Forgejo and Gitea do not notice that themselves: they would make an empty commit of a second squash.
        """
        if self._dialect.notices_merges or answer.number not in self._doubtful:
            return False
        if commit := await self._landed_with(answer):
            self._merged[answer.number] = answer.head.sha, commit
        self._doubtful.discard(answer.number)
        return self.was_merged(answer)

    async def _landed_with(self, answer: PullAnswer) -> str:
        """Return which of the newest commits of the base branch brought a pull request; empty if none did."""
        number, page = answer.number, page_of(1, PAGE, self._dialect.size_parameter)
        query = {**self._dialect.one_commit, **page}
        base = (await self._client.get("commits", CommitsAnswer, {**query, "sha": answer.base.ref})).root
        if any(commit.sha == answer.head.sha for commit in base):
            return answer.head.sha
        landed = squash_of(number, base)
        if landed is None:
            own = await self._client.get(f"pulls/{number}/commits", CommitsAnswer, query)
            landed = rebase_of(own.root, base)
        return landed.sha if landed and await self._has_same_files(answer, landed.sha) else ""

    async def _has_same_files(self, answer: PullAnswer, commit: str) -> bool:
        """Return whether the first files that a pull request changes are in a commit as in its head."""
        few = page_of(1, _COMPARED, self._dialect.size_parameter)
        files = (await self._client.get(f"pulls/{answer.number}/files", FilesAnswer, few)).root
        for file in files:
            path = f"contents/{quote(file.filename)}"
            if await self._blob(path, answer.head.sha) != await self._blob(path, commit):
                return False
        return bool(files)

    async def _blob(self, path: str, commit: str) -> str:
        """Return the id of a file's content at a commit; empty where it is not there."""
        try:
            return (await self._client.get(path, BlobAnswer, {"ref": commit})).sha
        except Declined as declined:
            if declined.status not in GONE_CODES:
                raise
            return ""

    def was_merged(self, answer: PullAnswer) -> bool:
        """Return whether the commits of a pull request were found in its base branch."""
        return bool(self.merged_with(answer))

    def merged_with(self, answer: PullAnswer) -> str:
        """Return the commit of the base branch that was found to bring a pull request; empty if none was."""
        head, commit = self._merged.get(answer.number, ("", ""))
        return commit if head == answer.head.sha else ""

    # --- Which ones --------------------------------------------------------

    def _newest(self, branches: set[str]) -> dict[str, PullAnswer]:
        """
        Return the newest pull request of each branch; of open ones the first.

        A person may open a second one of the same branch, against another base.
        """
        newest: dict[str, PullAnswer] = {}
        for answer in sorted(self._listed.values(), key=_precedence):
            if answer.is_from_here and answer.head.branch in branches:
                newest[answer.head.branch] = answer
        return newest

    def _due(self, wanted: Iterable[PullAnswer], fresh: set[int], most: int) -> list[int]:
        """Return the numbers to read: those that moved, those asked for, and so many of the rest in turn."""
        rest = {answer.number: answer.is_open for answer in wanted}
        moved = {number for number in rest if self._has_moved(number)} | fresh
        still = [number for number in self._details if rest.get(number) and number not in moved]
        return sorted(moved) + still[:most]

    def _has_moved(self, number: int) -> bool:
        detail, listed = self._details.get(number), self._listed.get(number)
        return detail is None or listed is None or listed.has_moved(detail.listed)

    async def _read_all(self, numbers: Sequence[int]) -> None:
        """
        Read pull requests; one that cannot be read costs itself, and none of the others.

        Raises Unavailable if it is the forge that cannot be asked.
        """
        outages = 0
        for some in _chunks(numbers, self._dialect.at_once):
            errors = await asyncio.gather(*map(self._try_to_read, some), return_exceptions=True)
            for number, error in zip(some, errors, strict=True):
                self._unreadable.pop(number, None)
                outages = outages + 1 if isinstance(error, Outage) else 0
                if isinstance(error, (*ABOUT_ONE, Outage)) and outages < _MOST_OUTAGES:
                    log.warning("pull request %d cannot be read now: %s", number, error)
                    self._details.pop(number, None)
                    self._unreadable[number] = error
                elif error is not None:
                    raise error

    async def _try_to_read(self, number: int) -> None:
        try:
            answer = await self._client.get(f"pulls/{number}", PullAnswer)
        except Declined as declined:
            if declined.status not in GONE_CODES:
                raise
            self._listed.pop(number, None)
            self._details.pop(number, None)
        else:
            await self._detail(answer)

    # --- One of them -------------------------------------------------------

    async def _detail(self, answer: PullAnswer) -> PullRequestDetail:
        number = answer.number
        statuses = (*await self._checks(answer.head.sha), *answer.checks)
        reviews = await self._reviews(answer)
        pull = self._pull(
            answer,
            pusher=await self._pusher(answer.head.sha),
            by=await self._closer(answer),
            reviews=reviews,
            comments=await self._conversation(answer, reviews),
            checks=_combined_status(statuses),
            failed_checks=tuple(_failed(statuses)),
        )
        self._details.pop(number, None)  # it moves to the end of the queue
        listed = self._listed.setdefault(number, answer)
        self._details[number] = PullRequestDetail(listed, answer, statuses, pull)
        return self._details[number]

    def _pull(
        self,
        answer: PullAnswer,
        *,
        pusher: str = "",
        by: str = "",
        reviews: tuple[Review, ...] = (),
        comments: tuple[Comment, ...] = (),
        checks: Checks = "none",
        failed_checks: tuple[str, ...] = (),
    ) -> PullRequestSnapshot:
        mergeable = self._mergeable(answer)
        return PullRequestSnapshot(
            number=answer.number,
            url=answer.html_url,
            title=answer.title,
            body=answer.body,
            author=name_of(answer.user),
            branch=answer.head.branch,
            base=answer.base.ref,
            head=answer.head.sha,
            ref=self._dialect.pull_ref.format(number=answer.number),
            pusher=pusher,
            state="open" if answer.is_open else "closed",
            is_merged=answer.is_merged or self.was_merged(answer),
            is_draft=answer.draft,
            mergeable=mergeable,
            is_conflicting=mergeable is False,
            by=by,
            labels=tuple(label.name for label in answer.labels),
            reviews=reviews,
            comments=comments,
            checks=checks,
            failed_checks=failed_checks,
            updated_at=self._client.forge_clock.ours(answer.updated_at),
        )

    def _mergeable(self, answer: PullAnswer) -> bool | None:
        """Return whether it can be merged: False only for a conflict, None for "not known"."""
        if not answer.is_open or answer.mergeable is None:
            return None
        if answer.mergeable:
            return True
        if self._dialect.is_sure_of_conflicts:
            return False
        if answer.draft:  # Forgejo calls every draft unmergeable
            return None
        sides, now = (answer.head.sha, answer.base.sha), self._clock()
        before, since = self._unmergeable.get(answer.number, (sides, now))
        if before != sides:
            since = now
        self._unmergeable[answer.number] = (sides, since)
        return False if now - since >= self._settling_time() else None

    def _settling_time(self) -> timedelta:
        """Return after which time it is a conflict: what is open is computed one after another."""
        return _SETTLES * max(1, sum(answer.is_open for answer in self._listed.values()) // _COMPUTED)

    async def _pusher(self, commit: str) -> str:
        """Return the author of a commit: forges do not say who pushed it."""
        if commit and commit not in self._pushers:
            try:
                one = page_of(1, 1, self._dialect.size_parameter)
                query = {"sha": commit, **self._dialect.one_commit, **one}
                commits = await self._client.get("commits", CommitsAnswer, query)
            except Declined:  # it is gone: the branch was rewritten or deleted
                return ""
            self._pushers[commit] = commits.root[0].by if commits.root else ""
        return self._pushers.get(commit, "")

    async def _closer(self, answer: PullAnswer) -> str:
        """Return who merged or closed it; who closed it is only in the timeline."""
        if answer.is_open:
            return ""
        if answer.is_merged:
            return answer.merged_by.login if answer.merged_by else ""
        # It tells the length of the page for that of the whole.
        entries = self._client.pages(
            f"{self._dialect.pull_ticket}/{answer.number}/timeline", EntryAnswer, is_counted=False
        )
        closers = [name_of(entry.user) async for entry in entries if entry.is_closing]
        return closers[-1] if closers else ""

    async def _reviews(self, pull: PullAnswer) -> tuple[Review, ...]:
        # Strictly: one that cannot be read may ask for changes.
        answers = self._client.pages(f"pulls/{pull.number}/reviews", ReviewAnswer, strict=True)
        verdicts = [
            (answer, _VERDICTS[answer.state]) async for answer in answers if answer.state in _VERDICTS
        ]
        inline = await self._inline_by_review(pull) if verdicts else None
        return tuple([await self._review(pull, answer, verdict, inline) for answer, verdict in verdicts])

    async def _inline_by_review(self, pull: PullAnswer) -> Mapping[int, Sequence[ReviewNote]] | None:
        """
        Return all inline comments, where they can be read at once; None where they cannot.

        They are read after the reviews, whatever the pull request said before of their number: a
        review that was submitted in between has its comments too.
        """
        if self._dialect.inline_comments is None:
            return None
        return await self._dialect.inline_comments(self._client, pull.number)

    async def _conversation(self, pull: PullAnswer, reviews: Sequence[Review]) -> tuple[Comment, ...]:
        """
        Return the comments in the conversation of an open pull request.

        They are read after the reviews: what was written before a request for
        changes is there then, whatever the pull request said before of their number.
        """
        asks = any(review.verdict == "changes_requested" for review in reviews)
        if not pull.is_open or (pull.comments == 0 and not asks):
            return ()
        answers = self._client.pages(f"{self._dialect.pull_ticket}/{pull.number}/comments", CommentAnswer)
        comments = [answer.comment("") async for answer in answers]
        return tuple([replace(each, is_by_member=await self._members.has(each.author)) for each in comments])

    async def _review(
        self,
        pull: PullAnswer,
        answer: ReviewAnswer,
        verdict: "_Verdict",
        inline: Mapping[int, Sequence[ReviewNote]] | None,
    ) -> Review:
        author = name_of(answer.user)
        notes = [ReviewNote(author=author, text=answer.body)] if answer.body.strip() else []
        if answer.inline is not None:
            notes += [_note(each) for each in answer.inline if each.body.strip()]
        elif inline is None:
            notes += await self._comments(pull.number, answer)
        else:
            notes += inline.get(answer.id, ())
        is_behind = answer.commit_id != pull.head.sha
        return Review(
            id=answer.id,
            author=author,
            verdict=verdict,
            commit=answer.commit_id or "",
            is_stale=is_behind if answer.stale is None else answer.stale,
            is_dismissed=answer.dismissed or answer.state == "DISMISSED",
            is_official=answer.official and (verdict == "comment" or await self._may_write(author)),
            is_by_member=await self._is_member(author, answer),
            at=answer.submitted_at,
            notes=tuple(notes),
        )

    async def _is_member(self, author: str, review: ReviewAnswer) -> bool:
        """Return whether a reviewer may work on the repository; official ones do, where reviews tell that."""
        is_told = self._dialect.may_write is None
        return (is_told and review.official) or await self._members.has(author)

    async def _may_write(self, name: str) -> bool:
        """Return whether the review of an account counts, where reviews do not tell that."""
        return self._dialect.may_write is None or await self._members.has(name)

    async def _comments(self, number: int, review: ReviewAnswer) -> tuple[ReviewNote, ...]:
        """Return the inline comments of a review; fetched once."""
        key = review.id, review.comments_count
        if review.comments_count == 0:
            return ()
        if key not in self._inline:
            comments = self._client.pages(f"pulls/{number}/reviews/{review.id}/comments", InlineAnswer)
            self._inline[key] = tuple([_note(answer) async for answer in comments if answer.body.strip()])
        return self._inline[key]


_Verdict = Literal["approved", "changes_requested", "comment"]
_VERDICTS: Mapping[str, _Verdict] = {
    "APPROVED": "approved",
    "REQUEST_CHANGES": "changes_requested",
    "CHANGES_REQUESTED": "changes_requested",  # GitHub's word
    "COMMENT": "comment",
    "COMMENTED": "comment",  # GitHub's word
    "DISMISSED": "comment",  # GitHub does not say what it was
}
"""Verdict by the state of a review; requested and pending reviews have none."""


def _precedence(answer: PullAnswer) -> tuple[bool, int]:
    return answer.is_open, -answer.number if answer.is_open else answer.number


def _chunks(numbers: Sequence[int], size: int) -> Iterable[Sequence[int]]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _note(answer: InlineAnswer) -> ReviewNote:
    line = answer.line or answer.old_line or None
    return ReviewNote(author=name_of(answer.user), text=answer.body, path=answer.path, line=line)


def _of_others(statuses: Iterable[StatusAnswer]) -> list[StatusAnswer]:
    return [status for status in statuses if not status.context.startswith(OWN_CONTEXTS)]


def _combined_status(statuses: Iterable[StatusAnswer]) -> Checks:
    """Return the combined state of the checks; `warning` and `skipped` count as passed."""
    states = {status.state for status in _of_others(statuses)}
    if states & _FAILING:
        return "failure"
    if "pending" in states:
        return "pending"
    return "success" if states else "none"


_FAILING = {"failure", "error"}


def _failed(statuses: Iterable[StatusAnswer]) -> Iterable[str]:
    for status in _of_others(statuses):
        if status.state in _FAILING:
            yield one_line(
                f"{status.context}: {status.description}" if status.description else status.context
            )
