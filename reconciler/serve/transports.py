"""
The ways from this machine to hosts.
"""

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from reconciler import clock
from reconciler.core.model.specs import Host
from reconciler.dispatch.local import LocalTransport
from reconciler.dispatch.paths import local_folder
from reconciler.dispatch.pool import TransportPool


@asynccontextmanager
async def ways(
    hosts: Callable[[], Mapping[str, Host]], data: Path, *, is_lasting: bool = True
) -> AsyncIterator[TransportPool]:
    """
    Open the transports from this machine to hosts, and close them at the end.

    `data` is the data folder: local hosts without a `workdir` work in it.
    `is_lasting`: runs go on when the transports are closed, as those of `serve` do.
    """
    transports = TransportPool(
        hosts,
        local=lambda host: LocalTransport(local_folder(host, data)),
        jitter=clock.jitter,
        agent_path=os.environ.get("SSH_AUTH_SOCK"),
        is_lasting=is_lasting,
    )
    try:
        yield transports
    finally:
        await transports.close()
