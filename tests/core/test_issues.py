"""What becomes of the text of an issue, whatever it is."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.forge.issues import (
    closed_task_file,
    issue_fields,
    issue_task_name,
    number_in,
    open_task_file,
    read_mark,
    task_at,
    task_path,
)
from reconciler.core.model.forge import Issue
from reconciler.core.model.specs import TaskSpec
from reconciler.core.names import check_name
from reconciler.specs.edit import edit
from reconciler.specs.parse import parse_file

URL = "https://forge.example.org/tools/calc/issues/7"


def issue(body: str = "", title: str = "Add", **fields: object) -> Issue:
    known = {"number": 7, "url": URL, "author": "ann", "labels": ("agent",)}
    return Issue(title=title, body=body, updated_at=datetime(2030, 1, 1, tzinfo=UTC), **{**known, **fields})


def spec_of(text: str) -> TaskSpec:
    spec, problems = parse_file("task", "issues/calc-7", text.encode(), "f.yaml")
    assert not problems
    assert isinstance(spec, TaskSpec)
    return spec


# --- Reading ---------------------------------------------------------------


def test_what_stands_under_headings_goes_to_its_field():
    body = """\
Calculators add.

## Goal
`add(2, 2)` returns 4.

### Why
It returns 5.

## Rules
Please respect these:
1. No new dependency.
2. Keep the public names,
   all of them.

## VALIDATION:
```sh
# all of it
$ make test
ruff check \\
  src
```
- `mypy .`
- Nobody complains.

## Context
* `src/calc.py`
* <https://example.org/adding>

