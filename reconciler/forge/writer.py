"""
Forge writer: makes a forge show pull requests, labels, comments, statuses, and merges.

Every write follows a look, so that carrying out the same once more is nothing.
What is ours is marked: a comment of ours begins with a hidden mark; in the body
of a pull request a block between two marks is ours, and the text around it is
people's. A title is ours until somebody edits it: the mark holds a digest of
the last one we gave. Labels and reviewers are set when the pull request is
opened or adopted; until that is done the mark says `new`.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import quote

from reconciler.core.errors import Unavailable
from reconciler.core.model.forge import (
    CommitStatus,
    ForgeView,
    ManagedComment,
    MergeRefusal,
    PullRequestSnapshot,
)
from reconciler.core.model.status import Phase
from reconciler.core.text import harmless, one_line
from reconciler.forge.answers import (
    CommentAnswer,
    IssueAnswer,
    LabelAnswer,
    LabelsAnswer,
    PullAnswer,
    StatusAnswer,
    mark_of,
)
from reconciler.forge.client import Broken, Declined, ForgeClient
from reconciler.forge.dialect import Dialect
from reconciler.forge.own_account import OwnAccount
from reconciler.forge.pull_requests import PullRequestDetail, PullRequestReader

log = logging.getLogger(__name__)

_PHASES = "agent/"
"""Prefix of the labels for phases of a task, of which one is set at a time."""
_PHASE_COLOR, _OTHER_COLOR = "1d76db", "ededed"
_NEW = "new"
_BLOCK = re.compile(r"<!-- reconciler:begin (\w+) -->\n.*?<!-- reconciler:end -->", re.DOTALL)
_MOST_TEXT = 60_000
_MOST_TITLE = 240
"""GitLab takes 255, with what makes a draft of it."""
_MOST_DESCRIPTION = 140
_NOT_NOW = frozenset({404, 405, 409, 412, 422})
_CONFLICT = 409
_LAST_REQUEST = 5.0
"""Seconds for a merge under way when the process is ended."""
_COMPUTING = MergeRefusal("it computes whether it can be merged", kind="computing")
_OF_REVIEWS = re.compile(r"(?i)review|approv|owner")
"""In the message of a merge that is declined because somebody has to look at it first."""


class ForgeWriter:
    """Writes to one repository on a forge."""

    def __init__(self, client: ForgeClient, dialect: Dialect, pulls: PullRequestReader) -> None:
        self._client = client
        self._dialect = dialect
        self._pulls = pulls
        self._account = OwnAccount(client)
        self._labels: dict[str, int] = {}
        """Ids of the repository's labels, as far as they are known."""
        self._labels_lock = asyncio.Lock()
        """Held while labels are made: forges make a second one of the same name."""

    async def show(self, want: ForgeView) -> PullRequestSnapshot | None:
        """Carry it out; see `Forges.show`."""
        detail, refusal = await self._find_or_open(want), None
        if detail is not None:
            detail, refusal = await self._update_pull(detail, want)
        if want.issue is not None:
            await self._answer_issue(want, want.issue)
        return replace(detail.pull, refusal=refusal) if detail else None

    async def upsert_comment(self, number: int, note: ManagedComment, *, on_pull: bool) -> bool:
        """Create or update our comment with that key; return whether it is new."""
        return await self._write_comment(self._ticket(number, on_pull=on_pull), note) == "new"

    async def _write_comment(self, ticket: str, note: ManagedComment) -> Literal["new", "edited", "same"]:
        """Create or update our comment with that key; return what became of it."""
        text = f"{mark_of(note.key)}\n{self._cut(note.text)}"
        answer = await self._own_comment(ticket, note.key)
        if answer is None:
            await self._client.send("POST", f"{ticket}/comments", {"body": text})
            return "new"
        if answer.body.strip() == text.strip():
            return "same"
        await self._client.send("PATCH", self._dialect.comment(ticket, answer.id), {"body": text})
        return "edited"

    async def _own_comment(self, ticket: str, key: str) -> CommentAnswer | None:
        """Return our comment with that key; another account that seems to have it may be ours, renamed."""
        before = await self.whoami()
        answers = [answer async for answer in self._client.pages(f"{ticket}/comments", CommentAnswer)]
        marked = [answer for answer in answers if answer.body.startswith(mark_of(key))]
        if marked and not any(answer.comment(before).key for answer in marked):
            self._account.forget()
        me = await self.whoami()
        return next((answer for answer in marked if answer.comment(me).key == key), None)

    def _ticket(self, number: int, *, on_pull: bool) -> str:
        """Return the path of the conversation and the labels of an issue or a pull request."""
        return f"{self._dialect.pull_ticket if on_pull else 'issues'}/{number}"

    async def commit_status(
        self, commit_status: CommitStatus, statuses: tuple[StatusAnswer, ...] | None = None
    ) -> tuple[StatusAnswer, ...]:
        """Set a commit status unless it is set; return all, given those that were just read."""
        fixed = self._dialect.pending_text if commit_status.state == "pending" else ""
        description = fixed or one_line(commit_status.description, _MOST_DESCRIPTION)
        wanted = (commit_status.state, description, commit_status.url)
        if statuses is None:
            statuses = await self._pulls.statuses(commit_status.commit)
        for status in statuses:
            shown = (status.state, status.description, status.target_url or "")
            if status.context == commit_status.context and shown == wanted:
                return statuses
        body = {"state": commit_status.state, "context": commit_status.context, "description": description}
        if commit_status.url:
            body["target_url"] = commit_status.url
        await self._client.send("POST", f"statuses/{commit_status.commit}", body)
        others = (status for status in statuses if status.context != commit_status.context)
        return (*others, StatusAnswer.model_validate(body))

    async def _set_commit_status(
        self, detail: PullRequestDetail, commit_status: CommitStatus
    ) -> PullRequestDetail:
        """Set a commit status; return the pull request with it, if it is of its head."""
        if commit_status.commit != detail.pull.head:
            await self.commit_status(commit_status)
            return detail
        self._pulls.is_ours(commit_status.commit)
        statuses = await self.commit_status(commit_status, detail.statuses)
        return self._pulls.keep(replace(detail, statuses=statuses))

    async def whoami(self) -> str:
        """Return the name of the account that the token is of."""
        return await self._account.name()

    # --- The pull request --------------------------------------------------

    async def _find_or_open(self, want: ForgeView) -> PullRequestDetail | None:
        newest = self._pulls.newest(want.branch)
        is_missing = newest is None or (want.opens and not newest.is_open)
        if is_missing and not self._pulls.was_sought(want.branch):
            await self._pulls.look()
            newest = self._pulls.newest(want.branch)
        if newest is not None and (newest.is_open or not want.opens):
            return self._pulls.take_current(newest.number) or await self._pulls.read(newest.number)
        return await self._open(want) if want.opens else None

    async def _open(self, want: ForgeView) -> PullRequestDetail:
        """Open a pull request and return it, or one that is there after all."""
        draft = want.is_draft and not self._dialect.has_drafts
        body: dict[str, object] = {
            "head": want.branch,
            "base": want.base,
            "title": f"{self._dialect.draft} {_title(want)}" if draft else _title(want),
            "body": self._block(_NEW if want.labels or want.reviewers else _digest(_title(want)), want),
            **await self._labels_at_opening(want),
        }
        if want.is_draft and self._dialect.has_drafts:
            body["draft"] = True
        try:
            return self._pulls.new(await self._client.write("POST", "pulls", PullAnswer, body))
        except Declined as declined:
            number = await self._pulls.find_open(want.branch)
            if number is None:
                hint = f"are {want.branch} and {want.base} there, and do they differ?"
                raise Unavailable(f"no pull request can be opened: {declined}; {hint}") from None
            return await self._pulls.read(number)

    async def _labels_at_opening(self, want: ForgeView) -> Mapping[str, object]:
        """Return what names the labels of a pull request that is opened, which saves a request for each."""
        if not self._dialect.opens_with_labels:
            return {}
        names = [f"{_PHASES}{want.phase}", *want.labels]
        await self._ensure_labels(names)
        return {"labels": [self._labels[same] for same in sorted(self._same(names))]}

    async def _update_pull(
        self, detail: PullRequestDetail, want: ForgeView
    ) -> tuple[PullRequestDetail, MergeRefusal | None]:
        """Let a pull request look and be as wanted; return it as it is then, and why it was not merged."""
        number, ticket = detail.pull.number, self._ticket(detail.pull.number, on_pull=True)
        # A commit status is no part of the pull request: what it says is known without another look.
        if want.commit_status is not None:
            detail = await self._set_commit_status(detail, want.commit_status)
        is_written = False
        if detail.answer.is_open and want.phase == Phase.COMPLETED and not self._dialect.notices_merges:
            is_written = await self._end_merged(detail)
        is_written |= await self._set_phase(ticket, detail.pull.labels, want.phase)
        for note in want.notes:
            is_written |= await self._write_comment(ticket, note) != "same"
        if want.merges is None or not detail.answer.is_open:
            return await self._end_update(detail, want, is_written=is_written), None
        refusal = await self._merge(detail, want)
        if refusal and refusal.kind == "refused":  # it may be another by now than the one that was judged
            detail = await self._pulls.read(number)
            refusal = refusal if detail.pull.head == want.merges else None
        if is_written or refusal is None:
            detail = await self._pulls.read_anew(detail)
            _check_taken(detail, want)
        detail = await self._write_text(detail, want)  # if it is open still, it says why
        return detail, None if detail.pull.is_merged else refusal

    async def _end_update(
        self, detail: PullRequestDetail, want: ForgeView, *, is_written: bool
    ) -> PullRequestDetail:
        """Write the text, and look at whether all was taken; the text is answered with the whole."""
        after = await self._write_text(detail, want)
        if is_written and after is detail:
            after = await self._pulls.read_anew(detail)
        if after is not detail:
            _check_taken(after, want)
        return after

    async def _write_text(self, detail: PullRequestDetail, want: ForgeView) -> PullRequestDetail:
        """
        Write title and body; set first what is set once, so that a crash leaves the mark `new`.

        The text is read once more before it is written: people may be at it.
        """
        if detail.answer.is_open and _is_new(detail.answer):
            await self._add_labels(detail.pull, want.labels)
            await self._ask_reviewers(detail.answer, want.reviewers)
        if self._changes(detail.answer, want):
            detail = await self._pulls.read_anew(detail)
            if changes := self._changes(detail.answer, want):
                path = f"pulls/{detail.pull.number}"
                answer = await self._client.write("PATCH", path, PullAnswer, changes)
                detail = await self._pulls.renewed(detail, answer)
        return detail

    async def _ask_reviewers(self, pull: PullAnswer, reviewers: Iterable[str]) -> None:
        requested = {account.login for account in pull.requested_reviewers or ()}
        for name in (name for name in reviewers if name not in requested):
            try:
                body = {"reviewers": [name]}
                await self._client.send("POST", f"pulls/{pull.number}/requested_reviewers", body)
            except Declined as declined:
                # Not fatal; people can request a review by hand.
                why = declined.message or declined.status
                text = f"{name} cannot be asked for a review: {why}. Correct `reviewers` of the repo."
                note = ManagedComment(key=f"reviewer/{_digest(name)}", text=text)
                await self.upsert_comment(pull.number, note, on_pull=True)

    async def _merge(self, detail: PullRequestDetail, want: ForgeView) -> MergeRefusal | None:
        """Merge a pull request; return why the forge did not, None if it did or it is judged anew."""
        if detail.pull.head != want.merges:
            return None  # somebody pushed meanwhile
        if await self._pulls.has_landed(detail.answer):
            return None
        method, body = self._dialect.merge(want)
        try:
            await _whole(self._client.send(method, f"pulls/{detail.pull.number}/merge", body))
        except Declined as declined:
            if declined.status not in _NOT_NOW:
                raise
            return await self._refusal(declined, detail)
        except Broken as broken:
            # Forgejo and Gitea answer so where it depends on something that is still open.
            log.warning("%s", broken)
            self._pulls.doubt(detail.pull.number)
            why = "it fails without a reason; does it depend on an issue or a pull request that is open?"
            return MergeRefusal(why)
        except Unavailable:
            self._pulls.doubt(detail.pull.number)
            raise
        return None

    async def _end_merged(self, detail: PullRequestDetail) -> bool:
        """
        End a pull request whose commits are in the base branch, where the forge does not notice that.

        Returns whether it was to be ended.
        """
        number, base = detail.pull.number, detail.pull.base
        if not (await self._pulls.find_in_base(detail.answer) or await self._pulls.has_landed(detail.answer)):
            return False
        by_hand = {"Do": "manually-merged", "MergeCommitID": self._pulls.merged_with(detail.answer)}
        try:
            await self._client.send("POST", f"pulls/{number}/merge", by_hand)
        except Declined as declined:
            if declined.status not in _NOT_NOW:
                raise
            if not (await self._pulls.read(number)).answer.is_open:
                return True
            text = (
                f"Its commits are in {base}. The forge calls such a pull request merged only if the settings "
                "of the repository allow manually merged ones."
            )
            await self.upsert_comment(number, ManagedComment(key="merged", text=text), on_pull=True)
            await self._client.send("PATCH", f"pulls/{number}", {"state": "closed"})
        return True

    async def _refusal(self, declined: Declined, detail: PullRequestDetail) -> MergeRefusal | None:
        """Return why a merge was declined; None for a conflict, which is seen at the pull request itself."""
        if declined.status == _CONFLICT and not declined.message:  # what git says comes without one
            self._pulls.saw_conflict(detail.answer)
            return None
        if self._dialect.computing in declined.message.lower():
            if await self._pulls.is_in_base(detail.answer):
                return None
            self._pulls.keep_current(detail)
            return _COMPUTING
        if self._dialect.enqueue and (
            place := await self._dialect.enqueue(self._client, detail.answer, declined.message)
        ):
            return place
        why = declined.message or f"it is not allowed now ({declined.status}), without a reason"
        is_passing = why in self._dialect.passing
        return MergeRefusal(why, "running") if is_passing else _refused(why, detail)

    def _without_draft(self, title: str) -> tuple[str, str]:
        """Split a title into what makes it that of a draft, and the rest."""
        end = match.end() if (match := self._dialect.draft_title.match(title)) else 0
        return title[:end], title[end:]

    # --- Texts -------------------------------------------------------------

    def _changes(self, pull: PullAnswer, want: ForgeView) -> dict[str, str]:
        """Return the fields of a pull request that are to be changed; what people wrote stays."""
        body, match = pull.body, _BLOCK.search(pull.body)
        around = (body[: match.start()], body[match.end() :]) if match else (f"{body}\n\n".lstrip(), "")
        changes: dict[str, str] = {}
        if pull.is_open:
            changes["body"] = self._block(_digest(_title(want)), want).join(around)
            prefix, title = self._without_draft(pull.title)
            if match and match[1] in {_NEW, _digest(title)}:
                changes["title"] = prefix + _title(want)
            if pull.base.ref == want.leaves:  # a person may have chosen any other
                changes["base"] = want.base
        elif match and Phase(want.phase).is_settled:  # how the task ended
            changes["body"] = self._block(match[1], want).join(around)
        now = {"body": body, "title": pull.title, "base": pull.base.ref}
        return {name: text for name, text in changes.items() if text != now[name]}

    def _block(self, mark: str, want: ForgeView) -> str:
        return f"<!-- reconciler:begin {mark} -->\n{self._cut(want.body)}\n<!-- reconciler:end -->"

    def _cut(self, text: str) -> str:
        """Return the text cut to fit, without hidden marks and whatever else the forge would act upon."""
        shown = self._dialect.text(harmless(text).replace("<!--", "&lt;!--"))
        return shown if len(shown) <= _MOST_TEXT else f"{shown[:_MOST_TEXT]}\n[… cut]"

    # --- Labels ------------------------------------------------------------

    async def _set_phase(self, ticket: str, there: Iterable[str], phase: str) -> bool:
        """Show the phase as a label, instead of any other phase; return whether it was not shown yet."""
        name = f"{_PHASES}{phase}"
        if [label for label in there if label.startswith(_PHASES)] == [name]:
            return False
        for label in await self._put_labels(ticket, [name]):
            if label.name.startswith(_PHASES) and label.name != name:  # where scopes are not exclusive
                key = label.id if self._dialect.label_key == "id" else quote(label.name, safe="")
                await self._client.send("DELETE", f"{ticket}/labels/{key}")
        return True

    async def _add_labels(self, pull: PullRequestSnapshot, names: Iterable[str]) -> None:
        there = self._same(pull.labels)
        if missing := [name for name in names if self._dialect.same_label(name) not in there]:
            await self._put_labels(self._ticket(pull.number, on_pull=True), missing)

    async def _put_labels(self, ticket: str, names: list[str]) -> Iterable[LabelAnswer]:
        """Put labels on an issue or pull request; return all that it has then."""
        await self._ensure_labels(names)
        labels = (await self._client.write("POST", f"{ticket}/labels", LabelsAnswer, {"labels": names})).root
        if gone := self._same(names) - self._same(label.name for label in labels):
            self._labels.clear()  # forges pass over names they do not know
            raise Unavailable(f"labels {', '.join(sorted(gone))} were deleted just now; they are made anew")
        return labels

    async def _ensure_labels(self, names: Iterable[str]) -> None:
        async with self._labels_lock:
            if not self._same(names) <= self._labels.keys():
                await self._make_labels(names)

    async def _make_labels(self, names: Iterable[str]) -> None:
        same, labels = self._dialect.same_label, self._client.pages("labels", LabelAnswer)
        self._labels = {same(label.name): label.id async for label in labels}
        for name in names:
            if same(name) not in self._labels:
                made = await self._client.write(
                    "POST", "labels", LabelAnswer, label_body(name, self._dialect)
                )
                self._labels[same(name)] = made.id

    def _same(self, names: Iterable[str]) -> set[str]:
        return {self._dialect.same_label(name) for name in names}

    # --- The issue ---------------------------------------------------------

    async def _answer_issue(self, want: ForgeView, number: int) -> None:
        issue = await self._client.find(f"issues/{number}", IssueAnswer)
        if issue is None:
            return
        await self._set_phase(
            self._ticket(number, on_pull=False), [label.name for label in issue.labels], want.phase
        )
        for note in want.issue_notes:
            await self.upsert_comment(number, note, on_pull=False)
        if want.closes_issue and issue.state == "open":
            await self._close_issue(number)

    async def _close_issue(self, number: int) -> None:
        """Close an issue; one that others block stays open, and says why: people unblock it."""
        try:
            await self._client.send("PATCH", f"issues/{number}", {"state": "closed"})
        except Declined as declined:
            if declined.status not in _NOT_NOW:
                raise
            why = declined.message or "the forge does not say why; does it depend on one that is open?"
            text = f"The work is done, but this cannot be closed: {why}"
            await self.upsert_comment(number, ManagedComment(key="open", text=text), on_pull=False)


