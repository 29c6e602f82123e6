# ruff: noqa: E501 - a message stands on one line, as it is printed
"""Each bad file and every word that is said of it; the good files beside it are not touched."""

import hashlib

import pytest

from reconciler.core.references import remedy
from reconciler.specs import yaml
from reconciler.specs.build import build
from reconciler.specs.parse import File

GOOD = {
    "specs/fleet.yaml": b"adapter: agent\n",
    "specs/adapters/agent.yaml": b'command: [agent, "{prompt_file}"]\nprompt: file\n',
    "specs/repos/shop.yaml": b"url: https://example.org/shop.git\n",
    "specs/hosts/big.yaml": b"address: big.example.org\n",
    "specs/tasks/good.yaml": b"goal: stay as it is\nrepo: shop\n",
    "specs/tasks/web/login.yaml": b"goal: log in\nrepo: shop\n",
}

TASK = "specs/tasks/bad.yaml"
SCRIPT_OR = (
    "adapter 'script' runs it; or name an agent's adapter, such as `adapter: claude-code`, here or for all "
    "tasks in specs/fleet.yaml"
)
ADAPTER = "specs/adapters/bad.yaml"
REPO = "specs/repos/bad.yaml"
HOST = "specs/hosts/bad.yaml"

BAD = [
    # --- What is no YAML, or too much of it ---
    (TASK, b"goal: [a, b\n", ["2:1: error: while parsing a flow sequence: did not find expected ',' or ']'"]),
    (
        TASK,
        b"goal: say: it\n",
        ["1:10: error: ':' is not allowed here; put a text that contains ': ' in quotes"],
    ),
    (TASK, b"goal: x\n\ttitle: y\n", ["2:1: error: a tab cannot indent; use spaces"]),
    (TASK, b"goal: @home\n", ["1:7: error: a text cannot begin with '@'; put it in quotes"]),
    (TASK, b"goal: x\ntitle: caf\xe9\n", ["2:11: error: not UTF-8; save it in that encoding"]),
    (
        TASK,
        b"goal: x\0y\n",
        ['1:8: error: character U+0000 is not allowed; remove it, or write it as "\\u0000"'],
    ),
    (
        TASK,
        b'goal: "a\\0b"\n',
        ["1:7: error: a text cannot contain U+0000 or half a surrogate pair"],
    ),
    (TASK, b"goal: x\n" + b"#" * 262_144, ["1:1: error: larger than 256 KiB"]),
    (TASK, b"[" * 100_000, ["1:65: error: nested deeper than 64 levels"]),
    (
        TASK,
        b"a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + b"".join(
            b"%c: &%c [%s]\n" % (key, key, b",".join([b"*%c" % (key - 1)] * 10)) for key in b"bcdefgh"
        ),
        ["5:29: error: more than 100000 values, aliases written out"],
    ),
    (TASK, b"goal: &a [*a]\n", ["1:11: error: nothing is marked &a before this line"]),
    (TASK, b"goal: x\n---\ngoal: y\n", ["2:1: error: a second document begins here; a file holds one"]),
    (
        TASK,
        b"goal: !!python/object/apply:os.system [id]\n",
        [
            "1:7: error: tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed",
        ],
    ),
    (
        TASK,
        b"goal: x\ngoal: y\ntitle: z\ntitle: z\n",
        ["2:1: error: duplicate key 'goal'", "4:1: error: duplicate key 'title'"],
    ),
    (TASK, b"goal: x\n1: y\n", ["2:1: error: a key must be a text; put it in quotes"]),
    (TASK, b"goal: x\npriority: " + b"9" * 41, ["2:11: error: number of more than 40 digits"]),
    (
        TASK,
        b"? [goal, x]\n: y\ntitle: 3\n",
        [
            "1:1: error: goal: is missing",
            "1:3: error: a key must be a text; put it in quotes",
            "3:8: error: title: expected a text, not 3; put it in quotes",
        ],
    ),
    (TASK, b"- goal: x\n", ["1:1: error: expected 'key: value' lines"]),
    # --- Fields ---
    (TASK, b"# nothing yet\n", ["1:1: error: goal: is missing"]),
    (TASK, b"goal: '  '\n", ["1:7: error: goal: must not be empty"]),
    (
        TASK,
        b"goal: x\nscript: x\nvalidation:\n  - make\n  - ' '\n",
        ["5:5: error: validation.1: must not be empty"],
    ),
    (TASK, b"goal: x\nscript: x\nvalidation: ''\n", ["3:13: error: validation: must not be empty"]),
    (
        TASK,
        b"gaol: x\n",
        ["1:1: error: goal: is missing", "1:1: error: gaol: unknown field (did you mean 'goal'?)"],
    ),
    (
        TASK,
        b"goal: x\nmodel: 4.10\nretries: many\nvalidation: {a: b}\nreview:\n",
        [
            "2:8: error: model: expected a text, not 4.1; put it in quotes",
            "3:10: error: retries: expected a whole number",
            "4:13: error: validation: expected a list of texts",
            "5:8: error: review: has no value; give it one or remove the line",
        ],
    ),
    (
        TASK,
        b"goal: x\nmax_reviews: -1\npriority: 1001\n",
        [
            "2:14: error: max_reviews: must be at least 0, not -1",
            "3:11: error: priority: must be at most 1000, not 1001",
        ],
    ),
    (
        TASK,
        b"goal: x\ndesired: actve\nreview: always\n",
        [
            "2:10: error: desired: expected 'active', 'suspended' or 'cancelled' (did you mean 'active'?)",
            "3:9: error: review: expected 'none', 'merge' or 'pull_request'",
        ],
    ),
    (
        TASK,
        b"goal: x\ntimeout: 30 minutes\nnot_before: soon\nschedule: every day\n",
        [
            '2:10: error: timeout: expected a duration such as "90s", "30m" or "1h30m", got \'30 minutes\'',
            "3:13: error: not_before: expected a time such as \"2030-01-31T09:00:00+01:00\", got 'soon'",
        ],
    ),
    (
        TASK,
        b"goal: x\nschedule: every day\n",
        [
            "2:11: error: schedule: expected a cron expression such as '0 9 * * 1-5', got 'every day': Wrong number of fields"
        ],
    ),
    (
        TASK,
        b"goal: x\nbudget: {cost_usd: .inf, tokens: 0, eur: 3}\n",
        [
            "2:20: error: budget.cost_usd: expected a finite number",
            "2:34: error: budget.tokens: must be more than 0, not 0",
            "2:37: error: budget.eur: unknown field; there are cost_usd, tokens",
        ],
    ),
    (
        TASK,
        b"goal: x\nenv:\n  9LIVES: cat\n  ANSWER: yes\n  COUNT: 3\n",
        [
            "3:3: error: env.9LIVES: expected the name of an environment variable: letters, digits and '_', no digit first",
            "5:10: error: env.COUNT: expected a text, not 3; put it in quotes",
        ],
    ),
    (TASK, b"goal: x\nbranch_name: --force\n", ["2:14: error: branch_name: unsafe branch name '--force'"]),
    (
        TASK,
        b"goal: x\ndepends_on: ../../etc\n",
        [
            "2:13: error: depends_on: unsafe name '../../etc': use letters, digits, '.', '_' and '-', beginning and ending with a letter or digit",
        ],
    ),
    (
        TASK,
        b"goal: x\ntemplate: '{% if %}'\n",
        ["2:12: error: template: Expected an expression, got 'end of statement block'"],
    ),
    (
        "specs/tasks/bad.yaml",
        b"goal: x\ntemplate: |\n  Do it.\n\n  {{ task.goal }} in {{ task.rep }}\n",
        ["5:30: error: template: Task has no field 'rep'"],
    ),
    (
        "specs/tasks/bad.yaml",
        b"goal: x\ntemplate: >\n  Do it.\n\n  {{ taks.goal }}\n",
        [
            (
                "2:11: error: template: line 2: unknown variable 'taks' (did you mean 'task'?); known here: task, "
                "repo, branch, pulled, start_from, attempt, round, resumed, review_count, failed_check, failure, quotes"
            )
        ],
    ),
    (
        "specs/adapters/bad.yaml",
        (
            b"command: [cli]\nfiles:\n  ~/.cli/config: {template: x}\n  /etc/cli: {template: x}\n"
            b"  a/../b: {template: x}\n  .git/hooks/x: {template: x}\n"
        ),
        [
            (
                "3:3: error: files.~/.cli/config: '~/.cli/config' is in the home of the host's user, which all runs "
                "share with people: write '{files}/NAME', and name that in `command` or `env`"
            ),
            (
                "4:3: error: files./etc/cli: '/etc/cli' is absolute: a path is in the workspace ('a/b'), or outside "
                "of it ('{files}/a')"
            ),
            "5:3: error: files.a/../b: 'a/../b' goes elsewhere: no '.' and no '..' between slashes",
            "6:3: error: files..git/hooks/x: '.git/hooks/x' is in git's own folder",
        ],
    ),
    (
        "specs/adapters/bad.yaml",
        (
            b"command: [cli]\nfiles:\n  a:\n    template: |\n      {\n        {{ secrets.KEY }}\n"
            b"    secrets: {TOKEN: {env: A, file: b}}\n  a/b: {template: x}\n"
        ),
        [
            "3:3: error: files.a: is a file, and a folder in 'a/b'",
            "6:20: error: files.a.template: secret 'KEY' is not among `secrets` of this file",
            (
                "7:22: error: files.a.secrets.TOKEN: needs exactly one of env, file, command, credential; "
                "found env and file"
            ),
        ],
    ),
    (
        ADAPTER,
        b"command: [x, '{modle}']\nsecrets:\n  KEY: {env: A, file: b}\n",
        [
            "1:10: error: command: unknown placeholder {modle}; known here: {declared}, {files}, {mode}, {model}, {prompt}, {prompt_file}, {script}, {session}, {shell}, {turns}, {workdir}",
            "3:8: error: secrets.KEY: needs exactly one of env, file, command, credential; found env and file",
        ],
    ),
    (
        ADAPTER,
        b"command: x\nversion: {command: x, pattern: '(', range: about 2}\noutput: {text: 'a['}\n",
        [
            "2:32: error: version.pattern: not a regular expression: missing ), unterminated subpattern at position 0",
            "2:44: error: version.range: expected a version range such as '>=2.1,<3', got 'about 2'",
            "3:16: error: output.text: not a regular expression: unterminated character set at position 1",
        ],
    ),
    (ADAPTER, b"version: {}\n", ["1:1: error: version.command: is missing"]),
    (ADAPTER, b"prompt: stdin\n", ["1:1: error: command: missing: the program and its arguments"]),
    (
        ADAPTER,
        b"command: x\noutput:\n  streamed: {turn: 'a['}\n",
        [
            '3:20: error: output.streamed.turn: not a JMESPath expression: Invalid jmespath expression: Incomplete expression: "a[" ^',
        ],
    ),
    (
        REPO,
        b"url: 'ext::sh -c id'\n",
        ["1:6: error: url: git's remote helpers are not allowed (ext::\N{HORIZONTAL ELLIPSIS})"],
    ),
    (
        REPO,
        b"url: http://example.org/x\n",
        ["1:6: error: url: plain http is allowed for this machine only; use https"],
    ),
    (
        REPO,
        b"url: /x\nmerge: queue\n",
        ["2:8: error: merge: queue needs a `validation` in this file: nothing lands before that passes"],
    ),
    (
        REPO,
        b"url: /x\nmerge: queue\nvalidation: make\nmerge_style: squash\npush: host\n",
        [
            "4:14: error: merge_style: must be `merge` with `merge: queue`: it lands what was validated",
            "5:7: error: push: must be `reconciler` with `merge: queue`, which pushes to the base branch",
        ],
    ),
    (
        REPO,
        b"url: --upload-pack=x\n",
        ["1:6: error: url: unsafe address: it begins with '-', or has characters that none has"],
    ),
    (
        REPO,
        b"url: https://me:hunter2@example.org/x\n",
        [
            "1:6: error: url: contains a password, and files of a fleet are no place for one; use a credential helper or SSH",
        ],
    ),
    (
        HOST,
        b"address: -oProxyCommand=x\n",
        ["1:10: error: address: expected the name or the IP address of a host, got '-oProxyCommand=x'"],
    ),
    (
        HOST,
        b"shell: /opt/my shell\n",
        ["1:8: error: shell: expected one word of letters, digits and any of _ . / + = : , @ % -"],
    ),
    (
        "specs/agents/bad.yaml",
        b"token_hash: abc\n",
        ["1:13: error: token_hash: expected a SHA-256 in hex: 64 digits, lower case"],
    ),
    # --- Outputs ---
    (
        "specs/tasks/bad.yaml",
        b"goal: x\nscript: x\noutputs: [a.json, ../b, question]\n",
        [
            "3:19: error: outputs.1: '../b' is no name for a file, such as `api.json`",
            "3:25: error: outputs.2: 'question' is no name for a file, such as `api.json`",
        ],
    ),
    # --- Prices ---
    (
        "specs/prices.yaml",
        b"date: 2026-13-01\nmodels:\n  m: {input: 1, cached_input: 2, output: -3}\n",
        ["3:42: error: models.m.output: must be at least 0.0, not -3"],
    ),
    (
        "specs/prices.yaml",
        b"date: 2026-13-01\nmodels:\n  m: {input: 1, cached_input: 2, output: 3}\n",
        [
            '1:7: error: date: expected a day such as "2026-11-01", not 2026-13-01',
            "3:31: error: models.m.cached_input: is more than `input`, 1: are they swapped?",
        ],
    ),
    # --- Places ---
    (
        "specs/tasks/bad.yml",
        b"goal: x\n",
        ["1:1: error: the name of a spec file ends in .yaml (did you mean 'specs/tasks/bad.yaml'?)"],
    ),
    (
        "specs/task/bad.yaml",
        b"goal: x\n",
        [
            "1:1: error: not a place for a spec; expected fleet.yaml, prices.yaml or a file in tasks, campaigns, hosts, adapters, accounts, agents, repos (did you mean 'tasks'?)",
        ],
    ),
    (
        "specs/hosts/rack/bad.yaml",
        b"",
        ["1:1: error: only tasks may lie in folders; move it to specs/hosts/"],
    ),
    (
        "specs/tasks/b d.yaml",
        b"goal: x\n",
        [
            "1:1: error: unsafe name 'b d': use letters, digits, '.', '_' and '-', beginning and ending with a letter or digit",
        ],
    ),
    # --- Between files ---
    (TASK, b"goal: x\nrepo: shpo\n", ["2:7: error: repo: no repo 'shpo' (did you mean 'shop'?)"]),
    (
        TASK,
        b"goal: x\nadapter: agnet\n",
        ["2:10: error: adapter: no adapter 'agnet' (did you mean 'agent'?)"],
    ),
    (
        TASK,
        b"goal: x\ndepends_on: [good, login]\n",
        ["2:20: error: depends_on.1: no task 'login' (did you mean 'web/login'?)"],
    ),
    (
        TASK,
        b"goal: x\nrepo: shop\nstart_from: nobody\n",
        ["3:13: error: start_from: no task 'nobody' (did you mean 'good'?)"],
    ),
    (
        TASK,
        b"goal: x\nstart_from: good\n",
        ["2:13: error: start_from: needs a `repo`: there is no branch without one"],
    ),
    (
        TASK,
        b"goal: x\nrepo: shop\nstart_from: bad\n",
        ["3:1: error: start_from: goes in a circle: bad \N{RIGHTWARDS ARROW} bad"],
    ),
    (
        TASK,
        b"goal: x\ndepends_on: bad\n",
        ["2:1: error: depends_on: goes in a circle: bad \N{RIGHTWARDS ARROW} bad"],
    ),
    (
        TASK,
        b"goal: x\nscript: make\n",
        ["2:1: error: script: adapter 'agent' takes no script; say in `goal` what is to be done"],
    ),
    (
        TASK,
        b"goal: x\nadapter: script\n",
        [f"1:1: error: script: is missing: {SCRIPT_OR}"],
    ),
    (
        TASK,
        b"goal: x\nrepo: shop\nbranch_name: main\n",
        ["3:14: error: branch_name: 'main' is the base branch of repo 'shop'"],
    ),
    (
        TASK,
        b"goal: x\nrepo: shop\nbranch_name: main/x\n",
        ["3:14: error: branch_name: git cannot have both 'main/x' and the base branch 'main'"],
    ),
    (
        HOST,
        b"repos: [shop, web]\n",
        [f"1:15: error: repos.1: no repo 'web'{remedy('repo', 'web')}"],
    ),
    (
        TASK,
        b"goal: x\nnot_before: 9999-12-31T23:59:59-12:00\n",
        ["2:13: error: not_before: must be a time from 1970 to 8999, not 9999-12-31T23:59:59-12:00"],
    ),
    (
        TASK,
        b"goal: x\nnot_before: 0001-01-01\n",
        ["2:13: error: not_before: must be a time from 1970 to 8999, not 0001-01-01"],
    ),
    (TASK, b"goal: x\ntimeout: 0s\n", ["2:10: error: timeout: must be longer than 0s"]),
    (
        TASK,
        b"goal: x\ntimeout: 36501d\n",
        ["2:10: error: timeout: '36501d' is longer than any run: at most 36500d"],
    ),
    (
        HOST,
        b"drain_until: 9999-12-31T23:59:59-01:00\n",
        ["1:14: error: drain_until: must be a time from 1970 to 8999, not 9999-12-31T23:59:59-01:00"],
    ),
    (
        "specs/agents/bad.yaml",
        b"expires: 9999-12-31T23:59:59-01:00\n",
        ["1:10: error: expires: must be a time from 1970 to 8999, not 9999-12-31T23:59:59-01:00"],
    ),
    (HOST, b"weight: 1e-320\n", ["1:9: error: weight: must be at least 0.001, not 1e-320"]),
    (
        ADAPTER,
        b"command: [a]\nlimits: {output_mb: 99999999999999999999}\n",
        ["2:21: error: limits.output_mb: must be at most 1048576, not 99999999999999999999"],
    ),
    (
        REPO,
        b"url: /x\nmax_running: 9999999999\n",
        ["2:14: error: max_running: must be at most 1000000000, not 9999999999"],
    ),
    (HOST, b"jump: bgi\n", ["1:7: error: jump: no host 'bgi' (did you mean 'big'?)"]),
    (HOST, b"jump: bad\n", ["1:7: error: jump: goes in a circle: bad \N{RIGHTWARDS ARROW} bad"]),
    (
        HOST,
        b"adapters:\n  agnet: {}\n",
        ["2:3: error: adapters.agnet: no adapter 'agnet' (did you mean 'agent'?)"],
    ),
]


