"""
What agent CLIs print as events, read by people.
"""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.api.pages.readable import LONGEST, Piece, readable

SAMPLES = Path(__file__).parents[1] / "samples" / "agent-clis"


def pieces(file):
    lines = (SAMPLES / file).read_text().splitlines()
    return [piece for line in lines for piece in readable(line) or ()]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("claude-332/streamjson_tool.stdout", ("tool", "Bash echo hello > hello.txt && cat hello.txt")),
        ("claude-332/streamjson_tool.stdout", ("answer", "hello")),
        ("claude-332/streamjson_tool.stdout", ("say", "Done: the task is finished.")),
        ("claude-332/streamjson_err429.stdout", ("bad", "rate_limit")),
        ("codex-0.171/json_text.stdout", ("say", "Done: the task is finished.")),
        ("gemini/streamjson_err403.stdout", ("meta", "Please do the task.\n")),
    ],
)
def test_recorded_events_are_read_as_what_they_say(file, expected):
    assert Piece(*expected) in pieces(file)


def test_what_is_told_as_it_begins_and_as_it_ends_is_read_once():
    commands = [piece.text for piece in pieces("codex-0.171/json_tool.stdout") if piece.kind == "tool"]

    assert commands == ["$ /bin/bash -lc 'echo hello > hello.txt && cat hello.txt'"]


@pytest.mark.parametrize("file", sorted(SAMPLES.glob("*/*json*.stdout")), ids=str)
def test_every_recorded_event_says_something_short(file):
    for line in file.read_text(errors="replace").splitlines():
        for piece in readable(line) or ():
            assert piece.text.strip()
            assert len(piece.text) < LONGEST + 100


@pytest.mark.parametrize("line", ["", "plain", "{", '{"a": 1}', "[1]", '{"type": 3}', "{" * 5000 + "}"])
def test_what_is_no_event_is_left_as_it_is(line):
    assert readable(line) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "message",
                    "content",
                    "item",
                    "part",
                    "error",
                    "text",
                    "input",
                    "state",
                    "changes",
                    "role",
                ]
            ),
            inner | st.sampled_from(["message", "tool_use", "tool_result", "text", "result", "file_change"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(VALUES)
def test_no_event_however_odd_breaks_the_page(value):
    line = json.dumps({"type": "assistant", "message": value, "item": value, "error": value})

    assert all(isinstance(piece.text, str) for piece in readable(line) or ())
