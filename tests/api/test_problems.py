"""
Errors as answers.
"""

import pytest
from pydantic import ValidationError
from sanic.exceptions import SanicException

from reconciler.api.problems import STATUS_BY_ERROR, TooMany, Unauthenticated, problem_body
from reconciler.core.errors import (
    Conflict,
    Gone,
    IllegalTransition,
    LeaseLost,
    LogGap,
    NotFound,
    NotNow,
    Problem,
    ReconcilerError,
    Refused,
    SpecError,
    Unavailable,
    UsageError,
)
from reconciler.wire import DequeueRequest, ProposalRequest, StatusRequest, TasksQuery
from tests.api.world import TOKENS


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unauthenticated("x"), 401),
        (Refused("x"), 403),
        (NotFound("x"), 404),
        (NotNow("x"), 409),
        (LogGap(3, 9), 409),
        (LeaseLost("x"), 410),
        (UsageError("x"), 400),
        (SpecError([Problem("a.yaml", 1, 1, "x")]), 422),
        (TooMany("x", 1.0), 429),
        (Unavailable("x"), 503),
        (Gone("x"), 503),
        (Conflict("x"), 503),
        (IllegalTransition("x"), 500),
        (KeyError("x"), 500),
        (SanicException("x", status_code=418), 418),
    ],
)
def test_every_kind_of_error_has_its_status(error, status):
    details = problem_body(error)

    assert details.status == status
    assert details.title
    assert details.detail


def test_every_error_that_is_raised_on_purpose_is_in_the_table():
    ours = {IllegalTransition}  # a mistake of ours: 500

    raised = {kind for kind in ReconcilerError.__subclasses__() if ".core." in f".{kind.__module__}."}
    kinds = raised - ours

    assert kinds <= set(STATUS_BY_ERROR)


def test_the_nearest_kind_decides():
    class Narrow(LeaseLost):
        pass

    assert problem_body(Narrow("x")).status == 410


@pytest.mark.parametrize(
    ("model", "body", "field"),
    [
        (DequeueRequest, '{"request_key": "hunter2 hunter2"}', "request_key"),
        (DequeueRequest, '{"request_key": "k", "wait": "hunter2"}', "wait"),
        (StatusRequest, '{"epoch": 1, "status": "hunter2"}', "status"),
        (StatusRequest, '{"epoch": 1, "status": "failed", "branch": "-hunter2"}', "branch"),
        (ProposalRequest, '{"name": "a", "goal": "x", "depends_on": ["/hunter2"]}', "depends_on.0"),
    ],
)
def test_mistakes_are_told_by_field_and_never_repeat_what_was_sent(model, body, field):
    with pytest.raises(ValidationError) as error:
        model.model_validate_json(body)

    details = problem_body(error.value)

    assert (details.status, [one.field for one in details.errors]) == (422, [field])
    assert all(one.message for one in details.errors)
    assert "hunter2" not in details.model_dump_json()


def test_what_is_allowed_is_told_in_full():
    with pytest.raises(ValidationError) as error:
        TasksQuery.model_validate_strings({"limit": "0"}, strict=False)
    with pytest.raises(ValidationError) as other:
        StatusRequest.model_validate_json('{"epoch": 0, "status": "failed"}')

    told = [problem_body(one.value).errors[0].message for one in (error, other)]

    assert told == ["Input should be greater than or equal to 1"] * 2


def test_what_is_no_json_is_another_mistake():
    with pytest.raises(ValidationError) as error:
        DequeueRequest.model_validate_json("{'hunter2")

    details = problem_body(error.value)

    assert (details.status, details.errors) == (400, ())
    assert "not JSON" in details.detail
    assert "hunter2" not in details.detail


def test_parameters_are_told_of_too():
    with pytest.raises(ValidationError) as error:
        TasksQuery.model_validate_strings({"phase": "done", "phse": "x"}, strict=False)

    assert {one.field for one in problem_body(error.value).errors} == {"phase", "phse"}


def test_mistakes_in_specs_are_told_by_field():
    details = problem_body(SpecError([Problem("specs/tasks/a.yaml", 3, 7, "is empty", "goal")]))

    assert [(one.field, one.message) for one in details.errors] == [("goal", "is empty")]
    assert "specs/tasks/a.yaml:3:7" in details.detail


def test_what_others_wrote_is_harmless_in_an_answer():
    assert problem_body(NotFound("\x1b[31mred\x1b[0m" + "x" * 10_000)).detail.startswith("redxxx")
    assert len(problem_body(NotFound("x" * 10_000)).detail) == 4000


async def test_without_a_token_one_is_asked_for(nobody):
    answer = await nobody.get("/api/v1/tasks")

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="reconciler"'
    assert "Authorization: Bearer" in answer.json()["detail"]


async def test_a_token_in_the_address_is_not_taken_and_not_repeated(nobody, caplog):
    answer = await nobody.get(f"/api/v1/tasks?token={TOKENS['boss']}&access_token={TOKENS['boss']}")

    assert answer.status_code == 401
    assert TOKENS["boss"] not in answer.text
    assert TOKENS["boss"] not in caplog.text


@pytest.mark.parametrize("path", ["/api/v1/runs", "/api/v1/plan", "/api/v1/events", "/api/v1/agents"])
async def test_a_token_is_good_for_its_scopes_only(clients, path):
    assert (await clients["jeeves"].get(path)).status_code == 403
    assert (await clients["watcher"].post("/api/v1/dequeue", json={})).status_code == 403
    assert (await clients["boss"].post("/api/v1/dequeue", json={"request_key": "k"})).status_code == 204


async def test_before_the_specs_are_read_nobody_is_called_unknown(world, jeeves):
    world.controller.desired = type(world.desired)()

    answer = await jeeves.get("/api/v1/tasks")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