def file(data: bytes, mode: str = "100644") -> File:
    return File(mode, hashlib.sha1(data).hexdigest(), data)


def fleet(**others: bytes) -> dict[str, File]:
    return {path: file(data) for path, data in {**GOOD, **others}.items()}


@pytest.mark.parametrize(
    ("path", "content", "messages"), BAD, ids=[str(number) for number in range(len(BAD))]
)
def test_a_bad_file_is_told_of_in_full_and_nothing_else_is_touched(path, content, messages):
    good = build(fleet())

    desired = build(fleet(**{path: content}))

    assert [str(problem) for problem in desired.problems] == [f"{path}:{message}" for message in messages]
    assert {name: desired.tasks[name] for name in good.tasks} == good.tasks
    assert set(desired.broken) <= {"bad"}
    assert good.problems == ()


def test_a_bad_task_is_broken_and_other_bad_files_break_no_task():
    for path, content, _ in BAD:
        desired = build(fleet(**{path: content}))

        assert set(desired.broken) == ({"bad"} if path == TASK else set())


def test_there_are_at_least_forty_bad_files():
    assert len(BAD) >= 40


def test_a_symbolic_link_is_not_followed():
    files = {**fleet(), TASK: file(b"/etc/passwd", "120000"), "specs/tasks/sub.yaml": file(b"", "160000")}

    desired = build(files)

    assert [str(problem) for problem in desired.problems] == [
        f"{TASK}:1:1: error: a symbolic link is not followed; put the file itself here",
        "specs/tasks/sub.yaml:1:1: error: another repository is not looked into; put its files themselves here",
    ]
    assert set(desired.broken) == {"bad", "sub"}


