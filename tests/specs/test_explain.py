"""Every field of a task, its value, and the line that says so."""

import pytest

from reconciler.core.errors import NotFound, SpecError
from reconciler.core.model.specs import TaskSpec
from reconciler.specs.explain import explain_fields
from reconciler.specs.parse import File

FILES = {
    "specs/tasks/web/login.yaml": """\
# first
goal: |
  Log: in.
  Now.
repo: shop
env: {PAGE: '1'}
priority: 5
""",
    "specs/repos/shop.yaml": """\
url: /shop
adapter: codex
env:
  PAGE: '0'
  LANG: C
budget:
  tokens: 9
""",
    "specs/fleet.yaml": "timeout: 90m\npriority: 1\nbudget: {cost_usd: 2}\n",
    "specs/tasks/bad.yaml": "gaol: x\n",
    "specs/tasks/lone.yaml": "goal: x\nscript: 'echo \"hi\"'\n",
}


def files():
    return {
        path: File("100644", str(number), text.encode()) for number, (path, text) in enumerate(FILES.items())
    }


def test_each_field_names_the_line_it_comes_from():
    found = {row.field: (row.value, row.origin) for row in explain_fields(files(), "web/login")}

    assert found["goal"] == ('"Log: in.\\nNow.\\n"', "specs/tasks/web/login.yaml:2")
    assert found["priority"] == ("5", "specs/tasks/web/login.yaml:7")
    assert found["adapter"] == ("codex", "specs/repos/shop.yaml:2")
    assert found["timeout"] == ("1h30m", "specs/fleet.yaml:1")
    assert found["retries"] == ("1", "default")
    assert found["title"] == ('"Log: in."', "default")
    assert found["branch_name"] == ("task/web/login", "default")


def test_keys_of_mappings_have_origins_of_their_own():
    found = {row.field: (row.value, row.origin) for row in explain_fields(files(), "web/login")}

    assert found["env.PAGE"] == ('"1"', "specs/tasks/web/login.yaml:6")
    assert found["env.LANG"] == ("C", "specs/repos/shop.yaml:5")
    assert found["budget.tokens"] == ("9", "specs/repos/shop.yaml:7")
    assert found["budget.cost_usd"] == ("2.0", "specs/fleet.yaml:3")


def test_no_field_is_left_out():
    found = [row.field.partition(".")[0] for row in explain_fields(files(), "lone")]

    assert sorted(set(found)) == sorted(TaskSpec.model_fields)
    assert found[0] == "goal"


def test_a_task_that_is_not_there_is_not_found():
    with pytest.raises(NotFound, match=r"no task 'web/logn' \(did you mean 'web/login'\?\)"):
        explain_fields(files(), "web/logn")


def test_a_broken_task_is_told_of():
    with pytest.raises(SpecError, match=r"specs/tasks/bad\.yaml:1:1: error: gaol: unknown field"):
        explain_fields(files(), "bad")
