# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A small picture file of each kind that is read."""

import io

import cv2
import numpy as np
from owner_data import photo
from PIL import Image


def encoded(suffix, img, *params):
    done, data = cv2.imencode(suffix, img, params)
    assert done
    return data.tobytes()


def rotated_jpeg(orientation, **kwargs):
    """A JPEG file that is to be turned when it is shown."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = 'a secret place'
    out = io.BytesIO()
    Image.fromarray(photo(40, 70)).save(out, 'JPEG', exif=exif, **kwargs)
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
