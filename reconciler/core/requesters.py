"""
Who asks for what; apart from the models, since who reads commits needs no more.
"""

from typing import NamedTuple


class Requester(NamedTuple):
    """Who changed a task's file last, and why: author and words of the commit."""

    person: str
    words: str
