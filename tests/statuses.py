"""Statuses for tests, by the names that their fields have in the file."""

from reconciler.core.model.status import Status


def changed(status: Status, **fields: object) -> Status:
    """Return a status with other values in these fields, as if its file said so."""
    return Status.model_validate({**status.model_dump(exclude_defaults=True), **fields}, strict=False)
