"""
Print what comes of a reconciler that is ended at each failpoint and started again.

`python -m tests.crashes [local] [ssh] [forge] [agents]`; it returns 1 if any crash did harm.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from tests.crashes.agents import agent_table
from tests.crashes.forge import forge_table
from tests.crashes.runs import run_table
from tests.crashes.table import GOOD, Row

TABLES: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    "local": partial(run_table, "local"),
    "ssh": partial(run_table, "ssh"),
    "forge": forge_table,
    "agents": agent_table,
}


def main() -> int:
    """Print the tables; return 1 if any crash did harm."""
    is_good = True
    for kind in sys.argv[1:] or TABLES:
        sys.stdout.write(f"\n{kind}\n")
        with tempfile.TemporaryDirectory() as folder:
            for each in TABLES[kind](Path(folder)):
                is_good = is_good and each.outcome == GOOD
                sys.stdout.write(f"{each}\n")
                sys.stdout.flush()
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
