# ruff: noqa: E501 - a message stands on one line, as it is printed
"""What validate says of `notify`: what cannot be, and what never matches, with line and column."""

import re
from pathlib import Path

import pytest

from reconciler.dispatch.secrets import secret_variables
from reconciler.specs.build import build
from reconciler.specs.parse import File

ROOT = Path(__file__).parents[2]
FILES = {
    "specs/repos/shop.yaml": "url: https://example.org/shop.git\n",
    "specs/hosts/gpu1.yaml": "labels: [gpu]\n",
    "specs/tasks/web/a.yaml": "goal: x\nscript: x\nlabels: team=web\n",
}
HEAD = "notify:\n  targets: {phone: {env: PHONE}}\n"


def said(text):
    files = {**FILES, "specs/fleet.yaml": text}
    desired = build({path: File("100644", path + each, each.encode()) for path, each in files.items()})
    return [str(each).removeprefix("specs/fleet.yaml:") for each in (*desired.problems, *desired.warnings)]


def of_rule(rule):
    return said(f"{HEAD}  rules:\n    - {{to: phone, {rule}}}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEAD}  rules: [{{to: fone}}]\n", "3:16: error: notify.rules.0.to: no target 'fone' (did you mean 'phone'?)"),
        (f"{HEAD}  rules: [{{to: [phone, me]}}]\n", "3:24: error: notify.rules.0.to.1: no target 'me'; `targets` has phone"),
        (f"{HEAD}  rules: [{{to: []}}]\n", "3:16: error: notify.rules.0.to: names nobody; expected a target"),
        (f"{HEAD}  rules: [{{urgent: true}}]\n", "3:11: error: notify.rules.0.to: is missing"),
        (f"{HEAD}  quiet: 22-7\n", "3:10: error: notify.quiet: expected hours such as"),
        (f"{HEAD}  quiet: ['22:00-07:00', 'son 00:00-24:00']\n", "3:26: error: notify.quiet.1: expected days such as"),
        (f"{HEAD}  timezone: Mars\n", "3:13: error: notify.timezone: expected a time zone such as"),
        ("notify: {targets: {a: {}}}\n", "1:23: error: notify.targets.a: needs exactly one of env, file, command"),
        ("notify: {targets: {a: {env: A, on: host}}}\n", "1:36: error: notify.targets.a.on: only the reconciler sends"),
        ("notify:\n  targets:\n    a: ntfys://ntfy.sh/topic\n", "3:8: error: notify.targets.a: "),
    ],
)  # fmt: skip
def test_what_cannot_be_is_a_mistake(text, message):
    assert any(each.startswith(message) for each in said(text)), said(text)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("transitions: runing", "error: notify.rules.0.transitions: 'runing' is no phase of a task or state of a host; did you mean 'running'?"),
        ("transitions: [a -> b -> c]", "error: notify.rules.0.transitions.0: expected a phase, or two such as"),
        ("reasons: host_down", "error: notify.rules.0.reasons: 'host_down' is no reason"),
        ("reasons: Quotas", "error: notify.rules.0.reasons: 'Quotas' is no reason to wait and no class of failure; did you mean"),
        ("transitions: completed -> running", "warning: notify.rules.0.transitions: never happens: a task comes to running from assigned"),
        ("transitions: running -> down", "warning: notify.rules.0.transitions: never happens: a host comes to down from another of"),
        ("transitions: '* -> down', tasks: web/*", "warning: notify.rules.0.tasks: never matches: `transitions` names states of hosts"),
        ("repos: shopp", "warning: notify.rules.0.repos: no repo 'shopp' (did you mean 'shop'?)"),
        ("labels: [gpu, team=web, team=wbe]", "warning: notify.rules.0.labels.2: no task and no host has the label 'team=wbe' (did you mean 'team=web'?)"),
        ("tasks: wep/*", "warning: notify.rules.0.tasks: no task is called like 'wep/*'"),
        ("escalate_to: phone", "warning: notify.rules.0.escalate_to: has no effect: it needs `escalate_after`"),
        ("transitions: completed, escalate_after: 1h", "warning: notify.rules.0.escalate_after: has no effect"),
        ("transitions: completed, resolved: true", "warning: notify.rules.0.resolved: has no effect"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_match_says_why(rule, message):
    assert any(message in each and each.startswith("4:") for each in of_rule(rule)), of_rule(rule)


@pytest.mark.parametrize(
    "rule",
    [
        "urgent: true, resolved: true, escalate_after: 1h",
        "transitions: [failed, '* -> escalated', running -> completed, up -> down, '*']",
        "reasons: [Host, auth, Forge, Reconciler], repos: shop, labels: gpu, tasks: web/*",
        "transitions: review_pending, escalate_after: 4h, escalate_to: phone",
    ],
)
def test_a_rule_that_can_match_is_not_doubted(rule):
    assert of_rule(rule) == []


def test_a_target_that_nothing_is_sent_to_is_doubted():
    assert said(HEAD) == ["2:13: warning: notify.targets.phone: has no effect: no rule sends anything to it"]


def test_the_variables_of_targets_are_secrets_that_no_agent_inherits():
    text = f"{HEAD}  rules: [{{to: phone}}]\n"
    desired = build({"specs/fleet.yaml": File("100644", "x", text.encode())})

    assert "PHONE" in secret_variables(desired)


def test_the_examples_in_the_documentation_and_of_init_are_good():
    page = (ROOT / "docs/notifications.md").read_text()
    fleet = (ROOT / "reconciler/cli/scaffold/specs/fleet.yaml").read_text()
    [scaffold] = re.findall(r"^# notify:\n(?:#  .*\n)+", fleet, re.MULTILINE)

    assert said(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0]) == []
    assert said(re.sub(r"^# ", "", scaffold, flags=re.MULTILINE)) == []
