"""What installs without pip is built from this checkout, is whole, and runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import reconciler

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def build(kind: str, folder: Path) -> Path:
    done = subprocess.run(
        [ROOT / "deploy/package", kind, folder],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    if "No matching distribution" in done.stderr or "Could not find a version" in done.stderr:
        pytest.skip("the packages that it is made of cannot be had now")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not installed")
def test_a_debian_package_has_the_command_its_manual_and_completions_and_names_no_build_folder(tmp_path):
    package, root = build("deb", tmp_path / "out"), tmp_path / "root"

    output("dpkg-deb", "-x", package, root)

    home = root / "usr/lib/reconciler"
    assert (
        output(home / "bin/python3", "-m", "reconciler", "--version").strip().endswith(reconciler.__version__)
    )
    assert (root / "usr/bin/reconciler").readlink() == Path("../lib/reconciler/bin/reconciler")
    assert (home / "bin/reconciler").read_text().startswith("#!/usr/lib/reconciler/bin/python3\n")
    assert (root / "usr/share/man/man1/reconciler-get.1.gz").is_file()
    assert (root / "usr/share/bash-completion/completions/reconciler").is_file()
    assert output("dpkg-deb", "-f", package, "Depends").startswith(
        f"python3 (>= 3.{sys.version_info.minor}~)"
    )
    texts = [*home.glob("bin/reconciler"), home / "pyvenv.cfg", *root.rglob("*.service")]
    assert [path for path in texts if re.search(r"/tmp/\w|\.venv", path.read_text())] == []


def test_another_kind_is_refused_before_anything_is_built(tmp_path):
    done = subprocess.run(
        [ROOT / "deploy/package", "rpm", tmp_path / "out"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (2, "Usage: deploy/package deb|zipapp [DIR]\n")
    assert not (tmp_path / "out").exists()
