# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A small picture file of each kind that is read."""

import io
import struct
import zlib

import cv2
import numpy as np
from owner_data import photo
from PIL import Image


def encoded(suffix, img, *params):
    done, data = cv2.imencode(suffix, img, params)
    assert done
    return data.tobytes()


def rotated_jpeg(orientation, size=(40, 70), **kwargs):
    """A JPEG file that is to be turned when it is shown."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = 'a secret place'
    out = io.BytesIO()
    Image.fromarray(photo(*size)).save(out, 'JPEG', exif=exif, **kwargs)
    return out.getvalue()


def with_thumbnail(data):
    """With a whole JPEG file inside its first segment, as cameras do."""
    inner = encoded('.jpg', photo(16, 16))
    size = (2 + len(inner)).to_bytes(2, 'big')
    return data[:2] + b'\xff\xe1' + size + inner + data[2:]


def palette_png():
    out = io.BytesIO()
    Image.fromarray(photo(30, 40)).quantize(16).save(out, 'PNG')
    return out.getvalue()


def png_of(*chunks):
    """A PNG file of (name, content), with checksums that fit."""
    data = b'\x89PNG\r\n\x1a\n'
    for name, content in chunks:
        body = name + content
        data += struct.pack('>I', len(content)) + body + struct.pack('>I', zlib.crc32(body))
    return data


def png_parts(data: bytes) -> list[tuple[bytes, bytes]]:
    """Names and contents of the chunks of a PNG file."""
    at, chunks = 8, []
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], 'big')
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return chunks


def broken_apng(height=48, width=64, filter_type=9):
    """Two frames whose filter does not exist, which crashes OpenCV 4.11 and 4.12."""
    rows = zlib.compress(height * (bytes([filter_type]) + 3 * bytes(width)))
    size = struct.pack('>II', width, height)

    def control(number):
        place, delay = bytes(8), struct.pack('>HH', 1, 10)
        return b'fcTL', struct.pack('>I', number) + size + place + delay + bytes(2)

    return png_of(
        (b'IHDR', size + bytes([8, 2, 0, 0, 0])),
        (b'acTL', struct.pack('>II', 2, 0)),
        control(0),
        (b'IDAT', rows),
        control(1),
        (b'fdAT', struct.pack('>I', 2) + rows),
        (b'IEND', b''),
    )


FILES = {
    'jpeg': encoded('.jpg', photo(37, 50)),
    'progressive': encoded('.jpg', photo(37, 50), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    'gray jpeg': encoded('.jpg', photo(37, 50, channels=1)),
    'restarts': encoded('.jpg', photo(64, 80), cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    'thumbnail': with_thumbnail(encoded('.jpg', photo(37, 50))),
    'turned': rotated_jpeg(6),
    'mirrored': rotated_jpeg(7),
    'png': encoded('.png', photo(37, 50)),
    'alpha': encoded('.png', photo(37, 50, channels=4)),
    'gray16': encoded('.png', photo(37, 50, channels=1, dtype=np.uint16)),
    'color16': encoded('.png', photo(37, 50, dtype=np.uint16)),
    'palette': palette_png(),
    'bmp': encoded('.bmp', photo(37, 50)),
    'webp': encoded('.webp', photo(37, 50)),
    'tiff': encoded('.tiff', photo(37, 50)),
    'pgm': encoded('.pgm', photo(37, 50, channels=1)),
}


def exif_block(orientation, order='<'):
    """A block of EXIF that tells an orientation and no more."""
    name = b'II' if order == '<' else b'MM'
    entry = struct.pack(order + 'HHIHH', 0x0112, 3, 1, orientation, 0)
    return name + struct.pack(order + 'HIH', 42, 8, 1) + entry + bytes(4)


def with_segments(jpeg, *contents):
    """A JPEG file with EXIF segments of these contents in front."""
    segments = (b'\xff\xe1' + struct.pack('>H', len(c) + 2) + c for c in contents)
    return jpeg[:2] + b''.join(segments) + jpeg[2:]


def chunk(name, content):
    """A chunk of a PNG file."""
    body = name + content
    return struct.pack('>I', len(content)) + body + struct.pack('>I', zlib.crc32(body))


def with_chunks(png, *chunks, last=False):
    """A PNG file with further chunks, behind its first or before its last one."""
    at = len(png) - 12 if last else 33
    return png[:at] + b''.join(chunks) + png[at:]


def turned_file(kind, orientation, order='<', size=(24, 40)):
    """A picture of each kind of file that can tell an orientation."""
    img = photo(*size)
    block = exif_block(orientation, order)
    if kind == 'jpeg':
        return with_segments(encoded('.jpg', img), b'Exif\0\0' + block)
    if kind == 'png':
        return with_chunks(encoded('.png', img), chunk(b'eXIf', block))
    if kind == 'png, at its end':
        return with_chunks(encoded('.png', img), chunk(b'eXIf', block), last=True)
    if kind == 'webp':
        return saved(Image.fromarray(img), 'WEBP', lossless=True, exif=block)
    import tifffile  # comes with scikit-image

    deep = 257 if '16' in kind else 1
    img = img.astype(np.uint16) * deep if deep > 1 else img
    img = img[..., 0] if 'gray' in kind else img
    out = io.BytesIO()
    tifffile.imwrite(
        out,
        img,
        byteorder=order,
        bigtiff='big' in kind,
        photometric='minisblack' if 'gray' in kind else 'rgb',
        compression='zlib' if 'zlib' in kind else None,
        extratags=[(0x0112, 'H', 1, orientation, True)],
        metadata=None,
    )
    return out.getvalue()


def saved(picture, kind, **kwargs):
    """The file that PIL makes."""
    out = io.BytesIO()
    picture.save(out, kind, **kwargs)
    return out.getvalue()


def bmp_with_alpha(img):
    """A BMP file with the header that tells where alpha is."""
    pixels, masks = img[::-1].tobytes(), (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    size = 108
    header = struct.pack('<IiiHHIIiiII', size, *img.shape[1::-1], 1, 32, 3, len(pixels), 0, 0, 0, 0)
    header += struct.pack('<IIII', *masks) + b'BGRs' + bytes(48)
    at = 14 + size
    return b'BM' + struct.pack('<IHHI', at + len(pixels), 0, 0, at) + header + pixels


HIDDEN = np.dstack([photo(32, 48), np.zeros((32, 48), np.uint8)])
PAGES = [Image.fromarray(photo(32, 48, seed)) for seed in range(3)]
#: A folder of files that surprise, a plain one and a broken one; what is noticed of them.
SURPRISING = {
    'n1/mirrored.jpg': rotated_jpeg(2),
    'n1/turned.png': turned_file('png', 7, '>'),
    'n1/tagged.tif': turned_file('tiff', 3),
    'n1/twelve.png': encoded('.png', photo(32, 48, channels=1, dtype=np.uint16) >> 4),
    'n2/hidden.png': encoded('.png', HIDDEN),
    'n2/concealed.webp': saved(Image.fromarray(HIDDEN), 'WEBP', lossless=True, exact=True),
    'n2/pages.tiff': saved(PAGES[0], 'TIFF', save_all=True, append_images=PAGES[1:]),
    'n2/plain.jpg': encoded('.jpg', photo(32, 48)),
    'n2/broken.png': encoded('.png', HIDDEN)[:-40],
}


def write_surprising(folder):
    """Write all of them into a new folder."""
    for name, data in SURPRISING.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


NOTICED = dict(turned=3, dark=1, hidden=2, frames=1)
