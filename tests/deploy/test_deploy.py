"""
What is handed out beside the program: the dashboard and the alerts name metrics that are there.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reconciler.api.metrics import TABLE

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy/prometheus-alerts.yaml"
DASHBOARD = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
PARTS = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
NAMES = {definition.name + part for definition in TABLE for part in PARTS[definition.kind]}
LABELS = {label for definition in TABLE for label in definition.labels} | {"instance", "le", "job"}

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="needs promtool (Debian: prometheus)"
)


def named(text):
    return set(re.findall(r"reconciler_\w+", text))


def promtool(*words):
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_names_metrics_that_are_there():
    assert len(EXPRESSIONS) > 20
    assert named(" ".join(EXPRESSIONS)) <= NAMES


def test_every_metric_is_on_the_dashboard_but_those_that_say_nothing_over_time():
    shown = named(json.dumps(DASHBOARD))
    unseen = {each.name for each in TABLE if not {each.name + part for part in PARTS[each.kind]} & shown}

    assert unseen == {
        "reconciler_leader",
        "reconciler_last_look_timestamp_seconds",
        "reconciler_http_request_duration_seconds",
    }


def test_the_dashboard_groups_by_labels_that_are_there():
    text = " ".join(EXPRESSIONS)
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", text) for label in group.split(",")}
    legends = {
        label
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"])
    }

    assert grouped | legends <= LABELS


def test_the_panels_of_the_dashboard_lie_beside_each_other():
    squares = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(squares) == len(set(squares))
    assert max(x for x, _ in squares) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_alerts_name_metrics_that_are_there():
    text = re.sub(r"reconciler_\w+(?=-)", "", ALERTS.read_text())

    assert len(named(text)) > 8
    assert named(text) <= NAMES


@needs_promtool
def test_the_alerts_are_good_rules():
    promtool("check", "rules", ALERTS)


@needs_promtool
def test_the_alerts_are_raised_when_they_should_be_and_not_before():
    promtool("test", "rules", ROOT / "tests/deploy/prometheus-alerts.test.yaml")


@needs_promtool
def test_what_the_dashboard_asks_can_be_asked(tmp_path):
    queries = [
        expression.replace("$__rate_interval", "5m").replace("$instance", ".*") for expression in EXPRESSIONS
    ]
    rules = [{"record": f"panel:{at}", "expr": query} for at, query in enumerate(queries)]
    file = tmp_path / "rules.json"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))

    promtool("check", "rules", file)


def test_every_alert_has_a_test_of_when_it_is_raised():
    tests = (ROOT / "tests/deploy/prometheus-alerts.test.yaml").read_text(encoding="utf-8")
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text(encoding="utf-8"))

    assert [alert for alert in alerts if not re.search(rf"alertname: {alert}\n +exp_alerts:\n", tests)] == []
