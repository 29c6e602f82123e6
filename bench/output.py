"""
The peak of memory and the CPU that reading an agent's output takes, whatever its shape.

Each output repeats one piece up to its size, with a result at its end. It is
written to a file, and judged in a process of its own, as at the end of a run;
the validation's is read for what a failed command printed. Memory is the peak
above what the process had before.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from bench.rows import Row, row
from reconciler import clock
from reconciler.core.masking import Mask
from reconciler.dispatch.output import OutputRequest, RoundOutput, judge_output
from reconciler.dispatch.validation import read_checks
from reconciler.specs.layers import resolve_adapter as built_in

MASK = Mask(frozenset({f"sk-{number}-aB3xYz9Q7wE5rT1u" for number in range(10)}))
TEXT = "a b c of what the agent has to say, at length. " * 18
RESULT = {"type": "result", "subtype": "success", "is_error": False, "result": "Done.", "session_id": "s"}
SAID = {"type": "assistant", "session_id": "s", "message": {"content": [{"type": "text", "text": TEXT}]}}
LAST = json.dumps(RESULT) + "\n"
SHAPES = {
    "events of 1 KiB": json.dumps(SAID) + "\n",
    "events of Codex": json.dumps({"type": "item.completed", "item": {"id": "1", "text": TEXT}}) + "\n",
    "events of 7 MiB": json.dumps({**RESULT, "result": TEXT * (7 * 2**20 // len(TEXT))}) + "\n",
    "tiny events": '{"type":"x"}\n',
    "nothing but results": LAST,
    "pretty-printed events": json.dumps(SAID | {"message": {"content": [{"text": "Yes."}]}}, indent=2) + "\n",
    "pretty-printed array": "",
    "array on one line": "",
    "prose": TEXT + "\n",
    "short lines": "x\n",
    "one line": "x" * 2**20,
    "binary": "",
    "progress with \\r": "\x1b[2K\rDownloading \x1b[32m{55%}\x1b[0m",
    "progress with colours": "\x1b[2K\rDownloading \x1b[32m{55%}\x1b[0m\n",
    "like JSON": '{"type":"x", not json}\n',
    "like the result": '{"type":"result", not json}\n',
    "open braces": '{"type":"x",\n',
    "open brackets": "[{[{[{\n",
    "quoted events": 'see {"type":"result"} there\n',
}
ADAPTERS = {"events of Codex": "codex", "prose": "script", "one line": "codex"}
BESIDE = ("stderr", "validation")
"""Prose there, and nothing but a result on stdout."""


class Cost(NamedTuple):
    """What reading an output took."""

    cpu: float
    """Seconds for each MiB."""
    memory: float
    """MiB."""


def pieces(shape: str) -> Iterator[bytes]:
    """Yield an output without end, in pieces."""
    if shape.endswith("array") or shape.startswith("array"):
        indent = 2 if "pretty" in shape else None
        begin, end = ("[\n  ", ",\n  ") if indent else ("[", ", ")
        event = json.dumps(SAID | {"message": {"content": [{"text": "Yes."}]}}, indent=indent)
        yield (begin + event.replace("\n", "\n  ")).encode()
        piece = (end + event.replace("\n", "\n  ")).encode() * 1000
    elif shape == "binary":
        while True:
            yield os.urandom(2**20)
    else:
        unit = SHAPES.get(shape, SHAPES["prose"]).encode()
        piece = unit * max(1, 2**20 // len(unit))
    while True:
        yield piece


def write(file: IO[bytes], shape: str, size: int) -> None:
    """Write an output of so many MiB, and a result."""
    for piece in pieces(shape):
        file.write(piece)
        if file.tell() >= size * 2**20:
            break
    if "array" in shape:
        separator = b",\n" if "pretty" in shape else b","
        file.write(separator + LAST.strip().encode() + separator[1:] + b"]\n")
    else:
        file.write(b"\n" + LAST.encode())


def resident_kib(kind: str) -> int:
    """Return our resident memory, `VmRSS`, or its peak, `VmHWM`."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(kind)))


def measure(file: Path, shape: str) -> Cost:
    """Return what it takes to read an output, in this process."""
    adapter = built_in(ADAPTERS.get(shape, "claude-code"), None)
    before, begun = resident_kib("VmRSS"), time.process_time()
    with file.open("rb") as printed:
        if shape == "validation":
            read_checks(["make"], _account(file), printed, seconds=1, mask=MASK, exit_code=1)
        else:
            is_beside = shape == "stderr"
            output = RoundOutput(LAST.encode() if is_beside else printed, printed if is_beside else b"", 0)
            judge_output(adapter, output, OutputRequest(), clock.now(), MASK)
    cpu = time.process_time() - begun
    return Cost(cpu / (file.stat().st_size / 2**20), (resident_kib("VmHWM") - before) / 1024)


def _account(file: Path) -> BinaryIO:
    return BytesIO(b"begin 0 0\nend 0 1 100 %d\n" % file.stat().st_size)


def rows(quick: bool) -> Iterator[Row]:
    size = 4 if quick else 512
    for shape in (*SHAPES, *BESIDE):
        with tempfile.NamedTemporaryFile() as file:
            write(file, shape, size)
            file.flush()
            command = [sys.executable, "-m", "bench.output", file.name, shape]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        cost = Cost(*json.loads(done.stdout))
        yield row(f"{size} MiB: {shape}", "MiB more", [cost.memory], aim="≤ 64")
        yield row(f"{shape}, CPU", "ms a MiB", [cost.cpu * 1000], aim="≤ 100")


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
