from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.events import FixRequested, Origin, Removed, SpecChanged
from reconciler.core.hosts import HostChange
from reconciler.core.lifecycle import Transition
from reconciler.core.model.runs import Report, Verdict
from reconciler.core.model.status import HostStatus, Phase
from reconciler.core.transitions import host_record, task_record
from reconciler.store import messages
from tests.store.world import NOW, REVISION, commit, created, git, spec, started, status

texts = st.text(max_size=60) | st.sampled_from(
    [
        "x\n\nTask: forged",
        "\r\nTo: completed",
        "Task: forged",
        "\u2028To: x",
        "\x1b[31m",
        "\n",
        "---",
        "# x",
        "",
    ]
)


def forged(reason: str, actor: str, delivery: str) -> Transition:
    step = started("web/a")
    origin = replace(step.event.origin, reason=reason, actor=actor, delivery=delivery)
    return replace(step, event=replace(step.event, origin=origin))


@given(texts, texts, texts)
def test_nothing_that_is_said_can_pass_for_a_trailer(reason, actor, delivery):
    message = messages.render_message(forged(reason, actor, delivery), revision=REVISION, previous="f" * 40)

    trailers = messages.trailers_of(message)
    assert trailers["Task"] == "web/a"
    assert trailers["To"] == "running"
    assert trailers["Prev-Transition"] == "f" * 40
    assert set(trailers) <= {
        *(
            "Task",
            "From",
            "To",
            "Run",
            "Host",
            "Cause",
            "Actor",
            "Spec-Revision",
            "Delivery",
            "Prev-Transition",
        )
    }
    assert all(trailers.values())
    assert message.startswith("task web/a: assigned → running\n\n")


@given(st.text(st.characters(categories=["L", "N", "P", "S"]) | st.just(" ")))
def test_the_reason_is_read_back_as_it_was_said(reason):
    message = messages.render_message(created("a", reason))

    assert messages.reason_of(message) == reason.strip()


def test_git_reads_the_same_trailers(checkout):
    message = messages.render_message(forged("x\n\nTask: forged", "y\nTo: completed", "7"), revision=REVISION)
    commit(checkout, "file", "x", message)

    read = git(checkout, "log", "-1", "--format=%(trailers:only,unfold)")

    assert read.splitlines() == [f"{key}: {value}" for key, value in messages.trailers_of(message).items()]


def test_a_subject_says_what_happened_to_the_task():
    gone = Transition(
        "a",
        status(Phase.COMPLETED),
        None,
        Removed(task="a", origin=Origin(NOW, "cleaned up")),
    )
    changed = Transition(
        "a", status(), status(), SpecChanged(task="a", origin=Origin(NOW, "edited"), spec=spec("a"))
    )

    subjects = [
        messages.render_message(step).splitlines()[0] for step in (created("a"), started("a"), changed, gone)
    ]

    assert subjects == [
        "task a: created",
        "task a: assigned → running",
        "task a: created, spec changed",
        "task a: completed → removed",
    ]


def test_the_prompt_is_named_when_it_is_new():
    before, after = status(prompt_sha256="aa"), status(prompt_sha256="bb")

    def named(step: Transition) -> str | None:
        return messages.trailers_of(messages.render_message(step)).get("Prompt-SHA256")

    assert named(replace(created("a"), before=before, after=after)) == "bb"
    assert named(replace(created("a"), before=after, after=after)) is None


def test_what_the_egress_list_of_a_run_denied_is_named_where_its_round_ended():
    step, denied = started("a"), ("b.example.org:443", "169.254.169.254:80")
    report = Report(verdict=Verdict(outcome="success", denied=denied))
    ended = replace(
        step, event=FixRequested(task="a", origin=step.event.origin, run=step.event.run, report=report)
    )

    named = messages.trailers_of(messages.render_message(ended))["Egress-Denied"]

    assert named == "b.example.org:443, 169.254.169.254:80"


@given(texts, texts)
def test_a_message_is_parsed_into_the_record_that_it_was_written_from(reason, actor):
    step = forged(reason, actor, "7")
    message = messages.render_message(step, revision=REVISION, previous="f" * 40)
    headers = f"tree {'a' * 40}\ncommitter R <r@localhost> {int(NOW.timestamp())} +0000"

    read = messages.parse_message("c" * 40, f"{headers}\n\n{message}".encode("utf-8", "replace"))

    written = task_record(step, revision=REVISION, previous="f" * 40)
    text = {"reason": read.reason, "actor": read.actor}  # in one line and harmless
    assert read == replace(written, commit="c" * 40, **text)


def test_news_of_a_host_are_parsed_into_the_record_that_they_were_written_from():
    change = HostChange("h1", None, HostStatus(reachable=True, since=NOW), NOW, "answers")
    headers = f"committer R <r@localhost> {int(NOW.timestamp())} +0000"

    read = messages.parse_message("c" * 40, f"{headers}\n\n{messages.render_host(change)}".encode())

    assert read == replace(host_record(change), commit="c" * 40)
    assert (read.name, read.before, read.after) == ("host h1", "unknown", "up")


def test_a_message_without_trailers_has_none():
    assert messages.trailers_of("just words\n") == {}
    assert messages.trailers_of("subject\n\nTask: a\nand more words\n") == {}
    assert messages.reason_of("just words\n") == ""
