"""
What is remembered of hosts from one placement to the next changes none: each is what a first look would find.
"""

import random
from dataclasses import replace

import pytest

from reconciler.core.model.specs import Desired, Host
from reconciler.core.model.status import HostStatus, Observed
from reconciler.core.planning.accounts import AccountPool
from reconciler.core.planning.placement import HostFits, place
from tests.fakes import make_task
from tests.strategies import NOW

NAMES = [f"h{number}" for number in range(6)]


def host(draw, name):
    return Host(
        name=name,
        address="example.org",
        slots=draw.randint(0, 4),
        weight=draw.choice((0.5, 1.0, 2.0)),
        cordon=draw.random() < 0.1,
        labels=tuple(draw.sample(("gpu", "big"), draw.randint(0, 2))),
        daily_budget=draw.choice((None,) * 20 + ({"tokens": 5},)),
    )


def changed(draw, things, make):
    """Return some of them, a few of which are new."""
    some = {name: thing for name, thing in things.items() if draw.random() < 0.95}
    return some | {name: make(name) for name in NAMES if draw.random() < 0.2}


@pytest.mark.parametrize("seed", range(20))
def test_a_place_is_what_a_first_look_finds(seed):
    draw, fits = random.Random(seed), HostFits()
    tasks = [
        make_task(f"t{slots}{needs}", slots=slots, requires=needs)
        for slots in (1, 2, 3)
        for needs in ((), ("gpu",))
    ]
    desired, observed = Desired(revision="r"), Observed()
    used, load, kept = dict[str, int](), dict[str, float](), dict[str, str]()
    for _ in range(60):
        if draw.random() < 0.3:
            hosts = changed(draw, desired.hosts, lambda name: host(draw, name))
            desired = replace(desired, hosts=dict(sorted(hosts.items())))
        if draw.random() < 0.3:
            probes = changed(
                draw,
                observed.hosts,
                lambda _: HostStatus(reachable=draw.random() < 0.9, since=NOW, message=""),
            )
            observed = replace(observed, hosts=probes)
        if draw.random() < 0.5:
            used = changed(draw, used, lambda _: draw.randint(0, 4))
            load = changed(draw, load, lambda _: draw.choice((0.0, 0.25, 1.5)))
            kept = {name: "t" for name in NAMES if draw.random() < 0.1}
            observed = replace(observed, load=load)
        task, accounts = draw.choice(tasks), AccountPool(desired, observed, (), NOW)

        found = place(task, None, desired, observed, used, kept=kept, accounts=accounts, fits=fits)

        first = HostFits()
        first.fit(task, desired, observed).has_budgets = True  # then each host is looked at by itself
        assert found == place(task, None, desired, observed, used, kept=kept, accounts=accounts, fits=first)
