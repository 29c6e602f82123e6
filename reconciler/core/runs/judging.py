"""
Judging: what an agent is asked that chooses among variants of the same work, and what its answer counts for.

It names the commit that it chooses: no variant can contain its own, so that nothing quoted from one
passes for the choice.
"""

from collections.abc import Mapping, Sequence

from reconciler.core.model.runs import RunRequest, Verdict
from reconciler.core.model.specs import Task
from reconciler.core.model.status import Predecessor, VariantChoice
from reconciler.core.runs.opinion import DIFF_CHARACTERS, last_form
from reconciler.core.runs.prompt import quoted, whole_quote
from reconciler.core.text import harmless, head, one_line

REASON_LENGTH = 1_000
_LEAST = 10_000
"""Characters that are quoted of each diff at least, however many there are."""

_PROMPT = """\
# Choose

Several agents did the same work, each on its own, and each passed the validation. Choose the one whose work \
is to be kept. You are in a checkout of what they began with. Read whatever you need; change nothing, for \
nothing of what you write is kept. Leave no process running.

First comes whether the goal is reached and the rules are kept, then whether anything that worked is broken \
or a test weakened, then how simple the change is and how easily it is understood.

# What the work was to do

{brief}

# The candidates

{candidates}

# Your choice

Let your last words end with one JSON object, on lines of its own, and nothing after it:

    {{"commit": "…", "reason": "in a few sentences why this one, and what the others lack"}}

`commit` is that of the candidate you choose, as it stands above. Without this object nothing is chosen.
"""


def judge_prompt(task: Task, candidates: Sequence[Predecessor]) -> str:
    """Return what the judge is asked: goal and last words stand in it as data, diffs are to be filled in."""
    brief = "\n".join([task.goal.strip(), *(f"- {rule}" for rule in task.constraints)])
    last = "the last words of its agent"
    parts = [
        f"## Commit {each.commit}\n\n{quoted(each.summary, last)}\n\n{_place(each.commit)}"
        for each in candidates
    ]
    return _PROMPT.format(
        brief=whole_quote(harmless(brief), "the goal and the rules"), candidates="\n\n".join(parts)
    )


def _place(commit: str | None) -> str:
    """Return where the diff of a candidate is to stand; no text of a person or an agent can hold a NUL."""
    return f"\0diff {commit}\0"


def with_diffs(order: RunRequest, diffs: Mapping[str, str]) -> RunRequest:
    """Return the order with the diffs of its candidates, by commit, in its prompt; long ones are cut."""
    most = max(_LEAST, DIFF_CHARACTERS // max(1, len(diffs)))
    prompt, argv = order.prompt, order.argv
    for commit, diff in diffs.items():
        kept = head(harmless(diff), characters=most)
        text = whole_quote(kept, f"the diff of {commit}")
        prompt = prompt.replace(_place(commit), text)
        argv = tuple(argument.replace(_place(commit), text) for argument in argv)
    return order.model_copy(update={"prompt": prompt, "argv": argv, "candidates": ()})


def read_choice(by: str, verdict: Verdict, candidates: Sequence[Predecessor]) -> VariantChoice:
    """Return the choice at the end of a judge's last words. Raises ValueError if there is none."""
    form = last_form(verdict.text, "commit")
    if form is None:
        raise ValueError("its last words do not end with a choice in the form that was asked for")
    for each in candidates:
        if form["commit"] == each.commit:
            reason = form.get("reason")
            text = one_line(harmless(reason), REASON_LENGTH) if isinstance(reason, str) else ""
            return VariantChoice(variant=each.task, by=by, reason=text or "it gives no reason")
    raise ValueError("it chooses a commit that is none of the candidates")
