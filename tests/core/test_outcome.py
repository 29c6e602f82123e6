from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.adapter import Usage
from reconciler.core.model.runs import FailureClass
from reconciler.core.runs.outcome import OutputFacts, classify, retry_time, run_usage, verdict

NOW = datetime(2030, 1, 31, 9, 30, tzinfo=UTC)
GOOD = OutputFacts(exit_code=0, complete=True, succeeded=True, text="Done.", session_id="s1")


def judged(**changes):
    return verdict(replace(GOOD, **changes), NOW)


# --- Success ---------------------------------------------------------------


def test_a_success_needs_the_last_event_what_it_says_and_the_exit_code():
    assert judged().outcome == "success"
    assert judged().kind is None
    assert judged(complete=False).outcome == "failed"
    assert judged(succeeded=False).outcome == "failed"
    assert judged(exit_code=1).outcome == "failed"


@pytest.mark.parametrize(
    "changes", [{"denials": ("Bash",)}, {"lacks_structure": True}, {"text": " \n"}], ids=str
)
def test_what_spoils_a_success_spoils_it_also_after_a_kill(changes):
    assert judged(**changes).outcome == "failed"
    assert judged(**changes, exit_code=143).outcome == "failed"


def test_each_way_to_spoil_a_success_is_told_in_other_words():
    messages = {
        judged(**changes).message
        for changes in (
            {"complete": False},
            {"complete": False, "was_cut": True},
            {"complete": False, "started": False},
            {"complete": False, "exit_code": 143},
            {"succeeded": False, "error": "it broke"},
            {"denials": ("Bash", "Bash", "Write")},
            {"exit_code": 3},
            {"lacks_structure": True},
            {"text": ""},
        )
    }

    assert len(messages) == 9
    assert "denied and given up: Bash, Write; allow it in the adapter" in messages


def test_a_run_that_was_ended_after_its_result_is_a_success_with_a_note():
    found = judged(exit_code=137)

    assert found.outcome == "success"
    assert found.notes == ("ended by SIGKILL after its result",)


def test_what_is_cut_off_after_the_result_is_noted():
    assert judged(was_cut=True).notes == ("output after the result is cut off",)


def test_a_session_other_than_the_one_asked_for_is_noted():
    assert judged(wanted_session="s0").notes == ("new session s1, not s0 as asked",)
    assert judged(wanted_session="s1").notes == ()
    assert judged(wanted_session="s0", session_id=None).session_id == "s0"


def test_a_silent_command_may_succeed_where_no_words_are_needed():
    assert judged(text="", needs_text=False).outcome == "success"


# --- Failure classes -------------------------------------------------------


def failed(**changes):
    return replace(GOOD, exit_code=1, succeeded=False, **changes)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Invalid API key · Fix external API key", FailureClass.AUTH),
        ("Not logged in · Please run /login", FailureClass.AUTH),
        ("Missing environment variable: `KEY`.", FailureClass.AUTH),
        ("exceeded retry limit, last status: 429 Too Many Requests", FailureClass.QUOTA),
        ("API Error: 529 Overloaded", FailureClass.QUOTA),
        ("You've hit your usage limit. Try again in 3 days.", FailureClass.QUOTA),
        ("Reached maximum budget ($0.005)", FailureClass.BUDGET),
        ("Reached maximum number of turns (30)", FailureClass.BUDGET),
        ("Credit balance is too low", FailureClass.BUDGET),
        ("connect ECONNREFUSED 127.0.0.1:443", FailureClass.HOST),
        ("stream disconnected before completion", FailureClass.HOST),
        ("The model `nosuch` does not exist", FailureClass.CONFIG),
        ("Prompt is too long", FailureClass.AGENT),
        ("I could not do it", FailureClass.AGENT),
    ],
)
def test_the_words_of_an_error_tell_its_class(message, kind):
    assert classify(failed(error=message)) is kind
    assert classify(failed(stderr=f"starting\n{message}\n")) is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, FailureClass.AUTH),
        (402, FailureClass.BUDGET),
        (404, FailureClass.CONFIG),
        (429, FailureClass.QUOTA),
        (500, FailureClass.QUOTA),
        (504, FailureClass.HOST),
    ],
)
def test_the_status_of_the_models_server_goes_before_words(status, kind):
    assert classify(failed(error_status=status, error="it broke")) is kind


def test_what_the_output_says_of_its_class_goes_before_everything():
    assert classify(failed(error_class=FailureClass.BUDGET, error_status=401)) is FailureClass.BUDGET


def test_the_agents_own_words_do_not_tell_a_class():
    assert (
        classify(failed(text="The server answered 401 Unauthorized, as the test wants")) is FailureClass.AGENT
    )


