"""
Quiet hours: until when messages that are not urgent are held back.
"""

from datetime import datetime

from reconciler.core.model.specs import FleetSpec, NotifySpec
from reconciler.core.planning.schedule import open_until


def timezone_of(fleet: FleetSpec) -> str:
    """Return the time zone of quiet hours and of times in messages."""
    return (fleet.notify and fleet.notify.timezone) or fleet.timezone


def quiet_until(spec: NotifySpec, timezone: str, now: datetime) -> datetime | None:
    """Return when the quiet hours end; None if they are not now."""
    return open_until(spec.quiet, timezone, now) if spec.quiet else None
