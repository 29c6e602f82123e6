"""
Run the benchmarks: `python -m bench [--quick] [--only NAME] [--json FILE] [--write]`.

Each runs in a process of its own, so that none pays for what another left in
memory, and prints its table when it is done. One that fails or cannot run here
costs no other.
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.registry import BENCHMARKS, about, measure
from bench.report import table
from bench.rows import Row, Skipped
from reconciler import clock

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results.json"
SKIPPED = 75


def main() -> int:
    """Run what was asked for; return the exit code: 1 if a benchmark failed."""
    options = _options()
    if options.child:
        return _child(options.child, Path(options.json), quick=options.quick)
    results, failed = {}, False
    for name in options.only or BENCHMARKS:
        result = _run(name, quick=options.quick)
        failed = failed or result is None
        if result:
            results[name] = result
            sys.stdout.write(f"{table([Row.from_json(each) for each in result['rows']])}\n")
    if options.json:
        _save(Path(options.json), results)
    if options.write:
        before = json.loads(RESULTS.read_text())["benchmarks"] if RESULTS.exists() else {}
        _save(RESULTS, {name: {**before, **results}[name] for name in BENCHMARKS if name in before | results})
        subprocess.run([sys.executable, ROOT / "docs" / "write.py"], check=True)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, about a minute for all")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="run this one; may be repeated")
    parser.add_argument("--json", metavar="FILE", help="write the results to a file")
    parser.add_argument(
        "--write", action="store_true", help="put the results in bench/results.json and docs/performance.md"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write and options.quick:
        parser.error("--write publishes figures, and those of --quick say nothing of large fleets")
    return options


def _run(name: str, *, quick: bool) -> Mapping[str, Any] | None:
    """Run a benchmark in a process of its own; return its result, None if it failed; empty if skipped."""
    load, began = os.getloadavg()[0], time.perf_counter()
    sys.stdout.write(f"{name}: {about(name)}\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "bench",
            "--child",
            name,
            "--json",
            file,
            *(["--quick"] if quick else []),
        ]
        code = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False).returncode
        if code:
            sys.stdout.write(f"  {'skipped' if code == SKIPPED else 'failed'}; see above\n\n")
            return {} if code == SKIPPED else None
        rows = json.loads(file.read_text())
    return {
        "about": about(name),
        "at": f"{clock.now():%Y-%m-%d %H:%M}",
        "seconds": round(time.perf_counter() - began),
        "load": round(load, 1),
        "machine": _machine(),
        "rows": rows,
    }


def _child(name: str, file: Path, *, quick: bool) -> int:
    gc.set_threshold(50_000, 20, 20)  # as every command does
    try:
        rows = measure(name, quick=quick)
    except Skipped as why:
        sys.stderr.write(f"  {why}\n")
        return SKIPPED
    if quick:  # aims are for the sizes of a full run
        rows = [replace(each, aim="") for each in rows]
    file.write_text(json.dumps([each.to_json() for each in rows]))
    return 0


def _save(file: Path, results: Mapping[str, Any]) -> None:
    file.write_text(json.dumps({"benchmarks": results}, indent=1, ensure_ascii=False) + "\n")


def _machine() -> str:
    git = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    system = next(_lines("/etc/os-release", "PRETTY_NAME="), platform.system()).strip('"')
    return f"{os.cpu_count()} cores, {system}, Python {platform.python_version()}, git {git}"


def _lines(file: str, begin: str) -> Iterator[str]:
    text = Path(file).read_text() if Path(file).exists() else ""
    return (line.removeprefix(begin) for line in text.splitlines() if line.startswith(begin))


if __name__ == "__main__":
    sys.exit(main())
