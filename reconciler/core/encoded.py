"""
Encoded bytes within a text: stretches of base64 or hexadecimal digits, and what they decode to.

A text is searched for what looks like encoded bytes, whatever was encoded:
UTF-16, something compressed, or again something encoded.
"""

import binascii
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MOST_INFLATED = 1 << 20
"""Bytes that are taken of what one compressed stretch decompresses to."""
_EITHER_HEADER = 47
_GROUP = 4
"""Characters of base64 that stand for three bytes."""

_BREAK = r"(?:[ \t>|\"',]|\\[rn]|[\r\n])+"
_BASE64 = re.compile(
    rf"(?:[A-Za-z0-9+/_-]{{40,}}+{_BREAK})+[A-Za-z0-9+/_-]*|[A-Za-z0-9+/_-]{{20,}}+", re.ASCII
)
"""Twenty or more digits of base64, both alphabets; over several lines where those are long."""
_PAIR = r"(?:\\x|0x)?[0-9A-Fa-f]{2}(?![g-zG-Z])(?:, |[ :,])?"
_HEX = re.compile(rf"(?:{_PAIR}){{12,}}+(?:\s*(?:{_PAIR}){{12,}}+)*")
_DECIMAL = re.compile(r"(?:\b\d{1,3}\b[ ,;]\s*){6,}\b\d{1,3}\b", re.ASCII)
_DUMP = re.compile(
    r"^[ \t]*[0-9a-fA-F]{4,16}:?[ \t]+"
    r"((?:[0-9a-fA-F]{2}){1,4}(?:[ \t]{1,3}(?:[0-9a-fA-F]{2}){1,4})*)(?![^ \t|\n]).*$",
    re.MULTILINE,
)
"""A line of `xxd`, `hexdump -C` or `od -t x1`: an offset, bytes, and often the same as characters."""
_NO_DIGIT = re.compile(r"\\x|0x|[^0-9A-Fa-f]+")
_NO_BASE64 = re.compile(r"\\[rn]|[^A-Za-z0-9+/]+")
_ONE_ALPHABET = str.maketrans("-_", "+/")
_COMPRESSED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
"""How bytes of gzip and zlib begin."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of a text that may be encoded bytes, and one reading of it."""

    start: int
    end: int
    data: bytes
    """What it decodes to."""


def stretches(text: str) -> Iterator[Stretch]:
    """Yield every stretch of a text that can be read as encoded bytes, once for each way to read it."""
    for start, end, data in (*_in_base64(text), *_in_digits(text)):
        yield Stretch(start, end, data)
        if data.startswith(_COMPRESSED):
            yield Stretch(start, end, _inflated(data))


def _in_base64(text: str) -> Iterator[tuple[int, int, bytes]]:
    for match in _BASE64.finditer(text):
        if _is_mixed(match[0]):
            digits = _NO_BASE64.sub("", match[0].translate(_ONE_ALPHABET))
            for phase in range(_GROUP):
                yield match.start(), match.end(), _from_base64(digits[phase:])


def _is_mixed(text: str) -> bool:
    """Return whether a text has capitals and small letters, which names, paths and hashes seldom have."""
    return text.lower() != text != text.upper()


def _in_digits(text: str) -> Iterator[tuple[int, int, bytes]]:
    for match in _HEX.finditer(text):
        yield match.start(), match.start() + len(match[0].rstrip(" :,")), _from_hex(match[0])
    for match in _DECIMAL.finditer(text):
        yield match.start(), match.end(), bytes(int(number) % 256 for number in re.findall(r"\d+", match[0]))
    for start, end, digits in _dumps(text):
        yield start, end, _from_hex(digits)


def _from_base64(digits: str) -> bytes:
    return binascii.a2b_base64(digits[: len(digits) // _GROUP * _GROUP] + _padding(digits))


def _padding(digits: str) -> str:
    """Return the rest of the digits, filled up to a group; a single one stands for no byte."""
    rest = digits[len(digits) // _GROUP * _GROUP :]
    return rest.ljust(_GROUP, "=") if len(rest) > 1 else ""


def _from_hex(text: str) -> bytes:
    digits = _NO_DIGIT.sub("", text)
    return bytes.fromhex(digits[: len(digits) // 2 * 2])


def _inflated(data: bytes) -> bytes:
    """Return what compressed bytes decompress to, as far as they go; nothing for others."""
    try:
        return zlib.decompressobj(wbits=_EITHER_HEADER).decompress(data, MOST_INFLATED)
    except zlib.error:
        return b""


def _dumps(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield begin, end and digits of dumps: lines that follow on one another."""
    block = list[re.Match[str]]()
    for line in _DUMP.finditer(text):
        if block and block[-1].end() + 1 != line.start():
            yield _joined(block)
            block = []
        block.append(line)
    if block:
        yield _joined(block)


def _joined(block: Sequence[re.Match[str]]) -> tuple[int, int, str]:
    return block[0].start(), block[-1].end(), " ".join(line[1] for line in block)
