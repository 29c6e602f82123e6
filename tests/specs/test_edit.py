"""Edits leave every other byte alone, or are refused."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reconciler.core.errors import SpecError
from reconciler.specs import yaml
from reconciler.specs.edit import edit

TASK = """\
# yaml-language-server: $schema=x
# Fixed by hand, é
goal: |
  Log in.

  # part of the goal
desired: active  # since May
validation:      # in this order
  - make test    # slow
  - 'make lint'

rerun: "0"
# the end
"""


def test_a_value_is_replaced_where_it_stands():
    assert edit(TASK, {"desired": "suspended"}) == TASK.replace("desired: active ", "desired: suspended ")


def test_a_new_key_goes_to_the_end():
    assert edit(TASK, {"priority": 3}) == TASK + "priority: 3\n"


def test_a_removed_key_takes_its_lines_with_it():
    assert edit(TASK, {"desired": None}) == TASK.replace("desired: active  # since May\n", "")


def test_several_changes_are_one_edit():
    edited = edit(TASK, {"rerun": 1, "desired": None, "cordon": True})

    assert edited == TASK.replace("desired: active  # since May\n", "").replace('"0"', "1") + "cordon: true\n"


def test_a_list_takes_the_place_of_a_list():
    edited = edit("labels:\n  - a\n  - b\n# c\nslots: 1\n", {"labels": ["x", "y: z"]})

    assert edited == 'labels: [x, "y: z"]\n# c\nslots: 1\n'


def test_a_text_of_several_lines_and_a_long_list_stand_as_a_person_would_write_them():
    goal, rules = (
        "Log in.\n\n  - at once: #1\nand stay",
        ["Touch nothing below vendor/.", "Say why, in a comment: # so"],
    )

    edited = edit("goal: old\n# tail\n", {"goal": goal, "constraints": rules})

    assert edited == (
        "goal: |-\n  Log in.\n\n    - at once: #1\n  and stay\n# tail\n"
        'constraints:\n  - Touch nothing below vendor/.\n  - "Say why, in a comment: # so"\n'
    )
    assert edit(edited, {"goal": "new"}).startswith("goal: new\n# tail\nconstraints:")


@pytest.mark.parametrize(
    "text", [" a\nb", "\n a\nb", "a\n", "a\n\n", "\n", "a\r\nb", "a\n\tb\n ", "---\n...\na", "a\u2028\nb"]
)
@pytest.mark.parametrize(
    "file", ["", "goal: |\n  x\n", "goal: x # c\na: 1\n", "a: |+\n  b\n\n", "{a: 1}", "a: 1\r\n"]
)
def test_a_text_of_several_lines_is_read_back_as_it_was(file, text):
    value, problems = yaml.load_yaml(edit(file, {"goal": text}).encode(), "f")

    assert not problems
    assert value["goal"] == text


def test_a_text_takes_the_place_of_a_block():
    assert edit(TASK, {"goal": "short"}).startswith(
        "# yaml-language-server: $schema=x\n# Fixed by hand, é\ngoal: short\ndesired:"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "rerun: 1\n"),
        ("# nothing\n", "# nothing\nrerun: 1\n"),
        ("goal: x", "goal: x\nrerun: 1\n"),
        ("goal: x\r\n", "goal: x\r\nrerun: 1\r\n"),
        ("goal: |\n  x", "rerun: 1\ngoal: |\n  x"),
        ("--- # c\ngoal: x\n...\n", "--- # c\nrerun: 1\ngoal: x\n...\n"),
        ("  goal: x\n", "  goal: x\n  rerun: 1\n"),
        ("{goal: x} # c\n", "{goal: x, rerun: 1} # c\n"),
        ("rerun:\ngoal: x\n", "rerun: 1\ngoal: x\n"),
        ('"rerun" : 7 # c\n', '"rerun" : 1 # c\n'),
        ("rerun: # c\n  7\n", "rerun: # c\n  1\n"),
        ("\ufeffrerun: 0\n", "\ufeffrerun: 1\n"),
        ("rerun: {a: [b,\n c]} # d\ngoal: x\n", "rerun: 1 # d\ngoal: x\n"),
    ],
)
def test_files_of_all_looks_take_the_edit(text, expected):
    assert edit(text, {"rerun": 1}) == expected


@pytest.mark.parametrize("changes", [{}, {"desired": "active"}, {"missing": None}, {"rerun": "0"}])
def test_an_edit_that_changes_nothing_changes_no_byte(changes):
    assert edit(TASK, changes) == TASK


def test_a_value_that_others_refer_to_stays_with_them():
    assert yaml.load_yaml(edit("goal: &g x\ntitle: *g\n", {"goal": "y"}).encode(), "")[0] == {
        "goal": "y",
        "title": "x",
    }


def test_a_key_between_braces_is_removed():
    # The comment keeps its column, not its distance.
    assert edit("{goal: x, rerun: 1} # c\n", {"rerun": None}).split() == ["{goal:", "x}", "#", "c"]


def test_a_value_that_no_yaml_can_hold_is_refused():
    with pytest.raises(SpecError, match=r"^x:1:1: error: cannot set a without touching other fields"):
        edit("a: 1\n", {"a": "\0"}, path="x")


@pytest.mark.parametrize("text", ["- a\n", "a: [", "a: 1\na: 2\n", "1: 2\n"])
def test_what_cannot_be_read_cannot_be_edited(text):
    with pytest.raises(SpecError, match=r"^specs/x\.yaml:\d+:\d+: error: "):
        edit(text, {"a": 3}, path="specs/x.yaml")


COMMENTS = st.sampled_from(["", "  # why", "   # é: [", " #"])
VALUES = st.sampled_from(
    [
        "x",
        "'y z'",
        '"q"',
        "12",
        "[a, b]",
        "{c: d}",
        "|\n  text\n  more",
        ">-\n  folded",
        "\n  - i # j\n  - k",
        "\n  l: m",
    ]
)
KEYS = st.sampled_from(["goal", "desired", "rerun", '"title"', "labels"])
NEW = st.sampled_from(
    ["suspended", "yes: no", 3, True, 1.5, ["a", "b"], "multi\nline", "", "null", "#", None]
)


@st.composite
def documents(draw):
    lines = []
    for key in draw(st.lists(KEYS, unique=True, max_size=5)):
        value = draw(VALUES)
        comment = draw(COMMENTS) if "\n" not in value else ""
        lines += draw(st.sampled_from([[], ["# above"], [""]]))
        lines.append(f"{key}: {value}{comment}")
    return "\n".join(lines) + draw(st.sampled_from(["", "\n", "\n\n# end\n"]))


@given(text=documents(), changes=st.dictionaries(st.sampled_from(["goal", "rerun", "title", "new"]), NEW))
def test_only_what_was_named_changes_and_every_other_comment_stays(text, changes):
    before, problems = yaml.load_yaml(text.encode(), "")
    assume(not problems)

    edited = edit(text, changes)

    after, problems = yaml.load_yaml(edited.encode(), "")
    assert problems == []
    wanted = {
        key: value for key, value in {**(before or {}), **changes}.items() if changes.get(key, 0) is not None
    }
    assert {key: yaml.flow_scalar(value) for key, value in (after or {}).items()} == {
        key: yaml.flow_scalar(value) for key, value in wanted.items()
    }
    kept = [line for line in text.splitlines() if line.startswith("#")]
    assert [line for line in edited.splitlines() if line.startswith("#")] == kept