async def _whole(request: Coroutine[Any, Any, None]) -> None:
    """Wait for a request, also when it is cancelled: some forges leave half done what is cut off."""
    task = asyncio.ensure_future(request)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_LAST_REQUEST)
        raise


def _refused(why: str, detail: PullRequestDetail) -> MergeRefusal:
    """Return the refusal of a merge; for want of a review, with who is asked for one and did not approve."""
    approved = {each.author for each in detail.pull.reviews if each.verdict == "approved"}
    names = [name for name in detail.answer.reviewers if name not in approved]
    if names and _OF_REVIEWS.search(why):
        why = f"{why} (asked for a review: {', '.join(names)})"
    return MergeRefusal(why)


def _is_new(pull: PullAnswer) -> bool:
    """Return whether labels and reviewers of a pull request were not set yet."""
    match = _BLOCK.search(pull.body)
    return match is None or match[1] == _NEW


def _check_taken(detail: PullRequestDetail, want: ForgeView) -> None:
    """
    Check that the forge did what it answered well to.

    Raises Unavailable naming what it did not: it is tried again, and the task says so.
    """
    phase = f"{_PHASES}{want.phase}"
    missing = [
        *([f"the label {phase}"] if phase not in detail.pull.labels else []),
        *([f"the base {want.base}"] if detail.answer.is_open and detail.pull.base == want.leaves else []),
    ]
    if missing:
        raise Unavailable(
            f"pull request #{detail.pull.number}: the forge answered well, but does not show "
            f"{' and '.join(missing)}; may the account of the token change it?"
        )


def label_body(name: str, dialect: Dialect) -> Mapping[str, object]:
    """Return the request that makes a label; of those for phases one is set at a time."""
    is_phase = name.startswith(_PHASES)
    body: dict[str, object] = {"name": name, "color": _PHASE_COLOR if is_phase else _OTHER_COLOR}
    return {**body, "exclusive": is_phase} if dialect.has_exclusive_labels else body


def _title(want: ForgeView) -> str:
    return one_line(want.title, _MOST_TITLE)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
