"""
Secrets are found in whatever dress they come, and nothing else is taken for one.
"""

import base64
import gzip
import html
import json
import quopri
import re
import shlex
import subprocess
import textwrap
import zlib
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


def base85_behind(count):
    return lambda text: base64.b85encode(b"u" * count + text.encode() + b"tail").decode()


def dump(command, text):
    done = subprocess.run(command.split(), input=f"{text}\n".encode(), capture_output=True, check=True)
    return f"\n{done.stdout.decode()}"


def hexdump(text, group):
    """Return bytes as `hexdump -C` and `xxd` print them: offset, digits, characters."""
    data, lines = text.encode(), []
    for at in range(0, len(data), 16):
        part = data[at : at + 16]
        digits = " ".join(part[two : two + group].hex() for two in range(0, len(part), group))
        lines.append(f"{at:08x}: {digits:<47}  {part.decode()}")
    return "\n".join(["", *lines, ""])


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
    "base32 behind one": lambda text: base64.b32encode(b"u" + text.encode()).decode().lower(),
    **{f"base85 behind {count}": base85_behind(count) for count in range(5)},
    "base85 of Adobe": lambda text: base64.a85encode(text.encode(), adobe=True).decode(),
    "reversed": lambda text: text[::-1],
    "url thrice": lambda text: quote(quote(quote(text, safe=""), safe=""), safe=""),
    "url twice, each character": lambda text: "".join(f"%25{byte:02X}" for byte in text.encode()),
    "hex with colons": lambda text: text.encode().hex(":").upper(),
    "utf-16": lambda text: text.encode("utf-16-le").decode(),
    "numbers": lambda text: str(list(text.encode())),
    "c": lambda text: ", ".join(f"0x{byte:02X}" for byte in text.encode()),
    "od -c": lambda text: dump("od -c", text),
    "od -t x1": lambda text: dump("od -A x -t x1z", text),
    "hexdump": lambda text: hexdump(text, 1),
    "xxd": lambda text: hexdump(text, 2),
}
COATS = {
    "base64": lambda data: base64.b64encode(data).decode(),
    "base64 in lines": lambda data: base64.encodebytes(data).decode(),
    "base64 url": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "base64 twice": lambda data: base64.b64encode(base64.b64encode(data)).decode(),
    "hex": bytes.hex,
    "hex of base64": lambda data: base64.b64encode(data).hex(),
}
CORES = {
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16, the other way": lambda text: text.encode("utf-16-be"),
    "a command of PowerShell": lambda text: f"$env:TOKEN = '{text}'; run".encode("utf-16-le"),
    "gzip": lambda text: gzip.compress(f"token: {text}\n".encode()),
    "zlib": lambda text: zlib.compress(f"token: {text}\n".encode()),
    "gzip of much": lambda text: gzip.compress(repr(list(range(400))).encode() + text.encode()),
    "json": lambda text: json.dumps({"a": text, "b": 1}).encode(),
    "url": lambda text: f"a={quote(text, safe='')}".encode(),
    "hex": lambda text: text.encode().hex().encode(),
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


@pytest.mark.parametrize("secret", [TOKEN, "ghp_abcdEFGH1234567890"])
@pytest.mark.parametrize("coat", COATS.values(), ids=COATS)
@pytest.mark.parametrize("core", CORES.values(), ids=CORES)
def test_a_secret_is_found_in_what_decodes_to_it(core, coat, secret):
    text = f"before:\n{coat(core(secret))}\n.\nafter"

    hidden = Mask(frozenset({secret})).hide(text)

    assert hidden.startswith("before:\n")
    assert hidden.endswith("after")
    assert not any(
        least(coated)[:40] in letters(hidden) for coated in (coat(core(secret)), coat(secret.encode()))
    )
    assert hidden != text


def test_what_decodes_to_no_secret_stays():
    texts = [
        coat(core("another value, which nobody hides")) for core in CORES.values() for coat in COATS.values()
    ]
    dumps = [dump("od -t x1", "another"), hexdump("another value", 1), "sha256:" + "0123456789abcdef" * 4]
    text = "\n".join([*texts, *dumps, "src/Some/Path-to_a/File", "[1, 2, 3, 4, 999, 1000, 7, 8, 9]"])

    assert Mask(frozenset({TOKEN})).hide(text) == text


def test_a_stretch_that_inflates_without_end_is_read_in_part():
    bomb = base64.b64encode(gzip.compress(bytes(1 << 26) + TOKEN.encode())).decode()

    assert Mask(frozenset({TOKEN})).hide(bomb) == bomb


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
