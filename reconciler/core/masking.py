"""
Masking: asterisks in the place of known secrets, whatever dress they come in.

An exact search finds a secret as it is and in the encodings that add letters
(base64, hex, escapes). Everything else that happens to text on its way is
punctuation: quoting, escaping, breaking of lines, prefixes of quotes and
diffs. So the second search compares letters and digits alone, and the third
does so once each character that is written by its number is itself again.
What is encoded twice, compressed or written in other units (UTF-16) is looked
for in what stretches of base64 and hexadecimal digits decode to.
"""

import base64
import html
import json
import re
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote, quote_plus, urlsplit

from reconciler.core.encoded import stretches
from reconciler.core.text import harmless

SHORTEST = 6
"""Shorter values stand everywhere by chance; to mask them would tear words and ids apart."""
_SHORTEST_PART = 8
"""The same, of a part of a value, and of its letters and digits alone."""
_LONG_WORD = 16
"""Letters of a word within a value that is taken for a secret by itself, as in `Bearer …`."""
_DEEPEST = 3
_DEEPEST_ENCODED = 1
"""How often what was decoded is decoded again."""

_FRAME = re.compile(r"-+ ?(BEGIN|END) [A-Z0-9 ]+-+")
"""Lines that every key has."""
_ASSIGNMENT = re.compile(r"(?:export\s+)?[A-Za-z_][A-Za-z0-9_.-]*\s*[=:]\s*(.+)")
_PUNCTUATION = re.compile(r"[\W_]+")
_PAUSES = re.compile(r"(?:\\+[nrt]|(?m:^[ \t]*\d+[ \t]*[:\t|→]|^[0-9a-f]{6,16}:?[ \t])|[\W_])+")
"""Punctuation, line breaks as escapes, numbers of lines: what stands between the pieces of a broken value."""
_NUMBERS = re.compile(
    r"\\+u([0-9a-f]{4})|\\+u\{([0-9a-f]{1,6})\}|&#x([0-9a-f]{1,6});|\\+x([0-9a-f]{2})|%(?:25)*([0-9a-f]{2})"
    r"|=([0-9a-f]{2})|&#(\d{1,7});|\\+([0-7]{3})",
    re.IGNORECASE,
)
"""A character by its number, as JSON, XML, URLs, shells and mails write it: hexadecimal, decimal, octal."""
_BASES = (16, 16, 16, 16, 16, 16, 10, 8)


