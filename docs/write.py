"""
Write the parts of the documentation that the program knows better: fields, phases, exit codes.

    python docs/write.py            writes them between their markers
    python docs/write.py --check    says what is out of date, and exits 1
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reconciler.api.metrics import TABLE
from reconciler.cli.exits import ExitCode
from reconciler.cli.main import COMMANDS
from reconciler.core.lifecycle import diagram
from reconciler.core.model.specs import Kind, TaskDefaults
from reconciler.specs.schema import json_schema

DOCS = Path(__file__).parent
KINDS: tuple[Kind, ...] = ("task", "host", "adapter", "agent", "repo", "fleet")
BEGIN, END = "<!-- written by docs/write.py -->\n", "<!-- end -->\n"


def main() -> int:
    """Write or check every page; return the exit code."""
    stale = []
    for name, text in pages():
        path = DOCS / name
        before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        page = before + BEGIN + "\n" + text + "\n" + END + rest.partition(END)[2]
        if page != path.read_text(encoding="utf-8"):
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(page, encoding="utf-8")
    sys.stdout.write("".join(f"{name} is out of date\n" for name in stale))
    return 1 if stale and "--check" in sys.argv else 0


def pages() -> Iterator[tuple[str, str]]:
    """Yield page and content."""
    for kind in KINDS:
        yield f"{kind}.md", "".join(fields(kind))
    yield "lifecycle.md", f"```mermaid\n{diagram()}```\n"
    yield "commands.md", "".join(commands())
    yield "metrics.md", "".join(metrics())


def fields(kind: Kind) -> Iterator[str]:
    """Yield the table of a kind's own fields; inherited ones are named together."""
    document = json_schema(kind)
    own = document["properties"]
    inherited = [] if kind == "task" else [name for name in own if name in TaskDefaults.model_fields]
    required = document.get("required", [])
    yield "| field | what it is | if left out |\n|---|---|---|\n"
    for name, about in own.items():
        if name not in inherited:
            default = "required" if name in required else shown(about)
            yield f"| `{name}` | {one_line(about)} | {default} |\n"
    if inherited:
        names = ", ".join(f"`{name}`" for name in inherited)
        yield f"\nDefaults for tasks, with the meaning they have in [a task](task.md): {names}.\n"


def one_line(about: dict[str, Any]) -> str:
    """Return a description for a cell of a table."""
    return " ".join(about["description"].split()).replace("|", "\\|")


def shown(about: dict[str, Any]) -> str:
    """Return a default for a cell of a table."""
    default = about.get("default")
    if default in (None, [], {}):
        return ""
    return f"`{'true' if default is True else 'false' if default is False else default}`"


def commands() -> Iterator[str]:
    """Yield the commands and the exit codes."""
    for section, entries in COMMANDS.items():
        yield f"**{section}**\n\n"
        yield from (f"- `{name}`: {entry.summary}\n" for name, entry in entries.items())
        yield "\n"
    yield "| exit code | meaning |\n|---|---|\n"
    yield from (f"| {code.value} | {code.meaning} |\n" for code in ExitCode)


def metrics() -> Iterator[str]:
    """Yield the table of metrics."""
    yield "| metric | type | labels | what it says |\n|---|---|---|---|\n"
    for each in TABLE:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        yield f"| `{each.name}` | {each.kind} | {labels} | {each.help} |\n"


if __name__ == "__main__":
    sys.exit(main())
