"""
What it all took, from the history of the record alone.
"""

import json
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.cli.cost import cost_document, sums_by_name, total
from reconciler.core.adapter import Usage
from reconciler.store.spending import Spending

NOW = datetime(2030, 1, 1, 23, 30, tzinfo=UTC)
COUNTING = """\
command: [sh, -c, 'echo "{\\"in\\": 1000, \\"out\\": 50, \\"usd\\": 0.25}"']
output:
  format: json_lines
  text: "'done'"
  input_tokens: "[-1].in"
  output_tokens: "[-1].out"
  cost_usd: "[-1].usd"
"""


def spent(task, usd, *, days=0, host="h1", **fields):
    known = {"repo": None, "adapter": "codex", "model": None, **fields}
    return Spending(
        at=NOW + timedelta(days=days), task=task, host=host, usage=Usage(cost_usd=usd, turns=1), **known
    )


# --- Summing up ------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "sums"),
    [
        ("task", {"b": 1.5, "a": 0.75}),
        ("repo", {"-": 1.75, "web": 0.5}),
        ("adapter", {"codex": 2.25}),
        ("host", {"h2": 1.5, "h1": 0.75}),
        ("day", {"2030-01-01": 0.25, "2030-01-02": 2.0}),
        ("model", {"gpt-5": 1.5, "-": 0.75}),
    ],
)
def test_sums_are_made_by_whatever_is_asked_for(by, sums):
    rounds = [
        spent("a", 0.5, days=1, repo="web"),
        spent("b", 1.5, days=1, host="h2", model="gpt-5"),
        spent("a", 0.25),
    ]

    found = sums_by_name(rounds, by)

    assert list(found) == list(sums)
    assert {name: usage.cost_usd for name, usage in found.items()} == sums
    assert total(found) == Usage(cost_usd=2.25, turns=3)


def test_what_costs_no_money_is_ordered_by_its_tokens():
    rounds = [
        Spending(NOW, task, None, None, None, None, Usage(output_tokens=tokens))
        for task, tokens in (("small", 1), ("large", 100), ("also-small", 1))
    ]

    assert list(sums_by_name(rounds, "task")) == ["large", "also-small", "small"]


def test_the_shape_of_the_document_is_a_promise():
    document = cost_document(sums_by_name([spent("a", 0.5)], "repo"), "repo", NOW)

    assert json.loads(json.dumps(document)) == document
    assert list(document) == ["by", "since", "sums", "total"]
    assert document["since"] == "2030-01-01T23:30:00Z"
    fields = ["input_tokens", "output_tokens", "cached_tokens", "cost_usd", "reckoned_usd", "unpriced_tokens"]
    fields += ["turns", "seconds"]
    assert list(document["sums"][0]) == ["repo", *fields, "wins", "tries"]
    assert document["sums"][0]["repo"] is None
    assert list(document["total"]) == fields


# --- The command -----------------------------------------------------------


@pytest.fixture
def paid(fleet):
    """Return a fleet whose one task was carried out by an agent that says what it took."""
    fleet.write("specs/adapters/counting.yaml", COUNTING)
    fleet.write("specs/tasks/hello.yaml", "goal: Say hello.\nadapter: counting\nmodel: small\n")
    fleet.commit("Pay for it")
    fleet.reconcile()
    return fleet


def test_a_task_that_was_removed_still_costs_what_it_cost(paid):
    before = paid.run("cost").stdout
    paid.git("rm", "-q", "specs/tasks/hello.yaml")
    paid.write("specs/tasks/other.yaml", "goal: Rest.\nscript: 'true'\ndesired: suspended\n")
    paid.commit("Forget it")
    paid.reconcile()

    after = paid.run("cost").stdout

    assert "hello" not in paid.run("get", "tasks").stdout
    assert after == before
    assert after.splitlines()[1].split()[:5] == ["hello", "1000", "50", "0", "0"]
    assert after.splitlines()[-1].split()[0] == "total"
    assert after.splitlines()[-1].split()[-1] == "0.25"


def test_it_is_told_by_model_and_host_as_json(paid):
    by_model = json.loads(paid.run("cost", "--by", "model", "-o", "json").stdout)
    by_host = json.loads(paid.run("cost", "--by", "host", "--since", "1d", "-o", "json").stdout)

    assert [(each["model"], each["cost_usd"]) for each in by_model["sums"]] == [("small", 0.25)]
    assert [each["host"] for each in by_host["sums"]] == ["local"]
    assert by_model["total"] == by_host["total"]


def test_tokens_of_a_cli_that_reports_no_money_are_priced_and_stop_a_task_at_its_budget(fleet):
    fleet.write("specs/adapters/counting.yaml", COUNTING.replace('  cost_usd: "[-1].usd"\n', ""))
    fleet.write("specs/prices.yaml", "models: {small: {input: 1000, output: 2000}}\n")
    task = "goal: Say hello.\nadapter: counting\nvalidation: 'false'\nbudget: {cost_usd: 1}\n"
    fleet.write("specs/tasks/priced.yaml", task + "model: small-2030-01-01\n")
    fleet.write("specs/tasks/unpriced.yaml", task + "model: new\nfix_attempts: 0\nretries: 0\n")
    warned = fleet.run("validate").stdout
    fleet.commit("Pay for it")
    fleet.run("run", "--until-idle")

    assert "unpriced.yaml:5:8: warning: model: model 'new' has no price" in warned
    assert "priced.yaml:5:8" not in warned.replace("unpriced.yaml", "")
    by_task = fleet.run("cost").stdout.splitlines()
    assert by_task[0].split()[-3:] == ["USD", "RECKONED", "UNPRICED"]
    assert by_task[1].split()[0] == "priced"
    assert by_task[1].split()[-3:] == ["1.10", "1.10", "0"]
    assert by_task[2].split()[-3:] == ["0.00", "0.00", "1050"]
    assert "budget spent: 1.1 of 1 US dollars" in fleet.run("describe", "task/priced").stdout
    assert "1.10 USD (reckoned: 1.10)" in fleet.run("describe", "task/priced").stdout
    assert "0.00 USD and 1,050 tokens without a price" in fleet.run("describe", "task/unpriced").stdout
    assert "1050 tokens of model new have no price" in fleet.run("history", "unpriced").stdout


def test_where_nothing_was_spent_there_is_nothing_to_show(fleet):
    done = fleet.run("cost")

    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "nothing to show\n")


def test_a_time_span_without_a_unit_is_refused(fleet):
    done = fleet.run("cost", "--since", "7")

    assert done.exit_code == 64
    assert 'expected a duration such as "90s"' in done.stderr