@dataclass(frozen=True)
class Mask:
    """
    The secrets that a text may hold.

    `withheld` are the words in place of a text that may hold secrets which are
    not known any more; empty if all are known.
    """

    values: frozenset[str] = frozenset()
    withheld: str = ""

    def hide(self, text: str) -> str:
        """Return the text with asterisks for the secrets in it; where there are any, it is harmless too."""
        if not self._spellings:
            return text
        text = harmless(text)  # a colour in the middle of a secret hides it from the search, not from people
        for word in self._spellings:
            if word in text:
                text = text.replace(word, _asterisks(word))
        for start, end in [*self._spans(text), *self._encoded_spans(text)]:
            text = text[:start] + _asterisks(text[start:end]) + text[end:]
        return text

    def withhold(self, text: str) -> str:
        """Return a text that others wrote, masked; if that cannot be sure, that it is withheld."""
        return self.withheld if self.withheld and text.strip() else self.hide(text)

    @cached_property
    def _spellings(self) -> tuple[str, ...]:
        """Every value, part and encoding, the longest first: a short one may stand within a long one."""
        whole = {value for value in self.values if len(value) >= SHORTEST}
        spellings = {word for value in whole for part in _parts(value) for word in _encodings(part)}
        spellings |= {word for value in whole for word in _twice(value)}
        return tuple(sorted(spellings | whole, key=lambda word: (-len(word), word)))

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where values stand, in whatever punctuation and by whatever numbers."""
        plain, places = _without_numbers(text)
        for between in (_PUNCTUATION, _PAUSES):
            yield from self._broken(text, between)
            if len(plain) < len(text):
                yield from ((places[start], places[end]) for start, end in self._broken(plain, between))

    def _encoded_spans(self, text: str, depth: int = 0) -> Iterator[tuple[int, int]]:
        """Yield the stretches of encoded bytes that hold a value."""
        candidates = list(stretches(text))
        # Nearly always there is nothing in any of them, which one search tells.
        if candidates and self._is_in(b"\n".join(stretch.data for stretch in candidates), depth):
            held = (stretch for stretch in candidates if self._is_in(stretch.data, depth))
            yield from {(stretch.start, stretch.end) for stretch in held}

    def _is_in(self, data: bytes, depth: int) -> bool:
        """Return whether a value stands in what was decoded, also if that is encoded again."""
        data = data.replace(b"\0", b"")  # UTF-16 and UTF-32, but for characters beyond ASCII
        if any(word in data for word in self._raw_spellings):
            return True
        return depth < _DEEPEST_ENCODED and any(self._encoded_spans(data.decode("latin-1"), depth + 1))

    @cached_property
    def _raw_spellings(self) -> tuple[bytes, ...]:
        return tuple(word.encode("utf-8", "surrogateescape") for word in self._spellings)

    def _broken(self, text: str, between: re.Pattern[str]) -> Iterator[tuple[int, int]]:
        """Yield where values stand that are written with other punctuation, or broken over lines."""
        letters = between.sub("", text)
        spans = [(at, len(word)) for word in self._letters[between] for at in _all(word, letters)]
        if spans:
            places = array("I", (at for start, end in _left(between, text) for at in range(start, end)))
            for at, size in spans:
                yield places[at], places[at + size - 1] + 1

    @cached_property
    def _letters(self) -> Mapping[re.Pattern[str], Collection[str]]:
        """The letters and digits of every spelling, by what is left out between them."""
        return {
            between: {
                letters for word in self._spellings if len(letters := between.sub("", word)) >= _SHORTEST_PART
            }
            for between in (_PUNCTUATION, _PAUSES)
        }


def _all(word: str, text: str) -> Iterator[int]:
    at = text.find(word)
    while at >= 0:
        yield at
        at = text.find(word, at + len(word))


def _left(between: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    """Yield the stretches of a text that the pattern leaves."""
    start = 0
    for match in between.finditer(text):
        yield start, match.start()
        start = match.end()
    yield start, len(text)


def _without_numbers(text: str) -> tuple[str, Sequence[int]]:
    """Return a text in which characters are themselves, and where each of them, and its end, stood."""
    pieces, places, at = list[str](), array("I"), 0
    for match in _NUMBERS.finditer(text):
        pieces += [text[at : match.start()], _character(match)]
        places.extend(range(at, match.start() + 1))
        at = match.end()
    places.extend(range(at, len(text) + 1))
    return "".join([*pieces, text[at:]]), places


def _character(match: re.Match[str]) -> str:
    """Return one character for one number; bytes of others than ASCII are no characters."""
    group = match.lastindex or 1
    number = int(match[group], _BASES[group - 1])
    return chr(number) if number < (0xD800 if group in {1, 2, 3, 7} else 0x80) else " "


def _asterisks(text: str) -> str:
    """Return as many asterisks; lines stay lines."""
    return "\n".join("*" * len(line) for line in text.split("\n"))


# --- Parts -----------------------------------------------------------------


def _parts(value: str, depth: int = 0) -> Iterator[str]:
    """Yield a value and what may be printed of it alone: lines, fields, a password, a long word."""
    yield value
    inner = [*_lines(value), *_fields(value), *_password(value), *_long_tokens(value)]
    for part in inner:
        if len(part) >= _SHORTEST_PART and part != value and not _FRAME.fullmatch(part):
            yield from _parts(part, depth + 1) if depth < _DEEPEST else (part,)


def _lines(value: str) -> Iterator[str]:
    if "\n" in value.strip():
        yield from (line.strip() for line in value.splitlines())
    elif match := _ASSIGNMENT.fullmatch(value.strip()):
        yield match[1].strip("\"',; ")


def _fields(value: str) -> Iterator[str]:
    """Yield the texts in a value that is JSON, such as a key of a service account."""
    if value.lstrip()[:1] not in {"{", "["}:
        return
    try:
        left = [json.loads(value)]
    except (ValueError, RecursionError):
        return
    while left:
        item = left.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict | list):
            left += item.values() if isinstance(item, dict) else item


def _password(value: str) -> Iterator[str]:
    """Yield the password of an address, such as that of a database."""
    try:
        password = urlsplit(value).password if "://" in value else None
    except ValueError:
        return
    if password:
        yield password


def _long_tokens(value: str) -> Iterator[str]:
    yield from (word for word in value.split() if len(word) >= _LONG_WORD)


# --- Encodings -------------------------------------------------------------


def _encodings(text: str) -> Iterator[str]:
    """Yield a text as it is and in every encoding that changes more than its punctuation."""
    raw = text.encode("utf-8", "surrogateescape")
    yield text
    yield text.strip()
    for ascii_only in (True, False):
        once = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield from (once, json.dumps(once, ensure_ascii=ascii_only)[1:-1])
    yield from (repr(raw)[2:-1], ascii(text)[1:-1], html.escape(text))
    yield from _of_urls(raw)
    yield from (raw.hex(), raw.hex().upper())
    yield from ("".join(f"{mark}{byte:02x}" for byte in raw) for mark in ("\\x", "%"))
    yield "".join(f"%{byte:02X}" for byte in raw)
    yield from _base64(raw)
    yield from _base32(raw)
    yield from _base85(raw)
    yield text[::-1]


def _twice(text: str) -> Iterator[str]:
    """Yield a text in base64 of base64, as a registry's login stands in a secret of Kubernetes."""
    for once in _base64(text.encode("utf-8", "surrogateescape")):
        yield from _base64(once.encode())


def _of_urls(raw: bytes) -> Iterator[str]:
    for safe in ("", "/", "/:@!$&'()*+,;=?"):
        once = quote(raw, safe=safe)
        yield from (once, quote_plus(raw, safe=safe), quote(once, safe=safe))
        yield re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), once)


def _base32(raw: bytes) -> Iterator[str]:
    """Yield what stands in base32, of either case, wherever in its input the bytes begin."""
    for before in range(5):
        encoded = base64.b32encode(bytes(before) + raw).decode()
        certain = encoded.rstrip("=")[: -1 if encoded.endswith("=") else None][(before * 8 + 4) // 5 :]
        if len(certain) >= _SHORTEST_PART:
            yield from (certain, certain.lower())


def _base85(raw: bytes) -> Iterator[str]:
    """Yield what stands in base85, of Python and git and of Adobe, wherever in its input the bytes begin."""
    for encode in (base64.b85encode, base64.a85encode):
        for before in range(4):
            whole = raw[-before % 4 : len(raw) - (len(raw) + before) % 4]
            certain = encode(whole).decode()
            if len(certain) >= _SHORTEST_PART:
                yield certain


def _base64(raw: bytes) -> Iterator[str]:
    """Yield what stands in base64, both alphabets, wherever in its input the bytes begin."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw).decode()
        certain = encoded.rstrip("=")[: -1 if encoded.endswith("=") else None][(before * 8 + 5) // 6 :]
        for word in (certain, certain.translate(str.maketrans("+/", "-_"))):
            if len(word) >= _SHORTEST_PART:
                yield word
