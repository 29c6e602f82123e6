"""
Outages: what cannot be worked with now, and since when.
"""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class ForgeOutage:
    """Why a forge cannot be worked with now."""

    why: str
    since: datetime
    """When it was first noticed by the reconciler that runs."""
