"""
What `get`, `describe` and `plan` show, from values alone.
"""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.cli.kinds import SHOWN_KINDS
from reconciler.cli.preview import placement_rows, plan_document
from reconciler.cli.terminal import table
from reconciler.core.adapter import Adapter
from reconciler.core.errors import NotFound, Problem
from reconciler.core.model.runs import Check, FailureClass
from reconciler.core.model.specs import Account, Agent, Campaign, Host, Repo
from reconciler.core.model.status import (
    Failure,
    HostCli,
    HostStatus,
    Observed,
    Phase,
    Reason,
    Waiting,
)
from reconciler.core.planning.plan import plan
from reconciler.core.planning.preview import has_changes, plan_lines
from reconciler.core.times import age_at
from reconciler.core.views import ReadModel
from tests.fakes import START, make_desired, make_task
from tests.statuses import make_status

NOW = START + timedelta(minutes=90)
AGE = age_at(NOW)


def status(phase, **fields):
    stand = {"since": START, "created_at": START, "generation": "a" * 40, "work": "b" * 12}
    return make_status(phase=phase, **{**stand, **fields})


def rows(kind, desired, observed=None, *, wide=False):
    observed = observed or Observed()
    columns = (column for column in SHOWN_KINDS[kind].columns(AGE) if not column.is_optional)
    shown = [column for column in columns if wide or not column.is_wide]
    items = SHOWN_KINDS[kind].pick(ReadModel(desired, observed))
    return table([c.title for c in shown], [[c.cell(item) for c in shown] for item in items]).splitlines()


def test_a_task_that_the_reconciler_has_not_seen_says_so():
    assert rows("task", make_desired(make_task("web/fix")))[1].split()[:2] == ["web/fix", "new"]


def test_the_table_of_tasks_tells_phase_age_host_and_why():
    desired = make_desired(make_task("a"), make_task("b"))
    observed = Observed(
        {
            "a": status(Phase.RUNNING, attempt=2, run="a.gaaaaaaaa.a2", assigned_host="h1"),
            "b": status(
                Phase.CREATED, waiting=Waiting(reason=Reason.SLOT, message="no free slot", since=START)
            ),
            "gone": status(
                Phase.FAILED,
                attempt=1,
                assigned_host="h2",
                failure=Failure(kind=FailureClass.AGENT, message="gave up"),
            ),
        }
    )

    shown = rows("task", desired, observed)

    assert shown == [
        "NAME  PHASE    SINCE  ATTEMPT  HOST  REASON",
        "a     running  1h     2        h1",
        "b     created  1h     0        -     Slot: no free slot",
        "gone  failed   1h     1        h2    agent: gave up",
    ]


def test_the_wide_table_has_more_columns_and_the_same_lines():
    desired = make_desired(make_task("a", title="Mend it"))

    narrow, wide = rows("task", desired), rows("task", desired, wide=True)

    assert len(narrow) == len(wide)
    assert "Mend it" in wide[1]
    assert "Mend it" not in narrow[1]


def test_a_broken_spec_shows_its_problem():
    problem = Problem("specs/tasks/a.yaml", 2, 1, "unknown field", "gaol", "goal")
    desired = make_desired(broken={"a": (problem,)})

    assert rows("task", desired)[1].endswith(str(problem))
    assert "broken" in rows("task", desired)[1]


@pytest.mark.parametrize(
    ("host", "known", "live", "stand"),
    [
        ({}, None, False, "up"),
        ({"address": "h.example"}, None, False, "unknown"),
        ({"address": "h.example"}, True, False, "up"),
        ({"address": "h.example"}, False, False, "down"),
        ({"address": "h.example"}, "git is missing", False, "unready"),
        ({}, "git is missing", False, "unready"),
        ({"cordon": True}, True, False, "cordoned"),
        ({"drain": True}, True, True, "draining"),
        ({"drain": True}, True, False, "drained"),
    ],
)
def test_a_host_says_in_a_word_whether_it_takes_runs(host, known, live, stand):
    statuses = {"a": status(Phase.RUNNING, run="a.g1.a1", assigned_host="h")} if live else {}
    fault = known if isinstance(known, str) else ""
    found = HostStatus(reachable=bool(known), since=START, fault=fault)
    probes = {} if known is None else {"h": found}
    desired = make_desired(hosts={"h": Host(name="h", **host)})

    assert ReadModel(desired, Observed(statuses, probes)).hosts()["h"].state == stand