def test_a_cli_that_refuses_to_start_needs_another_configuration():
    refusal = OutputFacts(
        exit_code=1, complete=False, succeeded=False, started=False, stderr="error: odd flag"
    )

    assert classify(refusal) is FailureClass.CONFIG
    assert classify(replace(refusal, started=True)) is FailureClass.AGENT
    assert classify(replace(refusal, exit_code=127, stderr="")) is FailureClass.CONFIG


def test_a_kill_from_outside_is_the_hosts_doing():
    found = judged(complete=False, exit_code=137)

    assert found.kind is FailureClass.HOST
    assert found.message == "ended by SIGKILL before it was done"


def test_a_session_that_is_gone_is_not_asked_for_again():
    found = judged(
        complete=False, exit_code=1, session_id=None, wanted_session="s0", stderr="No conversation found: s0"
    )

    assert (found.kind, found.session_id) == (FailureClass.AGENT, None)


def test_messages_are_one_harmless_line():
    found = judged(succeeded=False, error="a\x1b[31mb\nc\x07" + "x" * 10_000)

    assert found.message.startswith("ab cx")
    assert len(found.message) <= 500
    assert judged(text="x\x1b]0;title\x07y\n").text == "xy"


# --- Usage -----------------------------------------------------------------

counts = st.integers(0, 10**6)
usages = st.builds(
    Usage,
    input_tokens=counts,
    output_tokens=counts,
    cached_tokens=counts,
    cost_usd=st.floats(0, 100).map(lambda value: round(value, 4)),
    turns=counts,
)


@settings(max_examples=50)
@given(st.lists(usages, max_size=6))
def test_the_differences_of_running_totals_add_up_to_the_last_total(runs):
    totals, taken = [Usage()], Usage()
    for run in runs:
        totals.append(totals[-1] + run)

    for before, now in pairwise(totals):
        taken += run_usage(before, now, ("tokens", "cost"))

    assert taken.input_tokens == totals[-1].input_tokens
    assert taken.cached_tokens == totals[-1].cached_tokens
    assert taken.cost_usd == pytest.approx(totals[-1].cost_usd, abs=1e-4)


@settings(max_examples=50)
@given(usages, usages)
def test_what_was_taken_is_never_less_than_nothing_nor_more_than_the_total(before, now):
    taken = run_usage(before, now, ("tokens", "cost"))

    assert 0 <= taken.input_tokens <= now.input_tokens
    assert 0 <= taken.cost_usd <= now.cost_usd
    assert taken.turns == now.turns
    assert run_usage(before, now, ()) == now


def test_a_total_that_got_smaller_was_begun_anew():
    before = Usage(input_tokens=100, output_tokens=10, cost_usd=1.0)
    now = Usage(input_tokens=40, output_tokens=20, cost_usd=1.5)

    taken = run_usage(before, now, ("tokens", "cost"))

    assert (taken.input_tokens, taken.output_tokens, taken.cost_usd) == (40, 20, 0.5)


# --- When a quota is full again --------------------------------------------


