"""Turns and tokens of a run that goes on: from recordings, however they come in, and from anything else."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.core.adapter import Adapter, Streamed
from reconciler.core.figures import LiveFigures
from reconciler.dispatch.live import FigureCounter
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.output import parse_recording
from reconciler.specs.layers import resolve_adapter

SAMPLES = Path(__file__).parents[1] / "samples" / "agent-clis"
RUN, AGENT = "a.g1.a1", "a.g1.a1.r1"
RULES = Streamed(turn="turn", input_tokens="in", output_tokens="out")


@pytest.fixture
def logs(tmp_path):
    return LogFolder(tmp_path)


def counter(logs, rules=RULES):
    return FigureCounter(rules, logs, AGENT)


def printed(logs, *events):
    logs.append(AGENT, "out", b"".join(json.dumps(event).encode() + b"\n" for event in events))


def recorded(path):
    name = {"claude-332": "claude-code"}.get(path.parent.name, path.parent.name)
    return resolve_adapter(name, None), path


@pytest.mark.parametrize(
    ("adapter", "path"),
    [
        recorded(SAMPLES / "claude-332" / "streamjson_text.stdout"),
        recorded(SAMPLES / "claude-332" / "streamjson_tool.stdout"),
        *(recorded(path) for path in sorted((SAMPLES / "opencode").glob("*.stdout"))),
    ],
    ids=lambda value: f"{value.parent.name}/{value.stem}" if isinstance(value, Path) else "",
)
def test_a_whole_recording_has_the_figures_that_go_on_record(logs, adapter: Adapter, path):
    usage = parse_recording(adapter, path, 0, datetime(2030, 1, 1, tzinfo=UTC)).usage
    logs.append(AGENT, "out", path.read_bytes())
    counting = counter(logs, adapter.output.streamed)

    counting.count_on()

    assert counting.figures.turns == usage.turns
    assert counting.figures.input_tokens == usage.input_tokens
    assert counting.figures.cached_tokens == usage.cached_tokens
    assert counting.figures.output_tokens in {None, usage.output_tokens}


@pytest.mark.parametrize("size", [1, 7, 100, 4096])
def test_it_is_the_same_however_it_comes_in(logs, size):
    adapter, path = recorded(SAMPLES / "claude-332" / "streamjson_tool.stdout")
    data, counting = path.read_bytes(), counter(logs, adapter.output.streamed)
    for at in range(0, len(data), max(size, len(data) // 200)):
        logs.append(AGENT, "out", data[at : at + max(size, len(data) // 200)])
        counting.count_on()

    again = counter(logs, adapter.output.streamed)
    again.count_on()

    assert counting.figures == again.figures
    assert (again.figures.turns, again.figures.input_tokens) == (2, 243)


def test_what_was_counted_is_found_by_who_looks(logs):
    printed(logs, {"turn": "1", "in": 5, "out": 1}, {"turn": "1", "in": 5, "out": 7}, {"turn": "2", "in": 6})

    counter(logs).count_on()

    figures = logs.figures(RUN, 1)
    assert figures.last_output_at is not None
    assert (figures.turns, figures.input_tokens, figures.output_tokens) == (2, 11, 7)
    assert figures.cached_tokens is None
    assert figures.tokens == 18


def test_a_run_that_printed_nothing_has_no_figures(logs):

    assert logs.figures(RUN, 1) is None


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"\xff", b'{"turns": "many"}', b'{"turns": true}', b"[" * 100_000]
)
def test_damaged_figures_are_not_shown(logs, tmp_path, content):
    printed(logs, {"turn": "1"})
    (tmp_path / AGENT / "figures").write_bytes(content)

    assert logs.figures(RUN, 1) == LiveFigures(last_output_at=logs.figures(RUN, 1).last_output_at)


@pytest.mark.parametrize(
    "event",
    [
        {"turn": None},
        {"turn": ""},
        {"turn": 7},
        {"turn": ["1"]},
        {"turn": "x" * 201},
        {"in": 5},
    ],
)
def test_an_event_without_the_name_of_a_turn_counts_nothing(logs, event):
    printed(logs, event)
    counting = counter(logs)

    counting.count_on()

    assert counting.figures == LiveFigures(turns=0, input_tokens=0, output_tokens=0)


@pytest.mark.parametrize("count", ["many", -5, None, [1], {"a": 1}, True, 1e300])
def test_a_count_that_is_none_is_0(logs, count):
    printed(logs, {"turn": "1", "in": count, "out": 3})
    counting = counter(logs)

    counting.count_on()

    assert counting.figures == LiveFigures(turns=1, input_tokens=0, output_tokens=3)


def test_many_turns_are_all_counted(logs):
    printed(logs, *({"turn": f"{number}", "in": 2, "out": 1} for number in range(2500)))
    counting = counter(logs)

    counting.count_on()

    assert counting.figures == LiveFigures(turns=2500, input_tokens=5000, output_tokens=2500)


def test_a_line_without_an_end_is_passed_over(logs):
    logs.append(AGENT, "out", b"x" * (9 * 2**20))
    counting = counter(logs)

    assert counting.count_on()
    assert not counting.count_on()

    logs.append(AGENT, "out", b"\n")
    printed(logs, {"turn": "1", "in": 2, "out": 1})
    counting.count_on()
    assert counting.figures.turns == 1
