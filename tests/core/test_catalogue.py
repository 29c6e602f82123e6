"""The catalogue of errors has every code that there is, and none that is gone."""

import re
from pathlib import Path
from typing import get_args

import pytest

from reconciler.cli.exits import ExitCode
from reconciler.core.catalogue import ENTRIES, codes, lookup, similar
from reconciler.core.model.runs import FailureClass
from reconciler.core.model.status import Reason
from reconciler.core.notifications.rules import REASONS
from reconciler.core.views import HostState
from reconciler.dispatch.ssh.diagnosis import Class
from reconciler.specs.schema import json_schema

ROOT = Path(__file__).parents[2]
CODES = {
    "failure class": {*FailureClass},
    "waiting reason": {*Reason},
    "host state": {*get_args(HostState)},
    "login failure": {*Class},
    "notification reason": {*REASONS} - {*FailureClass} - {*Reason},
    "exit code": {str(code.value) for code in ExitCode},
}


@pytest.mark.parametrize("family", CODES)
def test_every_code_of_a_family_has_one_entry_and_none_is_stale(family):
    described = [entry.code for entry in ENTRIES if entry.family == family]

    assert sorted(described) == sorted(CODES[family])


def test_what_has_no_code_on_record_is_known_by_a_part_of_a_message_that_exists():
    source = "".join(
        file.read_text() for file in (ROOT / "reconciler").rglob("*.py") if file.stem != "catalogue"
    )
    source = re.sub(r'"\n\s*f?"', "", source)
    signs = [entry.sign for entry in ENTRIES if entry.family not in CODES]

    assert all(signs)
    assert [sign for sign in signs if sign not in source] == []


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.family}: {entry.code}")
def test_an_entry_says_why_and_what_to_do_in_sentences(entry):
    assert entry.cause.endswith(".")
    assert entry.remedy.endswith(".")
    assert entry.command
    assert "|" not in entry.cause + entry.remedy + entry.command


def test_fields_that_the_catalogue_names_are_those_of_specs():
    kinds = ("task", "campaign", "host", "adapter", "agent", "repo", "fleet")
    fields = {name for kind in kinds for name in json_schema(kind)["properties"]}
    words = {word for each in ENTRIES for word in re.findall(r"`(\w+)(?:: \w+)?`", each.cause + each.remedy)}
    others = {"failed", "escalated", "sh", "squeue"}

    assert len(words) > 20
    assert words - fields - others == set()


def test_a_code_is_found_whatever_its_case_and_a_message_by_its_sign_or_its_code():
    assert {entry.family for entry in lookup("HOST")} == {"failure class", "waiting reason"}
    assert [entry.code for entry in lookup("not-before")] == ["NotBefore"]
    assert [entry.code for entry in lookup("Host: no host fits")] == ["host", "Host"]
    assert [entry.code for entry in lookup("error: the record went back: branch x is gone")] == ["Rewound"]
    assert not lookup("")


def test_an_unknown_code_leads_to_codes_that_are_written_nearly_so():
    assert similar("stal")[0] == "stall"
    assert similar("dependencies")[0] == "Dependency"
    assert similar("") == []
    assert {*similar("suspend")} <= {*codes()}
