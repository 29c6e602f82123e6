"""
Needs: what a person must look at.
"""

from typing import NamedTuple


class Need(NamedTuple):
    """One thing that needs a person."""

    what: str
    """`task NAME`, `host NAME`, `account NAME`, a file, `record`, `specs`, `disk`, `reconciler` or such."""
    why: str
    """
    A word: Escalated, Failed, Stalled, Question, Approval, Broken, Down, Circuit, Rewound, Full,
    Error, Unsent.
    """
    message: str
