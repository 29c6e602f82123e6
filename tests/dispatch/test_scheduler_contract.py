"""
A scheduler is a scheduler: processes of this machine, and jobs of a Slurm cluster reached over SSH.
"""

from pathlib import Path

import pytest

from reconciler.core.model.specs import Host
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.proofs import Proofs
from reconciler.dispatch.session import open_session
from tests.dispatch.contract_runs import *  # noqa: F403  the contract is collected here
from tests.dispatch.contract_runs import Place
from tests.dispatch.slurm import cluster, needs_slurm
from tests.dispatch.sshd import needs_sshd, quick, yard
from tests.dispatch.world import BRISK


@pytest.fixture(
    scope="module", params=["processes", pytest.param("slurm", marks=[*needs_slurm, *needs_sshd])]
)
def host(request, tmp_path_factory: pytest.TempPathFactory):
    if request.param == "processes":
        yield Host(name="local")
        return
    folder = tmp_path_factory.mktemp("slurm")
    with cluster(folder / "cluster") as made, yard(folder / "servers") as servers:
        slurm = {"partition": "agents", "options": ("--mem=50M",)}
        yield servers.sshd(env=made.env).host(scheduler={"slurm": slurm})


@pytest.fixture
async def place(host: Host, tmp_path: Path):
    transports, logs = quick(local=tmp_path / "hosts"), LogFolder(tmp_path / "logs")
    session = open_session(
        host.model_copy(update={"workdir": str(tmp_path / "shared")}),
        transports(host),
        fleet="f1",
        logs=logs,
        pace=BRISK,
        proofs=Proofs(tmp_path / "proofs"),
    )
    yield Place(session, logs)
    await session.runs.close()
    await transports.close()
