"""
Registry of the benchmarks: modules of this package that have a function `rows`.

`rows(quick)` measures and returns rows; with `quick` it takes seconds, and shows
whether the benchmark works rather than what is true of large fleets. It raises
`Skipped` if what it needs is not on this machine. The module's docstring says
what it measures; its first sentence is shown with the rows.
"""

import importlib
from collections.abc import Iterable

from bench.rows import Row

BENCHMARKS = (
    "specs",
    "store",
    "record",
    "look",
    "idle",
    "planner",
    "backlog",
    "latency",
    "start",
    "api",
    "webhooks",
    "pages",
    "output",
    "workspace",
    "ssh",
)


def about(name: str) -> str:
    """Return what a benchmark measures, in a sentence."""
    text = importlib.import_module(f"bench.{name}").__doc__ or ""
    return " ".join(text.strip().partition("\n\n")[0].split())


def measure(name: str, *, quick: bool) -> list[Row]:
    """Run a benchmark. Raises Skipped."""
    rows: Iterable[Row] = importlib.import_module(f"bench.{name}").rows(quick=quick)
    return list(rows)
