"""
Measure reading specs: 10,000 task files, cold and after one edit.

`validate` is bytes to checked, resolved values; `plan` adds the decision what
to start. Beside them, PyYAML's C loader alone on the same bytes, if it is
installed (it checks nothing and resolves nothing). CPU seconds, medians.
"""

import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

from reconciler.core.model.status import Observed
from reconciler.core.planning.plan import plan
from reconciler.specs.build import Builder, build
from reconciler.specs.parse import File, Parser

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
ROUNDS = 5
NOW = datetime(2030, 1, 1, tzinfo=UTC)
TASK = """\
# yaml-language-server: $schema=../../../.schemas/task.json
goal: |
  Make number {number} come out right.
  It is wrong today when the input is empty, and nobody has noticed so far.
title: Mend number {number}
repo: code
constraints:
  - Change only what the goal is about.
  - Keep the public interface.
validation:
  - make test
  - make lint
requires: [linux]
priority: {priority}
timeout: 45m
retries: 2
env: {{NUMBER: "{number}"}}
script: make number-{number}
"""


def main() -> None:
    files = fleet()
    size = sum(len(file.data) for file in files.values()) // COUNT
    print(f"{COUNT} task files of {size} bytes; CPU seconds, median of {ROUNDS} rounds")
    yaml = pyyaml(files)
    cold = median(lambda: build(files))
    parser, builder = Parser(), Builder()
    builder.update({path: parser.parse(path, file) for path, file in files.items()}, revision="1")
    numbers = iter(range(ROUNDS + 1))
    edit = median(lambda: edited(parser, builder, files, next(numbers)))
    desired = build(files, revision="1")
    planned = median(lambda: plan(desired, Observed(), NOW))
    if yaml:
        print(f"  PyYAML's C loader alone        {yaml:8.3f}")
    print(
        f"  validate, cold                 {cold:8.3f}" + (f"   {cold / yaml:.2f} of PyYAML" if yaml else "")
    )
    print(f"  validate, after one edit       {edit:8.4f}   {edit / cold:.2%} of cold")
    print(f"  plan of {COUNT} new tasks        {planned:8.3f}")
    print(f"  validate and plan, cold        {cold + planned:8.3f}")


def fleet() -> dict[str, File]:
    """Return the files of a fleet, as git would hand them over."""
    files = {"specs/repos/code.yaml": blob("url: ../code\n"), "specs/fleet.yaml": blob("max_running: 8\n")}
    files["specs/hosts/local.yaml"] = blob("labels: [linux]\n")
    for number in range(COUNT):
        text = TASK.format(number=number, priority=number % 7)
        files[f"specs/tasks/group{number // 100}/task{number}.yaml"] = blob(text)
    return files


def blob(text: str) -> File:
    return File("100644", f"{hash(text) & (1 << 160) - 1:040x}", text.encode())


def edited(parser: Parser, builder: Builder, files: dict[str, File], number: int) -> None:
    path = "specs/tasks/group0/task0.yaml"
    text = files[path].data.decode().replace("priority: 0", f"priority: {number + 1}")
    desired = builder.update({path: parser.parse(path, blob(text))}, revision=str(number + 2))
    assert desired.tasks["group0/task0"].priority == number + 1


def pyyaml(files: dict[str, File]) -> float | None:
    try:
        import yaml
    except ImportError:
        print("  (PyYAML is not installed: no comparison)")
        return None
    return median(lambda: [yaml.load(file.data, yaml.CSafeLoader) for file in files.values()])


def median(work: Callable[[], object]) -> float:
    """Return the median CPU seconds of a piece of work, once warmed up."""
    times = []
    for _ in range(ROUNDS + 1):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
