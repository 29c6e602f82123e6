"""
The pins that README's commands install are the whole closure: whatever is published later changes nothing.

Offline: an index on disk offers every pinned package at its pin and, beside it, in a newer version that
must not be taken. The wheels in it are empty but for the metadata of what is installed here.
"""

import base64
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEBIAN_12, DEBIAN_13, UBUNTU_2204, UBUNTU_2404 = "23.0.1", "25.1.1", "22.0.2", "24.0"
NEWER = "9999"


def pins(text: str) -> dict[str, Requirement]:
    """Return what a constraints file pins for this Python, by canonical name."""
    lines = (line.rstrip(" \\") for line in text.splitlines() if re.match(r"[a-zA-Z]", line))
    read = [Requirement(line) for line in lines]
    return {canonicalize_name(pin.name): pin for pin in read if pin.marker is None or pin.marker.evaluate()}


FILES = {
    "constraints.txt": [],
    "tests/constraints.txt": ["test"],
    "deploy/constraints.txt": ["notify", "otel"],
    ".ci/constraints.txt": ["test", "lint", "fuzz", "browser", "notify", "otel"],
}


def test_the_lowest_versions_that_are_allowed_are_those_that_are_tested():
    lowest = pins((ROOT / ".ci/lowest.txt").read_text())

    for asked in roots(["test"]):
        for floor in (each for each in asked.specifier if each.operator == ">="):
            assert str(lowest[canonicalize_name(asked.name)].specifier) in {
                f"=={floor.version}{zeros}" for zeros in ("", ".0", ".0.0")
            }, asked.name


def roots(extras: list[str]) -> list[Requirement]:
    """Return what pyproject.toml asks for with some extras, and to build without isolation."""
    project = PROJECT["project"]
    asked = [*project["dependencies"], *PROJECT["dependency-groups"]["build"]]
    for extra in extras:
        asked += project["optional-dependencies"][extra]
    return [Requirement(line) for line in [*asked, *PROJECT["build-system"]["requires"]]]


def unpinned(pinned: Mapping[str, Requirement], asked: list[Requirement]) -> Iterator[str]:
    """Yield each requirement of the closure, extras included, that the pins leave to a resolver."""
    waiting, seen = [(requirement, "pyproject.toml") for requirement in asked], set()
    while waiting:
        requirement, origin = waiting.pop()
        name = canonicalize_name(requirement.name)
        pin = pinned.get(name)
        if pin is None or not requirement.extras <= pin.extras:
            yield f"{requirement} of {origin}"
            continue
        version = next(iter(pin.specifier)).version
        assert requirement.specifier.contains(version, prereleases=True), (str(requirement), version)
        for extra in ("", *sorted(pin.extras)):
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += [(each, f"{pin.name}[{extra}]") for each in needed(name, version, extra)]


def needed(name: str, version: str, extra: str) -> list[Requirement]:
    installed = importlib.metadata.distribution(name)
    if installed.version != version:
        pytest.skip(f"{name} is installed here as {installed.version} and pinned as {version}")
    read = [Requirement(line) for line in installed.requires or []]
    return [each for each in read if each.marker is None or each.marker.evaluate({"extra": extra})]


def require_installed(pinned: Mapping[str, Requirement]) -> None:
    for name in pinned:
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed here, so its requirements cannot be read")


@pytest.mark.parametrize("file", FILES)
def test_each_requirement_of_what_is_pinned_is_pinned_with_its_extras(file):
    pinned = pins((ROOT / file).read_text())
    require_installed(pinned)

    assert list(unpinned(pinned, roots(FILES[file]))) == []


def test_a_pin_without_the_extra_that_is_asked_for_is_found():
    text = (ROOT / "tests/constraints.txt").read_text()
    pinned = pins(re.sub(r"^(\S+?)\[\w+\]==", r"\1==", text, flags=re.MULTILINE))
    require_installed(pinned)

    left = list(unpinned(pinned, roots(["test"])))

    assert any(line.startswith("coverage[toml]") for line in left)


@pytest.mark.parametrize("file", FILES)
def test_every_pin_has_hashes_and_names_no_index(file):
    text = (ROOT / file).read_text()

    blocks = re.split(r"^(?=[a-zA-Z])", text, flags=re.MULTILINE)[1:]

    assert blocks
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert re.search(r"https?:|--index|--find-links", text) is None


