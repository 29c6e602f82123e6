"""What a CLI tells beside its output: in a file, or to a second command."""

import pytest

from reconciler.core.adapter import Adapter, Output, Usage
from reconciler.core.model.specs import RunHooks
from reconciler.dispatch.output import OutputRequest, RoundOutput, judge_output, read_output
from tests.dispatch.world import NOW, World

RULES = Output(
    format="json_lines",
    text="[?kind=='end'] | [-1].text",
    session_id="[?session] | [-1].session",
    input_tokens="[?usage] | [-1].usage.input",
    output_tokens="[?usage] | [-1].usage.output",
)
SAYS = """echo '{"kind": "end", "text": "done"}'"""


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path / "a world")


async def test_usage_and_session_are_read_from_a_file_that_the_cli_writes(world):
    told = '{"session": "s-1", "usage": {"input": 7, "output": 3}}'
    adapter = {"output": RULES.model_copy(update={"extra_file": "usage.json"})}
    order = world.order(
        f"""{SAYS}; printf '%s' '{told}' >"$RECONCILER_OUTPUT_DIR/usage.json" """, adapter=adapter
    )

    report = await world.carry_out(order, read_output=read_output)
    again = await world.carry_out(order, read_output=read_output)

    assert (report.verdict.session_id, report.verdict.text) == ("s-1", "done")
    assert report.verdict.usage.model_copy(update={"seconds": 0.0}) == Usage(input_tokens=7, output_tokens=3)
    assert again.verdict == report.verdict, "taken up by another process, it is read once"


async def test_a_second_command_is_asked_in_the_workspace_before_the_hooks(world):
    asked = ("sh", "-c", """cat used; printf '{"session": "%s"}' "$1"; exit 3""", "sh", "{session_id}")
    adapter = {"output": RULES.model_copy(update={"extra_command": asked}), "fresh": ("{session_id}",)}
    order = world.order(
        f"""{SAYS}; echo '{{"usage": {{"input": 5, "output": 2}}}}' >used""",
        adapter=adapter,
        chosen_session="s-2",
        hooks=RunHooks(after_run=(f"rm used; {world.note('hook')}",)),
    )

    report = await world.carry_out(order, read_output=read_output)

    assert (report.verdict.session_id, report.verdict.usage.input_tokens) == ("s-2", 5)
    assert (world.noted, report.verdict.notes) == (["hook"], ())


def test_a_cli_that_was_ended_goes_on_with_the_session_that_was_chosen_for_it():
    def session_after(stdout: bytes) -> str | None:
        request = OutputRequest(chosen="s-3")
        adapter = Adapter(name="cli", output=RULES)
        return judge_output(adapter, RoundOutput(stdout, b"", 143), request, NOW).session_id

    assert session_after(b'{"kind": "begin"}\n') == "s-3"
    assert session_after(b"") is None, "there is none of it before its first event"