@pytest.mark.parametrize(
    ("message", "time"),
    [
        ("Claude AI usage limit reached|1896085800", datetime(2030, 1, 31, 10, 30, tzinfo=UTC)),
        ('{"resets_at": 1896089400}', datetime(2030, 1, 31, 11, 30, tzinfo=UTC)),
        ("x-ratelimit-reset: 1896089400000", datetime(2030, 1, 31, 11, 30, tzinfo=UTC)),
        ("5-hour limit reached ∙ resets 3pm", datetime(2030, 1, 31, 15, 0, tzinfo=UTC)),
        ("Your limit will reset at 3:15pm (Europe/Berlin).", datetime(2030, 1, 31, 14, 15, tzinfo=UTC)),
        ("limit will reset at 9:00 (UTC)", datetime(2030, 2, 1, 9, 0, tzinfo=UTC)),
        ("resets 12am (America/New_York)", datetime(2030, 2, 1, 5, 0, tzinfo=UTC)),
        ("Try again at Feb 3rd, 2030 4:25 PM.", datetime(2030, 2, 3, 16, 25, tzinfo=UTC)),
        ("resets Feb 2, 5pm (UTC)", datetime(2030, 2, 2, 17, 0, tzinfo=UTC)),
        ("Try again in 3 days 2 hours 1 minute.", NOW + timedelta(days=3, hours=2, minutes=1)),
        ("Please try again in 1m30.5s.", NOW + timedelta(seconds=90.5)),
        ("Please try again in 20ms.", NOW + timedelta(milliseconds=20)),
        ("retry-after: 30", NOW + timedelta(seconds=30)),
        ('"retryDelay": "34s"', NOW + timedelta(seconds=34)),
        ("Your quota will reset after 2h3m4s.", NOW + timedelta(hours=2, minutes=3, seconds=4)),
        ("quota is full again at 2030-01-31T11:00:00Z", datetime(2030, 1, 31, 11, 0, tzinfo=UTC)),
        ("again at 2030-01-31T11:00:00+01:00", datetime(2030, 1, 31, 10, 0, tzinfo=UTC)),
        ("Retry-After: Thu, 31 Jan 2030 10:00:00 GMT", datetime(2030, 1, 31, 10, 0, tzinfo=UTC)),
        ("Retry-After: Thu, 31 Jan 2019 10:00:00 GMT", None),
        ("Retry-After: Xyz, 99 Jan 2030 10:00:00 GMT", None),
        ("try again after 20 minutes", NOW + timedelta(minutes=20)),
        ("available again in about 2h", NOW + timedelta(hours=2)),
        ("please wait 20 minutes", NOW + timedelta(minutes=20)),
        ("x-ratelimit-reset-requests: 1m30s", NOW + timedelta(seconds=90)),
        ('"resets_in_seconds": 300', NOW + timedelta(minutes=5)),
        ("try again in 3651 days", None),
        ("resets_at: 9999999999", None),
        ("rate limited", None),
        ("resets Mon 9am", datetime(2030, 2, 4, 9, 0, tzinfo=UTC)),
        ("resets Thursday, at 9:15 (UTC)", datetime(2030, 2, 7, 9, 15, tzinfo=UTC)),
        ("until thu 11pm", datetime(2030, 1, 31, 23, 0, tzinfo=UTC)),
        ("resets 77pm", None),
        ("resets Foo 3, 5pm", None),
        ("resets 3pm (Nowhere/Land)", datetime(2030, 1, 31, 15, 0, tzinfo=UTC)),
        ("limit reached|1000000000", None),
        ("retry-after: 99999999", None),
        ("try again at 2030-99-99T11:00", None),
        ("2020-01-01T00:00:00Z ERROR limit reached", None),
        ("2030-01-31T08:59:59Z ERROR again at 2030-01-31T11:00Z", datetime(2030, 1, 31, 11, 0, tzinfo=UTC)),
        ("try again in a moment, 3 times at most", None),
        ("reset at 5 places", None),
    ],
)
def test_a_time_named_in_words_is_read(message, time):
    assert retry_time(message, NOW) == time


def test_a_day_without_a_year_may_be_one_of_the_next():
    silvester = datetime(2030, 12, 31, 20, 0, tzinfo=UTC)

    assert retry_time("resets Jan 2, 5pm (UTC)", silvester) == datetime(2031, 1, 2, 17, 0, tzinfo=UTC)
    assert retry_time("resets Dec 31, 5pm (UTC)", silvester) is None


@settings(max_examples=200)
@given(
    st.text(),
    st.sampled_from(["resets ", "try again in ", "retry-after: ", "limit reached|", "at "]),
    st.text("0123456789:apm dhs,-TZ"),
)
def test_any_words_name_a_time_to_come_or_none(before, middle, after):
    time = retry_time(before + middle + after, NOW)

    assert time is None or NOW <= time <= NOW + timedelta(days=32)


def test_only_a_quota_has_a_time_to_wait_until():
    message = "usage limit reached, resets 3pm"

    assert judged(succeeded=False, error=message).retry_at == datetime(2030, 1, 31, 15, 0, tzinfo=UTC)
    assert judged(succeeded=False, error=f"401 {message}", error_status=401).retry_at is None


# --- What is no fact -------------------------------------------------------

