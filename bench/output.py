"""
The peak of memory that reading and masking an agent's output takes, above what the process had before.

Each output is written to a file, then read and masked in a process of its own,
as at the end of a run: events of 1 KiB as Claude Code and Codex print them, raw
text, one line without an end.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from bench.rows import Row, row
from reconciler import clock
from reconciler.core.masking import Mask
from reconciler.dispatch.output import OutputRequest, RoundOutput, judge_output
from reconciler.specs.layers import resolve_adapter as built_in

MASK = Mask(frozenset({f"sk-{number}-aB3xYz9Q7wE5rT1u" for number in range(10)}))
TEXT = "a b c of what the agent has to say, at length. " * 18


def _claude(number: int) -> dict[str, object]:
    part = {"type": "text", "text": f"{number} {TEXT}"}
    return {"type": "assistant", "session_id": "s", "message": {"role": "assistant", "content": [part]}}


def _codex(number: int) -> dict[str, object]:
    item = {"id": f"item_{number}", "type": "agent_message", "text": f"{number} {TEXT}"}
    return {"type": "item.completed", "item": item}


RESULT = {
    "type": "result",
    "subtype": "success",
    "is_error": False,
    "result": "Done.",
    "session_id": "s",
}
LAST = {"claude-code": RESULT, "codex": {"type": "turn.completed", "usage": {"input_tokens": 1}}}
EVENTS = {"claude-code": _claude, "codex": _codex}

ADAPTERS = {"raw text": "script", "one line": "codex", "long events": "claude-code"}


def write(file: BinaryIO, kind: str, size: int) -> None:
    """Write an output of so many MiB."""
    if kind in EVENTS:
        number = 0
        while file.tell() < size * 2**20:
            number += 1
            file.write(json.dumps(EVENTS[kind](number)).encode() + b"\n")
        file.write(json.dumps(LAST[kind]).encode() + b"\n")
        return
    if kind == "long events":
        event = json.dumps({**RESULT, "result": TEXT * (7 * 2**20 // len(TEXT))}).encode() + b"\n"
        file.writelines(event for _ in range(size // 7))
        return
    mebibyte = b"x" * 2**20 if kind == "one line" else (TEXT.encode() + b"\n") * 1200
    file.writelines(mebibyte for _ in range(size))


def peak_kib() -> int:
    """Return the peak of our resident memory; that of getrusage has the parent's in it."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def rows(quick: bool) -> Iterator[Row]:
    for kind in (*EVENTS, "raw text", "one line", "long events"):
        for size in (8,) if quick else (64, 512):
            more, cpu = beside(kind, size)
            yield row(f"{size} MiB of {kind}", "MiB more", [more], aim="≤ 64")
            yield row(f"{size} MiB of {kind}, CPU", "s", [cpu])


def beside(kind: str, size: int) -> tuple[float, float]:
    """Return the MiB and the CPU seconds that reading takes in a process of its own."""
    with tempfile.NamedTemporaryFile() as file:
        write(file.file, kind, size)
        file.flush()
        command = [sys.executable, "-m", "bench.output", file.name, kind]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    more, cpu = json.loads(done.stdout)
    return more, cpu


def measure(file: Path, kind: str) -> tuple[float, float]:
    """Return the MiB more and the CPU seconds that it takes to read an output."""
    adapter = built_in(ADAPTERS.get(kind, kind), None)
    before = peak_kib()
    begun = time.process_time()
    with file.open("rb") as stdout:
        judge_output(adapter, RoundOutput(stdout, b"", 0), OutputRequest(), clock.now(), MASK)
    return (peak_kib() - before) / 1024, time.process_time() - begun


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
