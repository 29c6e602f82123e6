"""
What is wrong with accounts, and with what names them.
"""

import pytest

from reconciler.specs.build import build
from reconciler.specs.parse import File

GOOD = "{provider: anthropic, adapters: claude-code}\n"


def problems(**files):
    named = {path.replace("__", "/") + ".yaml": text for path, text in files.items()}
    read = {
        f"specs/{path}": File("100644", f"{at:040x}", text.encode())
        for at, (path, text) in enumerate(named.items())
    }
    return [str(problem) for problem in build(read, revision="1" * 40).problems]


def test_an_account_that_tasks_name_and_that_serves_them_is_good():
    assert problems(accounts__one=GOOD, tasks__a="{goal: x, adapter: claude-code, accounts: one}") == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"accounts__one": "{adapters: codex}"}, "provider"),
        ({"accounts__one": "{provider: x, adapters: []}"}, "names none"),
        ({"accounts__one": "{provider: x, adapters: codx}"}, "no adapter 'codx' (did you mean 'codex'?)"),
        ({"accounts__one": "{provider: x, adapters: codex, hosts: far}"}, "no host 'far'"),
        ({"accounts__one": "{provider: x, adapters: codex, pace: even}"}, "needs a `weekly_budget`"),
        ({"accounts__one": "{provider: x, adapters: codex, secrets: {KEY: {}}}"}, "needs exactly one of"),
        ({"tasks__a": "{goal: x, adapter: codex, accounts: one}"}, "no account 'one'; make specs/accounts/"),
        (
            {"accounts__one": GOOD, "tasks__a": "{goal: x, adapter: codex, accounts: one}"},
            "account 'one' serves claude-code, not adapter 'codex'",
        ),
        (
            {"accounts__one": GOOD, "adapters__codex": "accounts: one"},
            "account 'one' serves claude-code, not adapter 'codex'",
        ),
        ({"fleet": "fallback: {adapter: codx}"}, "no adapter 'codx'"),
        ({"tasks__a": "{goal: x, adapter: codex, fallback: {}}"}, "names neither"),
        ({"tasks__a": "{goal: x, adapter: codex, fallback: {adapter: script}}"}, "runs a `script`"),
        ({"tasks__a": "{goal: x, adapter: codex, repo: shop, review_by: codx}"}, "no adapter 'codx'"),
        ({"tasks__a": "{goal: x, adapter: codex, review_by: script}"}, "runs the task's own `script`"),
        ({"tasks__a": "{goal: x, adapter: codex, review_by: codex}"}, "needs a `repo`"),
        ({"tasks__a": "{goal: x, execution_mode: http_pull, review_by: codex}"}, "is for runs on hosts"),
        ({"tasks__a": "{goal: x, adapter: codex, review_by: {adapter: codex, account: two}}"}, "no account"),
    ],
)
def test_each_mistake_is_told_where_it_stands(files, message):
    found = problems(**files)

    assert any(message in each and ".yaml:1:" in each for each in found), found
