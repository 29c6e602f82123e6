from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from reconciler.core.adapter import Usage
from reconciler.core.errors import SpecError
from reconciler.core.model.runs import Check, FailureClass
from reconciler.core.model.status import (
    AtWorker,
    Failure,
    HostStatus,
    OnHost,
    Phase,
    Predecessor,
    Reason,
    Run,
    Status,
    Waiting,
)
from reconciler.store import statuses
from tests.store.world import status

PATH = "fleet-state/tasks/a.yaml"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    [
        "no",
        "Null",
        "1e3",
        "~",
        "a: b",
        "- x",
        "#x",
        "x #y",
        "'",
        '"',
        "\u2028",
        "\x85",
        "\ufeff",
        "0x1f",
        "|",
        "=",
        "<<",
    ]
)
times = st.integers(0, 2_000_000_000_000).map(
    lambda ms: datetime(1990, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
)
amounts = st.floats(0, 1e20, allow_nan=False)
some = st.none() | texts
checks = st.builds(Check, command=texts, exit_code=st.integers(-9, 255), seconds=amounts, output=texts)
usages = st.builds(
    Usage, input_tokens=st.integers(0), cost_usd=amounts, turns=st.integers(0, 9), seconds=amounts
)
waitings = st.builds(Waiting, reason=st.sampled_from(Reason), message=texts, since=times)
failures = st.builds(Failure, kind=st.sampled_from(FailureClass), message=texts)
runs = st.builds(
    Run,
    key=texts,
    round=st.integers(0, 9),
    slots=st.integers(0, 3),
    holder=st.builds(OnHost, host=texts, machine=some) | st.builds(AtWorker, agent=texts, request_key=texts),
    adapter=some,
    model=some,
    repo=some,
    branch=texts,
    title=texts,
    start_from=some,
    predecessors=st.lists(
        st.builds(Predecessor, task=texts, repo=some, branch=some, commit=some, summary=texts), max_size=2
    ).map(tuple),
)
_FIELDS = {
    "since": times,
    "created_at": times,
    "generation": texts,
    "work": texts,
    "waiting": st.none() | waitings,
    "attempt": st.integers(0, 99),
    "session_id": some,
    "not_before": st.none() | times,
    "failure": st.none() | failures,
    "checks": st.lists(checks, max_size=3).map(tuple),
    "usage": usages,
    "removed": st.booleans(),
}
task_statuses = st.builds(
    Status, phase=st.sampled_from([Phase.CREATED, Phase.CANCELLED, Phase.ESCALATED]), **_FIELDS
) | st.builds(Status, phase=st.sampled_from(Phase), run=runs, **_FIELDS)
host_statuses = st.builds(HostStatus, reachable=st.booleans(), since=times, message=texts)


@given(task_statuses | host_statuses)
def test_a_status_is_read_back_as_it_was_written(value):
    written = statuses.dump_status(value)

    assert statuses.load_status(type(value), written, PATH) == value
    assert statuses.dump_status(statuses.load_status(type(value), written, PATH)) == written


@given(task_statuses)
def test_the_quick_reader_and_a_real_parser_agree_on_what_is_written(value):
    written = statuses.dump_status(value).decode()

    assert statuses._canonical(written) == YAML(typ="safe", pure=True).load(written)


_LINES = """
a: 1|a: x|b:|  c: 2|  - d: 3|    e: [1, 2]|  - f|# g||a: x # y|h: 'i'|j: "k"|l: -Infinity|m: NaN|n: yes
|   p: 4|q: {}|r: 010|s: 1_0|t: *u|---|v: 1.|w: ~|x: {"a": 1}|y: "\\x41"|z: 1e5|o: !!str 1
"""
lines = st.sampled_from(_LINES.replace("\n", "").split("|"))


@given(st.lists(lines, max_size=6))
def test_the_quick_reader_leaves_alone_whatever_it_might_read_otherwise(document):
    text = "\n".join([*document, ""])

    try:
        quickly = statuses._canonical(text)
    except ValueError:
        return

    assert quickly == YAML(typ="safe", pure=True).load(text)


def test_a_status_that_a_person_edited_is_read_too():
    edited = (
        b"# fixed by hand\nphase: 'created'\nsince: 2026-01-02T03:04:05Z\ncreated_at: 2026-01-02T03:04:05Z\n"
    )

    value = statuses.load_status(Status, edited + b"generation: a1\nwork: b2\nchecks: []\n", PATH)

    assert value == status(Phase.CREATED, generation="a1", work="b2")


@settings(max_examples=30)
@given(task_statuses | host_statuses)
def test_what_a_newer_version_wrote_beside_it_hinders_nobody_who_went_back(value):
    def with_more(each):
        if isinstance(each, list):
            return [with_more(one) for one in each]
        return (
            {**{k: with_more(v) for k, v in each.items()}, "newer": [1]} if isinstance(each, dict) else each
        )

    newer = with_more(statuses.parse_status(statuses.dump_status(value).decode()))

    assert statuses.load_status(type(value), "".join(statuses._mapping(newer, "")).encode(), PATH) == value


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"phase: nope\n", "phase: Input should be"),
        (b"phase: [\n", f"{PATH}:2:1"),
        (b"\xff\n", "not UTF-8"),
        (b"[" * 5_000, "not readable"),
        (b"phase: running\nphase: failed\n", "duplicate key"),
        (b"", "Input should be"),
    ],
)
def test_a_damaged_status_names_its_file_and_the_way_out(content, said):
    with pytest.raises(SpecError) as damaged:
        statuses.load_status(Status, content, PATH)

    assert said in str(damaged.value)
    assert PATH in str(damaged.value)
    assert "git revert" in str(damaged.value)
