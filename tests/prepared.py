"""
Folders that many tests begin with: made once in each process, and copied, which is cheaper than git.
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path


def prepare(make: Callable[[Path], None], folder: Path) -> None:
    """Put into a folder what `make` puts into an empty one; it is called once and names no place in it."""
    shutil.copytree(_made(make), folder, symlinks=True, dirs_exist_ok=True)


@cache
def _made(make: Callable[[Path], None]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="reconciler-prepared-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make(folder)
    for hooks in folder.rglob("hooks"):
        for sample in hooks.glob("*.sample"):
            sample.unlink()
    return folder
