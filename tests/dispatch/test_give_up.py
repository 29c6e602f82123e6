"""Runs that only wait to call their model again, and runs that others end."""

import pytest

from reconciler.core.adapter import Output
from reconciler.core.model.runs import FailureClass
from reconciler.core.patterns import Streak
from reconciler.dispatch.output import read_output
from reconciler.specs.layers import resolve_adapter as built_in
from tests.dispatch.test_output import recording, round_output
from tests.dispatch.world import NOW, World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


async def carry_out(world, script, output):
    order = world.order(script, repo=None, adapter={"output": output})
    return (await world.carry_out(order, read_output=read_output)).verdict


@pytest.mark.parametrize("name", ["gemini", "qwen"])
async def test_a_cli_that_only_waits_for_its_model_is_ended_with_what_that_said(world, name):
    waiting = round_output(recording(f"{name}/streamjson_err429")).stderr
    (world.folder / "said").write_bytes(waiting)

    found = await carry_out(
        world, f"cat '{world.folder}/said' >&2; exec sleep 600", built_in(name, None).output
    )

    assert (found.outcome, found.kind) == ("failed", FailureClass.QUOTA)
    assert "429" in found.message
    assert found.retry_at is None or found.retry_at >= NOW


@pytest.mark.parametrize(
    ("recorded", "times", "kind", "words"),
    [
        ("codex/json_connrefused", 3, FailureClass.HOST, "waiting for network (Connection failed"),
        ("opencode/json_truncated", 1, FailureClass.QUOTA, "call its model again"),
        ("kimi-2.1/err429", 1, FailureClass.QUOTA, "429 Rate limit reached"),
    ],
)
async def test_a_cli_that_does_not_count_its_calls_is_ended_after_as_many_as_its_adapter_says(
    world, recorded, times, kind, words
):
    (world.folder / "said").write_bytes(round_output(recording(recorded)).stdout * times)

    output = built_in(recording(recorded)["adapter"], None).output
    found = await carry_out(world, f"cat '{world.folder}/said'; exec sleep 600", output)

    assert (found.outcome, found.kind) == ("failed", kind)
    assert words in found.message


@pytest.mark.parametrize(
    ("lines", "longest"),
    [
        (["wait"] * 3, 3),
        (["wait", "", "wait", "again", "and again", "wait"], 3),
        (["wait", "wait", "one", "two", "three", "wait"], 2),
        (["nothing"], 0),
    ],
)
def test_lines_are_in_a_row_as_long_as_hardly_another_stands_between_them(lines, longest):
    streak = Streak("wait")

    assert max(streak.add(line) for line in lines) == longest


async def test_a_cli_that_goes_on_between_its_waits_is_let_be(world):
    output = Output(format="text", give_up="waiting", give_up_after=3)
    work = "printf 'waiting\\nwaiting\\nread a\\nwrote b\\nran c\\n'"

    assert (await carry_out(world, f"{work}; {work}", output)).outcome == "success"


async def test_a_line_is_known_however_it_comes_and_one_that_is_none_is_let_be(world):
    output = Output(format="text", give_up=r"waiting \((.*)\)")
    slowly = (
        "printf 'no waiting (x)\\nwai'; sleep 0.3; "
        "printf 'ting (HTTP 503; retry-after: 90)\\n'; exec sleep 600"
    )

    found = await carry_out(world, slowly, output)

    assert found.kind is FailureClass.QUOTA
    assert "HTTP 503" in found.message
    assert (found.retry_at - NOW).total_seconds() == 90
    assert (
        await carry_out_again(world, "printf 'no waiting (x)\\n'; sleep 0.5", output)
    ).outcome == "success"


async def carry_out_again(world, script, output):
    order = world.order(script, repo=None, adapter={"output": output}, number=2)
    return (await world.carry_out(order, read_output=read_output)).verdict


async def test_a_cli_that_somebody_else_cancelled_was_not_stopped_by_us(world):
    interrupted = round_output(recording("claude/sig_streamjson_hang_SIGINT")).stdout
    (world.folder / "said").write_bytes(interrupted)

    found = await carry_out(world, f"cat '{world.folder}/said'", built_in("claude-code", None).output)

    assert (found.outcome, found.kind) == ("failed", FailureClass.HOST)
    assert "by somebody else" in found.message
