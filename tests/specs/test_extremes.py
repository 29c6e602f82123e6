"""
Whatever stands in a field of a spec: it is refused there, or everything that thinks about it can bear it.
"""

import hashlib
import json
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.cli.kinds import SHOWN_KINDS
from reconciler.core.model.status import Observed
from reconciler.core.planning.plan import plan
from reconciler.core.times import EARLIEST, age_at
from reconciler.core.views import ReadModel
from reconciler.specs.build import build
from reconciler.specs.explain import explain_fields
from reconciler.specs.parse import MODELS, File
from tests.specs.test_bad_files import GOOD

NOWS = (
    EARLIEST,
    datetime(2030, 3, 31, 1, 59, 59, tzinfo=UTC),
    datetime(2999, 12, 31, 23, 59, 59, tzinfo=UTC),
)
SPECS = {
    "task": ("specs/tasks/odd.yaml", {"goal": "x", "adapter": "script", "script": "true"}),
    "repo": ("specs/repos/odd.yaml", {"url": "https://example.org/odd.git"}),
    "host": ("specs/hosts/odd.yaml", {"address": "odd.example.org"}),
    "agent": ("specs/agents/odd.yaml", {}),
    "adapter": ("specs/adapters/odd.yaml", {"command": ["odd", "{prompt_file}"], "prompt": "file"}),
    "fleet": ("specs/fleet.yaml", {}),
}
FIELDS = [(kind, field) for kind in SPECS for field in [*MODELS[kind].model_fields, "nonsense"]]

TIMES = ("9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00", "8999-12-31T23:59:59Z", "1970-01-01")
NUMBERS = ("0", "-1", "1", "1000", "9" * 40, "9" * 400, "0x7fffffffffffffff", ".nan", "-.inf", "1e308", "1_0")
EMPTY = ("", "null", "~", "''", "' '", "[]", "{}", "[[]]", "[{}]", "[null]", "{a: }", "{a: {}}", "[1, 1]")
TEXTS = (
    *(r'"\uD800"', r'"\0"', r'"a\nb"', r'"\x1b[31m"', f'"{"x" * 100_000}"', "'{{'", "'{% for %}'", "'{x}'"),
    *("'*'", "'[a-'", "'(a+)+$'", "../x", "/", "odd", "good", "local", "'*-'", "@daily", "'0 0 30 2 *'"),
    *("'99 * * * *'", "'* * * * *'", "Mars/Base", "Europe/Berlin", "'../../etc/passwd'", "'24:00-00:00'"),
    *("'mon-fri 09:00-17:30'", "0s", "36500d", "36501d", "-5s", "true", "!!binary x", "&a [*a]", "[a, a]"),
)
MAPPINGS = (
    *("{default: x, after: 36500d}", "{to: q1-1, text: y}", "{cost_usd: 1e308}", "{cost_usd: 0}", "{env: A}"),
    *(
        "{tokens: 999999999999999999999}",
        "{command: [x]}",
        "{credential: ../x}",
        "{turns: 1}",
        "{range: '>'}",
    ),
    "{targets: {a: {env: A}}, rules: [{to: [a], transitions: ['* -> *']}], quiet: '22:00-07:00'}",
    "{targets: {a: {env: A}}, rules: [{to: [b]}], quiet: ['99:00-1:00'], timezone: X, hold: 36500d}",
    "{kind: forgejo, api: 'http://[', repo: a/b, token: {env: X}}",
    "{kind: github, api: 'https://x', repo: a/b, app: {id: 9223372036854775807, key: {file: x}}}",
)
VALUES = st.sampled_from((*TIMES, *NUMBERS, *EMPTY, *TEXTS, *MAPPINGS)) | st.recursive(
    st.integers() | st.floats() | st.text(max_size=9) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
).map(json.dumps)


@settings(max_examples=200)
@given(st.sampled_from(FIELDS), VALUES)
def test_a_value_is_refused_where_it_stands_or_borne_by_all_that_comes_after(spec, value):
    kind, field = spec
    path, fields = SPECS[kind]
    others = "".join(f"{name}: {json.dumps(each)}\n" for name, each in fields.items() if name != field)
    contents = {**GOOD, path: f"{others}{field}: {value}\n".encode()}
    files = {name: File("100644", hashlib.sha1(text).hexdigest(), text) for name, text in contents.items()}

    desired = build(files, revision="r")

    if kind != "fleet":  # whose defaults are of all tasks
        assert desired.tasks.keys() >= {"good", "web/login"}
        assert {problem.path for problem in desired.problems} <= {path}
    observed = Observed(probed=frozenset(desired.hosts))
    for now in NOWS:
        plan(desired, observed, now)
    model = ReadModel(desired, observed)
    for shown in SHOWN_KINDS.values():
        for thing in shown.pick(model):
            assert json.dumps(shown.document(thing)).encode()
            assert shown.details(thing, age_at(NOWS[-1])).encode()
    if "odd" in desired.tasks:
        assert explain_fields(files, "odd")
