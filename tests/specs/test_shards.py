# ruff: noqa: E501 - a message stands on one line, as it is printed
"""What validate says of shards: nothing is counted or planned by two reconcilers."""

import pytest

from reconciler.core.shards import home_shard
from reconciler.specs.build import build
from reconciler.specs.parse import File

FLEET = "shards:\n  web: {tasks: [web]}\n  shop: {tasks: [shop, web/shop]}\n"
WORK = "goal: x\nscript: x\n"
GOOD = {
    "specs/fleet.yaml": FLEET,
    "specs/tasks/web/a.yaml": WORK,
    "specs/tasks/web/shop/a.yaml": WORK,
    "specs/tasks/other.yaml": WORK,
    "specs/hosts/w.yaml": "address: w.example.org\nshard: web\n",
    "specs/hosts/s.yaml": "address: s.example.org\nshard: shop\n",
    "specs/repos/r.yaml": "url: https://example.org/r.git\n",
}


def problems(files):
    whole = {**GOOD, **files}
    desired = build({path: File("100644", path + text, text.encode()) for path, text in whole.items()})
    return [str(problem) for problem in desired.problems]


def test_what_belongs_to_one_shard_is_no_mistake():
    assert problems({}) == []


def test_the_deepest_folder_around_a_task_says_whose_it_is():
    desired = build({path: File("100644", path, text.encode()) for path, text in GOOD.items()})

    homes = {name: home_shard(desired.fleet.shards, name) for name in desired.tasks}

    assert homes == {"web/a": "web", "web/shop/a": "shop", "other": "default"}


BUDGET = "daily_budget: {cost_usd: 5}\n"
SHARED = [
    (
        {"specs/fleet.yaml": f"{FLEET}max_running: 3\n"},
        "shards.web: the fleet has `max_running`, and each shard counts for itself: give it a `max_running` of its own",
    ),
    (
        {"specs/fleet.yaml": "shards:\n  web: {tasks: [web]}\n  shop: {tasks: [web]}\n"},
        "shards.shop.tasks.0: folder 'web' is that of shard 'web' too",
    ),
    (
        {"specs/fleet.yaml": f"{FLEET}  default: {{tasks: x}}\n"},
        "shards.default: is the shard of what no other one has; give it another name",
    ),
    (
        {"specs/fleet.yaml": f"{FLEET}  a/b: {{tasks: x}}\n"},
        "shards.a/b: is part of the name of a branch: no '/', at most 40 characters",
    ),
    (
        {"specs/fleet.yaml": f"{FLEET}  i: {{tasks: issues/r}}\nissues: {{authors: [alice]}}\n"},
        "shards.i.tasks: has the tasks made of issues, which the reconciler without `--shard` follows",
    ),
    (
        {"specs/hosts/w.yaml": "address: w.example.org\nshard: wbe\n"},
        "shard: no shard 'wbe' in specs/fleet.yaml; there: web, shop",
    ),
    (
        {"specs/hosts/w.yaml": "address: w.example.org\nshard: web\njump: s\n"},
        "jump: host 's' is of shard 'shop': write it as `user@address:port`",
    ),
    (
        {"specs/tasks/web/a.yaml": f"{WORK}depends_on: other\n"},
        "depends_on: task 'other' is of shard 'default', not of 'web': tasks of one shard follow each other",
    ),
    (
        {
            "specs/tasks/web/a.yaml": f"{WORK}repo: r\nstart_from: shop/b\n",
            "specs/tasks/shop/b.yaml": f"{WORK}repo: r\n",
        },
        "start_from: task 'shop/b' is of shard 'shop', not of 'web': tasks of one shard follow each other",
    ),
    (
        {
            "specs/repos/r.yaml": f"{GOOD['specs/repos/r.yaml']}max_running: 2\n",
            "specs/tasks/web/a.yaml": f"{WORK}repo: r\n",
            "specs/tasks/other.yaml": f"{WORK}repo: r\n",
        },
        "max_running: each shard counts for itself, and tasks of default, web use this: make one for each",
    ),
    (
        {
            "specs/repos/r.yaml": f"{GOOD['specs/repos/r.yaml']}merge: queue\nvalidation: make\nforge: {{api: 'https://example.org/api/v1', repo: a/b, token: {{env: T}}}}\n",
            "specs/tasks/web/a.yaml": f"{WORK}repo: r\n",
            "specs/tasks/other.yaml": f"{WORK}repo: r\n",
        },
        "merge: is one line, and tasks of default, web would wait in one each: give the repo to one shard, or take `when_approved`",
    ),
    (
        {
            "specs/adapters/wise.yaml": "command: [wise, '{mode}', '{prompt}']\nprompt: argument\nplan: --look\nmax_running: 1\n",
            "specs/tasks/web/a.yaml": f"{WORK}repo: r\nvariants: 2\njudge: wise\n",
            "specs/tasks/other.yaml": "goal: x\nadapter: wise\n",
        },
        "max_running: each shard counts for itself, and tasks of default, web use this: make one for each",
    ),
    (
        {"specs/accounts/c.yaml": f"provider: p\nadapters: [script]\n{BUDGET}"},
        "daily_budget: each shard counts for itself, and tasks of default, shop, web use this: make one for each",
    ),
    (
        {
            "specs/campaigns/c.yaml": "task:\n  goal: x\n  script: x\nmatrix: {n: [a, b]}\n",
            "specs/fleet.yaml": f"{FLEET}  c: {{tasks: c/x}}\n",
        },
        "shards.c.tasks: is within campaign 'c', whose tasks follow each other: name 'c'",
    ),
]


@pytest.mark.parametrize(("files", "message"), SHARED, ids=[message[:40] for _, message in SHARED])
def test_what_two_reconcilers_would_count_or_plan_is_refused(files, message):
    assert f"error: {message}" in "\n".join(problems(files))


def test_an_account_whose_hosts_are_of_one_shard_may_have_a_budget():
    assert problems({"specs/accounts/c.yaml": f"provider: p\nadapters: [script]\nhosts: [w]\n{BUDGET}"}) == []
