from reconciler.core.hosts import HostChange
from reconciler.core.model.status import HostStatus
from reconciler.core.transitions import TransitionRecord
from reconciler.store.history import last_touched, read_history
from reconciler.store.last_transitions import last_transitions
from tests.store.world import BRANCH, NOW, REVISION, commit, created, git, started


async def test_without_a_record_there_is_no_history(open_repository, bare):
    assert await read_history(await open_repository(bare), BRANCH) == ()


async def test_an_entry_tells_everything_about_a_transition(open_repository, open_state, bare):
    state = await open_state(bare)
    await state.commit([created("web/a", "the spec is new"), started("web/a")])

    newest, oldest = await read_history(await open_repository(bare), BRANCH)

    assert newest == TransitionRecord(
        at=NOW,
        task="web/a",
        before="assigned",
        after="running",
        reason="seen alive",
        host="local",
        run="web/a.ga1a1a1a1.a1",
        actor="reconciler",
        cause="host",
        revision=REVISION,
        commit=git(bare, "rev-parse", BRANCH),
        previous=oldest.commit,
    )
    assert (oldest.task, oldest.before, oldest.after, oldest.reason) == (
        "web/a",
        None,
        "created",
        "the spec is new",
    )


async def test_the_walk_of_one_task_is_what_git_log_finds_for_it(open_repository, open_state, bare):
    state = await open_state(bare)
    for attempt in range(1, 5):
        await state.commit(
            [step for name in ("a", "b", "c") for step in (created(name), started(name, attempt))]
        )
    repository = await open_repository(bare)

    for name in ("a", "b", "c"):
        walked = [entry.commit for entry in await read_history(repository, BRANCH, name)]

        assert walked == git(bare, "log", "--format=%H", f"--grep=^Task: {name}$", BRANCH).splitlines()
        assert len(walked) == 8


async def test_no_more_than_was_asked_for_is_returned_newest_first(open_repository, open_state, bare):
    state = await open_state(bare)
    await state.commit([created("a"), created("b"), started("a"), created("c")])
    repository = await open_repository(bare)

    assert [entry.task for entry in await read_history(repository, BRANCH, limit=2)] == ["c", "a"]
    assert [entry.after for entry in await read_history(repository, BRANCH, "a", limit=1)] == ["running"]
    assert await read_history(repository, BRANCH, "unknown") == []


async def test_commits_by_hand_are_no_transitions(open_repository, open_state, bare, tmp_path):
    state = await open_state(bare)
    await state.commit([created("a")])
    git(tmp_path, "clone", "-q", "-b", BRANCH, str(bare), "clone")
    commit(tmp_path / "clone", "fleet-state/tasks/a.yaml", "phase: failed\n", "mend a by hand")
    git(tmp_path / "clone", "push", "-q")
    repository = await open_repository(bare)

    assert [entry.after for entry in await read_history(repository, BRANCH)] == ["created"]
    assert [entry.after for entry in await read_history(repository, BRANCH, "a")] == ["created"]


async def test_news_of_hosts_stand_among_those_of_all_tasks(open_repository, open_state, bare):
    state = await open_state(bare)
    up, down = HostStatus(reachable=True, since=NOW), HostStatus(reachable=False, since=NOW)
    await state.commit(
        [
            HostChange("h1", None, up, NOW, "answers"),
            created("a", "the spec is new\nhost h2: up → down"),
            HostChange("h1", up, down, NOW, "does not answer"),
        ]
    )
    repository = await open_repository(bare)

    found = await read_history(repository, BRANCH)

    assert [(entry.name, entry.before, entry.after) for entry in found] == [
        ("host h1", "up", "down"),
        ("a", None, "created"),
        ("host h1", "unknown", "up"),
    ]
    assert (found[0].task, found[0].host, found[0].reason) == (None, "h1", "does not answer")
    assert len(await read_history(repository, BRANCH, "a")) == 1


async def test_the_last_transition_of_every_task_is_found_in_one_look(open_repository, open_state, bare):
    state = await open_state(bare)
    await state.commit([created("a"), created("b"), started("a")])
    repository = await open_repository(bare)

    found = await last_transitions(repository, git(bare, "rev-parse", BRANCH))

    last = {"a": git(bare, "rev-parse", BRANCH), "b": git(bare, "rev-parse", f"{BRANCH}^")}
    assert found.transitions == last
    assert found.attempts == {"a": 1}


async def test_the_last_change_of_every_host_is_that_of_its_own_state(open_repository, open_state, bare):
    state = await open_state(bare)
    down = HostChange("h1", None, HostStatus(reachable=False, since=NOW, message="away"), NOW, "away")
    assert await state.last_host_commits() == {}
    await state.commit([down, created("a"), started("a")])

    found = await last_transitions(await open_repository(bare), git(bare, "rev-parse", BRANCH))

    assert found.hosts == await state.last_host_commits() == {"h1": git(bare, "rev-parse", f"{BRANCH}~2")}


async def test_a_shallow_clone_tells_as_much_as_it_has(open_repository, open_state, bare, tmp_path):
    state = await open_state(bare)
    await state.commit([created("a"), started("a")])
    shallow = tmp_path / "shallow.git"
    git(tmp_path, "clone", "-q", "--bare", "--depth=1", "-b", BRANCH, f"file://{bare}", str(shallow))

    told = await read_history(await open_repository(shallow), BRANCH, "a")

    assert [entry.after for entry in told] == ["running"]


async def test_a_line_is_found_where_it_was_last_written_or_taken_out(open_repository, bare, checkout):
    repository = await open_repository(checkout)
    first = commit(checkout, "specs/hosts/h.yaml", "slots: 1\ncordon: true\n")
    commit(checkout, "specs/hosts/h.yaml", "slots: 2\ncordon: true\n")

    at = await last_touched(repository, "main", "specs/hosts/h.yaml", "^cordon:")

    assert int(at.timestamp()) == int(git(checkout, "show", "-s", "--format=%ct", first))
    assert await last_touched(repository, "main", "specs/hosts/h.yaml", "^drain:") is None
