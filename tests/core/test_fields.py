from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reconciler.core.fields import (
    Branch,
    Duration,
    Frozen,
    Name,
    Names,
    Strings,
    Time,
    format_duration,
    parse_duration,
)
from reconciler.core.names import check_branch, check_env_name, check_name
from reconciler.core.times import EARLIEST, LATEST, format_time, parse_time, time_at


class Sample(Frozen):
    wait: Duration = timedelta(0)
    at: Time = datetime(2030, 1, 1, tzinfo=UTC)
    words: Strings = ()
    name: Name = "a"
    names: Names = ()
    branch: Branch = "main"


# --- Durations and times ---------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90s", timedelta(seconds=90)),
        ("1h30m", timedelta(minutes=90)),
        ("7d", timedelta(days=7)),
        ("1d2h3m4s", timedelta(days=1, hours=2, minutes=3, seconds=4)),
    ],
)
def test_a_duration_is_written_as_people_say_it(text, value):
    assert parse_duration(text) == value


@pytest.mark.parametrize("wrong", ["", "90", "s", "1m1h", "1.5h", "-1s", "1 h", 90, None, "1s\n"])
def test_anything_else_is_no_duration(wrong):
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(wrong)


def test_a_duration_beyond_all_bounds_is_refused():
    with pytest.raises(ValueError, match="longer than any run"):
        parse_duration("9" * 20 + "d")


@given(st.integers(0, 10**9))
def test_a_duration_reads_back_the_same(seconds):
    value = timedelta(seconds=seconds)

    assert parse_duration(format_duration(value)) == value


@given(st.datetimes(datetime(1970, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - bounds are naive
def test_a_time_on_record_reads_back_to_the_millisecond(time):
    text = format_time(time)

    assert text.endswith("Z")
    assert Sample(at=text).at == time.replace(microsecond=time.microsecond // 1000 * 1000)


def test_a_time_without_a_zone_is_utc_and_one_with_a_zone_is_kept():
    assert Sample(at="2030-01-31T09:00:00").at == datetime(2030, 1, 31, 9, tzinfo=UTC)
    assert Sample(at="2030-01-31T09:00:00+01:00").at == datetime(2030, 1, 31, 8, tzinfo=UTC)


@given(st.one_of(st.integers(), st.floats(allow_nan=False)))
def test_whatever_time_a_file_or_a_commit_tells_can_be_shown_anywhere(seconds):
    shown = time_at(seconds)

    assert EARLIEST <= shown <= LATEST
    assert shown == parse_time(shown)
    if EARLIEST.timestamp() <= seconds <= LATEST.timestamp():
        assert shown.timestamp() == pytest.approx(seconds, abs=1e-3)


@pytest.mark.parametrize("wrong", ["soon", "", 3])
def test_anything_else_is_no_time(wrong):
    with pytest.raises(ValidationError, match="expected a time such as"):
        Sample(at=wrong)


# --- Names and branches ----------------------------------------------------


@pytest.mark.parametrize("name", ["a", "web/fix-login", "A.b_c-1/2"])
def test_a_safe_name_is_taken(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "unsafe name"),
        ("/a", "unsafe name"),
        ("a//b", "unsafe name"),
        ("-rf", "unsafe name"),
        ("a b", "unsafe name"),
        ("ä", "unsafe name"),
        ("a\n", "unsafe name"),
        ("a..b", "no '..'"),
        ("a.lock", r"no '\.lock'"),
        ("a" * 65, "at most 64"),
        ("/".join(["abcdefghi"] * 21), "longer than 200"),
    ],
)
def test_an_unsafe_name_is_refused_with_the_reason(name, why):
    with pytest.raises(ValueError, match=why):
        check_name(name)


@pytest.mark.parametrize("branch", ["main", "task/web/fix-login", "release-1.2"])
def test_a_safe_branch_is_taken(branch):
    assert check_branch(branch) == branch


@pytest.mark.parametrize(
    "branch",
    [
        "",
        "-d",
        "/a",
        "a/",
        "a.",
        "refs/heads/a",
        "HEAD",
        "@",
        "a..b",
        "a b",
        "a:b",
        "a@{1}",
        "a/.b",
        "a.lock/b",
    ],
)
def test_an_unsafe_branch_is_refused(branch):
    with pytest.raises(ValueError, match="unsafe branch name"):
        check_branch(branch)


def test_variables_of_the_scripts_that_begin_a_run_cannot_be_set_by_specs():
    assert check_env_name("http_proxy") == "http_proxy"
    with pytest.raises(ValueError, match="take another name"):
        check_env_name("run")


# --- Values ----------------------------------------------------------------


def test_one_word_may_stand_where_a_list_is_meant():
    assert Sample(words="gpu", names=["a", "b"]).words == ("gpu",)
    assert Sample(names=["a", "b"]).names == ("a", "b")
    with pytest.raises(ValidationError, match="words"):
        Sample(words=3)


def test_a_value_is_strict_and_never_changes():
    with pytest.raises(ValidationError, match="Extra inputs"):
        Sample(unknown=1)
    with pytest.raises(ValidationError, match="frozen"):
        Sample().name = "b"
