"""
Secrets are found in whatever dress they come, and nothing else is taken for one.
"""

import base64
import html
import json
import quopri
import re
import shlex
import textwrap
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.masking import Mask

TOKEN = "sk-aB3/xY+z_9Q=secret'\"value\\9"
KEY = (
    "-----BEGIN PRIVATE KEY-----\n"
    + "\n".join(f"MIIEvQIBADAN{number}BgkqhkiG9w0BAQEFAASC+/{number}" for number in range(100, 108))
    + "\nabc=\n-----END PRIVATE KEY-----\n"
)
ACCOUNT = json.dumps({"type": "service", "private_key": KEY, "id": {"deep": ["0123456789abcdef"]}})


def hex_of(text):
    return text.encode().hex()


def base64_behind(count):
    return lambda text: base64.b64encode(b"u" * count + text.encode() + b"tail").decode()


ENCODINGS = {
    "as it is": str,
    "json": json.dumps,
    "json unicode": lambda text: json.dumps(text, ensure_ascii=False),
    "json in json": lambda text: json.dumps(json.dumps(text)),
    "json in json in json": lambda text: json.dumps(json.dumps(json.dumps({"a": text}))),
    "slashes escaped": lambda text: json.dumps(text).replace("/", "\\/"),
    "shell": shlex.quote,
    "shell, each character": lambda text: "".join(f"\\{c}" for c in text),
    "python": repr,
    "python bytes": lambda text: repr(text.encode()),
    "url": lambda text: quote(text, safe=""),
    "url path": quote,
    "url query": quote_plus,
    "url lower": lambda text: re.sub("%..", lambda match: match[0].lower(), quote(text, safe="")),
    "url twice": lambda text: quote(quote(text, safe=""), safe=""),
    "html": html.escape,
    "hex": hex_of,
    "hex upper": lambda text: hex_of(text).upper(),
    "hex spaced": lambda text: " ".join(textwrap.wrap(hex_of(text), 2)),
    "hex escapes": lambda text: "".join(f"\\x{byte:02x}" for byte in text.encode()),
    **{f"base64 behind {count}": base64_behind(count) for count in range(4)},
    "base64 url": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 wrapped": lambda text: "\n".join(textwrap.wrap(base64.b64encode(text.encode()).decode(), 12)),
    "base64 of base64": lambda text: base64.b64encode(base64.b64encode(text.encode())).decode(),
    "json, each character": lambda text: "".join(f"\\u{ord(c):04x}" for c in text),
    "json for web pages": lambda text: "".join(f"\\u{ord(c):04X}" if c in "+='\"&" else c for c in text),
    "json in json for web pages": lambda text: re.sub("[^a-z]", lambda at: f"\\\\u{ord(at[0]):04x}", text),
    "braced numbers": lambda text: "".join(f"\\u{{{ord(c):x}}}" for c in text),
    "octal": lambda text: "".join(f"\\{byte:03o}" for byte in text.encode()),
    "octal, some": lambda text: re.sub("[^A-Za-z0-9]", lambda at: f"\\{ord(at[0]):03o}", text),
    "xml decimal": lambda text: "".join(f"&#{ord(c)};" for c in text),
    "xml hexadecimal": lambda text: "".join(f"&#x{ord(c):02X};" for c in text),
    "url, each character": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "url, some": lambda text: re.sub("[^a-z]", lambda at: f"%{ord(at[0]):02x}", text),
    "mail": lambda text: quopri.encodestring(b"~" * 62 + text.encode()).decode(),
    "base32": lambda text: base64.b32encode(text.encode()).decode(),
}
BREAKS = [
    "\n",
    "\r\n",
    "\\n",
    "\\\n",
    "\n  ",
    "\n> ",
    "\n+",
    "\n| ",
    '"\n "',
    "' + \\\n  '",
    "\n12: ",
    "\n   12\t",
    "+\\n",
    "\x1b[0m\x1b[31m",
]


