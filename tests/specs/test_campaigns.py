"""
Campaigns: the tasks that one file makes, and the mistakes in it.
"""

from reconciler.core.model.specs import Desired
from reconciler.specs.build import build
from reconciler.specs.edit import edit_spec
from reconciler.specs.layers import blob_id
from reconciler.specs.parse import File, campaign_generation

REPOS = {f"specs/repos/{name}.yaml": f"url: /code/{name}\n" for name in ("web", "shop", "api")}
CAMPAIGN = """\
matrix:
  repo: [web, shop, api]
task:
  goal: Upgrade {{repo}}
  script: "true"
tasks:
  shop: {timeout: 4h}
"""
PATH = "specs/campaigns/up.yaml"


def desired(text: str = CAMPAIGN, more: dict[str, str] | None = None, **kwargs: object) -> Desired:
    return build(files({PATH: text, **REPOS, **(more or {})}), revision="1" * 40)


def files(texts: dict[str, str]) -> dict[str, File]:
    return {path: File("100644", blob_id(text.encode()), text.encode()) for path, text in texts.items()}


def generations(specs: Desired) -> dict[str, str]:
    return {name: task.generation for name, task in specs.tasks.items()}


def problems(specs: Desired) -> list[str]:
    return [f"{each.line}:{each.column} {each.message}" for each in specs.problems]


def test_a_campaign_makes_a_task_for_each_combination_of_its_matrix():
    specs = desired(CAMPAIGN.replace("task:", "  n: [one two, b]\ntask:", 1).replace("shop:", "shop/b:"))

    assert specs.problems == ()
    assert specs.campaigns["up"].tasks == (
        "up/web/one-two", "up/web/b", "up/shop/one-two", "up/shop/b", "up/api/one-two", "up/api/b",
    )  # fmt: skip
    assert specs.tasks["up/shop/b"].repo == "shop"
    assert specs.tasks["up/shop/b"].timeout.total_seconds() == 4 * 3600


def test_the_first_tasks_that_are_not_cancelled_are_the_pilot():
    specs = desired(CAMPAIGN + "  web: {desired: cancelled}\n")

    assert {name for name, task in specs.tasks.items() if task.is_pilot} == {"up/shop"}


def test_mistakes_are_told_where_they_stand_in_the_campaign():
    assert problems(desired(CAMPAIGN.replace("script:", "scrip:"))) == ["5:3 unknown field"]
    assert problems(desired(CAMPAIGN.replace("{{repo}}", "{{rep}}"))) == [
        "4:9 {{rep}} is no axis of the matrix: repo"
    ]
    assert problems(desired(CAMPAIGN.replace("4h", "4 hours")))[0].startswith("7:19 ")
    assert problems(desired(CAMPAIGN.replace("shop: {", "shp: {"))) == ["7:3 no such task in the matrix"]
    assert problems(desired(CAMPAIGN.replace("api]", "apj]"))) == ["2:9 no repo 'apj'"]


def test_a_campaign_that_makes_too_many_tasks_makes_none():
    many = ", ".join(f"v{number}" for number in range(40))

    specs = desired(f"matrix:\n  a: [{many}]\n  b: [{many}]\ntask:\n  goal: g\n  script: s\n")

    assert problems(specs) == ["2:3 makes 1600 tasks; 1000 are the most, so divide the campaign"]
    assert not specs.tasks


def test_values_that_make_the_same_name_are_refused():
    specs = desired("matrix: {n: [a b, a-b]}\ntask: {goal: g, script: s}\n")

    assert "two tasks would be called 'a-b': n 'a b', n 'a-b'" in problems(specs)[0]


def test_a_task_of_its_own_and_one_of_a_campaign_cannot_have_one_name():
    specs = desired(more={"specs/tasks/up/web.yaml": "goal: g\nscript: s\n"})

    assert "up/web" in specs.broken
    assert specs.tasks["up/web"].campaign is None


def test_an_edit_of_one_task_is_of_no_other():
    before = desired()

    text = edit_spec(CAMPAIGN, "up/web", {"rerun": 1}, path=PATH)
    after = desired(text)

    assert after.tasks["up/web"].rerun == 1
    assert after.tasks["up/shop"].timeout.total_seconds() == 4 * 3600
    assert {n for n, g in generations(after).items() if g != generations(before)[n]} == {"up/web"}


def test_the_width_of_a_campaign_is_of_no_task():
    assert generations(desired("width: 2\n" + CAMPAIGN)) == generations(desired())


def test_the_generation_of_a_task_can_be_found_in_an_earlier_version_of_the_file():
    generation = generations(desired())["up/web"]

    assert campaign_generation("up/web", CAMPAIGN.encode()) == generation
    assert campaign_generation("up/none", CAMPAIGN.encode()) == ""


def test_a_broken_campaign_keeps_its_last_good_version():
    broken = {**files(REPOS), **files({PATH: CAMPAIGN.replace("goal", "gaol")})}

    specs = build(broken, revision="1" * 40, last_good=files({PATH: CAMPAIGN}))

    assert specs.campaigns["up"].tasks == ("up/web", "up/shop", "up/api")
    assert specs.broken.keys() == set(specs.campaigns["up"].tasks)


def test_a_campaign_without_any_good_version_is_told_from_one_that_is_gone():
    assert desired(CAMPAIGN.replace("goal", "gaol")).unreadable_campaigns == {"up"}
    assert build({}, revision="1" * 40).is_bare