def test_readmes_and_dotfiles_are_not_specs():
    desired = build(fleet(**{"specs/README.md": b"x", "specs/tasks/.gitkeep": b"", "specs/.x/y.yaml": b"["}))

    assert desired == build(fleet())


def test_a_long_value_is_not_repeated_in_full():
    desired = build(fleet(**{TASK: b"goal: x\ntimeout: " + b"very " * 5000 + b"long\n"}))

    assert all(len(str(problem)) < 400 for problem in desired.problems)
    assert desired.problems


def test_a_file_full_of_mistakes_does_not_fill_the_screen():
    desired = build(fleet(**{TASK: b"goal: x\n" + b"".join(b"k%d: 1\n" % n for n in range(2000))}))

    assert len(desired.problems) == 50


def test_defaults_that_a_repo_gets_wrong_are_told_once_and_break_who_takes_them():
    files = fleet(
        **{
            "specs/repos/shop.yaml": b"url: /shop\nadapter: nobody\n",
            TASK: b"goal: x\nadapter: agent\nrepo: shop\n",
        }
    )

    desired = build(files)

    known = sorted(desired.adapters)
    assert [str(problem) for problem in desired.problems] == [
        f"specs/repos/shop.yaml:2:10: error: adapter: no adapter 'nobody'{remedy('adapter', 'nobody', known)}"
    ]
    assert set(desired.broken) == {"good", "web/login"}


