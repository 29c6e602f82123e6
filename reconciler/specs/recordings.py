"""
Recordings beside an adapter: `specs/adapters/NAME/recordings/CASE.yaml`, `.stdout` and `.stderr`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.core.errors import Problem
from reconciler.core.model.specs import Desired
from reconciler.core.references import no_such
from reconciler.core.runs.recording import Recording
from reconciler.specs.parse import ROOT, File, is_recording, read_data_file
from reconciler.specs.yaml import MAX_BYTES

ENDINGS = ("yaml", "stdout", "stderr")
_PLACE = re.compile(rf"{ROOT}/adapters/(?P<adapter>[^/]+)/recordings/(?P<case>.+)\.(?P<ending>[^./]+)")


def recording_path(adapter: str, case: str, ending: str) -> str:
    """Return the path of a file of a recording."""
    return f"{ROOT}/adapters/{adapter}/recordings/{case}.{ending}"


@dataclass(frozen=True, slots=True)
class Case:
    """A recording, read."""

    adapter: str
    name: str
    path: str
    """Of its YAML file."""
    recording: Recording
    stdout: bytes
    stderr: bytes


def read_recordings(
    files: Mapping[str, File], desired: Desired
) -> tuple[tuple[Case, ...], tuple[Problem, ...]]:
    """Return the recordings of a fleet that can be judged, and what is wrong with the others."""
    cases, problems = list[Case](), list[Problem]()
    broken = {problem.path for problem in desired.problems}
    for path in sorted(filter(is_recording, files)):
        place = _PLACE.fullmatch(path)
        if place is not None and f"{ROOT}/adapters/{place['adapter']}.yaml" in broken:
            continue  # that is told; its recordings wait until it is mended
        if wrong := _misplaced(path, place, files, desired):
            problems.append(Problem(path, 1, 1, wrong))
        elif place is not None and place["ending"] == "yaml":
            recording, mistakes = read_data_file(Recording, files[path].data, path)
            problems += mistakes
            if recording is not None:
                cases.append(_case(place["adapter"], place["case"], recording, files))
    return tuple(cases), tuple(problems)


def _case(adapter: str, name: str, recording: Recording, files: Mapping[str, File]) -> Case:
    path, stdout, stderr = (recording_path(adapter, name, ending) for ending in ENDINGS)
    printed = (files[stream].data if stream in files else b"" for stream in (stdout, stderr))
    return Case(adapter, name, path, recording, *printed)


def _misplaced(
    path: str, place: re.Match[str] | None, files: Mapping[str, File], desired: Desired
) -> str | None:
    """Return why a file is no part of a recording; None if it is."""
    if place is None or place["ending"] not in ENDINGS:
        return "not a part of a recording: these are NAME.yaml, NAME.stdout and NAME.stderr"
    if place["adapter"] not in desired.adapters:
        return no_such("adapter", place["adapter"], desired.adapters)
    if len(files[path].data) > MAX_BYTES:
        return f"too long: a recording has at most {MAX_BYTES // 1024} KiB a file"
    beside = [recording_path(place["adapter"], place["case"], ending) for ending in ENDINGS]
    if place["ending"] == "yaml":
        return None if beside[1] in files else f"there is no {place['case']}.stdout beside it"
    return (
        None if beside[0] in files else f"no {place['case']}.yaml beside it says what verdict it has to get"
    )
