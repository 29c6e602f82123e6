"""
Second opinion: what an agent that reviews finished work is asked, and what its answer counts for.

Its verdict stands in a small form at the end of its last words and names the commit
that it is about: the work cannot contain its own commit, so that nothing quoted from it passes for a verdict.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.core.model.runs import FailureClass, Opinion, Reviewer, ReviewNote, Verdict
from reconciler.core.runs.prompt import whole_quote
from reconciler.core.text import harmless, head, one_line

MOST_FINDINGS = 20
FINDING_LENGTH = 2_000
DIFF_CHARACTERS = 100_000
"""Of a longer diff only the beginning is quoted; the rest is in the workspace."""

_MOST_LINES = 2**31

_PROMPT = """\
# Review

Another agent says that the work below is done. You give a second opinion on it before people are asked. \
You are in a checkout of the work, at commit {head}. Read whatever you need; change nothing, for nothing of \
what you write in this folder is kept. Leave no process running.

Ask for changes only for what is wrong: the goal is not reached, a rule is broken, something that worked \
does not any more, tests are weakened, a secret or an unsafe thing came in. Matters of taste are none.

# What the work was to do

{brief}

# The work

{diff}

{cut}# Your verdict

Let your last words end with one JSON object, on lines of its own, and nothing after it:

    {{"commit": "{head}", "verdict": "approve", "findings": []}}

`verdict` is "approve" or "changes". Each finding is {{"text": "what is wrong and why", "path": "file", \
"line": 1}}; `path` and `line` may be left out. "changes" needs at least one finding. \
Without this object your review counts as failed.
"""


def opinion_prompt(brief: str, commit: str, diff: str) -> str:
    """Return what the reviewer of a commit is asked; goal and diff stand in it as data."""
    kept = head(harmless(diff), characters=DIFF_CHARACTERS)
    cut = (
        "" if len(kept) >= len(diff) else "That is its beginning; read the rest with git in this folder.\n\n"
    )
    return _PROMPT.format(
        head=commit,
        brief=whole_quote(harmless(brief), "the goal and the rules"),
        diff=whole_quote(kept, "the diff"),
        cut=cut,
    )


def read_opinion(reviewer: Reviewer, commit: str, verdict: Verdict) -> Opinion:
    """Return the opinion on a commit that a reviewer's run came to; one that cannot be read has failed."""
    failed = Opinion(
        adapter=reviewer.adapter.name,
        model=reviewer.model,
        account=reviewer.account,
        commit=commit,
        verdict="failed",
        usage=verdict.usage,
    )
    if verdict.outcome == "failed":
        changes = {"message": verdict.message or "its run failed", "kind": verdict.kind}
        return failed.model_copy(update={**changes, "retry_at": verdict.retry_at})
    try:
        form = _form(verdict.text, commit)
        findings = tuple(_findings(form, reviewer.adapter.name))
    except ValueError as error:
        return failed.model_copy(update={"message": one_line(str(error))})
    return failed.model_copy(update={"verdict": form["verdict"], "findings": findings})


def is_worth_a_retry(opinion: Opinion, verdict: Verdict) -> bool:
    """Return whether another run may come to the verdict that this one did not come to."""
    return opinion.verdict == "failed" and (verdict.outcome == "success" or verdict.kind in _PASSING)


_PASSING = frozenset({FailureClass.AGENT, FailureClass.HOST, FailureClass.STALL})
"""Failures that may not come again at once; a quota or a missing login does, and a timeout costs as much."""


def is_deliverable(reviewer: Reviewer, opinion: Opinion) -> bool:
    """
    Return whether the work is delivered with this opinion.

    What is not approved goes back to its agent while that has rounds left, then to people, if there are any.
    """
    if opinion.verdict == "approve":
        return True
    return reviewer.has_people and (reviewer.is_last or opinion.verdict == "failed")


def _form(text: str, commit: str) -> Mapping[str, Any]:
    """Return the verdict at the end of the last words. Raises ValueError if there is none."""
    form = last_form(text, "verdict")
    if form is None or form["verdict"] not in {"approve", "changes"}:
        raise ValueError("its last words do not end with a verdict in the form that was asked for")
    if form.get("commit") != commit:
        raise ValueError("its verdict names another commit than the one it was given")
    return form


def last_form(text: str, key: str) -> Mapping[str, Any] | None:
    """Return the JSON object that ends an agent's last words and has a text by this key; None for none."""
    lines = text.strip().removesuffix("```").rstrip().split("\n")
    begins = [number for number, line in enumerate(lines) if line.lstrip().startswith("{")]
    for begin in reversed(begins):
        try:
            form = json.loads("\n".join(lines[begin:]))
        except (ValueError, RecursionError):
            continue
        if isinstance(form, dict) and isinstance(form.get(key), str):
            return form
    return None


def _findings(form: Mapping[str, Any], author: str) -> Iterator[ReviewNote]:
    """Yield the findings, sanitized and bounded. Raises ValueError for what is none."""
    findings = form.get("findings") or []
    if not isinstance(findings, list) or (form["verdict"] == "changes" and not findings):
        raise ValueError("it asks for changes and names none, or not as a list")
    for finding in findings[:MOST_FINDINGS]:
        fields = {"text": finding} if isinstance(finding, str) else finding
        text = fields.get("text") if isinstance(fields, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise ValueError("one of its findings has no text")
        path, line = fields.get("path"), fields.get("line")
        yield ReviewNote(
            author=author,
            text=head(harmless(text), characters=FINDING_LENGTH),
            path=one_line(path, 200) if isinstance(path, str) and path.strip() else None,
            line=line if type(line) is int and 0 < line < _MOST_LINES else None,
        )
