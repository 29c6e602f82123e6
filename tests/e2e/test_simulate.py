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


async def test_shards_share_a_day_and_no_task_is_started_twice_or_forgotten(tmp_path, caplog):
    few = Scenario(hosts=40, tasks=2000, begin=8.95, hours=0.06, workers=2, pulled=0.2, keep=60, shards=2)

    one = await simulate(few, tmp_path / "one.git")
    again = await simulate(few, tmp_path / "again.git")

    shards = one["shards"]
    each = shards["each"].values()
    assert one["runs started twice"] == shards["tasks of several"] == shards["tasks of nobody"] == 0
    assert sum(shard["tasks"] for shard in each) == one["asked"] > 100
    assert sum(shard["commits"] for shard in each) == one["commits"]
    assert all(shard["tasks"] > 20 for shard in each)
    assert {name: shard["head"] for name, shard in again["shards"]["each"].items()} == {
        name: shard["head"] for name, shard in shards["each"].items()
    }
    assert not [record for record in caplog.records if record.exc_info], (
        "what is simulated keeps to the ports"
    )
    assert "shard s1" in "\n".join(text(one))
