from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.planning.schedule import (
    is_due_time,
    next_due,
    next_opening,
    open_until,
    read_window,
    zone,
)

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
WINDOWS = (
    *("09:00-17:30", "22:00-06:00", "mon-fri 08:00-12:00"),
    *("sun 01:00-03:30", "02:10-02:20", "sat 00:00-24:00"),
)
CHANGES = tuple(datetime(2030, month, day, tzinfo=UTC) for month, day in ((3, 9), (3, 30), (10, 26)))
SECOND = timedelta(seconds=1)

times = st.builds(
    lambda day, seconds: day + timedelta(seconds=seconds),
    st.sampled_from(CHANGES),
    st.integers(0, 3 * 86_400),
)

# --- Due times -------------------------------------------------------------


@pytest.mark.parametrize("place", ZONES)
@pytest.mark.parametrize("hour", [0, 1, 2, 3, 12])
def test_a_daily_task_is_due_once_on_every_day_of_the_year(place, hour):
    due = datetime(2030, 1, 1, tzinfo=ZoneInfo(place)).astimezone(UTC) - SECOND

    days = []
    for _ in range(365):
        due = next_due(f"15 {hour} * * *", place, due)
        days.append(due.astimezone(ZoneInfo(place)).date())

    assert days == [date(2030, 1, 1) + timedelta(days=n) for n in range(365)]


@given(times, st.sampled_from(ZONES), st.sampled_from(["*/20 * * * *", "30 2 * * *", "0 1,2,3 * * mon-fri"]))
def test_due_times_go_forward_and_are_known_again(after, place, schedule):
    due = next_due(schedule, place, after)

    assert due > after
    assert due.tzinfo is UTC
    assert is_due_time(schedule, place, due)
    assert not is_due_time(schedule, place, due + SECOND)
    assert next_due(schedule, place, due - SECOND) == due


@pytest.mark.parametrize(
    ("after", "due"),
    [
        ("2030-03-30T12:00:00Z", "2030-03-31T01:00:00Z"),  # 02:30 is skipped: the clocks jump to 03:00
        ("2030-10-26T12:00:00Z", "2030-10-27T00:30:00Z"),  # 02:30 comes twice: the first one
        ("2030-10-27T00:45:00Z", "2030-10-28T01:30:00Z"),  # between the two
        ("2030-10-27T01:10:00Z", "2030-10-28T01:30:00Z"),  # just before the second one
    ],
)
def test_when_the_clocks_change_it_is_due_once(after, due):
    found = next_due("30 2 * * *", "Europe/Berlin", datetime.fromisoformat(after))

    assert found == datetime.fromisoformat(due)


def test_a_day_that_never_comes_is_never_due():
    assert next_due("0 0 */40 2 MON#5", "UTC", CHANGES[0]) is None


@pytest.mark.parametrize("schedule", ["", "every day", "0 0 31 2 *", "61 * * * *"])
def test_what_is_no_cron_expression_is_refused(schedule):
    with pytest.raises(ValueError, match=r"Bad|Wrong"):
        next_due(schedule, "UTC", CHANGES[0])


@pytest.mark.parametrize("name", ["Nowhere", "Europe", "../../etc/passwd", "", "a\0b", "europe/berlin "])
def test_what_is_no_time_zone_is_refused(name):
    with pytest.raises(ValueError, match="expected a time zone such as"):
        zone(name)


# --- Windows ---------------------------------------------------------------


@given(times, st.sampled_from(ZONES), st.lists(st.sampled_from(WINDOWS), min_size=1, max_size=2).map(tuple))
def test_a_window_opens_when_it_says(now, place, windows):
    opening = next_opening(windows, place, now)

    if opening is not None:
        assert opening > now
        assert next_opening(windows, place, opening) is None
        assert next_opening(windows, place, opening - SECOND) == opening


