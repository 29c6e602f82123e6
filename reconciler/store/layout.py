"""
Paths of the files under `fleet-state/`.
"""

from reconciler.core.names import check_name

STATE_ROOT = "fleet-state"
TASKS = f"{STATE_ROOT}/tasks/"
HOSTS = f"{STATE_ROOT}/hosts/"
IDENTITY_FILE = f"{STATE_ROOT}/fleet.yaml"
STATUS_ENDING = ".yaml"


def status_path(task: str) -> str:
    """Return the path of a task's status file. Raises ValueError for a name that leads elsewhere."""
    return f"{TASKS}{check_name(task)}{STATUS_ENDING}"


def host_path(host: str) -> str:
    """Return the path of a host's status file. Raises ValueError for a name that leads elsewhere."""
    return f"{HOSTS}{check_name(host)}{STATUS_ENDING}"


def name_under(folder: str, path: str) -> str | None:
    """Return the name of the object whose file this is, if it is one of that folder's."""
    if path.startswith(folder) and path.endswith(STATUS_ENDING):
        return path[len(folder) : -len(STATUS_ENDING)]
    return None
