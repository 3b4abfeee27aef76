# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Whether an encrypted file holds its pixels and nothing else.

Decoders pass over what they do not know: texts, thumbnails, bytes behind the end.
``docs/format.md`` says what an encrypted file may hold.
"""

import struct
import zlib
from collections.abc import Iterator

from hime_mm.errors import UnreadableImage

_PNG = b'\x89PNG\r\n\x1a\n'
#: The colour type of an image's channels.
_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}
#: Inflated at a time: a small file may say that it holds gigabytes.
_BLOCK = 1 << 20


def check_container(
    data: bytes, fmt: str, shape: tuple[int, int], channels: int, deep: bool
) -> None:
    """Refuse a file that is not as :func:`~hime_mm.images.codec.encode_image` writes it.

    Args:
        data (bytes): The file.
        fmt (str): ``'png'`` or ``'webp'``.
        shape (tuple[int, int]): Height and width that it has to have.
        channels (int): Number of channels that it has to have.
        deep (bool): Whether a PNG may have 16 bits.

    Raises:
        UnreadableImage: If anything else is in it, or something is missing.
    """
    if fmt == 'png':
        _check_png(data, shape, channels, deep)
    else:
        _check_webp(data, shape)


def _require(ok: bool, what: str) -> None:
    if not ok:
        raise UnreadableImage(what)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Names and contents of a PNG's chunks; nothing may follow the last one."""
    view, at, name = memoryview(data), len(_PNG), b''
    while name != b'IEND':
        _require(len(data) >= at + 12, 'the PNG file is truncated')
        length, name = struct.unpack_from('>I4s', data, at)
        end = at + 8 + length
        _require(len(data) >= end + 4, 'the PNG file is truncated')
        crc = zlib.crc32(view[at + 4 : end])
        _require(crc == struct.unpack_from('>I', data, end)[0], 'the CRC of a chunk does not fit')
        yield name, view[at + 8 : end]
        at = end + 4
    _require(at == len(data), f'{len(data) - at} bytes follow the end of its PNG')


def _check_png(data: bytes, shape: tuple[int, int], channels: int, deep: bool) -> None:
    _require(data[:8] == _PNG, 'it is no PNG file')
    rows: _Rows | None = None
    for i, (name, content) in enumerate(_chunks(data)):
        if i == 0:
            _require(name == b'IHDR' and len(content) == 13, 'its PNG does not begin with IHDR')
            rows = _rows(struct.unpack('>IIBBBBB', content), shape, channels, deep)
        elif name == b'IDAT' and rows is not None:
            rows.add(content)
        else:
            _require(
                name == b'IEND' and not content,
                f'its PNG holds {name.decode("latin-1")!r}, and not the pixels only',
            )
    _require(rows is not None and rows.complete, 'rows of its PNG are missing')


def _rows(header: tuple[int, ...], shape: tuple[int, int], channels: int, deep: bool) -> '_Rows':
    width, height, depth, *kind = header
    _require(
        (height, width) == shape and kind == [_COLOUR_TYPES.get(channels), 0, 0, 0],
        f'it is {height}x{width} of the PNG type {kind}, '
        f'the manifest says {shape[0]}x{shape[1]} with {channels} channels',
    )
    _require(depth == 8 or (deep and depth == 16), f'its PNG has {depth} bits')
    return _Rows(height, 1 + width * channels * depth // 8)


class _Rows:
    """Counts what the compressed rows of a PNG hold, and keeps none of it."""

    def __init__(self, num: int, length: int) -> None:
        self._length, self._total, self._seen = length, num * length, 0
        self._inflate = zlib.decompressobj()

    def add(self, content: memoryview) -> None:
        """Take one more chunk; each row begins with one of five filters."""
        _require(not (content and self._inflate.eof), 'something follows the rows of its PNG')
        rest: bytes | memoryview = content
        while rest:
            try:
                part = self._inflate.decompress(rest, _BLOCK)
            except zlib.error as error:
                raise UnreadableImage(f'its PNG cannot be inflated: {error}') from None
            first = -self._seen % self._length
            _require(
                max(part[first :: self._length], default=0) <= 4, 'a row has an unknown filter'
            )
            self._seen += len(part)
            _require(
                self._seen <= self._total and not self._inflate.unused_data,
                'something follows the rows of its PNG',
            )
            rest = self._inflate.unconsumed_tail

    @property
    def complete(self) -> bool:
        """bool: Whether all rows were there, up to their checksum."""
        return self._seen == self._total and self._inflate.eof


def _check_webp(data: bytes, shape: tuple[int, int]) -> None:
    _require(
        len(data) >= 25 and data[:4] == b'RIFF' and data[8:12] == b'WEBP', 'it is no WebP file'
    )
    size, length = (struct.unpack_from('<I', data, at)[0] for at in (4, 16))
    _require(
        data[12:16] == b'VP8L' and length + length % 2 + 12 == size == len(data) - 8,
        'its WebP does not hold one lossless picture and nothing else',
    )
    _require(not length % 2 or data[-1] == 0, 'something follows the picture in its WebP')
    # A byte, then 14 bits each for width and height, less one; alpha and version follow.
    bits = struct.unpack_from('<I', data, 21)[0]
    height, width = (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    _require(
        data[20] == 0x2F and bits >> 28 == 0 and (height, width) == shape,
        f'it is {height}x{width}, the manifest says {shape[0]}x{shape[1]}',
    )