def test_without_any_good_fleet_file_no_task_may_start():
    desired = build(fleet(**{"specs/fleet.yaml": b"adaptor: agent\n"}))

    assert set(desired.broken) == set(desired.tasks) == {"good", "web/login"}


def test_who_refers_to_a_broken_file_is_sent_to_it():
    desired = build(fleet(**{"specs/repos/shop.yaml": b"url: 3\n"}))

    assert str(desired.broken["good"][0]) == (
        "specs/tasks/good.yaml:2:7: error: repo: repo 'shop' is broken, see specs/repos/shop.yaml:1:6"
    )


def test_a_cycle_is_printed_on_every_task_in_it():
    desired = build(
        fleet(
            **{
                "specs/tasks/a.yaml": b"goal: x\ndepends_on: b\n",
                "specs/tasks/b.yaml": b"goal: x\ndepends_on: [good, c]\n",
                "specs/tasks/c.yaml": b"goal: x\ndepends_on: a\n",
                "specs/tasks/d.yaml": b"goal: x\ndepends_on: a\n",
            }
        )
    )

    assert [str(problem).partition("circle: ")[2] for problem in desired.problems] == [
        "a \N{RIGHTWARDS ARROW} b \N{RIGHTWARDS ARROW} c \N{RIGHTWARDS ARROW} a",
        "b \N{RIGHTWARDS ARROW} c \N{RIGHTWARDS ARROW} a \N{RIGHTWARDS ARROW} b",
        "c \N{RIGHTWARDS ARROW} a \N{RIGHTWARDS ARROW} b \N{RIGHTWARDS ARROW} c",
    ]


