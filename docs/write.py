"""
Write the parts of the documentation that the program knows better: fields, phases, exit codes, figures.

    python docs/write.py            writes them between their markers
    python docs/write.py --check    says what is out of date, and exits 1
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, TypeAdapter

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.report import page as performance
from reconciler.api.metrics import TABLE
from reconciler.cli.exits import ExitCode
from reconciler.cli.main import COMMANDS, cli
from reconciler.cli.man import commands as all_commands
from reconciler.cli.shapes import SHAPES
from reconciler.core.adapter import (
    FileTemplate,
    HealthCheck,
    Output,
    RoundLimits,
    Sandbox,
    Secret,
    StopSignal,
    Streamed,
    Version,
)
from reconciler.core.catalogue import ENTRIES
from reconciler.core.lifecycle import diagram
from reconciler.core.model.specs import (
    Kind,
    NotifyRule,
    NotifySpec,
    RunHooks,
    ShardSpec,
    SlurmSpec,
    TaskDefaults,
)
from reconciler.core.model.status import (
    FLAT,
    AccountStatus,
    AtWorker,
    HostStatus,
    OnHost,
    ReviewState,
    Run,
    Session,
    Status,
)
from reconciler.core.notifications.rules import REASONS
from reconciler.specs.schema import json_schema

DOCS = Path(__file__).parent
PARTS: Mapping[Kind, Mapping[str, type[BaseModel]]] = {
    "adapter": {
        "output": Output,
        "streamed": Streamed,
        "version": Version,
        "health": HealthCheck,
        "secrets": Secret,
        "files": FileTemplate,
        "limits": RoundLimits,
        "stop": StopSignal,
    },
    "fleet": {"shards": ShardSpec},
}
"""Parts of a kind that have a table of their own."""
KINDS: tuple[Kind, ...] = (
    "task",
    "campaign",
    "host",
    "adapter",
    "account",
    "agent",
    "repo",
    "fleet",
    "prices",
)
RESULTS = DOCS.parent / "bench" / "results.json"
"""Written by `python -m bench --write`."""
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
    yield "index.md", "".join(promises())
    for kind in KINDS:
        yield f"{kind}.md", "".join(fields(kind))
    yield "lifecycle.md", f"```mermaid\n{diagram()}```\n"
    yield "commands.md", "".join(commands())
    yield "options.md", "".join(options())
    yield "output.md", "".join(shapes())
    yield "errors.md", "".join(errors())
    yield "metrics.md", "".join(metrics())
    yield "notifications.md", "".join(notifications())
    yield "hooks.md", "".join(table(RunHooks))
    yield "slurm.md", "".join(table(SlurmSpec))
    yield "sandbox.md", "".join(table(Sandbox))
    yield "performance.md", "".join(performance(json.loads(RESULTS.read_text())["benchmarks"]))


def promises() -> Iterator[str]:
    """Yield what README promises."""
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    yield from (f"{line}\n" for line in readme.splitlines() if re.match(r"- \*\*P\d\*\* ", line))


def fields(kind: Kind) -> Iterator[str]:
    """Yield the table of a kind's own fields; inherited ones are named together, of a task they follow."""
    document = json_schema(kind)
    properties = document["properties"]
    own = dict(sorted(properties.items(), key=lambda field: field[0] in TaskDefaults.model_fields))
    inherited = [] if kind == "task" else [name for name in own if name in TaskDefaults.model_fields]
    required = document.get("required", [])
    yield "| field | what it is | if left out |\n|---|---|---|\n"
    for name, about in own.items():
        if name not in inherited:
            default = "required" if name in required else shown(about)
            if name in PARTS.get(kind, {}):
                default = f"see [below](#{name})"
            yield f"| `{name}` | {one_line(about)} | {default} |\n"
    if inherited:
        names = ", ".join(f"`{name}`" for name in inherited)
        yield f"\nDefaults for tasks, with the meaning they have in [a task](task.md): {names}.\n"
    for name, model in PARTS.get(kind, {}).items():
        yield f"\n### `{name}`\n\n"
        yield from table(model)


def notifications() -> Iterator[str]:
    """Yield the tables of `notify` in fleet.yaml."""
    for title, model in (("`notify`", NotifySpec), ("A rule of `notify.rules`", NotifyRule)):
        yield f"### {title}\n\n"
        yield from table(model)
        yield "\n"
    yield f"Words for `reasons`: {', '.join(f'`{reason}`' for reason in REASONS)}.\n"


def table(model: type[BaseModel]) -> Iterator[str]:
    """Yield the table of the fields of a part of a spec."""
    document = model.model_json_schema(mode="serialization")
    required = document.get("required", [])
    yield "| field | what it is | if left out |\n|---|---|---|\n"
    for name, about in document["properties"].items():
        default = "required" if name in required else shown(about)
        yield f"| `{name}` | {one_line(about)} | {default} |\n"


def one_line(about: dict[str, Any]) -> str:
    """Return a description for a cell of a table."""
    return in_cell(about["description"])


def in_cell(text: str) -> str:
    """Return a text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def shown(about: dict[str, Any]) -> str:
    """Return a default for a cell of a table, as it is written in YAML."""
    default = about.get("default")
    return "" if default in (None, [], {}) else f"`{in_yaml(default)}`"


def in_yaml(value: Any) -> str:
    """Return a value in YAML's flow style, without the parts that are empty."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {in_yaml(part)}' for name, part in value.items() if part != [])}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(in_yaml, value))}]"
    return json.dumps(value) if isinstance(value, bool) else str(value)


