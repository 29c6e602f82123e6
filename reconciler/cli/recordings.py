"""
Recordings beside adapters, held against the verdicts that they have to get.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from reconciler.core.errors import Problem
from reconciler.core.model.runs import Verdict
from reconciler.core.model.specs import Desired
from reconciler.core.runs.recording import differences
from reconciler.dispatch.output import OutputRequest, RoundOutput, judge_output
from reconciler.specs.parse import File, locate_mistakes
from reconciler.specs.recordings import Case, read_recordings
from reconciler.specs.rules import Mistake


@dataclass(frozen=True, slots=True)
class Judged:
    """A recording with the verdict that its adapter gives on it."""

    case: Case
    verdict: Verdict
    problems: Sequence[Problem]
    """In what it is another one than was expected."""


def judge_recordings(
    files: Mapping[str, File], desired: Desired, now: datetime
) -> tuple[Sequence[Judged], Sequence[Problem]]:
    """Return the verdict on each recording of a fleet, and what is wrong with those that cannot be judged."""
    cases, problems = read_recordings(files, desired)
    return [_judged(case, files, desired, now) for case in cases], problems


def recording_problems(files: Mapping[str, File], desired: Desired, now: datetime) -> Iterator[Problem]:
    """Yield what `validate` says of recordings."""
    judged, problems = judge_recordings(files, desired, now)
    yield from problems
    for each in judged:
        yield from each.problems


def _judged(case: Case, files: Mapping[str, File], desired: Desired, now: datetime) -> Judged:
    recording = case.recording
    printed = RoundOutput(case.stdout, case.stderr, recording.shell_code)
    request = OutputRequest(recording.argv, recording.session)
    verdict = judge_output(desired.adapters[case.adapter], printed, request, now)
    mistakes = [
        Mistake(("expect", field), f"adapter {case.adapter} reads it otherwise: {message}")
        for field, message in differences(recording.expect, verdict)
    ]
    return Judged(case, verdict, locate_mistakes(mistakes, case.path, files[case.path].data))
