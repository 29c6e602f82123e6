# ruff: noqa: E501 - a message stands on one line, as it is printed
"""What validate says of specs that can be read, but cannot work or have no effect."""

import base64

import pytest

from reconciler.specs.build import build
from reconciler.specs.expressions import check_expression
from reconciler.specs.layers import builtin_adapters
from reconciler.specs.parse import File
from reconciler.specs.sshkeys import check_host_key

HOST, TASK, ADAPTER, REPO = (f"specs/{kind}s/x.yaml" for kind in ("host", "task", "adapter", "repo"))
FLEET, AGENT = "specs/fleet.yaml", "specs/agents/x.yaml"
GOOD = {
    "specs/hosts/near.yaml": "labels: [linux]\nslots: 2\n",
    "specs/repos/shop.yaml": "url: https://example.org/shop.git\n",
    "specs/tasks/first.yaml": "goal: x\nscript: x\nrepo: shop\n",
}
_WORK = "goal: x\nscript: x\n"


def built(files):
    whole = {**GOOD, **files}
    return build({path: File("100644", path + text, text.encode()) for path, text in whole.items()})


def said(path, text):
    desired = built({path: text})
    return [str(each).removeprefix(f"{path}:") for each in (*desired.problems, *desired.warnings)]


def key(kind, *fields):
    data = b"".join(len(field).to_bytes(4) + field for field in (kind.encode(), *fields))
    return f"{kind} {base64.b64encode(data).decode()}"


ED25519 = key("ssh-ed25519", b"k" * 32)

CANNOT_WORK = [
    (
        HOST,
        "address: a.example.org\nhost_key: nonsense\n",
        "2:11: error: host_key: expected a public key such as",
    ),
    (HOST, f"address: a.example.org\nhost_key: [{ED25519}, ssh-ed25519 AAAA]\n", "2:"),
    (
        HOST,
        "address: a.example.org\nworkdir: relative/dir\n",
        "2:10: error: workdir: expected a path that begins with / or ~/",
    ),
    (HOST, "address: a.example.org\nworkdir: /srv/my runs\n", "2:10: error: workdir: may have letters"),
    (HOST, "identity: id_ed25519\n", "1:11: error: identity: expected a path that begins with / or ~/"),
    (
        TASK,
        _WORK + "template: 'Do {{ gaol }}'\n",
        "3:11: error: template: unknown variable 'gaol'; known here: task,",
    ),
    (
        TASK,
        _WORK + "template: 'Do {{ atempt }}'\n",
        "3:11: error: template: unknown variable 'atempt' (did you mean 'attempt'?)",
    ),
    (
        TASK,
        _WORK + "template: 'Do {% if attempt > 9 %}{{ x }}{% endif %}'\n",
        "3:11: error: template: unknown variable 'x'",
    ),
    (TASK, _WORK + "template: 'Do {{ task.gaol }}'\n", "3:11: error: template: Task has no field 'gaol'"),
    (TASK, _WORK + "template: 'Do {{ failed_check.output }}'\n", "3:11: error: template: "),
    (TASK, _WORK + "template: 'Do {{ repo.url }}'\n", "3:11: error: template: "),
    (TASK, _WORK + "review: merge\n", "3:9: error: review: merge needs a `repo`"),
    (ADAPTER, "command: [x]\nprompt: argument\n", "2:1: error: prompt: argument needs {prompt} in `command`"),
    (ADAPTER, "command: [x]\nprompt: file\n", "2:1: error: prompt: file needs {prompt_file} in `command`"),
    (
        ADAPTER,
        "command: [x]\nmodel: [-m, '{model}']\n",
        "2:1: error: model: has no effect: `command` has no {model}",
    ),
    (ADAPTER, "command: [x, '{model}']\nmodel: [-m, big]\n", "2:1: error: model: has no {model}"),
    (ADAPTER, "command: [x]\nresume: [-r, '{session_id}']\n", "2:1: error: resume: has no effect"),
    (ADAPTER, "command: [x]\nlimits: {turns: 3}\n", "2:10: error: limits.turns: has no effect"),
    (
        ADAPTER,
        "command: [x]\noutput: {format: json, text: 'lenght(@)'}\n",
        "2:30: error: output.text: there is no function lenght(); did you mean length()?",
    ),
    (
        ADAPTER,
        "command: [x]\noutput: {format: json, schema_flag: -s}\n",
        "2:24: error: output.schema_flag: needs `structured`",
    ),
    (
        ADAPTER,
        "command: [x]\noutput: {format: json, exit_codes: {'300': quota}}\n",
        "2:37: error: output.exit_codes.300: no process ends with it",
    ),
    (
        ADAPTER,
        "command: [x]\noutput: {format: json, structured: a}\n",
        "2:24: error: output.structured: has no effect",
    ),
    (ADAPTER, "command: [x]\nhealth: {command: []}\n", "2:19: error: health.command: must name a program"),
    (
        ADAPTER,
        "command: [x]\ncleanup: [../y]\n",
        "2:11: error: cleanup.0: expected a path inside the workspace",
    ),
    (
        ADAPTER,
        "command: [x]\nsecrets: {K: {file: k}}\n",
        "2:21: error: secrets.K.file: expected a path that begins with / or ~/",
    ),
    (REPO, "url: /x\npaths: [' ']\n", "2:9: error: paths.0: must not be empty"),
    (FLEET, "template: '{{ nothing }}'\n", "1:11: error: template: unknown variable 'nothing'"),
]
HAS_NO_EFFECT = [
    (HOST, "user: me\n", "1:1: warning: user: has no effect: without `address`"),
    (HOST, "drain_until: 2030-01-01\n", "1:1: warning: drain_until: has no effect: it needs `drain: true`"),
    (HOST, "daily_budget: {}\n", "1:15: warning: daily_budget: limits nothing"),
    (AGENT, "capabilities: [a]\n", "1:1: warning: has no `token_hash`"),
    (REPO, "url: /x\nmerge: when_green\n", "2:1: warning: merge: has no effect: it needs a `forge`"),
    (FLEET, "limits: {gpu: 2}\n", "1:10: warning: limits.gpu: has no effect: no host and no agent has the label 'gpu'"),
    (FLEET, "issues: {authors: [a]}\n", "1:1: warning: issues: has no effect: no repo has a `forge`"),
    (FLEET, "backoff_cap: 1s\n", "1:14: warning: backoff_cap: is shorter than `backoff`"),
    (TASK, _WORK + "requires: linx\n", "3:11: warning: requires: no host has the label 'linx' (did you mean 'linux'?)"),
    (TASK, _WORK + "prefer: fast\n", "3:9: warning: prefer: no host and no agent has"),
    (TASK, _WORK + "slots: 9\n", "3:8: warning: slots: no host that fits has 9 slots"),
    (TASK, _WORK + "model: big\n", "3:1: warning: model: has no effect: adapter 'script' has no arguments"),
    (TASK, _WORK + "branch_name: b\n", "3:1: warning: branch_name: has no effect: it needs a `repo`"),
    (TASK, _WORK + "repo: shop\nvalidate_on: far\n", "4:14: warning: validate_on: no host 'far'"),
    (TASK, _WORK + "repo: shop\nvalidate_on: near\n", "4:1: warning: validate_on: has no effect"),
    (TASK, _WORK + "timezone: Europe/Berlin\n", "3:1: warning: timezone: has no effect"),
    (TASK, _WORK + "timeout: 1h\nstall_timeout: 2h\n", "4:1: warning: stall_timeout: has no effect"),
    (TASK, _WORK + "repo: shop\ndepends_on: first\n", "4:13: warning: depends_on: brings order, not work: 'first' is completed"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "text", "message"), CANNOT_WORK)