def commands() -> Iterator[str]:
    """Yield the commands and the exit codes."""
    for section, entries in COMMANDS.items():
        yield f"**{section}**\n\n"
        for name, entry in entries.items():
            yield f"- [`{name}`](options.md#reconciler-{name}): {entry.summary}\n"
        yield "\n"
    yield "| exit code | meaning |\n|---|---|\n"
    yield from (f"| {code.value} | {code.meaning} |\n" for code in ExitCode)


def options() -> Iterator[str]:
    """Yield the help of every command: usage, description, options, examples."""
    for path, command in all_commands(cli, ("reconciler",), click.Context(cli)):
        with click.Context(command, info_name=" ".join(path)) as context:
            yield f"## {' '.join(path)}\n\n{reflowed(command.help or '')}\n\n"
            yield f"```text\n{' '.join([*path, *command.collect_usage_pieces(context)])}\n```\n\n"
            records = [param.get_help_record(context) for param in command.params]
            if rows := [record for record in records if record and record[1]]:
                yield "| option | what it does |\n|---|---|\n"
                yield from (f"| `{in_cell(name)}` | {in_cell(text)} |\n" for name, text in rows)
                yield "\n"
            if lines := (command.epilog or "").splitlines()[2:]:
                yield "```text\n" + "".join(f"{line.strip()}\n" for line in lines) + "```\n\n"


def reflowed(text: str) -> str:
    """Return paragraphs of help, each on one line."""
    return "\n\n".join(" ".join(each.split()) for each in text.strip().split("\n\n"))


def errors() -> Iterator[str]:
    """Yield the catalogue of errors, a table for each family of codes."""
    for family, entries in groupby(ENTRIES, key=lambda entry: entry.family):
        yield f"## {family[0].upper()}{family[1:]}\n\n"
        yield "| code | cause | remedy | type |\n|---|---|---|---|\n"
        yield from (f"| `{e.code}` | {e.cause} | {e.remedy} | `{e.command}` |\n" for e in entries)
        yield "\n"


def shapes() -> Iterator[str]:
    """Yield the tables of what `-o json` prints, whole documents first, then what they are made of."""
    parts: dict[str, dict[str, Any]] = {}
    for shape in SHAPES:
        document = TypeAdapter(shape).json_schema(mode="serialization")
        parts |= document.pop("$defs", {})
        yield from shape_table(document)
    for part in parts.values():
        yield from shape_table(part)
    parts_of = {"run": (Run,), "holder": (OnHost, AtWorker), "review": (ReviewState,), "session": (Session,)}
    yield from status_table("Status of a task", Status, parts_of)
    yield from status_table("Status of a host", HostStatus, {})
    yield from status_table("Status of an account", AccountStatus, {})


Parts = Mapping[str, Sequence[type[BaseModel]]]
"""Field of a status → what may stand there."""


def status_table(title: str, model: type[BaseModel], parts: Parts) -> Iterator[str]:
    """Yield the fields of a status as it is on record; those of its parts stand among its own there."""
    yield f"### {title}\n\n| field | what it is |\n|---|---|\n"
    yield from status_fields(model, parts, {})
    yield "\n"


def status_fields(model: type[BaseModel], parts: Parts, names: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each field of a model and of its parts, by the names they have on record."""
    for name, about in described(model).items():
        if name not in parts:
            yield f"| `{names.get(name, name)}` | {about} |\n"
        for part in parts.get(name, ()):
            yield from status_fields(part, parts, FLAT[name])


def described(model: type[BaseModel]) -> dict[str, str]:
    """Return the fields of a model, each with its description, or what its name says."""
    properties = model.model_json_schema(mode="validation")["properties"]
    texts = {name: one_line(about) if "description" in about else "" for name, about in properties.items()}
    return {name: text or f"{name.replace('_', ' ').capitalize()}." for name, text in texts.items()}


def shape_table(document: dict[str, Any]) -> Iterator[str]:
    """Yield the table of an object's fields."""
    yield f"### {document['title'].removesuffix('Shape')}\n\n{' '.join(document['description'].split())}\n\n"
    yield "| field | what it is | type |\n|---|---|---|\n"
    for name, about in document["properties"].items():
        often = "" if name in document["required"] else ", may be left out"
        yield f"| `{name}` | {one_line(about)} | {type_of(about)}{often} |\n"
    yield "\n"


def type_of(about: dict[str, Any]) -> str:
    """Return the type of a field in words."""
    if "anyOf" in about:
        return " or ".join(map(type_of, about["anyOf"]))
    if "$ref" in about or "allOf" in about:
        name = (about.get("$ref") or about["allOf"][0]["$ref"]).rpartition("/")[2].removesuffix("Shape")
        return f"[{name}](#{name.lower()})"
    if "const" in about or "enum" in about:
        return " or ".join(f'"{value}"' for value in about.get("enum", [about.get("const")]))
    inner = about.get("items") or about.get("additionalProperties")
    of = f" of {type_of(inner)}" if isinstance(inner, dict) and inner else ""
    return f"{about.get('type', 'any')}{of}"


def metrics() -> Iterator[str]:
    """Yield the table of metrics."""
    yield "| metric | type | labels | what it says |\n|---|---|---|---|\n"
    for each in TABLE:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        yield f"| `{each.name}` | {each.kind} | {labels} | {each.help} |\n"


if __name__ == "__main__":
    sys.exit(main())
