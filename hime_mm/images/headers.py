# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What the header of a picture's file says of it, before it is decoded.

Pure functions of bytes. They never raise: what makes no sense counts as not there.
"""

import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

# A marker of JPEG that has a segment: not filling, not one that stands alone.
_JPEG_MARKER = re.compile(rb'\xff+([^\x00\x01\xff\xd0-\xd8])')
_JPEG_EXIF, _JPEG_SCAN, _JPEG_END = b'\xe1', b'\xda', b'\xd9'
_EXIF_NAME = b'Exif\0\0'

_ORIENTATION = 0x0112
# Entries of EXIF that OpenCV reads elsewhere in the block: texts, and so many fractions.
_EXIF_TEXTS = {0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x8298}
_EXIF_FRACTIONS = {0x011A: 1, 0x011B: 1, 0x013E: 2, 0x013F: 6, 0x0211: 3, 0x0214: 6}
# No directory of a TIFF file has more entries; more chunks take too long.
_MOST_ENTRIES, _MOST_CHUNKS = 65535, 1 << 20


class Header(NamedTuple):
    """What a file's header says.

    Attributes:
        kind (str): ``'jpeg'``, ``'png'``, ``'webp'``, ``'tiff'``, ``'bmp'``,
            ``'gif'``, ``'pnm'``, or empty for all others, of which too little
            is read here.
        orientation (int): That of EXIF, from 1, nothing to turn, to 8.
        sure (bool): Whether every version of OpenCV goes by it.
        alpha (bool): Whether pixels may be transparent.
        deep (bool): Whether pixels may have more than 8 bits.
        several (bool): Whether it holds more than one picture.
    """

    kind: str = ''
    orientation: int = 1
    sure: bool = False
    alpha: bool = False
    deep: bool = False
    several: bool = False


def read_header(data: bytes) -> Header:
    """Read the header of a picture's file, of whatever bytes."""
    if data[:2] == b'\xff\xd8':
        return _read_jpeg(data)
    if data[:8] == b'\x89PNG\r\n\x1a\n':
        return _read_png(data)
    if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
        return _read_webp(data)
    if data[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'):
        return _read_tiff(data)
    if data[:2] == b'BM':
        # Only the longer headers have a mask of the alpha channel.
        alpha = _uint(data, 14, 4, 'little') >= 56 and _uint(data, 66, 4, 'little') != 0
        return Header('bmp', alpha=alpha and _uint(data, 28, 2, 'little') == 32)
    if data[:3] == b'GIF':
        # One colour of each frame is transparent, so nothing is hidden.
        return Header('gif', several=_has_gif_frames(data))
    if data[:1] == b'P' and data[1:2] in b'123456':
        return Header('pnm', deep=True)
    return Header(alpha=True, deep=True, several=data[4:12] == b'ftypavis')


def _uint(data: bytes, at: int, size: int, order: str = 'big') -> int:
    """An unsigned number; of bytes that are not there, a small one."""
    return int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]


def _valid(orientation: int | None) -> int:
    return orientation if orientation is not None and 1 <= orientation <= 8 else 1


def _read_jpeg(data: bytes) -> Header:
    if b'\xff' + _JPEG_EXIF not in data:  # quickly told
        return Header('jpeg')
    blocks = [data[at : at + size] for name, at, size in _jpeg_segments(data) if name == _JPEG_EXIF]
    # OpenCV 4.12 looks at the first block only, whatever its name.
    found = [_valid(exif_orientation(block[len(_EXIF_NAME) :])) for block in blocks]
    turning = next((orientation for orientation in found if orientation > 1), 1)
    sure = bool(blocks) and found[0] == turning and blocks[0].startswith(_EXIF_NAME)
    return Header('jpeg', turning, sure)


