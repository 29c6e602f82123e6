"""
Reading specs: 10,000 task files, cold and after one edit; CPU.

`validate` is bytes to checked, resolved values; `plan` adds the decision what
to start. Beside them, PyYAML's C loader alone on the same bytes, if it is
installed (it checks nothing and resolves nothing). CPU seconds, medians.
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from bench.rows import Row, row
from reconciler.core.model.status import Observed
from reconciler.core.planning.plan import plan
from reconciler.specs.build import Builder, build
from reconciler.specs.parse import File, Parser

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


def rows(quick: bool) -> Iterator[Row]:
    count = 500 if quick else 10_000
    files = fleet(count)
    yaml, cold = samples(lambda: pyyaml(files)), samples(lambda: build(files))
    yield row(
        f"validate {count:,} files, cold",
        "s",
        cold,
        yaml,
        beside="of PyYAML's C loader alone",
        aim="≤ 1",
        behind="To read the YAML, with the place of each value, takes 0.6 of what that loader does; models "
        "and their rules take 0.5, and what files mean to one another, with warnings, 0.8.",
    )
    parser, builder = Parser(), Builder()
    builder.update({path: parser.parse(path, file) for path, file in files.items()}, revision="1")
    numbers = iter(range(ROUNDS + 1))
    edit = samples(lambda: edited(parser, builder, files, next(numbers)))
    yield row("validate after one edit", "ms", edit, cold, scale=1000, beside="of cold", aim="≤ 0.01")
    desired = build(files, revision="1")
    yield row(f"plan of {count:,} new tasks", "s", samples(lambda: plan(desired, Observed(), NOW)))


def fleet(count: int) -> dict[str, File]:
    """Return the files of a fleet, as git would hand them over."""
    files = {"specs/repos/code.yaml": blob("url: ../code\n"), "specs/fleet.yaml": blob("max_running: 8\n")}
    files["specs/hosts/local.yaml"] = blob("labels: [linux]\n")
    for number in range(count):
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


def pyyaml(files: dict[str, File]) -> None:
    import yaml  # type: ignore[import-untyped, unused-ignore]

    for file in files.values():
        yaml.load(file.data, yaml.CSafeLoader)


def samples(work: Callable[[], object]) -> list[float]:
    """Return the CPU seconds of a piece of work, a few times, once warmed up; none if it lacks a package."""
    times = []
    for _ in range(ROUNDS + 1):
        begin = time.process_time()
        try:
            work()
        except ImportError:
            return []
        times.append(time.process_time() - begin)
    return times[1:]