def letters(text):
    return "".join(filter(str.isalnum, text))


def least(text):
    """Return the longest stretch of letters and digits that must not be left of a text."""
    return letters(text)[2:-3]


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
def test_a_secret_is_found_in_every_encoding(encode):
    text = f"before {encode(TOKEN)} after"

    hidden = Mask(frozenset({TOKEN})).hide(text)

    assert hidden.startswith("before ")
    assert hidden.endswith(" after")
    assert sum(map(str.isalnum, hidden)) <= len("beforeafter") + 16  # what was encoded beside it


@pytest.mark.parametrize("pause", BREAKS, ids=repr)
@pytest.mark.parametrize("place", [2, 9, 20])
def test_a_secret_that_is_broken_over_lines_is_found(pause, place):
    text = f"before {TOKEN[:place]}{pause}{TOKEN[place:]} after"

    hidden = Mask(frozenset({TOKEN})).hide(text)

    assert letters(hidden) in {"beforeafter", "before12after"}


@pytest.mark.parametrize(
    "encode", [str, json.dumps, ascii, shlex.quote, lambda text: text.replace("\n", "\n    ")]
)
def test_a_key_of_many_lines_is_found_whole_and_line_by_line(encode):
    mask = Mask(frozenset({KEY}))

    for text in (encode(KEY), *map(encode, KEY.splitlines()[1:-2])):
        assert "BgkqhkiG9w0B" not in mask.hide(text)


@pytest.mark.parametrize("number", range(1, 9))
def test_a_line_of_a_key_that_others_number_is_found(number):
    text = f"{number:>6}\t{KEY.splitlines()[number]}\n"

    assert letters(Mask(frozenset({KEY})).hide(text)) == str(number)


@pytest.mark.parametrize(
    ("value", "inner"),
    [
        (ACCOUNT, KEY.splitlines()[3]),
        (ACCOUNT, "0123456789abcdef"),
        (f"export KEY='{TOKEN}'", TOKEN),
        (f"A=b\nKEY={TOKEN}\n", TOKEN),
        (f"Authorization: Bearer {'t0ken' * 5}", "t0ken" * 5),
    ],
)
def test_what_is_secret_within_a_secret_is_found_alone(value, inner):
    assert letters(Mask(frozenset({value})).hide(f"a {inner} b")) == "ab"


def test_the_password_of_an_address_is_found_alone():
    mask = Mask(frozenset({"postgres://app:hunter2-hunter2@db/app"}))

    assert mask.hide("PGPASSWORD=hunter2-hunter2 psql -h db") == f"PGPASSWORD={'*' * 15} psql -h db"


def test_words_that_are_no_secrets_stay():
    text = "two words, ¹ and 'quotes' on\n12 lines: abc-def"

    assert Mask(frozenset({TOKEN, KEY, "two", ""})).hide(text) == text
    assert Mask().hide("\x1b[0m") == "\x1b[0m"


def test_what_cannot_be_masked_for_sure_is_withheld():
    mask = Mask(frozenset({TOKEN}), withheld="[withheld]")

    assert (mask.withhold("any words"), mask.withhold(" \n")) == ("[withheld]", " \n")
    assert mask.hide(f"our own words and {TOKEN}") == f"our own words and {'*' * len(TOKEN)}"


def printable(**sizes):
    return st.text(st.characters(categories=["L", "N", "P", "S"]), **sizes)


@settings(max_examples=300, deadline=None)
@given(
    value=printable(min_size=6, max_size=40),
    before=printable(max_size=20),
    after=printable(max_size=20),
    encode=st.sampled_from([str, json.dumps, repr, html.escape, shlex.quote]),
)
def test_no_text_keeps_a_secret_and_each_keeps_its_lines(value, before, after, encode):
    text = f"{before}{encode(value)}\n{after}"

    hidden = Mask(frozenset({value})).hide(text)

    assert value not in hidden or set(value) == {"*"}
    assert hidden.count("\n") == text.count("\n")
