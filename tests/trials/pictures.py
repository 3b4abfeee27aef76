# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Damaged picture files of all formats that are read: a picture comes back, or a `PictureError`"""

import io
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from owner_data import photo
from picture_files import FILES, encoded
from PIL import Image

from hime_mm.errors import PictureError
from hime_mm.images.codec import COLOR_TYPES, read_image

from .fuzzing import fuzz
from .mutation import mutate_bytes, mutate_png
from .state import State

CASES = 100_000
UNIT = 'cases'
#: Further ones that OpenCV tells by their content, whatever their names.
_SUFFIXES = ('.gif', '.jp2', '.avif', '.hdr', '.ras', '.pfm', '.pbm', '.ppm', '.pam')
#: Of Pillow, which writes kinds that OpenCV only reads.
_KINDS = {
    'animated png': dict(format='PNG', save_all=True),
    'animated webp': dict(format='WEBP', save_all=True),
    'animated gif': dict(format='GIF', save_all=True),
    'lzw tiff': dict(format='TIFF', compression='tiff_lzw'),
    'deflated tiff': dict(format='TIFF', compression='tiff_deflate'),
    'jpeg in tiff': dict(format='TIFF', compression='jpeg'),
    'pages': dict(format='TIFF', save_all=True),
    'bilevel tiff': dict(format='TIFF', compression='group4'),
    'gray alpha': dict(format='PNG'),
    'palette bmp': dict(format='BMP'),
    'cmyk jpeg': dict(format='JPEG'),
}
_MODES = {
    'bilevel tiff': '1',
    'gray alpha': 'LA',
    'palette bmp': 'P',
    'cmyk jpeg': 'CMYK',
}


@cache
def files() -> dict[str, bytes]:
    """A whole file of each kind."""
    found = dict(FILES)
    for suffix in _SUFFIXES:
        if cv2.haveImageWriter(f'x{suffix}'):
            gray = suffix == '.pbm'
            img = photo(37, 50, channels=1 if gray else 3)
            if suffix in ('.hdr', '.pfm'):
                img = img.astype(np.float32)
            found[suffix] = encoded(suffix, img)
    for name, options in _KINDS.items():
        first, *others = [
            Image.fromarray(photo(37, 50, seed)).convert(_MODES.get(name, 'RGB'))
            for seed in range(3)
        ]
        out = io.BytesIO()
        if options.get('save_all'):
            options = dict(options, append_images=others)
        first.save(out, **options)
        found[name] = out.getvalue()
    return found


def draw(case: int) -> tuple[random.Random, str]:
    """What a case is made with, and of."""
    rng = random.Random(f'pictures/{case}')
    return rng, rng.choice(sorted(files()))


def check(case: int, folder: Path) -> str:
    """Read a damaged picture; its file stays in the folder."""
    rng, name = draw(case)
    data = files()[name]
    mutate = mutate_bytes
    if data.startswith(b'\x89PNG') and rng.randrange(2):
        mutate = mutate_png
    path = folder / 'picture'
    path.write_bytes(mutate(data, rng))
    try:
        img = read_image(str(path), rng.choice(sorted(COLOR_TYPES)))
    except PictureError:
        return 'refused'
    assert img.dtype in (np.uint8, np.uint16), img.dtype
    assert img.size and img.ndim in (2, 3), img.shape
    return 'read'


def steps(state: State, folder: Path) -> Iterator[None]:
    files()
    return fuzz(check, state, folder, lambda case: f'({draw(case)[1]})')
