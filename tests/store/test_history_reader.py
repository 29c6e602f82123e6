"""The record as a line of events: from any commit, forwards and backwards, through renames."""

from datetime import timedelta

import pytest

from reconciler.core.errors import NotFound
from reconciler.core.events import Origin, Renamed
from reconciler.core.hosts import HostChange
from reconciler.core.lifecycle import Transition
from reconciler.core.model.status import HostStatus
from reconciler.core.transitions import HistoryFilter
from reconciler.store.history import HistoryReader
from tests.store.world import BRANCH, NOW, created, git, started, status


@pytest.fixture
async def record(open_repository, open_state, bare):
    """Return a state branch to write to, and the line of what is on it."""
    state = await open_state(bare)
    await state.load()
    return state, HistoryReader(await open_repository(bare), lambda: state.head)


def moved(old, name):
    before = status()
    event = Renamed(task=name, old=old, origin=Origin(NOW, f"the spec moved from {old}"))
    return Transition(name, before, before, event)


def told(entries):
    return [(entry.task, entry.after) for entry in entries]


async def test_without_a_record_nothing_has_happened(open_repository, bare):
    timeline = HistoryReader(await open_repository(bare), lambda: "")

    assert await timeline.since("", 10) == ()
    assert await timeline.before(None, None, 10) == ()
    assert await timeline.before(None, "a", 10) == ()


async def test_it_is_read_forwards_from_any_of_its_commits(record):
    state, timeline = record
    await state.commit([created("a"), created("b")])
    await state.commit([started("a")])

    everything = await timeline.since("", 10)
    later = await timeline.since(everything[0].commit, 10)

    assert told(everything) == [("a", "created"), ("b", "created"), ("a", "running")]
    assert later == everything[1:]
    assert await timeline.since(state.head, 10) == []


async def test_what_is_beyond_the_limit_is_told_the_next_time(record):
    state, timeline = record
    await state.commit([created(name) for name in "abcde"])

    first = await timeline.since("", 2)
    second = await timeline.since(first[-1].commit, 2)

    assert told([*first, *second]) == [(name, "created") for name in "abcd"]


async def test_it_is_read_backwards_page_by_page(record):
    state, timeline = record
    await state.commit([created("a"), created("b"), started("a"), created("c")])

    first = await timeline.before(None, None, 2)
    second = await timeline.before(first[-1].commit, None, 5)

    assert told(first) == [("c", "created"), ("a", "running")]
    assert told(second) == [("b", "created"), ("a", "created")]
    assert await timeline.before(second[-1].commit, None, 5) == []


async def test_the_pages_of_one_task_leave_out_the_others(record):
    state, timeline = record
    await state.commit([created("a"), created("b"), started("a"), started("b")])

    newest = await timeline.before(None, "a", 1)
    older = await timeline.before(newest[-1].commit, "a", 5)
    before_another = await timeline.before((await timeline.before(None, "b", 1))[0].commit, "a", 5)

    assert told(newest) == [("a", "running")]
    assert told(older) == [("a", "created")]
    assert before_another == [*newest, *older]
    assert await timeline.before(None, "unknown", 5) == []


async def test_the_pages_of_a_task_go_on_under_the_name_that_it_had(record):
    state, timeline = record
    await state.commit([created("a"), created("other"), moved("a", "b/moved"), started("b/moved")])

    pages, cursor = [], None
    while page := await timeline.before(cursor, "b/moved", 1):
        pages += page
        cursor = page[-1].commit

    assert pages == list(await timeline.before(None, "b/moved", 10))
    assert told(pages) == [("b/moved", "running"), ("b/moved", "created"), ("a", "created")]


async def test_two_renames_later_the_pages_still_go_on(record):
    state, timeline = record
    await state.commit([created("a"), moved("a", "b"), moved("b", "c"), created("x"), created("a")])

    whole = list(await timeline.before(None, "c", 10))
    rest = await timeline.before(whole[1].commit, "c", 10)

    assert [entry.task for entry in whole] == ["c", "b", "a"]
    assert rest == whole[2:]


async def test_a_commit_that_is_not_in_the_history_is_not_found(record, bare):
    state, timeline = record
    await state.commit([created("a")])
    specs = git(bare, "rev-parse", "main")

    for commit in ("f" * 40, "HEAD", "--all", "f" * 7, specs):
        with pytest.raises(NotFound, match="ask without it"):
            await timeline.since(commit, 10)
        with pytest.raises(NotFound, match="ask without it"):
            await timeline.before(commit, None, 10)


async def test_it_ends_where_the_desk_ends_though_the_branch_has_more(open_repository, open_state, bare):
    state = await open_state(bare)
    await state.commit([created("a")])
    seen = git(bare, "rev-parse", BRANCH)
    await state.commit([created("b")])
    timeline = HistoryReader(await open_repository(bare), lambda: seen)

    assert told(await timeline.since("", 10)) == [("a", "created")]
    assert told(await timeline.before(None, None, 10)) == [("a", "created")]
    assert await timeline.before(None, "b", 10) == []


# --- Search ------------------------------------------------------------------


async def test_the_history_is_searched_by_whole_lines_and_by_words(open_repository, open_state, bare):
    state = await open_state(bare)
    away = HostStatus(reachable=False, since=NOW, message="no answer")
    news = HostChange("local", None, away, NOW, "no answer [x]*")
    await state.commit([created("web/a", "a.b is new"), created("web/ab"), started("web/a"), news])
    repository = await open_repository(bare)
    reader = HistoryReader(repository, lambda: git(bare, "rev-parse", BRANCH))

    async def names(**wanted):
        return [entry.name for entry in await reader.search(HistoryFilter(**wanted), None, 10)]

    assert await names() == ["host local", "web/a", "web/ab", "web/a"]
    assert await names(task="web/a") == ["web/a", "web/a"]
    assert await names(host="local") == ["host local", "web/a"]
    assert await names(host="local", task="web/a") == ["web/a"]
    assert await names(text="a.b") == ["web/a"]
    assert await names(text="axb") == []
    assert await names(text="[x]*") == ["host local"]
    assert await names(text="--all") == []
    assert await names(until=NOW - timedelta(days=1)) == []


async def test_a_search_goes_on_from_a_commit(open_repository, open_state, bare):
    state = await open_state(bare)
    await state.commit([created(name) for name in ("a", "b", "c", "d")])
    repository = await open_repository(bare)
    reader = HistoryReader(repository, lambda: git(bare, "rev-parse", BRANCH))

    first = await reader.search(HistoryFilter(), None, 2)
    rest = await reader.search(HistoryFilter(), first[-1].commit, 2)

    assert [entry.task for entry in (*first, *rest)] == ["d", "c", "b", "a"]
    with pytest.raises(NotFound):
        await reader.search(HistoryFilter(), "f" * 40, 2)
