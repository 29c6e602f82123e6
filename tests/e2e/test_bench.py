"""Benchmarks run, and what they measured is told with its aim."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.registry import BENCHMARKS, about
from bench.report import page, table
from bench.rows import Row, row

ROOT = Path(__file__).parents[2]


def bench(*args):
    command = [sys.executable, "-m", "bench", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_quick_run_prints_a_table_and_writes_what_it_found(tmp_path):
    done = bench("--quick", "--only", "specs", "--json", str(tmp_path / "found.json"))

    found = json.loads((tmp_path / "found.json").read_text())["benchmarks"]
    rows = [Row.from_json(each) for each in found["specs"]["rows"]]
    assert (done.returncode, done.stderr) == (0, "")
    assert rows[0].name == "validate 500 files, cold"
    assert rows[0].low <= rows[0].ours <= rows[0].high
    assert table(rows) in done.stdout


def test_figures_of_small_sizes_are_not_published():
    done = bench("--quick", "--write")

    assert done.returncode == 2
    assert "say nothing of large fleets" in done.stderr


def test_every_module_that_measures_is_run_and_says_what_it_is_about():
    modules = [file.stem for file in (ROOT / "bench").glob("*.py") if "def rows(" in file.read_text()]

    assert sorted(modules) == sorted(BENCHMARKS)
    assert all(hasattr(importlib.import_module(f"bench.{name}"), "rows") for name in BENCHMARKS)
    assert [name for name in BENCHMARKS if not about(name).endswith(".")] == []


@pytest.mark.parametrize(
    ("ours", "floor", "aim", "is_met"),
    [
        ([2.0], [1.0], "≤ 2", True),
        ([2.1], [1.0], "≤ 2", False),
        ([1500.0], [], "≥ 1500", True),
        ([1499.0], [], "≥ 1500", False),
        ([9.0], [], "", True),
    ],
)
def test_an_aim_is_of_the_ratio_where_there_is_a_floor(ours, floor, aim, is_met):
    assert row("a", "s", ours, floor, aim=aim).is_met is is_met


def test_a_row_comes_back_from_its_file_as_it_was():
    one = row("a", "ms", [0.001, 0.002, 0.003], [0.001], scale=1000, beside="b", aim="≤ 1", behind="why")

    assert Row.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_what_stays_behind_is_told_with_its_reason():
    missed = row("slow thing", "s", [3.0], [1.0], beside="of the least", aim="≤ 1.5", behind="It is far.")
    result = {"about": "Things.", "at": "today", "machine": "m", "load": 0.1, "rows": [missed.to_json()]}

    text = "".join(page({"things": result}))

    assert "| slow thing | 3 s | 3 x of the least | ≤ 1.5, missed |" in text
    assert text.endswith("## What stays behind\n\n- slow thing: 3, aim ≤ 1.5. It is far.\n")