def test_running_takes_nothing_that_only_tests_need():
    running = pins((ROOT / "constraints.txt").read_text())

    assert running.keys() & {"pytest", "hypothesis", "mcp", "coverage", "ruff", "mypy"} == set()


def test_a_deployment_has_what_a_server_can_make_use_of_at_the_versions_that_are_tested():
    deployed, tested = (pins((ROOT / f"{place}/constraints.txt").read_text()) for place in ("deploy", ".ci"))
    running = pins((ROOT / "constraints.txt").read_text())

    assert deployed.keys() >= {*running, "apprise", "opentelemetry-sdk"}
    assert [name for name, pin in deployed.items() if str(pin) != str(tested[name])] == []
    assert "-r /source/deploy/constraints.txt" in (ROOT / "deploy/Containerfile").read_text()


def wheel(folder: Path, name: str, version: str, requires: list[str], extras: list[str]) -> Path:
    """Write a wheel that holds its metadata and nothing else; return its path."""
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = "\n".join(
        [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            f"Version: {version}",
            *(f"Provides-Extra: {extra}" for extra in extras),
            *(f"Requires-Dist: {line}" for line in requires),
            "",
        ]
    )
    files = {
        "METADATA": metadata,
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{stem}.dist-info/{file},sha256={digest(text)},{len(text.encode())}\n"
        for file, text in files.items()
    )
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, "RECORD": record + f"{stem}.dist-info/RECORD,,\n"}.items():
            archive.writestr(f"{stem}.dist-info/{file}", text)
    return path


def digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """A folder with each pinned package at its pin and in a newer version, and the pins with their hashes."""
    folder = tmp_path_factory.mktemp("index")
    pinned = pins((ROOT / "tests/constraints.txt").read_text())
    require_installed(pinned)
    lines = []
    for name, pin in pinned.items():
        version = next(iter(pin.specifier)).version
        installed = importlib.metadata.distribution(name)
        requires = installed.requires or []
        extras = installed.metadata.get_all("Provides-Extra") or []
        offered = wheel(folder, name, version, requires, extras)
        wheel(folder, name, NEWER, requires, extras)
        lines.append(f"{pin} \\\n    --hash=sha256:{hashlib.sha256(offered.read_bytes()).hexdigest()}")
    (folder / "constraints.txt").write_text("\n".join(lines) + "\n")
    return folder


def bundled() -> Path | None:
    """Return the wheel of pip that `python3 -m venv` would install."""
    import ensurepip

    system = Path(getattr(ensurepip, "_WHEEL_PKG_DIR", None) or "/usr/share/python-wheels")
    folders = [Path(ensurepip.__file__).parent / "_bundled", system]
    return next((found for folder in folders for found in folder.glob("pip-*.whl")), None)


PIPS = ["bundled", UBUNTU_2204, DEBIAN_12, UBUNTU_2404, DEBIAN_13, "newest"]


@pytest.fixture
def pip(request, tmp_path) -> list[str]:
    """The command line of a pip: the one that venv brings, those of distributions, the newest."""
    if request.param == "bundled":
        return unpacked(bundled() or pytest.skip("this Python brings no pip"), tmp_path / "pip")
    name = "pip" if request.param == "newest" else f"pip=={request.param}"
    get = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path), name]
    if subprocess.run(get, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{name} cannot be fetched now")
    return unpacked(next(tmp_path.glob("pip-*.whl")), tmp_path / "pip")


def unpacked(wheel: Path, folder: Path) -> list[str]:
    """Return the command line of a pip, out of its wheel: inside of it no compiled module is kept."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return [sys.executable, str(folder / "pip")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pip", "options"), [*((each, []) for each in PIPS), (UBUNTU_2204, ["--no-deps"])], indirect=["pip"]
)
def test_newer_versions_of_everything_are_left_alone(pip, options, index, tmp_path):
    pinned = len(pins((index / "constraints.txt").read_text()))
    target = tmp_path / "installed"

    done = install(pip, index, "--target", str(target), *options)

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(target.glob("*.dist-info"))) == pinned
    assert list(target.glob(f"*-{NEWER}.dist-info")) == []


def install(pip: list[str], index: Path, *options: str) -> subprocess.CompletedProcess[str]:
    offered = ["--find-links", str(index), "-r", str(index / "constraints.txt")]
    return subprocess.run(
        [*pip, "install", "-q", "--no-index", "--no-compile", *options, *offered],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("PIP_")},
    )
