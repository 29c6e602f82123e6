"""A simulated day is the same day whenever its seed is, and nothing of it is lost."""

from bench.simulate import Scenario, simulate, text


async def test_the_same_seed_makes_the_same_commits_and_another_makes_others(tmp_path, caplog):
    few = Scenario(hosts=4, tasks=600, begin=8.9, hours=0.4, workers=2, pulled=0.2, keep=300)

    one = await simulate(few, tmp_path / "one.git")
    again = await simulate(few, tmp_path / "again.git")
    other = await simulate(Scenario(**{**one["scenario"], "seed": 2}), tmp_path / "other.git")

    assert again["head"] == one["head"] != other["head"]
    assert one["asked"] == sum(one["ended"].values()) + one["open at the end"] > 20
    assert one["commits"] > 100
    assert not [record for record in caplog.records if record.exc_info], (
        "what is simulated keeps to the ports"
    )
    assert f"asked {one['asked']}" in next(text(one))
