"""
Secret gate: work with secrets in it is not delivered.

What is compressed is searched too, as far as it can be unpacked; what is
encrypted cannot be searched by anybody.
"""

import bz2
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO

from reconciler.core.errors import ReconcilerError
from reconciler.core.leaks import Leak, Passage, leak_check
from reconciler.core.model.runs import Check

_MOST_UNPACKED = 1 << 26
"""Bytes that are taken of what one compressed file unpacks to."""
_EITHER_HEADER = 47


class LeaksFound(ReconcilerError):
    """The work has what looks like tokens or keys: whoever did it must take them out."""

    def __init__(self, leaks: Sequence[Leak]) -> None:
        self.leaks = leaks
        super().__init__(str(leaks[0]))

    def check(self, _base: str) -> Check:
        """Return it as a command that failed, as a conflict with the base branch is."""
        return leak_check(self.leaks)


def with_unpacked(passages: Iterable[Passage]) -> Iterator[Passage]:
    """Yield every passage, and what it unpacks to if it is a compressed file or an archive."""
    for passage in passages:
        yield passage
        for text in _unpacked(passage.text):
            yield Passage(passage.commit, passage.path, text, passage.lines[:1])


def _unpacked(text: str) -> Iterator[str]:
    """Yield what a compressed file or an archive holds, as far as it can be unpacked; nothing for others."""
    data = text.encode("utf-8", "surrogateescape")
    for magic, unpack in _UNPACK.items():
        if data.startswith(magic):
            yield from (part.decode("utf-8", "surrogateescape") for part in unpack(data))


def _of_gzip(data: bytes) -> Iterator[bytes]:
    with suppress(zlib.error):
        yield zlib.decompressobj(wbits=_EITHER_HEADER).decompress(data, _MOST_UNPACKED)


def _of_bzip2(data: bytes) -> Iterator[bytes]:
    with suppress(OSError, EOFError):
        yield bz2.BZ2Decompressor().decompress(data, _MOST_UNPACKED)


def _of_xz(data: bytes) -> Iterator[bytes]:
    with suppress(lzma.LZMAError, EOFError):
        yield lzma.LZMADecompressor(memlimit=_MOST_UNPACKED).decompress(data, _MOST_UNPACKED)


def _of_zip(data: bytes) -> Iterator[bytes]:
    left = _MOST_UNPACKED
    with suppress(*_DAMAGED), zipfile.ZipFile(BytesIO(data)) as archive:
        for name in archive.namelist():
            with archive.open(name) as part:
                content = part.read(left)
            left -= len(content)
            yield name.encode("utf-8", "surrogateescape") + b"\n" + content


_DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, NotImplementedError)
_UNPACK: Mapping[bytes, Callable[[bytes], Iterator[bytes]]] = {
    b"\x1f\x8b": _of_gzip,
    b"BZh": _of_bzip2,
    b"\xfd7zXZ": _of_xz,
    b"PK\x03\x04": _of_zip,
}
"""How a file begins → what unpacks it."""
