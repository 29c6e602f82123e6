"""
Building the controller: every helper is made here, and handed to those who need it.
"""

from dataclasses import replace

from reconciler.controller.act import Actuator
from reconciler.controller.assigned import AssignedSpecs
from reconciler.controller.breakers import Breakers
from reconciler.controller.cache import FleetCache
from reconciler.controller.clock_jumps import ClockJumps
from reconciler.controller.hosts import HostMaintenance
from reconciler.controller.inbox import Inbox
from reconciler.controller.leases import WorkerLeases
from reconciler.controller.loop import Controllers, Loop, Stages
from reconciler.controller.meter import IsolatedMeter
from reconciler.controller.observe import HostObserver, TaskObserver
from reconciler.controller.ports import ControllerSettings, Ports
from reconciler.controller.pull_requests import PullRequestController
from reconciler.controller.quarantine import Quarantine
from reconciler.controller.record import Recorder
from reconciler.controller.spending import DailySpending
from reconciler.controller.variants import VariantController


def build_loop(cache: FleetCache, ports: Ports, settings: ControllerSettings) -> Loop:
    """Return the loop of a fleet, with its helpers around it; nothing runs yet."""
    ports = replace(ports, meter=IsolatedMeter(ports.meter))
    inbox, quarantine, assigned = Inbox(), Quarantine(), AssignedSpecs(ports.specs, cache)
    jumps = ClockJumps(cache, ports.clock, ports.monotonic)
    controllers = Controllers(
        WorkerLeases(cache, inbox, assigned, ports.clock, jumps),
        HostMaintenance(cache, inbox, assigned, ports.dispatch, ports.prober, ports.clock, settings),
        PullRequestController(
            ports.forges,
            cache,
            inbox,
            dispatch=ports.dispatch,
            clock=ports.clock,
            address=settings.address,
            meter=ports.meter,
        ),
        VariantController(ports.dispatch, cache, inbox, ports.clock),
    )
    stages = Stages(
        TaskObserver(cache, assigned, quarantine),
        HostObserver(cache, Breakers(), settings),
        Recorder(ports.state, quarantine, ports.meter, ports.monotonic),
        Actuator(cache, inbox, assigned, ports.dispatch, ports.clock, quarantine),
        DailySpending(ports.state),
        quarantine,
    )
    return Loop(ports, settings, cache, inbox, controllers, stages)
