"""
Reports of results: a table for the terminal, and the page docs/performance.md.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bench.rows import Row, number


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table for a terminal."""
    lines = [(_ours(each), *_judged(each)) for each in rows]
    width = max((len(each.name) for each in rows), default=0)
    widths = [max((len(line[at]) for line in lines), default=0) for at in range(3)]
    return "".join(
        f"  {each.name:{width}}  "
        + "  ".join(f"{cell:{size}}" for cell, size in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for each, line in zip(rows, lines, strict=True)
    )


def page(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield the part of docs/performance.md that is made from results."""
    missed = []
    for name, result in results.items():
        rows = [Row.from_json(each) for each in result["rows"]]
        missed += [each for each in rows if not each.is_met]
        yield f"## {name}\n\n{result['about']}\n\n"
        yield f"{result['at']} UTC, {result['machine']}, load {result['load']} before it began.\n\n"
        yield "| what | measured | beside | aim |\n|---|---|---|---|\n"
        yield from (f"| {each.name} | {' | '.join((_ours(each), *_judged(each)))} |\n" for each in rows)
        yield "\n"
    yield "## What stays behind\n\n"
    yield from _behind(missed)


def _behind(missed: Iterable[Row]) -> Iterator[str]:
    lines = [
        f"- {each.name}: {number(each.ours if each.ratio is None else each.ratio)}, aim {each.aim}. "
        f"{each.behind or 'No reason is known yet.'}\n"
        for each in missed
    ]
    yield from lines or ["Nothing that has an aim.\n"]


def _ours(each: Row) -> str:
    spread = "" if each.low == each.high else f" ({number(each.low)} to {number(each.high)})"
    return f"{number(each.ours)} {each.unit}{spread}"


def _judged(each: Row) -> tuple[str, str]:
    """Return the cells of the floor and of the aim."""
    ratio = "" if each.ratio is None else f"{number(each.ratio)} x {each.beside}"
    verdict = "" if each.is_met else ", missed"
    return ratio, f"{each.aim}{verdict}"