def test_the_table_of_hosts_counts_the_slots_in_use():
    desired = make_desired(hosts={"h": Host(name="h", slots=3, labels=("gpu", "linux"))})
    observed = Observed({"a": status(Phase.ASSIGNED, run="a.g1.a1", assigned_host="h")})

    assert rows("host", desired, observed)[1].split() == ["h", "up", "-", "1/3", "gpu,linux"]


PROBED = HostStatus(
    reachable=True,
    since=START,
    os="Linux",
    arch="x86_64",
    boot_id="b00t",
    git="2.39.5",
    adapters={
        "claude-code": HostCli(path="/opt/claude", version="2.1.330", ok=True, message="2.1.330 is in >=2"),
        "codex": HostCli(path="/opt/codex", version="0.39.0", ok=False, message="0.39.0 is not in >=0.98"),
        "gemini": HostCli(ok=False, message="gemini is not there"),
    },
)


@pytest.mark.parametrize(
    ("offered", "message"),
    [
        (None, "any, claude-code 2.1.330"),
        ({}, "none"),
        ({"codex": {}, "gemini": {}, "qwen": {}}, "codex 0.39.0 (will not do), gemini not found, qwen"),
    ],
)
def test_the_wide_table_of_hosts_tells_which_agents_are_there_in_which_version(offered, message):
    desired = make_desired(hosts={"h": Host(name="h", adapters=offered)})

    assert message in rows("host", desired, Observed({}, {"h": PROBED}), wide=True)[1]


def test_large_tasks_take_as_many_slots_as_they_ask_for():
    desired = make_desired(hosts={"h": Host(name="h", slots=2)})
    observed = Observed({"a": status(Phase.RUNNING, run="a.g1.a1", assigned_host="h", slots=3)})

    view = ReadModel(desired, observed).hosts()["h"]

    assert SHOWN_KINDS["host"].document(view)["slots"] == {"used": 3, "free": 0}


def test_a_closed_host_has_been_so_since_people_said_so():
    closed = {"h": START + timedelta(minutes=60)}
    desired = make_desired(hosts={"h": Host(name="h", cordon=True)})
    down = PROBED.model_copy(update={"reachable": False})

    assert ReadModel(desired, Observed({}, {"h": PROBED}), closed=closed).hosts()["h"].since == closed["h"]
    assert ReadModel(desired, Observed({}, {"h": PROBED})).hosts()["h"].since is None
    assert ReadModel(desired, Observed({}, {"h": down}), closed=closed).hosts()["h"].since == START


def test_details_of_a_host_tell_how_it_is_reached_and_what_was_found_there():
    host = Host(
        name="h",
        address="h.example",
        user="agents",
        jump="gate",
        host_key=("ssh-ed25519 AAAA",),
        drain=True,
        drain_until=NOW,
        env={"LANG": "C"},
    )
    observed = Observed({}, {"h": PROBED.model_copy(update={"message": "make room"})})

    text = SHOWN_KINDS["host"].details(ReadModel(make_desired(hosts={"h": host}), observed).hosts()["h"], AGE)

    for message in (
        "drained", "make room", "agents@h.example:22", "gate", "ssh-ed25519 AAAA", "the SSH agent",
        "2030-01-01T10:30:00Z", "LANG=C", "Linux x86_64", "b00t", "2.39.5", "/opt/codex",
        "0.39.0 is not in >=0.98",
    ):  # fmt: skip
        assert message in text


def test_details_of_a_host_without_a_key_say_how_it_is_trusted():
    desired = make_desired(hosts={"h": Host(name="h", address="h.example")})

    assert "reconciler host trust h" in SHOWN_KINDS["host"].details(
        ReadModel(desired, Observed()).hosts()["h"], AGE
    )


def test_every_kind_has_a_table_a_document_and_details():
    desired = make_desired(
        make_task("a", validation=["true"]),
        accounts={"one": Account(name="one", provider="acme", adapters=("script",))},
        agents={"jeeves": Agent(name="jeeves", capabilities=("gpu",))},
        repos={"web": Repo(name="web", url="../web", validation=("make test",))},
        adapters={"script": Adapter(name="script", command=("{shell}", "-c", "{script}"))},
    )
    desired = replace(desired, campaigns={"up": Campaign(name="up", tasks=("a",))})
    checks = (Check(command="make test", exit_code=2, seconds=1.25, output="1 failed"),)
    observed = Observed({"a": status(Phase.FAILED, attempt=1, run="a.g1.a1", checks=checks)})

    for kind in SHOWN_KINDS.values():
        (item, *_) = kind.pick(ReadModel(desired, observed))
        document = kind.document(item)
        assert json.loads(json.dumps(document)) == document
        assert (document["kind"], document["name"]) == (kind.name, item.name)
        assert kind.details(item, AGE).startswith(f"{kind.name}:")
        assert len(rows(kind.name, desired, observed, wide=True)) > 1


