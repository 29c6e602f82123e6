"""
Paths of the files under `fleet-state/`.

The status of `web/fix-login` is `fleet-state/tasks/web/fix-login.yaml`. A commit
writes every folder on the way to its file anew, so a folder takes so many files
and no more: those that come later go into its subfolders `_0` to `_f`, each by
its name, and from there on likewise. A file stays where it was put.

Once `web/fix-login` has settled and its spec is gone, its status is in the archive, by the month in
which it settled: `fleet-archive/2026-03/web/_e/_f/_f/fix-login.yaml`. Who loads the record reads none of it.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha1

from reconciler.core.names import check_name, check_task_name

STATE_ROOT = "fleet-state"
TASKS = f"{STATE_ROOT}/tasks/"
HOSTS = f"{STATE_ROOT}/hosts/"
ACCOUNTS = f"{STATE_ROOT}/accounts/"
ARCHIVE_ROOT = "fleet-archive"
IDENTITY_FILE = f"{STATE_ROOT}/fleet.yaml"
STATUS_ENDING = ".yaml"
FOLDER_SIZE = 128
"""Files that a folder takes before its subfolders do."""
_DEPTH = 4
"""Levels of subfolders: the last has 65,536, so that a folder of a million files is still quick."""
_ARCHIVE_DEPTH = 3
"""
Always so many in the archive, where nobody counts what a folder has. With two, a commit took eighteen times
the CPU where a folder of a month had a million files; with three, it has room for them.
"""
_MONTH = re.compile(rf"{ARCHIVE_ROOT}/\d{{4}}-\d{{2}}/")
_SUBFOLDERS = re.compile(r"(?:(?<![^/])_[0-9a-f]/)+(?=[^/]*\Z)")
"""No name begins with an underscore, so that none is taken for a subfolder."""


def status_paths(task: str) -> Sequence[str]:
    """
    Return the paths at which a task's status file may be, the plain one first.

    Raises ValueError for a name that leads elsewhere.
    """
    return _paths(TASKS, check_task_name(task))


def host_paths(host: str) -> Sequence[str]:
    """Return the paths at which a host's status file may be; see `status_paths`."""
    return _paths(HOSTS, check_name(host))


def account_paths(account: str) -> Sequence[str]:
    """Return the paths at which an account's status file may be; see `status_paths`."""
    return _paths(ACCOUNTS, check_name(account))


def archive_path(task: str, month: str) -> str:
    """Return the path of a task's status file in the archive of a month (`2026-03`); see `status_paths`."""
    return _paths(f"{ARCHIVE_ROOT}/{month}/", check_task_name(task))[_ARCHIVE_DEPTH]


def archive_month(since: datetime) -> str:
    """Return the month in whose archive a task is that is settled since a time."""
    return f"{since:%Y-%m}"


def recorded_task(path: str) -> str | None:
    """Return the task whose status file this is, in the archive or not; None if it is another file."""
    month = _MONTH.match(path)
    return name_under(month[0] if month else TASKS, path)


def name_under(folder: str, path: str) -> str | None:
    """Return the name of the object whose file this is, if it is one of that folder's."""
    if not path.startswith(folder) or not path.endswith(STATUS_ENDING):
        return None
    name = path[len(folder) : -len(STATUS_ENDING)]
    plain = _SUBFOLDERS.sub("", name) if "_" in name else name
    return plain if plain == name or path in _paths(folder, plain) else name


def _paths(root: str, name: str) -> Sequence[str]:
    folder, slash, leaf = name.rpartition("/")
    digest = sha1(leaf.encode(), usedforsecurity=False).hexdigest()
    subfolders = ("".join(f"_{digit}/" for digit in digest[:depth]) for depth in range(_DEPTH + 1))
    return tuple(f"{root}{folder}{slash}{each}{leaf}{STATUS_ENDING}" for each in subfolders)
