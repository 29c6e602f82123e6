"""
Fuzzing: real samples, mutated; each reader answers with what it is documented to, and nothing else.

`HYPOTHESIS_PROFILE=thorough` draws ten times as many.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.errors import SpecError, Unavailable, UsageError
from reconciler.core.model.status import HostStatus, Status
from reconciler.dispatch.output import OutputRequest, RoundOutput, judge_output
from reconciler.dispatch.protocol import parse_stat
from reconciler.forge.journal import Journal
from reconciler.forge.webhook import read_hint
from reconciler.specs import parse
from reconciler.specs.layers import resolve_adapter as built_in
from reconciler.store.book_file import BookFile
from reconciler.store.high_water import MarkFile
from reconciler.store.statuses import dump_status, load_status
from tests.statuses import make_status

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "tests/samples"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
TOKENS = [
    *(
        b"",
        b"\0",
        b"\xff",
        b"\n",
        b"\r\n",
        b"\t",
        b" ",
        b"'",
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"- ",
        b"#",
    ),
    *(b"&a ", b"*a", b"!!python/object:os.system ", b"<<: ", b"|\n", b"? ", b"---\n", b"null", b"true", b"~"),
    *(b"-1", b"0", b"1e999", b"NaN", b"Infinity", b"9" * 5000, b"\\ud800", b"\xe2\x80\xa8", b"\x1b[2J"),
    *(b"[" * 3000, b'{"a":' * 3000, b"2030-13-45", b"9999-12-31T23:59:59Z", b"../" * 9),
]


@cache
def samples(kind: str) -> tuple[tuple[str, bytes], ...]:
    """Return names and contents of the samples of a kind."""
    if kind == "spec":
        files = [*(ROOT / "specs").rglob("*.yaml"), *(ROOT / "reconciler/specs/builtin").glob("*.yaml")]
        return tuple((_spec_path(file), file.read_bytes()) for file in sorted(files))
    if kind == "webhook":
        files = [file for file in (SAMPLES / "forgejo").glob("*.json") if ".headers." not in file.name]
        return tuple((file.name, file.read_bytes()) for file in sorted(files))
    if kind == "output":
        files = sorted((SAMPLES / "agent-clis").rglob("*.stdout"))[::9]
        return tuple((file.name, file.read_bytes()[:20_000]) for file in files)
    if kind == "status":
        return (("a", dump_status(make_status(since=NOW, created_at=NOW, generation="1" * 40, work="w"))),)
    return (
        (
            "stat",
            b"S 120 /home/agent/fleet\na.g1.a1.r1 done 0 10 0 512 reaper abc\nb.g1.a1.r1 running lock\n",
        ),
        ("journal", json.dumps({"done": "d1", "at": "2030-01-01T00:00:00Z"}).encode() + b"\n" + _DELIVERY),
        ("marks", json.dumps({"record/fleet-state": "a" * 40}).encode()),
        (
            "book",
            b'{"cursor":"a","began":"2030-01-01T00:00:00Z","numbered":3,"last":{"chat":"2030-01-01T00:00:00Z"}}',
        ),
    )


_DELIVERY = json.dumps(
    {
        "hint": {
            "delivery": "d1",
            "event": "push",
            "place": "acme/code",
            "repos": ["code"],
            "happened_at": None,
        },
        "at": "2030-01-01T00:00:00Z",
        "digest": "x",
        "outcome": "taken",
        "done_at": None,
    }
).encode()


def _spec_path(file: Path) -> str:
    return f"specs/adapters/{file.name}" if "builtin" in file.parts else file.relative_to(ROOT).as_posix()


@st.composite
def mutated(draw: st.DrawFn, kind: str) -> tuple[str, bytes]:
    """Draw a sample with some of it cut, doubled, moved, or replaced."""
    name, data = draw(st.sampled_from(samples(kind)))
    for _ in range(draw(st.integers(1, 4))):
        start, end = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        end = draw(st.sampled_from([start, min(start + 1, len(data)), end]))
        new = draw(st.sampled_from(TOKENS) | st.just(data[start:end] * 2) | st.binary(max_size=4))
        data = data[:start] + new + data[end:]
    return name, data


@dataclass(frozen=True)
class Reader:
    """A reader, and the errors that its docstring names."""

    kind: str
    read: Callable[[str, bytes, Path], object]
    errors: tuple[type[Exception], ...] = ()


def read_spec(name: str, data: bytes, _: Path) -> object:
    kind, own_name = parse.locate(name)
    model, problems = parse._parse(kind, own_name, data, name)
    assert (model is None) == bool(problems)
    lines = data.count(b"\n") + data.count(b"\r") + data.decode(errors="replace").count("\u2028") + 2
    assert all(problem.path == name and 1 <= problem.line <= lines for problem in problems)
    return model


def read_webhook(name: str, data: bytes, _: Path) -> object:
    headers = json.loads((SAMPLES / "forgejo" / name.replace(".json", ".headers.json")).read_text())
    return read_hint({key.lower(): value for key, value in headers.items()}, data)


def read_output(name: str, data: bytes, _: Path) -> object:
    adapter = {"c": "claude-code", "g": "gemini"}.get(name[0], "codex")
    verdict = judge_output(
        built_in(adapter, None), RoundOutput(data, data, len(data) % 3), OutputRequest(), NOW
    )
    return verdict.model_dump_json()


def read_status(name: str, data: bytes, _: Path) -> object:
    with suppress(SpecError):
        load_status(HostStatus, data, f"{name}.yaml")
    return load_status(Status, data, f"{name}.yaml")


def read_file(name: str, data: bytes, folder: Path) -> object:
    if name == "stat":
        return parse_stat(data.decode(errors="replace"))
    (folder / "deliveries.jsonl").write_bytes(data)
    (folder / "rejected.json").write_bytes(data)
    path = folder / "deliveries.jsonl"
    readers: Mapping[str, Callable[[], object]] = {
        "journal": lambda: (journal := Journal(folder, lambda: NOW)).pending() and journal.rejections(),
        "marks": lambda: dict(MarkFile(path).marks),
        "book": lambda: BookFile(path).read(),
    }
    return readers[name]()


READERS = (
    Reader("spec", read_spec),
    Reader("webhook", read_webhook, (UsageError,)),
    Reader("output", read_output),
    Reader("status", read_status, (SpecError,)),
    Reader("file", read_file, (Unavailable,)),
)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.kind)
def test_a_reader_of_what_others_wrote_has_no_answer_but_those_it_names(reader: Reader, tmp_path):
    @settings(max_examples=settings().max_examples * 2)
    @given(mutated(reader.kind))
    def answers(sample: tuple[str, bytes]) -> None:
        with suppress(*reader.errors):
            reader.read(*sample, tmp_path)

    answers()
