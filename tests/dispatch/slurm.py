"""
A real Slurm cluster of one node on loopback: munge, slurmctld and slurmd, ended by their pids.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
MISSING = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
_WHY = f"Slurm is not installed ({', '.join(MISSING)})" if MISSING else "Slurm's daemons need root"
needs_slurm = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(MISSING) or os.geteuid() != 0, reason=_WHY),
]

_PATIENCE = 60.0
SETTINGS = {
    "ClusterName": "loop",
    "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
    "AuthType": "auth/munge",
    "SlurmUser": "root",
    "SlurmdUser": "root",
    "ProctrackType": "proctrack/cgroup",
    "TaskPlugin": "task/none",
    "MpiDefault": "none",
    "ReturnToService": "2",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core",
    "JobAcctGatherType": "jobacct_gather/none",
    "AccountingStorageType": "accounting_storage/none",
    "SchedulerParameters": "batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2",
    "KillWait": "1",
    "SlurmdTimeout": "10",
    "MessageTimeout": "2",
}


class Cluster:
    """One cluster; `kill` and `start` of its daemons are what may happen to it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self._settings = SETTINGS | settings
        for name in ("conf", "run", "log", "spool", "state"):
            (folder / name).mkdir(parents=True)
        self.conf = folder / "conf" / "slurm.conf"
        self.env = {"SLURM_CONF": str(self.conf)}
        self._key = folder / "conf" / "munge.key"
        self._key.touch(mode=0o600)
        self._key.write_bytes(secrets.token_bytes(128))
        self._key.chmod(0o400)
        self._configure()

    def start(self) -> None:
        """Start all daemons, and wait until the node takes jobs."""
        self.start_munge()
        self.start_daemon("slurmctld")
        self.start_daemon("slurmd")
        self.wait_until(lambda: "idle" in self.command("sinfo", "-h", "-o", "%T"))

    def stop(self) -> None:
        """End all jobs and daemons."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.command("scancel", "--user=root", "--signal=KILL", "--full")
            self.command("scancel", "--user=root")
            self.wait_until(lambda: not self.command("squeue", "-h"))
        for name in ("slurmctld", "slurmd", "munged"):
            self.kill(name, signal.SIGTERM)
        self.kill_steps()

    def command(self, *argv: str) -> str:
        """Return what a command of Slurm printed."""
        done = subprocess.run(argv, env=os.environ | self.env, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def start_munge(self) -> None:
        """Start munge, which knows who sends what."""
        run, log = self.folder / "run", self.folder / "log"
        self._call(
            "munged",
            "--force",
            f"--key-file={self._key}",
            f"--socket={run}/munge.sock",
            f"--pid-file={run}/munged.pid",
            f"--log-file={log}/munged.log",
            f"--seed-file={run}/munge.seed",
        )

    def start_daemon(self, name: str) -> None:
        """Start `slurmctld`, and wait until it answers, or `slurmd`."""
        self._call(name)
        if name == "slurmctld":
            self.wait_until(lambda: self.command("sinfo", "-h", "-o", "%P"))

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a daemon by its pid, and wait until it is gone."""
        file = self.folder / "run" / f"{name}.pid"
        pid = int(file.read_text()) if file.exists() and file.read_text().strip() else 0
        if not pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        self.wait_until(lambda: not _is_alive(pid))
        file.unlink(missing_ok=True)

    def forget(self) -> None:
        """Take from slurmctld, while it is down, what it wrote of jobs."""
        shutil.rmtree(self.folder / "state")
        (self.folder / "state").mkdir()

    @contextlib.contextmanager
    def going_back(self) -> Iterator[None]:
        """Let slurmctld, at the end of the block, be killed and begin with what it knew of jobs before."""
        self.kill("slurmctld", signal.SIGTERM)  # so that it writes down what it knows
        known = self.folder / "known"
        shutil.copytree(self.folder / "state", known)
        self.start_daemon("slurmctld")
        yield
        self.kill("slurmctld")
        self.forget()
        shutil.copytree(known, self.folder / "state", dirs_exist_ok=True)
        self.start_daemon("slurmctld")

    def kill_steps(self) -> None:
        """End the processes that watch over jobs and outlive slurmd, those of this cluster alone."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_ours = str(self.conf).encode() in (folder / "environ").read_bytes()
                if is_ours and b"slurmstepd" in (folder / "cmdline").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)

    def state(self, name: str) -> str:
        """Return the state of the jobs of a name, separated by commas; empty if there are none."""
        return self.command("squeue", "-h", "-a", "--states=all", f"--name={name}", "-o", "%T").replace(
            "\n", ","
        )

    def wait_until(self, is_true) -> None:
        """Wait until something is so."""
        ends = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(subprocess.CalledProcessError):
                if is_true():
                    return
            assert time.monotonic() < ends, f"not so within {_PATIENCE} s; see {self.folder}/log"
            time.sleep(0.05)

    def _call(self, program: str, *args: str) -> None:
        path = shutil.which(program, path=_PATH)
        assert path
        subprocess.run([path, *args], env=os.environ | self.env, check=True, stdin=subprocess.DEVNULL)

    def _configure(self) -> None:
        name = socket.gethostname().partition(".")[0]
        run, log = self.folder / "run", self.folder / "log"
        lines = {
            "SlurmctldHost": f"{name}(127.0.0.1)",
            "SlurmctldPort": str(free_port()),
            "SlurmdPort": str(free_port()),
            # Jobs of clusters beside it share a place for cgroups.
            "FirstJobId": str(secrets.randbelow(60_000) * 1000 + 1000),
            "AuthInfo": f"socket={run}/munge.sock",
            "StateSaveLocation": f"{self.folder}/state",
            "SlurmdSpoolDir": f"{self.folder}/spool",
            "SlurmctldPidFile": f"{run}/slurmctld.pid",
            "SlurmdPidFile": f"{run}/slurmd.pid",
            "SlurmctldLogFile": f"{log}/slurmctld.log",
            "SlurmdLogFile": f"{log}/slurmd.log",
        } | self._settings
        node = f"NodeName={name} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000"
        shared = f"Nodes={name} MaxTime=INFINITE State=UP OverSubscribe=FORCE:16"
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        text += f"{node}\nPartitionName=agents {shared} Default=YES\nPartitionName=second {shared}\n"
        text += f"PartitionName=urgent {shared} PriorityTier=10\n"
        self.conf.write_text(text)
        cgroup = "CgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=no\n"
        version = "cgroup/v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "cgroup/v1"
        memory = "ConstrainRAMSpace=yes\nAllowedSwapSpace=0\n"
        (self.folder / "conf" / "cgroup.conf").write_text(f"CgroupPlugin={version}\n{cgroup}{memory}")


@contextlib.contextmanager
def cluster(folder: Path, **settings: str) -> Iterator[Cluster]:
    """Yield a running cluster that is stopped at the end of the block."""
    made = Cluster(folder, **settings)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def _is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
