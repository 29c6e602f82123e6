"""
Logs as others may see them: no secret of a run is among what they read.
"""

import pytest

from reconciler.core.errors import NotFound, Refused
from reconciler.core.masking import Mask
from reconciler.dispatch.logs import LogFolder
from reconciler.dispatch.shown_logs import ShownLogs

RUN = "web/a.ga1a1a1a1.a1"


@pytest.fixture
def folder(tmp_path):
    return LogFolder(tmp_path)


def shown(folder, mask=None):
    return ShownLogs(folder, lambda *_: mask or Mask())


def write(folder, text, number=1, stream="out"):
    folder.append(f"web+a.ga1a1a1a1.a1.r{number}", stream, text.encode())


def test_lines_know_where_they_begin_and_end(folder):
    write(folder, "one\nzwölf\nhalf")

    logs = shown(folder)
    (part,) = logs.parts(RUN)
    lines = logs.read(RUN, part.label, 0, part.size)

    assert [(line.begin, line.end, line.text) for line in lines] == [
        (0, 4, "one\n"),
        (4, 11, "zwölf\n"),
        (11, 15, "half"),
    ]
    assert logs.read(RUN, part.label, 4, 11) == lines[1:2]


def test_secrets_are_masked_even_where_they_are_broken_over_lines(folder):
    write(folder, "token s3cr3t-value-1234\nsplit s3cr3t-\nvalue-1234 end\n")
    mask = Mask(frozenset({"s3cr3t-value-1234"}))

    logs = shown(folder, mask)
    (part,) = logs.parts(RUN)
    text = "".join(line.text for line in logs.read(RUN, part.label, 0, part.size))

    assert "s3cr3t" not in text
    assert "1234" not in text
    assert "s3cr3t" not in logs.last_line(RUN, 1)


def test_what_may_hold_forgotten_secrets_is_withheld(folder):
    write(folder, "who knows\n")
    logs = shown(folder, Mask(withheld="withheld"))
    (part,) = logs.parts(RUN)

    with pytest.raises(Refused, match="reconciler logs"):
        logs.read(RUN, part.label, 0, 10)
    assert logs.last_line(RUN, 1) == ""


def test_the_last_line_is_the_last_that_holds_anything(folder):
    write(folder, "first\nlast words\n\n   \n")

    assert shown(folder).last_line(RUN, 1) == "last words"
    assert shown(folder).last_line(RUN, 2) == ""


def test_a_log_that_is_gone_is_not_found(folder):
    with pytest.raises(NotFound):
        shown(folder).read(RUN, "round 1 agent", 0, 10)
