"""What is expected of a recording, and in what a verdict differs from it."""

import pytest

from reconciler.core.adapter import Usage
from reconciler.core.model.runs import FailureClass, Verdict
from reconciler.core.runs.recording import Expected, Recording, differences, expectation

REFUSED = Verdict(
    outcome="failed",
    kind=FailureClass.AUTH,
    message="401 Invalid API key",
    session_id="s1",
    usage=Usage(input_tokens=40, turns=2),
)


def test_a_verdict_is_what_is_expected_of_its_own_recording():
    for verdict in (REFUSED, Verdict(outcome="success", text="Done.")):
        assert list(differences(Expected.model_validate(expectation(verdict)), verdict)) == []


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({}, []),
        ({"outcome": "success", "class": None}, ["outcome"]),
        ({"class": "quota"}, ["class"]),
        ({"message": "Invalid"}, []),
        ({"message": "Rate limit"}, ["message"]),
        ({"session_id": "s2", "turns": 3, "input_tokens": 40}, ["session_id", "turns"]),
    ],
)
def test_each_field_that_differs_is_told(changes, fields):
    expected = Expected.model_validate({"outcome": "failed", "class": "auth"} | changes)

    assert [field for field, _ in differences(expected, REFUSED)] == fields


def test_the_end_by_a_signal_may_be_written_as_a_shell_or_as_python_does():
    codes = [Recording(exit_code=code, expect=Expected(outcome="success")).shell_code for code in (-15, 143)]

    assert codes == [143, 143]
