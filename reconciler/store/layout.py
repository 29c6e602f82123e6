"""
Where things stand under `fleet-state/`.
"""

from reconciler.core.fields import check_name

ROOT = "fleet-state"
TASKS = f"{ROOT}/tasks/"
HOSTS = f"{ROOT}/hosts/"
FLEET = f"{ROOT}/fleet.yaml"
ENDING = ".yaml"


def status_path(task: str) -> str:
    """Return the path of a task's status file. Raises ValueError for a name that leads elsewhere."""
    return f"{TASKS}{check_name(task)}{ENDING}"


def host_path(host: str) -> str:
    """Return the path of a host's status file. Raises ValueError for a name that leads elsewhere."""
    return f"{HOSTS}{check_name(host)}{ENDING}"


def name_under(folder: str, path: str) -> str | None:
    """Return the name of the object whose file this is, if it is one of that folder's."""
    if path.startswith(folder) and path.endswith(ENDING):
        return path[len(folder) : -len(ENDING)]
    return None