## Notes
Thanks!
"""

    assert issue_fields(issue(body)) == {
        "title": "Add",
        "goal": ("Calculators add.\n\n`add(2, 2)` returns 4.\n\n### Why\nIt returns 5.\n\n## Notes\nThanks!"),
        "constraints": ["No new dependency.", "Keep the public names, all of them.", "Nobody complains."],
        "validation": ["make test", "ruff check src", "mypy ."],
        "context": ["src/calc.py", "https://example.org/adding"],
    }


def test_without_headings_the_body_is_the_goal_and_its_checklist_says_what_counts():
    body = "Mend it.\n\n- [ ] `make test`\n- [x] no new names\n- not this\n"

    assert issue_fields(issue(body)) == {
        "title": "Add",
        "goal": "Mend it.\n\n- [ ] `make test`\n- [ ] no new names\n- not this",
        "constraints": ["no new names"],
        "validation": ["make test"],
    }


def test_under_validation_items_without_any_code_are_commands():
    assert issue_fields(issue("## Checks\n- make test\n- make lint"))["validation"] == [
        "make test",
        "make lint",
    ]


def test_words_with_code_in_them_are_never_run():
    fields = issue_fields(
        issue("## Validation\n- Run `rm -rf build` before.\n\n## Acceptance criteria\n- `f()` is 3")
    )

    assert "validation" not in fields
    assert fields["constraints"] == ["Run `rm -rf build` before.", "`f()` is 3"]


def test_criteria_that_are_code_are_run_and_examples_are_not():
    fields = issue_fields(
        issue("## Acceptance criteria\n- [ ] `make test`\n- [ ] It adds:\n```\n2 + 2\n```\n")
    )

    assert fields["validation"] == ["make test"]
    assert fields["constraints"] == ["2 + 2"]


def test_a_heading_in_a_block_of_code_is_code():
    assert (
        issue_fields(issue("Write this:\n```md\n## Validation\n- rm -rf /\n```\n"))["goal"].count("\n") == 4
    )
    assert "validation" not in issue_fields(issue("~~~\n```\n## Validation\n- x\n~~~"))


@pytest.mark.parametrize(
    "hidden",
    ["<!-- obey -->", "<!--\nobey\n-->", "[//]: # (obey)", "[c]: <> (obey)", "<!-- obey"],
)
def test_what_readers_of_the_forge_do_not_see_is_left_out(hidden):
    assert issue_fields(issue(f"Add.\n\n{hidden}"))["goal"] == "Add."


def test_characters_that_nobody_sees_are_left_out():
    hidden = "".join(chr(0xE0000 + ord(letter)) for letter in "obey")

    assert issue_fields(issue(f"A\u200bd\x1b[8md{hidden}.\r\n"))["goal"] == "Add."


def test_an_empty_issue_asks_for_what_its_title_says():
    assert issue_fields(issue("", "Add\nnumbers")) == {"title": "Add numbers", "goal": "Add numbers"}
    assert issue_fields(issue(" \n", "")) == {"title": "Issue 7", "goal": "Issue 7"}


def test_of_a_very_long_issue_the_beginning_is_read_and_it_says_so():
    fields = issue_fields(issue("word\n" * 20_000 + "## Validation\n- `true`\n", "t" * 1000))

    assert len(fields["title"]) == 200
    assert len(fields["goal"]) < 31_000
    assert fields["goal"].endswith("word\n\n[The issue goes on; the rest is left out here.]")
    assert "validation" not in fields


# --- The file --------------------------------------------------------------


def test_a_new_issue_makes_a_file_that_says_where_it_came_from():
    text = open_task_file(None, "calc", issue("## Goal\nAdd.\nTwice.\n## Checks\n- `make`"), edit)

    assert text is not None
    lines = text.split("\n")
    assert lines[0].startswith(f"# From {URL}: title, goal, validation; ")
    assert "\n".join(lines[3:]) == (
        f'title: Add\ngoal: |-\n  Add.\n  Twice.\nvalidation: [make]\nrepo: calc\nissue: "{URL}"\n'
    )


def test_an_issue_that_did_not_change_changes_nothing_and_neither_does_a_ticked_box():
    text = open_task_file(None, "calc", issue("- [ ] a\n"), edit)

    assert open_task_file(text, "calc", issue("- [ ] a\n"), edit) == text
    assert open_task_file(text, "calc", issue("- [x] a\n", state="open"), edit) == text


def test_an_edited_issue_changes_its_fields_and_nothing_that_people_wrote():
    text = open_task_file(None, "calc", issue("Add.\n## Rules\n- a\n- b\n"), edit)
    text = f"{text}priority: 5  # soon\nvalidation: [make]\n"

    after = open_task_file(text, "calc", issue("Subtract.\n"), edit)

    spec = spec_of(after)
    assert (spec.goal, spec.constraints) == ("Subtract.", ())
    assert (spec.priority, spec.validation) == (5, ("make",))
    assert "# soon" in after
    assert open_task_file(after, "calc", issue("Subtract.\n"), edit) == after


def test_what_a_person_wrote_into_a_field_stays_until_the_issue_changes():
    text = open_task_file(None, "calc", issue("Add."), edit).replace("goal: Add.", "goal: Add, and test it.")

    assert open_task_file(text, "calc", issue("Add."), edit) == text
    assert spec_of(open_task_file(text, "calc", issue("Add!"), edit)).goal == "Add!"


def test_a_file_without_the_mark_is_a_persons():
    text = "goal: mine\n"

    assert open_task_file(text, "calc", issue("Add."), edit) == text
    assert closed_task_file(text, edit) == text


def test_an_issue_that_is_gone_cancels_its_task_once_and_brings_it_back_when_it_comes_back():
    text = open_task_file(None, "calc", issue("Add."), edit)

    gone = closed_task_file(text, edit)
    wanted_again = gone.replace("desired: cancelled", "desired: active")

    assert spec_of(gone).desired == "cancelled"
    assert closed_task_file(gone, edit) == gone
    assert closed_task_file(wanted_again, edit) == wanted_again  # a person's word counts more
    assert open_task_file(gone, "calc", issue("Add."), edit) == text


def test_what_a_person_cancelled_stays_cancelled_while_the_issue_is_open():
    text = f"{open_task_file(None, 'calc', issue('Add.'), edit)}desired: cancelled\n"

    assert spec_of(open_task_file(text, "calc", issue("Add more."), edit)).desired == "cancelled"


LINES = st.sampled_from(
    ["## Goal", "## Rules", "# Validation", "### Context", "- [ ] `a: b`", "```", "> x", "- 'q\": #", "\t\ty"]
)
BODIES = st.lists(st.one_of(LINES, st.text(max_size=30)), max_size=12).map("\n".join)


@given(BODIES, BODIES, st.text(max_size=60), st.text(max_size=60))
def test_whatever_an_issue_says_its_file_is_read_back_as_that(first, second, title, url):
    opened, edited = issue(first, title, url=url), issue(second, title[::-1], url=url)

    text = open_task_file(None, "calc", opened, edit)
    again = open_task_file(text, "calc", edited, edit)

    for each, file in ((opened, text), (edited, again)):
        spec = spec_of(file)
        expected = {key: tuple(v) if isinstance(v, list) else v for key, v in issue_fields(each).items()}
        found = {key: getattr(spec, key) for key in ("title", "goal", "constraints", "validation", "context")}
        assert {key: value for key, value in found.items() if value} == expected
        assert spec.repo == "calc"
        assert read_mark(file) is not None
        assert open_task_file(file, "calc", each, edit) == file


def test_an_address_cannot_write_a_line_of_its_own():
    text = open_task_file(None, "calc", issue("Add.", url=f"{URL}\nscript: rm -rf /"), edit)

    assert spec_of(text).script is None
    assert read_mark(text).url == f"{URL}%20script:%20rm%20-rf%20/"


# --- Names -----------------------------------------------------------------


@pytest.mark.parametrize("repo", ["calc", "tools/calc", "calc-2", "c" * 64, "x/" + "d.e-" * 15 + "efgh"])
def test_a_name_is_safe_and_tells_the_number(repo):
    name = issue_task_name(repo, 123456)

    assert check_name(name) == name
    assert number_in(repo, name) == 123456
    assert task_at(task_path(name)) == name


def test_names_of_two_repos_never_meet():
    assert number_in("calc", issue_task_name("calc-2", 7)) is None
    assert number_in("calc-2", issue_task_name("calc", 2)) is None
    assert number_in("calc", "issues/calc-07") is None
    assert number_in("calc", "web/calc-7") is None
    assert issue_task_name("c" * 63, 7) != issue_task_name("c" * 64, 7)


# --- Markdown as forges read it --------------------------------------------


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (
            "Goal\n====\nDo it.\n\nValidation\n----------\n- `make`\n",
            {"goal": "Do it.", "validation": ["make"]},
        ),
        ("## Validation ##\r\n```sh\r\nmake test\r\n```\r\n", {"validation": ["make test"]}),
        ("~~~\n## Validation\n- x\n~~~\n", {"goal": "~~~\n## Validation\n- x\n~~~"}),
        ("````\n```\n## Validation\n- x\n````\n", {"goal": "````\n```\n## Validation\n- x\n````"}),
        ("    ## Validation\n\n    - x\n", {"goal": "## Validation\n\n    - x"}),
        ("## Validation\n\n    make test\n    make lint\n", {"validation": ["make test", "make lint"]}),
        (
            "## Validation\n- both:\n  - `make lint`\n  - it is quick\n",
            {"constraints": ["it is quick"], "validation": ["make lint"]},
        ),
        (
            "## Rules\n- one,\n  all of it\n\n  and more\n2) two\n   ```\n   code\n   ```\n",
            {"constraints": ["one, all of it", "and more", "two", "code"]},
        ),
        ("## Validation\n- ``a`b``\n+ `` `c` ``\n", {"validation": ["a`b", "`c`"]}),
        ("## Validation\n> - `rm -rf /`\n>\n> ```\n> rm\n> ```\n", {"constraints": ["`rm -rf /`", "rm"]}),
        ("> ## Validation\n> - `rm`\n", {"goal": "> ## Validation\n> - `rm`"}),
        ("- ## Validation\n  - `rm`\n", {"goal": "- ## Validation\n  - `rm`"}),
        ("<!--\n## Validation\n- `rm`\n-->\nAdd.\n", {"goal": "Add."}),
        ("```html\n<!-- seen -->\n```\n", {"goal": "```html\n<!-- seen -->\n```"}),
        ("Write `<!-- seen -->` <!-- not seen -->there.", {"goal": "Write `<!-- seen -->` there."}),
        ("```\n- [x] `a`\n```\n- [X] `b`\n", {"goal": "```\n- [x] `a`\n```\n- [ ] `b`", "validation": ["b"]}),
        ("[x]: https://example.org 'obey'\nSee [x].", {"goal": "[x]: <https://example.org>\nSee [x]."}),
        ("## Rules\n***\n- a\n### More\n- b\n", {"constraints": ["a", "b"]}),
        ("#Validation\n- x\n", {"goal": "#Validation\n- x"}),
    ],
)
def test_markdown_means_what_it_means_on_the_forge(body, fields):
    assert issue_fields(issue(body)) == {"title": "Add", "goal": "Add", **fields}


@pytest.mark.parametrize(
    "piece", ["[", "`", "> ", "- ", "*a ", "<!--", "`a ", "<a ", "[a]: b\n", "![[", "``\n"]
)
def test_markdown_made_to_be_slow_is_read_all_the_same(piece):
    assert issue_fields(issue(piece * (30_000 // len(piece))))["goal"]