@given(times, st.sampled_from(ZONES), st.sampled_from(WINDOWS))
def test_away_from_the_change_of_the_clocks_the_hours_are_those_on_the_wall(now, place, window):
    wall = now.astimezone(ZoneInfo(place))
    around = {(wall + timedelta(hours=hours)).utcoffset() for hours in range(-30, 31)}

    is_open = next_opening((window,), place, now) is None

    if len(around) == 1:
        assert is_open == is_inside(wall, read_window(window))


@pytest.mark.parametrize(
    ("now", "opening"),
    [
        ("2030-01-04T16:29:00Z", None),  # Friday, 17:29
        ("2030-01-04T16:30:00Z", "2030-01-07T08:00:00Z"),
        ("2030-01-07T07:59:59Z", "2030-01-07T08:00:00Z"),
        ("2030-07-01T06:00:00Z", "2030-07-01T07:00:00Z"),  # in summer an hour earlier
    ],
)
def test_office_hours(now, opening):
    found = next_opening(("mon-fri 09:00-17:30",), "Europe/Berlin", datetime.fromisoformat(now))

    assert found == (opening and datetime.fromisoformat(opening))


def test_a_window_that_the_clocks_skip_opens_the_week_after():
    now = datetime(2030, 3, 30, 12, tzinfo=UTC)

    opening = next_opening(("sun 02:10-02:20",), "Europe/Berlin", now)

    assert opening == datetime(2030, 4, 7, 0, 10, tzinfo=UTC)


def test_days_may_go_over_the_weekend_and_hours_over_midnight():
    window = read_window("Fri-Mon,wed 22:00-06:00")

    assert window.days == {4, 5, 6, 0, 2}
    assert next_opening(("fri 22:00-06:00",), "UTC", datetime(2030, 1, 5, 5, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9-17", "expected hours such as"),
        ("monday 09:00-10:00", "expected days such as 'mon-fri' or 'sat,sun', got 'monday'"),
        ("mon-xyz 09:00-10:00", "expected days such as 'mon-fri' or 'sat,sun', got 'xyz'"),
        ("25:00-26:00", "expected a time of the day such as '09:00', got '25:00'"),
        ("09:00-09:00", "begins and ends at the same time: '09:00-09:00'; the whole day is 00:00-24:00"),
        ("٠٩:00-10:00", "expected hours such as"),
    ],
)
def test_what_is_no_window_is_refused_in_words(text, message):
    with pytest.raises(ValueError, match=message):
        read_window(text)


# --- Words -----------------------------------------------------------------


def is_inside(wall, window):
    """Return whether a time on the wall is in a window, worked out the slow way."""
    clock, yesterday = wall.time(), (wall - timedelta(days=1)).weekday()
    if window.start < window.end:
        return wall.weekday() in window.days and window.start <= clock < window.end
    begun_today = wall.weekday() in window.days and clock >= window.start
    return begun_today or (yesterday in window.days and clock < window.end)


@pytest.mark.parametrize(
    ("windows", "now", "end"),
    [
        (["22:00-06:00"], "2030-01-02T23:00", "2030-01-03T06:00"),
        (["22:00-06:00"], "2030-01-03T05:59", "2030-01-03T06:00"),
        (["22:00-06:00"], "2030-01-03T06:00", None),
        (["22:00-06:00", "sat,sun 00:00-24:00"], "2030-01-04T23:00", "2030-01-07T06:00"),  # a Friday
        (["09:00-12:00", "11:00-14:00"], "2030-01-02T10:00", "2030-01-02T14:00"),
        (["09:00-12:00", "13:00-14:00"], "2030-01-02T10:00", "2030-01-02T12:00"),
    ],
)
def test_what_is_open_closes_where_nothing_goes_on_from_it(windows, now, end):
    moment = datetime.fromisoformat(f"{now}+00:00")

    closes = open_until(tuple(windows), "UTC", moment)

    assert closes == (datetime.fromisoformat(f"{end}+00:00") if end else None)
