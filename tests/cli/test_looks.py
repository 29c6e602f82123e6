"""
A look snapshot shows what the fleet itself would show, of these commits alone, or nothing.
"""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.cli import looks as looks_room
from reconciler.cli.looks import LookSnapshot
from reconciler.core.model.status import Observed, Phase
from reconciler.core.times import age_at
from reconciler.core.views import ReadModel
from tests.fakes import make_desired, make_task
from tests.statuses import make_status

ODD = 'goal: "\\u2192 9f; 17.000; \\e[31m \\U0001F600"\nlabels: [team=web]\nscript: exit 3\nretries: 0\n'
SINCE = datetime(2030, 1, 1, tzinfo=UTC)
LOOKS = (
    *("get", "get -o wide", "get -o json", "get -o name --sort-by -since", "get -l team=web", "get odd"),
    *(
        "get hosts -o wide",
        "get agents",
        "get adapters",
        "get repos -o yaml",
        "describe hello",
        "describe odd",
    ),
    *("describe host/local", "describe adapter/script", "status", "status -o json", "logs hello", "logs odd"),
    *("get nobody", "get task/hello host/local", "describe hello odd", "get -l a=b adapters", "logs nobody"),
)
"""Commands, of tasks that are well, that failed and that are not there."""


@pytest.fixture
def ran(fleet):
    fleet.write("specs/tasks/odd.yaml", ODD)
    fleet.write("specs/tasks/later.yaml", "goal: x\nscript: x\ndesired: suspended\n")
    fleet.write("specs/hosts/local.yaml", "cordon: false\n")
    fleet.write(
        "specs/hosts/closed.yaml", "address: c.example.org\nuser: u\ncordon: true\ndesired: suspended\n"
    )
    fleet.commit()
    fleet.run("run", "--until-idle")
    return fleet


def printed(fleet, command):
    """Return what a command prints, with no ages in it."""
    done = fleet.run(*command.split())
    ages = re.compile(r"\b\d+[smhd]\b *")
    return done.exit_code, ages.sub("#", done.stdout), ages.sub("#", done.stderr)


def looks_in(fleet):
    return next((fleet.data / "parsed").glob("*.looks"))


def test_whatever_is_shown_of_a_look_is_what_the_fleet_shows(ran, monkeypatch):
    with monkeypatch.context() as without:
        without.setattr(LookSnapshot, "load", lambda _: None)
        read = {command: printed(ran, command) for command in LOOKS}

    assert len(looks_in(ran).read_bytes()) > 1000
    monkeypatch.setattr("reconciler.cli.session.FleetSession.recorded", None)  # which reads the fleet itself
    known = {command: printed(ran, command) for command in LOOKS if "odd" not in command}

    assert known == {command: read[command] for command in known}


def test_a_change_of_the_specs_or_of_the_record_is_seen_at_once(ran):
    for _ in range(3):
        assert "Say hello" in ran.run("describe", "hello").stdout
    ran.write("specs/tasks/hello.yaml", "goal: Say more.\nscript: echo more\n")
    ran.commit()

    assert "Say more" in ran.run("describe", "hello").stdout
    ran.run("run", "--until-idle")
    for _ in range(3):
        assert "attempt 2" in ran.run("describe", "hello").stdout


DAMAGE = (
    lambda data: data[: len(data) // 2],
    lambda data: data.replace(b"completed", b"failed---"),
    lambda _: b"",
    lambda _: b"[]\n",
    lambda _: b"\xff\n{}",
    lambda _: b"[" * 100_000,
    lambda data: data.replace(b'"mark"', b'"work"', 1),
)


def test_a_damaged_look_is_thrown_away_and_made_again(ran):
    good = [printed(ran, "get") for _ in range(3)][-1]
    file = looks_in(ran)
    whole = file.read_bytes()

    for damage in DAMAGE:
        file.write_bytes(damage(whole))
        assert [printed(ran, "get") for _ in range(3)] == [good] * 3
        assert len(file.read_bytes()) == len(whole)


def test_where_nothing_can_be_written_the_fleet_is_read(ran, tmp_path):
    (tmp_path / "file").write_text("")
    ran.data = tmp_path / "file" / "data"

    assert all("completed" in ran.run("get").stdout for _ in range(3))


def test_another_program_reads_the_fleet_itself(ran, monkeypatch):
    for _ in range(3):
        ran.run("get")
    key = json.loads(looks_in(ran).read_bytes().partition(b"\n")[0])["of"]

    monkeypatch.setattr(looks_room, "program_id", lambda: "another")
    ran.run("get")

    assert json.loads(looks_in(ran).read_bytes().partition(b"\n")[0])["of"] == [*key[:-1], "another"]


def model_of(task):
    status = make_status(Phase.COMPLETED, since=SINCE, created_at=SINCE, generation="g", work="w", attempt=1)
    return ReadModel(make_desired(task), Observed({task.name: status}))


def a_look(tmp_path, model, seen=2):
    snapshot = LookSnapshot(tmp_path / "f", ("specs", "record", "program"))
    for _ in range(seen):
        snapshot.save(model)
    return snapshot.load()


def test_how_long_ago_something_was_is_counted_from_the_look_and_no_text_is_taken_for_a_time(tmp_path):
    look = a_look(tmp_path, model_of(make_task("a", goal="0123456789abcdef17.000;")))
    kind = look.kinds["task"]
    (thing,) = kind.pick(look)
    cells = {column.title: column.cell(thing) for column in kind.columns(age_at(SINCE + timedelta(hours=3)))}

    assert cells["SINCE"] == "3h"
    assert cells["TITLE"] == "0123456789abcdef17.000;"
    assert "for 9d" in kind.details(thing, age_at(SINCE + timedelta(days=9, hours=1)))


def test_what_was_looked_at_once_is_not_worth_a_file(tmp_path):
    assert a_look(tmp_path, model_of(make_task("a")), seen=1) is None
    assert len((tmp_path / "f").read_bytes()) < 200
