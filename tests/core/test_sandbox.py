"""Sandbox: what host and adapter ask for together, and where a task that needs one may run."""

import pytest

from reconciler.core.adapter import Adapter, Sandbox
from reconciler.core.model.specs import Desired, Host
from reconciler.core.model.status import HostStatus, Observed
from reconciler.core.names import check_host_path
from reconciler.core.planning.accounts import AccountPool
from reconciler.core.planning.placement import Placement, place
from reconciler.core.runs.sandbox import sandbox_of
from tests.fakes import make_task
from tests.strategies import NOW

PLAIN, CONFINED = Host(name="a"), Host(name="a", sandbox=Sandbox())


def test_without_a_word_of_either_there_is_no_sandbox():
    assert sandbox_of(PLAIN, Adapter(name="x", sessions=("~/.x",))) is None


def test_the_stricter_of_host_and_adapter_counts_and_what_either_grants_is_granted():
    host = Host(name="a", sandbox=Sandbox(network=False, writable=("/c",), hidden=("/h",)))
    adapter = Adapter(
        name="x", sandbox=Sandbox(writable=("/d",), readable=("/r",), hidden=("/i",)), sessions=("~/.x",)
    )

    assert sandbox_of(host, adapter) == Sandbox(
        network=False, writable=("/c", "/d", "~/.x"), readable=("/r",), hidden=("/h", "/i")
    )


@pytest.mark.parametrize("path", ["~/.cache/pip", "/dev/nvidia0", "/srv/a cache"])
def test_a_path_of_a_host_is_absolute_or_in_the_home(path):
    assert check_host_path(path) == path


@pytest.mark.parametrize("path", ["a", "~", "/", "~bob/x", "/a/../b", "/a/", "/a//b", "/home", "/dev", ""])
def test_what_is_no_path_or_the_whole_of_what_a_sandbox_keeps_is_refused(path):
    with pytest.raises(ValueError, match=r"path of a host|as a whole"):
        check_host_path(path)


def placed(host: Host, probe: HostStatus | None, adapter: Adapter) -> Placement:
    """Return where a task of the adapter goes in a fleet with one host."""
    desired = Desired(hosts={host.name: host}, adapters={adapter.name: adapter})
    observed = Observed(hosts={host.name: probe} if probe else {})
    task = make_task("t", adapter=adapter.name)
    return place(task, None, desired, observed, {}, accounts=AccountPool(desired, observed, (), NOW))


def up(sandbox: str | None) -> HostStatus:
    return HostStatus(reachable=True, since=NOW, sandbox=sandbox)


SCRIPT = Adapter(name="script")


@pytest.mark.parametrize(
    ("host", "probe", "adapter", "why"),
    [
        (CONFINED, None, SCRIPT, "has not been asked for a sandbox yet"),
        (CONFINED, up(None), SCRIPT, "has not been asked for a sandbox yet"),
        (CONFINED, up("install it"), SCRIPT, "has no sandbox: install it"),
        (PLAIN, up("install it"), Adapter(name="x", sandbox=Sandbox()), "has no sandbox: install it"),
        (
            Host(name="a", sandbox=Sandbox(network=False)),
            up(""),
            Adapter(name="x", model=("-m", "{model}")),
            "has a sandbox without network, and x calls a model",
        ),
    ],
)
def test_a_task_waits_with_the_reason_where_its_sandbox_cannot_be_had(host, probe, adapter, why):
    assert placed(host, probe, adapter).rejected == {"a": why}


@pytest.mark.parametrize(("host", "probe"), [(CONFINED, up("")), (PLAIN, None), (PLAIN, up("install it"))])
def test_a_task_runs_where_its_sandbox_works_or_it_needs_none(host, probe):
    assert placed(host, probe, SCRIPT).chosen == "a"
