"""`explain error`: a code, its cause, and what to type."""

import json

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from reconciler.cli.exits import ExitCode
from reconciler.cli.main import cli
from reconciler.core.catalogue import ENTRIES, codes


def explain(*args: str) -> str:
    return CliRunner().invoke(cli, ["explain", "error", *args], catch_exceptions=False).stdout


def test_a_code_is_explained_without_a_fleet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    text = explain("stall")

    assert text.startswith("stall (failure class)\ncause:  ")
    assert "\ntype:   reconciler logs TASK\n" in text


def test_without_a_code_all_are_listed():
    lines = explain().splitlines()[1:]

    assert [line.partition("  ")[0].strip() for line in lines] == [entry.code for entry in ENTRIES]


def test_programs_get_a_list_of_documents():
    documents = json.loads(explain("quota", "-o", "json"))

    assert [document["code"] for document in documents] == ["quota", "Quota"]
    assert {document["kind"] for document in documents} == {"error"}


def test_an_unknown_code_suggests_one():
    done = CliRunner().invoke(cli, ["explain", "error", "stal"], catch_exceptions=False)

    assert done.exit_code == ExitCode.NOT_FOUND
    assert "'stal' (did you mean 'stall'?); `reconciler explain error` lists all" in done.stderr


def complete(*args: str, incomplete: str) -> list[str]:
    found = ShellComplete(cli, {}, "reconciler", "_R").get_completions(list(args), incomplete)
    return [item.value for item in found]


def test_codes_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert complete("explain", incomplete="err") == ["error"]
    assert complete("explain", "error", incomplete="qu") == ["quota", "Queue", "Quota"]
    assert {*complete("explain", "error", incomplete="")} == {*codes()}


COMMANDS = [entry.command for entry in ENTRIES if entry.command.startswith("reconciler ")]


@pytest.mark.parametrize("command", sorted({*COMMANDS}))
def test_what_the_catalogue_says_to_type_is_a_command_with_its_options(command):
    args = command.split()[1:]
    if "COMMAND" in args:
        return
    context, group = click.Context(cli, info_name="reconciler"), cli
    args = args[2:] if args[0] == "--repo" else args
    while isinstance(group, click.Group):
        group = group.get_command(context, args.pop(0))
        assert group, command

    assert {each for each in args if each.startswith("--")} <= {
        name for param in group.params for name in param.opts
    }