def test_names_that_differ_only_in_case_are_told_of_each_other():
    desired = build(
        fleet(**{"specs/tasks/Good.yaml": b"goal: x\n", "specs/hosts/Big.yaml": b"address: other\n"})
    )

    assert [str(problem) for problem in desired.problems] == [
        "specs/hosts/Big.yaml:1:1: error: differs only in case from host 'big'",
        "specs/hosts/big.yaml:1:1: error: differs only in case from host 'Big'",
        "specs/tasks/Good.yaml:1:1: error: differs only in case from task 'good'",
        "specs/tasks/good.yaml:1:1: error: differs only in case from task 'Good'",
    ]


def test_branches_that_git_cannot_have_beside_each_other_are_told_of():
    desired = build(
        fleet(
            **{
                "specs/tasks/a.yaml": b"goal: x\nrepo: shop\nbranch_name: task/good\n",
                "specs/tasks/b.yaml": b"goal: x\nrepo: shop\nbranch_name: task/web\n",
                "specs/tasks/c.yaml": b"goal: x\nrepo: shop\nbranch_name: task/good\ndesired: cancelled\n",
            }
        )
    )

    assert [str(problem) for problem in desired.problems] == [
        "specs/tasks/a.yaml:3:14: error: branch_name: task 'good' has the branch 'task/good' too",
        "specs/tasks/b.yaml:3:14: error: branch_name: git cannot have both 'task/web' and 'task/web/login' of task 'web/login'",
        "specs/tasks/good.yaml:1:1: error: task 'a' has the branch 'task/good' too",
        "specs/tasks/web/login.yaml:1:1: error: git cannot have both 'task/web/login' and 'task/web' of task 'b'",
    ]