NO_FACTS = [
    "TypeError: Cannot read properties of undefined (reading 'x')\n    at run (/usr/lib/cli.js:429:21)",
    "TypeError: x is not a function at cli.js:401:3",
    "(node:401) [DEP0040] DeprecationWarning: The `punycode` module is deprecated.",
    "(node:429) Warning: Accessing non-existent property 'quota' of module exports",
    "file:///usr/lib/cli.js:503\n    throw new Error('x')\n    ^\n\nError: x\n    at cli.js:529:1",
    "Error: Cannot find module './rate-limit.js'\nRequire stack:\n- /usr/lib/quota.js",
    "Error: Cannot find module '/usr/lib/node_modules/auth/unauthorized.js'".replace("unauthorized", "login"),
    "Debugger listening on ws://127.0.0.1:50300/429",
    "at RateLimitError (quota.js:429)\nat authenticate (auth.js:401)",
    "Error: expected 429 files and found 401",
    "Error: line 503: unexpected end",
    "Error: process exited with exit code 401",
    "Error: listen on port 429 failed",
    "Error: Context limit reached; run /compact",
    "Error: test_unauthorized_returns_401 (expected 401, got 403)",
    "Error: expected 'Unauthorized' to equal 'OK'",
    "Error: assert response.status_code == 429",
    "Error: assert status == 500",
    "Error: exit status 500",
    "Error: 'HTTP 429' not in page",
    "FAIL src/limits.test.ts > rate limit exceeded is told",
    "error: call of overloaded 'f(int)' is ambiguous",
    "error: no matching function for call to 'overloaded(int)'",
    "Error: Operator + is overloaded (ambiguous)",
    "Error: cannot open file 'session limit.txt'",
    "Error: quota.py:12: rate limit exceeded is no identifier",
    "error: failed to push some refs: HTTP 403",
    "fatal: unable to access 'https://git.example.org/': The requested URL returned error: 503",
    "npm error 401 Unauthorized - GET https://npm.example.org/left-pad",
    "curl: (22) The requested URL returned error: 429",
    "Error: #401 unauthorized access to the vault page is not tested",
    "Error: GH-401 unauthorized users see the page",
    "Error: vector capacity exceeded",
    "Error: queue at capacity",
    "Error: status 429 is not in the enum",
    "Error: HTTP 503 handler missing",
    "Error: usage limit of the memory pool is 3",
    "Error: message limit of the queue exceeded",
    "Error: mailbox quota exceeded",
    "Error: EDQUOT: disk quota exceeded, write",
    "Error: recursion limit exceeded",
    "Error: unauthorized is not defined",
    "Error: login token expired test missing",
    "Error: out of credits screen crashed",
    "Error: rate_limit_error is not exported",
    "KeyError: 'rate_limit_exceeded'",
    "Error: internal server error page has no title",
]


@pytest.mark.parametrize("message", NO_FACTS)
def test_numbers_and_words_in_free_text_are_no_facts(message):
    kinds = {classify(failed(stderr=message)), classify(failed(error=message))}

    assert not kinds & {FailureClass.QUOTA, FailureClass.AUTH, FailureClass.BUDGET}