def test_the_shape_of_a_tasks_document_is_a_promise():
    view = ReadModel(make_desired(make_task("a")), Observed({"a": status(Phase.RUNNING)})).task("a")

    document = SHOWN_KINDS["task"].document(view)

    assert list(document) == [
        "kind", "name", "phase", "since", "reason", "cause", "conditions", "problems", "spec", "status",
    ]  # fmt: skip
    assert document["phase"] == "running"
    assert document["spec"]["goal"] == "Do a."
    assert document["status"]["since"] == "2030-01-01T09:00:00Z"
    assert set(document["conditions"][0]) == {"type", "status", "reason", "message", "since"}


def test_details_of_a_task_tell_its_validation_and_its_reason():
    checks = (Check(command="make test", exit_code=2, seconds=1.25, output="1 failed"),)
    failure = Failure(kind=FailureClass.VALIDATION, message="make test exited with 2")
    observed = Observed({"a": status(Phase.FAILED, attempt=1, checks=checks, failure=failure)})
    view = ReadModel(make_desired(make_task("a")), observed).task("a")

    text = SHOWN_KINDS["task"].details(view, AGE)

    assert "validation: make test exited with 2" in text
    assert "make test   2     1.2" in text


def test_details_of_a_task_name_the_files_that_are_written_for_it_and_not_what_is_in_them():
    files = {".npmrc": {"template": "//registry.example.org/:_authToken={{ secrets.TOKEN }}"}}
    [view] = ReadModel(make_desired(make_task("a", files=files)), Observed()).tasks().values()

    text = SHOWN_KINDS["task"].details(view, AGE)

    assert "files:" in text
    assert ".npmrc" in text
    assert "secrets.TOKEN" not in text


def test_an_unknown_name_is_told_with_the_one_that_may_be_meant():
    desired = make_desired(make_task("web/fix-login"))

    with pytest.raises(NotFound, match=r"no task 'web/fix-logn' \(did you mean 'web/fix-login'\?\)"):
        SHOWN_KINDS["task"].pick(ReadModel(desired, Observed()), ["web/fix-logn"])


# --- Plans -----------------------------------------------------------------


def test_a_plan_says_what_starts_where_and_what_waits_for_what():
    desired = make_desired(make_task("a"), make_task("b", depends_on=["a"]))

    planned = plan(desired, Observed(), NOW)

    assert has_changes(planned)
    start, wait = plan_lines(planned)
    assert (start.verb, start.task, start.host) == ("start", "a", "local")
    assert (wait.verb, wait.task) == ("wait", "b")
    assert wait.reason.startswith("Dependency: ")


def test_a_plan_says_of_every_host_why_not():
    desired = make_desired(
        make_task("a", requires=["gpu"]),
        hosts={"big": Host(name="big", labels=("gpu",)), "small": Host(name="small")},
    )

    placement = plan(desired, Observed(), NOW).placements["a"]

    assert [(row[0], row[1]) for row in placement_rows(placement)] == [("big", "chosen"), ("small", "no")]
    assert "gpu" in list(placement_rows(placement))[1][3]


def test_a_settled_fleet_has_no_changes():
    task = make_task("a")
    done = status(Phase.COMPLETED, generation=task.generation, work=task.work)

    planned = plan(make_desired(task), Observed({"a": done}), NOW)

    assert not has_changes(planned)
    assert plan_lines(planned) == []


def test_a_removed_task_that_runs_is_stopped_and_removed():
    task = make_task("a")
    keep = {name: status(Phase.CREATED, generation=make_task(name).generation) for name in "bcdefg"}
    live = status(Phase.RUNNING, run="a.g1.a1", round=1, assigned_host="local", generation=task.generation)

    planned = plan(make_desired(*map(make_task, "bcdefg")), Observed({"a": live, **keep}), NOW)

    assert {line.verb for line in plan_lines(planned) if line.task == "a"} == {"remove", "stop"}


def test_the_shape_of_a_plans_document_is_a_promise():
    desired = make_desired(make_task("a"), make_task("b", depends_on=["a"]))

    document = plan_document(plan(desired, Observed(), NOW), desired)

    assert json.loads(json.dumps(document)) == document
    assert list(document) == ["revision", "changes", "actions", "waiting", "placements", "problems"]
    assert set(document["actions"][0]) == {"action", "task", "host", "reason"}
    assert set(document["waiting"][0]) == {"task", "reason", "message"}
    assert set(document["placements"]["a"]) == {"chosen", "account", "ranked", "rejected"}