def test_pull_requests_need_a_repo_with_a_forge():
    forge = b"forge: {api: 'https://code.example.org/api/v1', repo: a/b, token: {env: T}}\n"
    desired = build(
        fleet(
            **{
                "specs/repos/open.yaml": b"url: https://example.org/open.git\nreview: pull_request\n" + forge,
                "specs/tasks/a.yaml": b"goal: x\nrepo: open\n",
                "specs/tasks/b.yaml": b"goal: x\nrepo: shop\nreview: pull_request\n",
                "specs/tasks/c.yaml": b"goal: x\nreview: pull_request\n",
            }
        )
    )

    assert [str(problem) for problem in desired.problems] == [
        "specs/tasks/b.yaml:3:9: error: review: pull_request needs a `forge` in repo 'shop'",
        "specs/tasks/c.yaml:2:9: error: review: pull_request needs a `repo`",
    ]


def test_a_file_that_meets_a_mistake_of_ours_breaks_nothing_else(monkeypatch):
    load = yaml.load_yaml

    def fail(data, path):
        if path == TASK:
            raise RuntimeError("a mistake")
        return load(data, path)

    monkeypatch.setattr(yaml, "load_yaml", fail)
    desired = build(fleet(**{TASK: b"goal: x\n"}))

    assert [problem.path for problem in desired.problems] == [TASK]
    assert "a bug of the reconciler (RuntimeError" in desired.problems[0].message
    assert set(desired.broken) == {"bad"}
