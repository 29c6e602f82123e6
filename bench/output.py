"""
Measure the memory that reading an agent's output takes.

Each output is written to a file, then read and masked in a process of its own,
as at the end of a run: events of 1 KiB as Claude Code and Codex print them, raw
text, one line without an end. What is printed is the peak of the resident
memory above what the process had before, and the seconds of CPU.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

from reconciler import clock
from reconciler.core.masking import Mask
from reconciler.dispatch.output import OutputRequest, RoundOutput, judge_output
from reconciler.specs.layers import resolve_adapter as built_in

SIZES = tuple(int(size) for size in sys.argv[1:] if size.isdigit()) or (64, 512)
"""MiB."""
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


def measure(file: Path, kind: str) -> None:
    """Print what it takes to read an output."""
    adapter = built_in(ADAPTERS.get(kind, kind), None)
    before = peak_kib()
    begun = time.process_time()
    with file.open("rb") as stdout:
        found = judge_output(adapter, RoundOutput(stdout, b"", 0), OutputRequest(), clock.now(), MASK)
    seconds = time.process_time() - begun
    mib = file.stat().st_size / 2**20
    more = (peak_kib() - before) / 1024
    print(f"{kind:<12} {mib:6.0f} MiB  {found.outcome:<8} {more:6.1f} MiB  {seconds:6.1f} s")


def main() -> None:
    """Measure each kind of output at each size."""
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]), sys.argv[3])
        return
    print("output          size        verdict    memory     CPU")
    for kind in (*EVENTS, "raw text", "one line", "long events"):
        for size in SIZES:
            with tempfile.NamedTemporaryFile() as file:
                write(file.file, kind, size)
                file.flush()
                subprocess.run([sys.executable, __file__, "--measure", file.name, kind], check=True)


if __name__ == "__main__":
    main()
