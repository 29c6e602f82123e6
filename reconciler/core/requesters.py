"""
Requesters: who changed a spec last, and why. Apart from the models, so that reading commits needs no more.
"""

from typing import NamedTuple


class Requester(NamedTuple):
    """Who changed a task's file last, and why: author and words of the commit."""

    person: str
    message: str