@given(
    st.integers(100, 999),
    st.sampled_from(["at x.js:{}:7", "(node:{}) Warning: y", "Error: {} of it", "f:{}"]),
)
def test_no_number_alone_makes_a_class(number, message):
    assert classify(failed(stderr=message.format(number))) is FailureClass.AGENT


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Selected model is at capacity. Please try a different model.", FailureClass.QUOTA),
        ("API Error: Repeated 529 Overloaded errors", FailureClass.QUOTA),
        ("ThrottlingException: Too many tokens, please wait before trying again.", FailureClass.QUOTA),
        ("Throttling: TPM(5000/5000): rate exceeded", FailureClass.QUOTA),
        ("The server had an error while processing your request. Sorry about that!", FailureClass.QUOTA),
        ("Budget has been exceeded! Current cost: 10.0, Max budget: 10.0", FailureClass.BUDGET),
        ("The security token included in the request is expired", FailureClass.AUTH),
        ("Could not load the default credentials.", FailureClass.AUTH),
        ("GEMINI_API_KEY environment variable not found", FailureClass.AUTH),
        ("API Error: Unable to connect to API (ConnectionRefused)", FailureClass.HOST),
        ("dial tcp: lookup api.openai.com: no such host", FailureClass.HOST),
        ("SSL: CERTIFICATE_VERIFY_FAILED", FailureClass.HOST),
        ("You've hit your limit · resets 3pm", FailureClass.QUOTA),
        ("You've hit your Sonnet limit · resets Oct 9, 3pm (UTC)", FailureClass.QUOTA),
        ("You've reached your weekly limit", FailureClass.QUOTA),
        ("5-hour limit reached ∙ resets 3pm", FailureClass.QUOTA),
        ("Request rejected (429) · This request would exceed your rate limit", FailureClass.QUOTA),
        ("[API Error: 500 The server had an error]", FailureClass.QUOTA),
        ("API Error: 500 Internal server error", FailureClass.QUOTA),
        ('{"error":{"code":500,"message":"x","status":"INTERNAL"}}', FailureClass.QUOTA),
        ("unexpected status 500 Internal Server Error: x", FailureClass.QUOTA),
        ("402 Payment Required", FailureClass.BUDGET),
        ("unexpected status 402 Payment Required: x", FailureClass.BUDGET),
        (
            "Your token could not be refreshed as you have logged out or signed in to another account.",
            FailureClass.AUTH,
        ),
        (
            "access token could not be refreshed because your refresh token was already used",
            FailureClass.AUTH,
        ),
        ("OAuth token has expired", FailureClass.AUTH),
        ("Please run `codex login`", FailureClass.AUTH),
        ("This organization has been disabled.", FailureClass.AUTH),
        ("No auth type is selected. Please configure an auth type", FailureClass.AUTH),
        ("TypeError: fetch failed", FailureClass.HOST),
        ("socket hang up", FailureClass.HOST),
        ("getaddrinfo EAI_AGAIN api.example.org", FailureClass.HOST),
        ("unable to get local issuer certificate", FailureClass.HOST),
        ("FATAL ERROR: Reached heap limit - JavaScript heap out of memory", FailureClass.HOST),
        ("fork: retry: Resource temporarily unavailable", FailureClass.HOST),
        ("unsupported model: x", FailureClass.CONFIG),
        ("{ status: 'RESOURCE_EXHAUSTED', code: 1 }", FailureClass.QUOTA),
        ("{'error': {'message': 'x', 'code': 'rate_limit_exceeded'}}", FailureClass.QUOTA),
        ("Provider returned error: 429", FailureClass.QUOTA),
        ("Too many concurrent requests", FailureClass.QUOTA),
        ("Server is busy, please try again later", FailureClass.QUOTA),
        ("[API Error: Please wait and try again later.]", FailureClass.QUOTA),
        ("Free tier limit reached", FailureClass.QUOTA),
        ("You have run out of credits", FailureClass.BUDGET),
        ("This request requires more credits", FailureClass.BUDGET),
        ("Insufficient account balance", FailureClass.BUDGET),
        ("Forbidden", FailureClass.AUTH),
        ("Your account does not have access to Claude Code", FailureClass.AUTH),
        ("You do not have permission to use this model", FailureClass.AUTH),
        ("Bad gateway", FailureClass.HOST),
        ("upstream connect error or disconnect/reset before headers", FailureClass.HOST),
        ("Your plan does not include this model", FailureClass.CONFIG),
        ("connect ECONNREFUSED api.example.org:443", FailureClass.HOST),
        ("Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM)", FailureClass.QUOTA),
        ("429 Client Error: Too Many Requests for url: https://api.example.org/v1", FailureClass.QUOTA),
        ("Server error '503 Service Unavailable' for url 'https://api.example.org'", FailureClass.QUOTA),
        ("Request failed with status code 429", FailureClass.QUOTA),
        ("This request would exceed your account's rate limit.", FailureClass.QUOTA),
        ("That model is currently overloaded with other requests.", FailureClass.QUOTA),
        ("gpt-5.1-codex is at capacity", FailureClass.QUOTA),
        ("You exceeded your current quota, please check your plan and billing details.", FailureClass.QUOTA),
        ("Claude AI usage limit reached|1790000000", FailureClass.QUOTA),
        ("No auth credentials found", FailureClass.AUTH),
        ("Request had invalid authentication credentials.", FailureClass.AUTH),
        ("Your credit balance is too low to access the Anthropic API.", FailureClass.BUDGET),
        ("ENOSPC: no space left on device, write", FailureClass.HOST),
        ("EDQUOT: disk quota exceeded, write", FailureClass.HOST),
    ],
)
def test_what_clis_say_of_themselves_is_understood(message, kind):
    assert classify(failed(error=message)) is kind


def test_a_crash_is_told_by_its_error_and_not_by_the_last_line_of_its_stack():
    stderr = "TypeError: x is not a function\n    at run (cli.js:429:21)\n    at main (cli.js:1:1)"

    found = verdict(failed(stderr=stderr), NOW)

    assert "TypeError: x is not a function" in found.message


def test_words_count_only_on_lines_that_begin_as_errors_do():
    assert classify(failed(stderr="DEBUG rate limit exceeded is a test of mine")) is FailureClass.AGENT
    assert classify(failed(stderr="DEBUG a\n[api] Error: rate limit exceeded")) is FailureClass.AGENT
    assert classify(failed(stderr="DEBUG a\nError: rate limit exceeded")) is FailureClass.QUOTA


def test_a_clis_own_phrases_and_places_go_before_the_general_ones():
    own = {"config": r".*at capacity"}

    assert classify(failed(error="model is at capacity", error_patterns=own)) is FailureClass.CONFIG
    assert classify(failed(stderr="Error: 429 Too Many Requests", complaints=())) is FailureClass.AGENT
    assert classify(failed(stderr="x", complaints=("HTTP 429",))) is FailureClass.QUOTA
