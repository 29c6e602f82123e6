"""
What in an adapter, as it lies over the built-in one, can never work or has no effect.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial

from reconciler.core.adapter import OF_EVENTS, RULES, Adapter, Output
from reconciler.core.patterns import check_line_pattern, check_pattern, constant_of
from reconciler.core.runs.command import GROUPS, PLACEHOLDER, VALUES, check_adapter
from reconciler.core.runs.outcome import ADDED_UP, SIGNALS, TOTALS
from reconciler.core.runs.prompt import try_template
from reconciler.core.runs.sandbox import needs_network
from reconciler.specs.expressions import ONE_EVENT, check_expression, check_rule, is_expression
from reconciler.specs.rules import Mistake, template_mistake, tried
from reconciler.specs.yaml import Path


def broken_parts(adapter: Adapter) -> Iterator[Mistake]:
    """Yield what keeps an adapter from starting any run, its built-in part included."""
    for line in check_adapter(adapter):
        field, _, message = line.partition(": ")
        if field != "template":
            yield Mistake(tuple(field.split(".")), message)
    if adapter.template is not None:
        yield from (template_mistake(("template",), each) for each in try_template(adapter.template))


def useless_parts(adapter: Adapter) -> Iterator[Mistake]:
    """Yield what in an adapter does nothing, or fails every run, its built-in part included."""
    yield from _command(adapter)
    yield from _arguments(adapter)
    yield from _unfilled(adapter)
    yield from _rules(adapter.output)
    yield from _patterns(adapter.output)
    yield from _places(adapter)
    yield from _sandbox(adapter)
    for path, message in _idle(adapter):
        yield Mistake(path, message, at_key=True)


def _sandbox(adapter: Adapter) -> Iterator[Mistake]:
    if adapter.sandbox and not adapter.sandbox.network and needs_network(adapter):
        yield Mistake(
            ("sandbox", "network"),
            "must be true: its CLI calls a model (`model`), and would reach none",
        )


# --- Arguments ---------------------------------------------------------------


def _named(adapter: Adapter) -> set[str]:
    return {name for element in adapter.command for name in PLACEHOLDER.findall(element)}


def _command(adapter: Adapter) -> Iterator[Mistake]:
    """Yield what no program is started by, and placeholders that nothing fills."""
    named = _named(adapter)
    program = adapter.command[0] if adapter.command else ""
    if {"prompt", "prompt_file", "script", *GROUPS} & set(PLACEHOLDER.findall(program)):
        yield Mistake(("command", 0), f"must name a program, not {program}")
    fillers = {"model": ("model",), "turns": ("turns",), "session": ("fresh", "resume")}
    for group, fields in fillers.items():
        if group in named and not any(getattr(adapter, field) for field in fields):
            names = " and ".join(f"`{field}`" for field in fields)
            yield Mistake(
                ("command",), f"{{{group}}} has no effect: {names} say{'s' * (len(fields) == 1)} nothing"
            )
    for element in adapter.command:
        for match in _LOOKALIKE.finditer(element):
            name = match[1].strip().lower()
            if name in VALUES["command"] | GROUPS and match[0] != f"{{{name}}}":
                yield Mistake(("command",), f"{match[0]} is no placeholder; write {{{name}}}")
    for name, way in (("prompt", "argument"), ("prompt_file", "file")):
        if name in named and adapter.prompt != way:
            yield Mistake(
                ("command",), f"{{{name}}} needs `prompt: {way}`; the prompt goes to {_WAYS[adapter.prompt]}"
            )


_LOOKALIKE = re.compile(r"\$?\{+([ A-Za-z_]+)\}+")
_WAYS = {"stdin": "its stdin", "file": "a file", "argument": "an argument"}


def _arguments(adapter: Adapter) -> Iterator[Mistake]:
    """Yield the fields whose arguments never reach the command."""
    if not adapter.command:
        return
    named = _named(adapter)
    way = {"argument": "prompt", "file": "prompt_file"}.get(adapter.prompt)
    if way is not None and way not in named:
        message = f"{adapter.prompt} needs {{{way}}} in `command`, or the CLI never sees the prompt"
        yield Mistake(("prompt",), message, at_key=True)
    for field in ("model", "turns", "fresh", "resume"):
        group, argv = field if field in GROUPS else "session", getattr(adapter, field)
        if argv and group not in named:
            yield Mistake((field,), f"has no effect: `command` has no {{{group}}}", at_key=True)
        if argv and field in GROUPS and not any(f"{{{field}}}" in element for element in argv):
            yield Mistake((field,), f"has no {{{field}}}, so that all tasks get the same", at_key=True)


def _unfilled(adapter: Adapter) -> Iterator[Mistake]:
    """Yield placeholders of `command` in commands that are run as they stand."""
    probes = {"version": adapter.version, "health": adapter.health}
    commands: dict[Path, Sequence[str]] = {
        (name, "command"): probe.command for name, probe in probes.items() if probe is not None
    }
    commands |= {("secrets", name, "command"): each.command or () for name, each in adapter.secrets.items()}
    for path, argv in commands.items():
        for at, element in enumerate(argv):
            for name in sorted({*PLACEHOLDER.findall(element)} & (VALUES["command"] | GROUPS)):
                yield Mistake((*path, at), f"{{{name}}} is filled in nowhere but in the adapter's `command`")


# --- Output ------------------------------------------------------------------


def _rules(output: Output) -> Iterator[Mistake]:
    """Yield the rules that can find nothing, or nothing else than always."""
    for field in RULES:
        rule = getattr(output, field)
        if rule is None:
            continue
        if output.format != "text":
            yield from tried(("output", field), partial(check_rule, field), rule)
        elif field not in OF_EVENTS:
            yield from _text_rule(field, rule)
    for field, rule in output.streamed or ():
        if rule is not None:
            yield from tried(("output", "streamed", field), partial(check_expression, of=ONE_EVENT), rule)
    if output.format != "text" and output.text is None:
        message = f"{output.format} needs `text`, the agent's last words: a run without any has failed"
        yield Mistake(("output", "format"), message)


def _text_rule(field: str, rule: str) -> Iterator[Mistake]:
    try:
        check_pattern(rule)
    except ValueError:
        return  # told by `check_adapter`
    if _EVENTS.match(rule) and is_expression(rule):
        message = (
            "is a question to events (JMESPath), and rules of `format: text`, which is the default, are "
            "regular expressions; say `format: json_lines` or `format: json`"
        )
        yield Mistake(("output", field), message)
        return
    yield from tried(("output", field), check_line_pattern, rule)
    constant = constant_of(rule)
    if field in _NUMBERS and constant is not None and not any(map(str.isdigit, constant)):
        yield Mistake(("output", field), f"finds {constant!r}, and never a number; put (…) around the number")


_EVENTS = re.compile(r"\s*(?:\w+\(\s*)?\[(?:\?|\*\]|-?\d*\])")
"""How JMESPath of a list begins."""
_NUMBERS = frozenset({"error_status", "input_tokens", "output_tokens", "cached_tokens", "cost_usd", "turns"})


def _patterns(output: Output) -> Iterator[Mistake]:
    for at, pattern in enumerate(output.error_lines):
        yield from tried(("output", "error_lines", at), check_line_pattern, pattern)
    if output.give_up is not None:
        yield from tried(("output", "give_up"), check_line_pattern, output.give_up)
    for kind, pattern in output.error_patterns.items():
        yield from tried(
            ("output", "error_patterns", kind), partial(check_line_pattern, anywhere=True), pattern
        )


# --- Places ------------------------------------------------------------------


def _places(adapter: Adapter) -> Iterator[Mistake]:
    for name in adapter.secrets.keys() & adapter.env.keys():
        yield Mistake(
            ("env", name), "has no effect: the secret of that name is put in its place", at_key=True
        )
    for at, path in enumerate(adapter.cleanup):
        steps = [step for step in path.split("/") if step not in {"", "."}]
        if path.strip() and (not steps or steps[0] == ".git"):
            yield Mistake(("cleanup", at), "is the workspace itself, or git's part of it")


# --- Without effect ----------------------------------------------------------


def _idle(adapter: Adapter) -> Iterator[tuple[Path, str]]:
    """Yield the fields of an adapter that nothing reads, and why."""
    output = adapter.output
    if adapter.limits.turns and not adapter.turns:
        yield ("limits", "turns"), "has no effect: `turns` says no arguments that limit them"
    if output.schema_flag and not output.structured:
        yield ("output", "schema_flag"), "needs `structured`, or every run that it is given to fails"
    if output.structured and not output.schema_flag:
        yield ("output", "structured"), "has no effect: it needs `schema_flag`"
    if adapter.resume and output.session_id is None and not adapter.fresh:
        yield ("resume",), "has no effect: `output.session_id` finds no session to go on with"
    if output.give_up is None and output.give_up_after > 1:
        yield ("output", "give_up_after"), "has no effect: it needs `give_up`"
    if output.format == "text" and output.error_lines:
        yield ("output", "error_lines"), "has no effect with `format: text`: say `error`"
    yield from _idle_totals(adapter)
    yield from _idle_extra(output)
    for code in output.exit_codes:
        if int(code) in SIGNALS and output.format != "text":
            message = f"has no effect: it means the end by SIG{SIGNALS[int(code)]}"
            yield ("output", "exit_codes", code), message
        elif code != str(int(code)):
            yield ("output", "exit_codes", code), f"has no effect: write {int(code)}"


def _idle_totals(adapter: Adapter) -> Iterator[tuple[Path, str]]:
    for at, group in enumerate(adapter.output.cumulative):
        if not adapter.resume:
            yield ("output", "cumulative", at), "has no effect: without `resume` each run is a session"
        elif not any(getattr(adapter.output, name) for name in TOTALS[group]):
            yield ("output", "cumulative", at), f"has no effect: no rule finds {group}"


def _idle_extra(output: Output) -> Iterator[tuple[Path, str]]:
    if output.extra_file and output.extra_command:
        yield ("output", "extra_file"), "has no effect: `extra_command` is read in its place"
    for at, group in enumerate(output.added_up):
        if output.format != "text":
            yield ("output", "added_up", at), "has no effect: `sum()` adds up events"
        elif not any(getattr(output, name) for name in ADDED_UP[group]):
            yield ("output", "added_up", at), f"has no effect: no rule finds {group}"
        elif group in output.cumulative:
            yield (
                ("output", "added_up", at),
                "and `cumulative` name the same: a running total is not added up",
            )
