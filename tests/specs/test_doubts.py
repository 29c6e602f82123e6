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
FORGE = "api: 'https://h/api', repo: a/b, token: {env: T}"
APP = "app: {id: 1, key: {env: K}}"
GOOD = {
    "specs/hosts/near.yaml": "labels: [linux]\nslots: 2\n",
    "specs/repos/shop.yaml": "url: https://example.org/shop.git\n",
    "specs/hosts/few.yaml": "adapters: {claude-code: {}}\nrepos: [few]\n",
    "specs/repos/few.yaml": "url: https://example.org/few.git\nadapter: claude-code\n",
    "specs/agents/a.yaml": f"token_hash: {'a' * 64}\n",
    "specs/tasks/first.yaml": "goal: x\nscript: x\nrepo: shop\n",
    "specs/tasks/gone.yaml": "goal: x\nscript: x\nrepo: shop\ndesired: cancelled\n",
}
_WORK = "goal: x\nscript: x\n"
_MANY = "goal: x\nrepo: few\nrequires: few\n"


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
    (TASK, _MANY + "variants: 2\nschedule: '0 3 * * *'\n", "4:1: error: variants: and `schedule` exclude each other"),
    (TASK, _MANY + "variants: 2\nexecution_mode: http_pull\n", "4:1: error: variants: are for runs on hosts"),
    (TASK, _MANY + "variants: 2\nmode: plan\n", "4:1: error: variants: and `mode: plan` exclude each other"),
    (TASK, _WORK + "variants: 2\n", "3:1: error: variants: need a `repo`"),
    (TASK, _MANY + "variants: 2\njudge: script\n", "5:8: error: judge: adapter 'script' runs the task's own `script`"),
    (TASK, _MANY + "variants: 2\njudge: {adapter: person, model: m}\n", "5:26: error: judge.model: is for an agent"),
    (TASK, _MANY + "depends_on: ['first@1']\n", "4:14: error: depends_on.0: 'first@1' is a variant: name the task"),
    (TASK, _MANY + "start_from: first@2\n", "4:13: error: start_from: 'first@2' is a variant: name the task"),
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
        "3:18: error: template: unknown variable 'gaol'; known here: task,",
    ),
    (
        TASK,
        _WORK + "template: 'Do {{ atempt }}'\n",
        "3:18: error: template: unknown variable 'atempt' (did you mean 'attempt'?)",
    ),
    (
        TASK,
        _WORK + "template: 'Do {% if attempt > 9 %}{{ x }}{% endif %}'\n",
        "3:38: error: template: unknown variable 'x'",
    ),
    (TASK, _WORK + "template: 'Do {{ task.gaol }}'\n", "3:23: error: template: Task has no field 'gaol'"),
    (TASK, _WORK + "template: 'Do {{ failed_check.output }}'\n", "3:12: error: template: "),
    (TASK, _WORK + "template: 'Do {{ repo.url }}'\n", "3:12: error: template: "),
    (
        TASK,
        _WORK + "template: '{% if attempt > 9 %}{{ failure.gaol }}{% endif %}'\n",
        "3:43: error: template: Failure has no field 'gaol'",
    ),
    (
        TASK,
        _WORK + "template: '{{ task.constraints[0] }}'\n",
        "3:12: error: template: tuple object has no element 0",
    ),
    (TASK, _WORK + "template: '{{ task.model | length }}'\n", "3:12: error: template: object of type 'NoneType'"),
    *(
        (ADAPTER, f"command: [x]\n{field}: {value}\n", f"2:{column}: error: {words}")
        for field, value, column, words in (
            ("version", "{command: [x, '{model}'], range: '>=1'}", 24, "version.command.1: {model} is filled in nowhere but"),
            ("health", "{command: [x, '{prompt}']}", 23, "health.command.1: {prompt} is filled in nowhere but"),
            ("secrets", "{A: {command: [x, 'a={workdir}']}}", 28, "secrets.A.command.1: {workdir} is filled in nowhere"),
        )
    ),
    (TASK, _WORK + "review: merge\n", "3:9: error: review: merge needs a `repo`"),
    *(
        (ADAPTER, f"command: [x, '{text}']\n", f"1:10: error: command: {text} is no placeholder; write {{{name}}}")
        for text, name in (("{Prompt}", "prompt"), ("${script}", "script"), ("{{workdir}}", "workdir"), ("{ session }", "session"))
    ),
    (ADAPTER, "command: [~/bin/x]\n", "1:11: error: command.0: is taken as it stands, no shell reads it"),
    (ADAPTER, "command: ['$HOME/x']\n", "1:11: error: command.0: is taken as it stands"),
    (ADAPTER, "command: [x]\ntemplate: 'Do {{ gaol }}'\n", "2:18: error: template: unknown variable 'gaol'"),
    (HOST, "address: 300.1.2.3\n", "1:10: error: address: expected the name or the IP address"),
    (HOST, "address: 10.0.0\n", "1:10: error: address: expected the name or the IP address"),
    (REPO, "url: https://example.org:0/shop\n", "1:6: error: url: no port is 0"),
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
    (FLEET, "template: '{{ nothing }}'\n", "1:15: error: template: unknown variable 'nothing'"),
    *((REPO, f"url: '{url}'\n", f"1:6: error: url: {words}") for url, words in {
        "https://host": "names a machine and no repository there",
        "ssh://git@host/": "names a machine and no repository there",
        "[::1]:": "names a machine and no repository there",
        "git@host:": "names a machine and no repository there",
        "file:///": "names a machine and no repository there",
        "file://other/srv/x": "names the machine 'other'",
        "~/shop": "a path begins with / or is relative",
        "https://host:99999/a": "not an address",
        "https://host/a#main": "an address of git has no `#`",
    }.items()),
    (REPO, "url: /x\npaths: ['!a']\n", "2:8: error: paths: only takes files away"),
    (REPO, "url: /x\npaths: ['# a']\n", "2:9: error: paths.0: is a comment"),
    (REPO, "url: /x\npaths: [../a]\n", "2:9: error: paths.0: fits no file"),
    (REPO, "url: /x\npaths: ['/']\n", "2:9: error: paths.0: fits no file"),
    (REPO, f"url: /x\nforge: {{{FORGE}, ca: x.pem}}\n", "2:63: error: forge.ca: expected a path that begins"),
    (REPO, "url: /x\nforge: {api: 'https://h/api', repo: a/b}\n", "2:8: error: forge: expected exactly one of"),
    (REPO, f"url: /x\nforge: {{{FORGE}, {APP}}}\n", "2:64: error: forge.app: expected exactly one of"),
    (REPO, f"url: /x\nforge: {{{FORGE.replace('token: {env: T}', APP)}}}\n", "2:47: error: forge.app: only GitHub"),
    (HOST, "address: h\nuser: a b\n", "2:7: error: user: expected the name of a user"),
    (HOST, "address: h\njump: 'a@:1'\n", "2:7: error: jump: expected a host's name or"),
    (HOST, "address: h\njump: me@gate:99999\n", "2:7: error: jump: no port is 99999"),
    (HOST, "address: h\njump: me@gate:22\n", "2:7: error: jump: is no host of this fleet"),
    (HOST, "address: h\njump: near\n", "2:7: error: jump: host 'near' has no `address`"),
    (HOST, "shell: bin/sh\n", "1:8: error: shell: expected a name"),
    (HOST, "identity: ~/.ssh/\n", "1:11: error: identity: names a folder"),
    (HOST, "adapters: {codex: {path: bin/codex}}\n", "1:26: error: adapters.codex.path: expected a path that"),
    (HOST, "adapters: {codex: {version: '>=2,<1'}}\n", "1:29: error: adapters.codex.version: no version is in"),
    (HOST, "labels: ['']\n", "1:10: error: labels.0: must not be empty"),
    (TASK, _WORK + "constraints: [a, ' ']\n", "3:18: error: constraints.1: must not be empty"),
    (TASK, "goal: x\nscript: ' '\n", "2:9: error: script: must not be empty"),
    (TASK, _WORK + "model: ' '\n", "3:8: error: model: must not be empty"),
    (ADAPTER, "command: [x, '{session}']\n", "1:10: error: command: {session} has no effect: `fresh` and `resume`"),
    (ADAPTER, "command: [x, '{turns}']\n", "1:10: error: command: {turns} has no effect: `turns` says nothing"),
    (ADAPTER, "command: [x, '{model}']\n", "1:10: error: command: {model} has no effect: `model` says nothing"),
    (ADAPTER, "command: [x, '{prompt}']\n", "1:10: error: command: {prompt} needs `prompt: argument`"),
    (ADAPTER, "command: [x, '{prompt_file}']\n", "1:10: error: command: {prompt_file} needs `prompt: file`"),
    (ADAPTER, "command: ['{model}']\nmodel: ['{model}']\n", "1:11: error: command.0: must name a program"),
    (ADAPTER, "command: [claude -p]\n", "1:11: error: command.0: names a program with a blank in it"),
    (ADAPTER, "command: [x]\nversion: {command: [x], range: '>=2,<1'}\n", "2:32: error: version.range: no version"),
    (ADAPTER, "command: [x]\nversion: {command: [x], pattern: '(v)'}\n", "2:34: error: version.pattern: finds 'v'"),
    (ADAPTER, "command: [x]\nsecrets: {A: {command: ['']}}\n", "2:25: error: secrets.A.command.0: must name"),
    (ADAPTER, "command: [x]\ncleanup: [./.git]\n", "2:11: error: cleanup.0: is the workspace itself, or git's"),
    (ADAPTER, "command: [x]\nenv: {A: b}\nsecrets: {A: {env: B}}\n", "2:7: error: env.A: has no effect"),
    (ADAPTER, "command: [x, '{session}']\nresume: [-r]\n", "2:1: error: resume: has no effect: `output.session_id`"),
    (ADAPTER, "command: [x]\noutput: {format: json}\n", "2:18: error: output.format: json needs `text`"),
    (AGENT, f"token_hash: {'a' * 64}\n", "1:13: error: token_hash: is that of agent 'a' too"),
    *((ADAPTER, f"command: [x]\noutput:\n  text: '[-1].t'\n  format: json\n  {rule}\n", f"5:{words}")
      for rule, words in {
        "error_class: \"'quotta'\"": "16: error: output.error_class: there is no failure class 'quotta'; did you",
        "error_class: \"[0].x && 'bugdet'\"": "16: error: output.error_class: there is no failure class 'bugdet'",
        "turns: \"length('x')\"": "10: error: output.turns: length() is given nothing of what was printed",
        "cost_usd: \"'free'\"": "13: error: output.cost_usd: is the same whatever was printed",
        "success: '`true`'": "12: error: output.success: is always true",
        'success: "[-1].a && `false`"': "12: error: output.success: is always false",
        "success: \"type=='result'\"": "12: error: output.success: a comparison never holds",
        "success: \"[?'type'=='result']\"": "12: error: output.success: a comparison is given nothing",
        "success: '[?type==\"result\"]'": '12: error: output.success: "result" in double quotes is a field',
        "success: \"[?cost > '3']\"": "12: error: output.success: never holds: only numbers",
        "error: 'message'": "10: error: output.error: finds nothing: it is asked of the list of all events",
        "error: \"[?type=='e'].message\"": "10: error: output.error: finds a list where a text is needed",
        "error: \"[?type=='e'][0].message\"": "10: error: output.error: finds nothing",
        "error: 'keys(@)'": "10: error: output.error: keys() takes object, and is given a list",
        "denials: '[0].a == [0].b'": "12: error: output.denials: finds a boolean where a list is needed",
        "give_up: '.*'": "12: error: output.give_up: fits an empty line",
        "give_up: ' x'": "12: error: output.give_up: fits no line: they are looked at without the blanks",
        "give_up: 'x$y'": "12: error: output.give_up: fits no line: it asks for more",
        "error_lines: ['x{900}']": "17: error: output.error_lines.0: fits no line: no more than 500",
        "error_patterns: {quota: 'x*'}": "27: error: output.error_patterns.quota: fits an empty line",
        "give_up_after: 3": "3: error: output.give_up_after: has no effect",
        "cumulative: [cost]": "16: error: output.cumulative.0: has no effect",
        "exit_codes: {'007': quota}": "16: error: output.exit_codes.007: has no effect: write 7",
        "exit_codes: {'137': quota}": "16: error: output.exit_codes.137: has no effect: it means the end by SIGKILL",
    }.items()),
    *((ADAPTER, f"command: [x]\noutput:\n  format: text\n  {rule}\n", f"4:{words}") for rule, words in {
        "error: '(.*)'": "10: error: output.error: fits an empty line",
        "error: 'a.b\\n'": "10: error: output.error: fits no line: each line is looked at by itself",
        "input_tokens: '(tokens)'": "17: error: output.input_tokens: finds 'tokens', and never a number",
        "success: '[-1].ok'": "12: error: output.success: is a question to events (JMESPath), and rules of `format: text`",
        "text: \"[?kind=='bye'] | [-1].words\"": "9: error: output.text: is a question to events (JMESPath)",
        "error_lines: [x]": "3: error: output.error_lines: has no effect with `format: text`",
    }.items()),
]  # fmt: skip
HAS_NO_EFFECT = [
    (HOST, "user: me\n", "1:1: warning: user: has no effect: without `address`"),
    (
        HOST,
        "address: h\nscheduler: {slurm: {}}\nagent_forwarding: true\n",
        "3:1: warning: agent_forwarding: has no effect: the nodes of a cluster do not reach the login node's agent",
    ),
    (HOST, "drain_until: 2030-01-01\n", "1:1: warning: drain_until: has no effect: it needs `drain: true`"),
    (HOST, "daily_budget: {}\n", "1:15: warning: daily_budget: limits nothing"),
    (AGENT, "capabilities: [a]\n", "1:1: warning: has no `token_hash`"),
    (REPO, "url: /x\nmerge: when_green\n", "2:1: warning: merge: has no effect: it needs a `forge`"),
    (REPO, "url: /x\nmerge: queue\nvalidation: make\n", "2:1: warning: merge: has no effect: it needs a `forge`"),
    (FLEET, "limits: {gpu: 2}\n", "1:10: warning: limits.gpu: has no effect: no host and no agent has the label 'gpu'"),
    (FLEET, "issues: {authors: [a]}\n", "1:1: warning: issues: has no effect: no repo has a `forge`"),
    (FLEET, "lost_after: 50s\n", "1:13: warning: lost_after: is less than two looks (`poll_interval`)"),
    (HOST, "env: {RECONCILER_RUN: x}\n", "1:7: warning: env.RECONCILER_RUN: is a name of the reconciler's own"),
    (TASK, _WORK + "env: {PATH: ''}\n", "3:13: warning: env.PATH: is empty: no program is found"),
    (FLEET, "backoff_cap: 1s\n", "1:14: warning: backoff_cap: is shorter than `backoff`"),
    (TASK, _WORK + "requires: linx\n", "3:11: warning: requires: no host has the label 'linx' (did you mean 'linux'?)"),
    (TASK, _WORK + "prefer: fast\n", "3:9: warning: prefer: no host and no agent has"),
    (TASK, _WORK + "slots: 9\n", "3:8: warning: slots: no host that fits has 9 slots"),
    (TASK, _MANY + "variants: [claude-code, codex]\n", "4:25: warning: variants.1: no host that fits offers the adapter 'codex'"),
    (TASK, _MANY + "review_by: codex\n", "4:12: warning: review_by: no host that fits offers the adapter of the review"),
    (TASK, _WORK + "model: big\n", "3:1: warning: model: has no effect: adapter 'script' has no arguments"),
    (TASK, _WORK + "branch_name: b\n", "3:1: warning: branch_name: has no effect: it needs a `repo`"),
    (TASK, _WORK + "repo: shop\nvalidate_on: far\n", "4:14: warning: validate_on: no host 'far'"),
    (TASK, _WORK + "repo: shop\nvalidate_on: near\n", "4:1: warning: validate_on: has no effect"),
    (TASK, _WORK + "timezone: Europe/Berlin\n", "3:1: warning: timezone: has no effect"),
    (TASK, _WORK + "timeout: 1h\nstall_timeout: 2h\n", "4:1: warning: stall_timeout: has no effect"),
    (TASK, _WORK + "repo: shop\ndepends_on: first\n", "4:13: warning: depends_on: brings order, not work: 'first' is completed"),
    (TASK, _WORK + "repo: shop\nstart_from: gone\n", "4:13: warning: start_from: 'gone' is cancelled"),
    (TASK, _WORK + "repo: shop\nmax_reviews: 9\n", "4:1: warning: max_reviews: has no effect: it needs a `review`"),
    (TASK, _WORK + "fix_attempts: 9\n", "3:1: warning: fix_attempts: has no effect: there is no `validation`"),
    (TASK, _WORK + "allow_empty: true\n", "3:1: warning: allow_empty: has no effect: it needs a `repo`"),
    (TASK, _WORK + "over_budget: stop\n", "3:1: warning: over_budget: has no effect: there is no `budget`"),
    (TASK, _WORK + "budget: {cost_usd: 1}\n", "3:10: warning: budget.cost_usd: has no effect: adapter 'script' has no rule"),
    (TASK, "goal: x\nexecution_mode: http_pull\nmodel: x\n", "3:1: warning: model: has no effect: an agent that takes tasks"),
    (TASK, _WORK + "template: Do it.\n", "3:11: warning: template: is the same for every task"),
    (TASK, "goal: Do {{ task.name }}.\nscript: x\n", "1:7: warning: goal: `{{ task.name }}` stays as it is"),
    (TASK, _WORK + "constraints: [a, 'on {{ branch }}']\n", "3:18: warning: constraints.1: `{{ branch }}` stays"),
    (REPO, "url: /x\nvalidation: ['test {{- attempt }} = 1']\n", "2:14: warning: validation.0: `{{- attempt }}`"),
    (TASK, _WORK + "requires: [linux, linux]\n", "3:19: warning: requires.1: stands twice: 'linux'"),
    (HOST, "drain: true\ncordon: true\n", "2:1: warning: cordon: has no effect"),
    (HOST, "adapters: {}\n", "1:11: warning: adapters: names none"),
    (HOST, "repos: []\n", "1:8: warning: repos: names none"),
    (AGENT, f"token_hash: {'b' * 64}\nscopes: [read]\nslots: 3\n", "3:1: warning: slots: has no effect"),
    (REPO, f"url: /x\nforge: {{{FORGE}}}\nmerge_style: squash\n", "3:1: warning: merge_style: has no effect"),
    (REPO, "url: /x\nmax_running: 0\n", "2:14: warning: max_running: is 0: no run starts"),
    (FLEET, "limits: {linux: 0}\n", "1:17: warning: limits.linux: is 0"),
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
    more = {
        **over,
        "specs/adapters/claude-code.yaml": "output: {cost_usd: '[-1].cost'}\nlimits: {turns: 9}\n",
    }

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


@pytest.mark.parametrize(
    "text", ["{{ user.name }}", "${{ secrets.X }}", "{ {task} }", "{{% task %}}", "{{}}"]
)
def test_what_other_templates_fill_in_is_not_doubted(text):
    assert built({TASK: f"goal: Do {text!r}.\nscript: x\n"}).warnings == ()


def test_a_format_that_does_not_go_with_the_rules_it_inherits_is_a_mistake():
    path = "specs/adapters/gemini.yaml"

    found = said(path, "output:\n  format: text\n")

    assert any(each.startswith("1:1: error: output.reader: reads events") for each in found), found


@pytest.mark.parametrize(("below", "is_warned"), [("none", True), ("merge", False), ("pull_request", False)])
def test_a_pull_request_that_is_stacked_on_work_nobody_merges_is_warned_of(below, is_warned):
    files = {
        "specs/repos/forged.yaml": f"url: https://example.org/f.git\nforge: {{{FORGE}}}\nreview: {below}\n",
        "specs/tasks/below.yaml": _WORK + "repo: forged\n",
        TASK: _WORK + "repo: forged\nreview: pull_request\nstart_from: below\n",
    }

    desired = built(files)

    found = [str(each) for each in desired.warnings if "without being merged" in each.message]
    assert desired.problems == ()
    assert [each.startswith(f"{TASK}:5:13: warning: start_from: 'below'") for each in found] == [
        True
    ] * is_warned


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


@pytest.mark.parametrize(
    ("one", "other", "is_warned"),
    [
        ("address: a\n", "address: a\n", True),
        ("address: a\nuser: u\nworkdir: /srv/r\n", "workdir: /srv/r\nuser: u\naddress: a\nslots: 4\n", True),
        ("workdir: /srv/r\n", "workdir: /srv/r\n", True),
        ("address: a\n", "address: a\nport: 2222\n", False),
        ("address: a\nuser: u\n", "address: a\nuser: v\n", False),
        ("address: a\n", "address: a\nworkdir: /srv/r\n", False),
        ("slots: 1\n", "slots: 1\n", False),
    ],
)
def test_two_hosts_in_one_place_are_warned_of(one, other, is_warned):
    desired = built({"specs/hosts/y.yaml": one, "specs/hosts/z.yaml": other})

    assert desired.problems == ()
    assert ["is where host 'y' is" in str(each) for each in desired.warnings] == [True] * is_warned


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {ADAPTER: "command: [x]\ntemplate: '{{ repo.url }}'\n", TASK: "goal: x\nadapter: x\n"},
            "of adapter 'x': 'None' has no attribute 'url'",
        ),
        ({FLEET: "template: '{{ repo.url }}'\n", TASK: _WORK}, "'None' has no attribute 'url'"),
        (
            {FLEET: "template: |\n  Do it.\n\n  {{ repo.url }}\n", TASK: _WORK},
            "line 3: 'None' has no attribute 'url'",
        ),
        (
            {FLEET: "template: '{{ task.constraints[0] }}'\n", TASK: _WORK},
            "tuple object has no element 0",
        ),
    ],
)
def test_a_template_that_comes_from_elsewhere_is_tried_for_each_task(files, message):
    problems = [each for each in map(str, built(files).problems) if each.startswith(TASK)]

    assert problems == [f"{TASK}:1:1: error: template: {message}"]


def test_a_judge_whose_adapter_no_host_offers_is_told_once_and_at_its_place():
    only = {f"specs/hosts/{name}.yaml": "adapters: {claude-code: {}}\n" for name in ("local", "near", "few")}
    desired = built(only | {TASK: "goal: x\nrepo: few\nvariants: 3\njudge: codex\n"})

    about = [str(each) for each in desired.warnings if each.path == TASK]
    assert about == [f"{TASK}:4:8: warning: judge: no host that fits offers the adapter 'codex'"]


def test_where_no_host_can_be_read_nothing_is_said_of_labels():
    desired = built(
        dict.fromkeys([f"specs/hosts/{name}.yaml" for name in ("local", "near", "few")], "slot: 1\n")
    )

    assert not any("labels" in each.message for each in desired.warnings)


def test_a_class_of_characters_is_no_jmespath():
    assert said(ADAPTER, "command: [x]\noutput: {success: '[?!]+ done', text: '[0-9]+ (.*) x'}\n") == []