def test_what_cannot_work_is_a_mistake_with_its_place(path, text, message):
    found = said(path, text)

    assert any(each.startswith(message) for each in found), found
    assert built({path: text}).problems


@pytest.mark.parametrize(("path", "text", "message"), HAS_NO_EFFECT)
def test_what_has_no_effect_is_a_warning_with_its_place_and_breaks_nothing(path, text, message):
    found = said(path, text)

    assert any(each.startswith(message) for each in found), found
    assert built({path: text}).problems == ()


def test_a_fleet_in_which_everything_works_is_not_doubted():
    assert (built({}).problems, built({}).warnings) == ((), ())


def test_the_built_in_adapters_and_what_is_laid_over_them_are_not_doubted():
    over = {f"specs/adapters/{name}.yaml": "command: [wrapper]\n" for name in builtin_adapters()}
    more = {**over, "specs/adapters/claude-code.yaml": "output: {cost_usd: cost}\nlimits: {turns: 9}\n"}

    del more["specs/adapters/script.yaml"]

    assert (built(more).problems, built(more).warnings) == ((), ())


@pytest.mark.parametrize(
    "fields",
    ["review: merge", "repo: other", "desired: cancelled", "review: pull_request"],
)
def test_a_task_that_starts_with_the_work_of_the_other_or_has_no_use_for_it_is_not_warned(fields):
    files = {
        "specs/tasks/first.yaml": f"goal: x\nscript: x\n{'' if 'repo' in fields else 'repo: shop'}\n{fields}\n",
        "specs/tasks/second.yaml": "goal: x\nscript: x\nrepo: shop\ndepends_on: first\n",
        "specs/repos/other.yaml": "url: https://example.org/other.git\n",
    }

    assert not [each for each in built(files).warnings if "order, not work" in each.message]


def test_a_warning_goes_when_the_other_file_is_mended():
    desired = built({TASK: _WORK + "requires: gpu\n", HOST: "labels: [gpu]\n"})

    assert desired.warnings == ()


GOOD_KEYS = [
    ED25519,
    f"{ED25519} root@there",
    key("ssh-rsa", b"\1\0\1", b"\0" + b"n" * 256),
    key("ecdsa-sha2-nistp256", b"nistp256", b"\4" + b"p" * 64),
]
BAD_KEYS = [
    ("nonsense", "expected a public key"),
    ("ssh-ed25519", "expected a public key"),
    ("ssh-ed25519 x", "not whole"),
    (ED25519[:-8], "not whole"),
    (key("ssh-ed25519", b"k" * 31), "not whole"),
    (ED25519.replace("ssh-ed25519", "ssh-rsa", 1), "not whole"),
    (key("ecdsa-sha2-nistp256", b"nistp384", b"p"), "not whole"),
    (f"there.example.org {ED25519}", "leave out 'there.example.org'"),
    ("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"),
    ("", "expected a public key"),
]


@pytest.mark.parametrize("line", GOOD_KEYS)
def test_a_public_key_is_taken(line):
    check_host_key(line)


@pytest.mark.parametrize(("line", "message"), BAD_KEYS)
def test_what_is_no_whole_public_key_is_refused_with_words(line, message):
    with pytest.raises(ValueError, match=message):
        check_host_key(line)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("nothing(@)", "there is no function nothing"),
        ("[].{a: b, c: joined('', d)}", "did you mean join"),
        ("[?starts_with(a)]", "takes 2 arguments, not 1"),
        ("merge()", "takes 1 argument or more, not 0"),
        ("length(", "not a JMESPath expression"),
    ],
)
def test_a_misspelt_expression_is_refused_wherever_the_mistake_stands(expression, message):
    with pytest.raises(ValueError, match=message):
        check_expression(expression)
