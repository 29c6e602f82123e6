"""`--log-format json`: one object a line, with what it is about."""

import asyncio
import json
import logging

from reconciler import log_fields
from reconciler.cli.log_format import JsonFormatter
from tests.forking import run


def record(message, *args, exc_info=None):
    return logging.LogRecord("reconciler.loop", logging.WARNING, "x.py", 1, message, args, exc_info)


def line(*args, **kwargs):
    return json.loads(JsonFormatter().format(record(*args, **kwargs)))


def test_a_record_is_one_object_whatever_is_in_it():
    text = JsonFormatter().format(record("%s", 'a "b"\nc \x1b[31m'))

    assert "\n" not in text
    assert "\x1b" not in text
    entry = json.loads(text)
    assert entry["message"] == 'a "b"\nc \x1b[31m'
    assert entry.keys() == {"time", "level", "logger", "message"}
    assert (entry["level"], entry["logger"]) == ("warning", "reconciler.loop")


def test_a_traceback_is_a_field_of_the_same_line():
    try:
        {}["a bug"]
    except KeyError as error:
        entry = line("oddly", exc_info=(KeyError, error, error.__traceback__))

    assert entry["exception"].endswith("KeyError: 'a bug'")


async def test_fields_are_those_of_the_task_that_logs_and_of_no_other():
    lines = {}

    async def work(name):
        log_fields.bind(task=name, run=f"{name}.r1", session=None)
        await asyncio.sleep(0)
        lines[name] = await asyncio.to_thread(line, "working")

    log_fields.bind(revision="1" * 40)
    await asyncio.gather(work("a"), work("b"))
    log_fields.bind(revision=None)

    assert {(name, entry["task"], entry["run"]) for name, entry in lines.items()} == {
        ("a", "a", "a.r1"),
        ("b", "b", "b.r1"),
    }
    assert lines["a"]["revision"] == "1" * 40
    assert "session" not in lines["a"]
    assert not {"task", "revision"} & line("after").keys()


def test_a_fleet_that_runs_prints_nothing_but_objects(fleet):
    fleet.write("specs/tasks/issue.yaml", "goal: x\nscript: 'false'\nretries: 0\nissue: '7'\n")
    fleet.commit("Add one that fails")

    done = run(
        [*fleet.command, "run", "--until-idle", "-v", "--log-format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )

    entries = [json.loads(each) for each in (done.stdout + done.stderr).splitlines()]
    steps = [entry for entry in entries if entry["logger"] == "reconciler.record" and "task" in entry]
    assert [entry["after"] for entry in steps if entry["task"] == "hello"][-1] == "completed"
    failed = next(entry for entry in steps if entry.get("after") == "failed")
    assert (failed["task"], failed["issue"], failed["host"]) == ("issue", "7", "local")
    assert failed["run"].startswith("issue.g")
    assert len(failed["revision"]) == 40
