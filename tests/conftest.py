"""
How Hypothesis looks, how many tests run at once and which first, and what is around them.

`HYPOTHESIS_PROFILE=thorough pytest` draws ten times as many, and others; `brief` draws a quarter.
"""

import atexit
import os
import shutil
import signal
import sys
import tempfile
from itertools import chain, groupby, islice

import pytest
from hypothesis import HealthCheck, settings

# No deadline and no check of speed: tests assert nothing about time.
settings.register_profile(
    "house",
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("brief", settings.get_profile("house"), max_examples=10)
settings.register_profile("thorough", settings.get_profile("house"), max_examples=400, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))


if sys.dont_write_bytecode and "PYTHONPYCACHEPREFIX" not in os.environ:
    # Where modules may not be kept beside their sources, each of some thousand processes would compile all
    # of them anew: half of what the suite takes. They are kept for its time, as an installation has them.
    os.environ["PYTHONPYCACHEPREFIX"] = compiled = tempfile.mkdtemp(prefix="reconciler-compiled-")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As of a shell that put the tests into the background: every process that they start would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """
    Run the whole suite four at a time, and what is named on the command line one by one.

    Many tests wait for processes more than they compute, so this does not
    depend on the number of cores; `-n` says another one.
    """
    return 4 if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each worker begin with slow tests: one that began last would run on alone."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        items[:] = slow_first(items, workers)


def slow_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Deal slow tests to the beginnings of equal parts: `--dist=worksteal` gives one to each worker."""
    slow = [list(together) for _, together in groupby((item for item in items if is_slow(item)), beside)]
    others = iter([item for item in items if not is_slow(item)])
    dealt: list[pytest.Item] = []
    for worker in range(workers):
        begins = list(chain.from_iterable(slow[worker::workers]))
        size = (len(items) - len(dealt)) // (workers - worker)
        dealt += begins
        dealt += islice(others, max(0, size - len(begins)))
    return [*dealt, *others]


def is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def beside(item: pytest.Item) -> str:
    """Return what shares fixtures: a module that is slow as a whole, else the test itself."""
    alone = any(mark.name == "slow" for mark in item.own_markers)
    return item.nodeid if alone else item.nodeid.partition("::")[0]