def _jpeg_segments(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Markers before the pixels, and where their content is."""
    at = 2
    while match := _JPEG_MARKER.search(data, at):
        size = _uint(data, match.end(), 2)
        if match[1] in (_JPEG_SCAN, _JPEG_END) or size < 2:
            return
        yield match[1], match.end() + 2, size - 2
        at = match.end() + size


def _chunks(
    data: bytes, at: int, order: str, names_first: bool
) -> Iterator[tuple[bytes, int, int]]:
    """Names of the chunks of a PNG or RIFF file, and where their content is."""
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(data):
            return
        name, number = (at, at + 4) if names_first else (at + 4, at)
        size = _uint(data, number, 4, order)
        yield data[name : name + 4], at + 8, size
        # A checksum ends those of PNG, those of RIFF have an even length.
        at += 8 + size + (size % 2 if names_first else 4)


def _read_png(data: bytes) -> Header:
    color = data[25:26]
    alpha = color in (b'\4', b'\6')
    orientation, animated, pictures = None, False, 0
    for name, at, size in _chunks(data, 8, 'big', names_first=False):
        if name == b'IDAT':
            # The picture for those who cannot animate, if it is no frame.
            pictures = pictures or 1
        elif name == b'acTL':
            animated = True
        elif name == b'fcTL':
            pictures += 1
        elif name == b'tRNS':
            # Of grayscale it is one colour, so nothing is hidden.
            alpha = alpha or color in (b'\2', b'\3')
        elif name == b'eXIf' and orientation is None:
            orientation = _png_orientation(data[at - 4 : at + size + 4])
        elif name == b'IEND':
            break
    deep = data[24:25] == b'\x10'
    several = animated and pictures > 1
    return Header('png', _valid(orientation), alpha=alpha, deep=deep, several=several)


def _png_orientation(chunk: bytes) -> int | None:
    """Of a chunk from its name to its checksum; libpng drops broken ones."""
    body = chunk[:-4]
    if body[4:8] not in (b'II*\0', b'MM\0*') or zlib.crc32(body) != _uint(chunk, len(body), 4):
        return None
    return exif_orientation(body[4:])


def _read_webp(data: bytes) -> Header:
    orientation, alpha, frames = None, False, 0
    for name, at, size in _chunks(data, 12, 'little', names_first=True):
        if name == b'VP8X':
            alpha = alpha or bool(_uint(data, at, 1) & 0x10)
        elif name == b'VP8L':
            alpha = alpha or bool(_uint(data, at + 1, 4, 'little') >> 28 & 1)
        elif name == b'ALPH':
            alpha = True
        elif name == b'ANMF':
            frames += 1
        elif name == b'EXIF' and orientation is None:
            orientation = exif_orientation(data[at : at + size].removeprefix(_EXIF_NAME))
    return Header('webp', _valid(orientation), alpha=alpha, several=frames > 1)


def _read_tiff(data: bytes) -> Header:
    order = 'little' if data[:1] == b'I' else 'big'
    # Offsets, the number of entries, and each entry's value.
    wide, many, value = (8, 8, 12) if b'+' in data[:4] else (4, 2, 8)
    at = _uint(data, wide, wide, order)
    num = min(_uint(data, at, many, order), _MOST_ENTRIES)
    length = value + wide
    tags: dict[int, int] = {}
    at += many
    for entry in range(at, min(at + num * length, len(data)), length):
        size = {1: 1, 3: 2}.get(_uint(data, entry + 2, 2, order), 4)
        tags.setdefault(_uint(data, entry, 2, order), _uint(data, entry + value, size, order))
    second = _uint(data, at + num * length, wide, order)
    return Header(
        'tiff',
        _valid(tags.get(_ORIENTATION)),
        sure=True,
        alpha=tags.get(0x0115, 1) in (2, 4),  # samples per pixel
        deep=True,
        several=0 < second < len(data),
    )


def _has_gif_frames(data: bytes) -> bool:
    frames, inside, at = 0, False, 13 + _gif_palette(data, 10)
    for _ in range(_MOST_CHUNKS):
        block = data[at : at + 1]
        if inside:  # the content comes in pieces, of which the last is empty
            size = _uint(block, 0, 1)
            at, inside = at + size + 1, size > 0
        elif block == b'!':
            at, inside = at + 2, True
        elif block == b',':
            frames += 1
            at, inside = at + 11 + _gif_palette(data, at + 9), True
        else:
            break
    return frames > 1


def _gif_palette(data: bytes, at: int) -> int:
    """Bytes of the palette that flags tell of."""
    flags = _uint(data, at, 1)
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def exif_orientation(block: bytes) -> int | None:
    """The orientation that OpenCV finds in a block of EXIF, or None.

    The block begins with its byte order. Of an entry whose value is not in
    the block OpenCV says nothing, and does not look at the entries behind.
    """
    order = 'little' if block[:2] == b'II' else 'big'
    if len(block) < 8 or _uint(block, 2, 2, order) != 42:
        return None
    start = _uint(block, 4, 4, order) + 2
    for entry in range(_uint(block, start - 2, 2, order) if start <= len(block) else 0):
        at = start + 12 * entry
        if at + 2 > len(block):
            return None
        tag = _uint(block, at, 2, order)
        if tag == _ORIENTATION:
            return _uint(block, at + 8, 2, order) if at + 10 <= len(block) else None
        if not _is_in_block(block, tag, at, order):
            return None
    return None


def _is_in_block(block: bytes, tag: int, at: int, order: str) -> bool:
    """Whether an entry's value is there, where OpenCV looks for it."""
    if tag in (0x0128, 0x0213):  # units, a short number
        return at + 10 <= len(block)
    if tag in _EXIF_FRACTIONS:
        end = _uint(block, at + 8, 4, order) + 8 * _EXIF_FRACTIONS[tag]
        return max(at + 12, end) <= len(block)
    if tag in _EXIF_TEXTS:
        size = _uint(block, at + 4, 4, order)
        if size <= 4:
            return max(at + 8, 8 + size) <= len(block)
        return max(at + 12, _uint(block, at + 8, 4, order) + size) <= len(block)
    return True
