"""
Landed: which commit of a base branch may be what a pull request brings, judging by messages.

A merge that was cut off may be done in git and nowhere else. A true merge has the head among the
commits of the base. A squash names the pull request at the end of its subject, as forges do. A
rebase makes a twin of each commit: author, time and message are the same. Others may be alike by
chance: whoever asks compares the files, too.
"""

from collections.abc import Sequence

from reconciler.forge.answers import CommitAnswer


def squash_of(number: int, base: Sequence[CommitAnswer]) -> CommitAnswer | None:
    """Return the newest commit that names a pull request as a squash of it does; `base` is newest first."""
    marks = (f"(#{number})", f"(!{number})")
    return next((each for each in base if each.subject.endswith(marks) and not each.is_merge), None)


def rebase_of(own: Sequence[CommitAnswer], base: Sequence[CommitAnswer]) -> CommitAnswer | None:
    """Return the newest twin of a pull request's commits, if each of them has one."""
    wanted = {each.identity for each in own if not each.is_merge}
    twins = [each for each in base if each.identity in wanted]
    return twins[0] if wanted and {twin.identity for twin in twins} == wanted else None
