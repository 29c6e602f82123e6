"""
Records the real CLIs in every scenario, and prints the matrix: `python -m tests.agents.record FOLDER`.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import click

from tests.agents.agent import Agent, at_work
from tests.agents.clis import CLIS, INSTALLED
from tests.agents.scenarios import SCENARIOS


def record(name: str, scenario: str, folder: Path) -> str:
    """Write what a CLI prints in a scenario, scrubbed of this machine; return the verdict in words."""
    with tempfile.TemporaryDirectory(prefix="agent-") as place, at_work(name, Path(place)) as agent:
        began = time.monotonic()
        try:
            verdict = SCENARIOS[scenario](agent)
            said = f"{verdict.outcome if verdict.kind is None else verdict.kind}"
            why = verdict.message or verdict.text
        except AssertionError as error:
            said, why = "not so", str(error) or "assertion"
        except Exception as error:  # noqa: BLE001 - the next one is tried still
            said, why = "broke", repr(error)
        took = time.monotonic() - began
        _keep(agent, folder / name, scenario)
    click.echo(f"{name:<12} {scenario:<8} {took:5.1f} s  {said:<8} {why[:150]!r}")
    return said


def _keep(agent: Agent, folder: Path, scenario: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stream, ending in (("out", "stdout"), ("err", "stderr")):
        path = agent.home / stream
        data = scrubbed(agent, path.read_text("utf-8", "replace")) if path.exists() else ""
        (folder / f"{scenario}.{ending}").unlink(missing_ok=True)
        if data or ending == "stdout":
            (folder / f"{scenario}.{ending}").write_text(data)
    (folder / f"{scenario}.rc").write_text(f"{agent.exit_code}\n")


def scrubbed(agent: Agent, text: str) -> str:
    """Return an output without the paths and the ports of this machine, and without the CLI's own prompt."""
    places = {
        str(agent.workspace): "/home/agent/work",
        str(agent.home): "/home/agent",
        agent.address: "http://127.0.0.1:8000",
        agent.address.removeprefix("http://"): "127.0.0.1:8000",
        str(INSTALLED.parent): "/usr/lib/node_modules",
    }
    for place, instead in places.items():
        text = text.replace(place, instead)
    text = re.sub(r"agent-[a-z0-9_]{8}", "agent", text)
    return "\n".join(_without_prompt(line) for line in text.split("\n"))


def _without_prompt(line: str) -> str:
    if '"role":"system"' not in line:
        return line
    return json.dumps(_cut(json.loads(line)), separators=(",", ":"), ensure_ascii=False)


def _cut(value: object) -> object:
    if isinstance(value, list):
        return [_cut(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.get("role") == "system":
        return {"role": "system", "content": ""}
    return {name: _cut(each) for name, each in value.items()}


def main(argv: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cli", action="append", choices=list(CLIS))
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS))
    options = parser.parse_args(list(argv) if argv is not None else None)
    names = [name for name in options.cli or CLIS if CLIS[name].path]
    scenarios = options.scenario or list(SCENARIOS)
    rows = []
    for name in names:
        cells = [record(name, each, options.folder) if CLIS[name].has(each) else "-" for each in scenarios]
        rows.append([name, *cells])
    for row in [["", *scenarios], *rows]:
        click.echo(" ".join(f"{cell:<12}" for cell in row).rstrip())


if __name__ == "__main__":
    sys.exit(main())
